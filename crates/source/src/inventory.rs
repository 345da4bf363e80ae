//! What is in the cache, and removing what nobody uses.
//!
//! Everything in use is held by a shared lock: a checkout by its own, a mirror by its `.use`. Whoever removes takes that
//! lock alone, and only tries: what is in use stays. The marker of a checkout goes first and a mirror is renamed first,
//! so that a kill half-way leaves what the next attempt makes anew and the next collection removes. A mirror that was put
//! aside because it is damaged is worth nothing, but it stays too while somebody uses the repository: nobody can tell whether
//! they have that one or its successor.
//!
//! *Why is the size of a checkout written beside it?* Walking through 20 000 files takes longer than all other questions,
//! and a ready checkout changes only in what others share with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bryo_model::{Cached, CachedKind};

use crate::checkout::{Place, is_gone};
use crate::lock::{Access, Lock};
use crate::mirror::{put_aside, remove_all, replace};
use crate::{Paths, RepositoryKey, SourceCache, SourceError};

/// The unit of `st_blocks`.
const BLOCK: u64 = 512;

/// Beside a checkout's tree: bytes and files of it.
const SIZE: &str = "size";

impl SourceCache {
    /// All mirrors and checkouts. What vanishes meanwhile is left out.
    ///
    /// # Errors
    ///
    /// When the cache cannot be read.
    pub fn list(&self) -> Result<Vec<Cached>, SourceError> {
        let mut all = Vec::new();
        let mut asides = self.asides()?;
        for key in self.keys()? {
            let forms = self.forms(&key);
            let size = forms
                .iter()
                .map(|dir| measure(dir, Shared::Whole))
                .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            if size.1 > 0 {
                all.push(self.mirror_entry(&key, size)?);
            }
            for aside in asides.remove(&key).unwrap_or_default() {
                all.extend(self.aside_entry(&key, &aside)?);
            }
            let places = self.places(&key)?;
            // Files are shared between checkouts: each that comes or goes changes what is whose.
            let shared = self.paths().checkouts().join(key.to_string());
            let changes = places
                .iter()
                .map(|(_, place)| changed(&[&place.dir().join("ready")]));
            let since = changes.chain([changed(&[&shared])]).max();
            for (name, place) in places {
                all.extend(self.checkout_entry(&key, &name, &place, since));
            }
        }
        Ok(all)
    }

