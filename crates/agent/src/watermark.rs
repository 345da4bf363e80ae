//! Whether there is room for another job.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use bryo_model::ByteSize;

use crate::Watermarks;

/// What is short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Short(pub(crate) String);

/// Looks at the file systems of these directories. One that cannot be looked at does not keep anybody from working: what
/// is wrong with it is told by whoever uses it.
pub(crate) fn look(dirs: &[PathBuf], marks: &Watermarks) -> Result<(), Short> {
    for dir in dirs {
        let Some(free) = free(dir) else { continue };
        if free.bytes < marks.free_bytes.bytes() {
            return Err(Short(format!(
                "{} has {} free, below the watermark of {}",
                dir.display(),
                ByteSize::new(free.bytes),
                marks.free_bytes
            )));
        }
        if free.inodes.is_some_and(|inodes| inodes < marks.free_inodes) {
            return Err(Short(format!(
                "{} has {} inodes free, below the watermark of {}",
                dir.display(),
                free.inodes.unwrap_or(0),
                marks.free_inodes
            )));
        }
    }
    Ok(())
}

/// What an ordinary user may still use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Free {
    pub(crate) bytes: u64,
    /// `None` where the file system makes them as it needs them.
    pub(crate) inodes: Option<u64>,
}

/// Of the file system that the directory is on, or will be.
pub(crate) fn free(dir: &Path) -> Option<Free> {
    let standing = dir.ancestors().find(|dir| dir.is_dir())?;
    let stat = statvfs(standing).ok()?;
    Some(Free {
        bytes: stat.blocks_available().saturating_mul(stat.fragment_size()),
        inodes: (stat.files() > 0).then(|| stat.files_available()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("not/made/yet")];
        let marks = |bytes, inodes| Watermarks {
            free_bytes: ByteSize::new(bytes),
            free_inodes: inodes,
        };
        assert_eq!(look(&dirs, &marks(1, 0)), Ok(()));
        let Short(text) = look(&dirs, &marks(u64::MAX, 0)).unwrap_err();
        assert!(text.contains("not/made/yet") && text.contains("free"));
        if free(dir.path()).unwrap().inodes.is_some() {
            let Short(text) = look(&dirs, &marks(1, u64::MAX)).unwrap_err();
            assert!(text.contains("inodes"), "{text}");
        }
    }
}
