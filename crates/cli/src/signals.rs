//! Ctrl-C: once asks the job to end, twice ends it at once. SIGTERM is a Ctrl-C.

use bryo_engine::Control;
use tokio::signal::unix::{SignalKind, signal};

/// Listens for as long as the program runs.
///
/// # Errors
///
/// When the system does not let us listen.
pub(crate) fn listen(control: &Control) -> std::io::Result<()> {
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        // nohup(1), and a shell that runs us in the background, mean what they say.
        if is_ignored(kind) {
            continue;
        }
        let mut signals = signal(kind)?;
        let control = control.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if control.is_cancelled() {
                    control.kill();
                } else {
                    control.cancel();
                }
            }
        });
    }
    Ok(())
}

/// Whether whoever started us had us ignore this signal.
pub(crate) fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_signals(&status) >> (kind.as_raw_value() - 1) & 1 == 1
}

/// `SigIgn` of proc_pid_status(5): bit n - 1 for signal n.
fn ignored_signals(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
