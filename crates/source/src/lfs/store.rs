//! Where objects of Git LFS are, and copying one.
//!
//! The directory is git-lfs's own: `objects/ab/cd/<oid>`. What is in it is believed by nobody: who copies an object looks
//! at each of its bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};

use super::Pointer;

/// In memory at a time.
const PIECE: usize = 256 << 10;

/// Of a mirror, or of a repository's own git directory.
pub(crate) fn objects(git_dir: &Path) -> PathBuf {
    git_dir.join("lfs/objects")
}

pub(crate) fn place(objects: &Path, pointer: &Pointer) -> PathBuf {
    let oid = pointer.oid();
    objects.join(&oid[..2]).join(&oid[2..4]).join(oid)
}

/// Whether there is something of the right size.
pub(crate) fn has(objects: &Path, pointer: &Pointer) -> bool {
    std::fs::symlink_metadata(place(objects, pointer))
        .is_ok_and(|meta| meta.is_file() && meta.len() == pointer.size)
}

/// Why an object was not copied.
#[derive(Debug)]
pub(crate) enum NotCopied {
    Missing,
    /// It is another one, in words.
    Wrong(String),
    Read(io::Error),
    Write(io::Error),
}

/// Copies an object piece by piece, and believes neither its size nor its name.
pub(crate) fn copy(
    objects: &Path,
    pointer: &Pointer,
    to: &mut impl Write,
) -> Result<(), NotCopied> {
    let path = place(objects, pointer);
    // A link leads elsewhere, and a pipe without a writer waits for ever.
    let mut from = match OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(&path)
    {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(NotCopied::Missing),
        other => other.map_err(NotCopied::Read)?,
    };
    if !is_file(&from) {
        return Err(NotCopied::Wrong("it is not a file".to_owned()));
    }
    let mut check = Check::new(pointer);
    let mut piece = vec![0; PIECE];
    loop {
        let n = from.read(&mut piece).map_err(NotCopied::Read)?;
        if n == 0 {
            break;
        }
        check.feed(&piece[..n]).map_err(NotCopied::Wrong)?;
        to.write_all(&piece[..n]).map_err(NotCopied::Write)?;
    }
    check.end().map_err(NotCopied::Wrong)
}

fn is_file(file: &File) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file())
}

/// Compares bytes that pass by with what a pointer promises.
pub(crate) struct Check<'a> {
    pointer: &'a Pointer,
    hash: Sha256,
    bytes: u64,
}

impl<'a> Check<'a> {
    pub(crate) fn new(pointer: &'a Pointer) -> Self {
        Self {
            pointer,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// More than was promised is not taken.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(piece.len() as u64);
        let size = self.pointer.size;
        if self.bytes > size {
            return Err(format!("it is larger than the {size} bytes of its pointer"));
        }
        self.hash.update(piece);
        Ok(())
    }

    pub(crate) fn end(self) -> Result<(), String> {
        let size = self.pointer.size;
        if self.bytes != size {
            let bytes = self.bytes;
            return Err(format!(
                "it has {bytes} bytes and not the {size} of its pointer"
            ));
        }
        let mut found = String::with_capacity(64);
        for byte in self.hash.finalize() {
            found.push_str(&format!("{byte:02x}"));
        }
        if found == self.pointer.oid() {
            Ok(())
        } else {
            Err(format!("its SHA-256 is {found}"))
        }
    }
}
