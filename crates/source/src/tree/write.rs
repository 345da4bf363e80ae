//! Writing a tree that was surveyed, with as many threads as there are processors.
//!
//! One thread walks and hands out pieces of neighbouring entries; others make the files of a piece and write its part of the
//! index. The walk is never far ahead of the files: what is in memory is a few pieces for each thread, however large the
//! tree is.
//!
//! Why are the directories made first, by a walk of their own? Where ext4 puts a directory depends on what was made before
//! it, and files go beside their directory: made in turns, both take three times as long.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use bryo_model::{Amount, ByteSize};
use git2::{ObjectType, Odb, Oid};

use super::index::{Place, Stat, Writer};
use super::walk::{Entry, Kind, Step, Walk, shown};
use super::{Bounds, Part, Survey, odb, repository};
use crate::lfs::pointer::{self, Pointer, Reading};
use crate::lfs::store::{self, NotCopied};
use crate::objects::damaged;
use crate::{Progress, SourceError};

/// So many entries a thread takes at a time. Neighbours are in one directory, and two threads in one wait for each other.
const PIECE: usize = 64;

/// So many pieces of the walk wait for each thread.
const AHEAD: usize = 2;

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
    /// The commit of this part's share of it.
    pub(crate) commit: Oid,
    /// The top of that share.
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
    index: Writer,
    total: u64,
    masked: bool,
    lfs: Option<&'a Path>,
    done: AtomicU64,
    told: AtomicU64,
    /// What is left of the bytes that the tree may have.
    room: &'a AtomicU64,
    bounds: &'a Bounds,
    stop: AtomicBool,
    progress: &'a Progress,
}

/// Neighbours, and where the index has the first of them.
struct Piece {
    place: Place,
    entries: Vec<Entry>,
}

/// Where and how a tree is written.
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
    pub(crate) bounds: &'a Bounds,
    /// What is left of the bytes that the whole tree may have.
    pub(crate) room: &'a AtomicU64,
}

/// Writes all of it.
///
/// # Errors
///
/// When objects are missing or damaged, the tree is larger than it may be, or the disk refuses.
pub(crate) fn write(
    part: &Part,
    survey: &Survey,
    to: &To<'_>,
    progress: &Progress,
) -> Result<(), SourceError> {
    let total = u32::try_from(survey.entries)
        .map_err(|_| part.refused("it has more files than an index of git can have"))?;
    let work = Work {
        part,
        objects: to.objects,
        top: to.top,
        base: to.base,
        index: Writer::new(to.index, total)?,
        total: survey.entries,
        masked: to.masked,
        lfs: to.lfs,
        done: AtomicU64::new(0),
        told: AtomicU64::new(0),
        room: to.room,
        bounds: to.bounds,
        stop: AtomicBool::new(false),
        progress,
    };
    if survey.dirs > 0 || !survey.modules.is_empty() {
        work.dirs()?;
    }
    let end = work.files()?;
    if survey.links > 0 {
        work.links()?;
    }
    work.index.finish(end)?;
    chmod(to.index, 0o644)
}

