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
use std::path::PathBuf;

use bryo_process::{Fork, Lease, fork};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::{Pid, getpid, getppid};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus, wait};

use super::helper::say;
use super::nested::Namespaces;
use super::protocol::Said;
use crate::crun::End;

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
    early: Vec<Worker>,
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
    HandedOver,
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
    /// How the job has ended.
    pub(super) end: Option<End>,
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
    /// Whether anything is left to be waited for that no signal tells.
    pub(super) fn have_left(&self) -> bool {
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
        if self.have_left() && !self.kill_strays() {
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
            let wanted = |pid_file: &mut PidFile| pid_file.0.is_wanted();
            if worker.pid_file.as_mut().is_none_or(|file| !wanted(file)) {
                continue;
            }
            // Whoever else looks into that file gets nothing by it.
            let Some(job) = only_child(child.pid) else {
                continue;
            };
            // In this order: crun must not go on.
            let _ = kill(child.pid, Signal::SIGKILL);
            worker.pid_file = None;
            if let Task::Worker(worker) = std::mem::replace(&mut child.task, Task::HandedOver) {
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
                Task::Job(mut worker) => {
                    worker.end = End::of(status);
                    match worker.end_file {
                        Some(_) => write_end(worker),
                        None => self.early.push(worker),
                    }
                }
                Task::HandedOver => {}
                // One that has come to its end has answered.
                Task::Errand { .. } if status.exit_status() == Some(0) => {}
                Task::Errand { number } => {
                    let why = format!("the helper's child ended with {}", in_words(status));
                    tell(&Said::answer(number, Err(why)));
                }
            }
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
        let early = self.early.iter().position(|worker| worker.number == number);
        if let Some(at) = early {
            let mut worker = self.early.swap_remove(at);
            worker.end_file = Some(end_file);
            write_end(worker);
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

/// Of a crun that has made a container there is no other.
fn only_child(crun: Pid) -> Option<Pid> {
    match children_of(crun)[..] {
        [job] => Some(job),
        _ => None,
    }
}

/// Writes the end of a job that was handed over down, and then lets the job's output end.
fn write_end(worker: Worker) {
    let (Some(end), Some(file)) = (worker.end, &worker.end_file) else {
        return;
    };
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
