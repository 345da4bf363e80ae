//! The engine's end of the event stream.

use std::sync::Arc;

use bryo_model::{Amount, Event, Notice, Stage};
use tokio::sync::mpsc;

/// Where events go. A slow consumer makes the attempt wait; a consumer that went away does not stop it.
#[derive(Clone, Debug)]
pub(crate) struct Events(mpsc::Sender<Event>);

impl Events {
    pub(crate) const fn new(sender: mpsc::Sender<Event>) -> Self {
        Self(sender)
    }

    pub(crate) async fn emit(&self, event: Event) {
        // Nobody listening is the listener's choice; the verdict does not depend on it.
        let _ = self.0.send(event).await;
    }

    pub(crate) async fn notice(&self, text: impl Into<String>) {
        self.emit(Event::Notice(Notice(text.into()))).await;
    }

    /// A function that tells progress from any thread. A full stream drops progress: the next one supersedes it.
    pub(crate) fn progress(&self, stage: Stage) -> Arc<dyn Fn(Amount) + Send + Sync> {
        let sender = self.0.clone();
        Arc::new(move |amount| {
            let _ = sender.try_send(Event::Progress(stage, amount));
        })
    }
}
