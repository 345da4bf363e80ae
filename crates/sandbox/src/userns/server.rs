//! Inside the helper: wishes are fulfilled one after another, by one thread.
//!
//! What may take long is done by a copy of this process, and so is what has to be another process: the worker of a job. A
//! copy is made by fork(2), which costs a fraction of starting a program, and is why there is one thread only.
//!
//! Invariants: a child ends with this process, however that ends; what a child has started ends before this process does,
//! if that ends in an orderly way; the pipes of one worker are in no other child.
//!
//! crun makes a container from a process of its own session, which no signal to the worker's group reaches. When a worker is
//! gone, what it has left is this process' to wait for, and to kill: only then is the worker's end told.

use std::collections::BTreeSet;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bryo_process::{Fork, fork};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getpid, getppid, setpgid};
use rustix::process::{PidfdFlags, pidfd_open};

use super::files::{self, Effort, Progress};
use super::helper::say;
use super::input::Input;
use super::measure::measure;
use super::nested;
use super::protocol::{Done, Request, Said, Wish};
use crate::crun::{self, SealedCrun};

/// How long what was killed may take to be gone.
const DYING: Duration = Duration::from_secs(5);

/// How long a container of podman's may be about to start once the agent is gone.
/// A job whose process has the runtime's words as its own gains so much and no more.
const STARTING: Duration = Duration::from_secs(3);

/// So much a job can write before it has to wait for the agent, in bytes.
const OUTPUT_PIPE: i32 = 256 << 10;

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(LOOK_MS as u64);
const LOOK_MS: u8 = 1;

/// Fulfils wishes.
pub(super) struct Server {
    base: PathBuf,
    /// Cgroups of jobs that run.
    guarded: BTreeSet<PathBuf>,
    children: Vec<Child>,
    /// Ends of workers that are told when nothing of them is left.
    ended: Vec<Said>,
    crun: Option<SealedCrun>,
}

/// A copy of this process, or what has become of it.
struct Child {
    pid: Pid,
    /// Readable when it has ended.
    end: OwnedFd,
    task: Task,
}

enum Task {
    Worker {
        number: u64,
        /// Until it has begun.
        waits: Option<Waits>,
    },
    Errand {
        number: u64,
    },
}

/// This side of the pipes of a worker that waits.
///
/// Nothing is done with them: they are open so that the agent can open them by this process' descriptors.
struct Waits {
    _instructions: PipeWriter,
    _output: [PipeReader; 2],
}

/// What a copy of this process does; its exit code.
type Work = Box<dyn FnOnce() -> i32>;

impl Server {
    pub(super) fn new(base: PathBuf) -> Result<Self, String> {
        // What a killed worker leaves is this process' to wait for.
        set_child_subreaper(true).map_err(|e| format!("could not become a subreaper: {e}"))?;
        Ok(Self {
            base,
            guarded: BTreeSet::new(),
            children: Vec::new(),
            ended: Vec::new(),
            crun: None,
        })
    }

    /// Does what it is asked until the input ends, and then ends what it guards.
    pub(super) fn serve(mut self, mut input: Input) -> Result<(), String> {
        loop {
            while let Some(line) = input.next() {
                // What cannot be read ends the helper, and with it the jobs that it guards.
                let Ok(request) = serde_json::from_slice::<Request>(&line) else {
                    self.end();
                    return Err("it was asked for what it does not know".to_owned());
                };
                self.fulfil(request);
            }
            if self.wait(&input) && !input.read_more() {
                self.end();
                return Ok(());
            }
        }
    }

