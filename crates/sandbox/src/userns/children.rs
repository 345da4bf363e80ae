//! The helper's children: copies of it, what has become of them, and jobs.
//!
//! crun leaves a container's first process behind in one way only that would not cost two processes more for each job: it is
//! killed. It runs in the foreground, as the job's parent, and just before it would wait for the job it writes the job's
//! number into a file. The helper holds a lease of that file, so there crun stops and the helper is told; it looks which
//! child crun has, kills crun, and the kernel gives the job to the helper, as the nearest subreaper (prctl(2),
//! `PR_SET_CHILD_SUBREAPER`). Only a parent is told how a process ended: a crun that waits would turn a signal into an exit
//! code, which a job can fake.
//!
//! Invariants: a child that this process has not made is a job that was handed over, or what a worker has left when it was
//! killed, for whatever crun starts is crun's as long as crun lives; so what is left may be killed. The end of a job is
//! written down before its output ends. No child has pipes of another one or a namespace of an attempt.

use std::fs::{self, OpenOptions};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use bryo_process::{Fork, Lease, fork};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::{Pid, getpid, getppid};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, WaitStatus, wait, waitid};

use super::helper::say;
use super::nested::Namespaces;
use super::protocol::Said;
use crate::crun::End;
use crate::proc;

/// What a copy of this process does; its exit code.
pub(super) type Work = Box<dyn FnOnce() -> i32>;

/// What tells that a child has ended, and that crun has come to the file that is leased.
pub(super) fn signals() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGIO].into_iter().collect()
}

/// Those of this process.
#[derive(Default)]
pub(super) struct Children {
    all: Vec<Child>,
    /// Workers that ended without a job that was handed over. That is told when nothing of them is left.
    gone: Vec<(Worker, String)>,
    /// Workers whose job has ended before it was known where that is to be written.
    early: Vec<(Worker, End)>,
    /// What a copy of this process lets go of as it does of the others' pipes.
    pub(super) namespaces: Namespaces,
}

struct Child {
    pid: Pid,
    task: Task,
}

/// What a child is there for.
pub(super) enum Task {
    /// Makes a container, or waits until it is told which one.
    Worker(Worker),
    /// Is a job's first process.
    Job(Worker),
    /// Was crun, and is being killed.
    HandedOver { job: Pid },
    /// Does what would take this process too long.
    Errand { number: u64 },
}

/// What this process has of a worker.
pub(super) struct Worker {
    pub(super) number: u64,
    /// Until it has begun. Nothing is done with them: they are open so that the agent can open them by this process'
    /// descriptors.
    pub(super) waits: Option<(PipeWriter, [PipeReader; 2])>,
    /// This process has an end of the job's output, so that it ends after the job's end is written down.
    pub(super) _output: [PipeWriter; 2],
    pub(super) pid_file: Option<PidFile>,
    /// Where the end of the job is to be written, once that is known.
    pub(super) end_file: Option<PathBuf>,
}

/// What crun is given as the file for the number of the job's first process: one in memory, reached by this process'
/// descriptor.
pub(super) struct PidFile(Lease);

