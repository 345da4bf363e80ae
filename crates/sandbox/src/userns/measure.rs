//! Inside the helper: how much a job has on disk.
//!
//! The job writes while it is measured, so everything that vanishes or changes its kind on the way is passed over, and the
//! result is a moment's estimate. Links are never followed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use rustix::fs::Dir;
use serde::{Deserialize, Serialize};

use super::files::{DEEPEST, Effort, Progress, directory_flags, errno, is_dot};
use super::nameless::{devices, nameless};

/// Bytes in blocks of the file system, and entries of any kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OnDisk {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

impl OnDisk {
    /// More than any bound.
    pub(crate) const UNCOUNTABLE: Self = Self {
        bytes: u64::MAX,
        files: u64::MAX,
    };
}

/// The unit of `st_blocks`, whatever the file system's own is.
pub(super) const BLOCK: u64 = 512;

/// Adds up everything beneath these directories; stops when there is more than `most`.
///
/// Files without a name that these processes hold open count as bytes. `None` when that takes more than this effort.
pub(super) fn measure(
    dirs: &[PathBuf],
    processes: &[u32],
    most: OnDisk,
    effort: Effort,
) -> Result<Option<OnDisk>, String> {
    let mut sum = Sum {
        most,
        effort,
        so_far: OnDisk::default(),
        seen: HashSet::new(),
    };
    if !sum
        .effort
        .allows(PER_PROCESS.saturating_mul(processes.len() as u64))
    {
        return Ok(None);
    }
    for dir in dirs {
        let progress = sum
            .tree(dir)
            .map_err(|e| format!("could not measure {}: {e}", dir.display()))?;
        if progress == Progress::Part {
            return Ok(None);
        }
    }
    let Some(held) = nameless(processes, &devices(dirs), &mut sum.effort) else {
        return Ok(None);
    };
    sum.so_far.bytes = sum.so_far.bytes.saturating_add(held);
    Ok(Some(sum.so_far))
}

/// Looking through what a process holds open is as much work as so many entries.
const PER_PROCESS: u64 = 10;

struct Sum {
    so_far: OnDisk,
    most: OnDisk,
    effort: Effort,
    /// Files with several names that were counted.
    seen: HashSet<(u64, u64)>,
}

impl Sum {
    fn tree(&mut self, top: &Path) -> Result<Progress, Errno> {
        let top = open(top, directory_flags(), Mode::empty())?;
        let mut stack = vec![Dir::new(top).map_err(errno)?];
        while let Some(dir) = stack.last_mut() {
            if self.is_over() {
                return Ok(Progress::Whole);
            }
            let Some(entry) = dir.read() else {
                stack.pop();
                continue;
            };
            let entry = entry.map_err(errno)?;
            let name = entry.file_name();
            if is_dot(name) {
                continue;
            }
            if !self.effort.allows(1) {
                return Ok(Progress::Part);
            }
            let parent = dir.fd().map_err(errno)?;
            let Some(stat) = passing(fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW))? else {
                continue;
            };
            self.count(&stat);
            if kind(&stat) != SFlag::S_IFDIR {
                continue;
            }
            let within = openat(parent, name, directory_flags(), Mode::empty());
            if stack.len() == DEEPEST {
                // Nobody needs that, and what lies there cannot be counted: it is more than any bound.
                self.so_far = OnDisk::UNCOUNTABLE;
            } else if let Some(fd) = passing(within)? {
                stack.push(Dir::new(fd).map_err(errno)?);
            }
        }
        Ok(Progress::Whole)
    }

    fn count(&mut self, stat: &FileStat) {
        self.so_far.files = self.so_far.files.saturating_add(1);
        let again = stat.st_nlink > 1
            && kind(stat) != SFlag::S_IFDIR
            && !self.seen.insert((stat.st_dev, stat.st_ino));
        if !again {
            let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
            self.so_far.bytes = self.so_far.bytes.saturating_add(blocks * BLOCK);
        }
    }

    fn is_over(&self) -> bool {
        self.so_far.bytes > self.most.bytes || self.so_far.files > self.most.files
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// What is gone, or is another thing than a moment ago, is none.
fn passing<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: OnDisk = OnDisk {
        bytes: u64::MAX,
        files: u64::MAX,
    };

    fn all(dirs: &[PathBuf], most: OnDisk) -> Result<OnDisk, String> {
        measure(dirs, &[], most, Effort::ALL).map(|all| all.unwrap())
    }

    #[test]
    fn names_are_counted_each_and_blocks_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/one"), vec![1; 1 << 20]).unwrap();
        let one = all(&[dir.path().into()], ANY).unwrap();
        assert_eq!(one.files, 3);
        assert!(one.bytes >= 1 << 20, "{one:?}");
        std::fs::hard_link(at("a/b/one"), at("two")).unwrap();
        std::os::unix::fs::symlink("/usr", at("link")).unwrap();
        let whole = all(&[dir.path().into()], ANY).unwrap();
        assert_eq!(whole.files, 5);
        assert!(whole.bytes - one.bytes < 1 << 16, "{one:?} {whole:?}");
        // A hole takes no space.
        std::fs::File::create(at("hole"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        assert!(all(&[dir.path().into()], ANY).unwrap().bytes < 1 << 24);
    }

    #[test]
    fn it_stops_when_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        for name in 0..100 {
            std::fs::write(dir.path().join(name.to_string()), "").unwrap();
        }
        let most = OnDisk { files: 10, ..ANY };
        assert_eq!(all(&[dir.path().into()], most).unwrap().files, 11);
        assert!(all(&[dir.path().join("none")], ANY).is_err());
    }

    #[test]
    fn a_large_tree_and_many_processes_are_more_than_a_little_effort() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        let little = |processes: &[u32]| measure(&dirs, processes, ANY, Effort::little()).unwrap();
        // However slow this machine is: the time is not what is looked at.
        while little(&[std::process::id()]).is_none() {}
        assert_eq!(little(&[std::process::id(); 100]), None);
        for name in 0..1000 {
            std::fs::write(dir.path().join(name.to_string()), "").unwrap();
        }
        assert_eq!(little(&[]), None);
    }
}
