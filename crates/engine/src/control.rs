//! How a caller stops an attempt.

use tokio_util::sync::CancellationToken;

/// The caller's hand on an attempt. Cloning it gives another hand.
#[derive(Clone, Debug, Default)]
pub struct Control {
    cancel: CancellationToken,
    kill: CancellationToken,
}

impl Control {
    /// A hand that has not moved yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the attempt to end: politely first, by force after the grace period.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Ends the attempt by force at once.
    pub fn kill(&self) {
        self.cancel.cancel();
        self.kill.cancel();
    }

    /// Whether it was asked to end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    pub(crate) async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    pub(crate) async fn killed(&self) {
        self.kill.cancelled().await;
    }
}
