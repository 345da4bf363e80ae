//! How much output a job may leave.

use std::fmt;
use std::path::PathBuf;

use bryo_model::ByteSize;

/// The longest relative path that the kernel resolves in one call, without the final NUL.
pub(crate) const KERNEL_PATH: usize = 4095;

/// Bounds on an output tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputBounds {
    /// Regular files. Entries of other kinds (directories, links) are counted apart against the same number, so that
    /// a job cannot keep Bryo busy with what is not published anyway.
    pub max_files: u64,
    /// Bytes of all files together, by their apparent size: holes count, and a file with two names counts twice,
    /// because it is published as two files.
    pub max_bytes: u64,
    /// Names in a path, the file's own included.
    pub max_depth: usize,
    /// Bytes in a path below the output root; never more than 4095, whatever is asked for.
    pub max_path: usize,
}

impl Default for OutputBounds {
    /// Generous for a site: a million files, 16 GiB, 64 levels, paths of 1024 bytes.
    fn default() -> Self {
        Self {
            max_files: 1_000_000,
            max_bytes: 16 << 30,
            max_depth: 64,
            max_path: 1024,
        }
    }
}

/// Which bound an output tree went over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// More regular files than this.
    Files(u64),
    /// More directories, links and other entries than this.
    OtherEntries(u64),
    /// More bytes than this.
    Bytes(u64),
    /// This path has more names than that.
    Depth(PathBuf, usize),
    /// This path has more bytes than that.
    Path(PathBuf, usize),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(most) => write!(f, "more than {most} files"),
            Self::OtherEntries(most) => write!(f, "more than {most} directories and links"),
            Self::Bytes(most) => write!(f, "more than {} in its files", ByteSize::new(*most)),
            Self::Depth(path, most) => write!(f, "a path of more than {most} names: {path:?}"),
            Self::Path(path, most) => write!(f, "a path of more than {most} bytes: {path:?}"),
        }
    }
}
