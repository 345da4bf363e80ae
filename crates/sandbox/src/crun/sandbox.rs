//! A living container of the crun runtime.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bryo_model::{NetworkMode, ResourceUse};
use nix::sys::signal::Signal;

use super::ahead::Wanted;
use super::bundle::{self, Placement};
use super::filter;
use super::parent::{self, End};
use super::worker::{self, HostMount, Instructions, JobLabels, Stays};
use super::{Connected, CrunRuntime, Ready};
use crate::apparmor;
use crate::cgroup::{JobCgroup, name_of};
use crate::contract::{Container, Doing};
use crate::first::FirstProcess;
use crate::logs::Logs;
use crate::network::{DNS, Traffic, resolver};
use crate::selinux::Labels;
use crate::userns::{Nested, Worker};
use crate::{Access, Exit, Leftover, Root, SandboxError, SandboxSpec};

/// Where the job's parent writes the end of the job down, in the work directory.
const END: &str = "end.json";

/// What the worker is to do, in the work directory.
const INSTRUCTIONS: &str = "worker.json";

/// How long a crun whose helper is gone is waited for, and how often it is looked at.
const LATEST: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(1);

/// The container's own cgroup below the job's.
const BOX: &str = "box";

/// A container, not yet started, running, or ended.
#[derive(Debug)]
pub(crate) struct CrunSandbox {
    name: String,
    runtime: Arc<CrunRuntime>,
    /// Until it is started.
    worker: Option<Worker>,
    /// What the next attempt will want, if it is like this one.
    wanted: Wanted,
    nested: Option<Nested>,
    network: Option<Connected>,
    cgroup: JobCgroup,
    work: PathBuf,
    apparmor: Option<String>,
    running: Option<Worker>,
    traffic: Option<Traffic>,
    /// Whether the namespaces have been let go of.
    let_go: bool,
}

impl CrunSandbox {
    /// Takes over the attempt's namespaces and its cgroup, whose limits are in force.
    pub(crate) fn new(
        runtime: &Arc<CrunRuntime>,
        spec: &SandboxSpec,
        ready: Ready,
        cgroup: JobCgroup,
    ) -> Self {
        Self {
            name: spec.name.to_string(),
            runtime: Arc::clone(runtime),
            worker: Some(ready.worker),
            wanted: ready.wanted,
            nested: ready.nested,
            network: ready.network,
            cgroup,
            work: spec.work.clone(),
            apparmor: spec.apparmor.clone(),
            running: None,
            traffic: None,
            let_go: false,
        }
    }