    /// Removes one thing of [`SourceCache::list`], and with a mirror its checkouts. `false` when it is in use.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn remove(&self, entry: &Cached) -> Result<bool, SourceError> {
        let (key, commit) = match entry.name.split_once('/') {
            Some((key, commit)) => (key, Some(commit)),
            None => (entry.name.as_str(), None),
        };
        if let (CachedKind::Mirror, Some(key)) = (entry.kind, Paths::aside_of(&entry.name)) {
            return self.remove_asides(&key);
        }
        let key = RepositoryKey::named(key);
        match (entry.kind, commit.map(Paths::checkout_of)) {
            (CachedKind::Mirror, None) => self.remove_mirror(&key),
            (CachedKind::Checkout, Some(Some((commit, lfs)))) => {
                remove_checkout(&Place::new(self.paths(), &key, commit, lfs))
            }
            _ => Ok(true),
        }
    }

    /// Removes the locks of repositories that are not here: those of a fetch that failed, for instance.
    ///
    /// # Errors
    ///
    /// When the cache cannot be read.
    pub fn sweep(&self) -> Result<(), SourceError> {
        let asides = self.asides()?;
        for key in self.keys()? {
            let gone = self.forms(&key).iter().all(|dir| !dir.exists());
            if gone && !asides.contains_key(&key) && self.places(&key)?.is_empty() {
                self.remove_mirror(&key)?;
            }
        }
        Ok(())
    }

    fn remove_mirror(&self, key: &RepositoryKey) -> Result<bool, SourceError> {
        let (used, lock) = (self.paths().mirror_use(key), self.paths().mirror_lock(key));
        // Every user of the mirror and of its checkouts holds the first one, from before it looks until it ends.
        let Some(alone) = Lock::try_acquire(&used, Access::Exclusive)? else {
            return Ok(false);
        };
        let Some(steady) = Lock::try_acquire(&lock, Access::Exclusive)? else {
            return Ok(false);
        };
        for (_, place) in self.places(key)? {
            if !remove_checkout(&place)? {
                return Ok(false);
            }
        }
        let checkouts = self.paths().checkouts().join(key.to_string());
        remove_all(&checkouts)?;
        let [mirror, new] = self.forms(key);
        put_aside(self.paths(), &mirror, key)?;
        for aside in self.asides_of(key)? {
            remove_all(&aside)?;
        }
        remove_all(&new)?;
        // Whoever waits for a lock finds that its file is another one, and takes that.
        remove_file(&lock)?;
        remove_file(&used)?;
        drop((steady, alone));
        Ok(true)
    }

    /// Removes all mirrors of a repository that were put aside. `false` when somebody may still read one.
    fn remove_asides(&self, key: &RepositoryKey) -> Result<bool, SourceError> {
        let (used, lock) = (self.paths().mirror_use(key), self.paths().mirror_lock(key));
        let Some(_alone) = Lock::try_acquire(&used, Access::Exclusive)? else {
            return Ok(false);
        };
        let Some(_steady) = Lock::try_acquire(&lock, Access::Exclusive)? else {
            return Ok(false);
        };
        for aside in self.asides_of(key)? {
            remove_all(&aside)?;
        }
        Ok(true)
    }

    /// The mirrors that were put aside.
    fn asides(&self) -> Result<BTreeMap<RepositoryKey, Vec<PathBuf>>, SourceError> {
        let mirrors = self.paths().mirrors();
        let mut asides: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for name in names(&mirrors)? {
            if let Some(key) = Paths::aside_of(&name) {
                asides.entry(key).or_default().push(mirrors.join(name));
            }
        }
        Ok(asides)
    }

    fn asides_of(&self, key: &RepositoryKey) -> Result<Vec<PathBuf>, SourceError> {
        Ok(self.asides()?.remove(key).unwrap_or_default())
    }

    /// All repositories that the cache has anything of.
    pub(crate) fn keys(&self) -> Result<BTreeSet<RepositoryKey>, SourceError> {
        let mirrors = names(&self.paths().mirrors())?;
        let checkouts = names(&self.paths().checkouts())?;
        let key = |name: &String| {
            let ends = [".lock", ".use", ".new"];
            let word = ends.iter().find_map(|end| name.strip_suffix(end));
            Paths::aside_of(name).unwrap_or_else(|| RepositoryKey::named(word.unwrap_or(name)))
        };
        Ok(mirrors.iter().chain(&checkouts).map(key).collect())
    }

    /// By the names of their directories.
    fn places(&self, key: &RepositoryKey) -> Result<Vec<(String, Place)>, SourceError> {
        let dir = self.paths().checkouts().join(key.to_string());
        let known = names(&dir)?.into_iter().filter_map(|name| {
            let (commit, lfs) = Paths::checkout_of(&name)?;
            Some((name, Place::new(self.paths(), key, commit, lfs)))
        });
        Ok(known.collect())
    }

    fn mirror_entry(&self, key: &RepositoryKey, size: (u64, u64)) -> Result<Cached, SourceError> {
        let (used, mirror) = (self.paths().mirror_use(key), self.paths().mirror(key));
        Ok(Cached {
            kind: CachedKind::Mirror,
            name: key.to_string(),
            called: None,
            bytes: size.0,
            files: size.1,
            last_used: changed(&[&used, &mirror]),
            in_use: Lock::try_acquire(&used, Access::Exclusive)?.is_none(),
            worthless: !mirror.exists(),
        })
    }

    /// `None` if it went away.
    fn aside_entry(
        &self,
        key: &RepositoryKey,
        aside: &Path,
    ) -> Result<Option<Cached>, SourceError> {
        let used = self.paths().mirror_use(key);
        let (bytes, files) = measure(aside, Shared::Whole);
        let name = aside.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|_| files > 0) else {
            return Ok(None);
        };
        Ok(Some(Cached {
            kind: CachedKind::Mirror,
            name: name.to_owned(),
            called: None,
            bytes,
            files,
            last_used: changed(&[aside]),
            in_use: Lock::try_acquire(&used, Access::Exclusive)?.is_none(),
            worthless: true,
        }))
    }

    /// `None` if it went away.
    fn checkout_entry(
        &self,
        key: &RepositoryKey,
        name: &str,
        place: &Place,
        since: Option<SystemTime>,
    ) -> Option<Cached> {
        let last_used = changed(&[&place.lock, place.dir()]);
        let alone = Lock::try_acquire(&place.lock, Access::Exclusive).ok()?;
        let ready = alone.is_none() || place.is_ready(self.boot());
        let (bytes, files) = size(place.dir(), since, ready && alone.is_some());
        Some(Cached {
            kind: CachedKind::Checkout,
            name: format!("{key}/{name}"),
            called: None,
            bytes,
            files,
            last_used,
            in_use: alone.is_none(),
            worthless: !ready,
        })
    }

    /// The mirror, and what there is of it while it is made.
    fn forms(&self, key: &RepositoryKey) -> [PathBuf; 2] {
        [self.paths().mirror(key), self.paths().mirror_new(key)]
    }
}

