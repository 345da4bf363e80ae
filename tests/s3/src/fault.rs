//! What may go wrong between a client and a store.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

/// One thing that goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, with this code in its XML; the store never sees the request.
    Status(u16, &'static str),
    /// This answer, with this body; the store never sees the request.
    Answer(u16, String),
    /// The connection is closed, and the store never sees the request.
    Cut,
    /// The store does what it was asked, and the connection is closed without an answer.
    AnswerLost,
    /// The request waits this long before the store sees it.
    Slow(Duration),
    /// There is no answer, ever.
    Hang,
    /// The request waits at the gate before the store sees it.
    Held(Gate),
}

/// Closed at first; who comes to it waits until it is opened, and nobody from then on.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<watch::Sender<State>>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    reached: bool,
    open: bool,
}

impl Gate {
    /// Lets go who waits.
    pub fn open(&self) {
        self.0.send_modify(|state| state.open = true);
    }

    /// Whether anybody has come to it.
    pub fn is_reached(&self) -> bool {
        self.0.borrow().reached
    }

    pub(crate) async fn pass(&self) {
        self.0.send_modify(|state| state.reached = true);
        let mut state = self.0.subscribe();
        let _ = state.wait_for(|state| state.open).await;
    }
}

/// What a store makes of the conditions of a put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conditions {
    /// It obeys them.
    #[default]
    Obeyed,
    /// It puts in any case, and does not say so.
    Ignored,
    /// It answers that it has none.
    Refused,
}

/// A request, as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path, as it was sent: with the bucket, percent-encoded.
    pub path: String,
    /// The query, without its question mark; may be empty.
    pub query: String,
}

type Decide = Box<dyn FnMut(&Seen) -> Option<Fault> + Send>;

/// What goes wrong with a server's requests, and what they were.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    decide: Option<Decide>,
    seen: Vec<Seen>,
}

impl Faults {
    pub(crate) fn set(&self, decide: Option<Decide>) {
        self.0.lock().unwrap().decide = decide;
    }

    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.lock().unwrap().seen)
    }

    pub(crate) fn of(&self, seen: Seen) -> Option<Fault> {
        let mut inner = self.0.lock().unwrap();
        let fault = inner.decide.as_mut().and_then(|decide| decide(&seen));
        inner.seen.push(seen);
        fault
    }
}