    /// Writes the bundle. Nothing of the job runs yet.
    pub(crate) fn write(
        &self,
        spec: &SandboxSpec,
        labels: Option<&Labels>,
    ) -> Result<(), SandboxError> {
        let (runtime, nested) = (&self.runtime, &self.nested);
        let Root::Layers { dirs, user } = &spec.root else {
            return Err(SandboxError::Crun(
                "it can only run unpacked layers".to_owned(),
            ));
        };
        let place = runtime.userns.base().join("box");
        let etc = etc_files(spec.network.mode);
        let etc_paths: Vec<_> = etc
            .iter()
            .map(|(name, _)| (worker::etc_file(&place, name), *name))
            .collect();
        let sources: Vec<_> = (0..spec.mounts.len())
            .map(|index| worker::mount_source(&place, index))
            .collect();
        let failed = |e: oci_spec::OciSpecError| SandboxError::Crun(e.to_string());
        let compiled_filter = runtime.filter.compiled();
        let seccomp = match compiled_filter {
            Some(_) => filter::stand_in(&runtime.seccomp).map_err(failed)?,
            None => runtime.seccomp.clone(),
        };
        let config = bundle::config(
            spec,
            user,
            seccomp,
            &Placement {
                rootfs: &worker::rootfs(&place),
                sources: &sources,
                etc: &etc_paths,
                slot: self.wanted.slot(),
                user_namespace: nested.as_ref().map(Nested::user),
                network_namespace: nested.as_ref().map(Nested::net),
                cgroup: &name_of(&self.cgroup.dir().join(BOX)),
                labels,
                compiled_filter,
            },
        )
        .map_err(failed)?;
        let pid_file = self.pid_file();
        let handing_over = self.worker.as_ref().and_then(Worker::pid_file);
        let (crun, stays) = match (labels, handing_over) {
            (None, Some(handing_over)) => (self.crun_make(&["run"], handing_over), false),
            (None, None) => (self.crun_make(&["run", "--detach"], &pid_file), true),
            (Some(_), _) => (self.crun_make(&["create"], &pid_file), true),
        };
        let stays = stays.then(|| Stays {
            cgroup: self.cgroup.dir().to_owned(),
            pid_file,
            end_file: self.end_file(),
        });
        let instructions = Instructions {
            place,
            job_root: self.wanted.slot().first(),
            layers: dirs.clone(),
            overlay: self.overlay(),
            mounts: spec
                .mounts
                .iter()
                .map(|mount| HostMount {
                    host: mount.host.clone(),
                    read_only: mount.access == Access::ReadOnly,
                })
                .collect(),
            etc: etc
                .into_iter()
                .map(|(name, text)| (name.to_owned(), text))
                .collect(),
            crun,
            labels: labels.map(|labels| JobLabels {
                process: labels.process().to_string(),
                file: labels.file().to_string(),
                shared: labels.shared().to_string(),
                pipes: labels.pipes().map(ToString::to_string),
                start: self.crun_start(),
                seen: self.label_file(),
            }),
            stays,
        };
        for dir in [self.bundle(), self.overlay()] {
            fs::create_dir(&dir).map_err(SandboxError::file("make", &dir))?;
        }
        write_json(&self.bundle().join("config.json"), &config)?;
        let end = self.end_file();
        parent::make_room(&end).map_err(SandboxError::file("write", end))?;
        write_json(&self.instructions(), &instructions)
    }

    fn bundle(&self) -> PathBuf {
        self.work.join("bundle")
    }

    fn overlay(&self) -> PathBuf {
        self.work.join("overlay")
    }

    fn instructions(&self) -> PathBuf {
        self.work.join(INSTRUCTIONS)
    }

    /// crun's own, here so that it goes with everything else.
    fn state(&self) -> PathBuf {
        self.work.join("crun")
    }

    fn end_file(&self) -> PathBuf {
        self.work.join(END)
    }

    /// Where crun writes the job's number, unless it hands the job over.
    fn pid_file(&self) -> PathBuf {
        self.work.join("pid")
    }

    fn crun_log(&self) -> PathBuf {
        self.work.join("crun.log")
    }

    /// Where the worker writes the label that it has read back.
    fn label_file(&self) -> PathBuf {
        self.work.join("label")
    }

    fn crun_start(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = self.crun_options().into();
        args.extend(["start".into(), self.name.clone().into()]);
        args
    }

    /// What makes the container: at once with its job, or before it.
    fn crun_make(&self, command: &[&str], pid_file: &Path) -> Vec<OsString> {
        let mut args: Vec<OsString> = self.crun_options().into();
        args.extend(command.iter().map(OsString::from));
        args.extend(["--bundle".into(), self.bundle().into()]);
        args.extend(["--pid-file".into(), pid_file.into()]);
        args.push(self.name.clone().into());
        args
    }

    fn crun_options(&self) -> [OsString; 4] {
        let mut log = OsString::from("--log=file:");
        log.push(self.crun_log());
        [
            "--root".into(),
            self.state().into(),
            "--cgroup-manager=cgroupfs".into(),
            log,
        ]
    }

    /// Starts the job.
    pub(crate) async fn start(&mut self) -> Result<Logs, SandboxError> {
        let mut worker = self
            .worker
            .take()
            .ok_or_else(|| SandboxError::Crun("it was started before".to_owned()))?;
        let output = worker.take_output();
        // From here on there is somebody to be killed.
        let worker = self.running.insert(worker);
        let Some((stdout, stderr)) = output else {
            return Err(SandboxError::Crun("it has no output".to_owned()));
        };
        worker.begin(&self.work.join(INSTRUCTIONS), &self.work.join(END));
        let filter = &self.runtime.filter;
        if filter.compiled().is_none() {
            let keep = filter.clone();
            tokio::spawn(keep.keep(self.state().join(&self.name), self.work.clone()));
        }
        self.runtime.make_another(&self.wanted);
        Ok(Logs::of_pipes(stdout, stderr))
    }

