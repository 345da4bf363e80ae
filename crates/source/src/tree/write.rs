//! Writing a planned tree, with as many threads as there are processors.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bryo_model::{Amount, ByteSize};
use git2::{ObjectType, Odb};

use super::index::{self, Stat};
use super::plan::{Entry, shown};
use super::{Kind, Part, Plan, odb};
use crate::lfs::pointer::{self, Pointer, Reading};
use crate::lfs::store::{self, NotCopied};
use crate::objects::damaged;
use crate::{Progress, SourceError};

/// So many entries a thread takes at a time. Neighbours are in one directory, and two threads in one wait for each other.
const PIECE: usize = 64;

/// Writing is what kernel and disk do; more threads only wait.
const MOST_THREADS: usize = 8;

/// A file of more bytes is written while no other such one is in memory, of this checkout or another.
const LARGE: usize = 16 << 20;
static LARGE_ONE: Mutex<()> = Mutex::new(());

/// The kernel takes no longer target of a link.
const LONGEST_TARGET: usize = 4095;

/// An older checkout, ready and held by its lock.
///
/// Linking to its files is safe because nothing writes to a file of a checkout: jobs see them through read-only mounts,
/// and a checkout that is made again is removed first and gets files of its own.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// The top of this part's share of it.
    pub(crate) dir: PathBuf,
    /// Its pointers of Git LFS were replaced.
    pub(crate) lfs: bool,
}

/// What all threads work on.
struct Work<'a> {
    part: &'a Part,
    objects: &'a Path,
    top: &'a Path,
    base: Option<&'a Base>,
    entries: &'a [Entry],
    masked: bool,
    lfs: Option<&'a Path>,
    next: AtomicUsize,
    done: AtomicUsize,
    told: AtomicUsize,
    /// What is left of the bytes that the tree may have.
    room: &'a AtomicU64,
    most: u64,
    memory: u64,
    stop: AtomicBool,
    progress: &'a Progress,
}

/// Where and how a plan is written.
pub(crate) struct To<'a> {
    /// Where the objects are.
    pub(crate) objects: &'a Path,
    /// An empty directory of ours.
    pub(crate) top: &'a Path,
    /// The index that is made.
    pub(crate) index: &'a Path,
    pub(crate) base: Option<&'a Base>,
    /// Where the objects of Git LFS are, for a tree that has them instead of their pointers.
    pub(crate) lfs: Option<&'a Path>,
    /// The umask takes bits that others need.
    pub(crate) masked: bool,
    /// Bytes that the whole tree may have, and what is left of them.
    pub(crate) most: u64,
    pub(crate) room: &'a AtomicU64,
    /// Bytes that one file may have.
    pub(crate) memory: u64,
}

/// Writes all of it, and the index last.
///
/// # Errors
///
/// When objects are missing or damaged, the tree is larger than it may be, or the disk refuses.
pub(crate) fn write(
    part: &Part,
    plan: &Plan,
    to: &To<'_>,
    progress: &Progress,
) -> Result<(), SourceError> {
    let modules = plan.entries.iter().filter(|e| e.kind == Kind::Module);
    for path in plan.dirs.iter().chain(modules.map(|e| &e.path)) {
        let path = to.top.join(OsStr::from_bytes(path));
        DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .map_err(SourceError::io(&path))?;
        if to.masked {
            chmod(&path, 0o755)?;
        }
    }
    let work = Work {
        part,
        objects: to.objects,
        top: to.top,
        base: to.base,
        entries: &plan.entries,
        masked: to.masked,
        lfs: to.lfs,
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        told: AtomicUsize::new(0),
        room: to.room,
        most: to.most,
        memory: to.memory,
        stop: AtomicBool::new(false),
        progress,
    };
    let mut stats = work.files()?;
    work.links(&mut stats)?;
    index::write(to.index, &plan.entries, &stats)?;
    chmod(to.index, 0o644)
}

