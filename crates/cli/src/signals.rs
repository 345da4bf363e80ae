//! Ctrl-C: once asks the job to end, twice ends it at once. SIGTERM is a Ctrl-C.

use bryo_engine::Control;
use tokio::signal::unix::{SignalKind, signal};

/// Listens for as long as the program runs.
///
/// # Errors
///
/// When the system does not let us listen.
pub(crate) fn listen(control: Control) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            let heard = tokio::select! {
                heard = interrupt.recv() => heard,
                heard = terminate.recv() => heard,
                heard = hangup.recv() => heard,
            };
            if heard.is_none() {
                return;
            }
            if control.is_cancelled() {
                control.kill();
            } else {
                control.cancel();
            }
        }
    });
    Ok(())
}
