//! The tree of one commit, made once.
//!
//! A checkout goes through three states: being made (`tree.new`, under the exclusive lock), complete (`tree`), and
//! ready (`ready` beside it). Only ready ones are given out, and a ready one is never touched again.
//!
//! Why does the marker name the boot? Writing out 20 000 files to the disk costs more than making them. Instead nothing
//! is synced, and a checkout that was made before the last start of the machine is made again.
//!
//! Why are files dated with the time of the checkout? Git does the same, and generators that care ask `git log`.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bryo_model::{Amount, CommitId};
use git2::build::CheckoutBuilder;
use git2::{ErrorClass, Oid, Repository};
use serde::{Deserialize, Serialize};

use crate::lock::{Access, Lock, TRY_AGAIN};
use crate::mirror::{self, remove_all, replace};
use crate::objects::{damaged, is_full};
use crate::{Paths, Progress, RepositoryKey, SourceError, dot_git};

/// A ready tree. While it lives, nobody removes it.
#[derive(Clone, Debug)]
pub struct Checkout {
    pub(crate) place: Place,
    pub(crate) notices: Vec<String>,
    pub(crate) hold: Arc<Lock>,
    /// Its objects are the mirror's.
    mirror: Option<Arc<Lock>>,
}

impl Checkout {
    /// It is used now, and so is its mirror: that one last, so that it never looks older than its checkout.
    pub(crate) fn using(mut self, mirror: &Arc<Lock>) -> Self {
        self.hold.touch();
        mirror.touch();
        self.mirror = Some(Arc::clone(mirror));
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
    dir: PathBuf,
    pub(crate) lock: PathBuf,
    mirror: PathBuf,
    tree: PathBuf,
    objects: PathBuf,
    refs: PathBuf,
}

/// The marker on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    version: u32,
    boot: String,
    notices: Vec<String>,
}

const VERSION: u32 = 1;

