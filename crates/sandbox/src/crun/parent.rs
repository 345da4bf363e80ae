//! The worker as parent of the job: learns from the kernel how the job's first process ended.
//!
//! `crun run --detach` leaves the container's first process without a parent, and the kernel gives it to the nearest
//! subreaper (prctl(2), `PR_SET_CHILD_SUBREAPER`): the worker. `crun run` in the foreground would turn a signal into an
//! exit code, which a job can fake.
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
use super::worker::Instructions;
use crate::selinux;

/// How the job's first process ended, as the worker writes it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum End {
    Code(i32),
    Signal(i32),
}

impl End {
    fn of(status: WaitStatus) -> Option<Self> {
        let code = status.exit_status().map(Self::Code);
        code.or_else(|| status.terminating_signal().map(Self::Signal))
    }
}

/// Makes a copy of this process that ends with it: nobody else could wait for what it becomes. Should this process be killed
/// while crun is about to put a job into its cgroup, there would be nobody who could stop that.
pub(super) fn copy(child: impl FnOnce() -> i32) -> io::Result<i32> {
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

/// Becomes crun: a sealed copy of it, which spares it to make one itself, or the program as it is where that is refused. Gives
/// an exit code when it could not.
pub(super) fn become_crun(crun: &SealedCrun, args: &[OsString]) -> i32 {
    for program in crun.programs() {
        let mut command = Command::new(program);
        command.arg0(crun.path()).args(args);
        // It returns only when there is another one to try.
        let _ = command.exec();
    }
    NOT_STARTED
}

/// The exit code of a copy that could not become crun, which has none like it.
const NOT_STARTED: i32 = 213;

/// Takes what is left behind by whom it has started: so it learns how the job ended.
pub(super) fn be_parent() -> Result<(), String> {
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|e| format!("could not become the job's parent: {e}"))
}

/// Waits until the child has become crun and has made the container, and then for the end of the job. What crun complains
/// about is in its own log.
pub(super) fn watch(todo: &Instructions, child: i32, crun: &SealedCrun) -> Result<(), String> {
    let mut children = Children::default();
    if !children.succeeds(child, crun)? {
        return Ok(());
    }
    let job = job(&todo.pid_file)?;
    if let Some(labels) = &todo.labels {
        if let Err(why) = selinux::read_back(job, "exec", &labels.process) {
            kill_all(todo);
            return Err(format!("crun did not label the job: {why}"));
        }
        fs::write(&labels.seen, &labels.process)
            .map_err(|e| format!("could not write {}: {e}", labels.seen.display()))?;
        let starts = copy(|| become_crun(crun, &labels.start));
        let starts = starts.map_err(|e| failed(crun, &e))?;
        // A number can be given again.
        children.ended.remove(&starts);
        if !children.succeeds(starts, crun)? {
            kill_all(todo);
            return Ok(());
        }
    }
    let Some(end) = children.wait_for(job)? else {
        return Ok(());
    };
    let text = serde_json::to_vec(&end).map_err(|e| e.to_string())?;
    write_into(&todo.end_file, &text)
        .map_err(|e| format!("could not write {}: {e}", todo.end_file.display()))
}

fn kill_all(todo: &Instructions) {
    let _ = fs::write(todo.cgroup.join("cgroup.kill"), "1");
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

fn write_into(file: &Path, text: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(text)
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
            write_into(&file, &serde_json::to_vec(&end).unwrap()).unwrap();
            assert_eq!(read(&file), Some(end));
            assert_eq!(fs::metadata(&file).unwrap().len(), ROOM as u64);
        }
    }
}
