//! How a job's first process ended, as its parent learns it from the kernel; and the worker as that parent, where the job is
//! not handed over to the helper.
//!
//! `crun run --detach` leaves the container's first process without a parent, and the kernel gives it to the nearest
//! subreaper (prctl(2), `PR_SET_CHILD_SUBREAPER`): the worker.
//!
//! A job with SELinux labels is made first and started afterwards, for crun says nothing when it sets none: it looks for the
//! word `selinux` among the mounts, and without it takes the host for one without SELinux.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use bryo_process::{Fork, fork};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid};
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus, wait};
use serde::{Deserialize, Serialize};

use super::sealed::SealedCrun;
use super::worker::{Instructions, Stays};
use crate::selinux;

/// How the job's first process ended, as its parent writes it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    Code(i32),
    Signal(i32),
}

impl End {
    /// That of which wait(2) tells, if it is an end.
    pub(crate) fn of(status: WaitStatus) -> Option<Self> {
        let code = status.exit_status().map(Self::Code);
        code.or_else(|| status.terminating_signal().map(Self::Signal))
    }

    /// Writes it down, into a file that has room for it.
    ///
    /// # Errors
    ///
    /// When the file is not there or cannot be written.
    pub(crate) fn write(self, file: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(&self)?;
        OpenOptions::new().write(true).open(file)?.write_all(&text)
    }
}

/// Makes a copy of this process that ends with it: nobody else could wait for what it becomes. Should this process be killed
/// while crun is about to put a job into its cgroup, there would be nobody who could stop that.
fn copy(child: impl FnOnce() -> i32) -> io::Result<i32> {
    let parent = getpid();
    match fork()? {
        Fork::Parent(pid) => Ok(pid.as_raw()),
        Fork::Child => {
            let _ = set_pdeathsig(Signal::SIGKILL);
            std::process::exit(match getppid() == parent {
                true => child(),
                false => NOT_STARTED,
            })
        }
    }
}

/// Becomes crun: a sealed copy of it, which spares it to make one itself, or the program as it is where that is refused. It
/// returns only with a reason why it could not.
pub(super) fn become_crun(crun: &SealedCrun, args: &[OsString]) -> String {
    let mut why = None;
    for program in crun.programs() {
        let mut command = Command::new(program);
        command.arg0(crun.path()).args(args);
        why = Some(command.exec());
    }
    let why = why.map_or_else(|| "there is none".to_owned(), |e| e.to_string());
    failed(crun, &why)
}

/// The exit code of a copy that could not become crun, which has none like it.
const NOT_STARTED: i32 = 213;

/// Has a copy of this process become crun and make the container, which is what `first` does; then waits for the end of the
/// job. What crun complains about is in its own log.
pub(super) fn watch(
    todo: &Instructions,
    stays: &Stays,
    crun: &SealedCrun,
    first: impl FnOnce() -> i32,
) -> Result<(), String> {
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|e| format!("could not become the job's parent: {e}"))?;
    let mut children = Children::default();
    let makes = copy(first).map_err(|e| format!("the worker could not copy itself: {e}"))?;
    if !children.succeeds(makes, crun)? {
        return Ok(());
    }
    let job = job(&stays.pid_file)?;
    if let Some(labels) = &todo.labels {
        if let Err(why) = selinux::read_back(job, "exec", &labels.process) {
            kill_all(stays);
            return Err(format!("crun did not label the job: {why}"));
        }
        fs::write(&labels.seen, &labels.process)
            .map_err(|e| format!("could not write {}: {e}", labels.seen.display()))?;
        let starts = copy(|| {
            become_crun(crun, &labels.start);
            NOT_STARTED
        });
        let starts = starts.map_err(|e| failed(crun, &e))?;
        // A number can be given again.
        children.ended.remove(&starts);
        if !children.succeeds(starts, crun)? {
            kill_all(stays);
            return Ok(());
        }
    }
    let Some(end) = children.wait_for(job)? else {
        return Ok(());
    };
    end.write(&stays.end_file)
        .map_err(|e| format!("could not write {}: {e}", stays.end_file.display()))
}

fn kill_all(stays: &Stays) {
    let _ = fs::write(stays.cgroup.join("cgroup.kill"), "1");
}

fn failed(crun: &SealedCrun, why: &dyn Display) -> String {
    format!("could not start {}: {why}", crun.path().display())
}

/// The job's first process, as crun wrote it down.
fn job(pid_file: &Path) -> Result<i32, String> {
    let text = fs::read_to_string(pid_file)
        .map_err(|e| format!("could not read {}: {e}", pid_file.display()))?;
    text.trim()
        .parse()
        .map_err(|_| format!("crun wrote {text:?} as the job's process id"))
}

/// Room for an [`End`] as text.
const ROOM: usize = 64;

/// Makes the file for the end, as long as it will ever be: a job may leave no space on the disk for it.
pub(super) fn make_room(file: &Path) -> io::Result<()> {
    fs::write(file, [b' '; ROOM])
}

/// The end, if it is known.
pub(super) fn read(file: &Path) -> Option<End> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// How those of our children ended that did, whether we started them or they were given to us.
#[derive(Default)]
struct Children {
    ended: HashMap<i32, Option<End>>,
}

impl Children {
    /// Waits for the end of a child that becomes crun. Whether that was a good one.
    fn succeeds(&mut self, child: i32, crun: &SealedCrun) -> Result<bool, String> {
        match self.wait_for(child)? {
            Some(End::Code(NOT_STARTED)) => Err(failed(crun, &"it cannot be run")),
            end => Ok(end == Some(End::Code(0))),
        }
    }

    fn wait_for(&mut self, pid: i32) -> Result<Option<End>, String> {
        loop {
            if let Some(end) = self.ended.get(&pid) {
                return Ok(*end);
            }
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => {
                    self.ended
                        .insert(pid.as_raw_nonzero().get(), End::of(status));
                }
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(format!("the job's first process was lost: {error}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_fits_into_its_room_and_is_not_known_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("end");
        make_room(&file).unwrap();
        assert_eq!(read(&file), None);
        for end in [End::Signal(i32::MIN), End::Code(3)] {
            make_room(&file).unwrap();
            end.write(&file).unwrap();
            assert_eq!(read(&file), Some(end));
            assert_eq!(fs::metadata(&file).unwrap().len(), ROOM as u64);
        }
    }
}
