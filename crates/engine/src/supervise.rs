//! Watching a job that runs: its output, its bounds, and the caller's hand.

use std::time::Duration;

use bryo_model::{Event, Stage};
use bryo_sandbox::{Exit, Logs, Sandbox, SandboxError};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep_until};

use crate::cause::Cause;
use crate::control::Control;
use crate::events::Events;

/// Bounds on the run stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) deadline: Instant,
    pub(crate) grace: Duration,
}

/// How a job that was started came to its end.
pub(crate) struct Ended {
    pub(crate) result: Result<Exit, SandboxError>,
    /// Our own record of having stopped it, and why. It outranks the exit code, which is then of our making.
    pub(crate) stopped: Option<Cause>,
    pub(crate) log_bytes: u64,
}

/// Who decides when the job is killed.
enum Phase {
    Running,
    /// It was asked to end and has until then.
    Grace(Instant),
    Killed,
}

/// Runs the started job to its end, whoever brings it about.
pub(crate) async fn supervise(
    sandbox: &mut Sandbox,
    mut logs: Logs,
    bounds: Bounds,
    control: &Control,
    events: &Events,
) -> Ended {
    let mut phase = Phase::Running;
    let mut stopped = None;
    let mut log_bytes = 0;
    loop {
        let (wake, force) = match phase {
            Phase::Running => (bounds.deadline, false),
            Phase::Grace(until) => (until, true),
            Phase::Killed => (far_away(), true),
        };
        let cause = tokio::select! {
            piece = logs.next() => match piece {
                Some(Ok(piece)) => {
                    log_bytes += piece.bytes.len() as u64;
                    events.emit(Event::Log(piece.stream, piece.bytes)).await;
                    continue;
                }
                Some(Err(error)) => {
                    let _ = sandbox.kill();
                    return Ended { result: Err(error), stopped, log_bytes };
                }
                None => break,
            },
            () = control.cancelled(), if !force => Some(Cause::Cancelled(Stage::Run)),
            () = control.killed(), if !matches!(phase, Phase::Killed) => None,
            () = sleep_until(wake) => (!force).then_some(Cause::Deadline(Stage::Run)),
        };
        let polite = cause.is_some();
        stopped = stopped.or(cause);
        // The first process of a pid namespace that has no handler for the signal will never notice it.
        phase = if polite && sandbox.signal(Signal::SIGTERM).await {
            Phase::Grace(Instant::now() + bounds.grace)
        } else {
            if let Err(error) = sandbox.kill() {
                return Ended {
                    result: Err(error),
                    stopped,
                    log_bytes,
                };
            }
            Phase::Killed
        };
    }
    Ended {
        result: end_of(sandbox, bounds, control, &mut stopped).await,
        stopped,
        log_bytes,
    }
}

/// A job may close its output and go on; it is bounded all the same.
async fn end_of(
    sandbox: &mut Sandbox,
    bounds: Bounds,
    control: &Control,
    stopped: &mut Option<Cause>,
) -> Result<Exit, SandboxError> {
    let cause = tokio::select! {
        exit = sandbox.wait() => return exit,
        () = control.cancelled(), if stopped.is_none() => Cause::Cancelled(Stage::Run),
        () = sleep_until(bounds.deadline), if stopped.is_none() => Cause::Deadline(Stage::Run),
    };
    *stopped = Some(cause);
    if sandbox.signal(Signal::SIGTERM).await {
        tokio::select! {
            exit = sandbox.wait() => return exit,
            () = control.killed() => {}
            () = tokio::time::sleep(bounds.grace) => {}
        }
    }
    sandbox.kill()?;
    sandbox.wait().await
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(365 * 24 * 3600)
}