impl Work<'_> {
    fn files(&self) -> Result<Vec<Stat>, SourceError> {
        let pieces = self.entries.len().div_ceil(PIECE);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = processors.min(MOST_THREADS).min(pieces).max(1);
        let mut stats = vec![Stat::NONE; self.entries.len()];
        let parts = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| self.some())).collect();
            let mut parts = vec![self.some()];
            for other in others {
                parts.push(other.join().unwrap_or_else(|_| {
                    Err(SourceError::io(self.top)(std::io::Error::other(
                        "a thread that writes files broke",
                    )))
                }));
            }
            parts
        });
        for part in parts {
            for (first, some) in part? {
                stats[first..first + some.len()].copy_from_slice(&some);
            }
        }
        Ok(stats)
    }

    /// What one thread does: pieces, until there are no more or somebody has failed.
    fn some(&self) -> Result<Vec<(usize, Vec<Stat>)>, SourceError> {
        let odb = odb(self.objects).map_err(|e| damaged(&e, &self.part.location))?;
        let mut all = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let first = self.next.fetch_add(PIECE, Ordering::Relaxed);
            if first >= self.entries.len() {
                break;
            }
            let piece = &self.entries[first..(first + PIECE).min(self.entries.len())];
            let mut stats = Vec::with_capacity(piece.len());
            for entry in piece {
                let stat = match entry.kind {
                    Kind::File | Kind::Executable => self.file(&odb, entry),
                    Kind::Symlink | Kind::Module => Ok(Stat::NONE),
                };
                stats.push(stat.inspect_err(|_| self.stop.store(true, Ordering::Relaxed))?);
            }
            self.tell(piece.len());
            all.push((first, stats));
        }
        Ok(all)
    }

    fn tell(&self, more: usize) {
        let (done, total) = (
            self.done.fetch_add(more, Ordering::Relaxed) + more,
            self.entries.len(),
        );
        // A hundred steps are enough for any bar.
        let told = self.told.load(Ordering::Relaxed);
        if done == total || done >= told + total / 100 {
            self.told.store(done, Ordering::Relaxed);
            let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
            (self.progress)(Amount::Items {
                done: number(done),
                total: number(total),
            });
        }
    }

    fn file(&self, odb: &Odb<'_>, entry: &Entry) -> Result<Stat, SourceError> {
        let name = OsStr::from_bytes(&entry.path);
        let path = self.top.join(name);
        if let Some(base) = self.base.filter(|_| entry.in_base)
            && fs::hard_link(base.dir.join(name), &path).is_ok()
        {
            let meta = fs::symlink_metadata(&path).map_err(SourceError::io(&path))?;
            self.take(entry, meta.len())?;
            return Ok(Stat::of(&meta));
        }
        let failed = |e: git2::Error| damaged(&e, &self.part.location);
        // Before it is in memory: a few bytes of a pack can be any number of zeros.
        let (size, kind) = odb.read_header(entry.id).map_err(failed)?;
        if kind != ObjectType::Blob {
            let path = shown(b"", &entry.path);
            return Err(self
                .part
                .refused(&format!("{path}: it is a {kind} and not a file")));
        }
        let small = self.lfs.filter(|_| size < pointer::LARGEST);
        let (lfs, blob) = match small {
            Some(lfs) => {
                let blob = odb.read(entry.id).map_err(failed)?;
                let content = match pointer::read(blob.data()) {
                    Reading::Pointer(pointer) => Some((lfs, pointer)),
                    Reading::Malformed | Reading::Content => None,
                };
                (content, Some(blob))
            }
            None => (None, None),
        };
        let in_memory = u64::try_from(size).unwrap_or(u64::MAX);
        if in_memory > self.memory {
            let (path, most) = (shown(b"", &entry.path), ByteSize::new(self.memory));
            return Err(self.part.refused(&format!(
                "{path}: it is larger than {most}, and a file is in memory while it is written (source.memory)"
            )));
        }
        let bytes = match &lfs {
            Some((_, pointer)) => pointer.size,
            None => in_memory,
        };
        self.take(entry, bytes)?;
        let _alone = (size > LARGE).then(|| LARGE_ONE.lock());
        let blob = match blob {
            Some(blob) => blob,
            None => odb.read(entry.id).map_err(failed)?,
        };
        let mode = match entry.kind {
            Kind::Executable => 0o755,
            _ => 0o644,
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .map_err(SourceError::io(&path))?;
        match &lfs {
            Some((objects, pointer)) => self.content(objects, pointer, entry, &mut file)?,
            None => file
                .write_all(blob.data())
                .map_err(SourceError::io(&path))?,
        }
        if self.masked {
            file.set_permissions(fs::Permissions::from_mode(mode))
                .map_err(SourceError::io(&path))?;
        }
        file.metadata()
            .map(|meta| Stat::of(&meta))
            .map_err(SourceError::io(&path))
    }

    /// The content that a pointer stands for.
    fn content(
        &self,
        objects: &Path,
        pointer: &Pointer,
        entry: &Entry,
        file: &mut fs::File,
    ) -> Result<(), SourceError> {
        store::copy(objects, pointer, file).map_err(|not| {
            if matches!(not, NotCopied::Wrong(_)) {
                // The next fetch brings it again.
                let _ = fs::remove_file(store::place(objects, pointer));
            }
            not.told(&self.part.location, &self.part.shown(&entry.path), pointer)
        })
    }

    /// Takes a file's bytes from those that the tree may have.
    fn take(&self, entry: &Entry, bytes: u64) -> Result<(), SourceError> {
        let left = |room: u64| room.checked_sub(bytes);
        match self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left)
        {
            Ok(_) => Ok(()),
            Err(_) => {
                let most = ByteSize::new(self.most);
                Err(self.part.refused(&format!(
                    "with {} its files are larger than {most}",
                    shown(b"", &entry.path)
                )))
            }
        }
    }

    fn links(&self, stats: &mut [Stat]) -> Result<(), SourceError> {
        let odb = odb(self.objects).map_err(|e| damaged(&e, &self.part.location))?;
        let links = self.entries.iter().zip(stats);
        for (entry, stat) in links.filter(|(e, _)| e.kind == Kind::Symlink) {
            let refused = |what: &str| {
                self.part
                    .refused(&format!("{}: {what}", shown(b"", &entry.path)))
            };
            let failed = |e: git2::Error| damaged(&e, &self.part.location);
            let (size, kind) = odb.read_header(entry.id).map_err(failed)?;
            if kind != ObjectType::Blob || size == 0 || size > LONGEST_TARGET {
                return Err(refused("it is a link to nothing that a path can be"));
            }
            let target = odb.read(entry.id).map_err(failed)?;
            if target.data().contains(&0) {
                return Err(refused("it is a link to a path with a NUL"));
            }
            let path = self.top.join(OsStr::from_bytes(&entry.path));
            symlink(OsStr::from_bytes(target.data()), &path).map_err(SourceError::io(&path))?;
            let meta = fs::symlink_metadata(&path).map_err(SourceError::io(&path))?;
            *stat = Stat::of(&meta);
        }
        Ok(())
    }
}

fn chmod(path: &Path, bits: u32) -> Result<(), SourceError> {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).map_err(SourceError::io(path))
}
