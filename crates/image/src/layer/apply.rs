//! Entries become files.
//!
//! What a layer says about names, types, content, modes (with the set-id bits), owners, times and links is done. What is
//! not done, and why:
//! - device nodes are skipped and counted: no user namespace may make them, and the container has its own `/dev`;
//! - extended attributes are dropped: file capabilities would be of no use in a container without capabilities to gain,
//!   and `user.overlay.*` of strangers would steer the overlay mount;
//! - the entry of the root itself is ignored: the root is 0755 and belongs to the container's root.
//!
//! Modes and times of directories are set last: until then everything can be written, and nothing changes the times.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bryo_model::IdSlot;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};
use rustix::fs::{XattrFlags, fsetxattr};
use tar::{Entry, EntryType};

use super::confined::{Tree, is, is_whiteout, look, remove_at};
use super::entry_name::{self, Meaning};
use super::meta::Counts;
use super::tar_stream::TarStream;
use crate::error::{ImageError, io, reading};
use crate::user::MAX_CONTAINER_ID;

pub(super) const OPAQUE_XATTR: &str = "user.overlay.opaque";

/// Whose the files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Container id i is the i-th id of this slot.
    Shifted(IdSlot),
    /// Whoever unpacks.
    Keep,
}

impl Owner {
    /// What no entry names belongs to the container's root.
    fn give_to_root(self, new: &OwnedFd) -> Result<(), Errno> {
        match self {
            Self::Keep => Ok(()),
            Self::Shifted(slot) => {
                let first = slot.first();
                fchown(new, Some(Uid::from_raw(first)), Some(Gid::from_raw(first)))
            }
        }
    }
}

/// How large a layer may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 5_000_000,
        }
    }
}

impl Limits {
    /// How long the tar stream may be: contents, and the headers of ordinary entries.
    pub(super) fn stream_bytes(self) -> u64 {
        self.bytes.saturating_add(self.entries.saturating_mul(2048))
    }
}

/// Makes the files of a layer in `root`, which is empty.
pub(super) fn apply(
    stream: &mut dyn Read,
    root: &Path,
    owner: Owner,
    limits: Limits,
    blob: &Path,
) -> Result<Counts, ImageError> {
    let mut work = Work {
        tree: Tree::open(root).map_err(io("open", root))?,
        owner,
        limits,
        counts: Counts::default(),
        dirs: BTreeMap::new(),
        buffer: vec![0; 128 * 1024],
        blob,
    };
    let damaged = |error| reading("one of its layers", blob)(error);
    TarStream::new(stream).for_each(damaged, |entry| work.entry(entry))?;
    work.finish().map_err(io("finish", root))?;
    Ok(work.counts)
}

struct Work<'a> {
    tree: Tree,
    owner: Owner,
    limits: Limits,
    counts: Counts,
    dirs: BTreeMap<PathBuf, (Mode, TimeSpec)>,
    buffer: Vec<u8>,
    blob: &'a Path,
}

/// What every kind of entry has.
struct Attributes {
    mode: Mode,
    owner: Option<(Uid, Gid)>,
    time: TimeSpec,
}

