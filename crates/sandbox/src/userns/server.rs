//! Inside the helper: wishes are fulfilled one after another, by one thread.
//!
//! What may take long is done by a copy of this process, and so is what has to be another process: the worker of a job. A
//! copy is made by fork(2), which costs a fraction of starting a program, and is why there is one thread only.
//!
//! Invariants: a child that was made here ends with this process, however that ends; what a child has started ends before
//! this process does, if that ends in an orderly way.

use std::collections::BTreeSet;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setpgid};

use super::children::{Children, PidFile, Task, Worker, signals, tell};
use super::files::{self, Effort, Progress};
use super::input::Input;
use super::measure::measure;
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
    children: Children,
    signals: SignalFd,
    crun: Option<SealedCrun>,
}

impl Server {
    pub(super) fn new(base: PathBuf) -> Result<Self, String> {
        // Jobs, and what a killed worker leaves, are this process' to wait for.
        set_child_subreaper(true).map_err(|e| format!("could not become a subreaper: {e}"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = (signals().thread_block())
            .and_then(|()| SignalFd::with_flags(&signals(), flags))
            .map_err(|e| format!("could not listen to signals: {e}"))?;
        Ok(Self {
            base,
            guarded: BTreeSet::new(),
            children: Children::default(),
            signals,
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

    /// Waits until a signal has told something or there is input. Whether there is.
    fn wait(&mut self, input: &Input) -> bool {
        let watched = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut all = [watched(input.fd()), watched(self.signals.as_fd())];
        let patience = match self.children.have_traces() {
            true => PollTimeout::from(LOOK_MS),
            false => PollTimeout::NONE,
        };
        match poll(&mut all, patience) {
            Ok(_) => {}
            Err(Errno::EINTR) => return false,
            // Reading waits too.
            Err(_) => return true,
        }
        let [listens, told] = all.map(|fd| fd.any().unwrap_or(true));
        if told {
            while let Ok(Some(_)) = self.signals.read_signal() {}
        }
        if told || self.children.have_traces() {
            self.children.look();
        }
        listens
    }

    fn fulfil(&mut self, request: Request) {
        // Whoever wants no answer gets none, whatever has the number 0.
        let number = request.number.unwrap_or(0);
        let result = match request.wish {
            Wish::Nest { name, first } => {
                let made = self.children.namespaces.make(name, first);
                made.map(|[user, net]| Some(Done::Nested { user, net }))
            }
            Wish::Unnest { name } => {
                let gone = self.children.namespaces.let_go(&self.base, &name);
                gone.map(|()| Some(Done::Granted))
            }
            Wish::Work { crun } => self.work(number, &crun).map(Some),
            Wish::Begun { worker, end } => {
                self.children.has_begun(worker, end);
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
        self.children
            .have_done(Task::Errand { number }, Box::new(errand))?;
        Ok(None)
    }

    /// Makes a worker that waits.
    fn work(&mut self, number: u64, crun: &Path) -> Result<Done, String> {
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
        let pid_file = PidFile::make().ok();
        let descriptor = pid_file.as_ref().map(PidFile::descriptor);
        let output = [
            to_stdout.try_clone().map_err(text)?,
            to_stderr.try_clone().map_err(text)?,
        ];
        let worker = Worker {
            number,
            waits: Some((instructions, [stdout, stderr])),
            _output: output,
            pid_file,
            end_file: None,
        };
        let for_worker = crun.clone();
        let work = move || {
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            match become_output(&to_stdout, &to_stderr) {
                Ok(()) => {
                    drop((to_stdout, to_stderr));
                    crun::worker(&told, &for_worker)
                }
                Err(_) => 1,
            }
        };
        let made = (self.children).have_done(Task::Worker(worker), Box::new(work));
        self.crun = Some(crun);
        let pid = made?;
        // Whichever of both is first: it must have its group before anybody kills that.
        let _ = setpgid(pid, pid);
        Ok(Done::Working {
            pid: pid.as_raw(),
            instructions: ends[0],
            stdout: ends[1],
            stderr: ends[2],
            pid_file: descriptor,
        })
    }

    /// In this order, so that what the worker starts in between is still met by the second.
    fn kill(&self, worker: u64, cgroup: Option<&Path>) {
        self.children.kill(worker);
        if let Some(cgroup) = cgroup {
            let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
        }
    }

    /// The agent is gone. Its jobs must not go on without anybody who knows their bounds.
    fn end(self) {
        self.children.kill_all();
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
            let left = self.children.are_left();
            if !(left || starting) || left && since.elapsed() > DYING {
                return;
            }
            std::thread::sleep(LOOK);
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