    /// Waits for the end of the job's first process, and with it of all others.
    pub(crate) async fn wait(&mut self) -> Result<Exit, SandboxError> {
        let running = self
            .running
            .as_mut()
            .ok_or_else(|| SandboxError::Crun("it was not started".to_owned()))?;
        // The end is written down before the output ends, and told some moments later.
        let mut end = parent::read(&self.work.join(END));
        let mut status = None;
        if end.is_none() {
            status = Some(running.wait().await);
            end = parent::read(&self.end_file());
        }
        if let Some(network) = &mut self.network {
            // The device that counts goes with the network program.
            if let Some(counters) = network.counters.take() {
                self.traffic = counters.read();
            }
            network.helper.end();
        }
        // crun writes to its log only when it could not make or start the container.
        let log = fs::read_to_string(self.crun_log()).unwrap_or_default();
        if let Some(why) = first_error(&log) {
            return match command_is_missing(&why) {
                true => Ok(Exit::NotStarted(why)),
                false => Err(SandboxError::Crun(match &self.apparmor {
                    Some(profile) if profile_is_missing(&why) => apparmor::missing(profile, &why),
                    _ => why,
                })),
            };
        }
        match end {
            Some(End::Code(code)) => Ok(Exit::Code(code)),
            Some(End::Signal(number)) => Ok(Exit::Signal(number)),
            None => {
                let why = fs::read_to_string(worker::error_file(&self.instructions()))
                    .unwrap_or_else(|_| match status {
                        Some(status) => format!("the worker ended with {status}"),
                        None => "the worker is lost".to_owned(),
                    });
                Err(SandboxError::Crun(why))
            }
        }
    }

    /// Whether the worker is the parent of a job that is there.
    fn is_parent(&self) -> bool {
        self.pid_file().exists()
    }

    /// Sends a signal to the job's first process. Returns whether that process can notice it at all.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        self.first()
            .is_some_and(|first| first.can_notice(signal) && first.send(signal).is_ok())
    }

    /// The job's first process: the one in the container's cgroup that is number 1 of a pid namespace. crun's pid file would
    /// come too late, after the job has begun, and could name a process that is another by now.
    fn first(&self) -> Option<FirstProcess> {
        let dir = self.cgroup.dir().join(BOX);
        let procs = fs::read_to_string(dir.join("cgroup.procs")).ok()?;
        let pids = procs.lines().filter_map(|line| line.parse().ok());
        pids.filter_map(|pid| FirstProcess::hold(pid, &dir))
            .find(FirstProcess::is_first)
    }

    /// Kills everything of the job.
    pub(crate) fn kill(&mut self) -> Result<(), SandboxError> {
        // crun may not have put anything into the cgroup yet; then the worker itself is what there is. The helper kills that
        // first, or the job that was handed over to it, so that a job that begins in between is still met by the second. A
        // worker that is a parent has to live until it has told the end.
        if !self.is_parent()
            && let Some(running) = &self.running
        {
            running.end(Some(self.cgroup.dir()));
        }
        self.cgroup.kill()
    }

    /// With the helper gone, what a crun has begun to make is nobody's child. It gets into its cgroup within milliseconds, or
    /// has ended.
    async fn outlast(&self, worker: &Worker) {
        let outlasted = async {
            while !worker.is_silent() {
                let _ = self.cgroup.kill();
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(LATEST, outlasted).await;
    }

    /// What an isolated job received and sent so far.
    fn traffic(&self) -> Option<Traffic> {
        let so_far = || self.network.as_ref()?.counters.as_ref()?.read();
        self.traffic.or_else(so_far)
    }

    /// Removes everything of the container but its work directory. Safe to repeat.
    pub(crate) async fn remove(&mut self) -> Vec<Leftover> {
        let mut left = Vec::new();
        if let Some(mut worker) = self.worker.take() {
            worker.kill().await;
        }
        if let Some(mut running) = self.running.take() {
            if parent::read(&self.end_file()).is_some() {
                // Nothing of it is needed any more, and it is about to end.
                left.extend(self.runtime.ahead.see_off_worker(running).await);
            } else {
                let _ = self.cgroup.kill();
                running.kill().await;
                if !self.runtime.userns.is_alive() {
                    self.outlast(&running).await;
                }
            }
        }
        left.extend(self.cgroup.remove().await);
        let network = self.network.take();
        if self.let_go {
            return left;
        }
        self.let_go = true;
        left.extend(self.runtime.let_go(self.nested.clone(), network).await);
        left
    }
}

impl Container for CrunSandbox {
    fn start(&mut self) -> Doing<'_, Result<Logs, SandboxError>> {
        Box::pin(Self::start(self))
    }

    fn stop(&mut self, signal: Signal) -> bool {
        self.signal(signal)
    }

    fn kill(&mut self) -> Result<(), SandboxError> {
        Self::kill(self)
    }

    fn wait(&mut self) -> Doing<'_, Result<Exit, SandboxError>> {
        Box::pin(Self::wait(self))
    }

    fn has_ended(&self) -> bool {
        parent::read(&self.end_file()).is_some()
    }

    fn ended(&self) -> Doing<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn remove(&mut self) -> Doing<'_, Vec<Leftover>> {
        Box::pin(Self::remove(self))
    }

    fn cgroup(&self) -> &JobCgroup {
        &self.cgroup
    }

    fn counted(&self) -> ResourceUse {
        Traffic::reported(self.traffic())
    }

    fn writable<'a>(
        &'a self,
        spec: &'a SandboxSpec,
    ) -> Doing<'a, Result<Vec<PathBuf>, SandboxError>> {
        let mut all = spec.writable_mounts();
        all.push(self.overlay());
        Box::pin(std::future::ready(Ok(all)))
    }

    fn label(&self) -> Option<String> {
        fs::read_to_string(self.label_file()).ok()
    }

    fn user_namespace(&self) -> Option<PathBuf> {
        None
    }
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), SandboxError> {
    let text = serde_json::to_vec(value).map_err(|e| SandboxError::Crun(e.to_string()))?;
    fs::write(path, text).map_err(SandboxError::file("write", path))
}

