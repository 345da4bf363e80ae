//! Labels of files: read, set, and given to what is shared by all jobs.
//!
//! What is made in a labelled directory has its label from the beginning. So a tree has to be walked only once in its
//! life, and one look at its top tells that it was.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use rustix::io::Errno;

use super::Context;
use crate::SandboxError;

pub(super) const ATTRIBUTE: &str = "security.selinux";

/// The kernel's bound on a label that it keeps on a disk is a page.
const LONGEST: usize = 4096;

/// The label of a file, if it has one that can be read.
pub(super) fn label_of(path: &Path) -> io::Result<Option<Context>> {
    let mut value = vec![0; LONGEST];
    match lgetxattr(path, ATTRIBUTE, value.as_mut_slice()) {
        Ok(length) => {
            let text = String::from_utf8_lossy(value.get(..length).unwrap_or_default());
            Ok(text.parse().ok())
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Gives a file or directory this label, and not what is in it. Links are not followed.
pub(super) fn set(path: &Path, label: &Context) -> Result<(), SandboxError> {
    lsetxattr(
        path,
        ATTRIBUTE,
        label.to_string().as_bytes(),
        XattrFlags::empty(),
    )
    .map_err(|errno| SandboxError::file("set the SELinux label of", path)(errno.into()))
}

/// Gives a tree this label as far as its top does not have the type yet.
///
/// Others may write to it meanwhile: what they make in a directory that has its label gets it too, and what they made
/// before the top had it is found by the second walk.
pub(super) fn share(top: &Path, label: &Context) -> Result<(), SandboxError> {
    if has_type(top, label)? {
        return Ok(());
    }
    if top.is_dir() {
        walk(top, label)?;
        set(top, label)?;
        return walk(top, label);
    }
    set(top, label)
}

fn walk(dir: &Path, label: &Context) -> Result<(), SandboxError> {
    for entry in fs::read_dir(dir).map_err(SandboxError::file("list", dir))? {
        let entry = entry.map_err(SandboxError::file("list", dir))?;
        let path = entry.path();
        let labelled = match has_type(&path, label) {
            Ok(true) => Ok(()),
            Ok(false) => set(&path, label),
            Err(error) => Err(error),
        };
        match labelled {
            // A file of somebody who works here, made and gone meanwhile.
            Err(error) if is_gone(&error) => continue,
            other => other?,
        }
        let kind = entry
            .file_type()
            .map_err(SandboxError::file("look at", &path))?;
        if kind.is_dir() {
            match walk(&path, label) {
                Err(error) if is_gone(&error) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn has_type(path: &Path, label: &Context) -> Result<bool, SandboxError> {
    let found = label_of(path).map_err(SandboxError::file("read the SELinux label of", path))?;
    Ok(found.is_some_and(|found| found.kind() == label.kind()))
}

fn is_gone(error: &SandboxError) -> bool {
    matches!(error, SandboxError::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_has_no_label_and_gets_none() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let error = label_of(&missing).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let label: Context = "u:r:t:s0".parse().unwrap();
        assert!(is_gone(&share(&missing, &label).unwrap_err()));
    }
}