fn remove_checkout(place: &Place) -> Result<bool, SourceError> {
    let dir = place.dir();
    if !dir.exists() {
        return Ok(true);
    }
    let alone = match Lock::try_acquire(&place.lock, Access::Exclusive) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Ok(false),
        // Somebody else has just removed it, or an attempt makes it again.
        Err(error) if is_gone(&error) => return Ok(!dir.exists()),
        Err(error) => return Err(error),
    };
    // From here on it is not ready, whatever becomes of us.
    remove_file(&dir.join("ready"))?;
    for name in names(dir)? {
        let path = dir.join(&name);
        if path != place.lock {
            remove_all(&path).or_else(|_| remove_file(&path))?;
        }
    }
    remove_file(&place.lock)?;
    drop(alone);
    match fs::remove_dir(dir) {
        // An attempt has begun to make it again.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(true),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SourceError::io(dir)(e)),
        _ => Ok(true),
    }
}

fn remove_file(path: &Path) -> Result<(), SourceError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SourceError::io(path)(e)),
        _ => Ok(()),
    }
}

/// Names in a directory, which may not be there.
fn names(dir: &Path) -> Result<Vec<String>, SourceError> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(SourceError::io(dir)(e)),
    }
}

/// When the first of these that is there was changed.
fn changed(paths: &[&Path]) -> SystemTime {
    let first = paths.iter().find_map(|path| fs::metadata(path).ok());
    first
        .and_then(|meta| meta.modified().ok())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Bytes and files of a checkout, from the file beside it if it is not older than `since`, or by walking; `keep` writes
/// that file.
fn size(dir: &Path, since: Option<SystemTime>, keep: bool) -> (u64, u64) {
    let file = dir.join(SIZE);
    let known = fs::read_to_string(&file).ok().and_then(|text| {
        let (bytes, files) = text.split_once(' ')?;
        Some((bytes.parse().ok()?, files.trim().parse().ok()?))
    });
    let fresh = since.is_none_or(|since| changed(&[&file]) >= since);
    if let Some(known) = known.filter(|_| fresh) {
        return known;
    }
    let (bytes, files) = measure(dir, Shared::InParts);
    if keep {
        // Without it, it is measured again.
        let _ = replace(&file, format!("{bytes} {files}\n").as_bytes());
    }
    (bytes, files)
}

/// How a file with several names counts.
#[derive(Clone, Copy)]
enum Shared {
    /// One part for each name: checkouts share files with each other.
    InParts,
    /// Whole: what else has a mirror's file is a job that runs, for a while.
    Whole,
}

/// Bytes in blocks and entries beneath a directory, itself included; links are not followed.
fn measure(top: &Path, shared: Shared) -> (u64, u64) {
    let (mut bytes, mut files) = (0, 0);
    let mut rest = vec![top.to_owned()];
    while let Some(path) = rest.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        let names = match shared {
            Shared::InParts if meta.is_file() => meta.nlink().max(1),
            Shared::InParts | Shared::Whole => 1,
        };
        bytes += meta.blocks() * BLOCK / names;
        files += 1;
        if meta.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            rest.extend(entries.map(|entry| entry.path()));
        }
    }
    (bytes, files)
}