impl Work<'_> {
    fn dirs(&self) -> Result<(), SourceError> {
        let repository = repository(self.objects).map_err(|e| damaged(&e, &self.part.location))?;
        for step in Walk::again(&repository, self.part, None, self.bounds)? {
            let path = match step? {
                Step::Dir(path) => path,
                Step::Entry(entry) if entry.kind == Kind::Module => entry.path,
                Step::Entry(_) => continue,
            };
            let path = self.top.join(OsStr::from_bytes(&path));
            DirBuilder::new()
                .mode(0o755)
                .create(&path)
                .map_err(SourceError::io(&path))?;
            if self.masked {
                chmod(&path, 0o755)?;
            }
        }
        Ok(())
    }

    /// The files. Answers where the index ends.
    fn files(&self) -> Result<Place, SourceError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let pieces = usize::try_from(self.total).unwrap_or(usize::MAX);
        let threads = processors
            .min(MOST_THREADS)
            .min(pieces.div_ceil(PIECE))
            .max(1);
        let (send, receive) = sync_channel(AHEAD * threads);
        // Theirs alone: when the last of them is gone, there is nobody to hand anything to.
        let pieces = Arc::new(Mutex::new(receive));
        std::thread::scope(|scope| {
            let makers: Vec<_> = (0..threads)
                .map(|_| {
                    let pieces = Arc::clone(&pieces);
                    scope.spawn(move || self.some(&pieces))
                })
                .collect();
            drop(pieces);
            let end = self.walk(&send).inspect_err(|_| self.fail());
            drop(send);
            let broke = |_| {
                let error = std::io::Error::other("a thread that writes files broke");
                Err(SourceError::io(self.top)(error))
            };
            // All of them first: the scope would break with one that nobody has looked at.
            let ended: Vec<_> = makers
                .into_iter()
                .map(|maker| maker.join().unwrap_or_else(broke))
                .collect();
            ended.into_iter().collect::<Result<(), _>>()?;
            end
        })
    }

    /// Hands out all entries, or those until somebody has failed.
    fn walk(&self, pieces: &SyncSender<Piece>) -> Result<Place, SourceError> {
        let repository = repository(self.objects).map_err(|e| damaged(&e, &self.part.location))?;
        let base = self.base.map(|base| base.commit);
        let mut end = Place::FIRST;
        let mut piece = Piece::at(end);
        let mut found = 0;
        for step in Walk::again(&repository, self.part, base, self.bounds)? {
            let Step::Entry(entry) = step? else { continue };
            end = end.after(entry.path.len());
            found += 1;
            piece.entries.push(entry);
            if piece.entries.len() == PIECE {
                let whole = std::mem::replace(&mut piece, Piece::at(end));
                if self.stop.load(Ordering::Relaxed) || pieces.send(whole).is_err() {
                    return Ok(end);
                }
            }
        }
        if found != self.total {
            return Err(SourceError::Corrupt {
                location: self.part.location.clone(),
                detail: format!("its tree had {} files, and then {found}", self.total),
            });
        }
        if !piece.entries.is_empty() {
            // Nobody is there to take it only when all have failed, and each tells why.
            let _ = pieces.send(piece);
        }
        Ok(end)
    }

    /// What one thread does: pieces, until there are no more or somebody has failed.
    fn some(&self, pieces: &Mutex<Receiver<Piece>>) -> Result<(), SourceError> {
        let odb = odb(self.objects).map_err(|e| damaged(&e, &self.part.location));
        let odb = odb.inspect_err(|_| self.fail())?;
        let next = || {
            let pieces = pieces.lock().unwrap_or_else(PoisonError::into_inner);
            pieces.recv().ok()
        };
        while let Some(piece) = next() {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            self.piece(&odb, &piece)?;
        }
        Ok(())
    }

    fn fail(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn piece(&self, odb: &Odb<'_>, piece: &Piece) -> Result<(), SourceError> {
        let made = || {
            let mut stats = Vec::with_capacity(piece.entries.len());
            for entry in &piece.entries {
                stats.push(match entry.kind {
                    Kind::File | Kind::Executable => self.file(odb, entry)?,
                    Kind::Symlink | Kind::Module => Stat::NONE,
                });
            }
            self.index.put(piece.place, piece.entries.iter().zip(stats))
        };
        made().inspect_err(|_| self.fail())?;
        self.tell(piece.entries.len() as u64);
        Ok(())
    }

    fn tell(&self, more: u64) {
        let done = self.done.fetch_add(more, Ordering::Relaxed) + more;
        let total = self.total;
        // A hundred steps are enough for any bar.
        let told = self.told.load(Ordering::Relaxed);
        if done == total || done >= told + total / 100 {
            self.told.store(done, Ordering::Relaxed);
            (self.progress)(Amount::Items { done, total });
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
        if in_memory > self.bounds.memory {
            let (path, most) = (shown(b"", &entry.path), ByteSize::new(self.bounds.memory));
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
                let most = ByteSize::new(self.bounds.bytes);
                Err(self.part.refused(&format!(
                    "with {} its files are larger than {most}",
                    shown(b"", &entry.path)
                )))
            }
        }
    }

    /// The links, each with its entry of the index.
    fn links(&self) -> Result<(), SourceError> {
        let failed = |e: git2::Error| damaged(&e, &self.part.location);
        let repository = repository(self.objects).map_err(failed)?;
        let odb = odb(self.objects).map_err(failed)?;
        let mut next = Place::FIRST;
        for step in Walk::again(&repository, self.part, None, self.bounds)? {
            let Step::Entry(entry) = step? else { continue };
            let place = next;
            next = place.after(entry.path.len());
            if entry.kind == Kind::Symlink {
                let stat = self.link(&odb, &entry)?;
                self.index.put(place, [(&entry, stat)].into_iter())?;
            }
        }
        Ok(())
    }

    fn link(&self, odb: &Odb<'_>, entry: &Entry) -> Result<Stat, SourceError> {
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
        Ok(Stat::of(&meta))
    }
}

impl Piece {
    fn at(place: Place) -> Self {
        Self {
            place,
            entries: Vec::with_capacity(PIECE),
        }
    }
}

fn chmod(path: &Path, bits: u32) -> Result<(), SourceError> {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).map_err(SourceError::io(path))
}
