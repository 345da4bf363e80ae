//! Inside the helper: files that belong to the job's ids are given, taken back and removed.
//!
//! The trees are untrusted: everything is opened relative to its parent and no link is ever followed. Nothing else
//! writes to them while this runs: the job has ended, its cgroup is empty.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, open, openat, renameat2};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, unlinkat};
use rustix::fs::{Dir, FileType};

/// The agent, seen from inside the helper's namespace.
const AGENT: u32 = 0;

pub(super) fn directory_flags() -> OFlag {
    OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY
}

/// Gives one directory, not what is in it, to the job's root, an id of the helper's namespace; any user of the job may
/// write to it.
pub(crate) fn give(path: &Path, root: u32) -> Result<(), String> {
    let text = |e: Errno| format!("could not give {} to the job: {e}", path.display());
    let fd = open(path, directory_flags(), Mode::empty()).map_err(text)?;
    fchown(&fd, Some(Uid::from_raw(root)), Some(Gid::from_raw(root))).map_err(text)?;
    fchmod(&fd, Mode::from_bits_truncate(0o777)).map_err(text)
}

/// A file that is copied has no more bytes than this.
const COPIED: u64 = 4 << 20;

/// Copies a file, whose directory may belong to a job's ids, into a new one of the agent's.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| format!("could not copy {}: {e}", from.display());
    // What is no file may keep whoever opens it waiting.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let fd = open(from, flags, Mode::empty()).map_err(|e| text(e.into()))?;
    let file = File::from(fd);
    let meta = file.metadata().map_err(text)?;
    if !meta.is_file() || meta.len() > COPIED {
        return Err(format!(
            "could not copy {}: it is no file, or has more than {COPIED} bytes",
            from.display()
        ));
    }
    let mut copy = File::create_new(to).map_err(text)?;
    std::io::copy(&mut file.take(COPIED), &mut copy).map_err(text)?;
    Ok(())
}

/// So many entries are little.
const LITTLE: u64 = 300;

/// How much is done before the rest is left to somebody who has the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    entries: u64,
    /// Of one file that is removed.
    blocks: u64,
    /// A disk can be slow.
    until: Option<Instant>,
}

impl Effort {
    /// Whatever it takes.
    pub(super) const ALL: Self = Self {
        entries: u64::MAX,
        blocks: u64::MAX,
        until: None,
    };

    /// A few milliseconds at most.
    pub(super) fn little() -> Self {
        Self {
            entries: LITTLE,
            blocks: (64 << 20) / 512,
            until: Some(Instant::now() + Duration::from_millis(3)),
        }
    }

    /// So many more entries. Whether that is still within it.
    pub(super) fn allows(&mut self, entries: u64) -> bool {
        self.entries = self.entries.saturating_sub(entries);
        self.entries > 0 && self.until.is_none_or(|until| Instant::now() < until)
    }
}

/// How far something was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Whole,
    /// The effort was not enough. Doing it again goes on.
    Part,
}

