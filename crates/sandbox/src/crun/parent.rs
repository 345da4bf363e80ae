//! The worker as parent of the job: learns from the kernel how the job's first process ended.
//!
//! `crun run --detach` leaves the container's first process without a parent, and the kernel gives it to the nearest
//! subreaper (prctl(2), `PR_SET_CHILD_SUBREAPER`): the worker. `crun run` in the foreground would turn a signal into an
//! exit code, which a job can fake.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus, wait};
use serde::{Deserialize, Serialize};

use super::sealed::{self, Sealed};
use super::worker::Instructions;

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

/// The crun program, as it will be started.
pub(super) struct Crun<'a> {
    path: &'a Path,
    copy: io::Result<Sealed>,
}

impl<'a> Crun<'a> {
    /// Copies it, which can be done before it is needed.
    pub(super) fn at(path: &'a OsStr) -> Self {
        let path = Path::new(path);
        Self {
            path,
            copy: sealed::copy(path),
        }
    }

    /// Starts the copy, which spares crun to make one itself, or it as it is where that is refused.
    fn start(self, args: &[OsString]) -> io::Result<Child> {
        let from = |program: &Path| {
            let mut command = Command::new(program);
            command.arg0(self.path).args(args).stdin(Stdio::null());
            command.spawn()
        };
        self.copy
            .and_then(|copy| from(&copy.path()))
            .or_else(|_| from(self.path))
    }
}

/// Starts crun and waits for the end of the job. What crun complains about is in its own log.
pub(super) fn run(todo: &Instructions, crun: Crun<'_>) -> Result<(), String> {
    if is_orphan(todo) {
        return Err("the agent is gone".to_owned());
    }
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|e| format!("could not become the job's parent: {e}"))?;
    let path = crun.path;
    let crun = crun
        .start(&todo.crun)
        .map_err(|e| format!("could not start {}: {e}", path.display()))?;
    let crun = i32::try_from(crun.id()).map_err(|e| e.to_string())?;
    let Some(end) = reap(crun, todo)? else {
        return Ok(());
    };
    let text = serde_json::to_vec(&end).map_err(|e| e.to_string())?;
    write_into(&todo.end_file, &text)
        .map_err(|e| format!("could not write {}: {e}", todo.end_file.display()))
}

/// Whether the agent that started this has died.
fn is_orphan(todo: &Instructions) -> bool {
    u32::try_from(nix::unistd::getppid().as_raw()).ok() != Some(todo.agent)
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

/// Waits for crun, and then for the process that it named. `None` when crun could not make the container.
fn reap(crun: i32, todo: &Instructions) -> Result<Option<End>, String> {
    let pid_file = &todo.pid_file;
    let mut ended = HashMap::new();
    loop {
        if let Some(status) = ended.get(&crun) {
            if *status != Some(End::Code(0)) {
                return Ok(None);
            }
            if is_orphan(todo) {
                // Who dies before the job is in its cgroup has it killed there too early. If the agent lives at this moment,
                // its helper's kill comes later.
                let _ = fs::write(todo.cgroup.join("cgroup.kill"), "1");
            }
            let job = fs::read_to_string(pid_file)
                .map_err(|e| format!("could not read {}: {e}", pid_file.display()))?;
            let job: i32 = job
                .trim()
                .parse()
                .map_err(|_| format!("crun wrote {job:?} as the job's process id"))?;
            if let Some(Some(end)) = ended.get(&job) {
                return Ok(Some(*end));
            }
        }
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                ended.insert(pid.as_raw_nonzero().get(), End::of(status));
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("the job's first process was lost: {error}")),
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
