//! Git LFS, for who asks for it: files that a repository only points to.
//!
//! Which files? Those in the form of a pointer, in a repository one of whose `.gitattributes` has `filter=lfs`. The
//! patterns there are not applied: a pointer whose content is not wanted is rarer than an attribute in a place that
//! only git finds.
//!
//! Objects are brought into the mirror, beside its git objects, so that they are counted and removed with it; a tree is
//! written from there. Each is compared with its pointer when it comes and again when it is written. How much all
//! pointers promise is known, and bounded, before the first byte is asked for.
//!
//! *Why not the git-lfs program for http?* Its proxy does not hold for `127.0.0.1`, `::1` and `localhost`: an address that a
//! server names in its answer, or redirects to, would be connected to without a check. So `server` is a client of our own.
//!
//! It runs no filter, installs no hook, and reads no `.lfsconfig`: where objects come from is for the origin to say.

mod batch;
mod clients;
mod download;
mod failure;
mod over_ssh;
mod own;
pub(crate) mod pointer;
mod secrets;
mod server;
pub(crate) mod store;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bryo_model::{Amount, Scheme};
use git2::ObjectType;

use crate::checkout::Contents;
use crate::credentials::Identity;
use crate::limits::ReachedLimit;
use crate::lock::{Access, Lock};
use crate::mirror::LockedMirror;
use crate::objects::{Waiting, blocking, damaged};
use crate::origin::Origin;
use crate::tree::{self, Bounds, Part};
use crate::{Progress, SourceCache, SourceError};
pub(crate) use pointer::{Pointer, Reading};
use store::NotCopied;

/// The objects that a tree needs, each with one path that points to it.
type Needed = BTreeMap<Pointer, String>;

/// What a part of a tree has of Git LFS.
#[derive(Debug, Default)]
struct Found {
    needed: Needed,
    malformed: Vec<String>,
}

impl SourceCache {
    /// Brings the objects of all parts into their mirrors. `true` when all were there. What looks like a pointer and is none
    /// becomes a notice.
    pub(crate) async fn bring_lfs(
        &self,
        contents: &mut Contents,
        origins: &[Origin],
        progress: &Progress,
    ) -> Result<bool, SourceError> {
        let mut all = Vec::new();
        let (mut bytes, mut malformed) = (0_u64, Vec::new());
        for ((_, part), origin) in contents.parts.iter().zip(origins) {
            let found = self
                .found(part, origin, progress)
                .await
                .map_err(|error| match error {
                    // Which has the name of the submodule.
                    SourceError::RefusedTree { .. } => error,
                    other => self.of_part(part.prefix.clone(), origin, other),
                })?;
            let sizes = found.needed.keys().map(|pointer| pointer.size);
            bytes = sizes.fold(bytes, u64::saturating_add);
            malformed.extend(found.malformed);
            all.push((part.prefix.clone(), origin, found.needed));
        }
        let most = self.policy().limits.bytes;
        if bytes > most {
            return Err(SourceError::Limit {
                location: origins[0].location.clone(),
                limit: ReachedLimit::Lfs { bytes, most },
            });
        }
        if let Some(first) = malformed.first() {
            let more = match malformed.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            let notice = format!(
                "{first}{more}: it looks like a pointer of Git LFS and is none; it is left as it is"
            );
            if !contents.notices.contains(&notice) {
                contents.notices.push(notice);
            }
        }
        let mut was_there = true;
        for (prefix, origin, needed) in all {
            let objects = store::objects(&self.paths().mirror(&origin.key));
            let missing = |needed: &Needed| {
                let absent = needed.iter().filter(|(p, _)| !store::has(&objects, p));
                absent.map(|(p, at)| (p.clone(), at.clone())).collect()
            };
            let absent: Needed = missing(&needed);
            if absent.is_empty() {
                continue;
            }
            was_there = false;
            let mirror = LockedMirror::acquire(self.paths(), origin).await?;
            // Whoever had the lock before us may have brought them.
            let absent: Needed = missing(&absent);
            self.bring(&mirror, origin, objects, absent, progress)
                .await
                .map_err(|error| self.of_part(prefix, origin, error))?;
        }
        Ok(was_there)
    }

    /// The pointers of a part's tree, once more where the mirror had to be made again for them.
    async fn found(
        &self,
        part: &Part,
        origin: &Origin,
        progress: &Progress,
    ) -> Result<Found, SourceError> {
        let seen = self.mark(origin);
        match self.pointers(part, origin).await {
            Err(SourceError::Corrupt { .. }) => {
                self.repair(origin, &part.commit, seen.as_deref(), progress)
                    .await?;
                self.pointers(part, origin).await
            }
            other => other,
        }
    }