/// Makes everything in the tree the agent's: directories `u+rwx`, files `u+rw`.
pub(super) fn reclaim(path: &Path, mut effort: Effort) -> Result<Progress, String> {
    let text = |e: Errno| format!("could not take back {}: {e}", path.display());
    let top = open(path, directory_flags(), Mode::empty()).map_err(text)?;
    own(&top).map_err(text)?;
    walk(top, &mut effort, &mut |parent, name, kind| {
        fchownat(
            parent,
            name,
            Some(Uid::from_raw(AGENT)),
            Some(Gid::from_raw(AGENT)),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
        match kind {
            FileType::Directory => {
                fchmodat(parent, name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
            }
            FileType::RegularFile => {
                let mode = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode;
                let mode = (Mode::from_bits_truncate(mode) & Mode::from_bits_truncate(0o777))
                    | Mode::S_IRUSR
                    | Mode::S_IWUSR;
                fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink)?;
            }
            _ => {}
        }
        Ok(())
    })
    .map_err(text)
}

fn own(dir: &OwnedFd) -> Result<(), Errno> {
    fchown(dir, Some(Uid::from_raw(AGENT)), Some(Gid::from_raw(AGENT)))?;
    fchmod(dir, Mode::S_IRWXU)
}

/// Removes the tree with its top. A tree that is not there is no error.
pub(super) fn remove(path: &Path, effort: Effort) -> Result<Progress, String> {
    remove_tries(path, effort, 3)
}

fn remove_tries(path: &Path, mut effort: Effort, tries: u32) -> Result<Progress, String> {
    let text = |e: Errno| format!("could not remove {}: {e}", path.display());
    match open(path, directory_flags(), Mode::empty()) {
        Ok(_) => {}
        Err(Errno::ENOENT) => return Ok(Progress::Whole),
        Err(Errno::ENOTDIR | Errno::ELOOP) => {
            let removed = std::fs::remove_file(path);
            return removed
                .map(|()| Progress::Whole)
                .map_err(|e| format!("{}: {e}", path.display()));
        }
        Err(e) => return Err(text(e)),
    }
    if empty(path, &mut effort).map_err(text)? == Progress::Part {
        return Ok(Progress::Part);
    }
    match std::fs::remove_dir(path) {
        // The worker of an agent that was killed may have written its last word meanwhile.
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty && tries > 0 => {
            remove_tries(path, effort, tries - 1)
        }
        other => other
            .map(|()| Progress::Whole)
            .map_err(|e| format!("could not remove {}: {e}", path.display())),
    }
}

type Visit<'a> = &'a mut dyn FnMut(BorrowedFd<'_>, &CStr, FileType) -> Result<(), Errno>;

/// So many directories are open at one time, whatever a job has nested. What publishes a result allows far less.
pub(super) const DEEPEST: usize = 1000;

/// Calls `visit` for every entry beneath `top`, each directory before what is in it, down to [`DEEPEST`] levels: whoever
/// reads the tree afterwards refuses one that is deeper.
fn walk(top: OwnedFd, effort: &mut Effort, visit: Visit<'_>) -> Result<Progress, Errno> {
    let mut stack = vec![Dir::new(top).map_err(errno)?];
    loop {
        let depth = stack.len();
        let Some(dir) = stack.last_mut() else {
            return Ok(Progress::Whole);
        };
        let Some(entry) = dir.read() else {
            stack.pop();
            continue;
        };
        let entry = entry.map_err(errno)?;
        let name = entry.file_name();
        if is_dot(name) {
            continue;
        }
        if !effort.allows(1) {
            return Ok(Progress::Part);
        }
        let parent = dir.fd().map_err(errno)?;
        let kind = kind_of(parent, name, entry.file_type())?;
        visit(parent, name, kind)?;
        if kind == FileType::Directory && depth < DEEPEST {
            let fd = openat(parent, name, directory_flags(), Mode::empty())?;
            stack.push(Dir::new(fd).map_err(errno)?);
        }
    }
}

/// Removes everything beneath `top`, deepest first, whatever its mode and its depth.
fn empty(top: &Path, effort: &mut Effort) -> Result<Progress, Errno> {
    // Each round removes at least DEEPEST levels of what is nested deeper.
    loop {
        match pass(open(top, directory_flags(), Mode::empty())?, effort)? {
            Pass::Again => {}
            Pass::Done(progress) => return Ok(progress),
        }
    }
}

/// What one round came to.
enum Pass {
    /// Something was brought up to the top.
    Again,
    Done(Progress),
}

/// Removes what it can reach with [`DEEPEST`] open directories; what lies deeper is brought up to the top.
fn pass(top: OwnedFd, effort: &mut Effort) -> Result<Pass, Errno> {
    let above = top.try_clone().map_err(|_| Errno::EMFILE)?;
    let mut brought_up = 0_u64;
    let mut stack: Vec<(CString, Dir)> = vec![(CString::default(), Dir::new(top).map_err(errno)?)];
    loop {
        let depth = stack.len();
        let Some((_, dir)) = stack.last_mut() else {
            return Ok(match brought_up {
                0 => Pass::Done(Progress::Whole),
                _ => Pass::Again,
            });
        };
        let Some(entry) = dir.read() else {
            if let (Some((name, _)), Some((_, parent))) = (stack.pop(), stack.last()) {
                let parent = parent.fd().map_err(errno)?;
                unlinkat(parent, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
            }
            continue;
        };
        let entry = entry.map_err(errno)?;
        let name = entry.file_name();
        if is_dot(name) {
            continue;
        }
        let parent = dir.fd().map_err(errno)?;
        if !effort.allows(1) {
            return Ok(Pass::Done(Progress::Part));
        }
        if kind_of(parent, name, entry.file_type())? != FileType::Directory {
            // The kernel takes its time to give the blocks of a large file back.
            if effort.blocks < u64::MAX {
                let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                if u64::try_from(stat.st_blocks).unwrap_or(0) > effort.blocks {
                    return Ok(Pass::Done(Progress::Part));
                }
            }
            unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
        } else if depth < DEEPEST {
            let fd = openat(parent, name, directory_flags(), Mode::empty())?;
            stack.push((name.to_owned(), Dir::new(fd).map_err(errno)?));
        } else {
            bring_up(parent, name, &above, &mut brought_up)?;
        }
    }
}

/// Moves a directory to the top, under a name that is free there.
fn bring_up(
    parent: BorrowedFd<'_>,
    name: &CStr,
    top: &OwnedFd,
    count: &mut u64,
) -> Result<(), Errno> {
    loop {
        *count += 1;
        let to = CString::new(format!(".deep-{count}")).map_err(|_| Errno::EINVAL)?;
        let flags = RenameFlags::RENAME_NOREPLACE;
        match renameat2(parent, name, top, to.as_c_str(), flags) {
            Err(Errno::EEXIST) => {}
            other => return other,
        }
    }
}

pub(super) fn errno(e: rustix::io::Errno) -> Errno {
    Errno::from_raw(e.raw_os_error())
}

pub(super) fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// The type as the directory tells it, or by a look where the file system does not tell.
fn kind_of(parent: BorrowedFd<'_>, name: &CStr, told: FileType) -> Result<FileType, Errno> {
    if told != FileType::Unknown {
        return Ok(told);
    }
    let mode = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode;
    Ok(FileType::from_raw_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_never_follows_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("keep"), "x").unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        std::fs::write(tree.join("a/b/f"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        remove(&tree, Effort::ALL).unwrap();
        assert!(!tree.exists() && outside.join("keep").exists());
        remove(&tree, Effort::ALL).unwrap();
    }

    #[test]
    fn no_depth_is_too_deep() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        // Paths are bounded, so it is made from where it has come to.
        let mut at = open(&tree, directory_flags(), Mode::empty()).unwrap();
        for _ in 0..(DEEPEST * 2 + 10) {
            nix::sys::stat::mkdirat(&at, "d", Mode::S_IRWXU).unwrap();
            at = openat(&at, "d", directory_flags(), Mode::empty()).unwrap();
        }
        drop(at);
        remove(&tree, Effort::ALL).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn a_file_is_copied_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "text").unwrap();
        copy(&at("file"), &at("copy")).unwrap();
        assert_eq!(std::fs::read(at("copy")).unwrap(), b"text");
        assert!(
            copy(&at("file"), &at("copy")).is_err(),
            "never over another"
        );
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        File::create(at("large"))
            .unwrap()
            .set_len(COPIED + 1)
            .unwrap();
        for other in ["link", "fifo", "large", "absent", "."] {
            assert!(copy(&at(other), &at("other")).is_err(), "{other}");
            assert!(!at("other").exists(), "{other}");
        }
    }

    #[test]
    fn what_is_too_much_is_done_in_part_and_then_whole() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        for n in 0..LITTLE {
            std::fs::write(tree.join(n.to_string()), "").unwrap();
        }
        let little = || Effort {
            until: None,
            ..Effort::little()
        };
        let late = Effort {
            until: Some(Instant::now()),
            ..Effort::ALL
        };
        // Files can be given to the namespace's root only by it.
        if Uid::effective().is_root() {
            assert_eq!(reclaim(&tree, little()), Ok(Progress::Part));
            assert_eq!(reclaim(&tree, late), Ok(Progress::Part));
            assert_eq!(reclaim(&tree, Effort::ALL), Ok(Progress::Whole));
        }
        assert_eq!(remove(&tree, late), Ok(Progress::Part));
        assert_eq!(remove(&tree, little()), Ok(Progress::Part));
        assert_eq!(remove(&tree, little()), Ok(Progress::Whole));
        assert!(!tree.exists());
        let large = dir.path().join("large");
        std::fs::create_dir(&large).unwrap();
        std::fs::write(large.join("f"), vec![1; (64 << 20) + 4096]).unwrap();
        assert_eq!(remove(&large, little()), Ok(Progress::Part));
        assert_eq!(remove(&large, Effort::ALL), Ok(Progress::Whole));
    }

    #[test]
    fn a_link_in_place_of_the_tree_is_removed_itself() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        remove(&link, Effort::ALL).unwrap();
        assert!(outside.exists() && !link.is_symlink());
    }
}