impl PidFile {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// When this host has no leases, or does not say what children a process has.
    pub(super) fn make() -> io::Result<Self> {
        fs::metadata("/proc/thread-self/children")?;
        let memory = memfd_create("pid", MemfdFlags::CLOEXEC)?;
        // Opened once more: of who has a file open by its making, no count is kept, and so there is no lease of it.
        let again = format!("/proc/self/fd/{}", memory.as_raw_fd());
        let file = OpenOptions::new().write(true).open(again)?;
        drop(memory);
        Lease::take(file).map(Self)
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Children {
    /// Whether a worker that ended may have left something. What becomes of that no signal tells.
    pub(super) fn have_traces(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Has a copy of this process do it.
    pub(super) fn have_done(&mut self, task: Task, work: Work) -> Result<Pid, String> {
        let text = |e: &dyn std::fmt::Display| format!("the helper could not copy itself: {e}");
        let parent = getpid();
        let pid = match fork().map_err(|e| text(&e))? {
            Fork::Child => {
                // The ends of all pipes go with them, but for those that the work has, and all namespaces.
                *self = Self::default();
                drop(task);
                let _ = set_pdeathsig(Signal::SIGKILL);
                let _ = signals().thread_unblock();
                // Whoever ended before that tells nobody.
                let code = if getppid() == parent { work() } else { 1 };
                std::process::exit(code);
            }
            Fork::Parent(pid) => pid,
        };
        self.all.push(Child { pid, task });
        Ok(pid)
    }

    /// Looks at everything that a signal may have told.
    pub(super) fn look(&mut self) {
        self.take_over();
        self.reap();
        if self.have_traces() && !self.kill_strays() {
            for (worker, how) in self.gone.drain(..) {
                tell_end(worker, how);
            }
        }
    }

    /// Makes jobs this process' own whose crun has come to their number.
    fn take_over(&mut self) {
        let mut jobs = Vec::new();
        for child in &mut self.all {
            let Task::Worker(worker) = &mut child.task else {
                continue;
            };
            let pid_file = worker.pid_file.as_ref();
            if !pid_file.is_some_and(|file| file.0.is_wanted()) {
                continue;
            }
            // Somebody else who opens that file for writing gets nothing by it, unless there is a job.
            let Some(job) = job_of(child.pid) else {
                continue;
            };
            // In this order: crun must not go on.
            let _ = kill(child.pid, Signal::SIGKILL);
            worker.pid_file = None;
            if let Task::Worker(worker) =
                std::mem::replace(&mut child.task, Task::HandedOver { job })
            {
                jobs.push(Child {
                    pid: job,
                    task: Task::Job(worker),
                });
            }
        }
        self.all.append(&mut jobs);
    }

    /// Tells of all children that have ended. What a worker left behind is waited for too.
    fn reap(&mut self) {
        while let Some((pid, status)) = ended() {
            let Some(at) = self.all.iter().position(|child| child.pid == pid) else {
                continue;
            };
            match self.all.swap_remove(at).task {
                Task::Worker(worker) => self.gone.push((worker, in_words(status))),
                Task::Job(worker) => self.ends(worker, status),
                Task::HandedOver { job } => self.look_for(job, status),
                // One that has come to its end has answered.
                Task::Errand { .. } if status.exit_status() == Some(0) => {}
                Task::Errand { number } => {
                    let why = format!("the helper's child ended with {}", in_words(status));
                    tell(&Said::answer(number, Err(why)));
                }
            }
        }
    }

    /// A job has ended.
    fn ends(&mut self, worker: Worker, status: WaitStatus) {
        let Some(end) = End::of(status) else {
            return self.gone.push((worker, in_words(status)));
        };
        match worker.end_file.clone() {
            Some(file) => write_end(worker, end, &file),
            None => self.early.push((worker, end)),
        }
    }

    /// When crun is gone its job is this process' child. It is not if the lease had run out and crun has waited for it.
    fn look_for(&mut self, job: Pid, crun: WaitStatus) {
        let at = self.all.iter().position(|child| child.pid == job);
        let Some(at) = at.filter(|_| !is_child(job)) else {
            return;
        };
        if let Task::Job(worker) = self.all.swap_remove(at).task {
            let how = format!("{}, and its job's end is not known", in_words(crun));
            self.gone.push((worker, how));
        }
    }

    /// Kills the children that this process has not made: what workers have left. Whether there were any.
    fn kill_strays(&self) -> bool {
        let mut any = false;
        for stray in children_of(getpid()) {
            if self.all.iter().all(|child| child.pid != stray) {
                any = true;
                let _ = kill(stray, Signal::SIGKILL);
            }
        }
        any
    }

    /// A worker has been told what to do: nobody opens its pipes any more, and the end of its job goes there.
    pub(super) fn has_begun(&mut self, number: u64, end_file: PathBuf) {
        let early = (self.early.iter()).position(|(worker, _)| worker.number == number);
        if let Some(at) = early {
            let (worker, end) = self.early.swap_remove(at);
            write_end(worker, end, &end_file);
            return;
        }
        let living = self.all.iter_mut().find_map(|child| match &mut child.task {
            Task::Worker(worker) | Task::Job(worker) if worker.number == number => Some(worker),
            _ => None,
        });
        if let Some(worker) = living {
            worker.waits = None;
            worker.end_file = Some(end_file);
        }
    }

    /// Kills a worker with what it has started, or its job.
    pub(super) fn kill(&self, number: u64) {
        for child in &self.all {
            if matches!(&child.task, Task::Worker(w) | Task::Job(w) if w.number == number) {
                child.kill();
            }
        }
    }

    /// Kills all of them, once.
    pub(super) fn kill_all(&self) {
        self.all.iter().for_each(Child::kill);
    }

    /// Kills what has been given to this process, and waits for what has ended. Whether any child is left.
    pub(super) fn are_left(&self) -> bool {
        self.kill_strays();
        while ended().is_some() {}
        !children_of(getpid()).is_empty()
    }
}

impl Child {
    fn kill(&self) {
        let _ = match self.task {
            Task::Worker(_) => killpg(self.pid, Signal::SIGKILL),
            _ => kill(self.pid, Signal::SIGKILL),
        };
    }
}

/// The children of a process, as the kernel lists them (proc(5), `children`).
fn children_of(pid: Pid) -> Vec<Pid> {
    let all = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let all = all.unwrap_or_default();
    let pids = all.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.map(Pid::from_raw).collect()
}

/// The first process of the container that this crun has made: of its children the one that is the first in its namespace.
fn job_of(crun: Pid) -> Option<Pid> {
    let mut children = children_of(crun).into_iter();
    children.find(|child| proc::is_first(child.as_raw()))
}

/// Whether it is a child of this process that nobody has waited for, living or not.
fn is_child(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let pid = rustix::process::Pid::from_raw(pid.as_raw());
    pid.is_some_and(|pid| waitid(WaitId::Pid(pid), options).is_ok())
}

/// Writes the end of a job that was handed over down, and then lets the job's output end.
fn write_end(worker: Worker, end: End, file: &Path) {
    let how = match end.write(file) {
        Ok(()) => "its job".to_owned(),
        Err(why) => format!("an end that could not be written down: {why}"),
    };
    tell_end(worker, how);
}

/// Ends the output of a worker and tells of its end.
fn tell_end(worker: Worker, how: String) {
    let number = worker.number;
    drop(worker);
    tell(&Said::Ended {
        worker: number,
        how,
    });
}

/// The agent reads what is told as long as it lives.
pub(super) fn tell(said: &Said) {
    let _ = say(&said.line());
}

/// A child that has ended, if there is one. It is asked in a way that knows every signal.
fn ended() -> Option<(Pid, WaitStatus)> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                return Some((Pid::from_raw(pid.as_raw_nonzero().get()), status));
            }
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

fn in_words(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => format!("{status:?}"),
    }
}