impl Work<'_> {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), ImageError> {
        self.counts.entries += 1;
        if self.counts.entries > self.limits.entries {
            return Err(ImageError::unusable(format!(
                "a layer of it has more than {} files",
                self.limits.entries
            )));
        }
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let path = entry_name::parse(&entry.path_bytes())?;
        let (parent, meaning) = entry_name::meaning(&path)?;
        let failed = |error| failed(&path, error);
        match meaning {
            Meaning::Root | Meaning::Ignored => Ok(()),
            Meaning::Opaque => self.opaque(parent).map_err(failed),
            Meaning::Without(name) => self.without(parent, name).map_err(failed),
            Meaning::File(name) => {
                let attributes = self.attributes(entry, &path)?;
                match kind {
                    EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                        self.regular(entry, &path, &attributes)
                    }
                    EntryType::Directory => {
                        self.directory(parent, name, &attributes).map_err(failed)?;
                        self.dirs
                            .insert(path.clone(), (attributes.mode, attributes.time));
                        Ok(())
                    }
                    EntryType::Symlink => {
                        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                        self.symlink(&target, parent, name, &attributes)
                            .map_err(failed)
                    }
                    EntryType::Link => {
                        let target = entry.link_name_bytes().unwrap_or_default();
                        let target = entry_name::parse(&target)?;
                        self.hard_link(&target, parent, name).map_err(failed)
                    }
                    EntryType::Fifo => self.fifo(parent, name, &attributes).map_err(failed),
                    EntryType::Char | EntryType::Block => {
                        self.counts.devices += 1;
                        Ok(())
                    }
                    other => Err(ImageError::unusable(format!(
                        "its layer has the entry {} of an unknown type {:?}",
                        path.display(),
                        char::from(other.as_byte())
                    ))),
                }
            }
        }
    }

    fn attributes<R: Read>(
        &self,
        entry: &mut Entry<'_, R>,
        path: &Path,
    ) -> Result<Attributes, ImageError> {
        let damaged = |error| reading("one of its layers", self.blob)(error);
        let time = time(entry).map_err(damaged)?;
        let header = entry.header();
        let mode = header.mode().map_err(damaged)?;
        let owner = match self.owner {
            Owner::Keep => None,
            Owner::Shifted(slot) => {
                let uid = shifted(header.uid().map_err(damaged)?, slot, path)?;
                let gid = shifted(header.gid().map_err(damaged)?, slot, path)?;
                Some((Uid::from_raw(uid), Gid::from_raw(gid)))
            }
        };
        Ok(Attributes {
            mode: Mode::from_bits_truncate(mode & 0o7777),
            owner,
            time,
        })
    }

    /// The directory that an entry is in. Layers name their directories before what is in them; one that is missing
    /// nevertheless is made as tar would.
    fn parent(&mut self, path: &Path) -> io::Result<&OwnedFd> {
        let owner = self.owner;
        self.tree.dir(path, |new| {
            owner.give_to_root(new)?;
            Ok(fchmod(new, Mode::from_bits_truncate(0o755))?)
        })
    }

    /// Does `make`, and once more after removing what is in its way.
    fn replacing(
        &mut self,
        parent: &Path,
        name: &OsStr,
        make: impl Fn(&OwnedFd) -> Result<(), Errno>,
    ) -> io::Result<()> {
        match make(self.parent(parent)?) {
            Err(Errno::EEXIST) => {
                remove_at(self.parent(parent)?, name)?;
                self.tree.forget();
                Ok(make(self.parent(parent)?)?)
            }
            other => Ok(other?),
        }
    }

    fn regular<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        attributes: &Attributes,
    ) -> Result<(), ImageError> {
        let failed = |error| failed(path, error);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        self.counts.bytes = self.counts.bytes.saturating_add(entry.size());
        if self.counts.bytes > self.limits.bytes {
            return Err(ImageError::unusable(format!(
                "a layer of it has more than {} bytes",
                self.limits.bytes
            )));
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let opened = std::cell::Cell::new(None);
        self.replacing(parent, name, |dir| {
            let file = openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
            opened.set(Some(file));
            Ok(())
        })
        .map_err(failed)?;
        let Some(file) = opened.take() else {
            return Ok(());
        };
        let mut file = File::from(file);
        let mut left = entry.size();
        while left > 0 {
            let n = entry
                .read(&mut self.buffer)
                .map_err(reading("one of its layers", self.blob))?;
            if n == 0 {
                return Err(ImageError::unusable("one of its layers ends too early"));
            }
            file.write_all(&self.buffer[..n]).map_err(failed)?;
            left = left.saturating_sub(n as u64);
        }
        let dress = || {
            if let Some((uid, gid)) = attributes.owner {
                fchown(&file, Some(uid), Some(gid))?;
            }
            // After the owner, for a change of owner takes the set-id bits away.
            fchmod(&file, attributes.mode)?;
            futimens(&file, &attributes.time, &attributes.time)
        };
        dress().map_err(|errno| failed(errno.into()))
    }

    fn directory(
        &mut self,
        parent: &Path,
        name: &OsStr,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let dir = self.parent(parent)?;
        let mut hides = false;
        if let Some(there) = look(dir, name)? {
            // A name that was said to be gone and comes again hides the whole directory of lower layers.
            hides = is_whiteout(&there);
            if !is(&there, SFlag::S_IFDIR) {
                remove_at(dir, name)?;
                self.tree.forget();
            }
        }
        let dir = self.parent(parent)?;
        match mkdirat(dir, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        if let Some((uid, gid)) = attributes.owner {
            fchownat(
                dir,
                name,
                Some(uid),
                Some(gid),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )?;
        }
        if hides {
            self.opaque(&parent.join(name))?;
        }
        Ok(())
    }

    fn symlink(
        &mut self,
        target: &[u8],
        parent: &Path,
        name: &OsStr,
        attributes: &Attributes,
    ) -> io::Result<()> {
        self.replacing(parent, name, |dir| symlinkat(target, dir, name))?;
        self.dress_link(parent, name, attributes)
    }

    /// Owner and time of what has no descriptor of its own.
    fn dress_link(
        &mut self,
        parent: &Path,
        name: &OsStr,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let dir = self.parent(parent)?;
        if let Some((uid, gid)) = attributes.owner {
            fchownat(
                dir,
                name,
                Some(uid),
                Some(gid),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )?;
        }
        let (time, nofollow) = (&attributes.time, UtimensatFlags::NoFollowSymlink);
        Ok(utimensat(dir, name, time, time, nofollow)?)
    }

    fn hard_link(&mut self, target: &Path, parent: &Path, name: &OsStr) -> io::Result<()> {
        let (Some(from), Some(old)) = (target.parent(), target.file_name()) else {
            return Err(Errno::EPERM.into());
        };
        let from = self.tree.existing(from)?;
        let source = look(&from, old)?.ok_or(Errno::ENOENT)?;
        if is_whiteout(&source) {
            return Err(Errno::ENOENT.into());
        }
        if let Some(there) = look(self.parent(parent)?, name)?
            && (there.st_dev, there.st_ino) == (source.st_dev, source.st_ino)
        {
            return Ok(());
        }
        // No flag to follow: a link to a symbolic link is one to the link itself.
        self.replacing(parent, name, |dir| {
            linkat(&from, old, dir, name, AtFlags::empty())
        })
    }

    fn fifo(&mut self, parent: &Path, name: &OsStr, attributes: &Attributes) -> io::Result<()> {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        self.replacing(parent, name, |dir| {
            mknodat(dir, name, SFlag::S_IFIFO, mode, 0)
        })?;
        self.dress_link(parent, name, attributes)?;
        // Nobody else is in this tree: the name is still the fifo that was made.
        let dir = self.parent(parent)?;
        Ok(fchmodat(
            dir,
            name,
            attributes.mode,
            FchmodatFlags::FollowSymlink,
        )?)
    }

    /// A whiteout is about lower layers only: what this layer itself has at the name stays.
    fn without(&mut self, parent: &Path, name: &OsStr) -> io::Result<()> {
        let dir = self.parent(parent)?;
        match look(dir, name)? {
            None => Ok(mknodat(dir, name, SFlag::S_IFCHR, Mode::empty(), 0)?),
            Some(there) if is(&there, SFlag::S_IFDIR) => self.opaque(&parent.join(name)),
            Some(_) => Ok(()),
        }
    }

    fn opaque(&mut self, dir: &Path) -> io::Result<()> {
        let dir = self.parent(dir)?;
        Ok(fsetxattr(dir, OPAQUE_XATTR, b"y", XattrFlags::empty())?)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.tree.forget();
        // Deepest first: what comes after needs no way through what came before.
        for (path, (mode, time)) in self.dirs.iter().rev() {
            let dir = match self.tree.own(path) {
                Ok(dir) => dir,
                // It was replaced by something else later in the layer.
                Err(error) if gone(&error) => continue,
                Err(error) => return Err(error),
            };
            fchmod(&dir, *mode)?;
            futimens(&dir, time, time)?;
        }
        let root = self.tree.root();
        self.owner.give_to_root(root)?;
        Ok(fchmod(root, Mode::from_bits_truncate(0o755))?)
    }
}

fn shifted(id: u64, slot: IdSlot, path: &Path) -> Result<u32, ImageError> {
    match u32::try_from(id) {
        Ok(id) if id < MAX_CONTAINER_ID => Ok(slot.first() + id),
        _ => Err(ImageError::unusable(format!(
            "its file {} belongs to id {id}, and a container has ids below {MAX_CONTAINER_ID}",
            path.display()
        ))),
    }
}

/// The time of the header, or the exact one of an extended header.
fn time<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<TimeSpec> {
    let seconds = i64::try_from(entry.header().mtime()?).unwrap_or(0);
    let mut time = TimeSpec::new(seconds, 0);
    for field in entry.pax_extensions()?.into_iter().flatten() {
        let field = field?;
        if field.key_bytes() == b"mtime"
            && let Some(exact) = field.value().ok().and_then(exact_time)
        {
            time = exact;
        }
    }
    Ok(time)
}

fn exact_time(text: &str) -> Option<TimeSpec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok().filter(|s| *s >= 0)?;
    let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = nanos.map(|b| b.is_ascii_digit().then(|| i64::from(b - b'0')));
    let nanos = nanos.collect::<Option<Vec<_>>>()?;
    let nanos = nanos.into_iter().fold(0, |sum, digit| sum * 10 + digit);
    Some(TimeSpec::new(seconds, nanos))
}

fn gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)
    )
}

/// Some refusals of the kernel say that the layer asks for what cannot be.
fn failed(path: &Path, error: io::Error) -> ImageError {
    let impossible = matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            Errno::ENOENT
                | Errno::ENOTDIR
                | Errno::ELOOP
                | Errno::EEXIST
                | Errno::EISDIR
                | Errno::ENAMETOOLONG
                | Errno::EINVAL
                | Errno::EPERM
                | Errno::EXDEV
                | Errno::EMLINK
        )
    );
    if impossible {
        ImageError::unusable(format!(
            "its layer has an entry {} that cannot be made: {error}",
            path.display()
        ))
    } else {
        io("unpack", path)(error)
    }
}