    /// The error of a submodule names it, like one of its fetch.
    fn of_part(&self, prefix: String, origin: &Origin, source: SourceError) -> SourceError {
        if prefix.is_empty() {
            return source;
        }
        let nobody = origin.identity() == Identity::Anonymous;
        SourceError::Submodule {
            path: prefix,
            url: origin.location.clone(),
            withheld: nobody && self.policy().has_credential(origin),
            source: Box::new(source),
        }
    }

    /// Brings objects into a mirror's directory.
    async fn bring(
        &self,
        mirror: &LockedMirror<'_>,
        origin: &Origin,
        objects: PathBuf,
        absent: Needed,
        progress: &Progress,
    ) -> Result<(), SourceError> {
        let from = match (&origin.local, &origin.remote) {
            (Some(git_dir), _) => vec![store::objects(git_dir)],
            (None, Some(remote)) if remote.url.scheme() == Scheme::File => {
                let top = PathBuf::from(remote.url.path());
                let dirs = [".git", ""].map(|dir| store::objects(&top.join(dir)));
                dirs.into()
            }
            (None, Some(remote)) => {
                let from = (origin, remote);
                return download::bring(mirror, from, self.paths(), objects, &absent, progress)
                    .await;
            }
            (None, None) => Vec::new(),
        };
        let progress = Arc::clone(progress);
        mirror
            .at_work(move |mirror, origin| {
                let total = absent.len() as u64;
                for (done, (pointer, path)) in absent.iter().enumerate() {
                    one(mirror, &from, &objects, pointer)
                        .map_err(|not| not.told(&origin.location, path, pointer))?;
                    progress(Amount::Items {
                        done: done as u64 + 1,
                        total,
                    });
                }
                Ok(())
            })
            .await
    }

    async fn pointers(&self, part: &Part, origin: &Origin) -> Result<Found, SourceError> {
        let lock = self.paths().mirror_lock(&origin.key);
        let steady = Lock::acquire(&lock, Access::Shared).await?;
        let objects = self.paths().mirror(&origin.key).join("objects");
        let waiting = Waiting::default();
        let (part, bounds) = (part.clone(), self.bounds(&waiting));
        blocking(move || {
            let found = find(&part, &objects, &bounds);
            drop(steady);
            found
        })
        .await
    }
}

/// All pointers of a part's tree.
fn find(part: &Part, objects: &Path, bounds: &Bounds) -> Result<Found, SourceError> {
    let failed = |e: git2::Error| damaged(&e, &part.location);
    let mut found = Found::default();
    if !tree::survey(part, objects, bounds)?.mentions_lfs {
        return Ok(found);
    }
    let odb = tree::odb(objects).map_err(failed)?;
    tree::each_file(part, objects, bounds, |entry| {
        let (size, kind) = odb.read_header(entry.id).map_err(failed)?;
        if size >= pointer::LARGEST || kind != ObjectType::Blob {
            return Ok(());
        }
        let blob = odb.read(entry.id).map_err(failed)?;
        let at = || part.shown(&entry.path);
        match pointer::read(blob.data()) {
            Reading::Pointer(pointer) => {
                found.needed.entry(pointer).or_insert_with(at);
            }
            Reading::Malformed => found.malformed.push(at()),
            Reading::Content => {}
        }
        Ok(())
    })?;
    Ok(found)
}

/// An object from the first of these directories that has it. It appears under its name whole.
fn one(
    mirror: &Path,
    from: &[PathBuf],
    objects: &Path,
    pointer: &Pointer,
) -> Result<(), NotCopied> {
    let place = store::place(objects, pointer);
    // A name that the mirror's clean-up knows.
    let new = mirror.join("lfs/tmp_object");
    if let Some(dir) = place.parent() {
        fs::create_dir_all(dir).map_err(NotCopied::Write)?;
    }
    for dir in from {
        let mut file = fs::File::create(&new).map_err(NotCopied::Write)?;
        match store::copy(dir, pointer, &mut file) {
            Err(NotCopied::Missing) => {}
            Ok(()) => return fs::rename(&new, &place).map_err(NotCopied::Write),
            Err(other) => {
                let _ = fs::remove_file(&new);
                return Err(other);
            }
        }
    }
    let _ = fs::remove_file(&new);
    Err(NotCopied::Missing)
}

impl NotCopied {
    pub(crate) fn told(self, location: &str, path: &str, pointer: &Pointer) -> SourceError {
        match self {
            Self::Missing => lfs(location, path, pointer, "it is not there".to_owned()),
            Self::Wrong(why) => lfs(location, path, pointer, why),
            Self::Read(e) => lfs(location, path, pointer, format!("it cannot be read: {e}")),
            Self::Write(e) => SourceError::io(Path::new(path))(e),
        }
    }
}

fn lfs(location: &str, path: &str, pointer: &Pointer, why: String) -> SourceError {
    SourceError::Lfs {
        location: location.to_owned(),
        path: path.to_owned(),
        oid: pointer.oid().to_owned(),
        server: false,
        denied: false,
        why,
    }
}
