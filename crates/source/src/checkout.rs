//! The tree of one commit, made once.
//!
//! A checkout goes through three states: being made (`tree.new`, under the exclusive lock), complete (`tree`), and
//! ready (`ready` beside it). Only ready ones are given out, and a ready one is never touched again.
//!
//! Submodules are in the same tree. Their commits are fixed by the commit of the whole, so the commit is the name of it
//! all; the marker tells what a tree was made of, and a marker of an earlier version makes no tree ready.
//!
//! Why does the marker name the boot? Writing out 20 000 files to the disk costs more than making them. Instead nothing
//! is synced, and a checkout that was made before the last start of the machine is made again.
//!
//! Why does it name the mirrors' marks? The tree is whole without them, but `git log` in it is not: a mirror that was made
//! again may lack commits that nothing leads to any more.
//!
//! Why are files dated with the time of the checkout? Git does the same, and generators that care ask `git log`.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bryo_model::CommitId;
use git2::Oid;
use serde::{Deserialize, Serialize};

use crate::lfs::store;
use crate::lock::{Access, Lock, TRY_AGAIN};
use crate::mirror::{self, remove_all, replace};
use crate::tree::{self, Base, Bounds, Part, To};
use crate::{Paths, Progress, RepositoryKey, SourceError, dot_git};

/// A ready tree. While it lives, nobody removes it.
#[derive(Clone, Debug)]
pub struct Checkout {
    pub(crate) place: Place,
    pub(crate) notices: Vec<String>,
    pub(crate) hold: Arc<Lock>,
    modules: Vec<Submodule>,
    /// See [`Contents::access`].
    pub(crate) access: Option<String>,
    /// The mirrors that its objects are in.
    mirrors: Vec<Arc<Lock>>,
}

/// A submodule of a checkout, with a repository of its own below the `.git` of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submodule {
    path: String,
    git_dir: PathBuf,
    objects: PathBuf,
    commit: CommitId,
}

impl Submodule {
    /// Where its files are, from the top of the tree.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where its repository is, from the top of the tree.
    #[must_use]
    pub fn git_dir(&self) -> &Path {
        &self.git_dir
    }

    /// Its mirror's objects: to be mounted read-only over `objects` of its repository.
    #[must_use]
    pub fn objects(&self) -> &Path {
        &self.objects
    }

    /// Its commit.
    #[must_use]
    pub fn commit(&self) -> &CommitId {
        &self.commit
    }
}

impl Checkout {
    /// It is used now, and so are its mirrors: they last, so that they never look older than their checkout.
    pub(crate) fn using(mut self, mirrors: impl IntoIterator<Item = Arc<Lock>>) -> Self {
        self.hold.touch();
        self.mirrors.extend(mirrors);
        for mirror in &self.mirrors {
            mirror.touch();
        }
        self
    }

    /// The work tree, with a `.git` whose objects are missing: see [`Checkout::objects`].
    #[must_use]
    pub fn tree(&self) -> &Path {
        &self.place.tree
    }

    /// The mirror's objects: to be mounted read-only over `.git/objects` of the tree.
    #[must_use]
    pub fn objects(&self) -> &Path {
        &self.place.objects
    }

    /// The branches and tags as of the last fetch: a file to be mounted read-only over `.git/packed-refs` of the tree.
    ///
    /// The tree has them as they were when it was made; a tag that came later to the same commit is only here. It is
    /// replaced by rename, so a mount of it stays as it is.
    #[must_use]
    pub fn refs(&self) -> &Path {
        &self.place.refs
    }

    /// Its commit.
    #[must_use]
    pub fn commit(&self) -> &CommitId {
        &self.place.commit
    }

    /// Its submodules, those of submodules included.
    #[must_use]
    pub fn submodules(&self) -> &[Submodule] {
        &self.modules
    }

    /// What the user should know: parts that are not there, a cache that was repaired.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }
}

/// Where the checkout of one commit is, whether or not it is there.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) commit: CommitId,
    pub(crate) key: RepositoryKey,
    dir: PathBuf,
    pub(crate) lock: PathBuf,
    tree: PathBuf,
    objects: PathBuf,
    refs: PathBuf,
    /// With what is in Git LFS.
    lfs: bool,
    paths: Paths,
}

/// The marker on disk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    version: u32,
    boot: String,
    pub(crate) notices: Vec<String>,
    /// See [`Contents::access`].
    access: Option<String>,
    /// The whole first, then its submodules in the order of their numbers.
    parts: Vec<ReadyPart>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ReadyPart {
    path: String,
    commit: CommitId,
    /// The mirror's name, and [`mirror::mark`] of it.
    mirror: String,
    mark: String,
    /// Its pointers of Git LFS were replaced by what they point to.
    #[serde(default)]
    lfs: bool,
}

