//! The crun program as a file in memory that nobody can write to.
//!
//! A container could reach the program that made it through `/proc` and write to it (CVE-2019-5736). So crun, when it is
//! started from an ordinary file, copies itself into a sealed file in memory and starts anew from there, which costs as much
//! as starting it once more. It sees by the seals that this was done already: a program that is started from such a file
//! does not do it again. One that looks at something else copies itself as ever.
//!
//! Where SELinux decides by the label of the program file what a program may do, there is no copy: it would have another
//! label.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::FileStamp;

/// A sealed copy, for as long as it lives, in this process and in copies of this process.
struct Sealed(File);

/// The crun program, as it will be started.
#[derive(Clone)]
pub(crate) struct SealedCrun {
    path: PathBuf,
    of: Option<FileStamp>,
    copy: Option<Rc<Sealed>>,
}

impl SealedCrun {
    /// The program at this path; `last` is used again if it is a copy of the same.
    pub(crate) fn of(path: &Path, last: Option<Self>) -> Self {
        let of = FileStamp::of(path.to_owned()).ok();
        match last {
            Some(last) if of.is_some() && last.of == of => last,
            _ => Self {
                // Where it cannot be copied it is started as it is.
                copy: copy(path).ok().map(Rc::new),
                path: path.to_owned(),
                of,
            },
        }
    }

    /// Where it is installed: what it takes itself for.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it can be started from, the best first.
    pub(super) fn programs(&self) -> impl Iterator<Item = PathBuf> {
        let copy = self.copy.as_ref().map(|copy| copy.path());
        copy.into_iter().chain([self.path.clone()])
    }
}

/// There on a host whose kernel has a policy of SELinux loaded.
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// Copies the program at this path.
///
/// # Errors
///
/// When it cannot be read, or this host wants programs to be started from their own files.
fn copy(program: &Path) -> io::Result<Sealed> {
    if Path::new(SELINUX).exists() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut from = File::open(program)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut to = File::from(memfd_create("crun", flags)?);
    io::copy(&mut from, &mut to)?;
    // All of them, in one call: what lacks one is no sealed copy to crun.
    fcntl_add_seals(
        &to,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(Sealed(to))
}

impl Sealed {
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};

    #[test]
    fn a_copy_runs_and_cannot_be_written() {
        let mut sealed = copy(Path::new("/bin/sh")).unwrap();
        let done = std::process::Command::new(sealed.path())
            .args(["-c", "exit 3"])
            .status()
            .unwrap();
        assert_eq!(done.code(), Some(3));
        sealed.0.seek(SeekFrom::Start(0)).unwrap();
        assert!(sealed.0.write(b"x").is_err() && sealed.0.set_len(0).is_err());
    }

    #[test]
    fn it_is_copied_once_and_again_when_it_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crun");
        let of = |last| SealedCrun::of(&path, last);
        std::fs::copy("/bin/sh", &path).unwrap();
        let first = of(None);
        let same = of(Some(first.clone()));
        let is_same = |a: &SealedCrun, b: &SealedCrun| {
            Rc::ptr_eq(a.copy.as_ref().unwrap(), b.copy.as_ref().unwrap())
        };
        assert!(is_same(&first, &same));
        std::fs::remove_file(&path).unwrap();
        std::fs::copy("/bin/cat", &path).unwrap();
        assert!(!is_same(&first, &of(Some(same))));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(of(Some(first)).programs().count(), 1);
    }
}