impl Place {
    pub(crate) fn new(paths: &Paths, key: &RepositoryKey, commit: CommitId) -> Self {
        let dir = paths.checkout(key, &commit);
        let mirror = paths.mirror(key);
        Self {
            commit,
            lock: dir.join("lock"),
            tree: dir.join("tree"),
            objects: mirror.join("objects"),
            refs: mirror::refs_file(&mirror),
            mirror,
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
            fs::create_dir_all(&self.dir).map_err(SourceError::io(&self.dir))?;
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
            Ok(Some(lock)) => Ok(self.open(lock, boot)),
            Ok(None) => Ok(None),
            Err(e) if is_gone(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The checkout, if it is ready. The lock is what the caller holds, shared.
    pub(crate) fn open(&self, lock: Lock, boot: &str) -> Option<Checkout> {
        let ready = self.ready(boot)?;
        Some(Checkout {
            place: self.clone(),
            notices: ready.notices,
            hold: Arc::new(lock),
            mirror: None,
        })
    }

    /// Whether it can be used as it is.
    pub(crate) fn is_ready(&self, boot: &str) -> bool {
        self.ready(boot).is_some()
    }

    fn ready(&self, boot: &str) -> Option<Ready> {
        let text = fs::read(self.dir.join("ready")).ok()?;
        // A marker that cannot be read is none: the checkout is made again.
        let ready: Ready = serde_json::from_slice(&text).ok()?;
        let fresh = ready.version == VERSION && ready.boot == boot;
        (fresh && self.objects.exists() && self.refs.exists()).then_some(ready)
    }

    /// Makes it, unless it is ready. The caller holds its lock exclusively and the mirror's shared.
    pub(crate) fn make(
        &self,
        boot: &str,
        location: &str,
        progress: &Progress,
    ) -> Result<(), SourceError> {
        if self.ready(boot).is_some() {
            return Ok(());
        }
        let marker = self.dir.join("ready");
        let new = self.dir.join("tree.new");
        match fs::remove_file(&marker) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(SourceError::io(&marker)(e));
            }
            _ => {}
        }
        remove_all(&new)?;
        remove_all(&self.tree)?;
        let notices = self.write_tree(&new, location, progress).inspect_err(|_| {
            // The cause is what the caller must see; what stays is removed by the next attempt.
            let _ = fs::remove_dir_all(&new);
        })?;
        fs::rename(&new, &self.tree).map_err(SourceError::io(&self.tree))?;
        let ready = Ready {
            version: VERSION,
            boot: boot.to_owned(),
            notices,
        };
        let text = serde_json::to_vec(&ready).map_err(|e| SourceError::io(&marker)(e.into()))?;
        replace(&marker, &text)
    }

    fn write_tree(
        &self,
        new: &Path,
        location: &str,
        progress: &Progress,
    ) -> Result<Vec<String>, SourceError> {
        fs::DirBuilder::new()
            .mode(0o755)
            .create(new)
            .map_err(SourceError::io(new))?;
        let masked = mode(new)? != 0o755;
        dot_git::write(new, &self.commit, &self.mirror)?;
        let failed = |e: git2::Error| self.cause(&e, location);
        // An absolute path, or libgit2 looks for the objects beside the process.
        let new = new.canonicalize().map_err(SourceError::io(new))?;
        let objects = self
            .objects
            .canonicalize()
            .map_err(SourceError::io(&self.objects))?;
        let repository = Repository::open(&new).map_err(failed)?;
        let odb = repository.odb().map_err(failed)?;
        odb.add_disk_alternate(&objects.to_string_lossy())
            .map_err(failed)?;
        let oid = Oid::from_str(self.commit.as_str()).map_err(failed)?;
        let commit = repository.find_commit(oid).map_err(failed)?;

        let mut step = 0;
        let mut builder = CheckoutBuilder::new();
        builder
            .force()
            .disable_filters(true)
            .dir_perm(0o755)
            .progress(|_, done, total| {
                // A hundred steps are enough for any bar.
                if done >= step || done == total {
                    step = done + total / 100 + 1;
                    progress(Amount::Items {
                        done: u64::try_from(done).unwrap_or(u64::MAX),
                        total: u64::try_from(total).unwrap_or(u64::MAX),
                    });
                }
            });
        repository
            .checkout_tree(commit.as_object(), Some(&mut builder))
            .map_err(failed)?;
        drop(builder);
        let notices = notices(&repository).map_err(failed)?;
        if masked {
            unmask(&new)?;
        }
        let index = new.join(".git/index");
        fs::set_permissions(&index, fs::Permissions::from_mode(0o644))
            .map_err(SourceError::io(&index))?;
        dot_git::settle_index(&new)?;
        Ok(notices)
    }

    /// What libgit2's error means for a tree: its class tells whether objects, the disk or the tree itself is at fault.
    fn cause(&self, error: &git2::Error, location: &str) -> SourceError {
        let refused = matches!(
            error.class(),
            ErrorClass::Checkout | ErrorClass::Index | ErrorClass::Filesystem
        );
        match error.class() {
            _ if is_full(error) => SourceError::DiskFull {
                path: self.dir.clone(),
            },
            _ if refused => SourceError::RefusedTree {
                commit: self.commit.clone(),
                detail: error.message().to_owned(),
            },
            ErrorClass::Os => SourceError::Io {
                path: self.dir.clone(),
                source: std::io::Error::other(error.message().to_owned()),
            },
            _ => damaged(error, location),
        }
    }
}

/// What is not there although the repository speaks of it.
fn notices(repository: &Repository) -> Result<Vec<String>, git2::Error> {
    const SUBMODULE: u32 = 0o160_000;
    let mut notices = Vec::new();
    let mut lfs = false;
    for entry in repository.index()?.iter() {
        let path = String::from_utf8_lossy(&entry.path);
        if entry.mode == SUBMODULE {
            notices.push(format!("submodule {path} is not fetched"));
        } else if !lfs && (path == ".gitattributes" || path.ends_with("/.gitattributes")) {
            let blob = repository.find_blob(entry.id)?;
            lfs = String::from_utf8_lossy(blob.content()).contains("filter=lfs");
        }
    }
    if lfs {
        notices.push("files kept in Git LFS are not fetched: the tree has their pointers".into());
    }
    Ok(notices)
}

fn is_gone(error: &SourceError) -> bool {
    matches!(error, SourceError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

fn mode(path: &Path) -> Result<u32, SourceError> {
    let metadata = fs::symlink_metadata(path).map_err(SourceError::io(path))?;
    Ok(metadata.permissions().mode() & 0o7777)
}

/// Gives back what the user's umask took: a container reads the tree as somebody else.
fn unmask(dir: &Path) -> Result<(), SourceError> {
    let mut rest = vec![dir.to_owned()];
    let chmod = |path: &Path, bits| {
        fs::set_permissions(path, fs::Permissions::from_mode(bits)).map_err(SourceError::io(path))
    };
    while let Some(dir) = rest.pop() {
        chmod(&dir, 0o755)?;
        for entry in fs::read_dir(&dir).map_err(SourceError::io(&dir))? {
            let path = entry.map_err(SourceError::io(&dir))?.path();
            let metadata = fs::symlink_metadata(&path).map_err(SourceError::io(&path))?;
            if metadata.is_dir() {
                rest.push(path);
            } else if metadata.is_file() {
                let executable = metadata.permissions().mode() & 0o100 != 0;
                chmod(&path, if executable { 0o755 } else { 0o644 })?;
            }
        }
    }
    Ok(())
}