const VERSION: u32 = 3;

/// What a checkout is made of.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    /// The whole first, each before those that are in it.
    pub(crate) parts: Vec<(RepositoryKey, Part)>,
    pub(crate) notices: Vec<String>,
    /// Submodules that are not among them, with a notice that says why.
    pub(crate) left_out: Vec<String>,
    /// With what is in Git LFS.
    pub(crate) lfs: bool,
    /// Where a submodule was fetched with credentials: what decided so. By another policy the tree is only for who has
    /// fetched them too.
    pub(crate) access: Option<String>,
}

/// A checkout could not be made.
#[derive(Debug)]
pub(crate) struct NotMade {
    /// The number of the part that is at fault.
    pub(crate) part: usize,
    pub(crate) error: SourceError,
}

impl Place {
    pub(crate) fn new(paths: &Paths, key: &RepositoryKey, commit: CommitId, lfs: bool) -> Self {
        let dir = match lfs {
            true => paths.checkout_lfs(key, &commit),
            false => paths.checkout(key, &commit),
        };
        let mirror = paths.mirror(key);
        Self {
            commit,
            key: key.clone(),
            lock: dir.join("lock"),
            tree: dir.join("tree"),
            objects: mirror.join("objects"),
            refs: mirror::refs_file(&mirror),
            lfs,
            paths: paths.clone(),
            dir,
        }
    }

    /// The directory of it all.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its lock, if nobody is in the way. The directory that the lock is in is made, as often as an evictor removes it.
    pub(crate) fn try_lock(&self, access: Access) -> Result<Option<Lock>, SourceError> {
        loop {
            match fs::create_dir_all(&self.dir) {
                // It was there, and was removed before a second look: the standard library tells that so.
                Err(e) if e.kind() == ErrorKind::AlreadyExists && !is_no_directory(&self.dir) => {
                    continue;
                }
                other => other.map_err(SourceError::io(&self.dir))?,
            }
            match Lock::try_acquire(&self.lock, access) {
                Err(e) if is_gone(&e) => {}
                other => return other,
            }
        }
    }