    /// Waits until a child has ended or there is input. Whether there is.
    fn wait(&mut self, input: &Input) -> bool {
        let watched = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut all: Vec<PollFd<'_>> = vec![watched(input.fd())];
        all.extend(self.children.iter().map(|child| watched(child.end.as_fd())));
        let patience = match self.ended.is_empty() {
            true => PollTimeout::NONE,
            false => PollTimeout::from(LOOK_MS),
        };
        match poll(&mut all, patience) {
            Ok(_) => {}
            Err(Errno::EINTR) => return false,
            // Reading waits too.
            Err(_) => return true,
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let (listens, ended) = (is_ready(&all[0]), all[1..].iter().any(is_ready));
        if ended || !self.ended.is_empty() {
            self.reap();
        }
        if !self.ended.is_empty() && !self.kill_strays() {
            for ended in self.ended.drain(..) {
                tell(&ended);
            }
        }
        listens
    }

    /// Tells of all children that have ended. What a worker left behind is waited for too.
    fn reap(&mut self) {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(status) => status,
                Err(_) => continue,
            };
            let at = self
                .children
                .iter()
                .position(|c| Some(c.pid) == status.pid());
            let Some(at) = at.filter(|_| has_ended(status)) else {
                continue;
            };
            match self.children.swap_remove(at).task {
                Task::Worker { number, .. } => self.ended.push(Said::Ended {
                    worker: number,
                    how: in_words(status),
                }),
                // One that has come to its end has answered.
                Task::Errand { .. } if matches!(status, WaitStatus::Exited(_, 0)) => {}
                Task::Errand { number } => {
                    let why = format!("the helper's child ended with {}", in_words(status));
                    tell(&Said::answer(number, Err(why)));
                }
            }
        }
    }

    /// Kills the children that this process has not made: what workers have left. Whether there were any.
    fn kill_strays(&self) -> bool {
        let me = getpid();
        let all = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children"));
        let all = all.unwrap_or_default();
        let pids = all.split_whitespace().filter_map(|pid| pid.parse().ok());
        let strays = pids
            .map(Pid::from_raw)
            .filter(|pid| self.children.iter().all(|child| child.pid != *pid));
        let mut any = false;
        for stray in strays {
            any = true;
            let _ = kill(stray, Signal::SIGKILL);
        }
        any
    }

    fn fulfil(&mut self, request: Request) {
        // Whoever wants no answer gets none, whatever has the number 0.
        let number = request.number.unwrap_or(0);
        let result = match request.wish {
            Wish::Nest { name, first } => {
                nested::make(&self.base, &name, first).map(|()| Some(Done::Granted))
            }
            Wish::Unnest { name } => {
                nested::unmake(&self.base, &name).map(|()| Some(Done::Granted))
            }
            Wish::Work { crun, sees } => self.work(number, &crun, sees).map(Some),
            Wish::Begun { worker } => {
                if let Some((_, waits)) = self.worker(worker) {
                    *waits = None;
                }
                Ok(Some(Done::Granted))
            }
            Wish::Kill { worker, cgroup } => {
                self.kill(worker, cgroup.as_deref());
                Ok(Some(Done::Granted))
            }
            Wish::Give { path, root } => files::give(&path, root).map(|()| Some(Done::Granted)),
            Wish::Reclaim { path } => {
                self.little_or(number, move |effort| whole(files::reclaim(&path, effort)))
            }
            Wish::Remove { path } => {
                self.little_or(number, move |effort| whole(files::remove(&path, effort)))
            }
            Wish::Copy { from, to } => files::copy(&from, &to).map(|()| Some(Done::Granted)),
            Wish::Measure {
                dirs,
                processes,
                most,
            } => self.little_or(number, move |effort| {
                let measured = measure(&dirs, &processes, most, effort)?;
                Ok(measured.map(Done::Measured))
            }),
            Wish::Guard { cgroup } => {
                self.guarded.insert(cgroup);
                Ok(Some(Done::Granted))
            }
            Wish::Unguard { cgroup } => {
                self.guarded.remove(&cgroup);
                Ok(Some(Done::Granted))
            }
        };
        if let Some(result) = result.transpose()
            && request.number.is_some()
        {
            tell(&Said::answer(number, result));
        }
    }

    /// Does it if it is little. Else a child does it, and answers: it must not hold up another attempt.
    fn little_or(
        &mut self,
        number: u64,
        work: impl Fn(Effort) -> Result<Option<Done>, String> + 'static,
    ) -> Result<Option<Done>, String> {
        match work(Effort::little()) {
            Ok(None) => {}
            other => return other,
        }
        let errand = move || {
            let done = work(Effort::ALL).and_then(|done| done.ok_or("it has no end".to_owned()));
            tell(&Said::answer(number, done));
            0
        };
        self.have_done(Task::Errand { number }, Box::new(errand))?;
        Ok(None)
    }

    /// Has a copy of this process do it.
    fn have_done(&mut self, task: Task, work: Work) -> Result<Pid, String> {
        let text = |e: &dyn std::fmt::Display| format!("the helper could not copy itself: {e}");
        let parent = getpid();
        let pid = match fork().map_err(|e| text(&e))? {
            Fork::Child => {
                // The ends of the others' pipes go with them, and with the task the parent's end of its own.
                self.children.clear();
                drop(task);
                let _ = set_pdeathsig(Signal::SIGKILL);
                // Whoever ended before that tells nobody.
                let code = if getppid() == parent { work() } else { 1 };
                std::process::exit(code);
            }
            Fork::Parent(pid) => pid,
        };
        let end = rustix::process::Pid::from_raw(pid.as_raw())
            .ok_or(Errno::ESRCH)
            .and_then(|pid| {
                pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Errno::from_raw(e.raw_os_error()))
            });
        match end {
            Ok(end) => {
                self.children.push(Child { pid, end, task });
                Ok(pid)
            }
            Err(error) => {
                // One whose end cannot be noticed is of no use.
                let _ = kill(pid, Signal::SIGKILL);
                let _ = waitpid(pid, None);
                Err(text(&error))
            }
        }
    }

    /// Makes a worker that waits.
    fn work(&mut self, number: u64, crun: &Path, sees: Option<String>) -> Result<Done, String> {
        let crun = SealedCrun::of(crun, self.crun.take());
        let text = |e: io::Error| format!("could not make the worker's pipes: {e}");
        let (told, instructions) = io::pipe().map_err(text)?;
        let (stdout, to_stdout) = io::pipe().map_err(text)?;
        let (stderr, to_stderr) = io::pipe().map_err(text)?;
        for pipe in [&stdout, &stderr] {
            // Where the user has many pipes the kernel refuses; then it is as large as others are.
            let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(OUTPUT_PIPE));
        }
        let ends = [&instructions as &dyn AsRawFd, &stdout, &stderr].map(AsRawFd::as_raw_fd);
        let waits = Some(Waits {
            _instructions: instructions,
            _output: [stdout, stderr],
        });
        let for_worker = crun.clone();
        let base = self.base.clone();
        let work = move || {
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            match become_output(&to_stdout, &to_stderr) {
                Ok(()) => {
                    drop((to_stdout, to_stderr));
                    let alone = || nested::see_only(&base, sees.as_deref());
                    crun::worker(&told, alone, &for_worker)
                }
                Err(_) => 1,
            }
        };
        let made = self.have_done(Task::Worker { number, waits }, Box::new(work));
        self.crun = Some(crun);
        let pid = made?;
        // Whichever of both is first: it must have its group before anybody kills that.
        let _ = setpgid(pid, pid);
        Ok(Done::Working {
            pid: pid.as_raw(),
            instructions: ends[0],
            stdout: ends[1],
            stderr: ends[2],
        })
    }

    fn worker(&mut self, wanted: u64) -> Option<(Pid, &mut Option<Waits>)> {
        self.children
            .iter_mut()
            .find_map(|child| match &mut child.task {
                Task::Worker { number, waits } if *number == wanted => Some((child.pid, waits)),
                _ => None,
            })
    }

    /// In this order, so that what the worker starts in between is still met by the second.
    fn kill(&mut self, worker: u64, cgroup: Option<&Path>) {
        if let Some((pid, _)) = self.worker(worker) {
            let _ = killpg(pid, Signal::SIGKILL);
        }
        if let Some(cgroup) = cgroup {
            let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
        }
    }

    /// The agent is gone. Its jobs must not go on without anybody who knows their bounds.
    fn end(self) {
        for child in &self.children {
            let group = matches!(child.task, Task::Worker { .. });
            let _ = match group {
                true => killpg(child.pid, Signal::SIGKILL),
                false => kill(child.pid, Signal::SIGKILL),
            };
        }
        // Until everything is gone: a crun that was being killed may still have put a job into its cgroup.
        let since = Instant::now();
        loop {
            let mut starting = false;
            for cgroup in &self.guarded {
                if since.elapsed() < STARTING && podman_starts(cgroup) {
                    starting = true;
                } else {
                    let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
                }
            }
            self.kill_strays();
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) if starting => std::thread::sleep(LOOK),
                Err(Errno::ECHILD) => return,
                Ok(WaitStatus::StillAlive) if since.elapsed() > DYING => return,
                Ok(WaitStatus::StillAlive) => std::thread::sleep(LOOK),
                _ => {}
            }
        }
    }
}

