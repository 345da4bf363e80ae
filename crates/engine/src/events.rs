//! The engine's end of the event stream.

use std::sync::Arc;
use std::time::Duration;

use bryo_model::{Amount, Event, Notice, Stage};
use tokio::sync::mpsc;

/// A consumer that takes nothing for this long is stuck; an attempt must come to its end without it.
const STUCK: Duration = Duration::from_secs(2);

/// Where events go. A slow consumer makes the attempt wait; one that is stuck, or went away, does not stop it.
#[derive(Clone, Debug)]
pub(crate) struct Events(mpsc::Sender<Event>);

impl Events {
    pub(crate) const fn new(sender: mpsc::Sender<Event>) -> Self {
        Self(sender)
    }

    /// Tells an event, unless the consumer is stuck or gone: the verdict does not depend on it.
    pub(crate) async fn emit(&self, event: Event) {
        let _ = self.0.send_timeout(event, STUCK).await;
    }

    pub(crate) async fn notice(&self, text: impl Into<String>) {
        self.emit(Event::Notice(Notice(text.into()))).await;
    }

    /// Waits until the consumer can take one more event. The job's output is taken only then: a consumer that does not
    /// read makes the job wait, and nothing of it is lost. Dropping the future loses nothing.
    pub(crate) async fn room(&self) -> Room<'_> {
        // Without a consumer there is room for everything.
        Room(self.0.reserve().await.ok())
    }

    /// Whether nobody takes what there is.
    pub(crate) fn is_full(&self) -> bool {
        self.0.capacity() == 0
    }

    /// A function that tells progress from any thread. A full stream drops progress: the next one supersedes it.
    pub(crate) fn progress(&self, stage: Stage) -> Arc<dyn Fn(Amount) + Send + Sync> {
        let sender = self.0.clone();
        Arc::new(move |amount| {
            let _ = sender.try_send(Event::Progress(stage, amount));
        })
    }
}

/// Room for one event.
pub(crate) struct Room<'a>(Option<mpsc::Permit<'a, Event>>);

impl Room<'_> {
    pub(crate) fn fill(self, event: Event) {
        if let Some(permit) = self.0 {
            permit.send(event);
        }
    }
}
