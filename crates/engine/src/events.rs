//! The engine's end of the event stream.

use std::sync::Arc;
use std::time::Duration;

use bryo_model::{Amount, Event, Notice, Stage};
use tokio::sync::mpsc;

use crate::logs::Secrets;

/// A consumer that takes nothing for this long is stuck; an attempt must come to its end without it.
const STUCK: Duration = Duration::from_secs(2);

/// Where events go, without the job's secrets in what they say. A slow consumer makes the attempt wait; one that is
/// stuck, or went away, does not stop it.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    sender: mpsc::Sender<Event>,
    secrets: Secrets,
}

impl Events {
    pub(crate) const fn new(sender: mpsc::Sender<Event>, secrets: Secrets) -> Self {
        Self { sender, secrets }
    }

    /// What must not show in an event.
    pub(crate) const fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Tells an event, unless the consumer is stuck or gone: the verdict does not depend on it.
    pub(crate) async fn emit(&self, mut event: Event) {
        if let Event::StageEnded { summary: text, .. } | Event::Notice(Notice(text)) = &mut event {
            *text = self.secrets.mask(text);
        }
        let _ = self.sender.send_timeout(event, STUCK).await;
    }

    pub(crate) async fn notice(&self, text: impl Into<String>) {
        self.emit(Event::Notice(Notice(text.into()))).await;
    }

    /// Waits until the consumer can take one more event. The job's output is taken only then: a consumer that does not
    /// read makes the job wait, and nothing of it is lost. Dropping the future loses nothing.
    pub(crate) async fn room(&self) -> Room {
        // Without a consumer there is room for everything.
        Room(self.sender.clone().reserve_owned().await.ok())
    }

    /// Whether nobody takes what there is.
    pub(crate) fn is_full(&self) -> bool {
        self.sender.capacity() == 0
    }

    /// A function that tells progress from any thread. A full stream drops progress: the next one supersedes it.
    pub(crate) fn progress(&self, stage: Stage) -> Arc<dyn Fn(Amount) + Send + Sync> {
        let sender = self.sender.clone();
        Arc::new(move |amount| {
            let _ = sender.try_send(Event::Progress(stage, amount));
        })
    }
}

/// Room for one event.
pub(crate) struct Room(Option<mpsc::OwnedPermit<Event>>);

impl Room {
    pub(crate) fn fill(self, event: Event) {
        if let Some(permit) = self.0 {
            permit.send(event);
        }
    }
}