/// What the job finds in `/etc` instead of the image's own.
fn etc_files(network: NetworkMode) -> Vec<(&'static str, String)> {
    let resolver = match network {
        NetworkMode::None => String::new(),
        NetworkMode::Host => fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        NetworkMode::Isolated => resolver(&DNS.to_string()),
    };
    vec![
        ("resolv.conf", resolver),
        (
            "hosts",
            "127.0.0.1 localhost bryo\n::1 localhost bryo\n".to_owned(),
        ),
        ("hostname", "bryo\n".to_owned()),
    ]
}

/// The first line of crun's log that is not a warning, without its time stamp.
fn first_error(log: &str) -> Option<String> {
    let without_time = |line: &str| match line.split_once(": ") {
        Some((time, text)) if time.starts_with(|c: char| c.is_ascii_digit()) => text.to_owned(),
        _ => line.to_owned(),
    };
    log.lines()
        .map(|line| without_time(line.trim()))
        .find(|text| !text.is_empty() && !text.starts_with("[WARNING]"))
}

/// The kernel knows no such profile when the job is to be put under it.
fn profile_is_missing(why: &str) -> bool {
    why.contains("/attr/")
}

/// crun tells a missing command apart only in words, and only in its own log, where no job can write.
fn command_is_missing(why: &str) -> bool {
    let why = why.to_ascii_lowercase();
    ["executable file", "exec ", "cannot find", "open executable"]
        .iter()
        .any(|words| why.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_crun() {
        let log = "2026-11-21T09:00:00.1Z: executable file `nope` not found in $PATH\n";
        let why = first_error(log).unwrap();
        assert!(why.starts_with("executable file") && command_is_missing(&why));
        assert_eq!(first_error(""), None);
        let attribute = "write file `/proc/thread-self/attr/exec`: No such file or directory";
        assert!(profile_is_missing(attribute) && !command_is_missing(attribute));
        assert!(!profile_is_missing(&why));
        let mount = first_error("2026-11-21T09:00:00Z: mount `proc`: Permission denied\n").unwrap();
        assert!(!command_is_missing(&mount));
    }
}