fn become_output(stdout: &PipeWriter, stderr: &PipeWriter) -> io::Result<()> {
    dup2_stdin(std::fs::File::open("/dev/null")?)?;
    dup2_stdout(stdout)?;
    dup2_stderr(stderr)?;
    Ok(())
}

fn whole(progress: Result<Progress, String>) -> Result<Option<Done>, String> {
    Ok(match progress? {
        Progress::Whole => Some(Done::Granted),
        Progress::Part => None,
    })
}

/// The agent reads what is told as long as it lives.
fn tell(said: &Said) {
    let _ = say(&said.line());
}

fn has_ended(status: WaitStatus) -> bool {
    matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..))
}

fn in_words(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("exit code {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("signal {signal}"),
        other => format!("{other:?}"),
    }
}

/// Whether podman is about to start a container in this cgroup: its first process is still the runtime. One that is killed
/// then leaves `crun start` waiting for it for ever, with podman's lock on the container. Nothing of the job runs yet.
fn podman_starts(cgroup: &Path) -> bool {
    let entries = std::fs::read_dir(cgroup).into_iter().flatten().flatten();
    let containers = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libpod-") && !name.starts_with("libpod-conmon")
    });
    let processes = containers
        .filter_map(|dir| std::fs::read_to_string(dir.path().join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    processes
        .filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())
        .any(|words| {
            let mut words = words.split(|byte| *byte == 0);
            let runtime = words.next().is_some_and(|program| {
                let name = program.rsplit(|byte| *byte == b'/').next();
                matches!(name, Some(b"crun" | b"runc"))
            });
            runtime && words.any(|word| word == b"create")
        })
}