    /// The same, when it is free.
    pub(crate) async fn lock(&self, access: Access) -> Result<Lock, SourceError> {
        loop {
            if let Some(lock) = self.try_lock(access)? {
                return Ok(lock);
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// The checkout, if it is there and nobody is making or removing it.
    pub(crate) fn try_open(&self, boot: &str) -> Result<Option<Checkout>, SourceError> {
        if !self.dir.join("ready").exists() {
            return Ok(None);
        }
        match Lock::try_acquire(&self.lock, Access::Shared) {
            Ok(Some(lock)) => self.open(lock, boot),
            Ok(None) => Ok(None),
            Err(e) if is_gone(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The checkout, if it is ready. The lock is what the caller holds, shared; the mirrors of its submodules are locked
    /// before they are looked at.
    pub(crate) fn open(&self, lock: Lock, boot: &str) -> Result<Option<Checkout>, SourceError> {
        let Some(ready) = self.marker(boot) else {
            return Ok(None);
        };
        let mut mirrors: BTreeMap<&str, Arc<Lock>> = BTreeMap::new();
        let mut modules = Vec::new();
        for (number, part) in ready.parts.iter().enumerate().skip(1) {
            let key = RepositoryKey::named(&part.mirror);
            if !mirrors.contains_key(&*part.mirror) {
                let used = self.paths.mirror_use(&key);
                let Some(lock) = Lock::try_acquire(&used, Access::Shared)? else {
                    return Ok(None);
                };
                mirrors.insert(&part.mirror, Arc::new(lock));
            }
            modules.push(Submodule {
                path: part.path.clone(),
                git_dir: dot_git::place(number),
                objects: self.paths.mirror(&key).join("objects"),
                commit: part.commit.clone(),
            });
        }
        if !self.has_mirrors(&ready) {
            return Ok(None);
        }
        Ok(Some(Checkout {
            place: self.clone(),
            modules,
            access: ready.access,
            mirrors: mirrors.into_values().collect(),
            hold: Arc::new(lock),
            notices: ready.notices,
        }))
    }

    /// Whether it can be used as it is.
    pub(crate) fn is_ready(&self, boot: &str) -> bool {
        self.marker(boot)
            .is_some_and(|ready| self.has_mirrors(&ready))
    }

    /// The marker, if it is of this boot and this version.
    fn marker(&self, boot: &str) -> Option<Ready> {
        let text = fs::read(self.dir.join("ready")).ok()?;
        // A marker that cannot be read is none: the checkout is made again.
        let ready: Ready = serde_json::from_slice(&text).ok()?;
        (ready.version == VERSION && ready.boot == boot).then_some(ready)
    }

    /// Whether all mirrors are those that it was made from.
    fn has_mirrors(&self, ready: &Ready) -> bool {
        let known = |part: &ReadyPart| {
            let path = self.paths.mirror(&RepositoryKey::named(&part.mirror));
            mirror::mark(&path).is_some_and(|mark| mark == part.mark)
                && path.join("objects").exists()
        };
        self.refs.exists() && ready.parts.iter().all(known)
    }

    /// Makes it, unless it is ready. The caller holds its lock exclusively and those of the mirrors shared.
    pub(crate) fn make(
        &self,
        boot: &str,
        contents: &Contents,
        bounds: &Bounds,
        progress: &Progress,
    ) -> Result<(), NotMade> {
        let whole = |error| NotMade { part: 0, error };
        if self.is_ready(boot) {
            return Ok(());
        }
        let marker = self.dir.join("ready");
        let new = self.dir.join("tree.new");
        match fs::remove_file(&marker) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(whole(SourceError::io(&marker)(e)));
            }
            _ => {}
        }
        remove_all(&new).map_err(whole)?;
        remove_all(&self.tree).map_err(whole)?;
        let base = self.base(boot);
        let writing = Writing {
            paths: &self.paths,
            contents,
            bounds,
            base: base.as_ref(),
            objects: None,
        };
        let ready = writing.write(&new, boot, progress).inspect_err(|_| {
            // The cause is what the caller must see; what stays is removed by the next attempt.
            let _ = fs::remove_dir_all(&new);
        })?;
        let finish = || {
            fs::rename(&new, &self.tree).map_err(SourceError::io(&self.tree))?;
            let text =
                serde_json::to_vec(&ready).map_err(|e| SourceError::io(&marker)(e.into()))?;
            replace(&marker, &text)
        };
        finish().map_err(whole)
    }

    /// The checkout of the same repository that was made last, held until this one is made.
    fn base(&self, boot: &str) -> Option<Made> {
        let commits = fs::read_dir(self.dir.parent()?).ok()?.flatten();
        let mut found: Vec<_> = commits
            .filter_map(|entry| {
                let (commit, lfs) = Paths::checkout_of(entry.file_name().to_str()?)?;
                let made = entry
                    .path()
                    .join("ready")
                    .metadata()
                    .ok()?
                    .modified()
                    .ok()?;
                (commit != self.commit && lfs == self.lfs).then_some((made, commit))
            })
            .collect();
        found.sort();
        // Those that are being removed or made just now are no loss.
        found
            .into_iter()
            .rev()
            .take(MOST_BASES)
            .find_map(|(_, commit)| {
                let place = Self::new(&self.paths, &self.key, commit, self.lfs);
                let checkout = place.try_open(boot).ok()??;
                let ready = place.marker(boot)?;
                Some(Made { ready, checkout })
            })
    }
}

/// A tree that is being written.
pub(crate) struct Writing<'a> {
    pub(crate) paths: &'a Paths,
    pub(crate) contents: &'a Contents,
    pub(crate) bounds: &'a Bounds,
    /// What may be linked to: never for a tree that somebody can write to.
    base: Option<&'a Made>,
    /// For a tree that somebody can write to: where its repositories will see the objects of a mirror.
    objects: Option<&'a dyn Fn(&RepositoryKey) -> PathBuf>,
}

impl<'a> Writing<'a> {
    /// A tree of its own.
    pub(crate) fn own(
        paths: &'a Paths,
        contents: &'a Contents,
        bounds: &'a Bounds,
        objects: &'a dyn Fn(&RepositoryKey) -> PathBuf,
    ) -> Self {
        Self {
            paths,
            contents,
            bounds,
            base: None,
            objects: Some(objects),
        }
    }

    pub(crate) fn write(
        &self,
        new: &Path,
        boot: &str,
        progress: &Progress,
    ) -> Result<Ready, NotMade> {
        let (contents, bounds) = (self.contents, self.bounds);
        let whole = |error| NotMade { part: 0, error };
        fs::DirBuilder::new()
            .mode(0o755)
            .create(new)
            .map_err(|e| whole(SourceError::io(new)(e)))?;
        let masked = mode(new).map_err(whole)? != 0o755;
        let room = AtomicU64::new(bounds.bytes);
        let mut left = bounds.entries;
        let mut parts = Vec::new();
        let (mut lfs, mut empty, mut unnamed) = (false, Vec::new(), 0);
        for (number, (key, part)) in contents.parts.iter().enumerate() {
            let mirror = self.paths.mirror(key);
            let mut one = || {
                let mark = mirror::mark(&mirror).ok_or_else(|| SourceError::Corrupt {
                    location: part.location.clone(),
                    detail: "it has no configuration".to_owned(),
                })?;
                let beside = self.base.and_then(|base| base.of(key, &part.prefix));
                let objects = mirror.join("objects");
                let bounds = Bounds {
                    entries: left,
                    ..bounds.clone()
                };
                let survey = tree::survey(part, &objects, &bounds)?;
                left = left.saturating_sub(survey.dirs + survey.entries);
                let with_lfs = contents.lfs && survey.mentions_lfs;
                lfs |= survey.mentions_lfs && !with_lfs;
                let lfs_objects = store::objects(&mirror);
                // A pointer that the one tree has as it is, the other may have replaced.
                let beside = beside.filter(|base| base.lfs == with_lfs);
                empty.extend(survey.modules.iter().map(|path| below(&part.prefix, path)));
                unnamed += survey.more_modules;
                let git = new.join(dot_git::place(number));
                dot_git::write(new, number, &part.prefix, &part.commit, &mirror)?;
                let to = To {
                    objects: &objects,
                    top: &new.join(&part.prefix),
                    index: &git.join("index"),
                    base: beside.as_ref(),
                    lfs: with_lfs.then_some(&*lfs_objects),
                    masked,
                    bounds: &bounds,
                    room: &room,
                };
                tree::write(part, &survey, &to, progress)?;
                match self.objects {
                    None => dot_git::settle_index(to.index)?,
                    Some(seen) => dot_git::borrow_objects(&git, &seen(key))?,
                }
                Ok(ReadyPart {
                    path: part.prefix.clone(),
                    commit: part.commit.clone(),
                    mirror: key.to_string(),
                    mark,
                    lfs: with_lfs,
                })
            };
            parts.push(one().map_err(|error| NotMade {
                part: number,
                error,
            })?);
        }
        if masked {
            chmod(new, 0o755).map_err(whole)?;
            unmask(&new.join(".git")).map_err(whole)?;
            for (_, part) in &contents.parts[1..] {
                chmod(&new.join(&part.prefix).join(".git"), 0o644).map_err(whole)?;
            }
        }
        let mut notices = contents.notices.clone();
        empty.retain(|path| {
            !contents.left_out.contains(path) && parts.iter().all(|part| part.path != *path)
        });
        notices.extend(
            empty.iter().take(MOST_TOLD).map(|path| {
                format!("submodule {path} is not in .gitmodules: its directory is empty")
            }),
        );
        if let more @ 1.. = unnamed + empty.len().saturating_sub(MOST_TOLD) {
            notices.push(format!(
                "{more} more submodules are not in .gitmodules: their directories are empty"
            ));
        }
        if lfs {
            notices
                .push("files kept in Git LFS are not fetched: the tree has their pointers".into());
        }
        Ok(Ready {
            version: VERSION,
            boot: boot.to_owned(),
            notices,
            access: contents.access.clone(),
            parts,
        })
    }
}

/// So many submodules that nothing is known of are named.
const MOST_TOLD: usize = 20;

/// So many checkouts are tried as a base.
const MOST_BASES: usize = 3;

/// Another checkout, and what it was made of.
struct Made {
    ready: Ready,
    checkout: Checkout,
}

impl Made {
    /// Its share of this repository at this path.
    fn of(&self, key: &RepositoryKey, prefix: &str) -> Option<Base> {
        let same = |part: &&ReadyPart| part.path == prefix && part.mirror == key.to_string();
        let part = self.ready.parts.iter().find(same)?;
        Some(Base {
            commit: Oid::from_str(part.commit.as_str()).ok()?,
            dir: self.checkout.tree().join(prefix),
            lfs: part.lfs,
        })
    }
}

fn below(prefix: &str, path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    match prefix {
        "" => path.into_owned(),
        prefix => format!("{prefix}/{path}"),
    }
}

fn is_no_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_dir())
}

pub(crate) fn is_gone(error: &SourceError) -> bool {
    matches!(error, SourceError::Io { source, .. } if source.kind() == ErrorKind::NotFound)
}

fn mode(path: &Path) -> Result<u32, SourceError> {
    let metadata = fs::symlink_metadata(path).map_err(SourceError::io(path))?;
    Ok(metadata.permissions().mode() & 0o7777)
}

fn chmod(path: &Path, bits: u32) -> Result<(), SourceError> {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).map_err(SourceError::io(path))
}

/// Gives back what the user's umask took: a container reads the repository as somebody else.
fn unmask(dir: &Path) -> Result<(), SourceError> {
    let mut rest = vec![dir.to_owned()];
    while let Some(dir) = rest.pop() {
        chmod(&dir, 0o755)?;
        for entry in fs::read_dir(&dir).map_err(SourceError::io(&dir))? {
            let entry = entry.map_err(SourceError::io(&dir))?;
            let path = entry.path();
            match entry.file_type().map_err(SourceError::io(&path))?.is_dir() {
                true => rest.push(path),
                false => chmod(&path, 0o644)?,
            }
        }
    }
    Ok(())
}
