//! How a caller on another thread follows and stops the work.

use bryo_model::Amount;

use crate::DepotError;

/// The caller's view of work in progress.
///
/// Both methods are called from the thread that works, often: `stop` at every entry and every few MiB of a file, so
/// it should be no more than the load of a flag.
pub trait Watch {
    /// Whether to give up. Once the target is switched it is no longer asked: the result is there.
    fn stop(&self) -> bool;

    /// How much is in place. [`crate::OutputTree::collect`] does not report, since it cannot know a total.
    fn progress(&self, amount: Amount);
}

/// [`DepotError::Stopped`] when the caller has given up.
pub(crate) fn go_on(watch: &dyn Watch) -> Result<(), DepotError> {
    if watch.stop() {
        Err(DepotError::Stopped)
    } else {
        Ok(())
    }
}
