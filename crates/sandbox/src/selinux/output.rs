//! The pipes of a job's output.
//!
//! A pipe has the label of the process that made it, with that one's categories, and no container has those. Pipes are on no
//! disk; the kernel keeps the label that they are given as long as they are there.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use bryo_process::{Finished, Program};
use nix::sched::{CloneFlags, setns};
use rustix::fs::{FileType, XattrFlags, fsetxattr, fstat, setxattr, stat};

use super::Context;
use super::files::ATTRIBUTE;
use crate::SandboxError;
use crate::userns::Role;

const PATIENCE: Duration = Duration::from_secs(20);

/// Of this role's own words.
const WORDS: usize = 1024;

/// Standard output and standard error.
const STREAMS: [i32; 2] = [1, 2];

/// Gives the pipes of this process the label, for a job that gets them next.
pub(crate) fn label_own_output(label: &str) -> Result<(), String> {
    let (out, err) = (std::io::stdout(), std::io::stderr());
    for stream in [out.as_fd(), err.as_fd()] {
        let kind = fstat(stream).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind == Ok(FileType::Fifo) {
            fsetxattr(stream, ATTRIBUTE, label.as_bytes(), XattrFlags::empty())
                .map_err(|e| failed(&e))?;
        }
    }
    Ok(())
}

/// Gives the pipes of a prepared container the label. They belong to an id of it, so that is done in the user namespace
/// that has all of its ids.
pub(crate) async fn label_output(
    pid: i32,
    namespace: &Path,
    label: &Context,
) -> Result<(), SandboxError> {
    let program = Program::new("/proc/self/exe")
        .arg(Role::LabelOutput.name())
        .arg(namespace)
        .arg(pid.to_string())
        .arg(label.to_string());
    program
        .finish(b"", WORDS, PATIENCE)
        .await
        .and_then(Finished::success)
        .map(drop)
        .map_err(SandboxError::program("label the job's output"))
}

/// `USER-NAMESPACE PID LABEL`.
pub(crate) fn label_output_main(args: &[OsString]) -> Result<(), String> {
    let [namespace, pid, label] = args else {
        return Err("usage: USER-NAMESPACE PID LABEL".to_owned());
    };
    let namespace = File::open(namespace)
        .map_err(|e| format!("could not open {}: {e}", Path::new(namespace).display()))?;
    setns(&namespace, CloneFlags::CLONE_NEWUSER)
        .map_err(|e| format!("could not join the container's user namespace: {e}"))?;
    let dir = Path::new("/proc").join(pid).join("fd");
    for stream in STREAMS {
        let path = dir.join(stream.to_string());
        let kind = stat(&path).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind.map_err(|e| failed(&e))? == FileType::Fifo {
            let label = label.as_encoded_bytes();
            setxattr(&path, ATTRIBUTE, label, XattrFlags::empty()).map_err(|e| failed(&e))?;
        }
    }
    Ok(())
}

fn failed(why: &rustix::io::Errno) -> String {
    format!("could not give the job's output its SELinux label: {why}")
}
