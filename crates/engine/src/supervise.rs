//! Watching a job that runs: its output, its bounds, and the caller's hand.

use std::time::Duration;

use bryo_model::{Event, Stage};
use bryo_sandbox::{Exit, Logs, Sandbox, SandboxError};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep_until};

use crate::cause::Cause;
use crate::control::Control;
use crate::events::Events;

/// After a kill the kernel ends everything at once; what is there after this is held by the kernel itself.
const DYING: Duration = Duration::from_secs(10);

/// How long a consumer may take for what a killed job had written.
const LAST_WORDS: Duration = Duration::from_secs(2);

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

/// How far the job's end has come. Each phase has a time at which the next one begins.
#[derive(Clone, Copy)]
enum Phase {
    Running(Instant),
    /// It was asked to end.
    Grace(Instant),
    /// It was killed; what is left at this time cannot be killed.
    Killed(Instant),
}

/// What made the supervisor look up.
enum Wake {
    /// A piece of output was passed on.
    Piece,
    /// Both streams have ended.
    Silent,
    /// The job has ended.
    Over(Result<Exit, SandboxError>),
    /// The output broke.
    Broken(SandboxError),
    /// The caller asked for its end.
    Cancelled,
    /// The caller asked for its end at once.
    Kill,
    /// The phase's time is up.
    Late,
}

/// Runs the started job to its end, whoever brings it about.
pub(crate) async fn supervise(
    sandbox: &mut Sandbox,
    mut logs: Logs,
    bounds: Bounds,
    control: &Control,
    events: &Events,
) -> Ended {
    let mut phase = Phase::Running(bounds.deadline);
    let mut stopped = None;
    let mut log_bytes = 0;
    let mut silent = false;
    let result = loop {
        let (until, running, killed) = match phase {
            Phase::Running(until) => (until, true, false),
            Phase::Grace(until) => (until, false, false),
            Phase::Killed(until) => (until, false, true),
        };
        let wake = tokio::select! {
            wake = pass_on(&mut logs, &mut log_bytes, events), if !silent => wake,
            // A job may close its output and go on; it is bounded all the same.
            exit = sandbox.wait(), if silent => Wake::Over(exit),
            () = control.cancelled(), if running => Wake::Cancelled,
            () = control.killed(), if !killed => Wake::Kill,
            () = sleep_until(until) => Wake::Late,
        };
        let cause = match wake {
            Wake::Piece => continue,
            Wake::Silent => {
                silent = true;
                continue;
            }
            Wake::Over(exit) => break exit,
            Wake::Broken(error) => break Err(error),
            Wake::Cancelled => Some(Cause::Cancelled(Stage::Run)),
            Wake::Kill if running => Some(Cause::Cancelled(Stage::Run)),
            Wake::Late if running => Some(Cause::Deadline(Stage::Run)),
            Wake::Late if killed => break Err(SandboxError::Unkillable),
            Wake::Kill | Wake::Late => None,
        };
        let polite = cause.is_some() && !matches!(wake, Wake::Kill);
        stopped = stopped.or(cause);
        // The first process of a pid namespace that has no handler for the signal will never notice it.
        phase = if polite && sandbox.signal(Signal::SIGTERM).await {
            Phase::Grace(Instant::now() + bounds.grace)
        } else if let Err(error) = sandbox.kill() {
            break Err(error);
        } else {
            // Its last words are taken when it is over: nobody may be reading any more.
            silent = true;
            Phase::Killed(Instant::now() + DYING)
        };
    };
    if matches!(phase, Phase::Killed(_)) {
        let last_words = async {
            while matches!(
                pass_on(&mut logs, &mut log_bytes, events).await,
                Wake::Piece
            ) {}
        };
        let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
    }
    Ended {
        result,
        stopped,
        log_bytes,
    }
}

async fn pass_on(logs: &mut Logs, log_bytes: &mut u64, events: &Events) -> Wake {
    let room = events.room().await;
    match logs.next().await {
        Some(Ok(piece)) => {
            *log_bytes += piece.bytes.len() as u64;
            room.fill(Event::Log(piece.stream, piece.bytes));
            Wake::Piece
        }
        Some(Err(error)) => Wake::Broken(error),
        None => Wake::Silent,
    }
}
