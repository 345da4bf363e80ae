//! Watching a job that runs: its output, its bounds, and the caller's hand.

use std::pin::pin;
use std::time::Duration;

use bryo_model::{Stage, TimeLimit};
use bryo_sandbox::{Exit, Logs, Sandbox, SandboxError};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep_until};

use crate::cause::Cause;
use crate::control::Control;
use crate::logs::{JobLog, LAST_WORDS, Taken};

/// After a kill the kernel ends everything at once; what is there after this is held by the kernel itself.
const DYING: Duration = Duration::from_secs(10);

/// How long a service may take to say that a job has ended that was to end: nothing else is learnt from it.
const ANSWERING: Duration = Duration::from_secs(2);

/// Bounds on the run stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// When it must have ended, and by which bound.
    pub(crate) deadline: (Instant, TimeLimit),
    /// When the whole attempt must have ended.
    pub(crate) whole: Instant,
    /// How long it may write nothing.
    pub(crate) silence: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) stop_signal: Signal,
}

/// How a job that was started came to its end.
pub(crate) struct Ended {
    pub(crate) result: Result<Exit, SandboxError>,
    /// Our own record of having stopped it, and why. It outranks the exit code, which is then of our making.
    pub(crate) stopped: Option<Cause>,
}

/// How far the job's end has come. Each phase has a time at which the next one begins.
#[derive(Clone, Copy)]
enum Phase {
    Running,
    /// It was asked to end.
    Grace(Instant),
    /// It was killed; what is left at this time cannot be killed.
    Killed(Instant),
    /// It has ended, as it was to; a service that has not said so at this time does not answer.
    Gone(Instant),
}

/// What made the supervisor look up.
enum Wake {
    /// Something came of the job's output.
    Output(Taken),
    /// The job has ended, whether or not a service says so.
    Gone,
    /// The job has ended.
    Ended(Result<Exit, SandboxError>),
    /// The caller asked for its end.
    Cancelled,
    /// The caller asked for its end at once.
    Kill,
    /// The phase's time is up.
    Late,
    /// Something else than time ran out, or broke.
    Over(Cause),
}

/// Runs the started job to its end, whoever brings it about. `trouble` ends it too, when it comes true.
pub(crate) async fn supervise(
    sandbox: &mut Sandbox,
    mut logs: Logs,
    mut bounds: Bounds,
    control: &Control,
    log: &mut JobLog,
    trouble: impl Future<Output = Cause>,
) -> Ended {
    let mut trouble = pin!(trouble);
    let mut gone = pin!(sandbox.ended());
    let mut phase = Phase::Running;
    let mut stopped = None;
    let mut heard = Instant::now();
    let mut closed = false;
    let result = loop {
        let (until, running, killed) = match phase {
            Phase::Running => (bounds.late_at(heard).0, true, false),
            Phase::Grace(until) => (until, false, false),
            Phase::Killed(until) | Phase::Gone(until) => (until, false, true),
        };
        let stopping = matches!(phase, Phase::Grace(_) | Phase::Killed(_));
        let wake = tokio::select! {
            taken = log.next(&mut logs), if !closed => Wake::Output(taken),
            // A job may close its output and go on; it is bounded all the same.
            exit = sandbox.wait(), if closed => Wake::Ended(exit),
            () = &mut gone, if stopping => Wake::Gone,
            () = control.cancelled(), if running => Wake::Cancelled,
            () = control.killed(), if !killed => Wake::Kill,
            cause = &mut trouble, if running => Wake::Over(cause),
            () = sleep_until(until) => Wake::Late,
        };
        let by_force = matches!(wake, Wake::Kill | Wake::Over(_));
        let cause = match wake {
            Wake::Output(Taken::Piece) => {
                heard = Instant::now();
                continue;
            }
            Wake::Output(Taken::Silent) => {
                closed = true;
                continue;
            }
            Wake::Gone => {
                phase = Phase::Gone(Instant::now() + ANSWERING);
                continue;
            }
            Wake::Ended(exit) => break exit,
            Wake::Output(Taken::Broken(error)) => break Err(error),
            Wake::Cancelled => Some(Cause::Cancelled(Stage::Run)),
            Wake::Kill if running => Some(Cause::Cancelled(Stage::Run)),
            Wake::Late if running => {
                let (_, limit) = bounds.late_at(heard);
                if limit == TimeLimit::Silence && log.is_held_up() {
                    // It is the consumer that keeps silent: what the job wrote waits for room.
                    heard = Instant::now();
                    continue;
                }
                if limit == TimeLimit::Stage && log.is_held_up() && sandbox.has_ended() {
                    // It is the consumer that is late: the job has ended, and what it wrote waits for room.
                    bounds.deadline = (bounds.whole, TimeLimit::Attempt);
                    continue;
                }
                Some(Cause::Late(limit, Stage::Run))
            }
            // Of one that has ended nobody learns this: why it was stopped outranks it.
            Wake::Late if killed => break Err(SandboxError::Unkillable),
            Wake::Over(cause) => Some(cause),
            Wake::Kill | Wake::Late => None,
        };
        let polite = cause.is_some() && !by_force;
        stopped = stopped.or(cause);
        // The first process of a pid namespace that neither handles nor blocks the signal will never notice it.
        phase = if polite && sandbox.stop(bounds.stop_signal) {
            Phase::Grace(Instant::now() + bounds.grace)
        } else if let Err(error) = sandbox.kill() {
            break Err(error);
        } else {
            // Its last words are taken when it is over: nobody may be reading any more.
            closed = true;
            Phase::Killed(Instant::now() + DYING)
        };
    };
    if matches!(phase, Phase::Killed(_) | Phase::Gone(_)) {
        let last_words = async { while matches!(log.next(&mut logs).await, Taken::Piece) {} };
        let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
    }
    Ended { result, stopped }
}

impl Bounds {
    /// When a job that was heard at this time is late, and by which bound.
    fn late_at(&self, heard: Instant) -> (Instant, TimeLimit) {
        match self.silence.map(|most| heard + most) {
            Some(silent) if silent < self.deadline.0 => (silent, TimeLimit::Silence),
            _ => self.deadline,
        }
    }
}
