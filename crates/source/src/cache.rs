//! The cache as its user sees it: fetch, then check out.
//!
//! Why does a fetch already look for the checkout? When it is ready, the fetch takes the lock that keeps it, and the
//! checkout has nothing left to do: the warm path is a handful of system calls, and no evictor can come in between.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bryo_model::{Amount, CommitId, GitRef, SourceLocation, SourceSpec, SubDir};

use crate::checkout::{Checkout, Place};
use crate::lock::{Access, Lock, TRY_AGAIN};
use crate::mirror::{self, LockedMirror, Wanted};
use crate::objects::{blocking, find_commit, open_mirror, require_subdir};
use crate::origin::Origin;
use crate::{Paths, SourceError, SourcePolicy, local};

/// Is told how far a transfer or a checkout is.
pub type Progress = Arc<dyn Fn(Amount) + Send + Sync>;

/// Tells backup programs to leave a directory out; the first line is prescribed by <https://bford.info/cachedir/>.
const CACHEDIR_TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# Made by Bryo; can be removed at any time.\n";

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Mirrors and checkouts below one directory, shared by any number of tasks and processes.
#[derive(Clone, Debug)]
pub struct SourceCache {
    paths: Paths,
    boot: String,
    policy: Arc<SourcePolicy>,
}

/// A commit that is in the cache.
#[derive(Clone, Debug)]
pub struct Fetched {
    origin: Origin,
    commit: CommitId,
    description: String,
    was_cached: bool,
    notices: Vec<String>,
    ready: Option<Checkout>,
    /// The mirror's use: held, it stays.
    mirror: Arc<Lock>,
}

impl Fetched {
    /// The commit.
    #[must_use]
    pub fn commit(&self) -> &CommitId {
        &self.commit
    }

    /// What it was asked for as, for people: `main`, `v1.2`, or the start of its id.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Whether it was there already, so that no git program ran.
    #[must_use]
    pub fn was_cached(&self) -> bool {
        self.was_cached
    }

    /// What the user should know about the fetch.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }
}

/// A [`SourceSpec`] that knows its mirror.
#[derive(Clone, Debug)]
struct Request {
    origin: Origin,
    wanted: Wanted,
    subdir: Option<SubDir>,
}

impl SourceCache {
    /// The cache in this directory, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or used.
    pub fn open(root: &Path) -> Result<Self, SourceError> {
        let make = |path: &Path| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(SourceError::io(path))
        };
        make(root)?;
        let root = root.canonicalize().map_err(SourceError::io(root))?;
        let paths = Paths::new(root);
        make(&paths.mirrors())?;
        make(&paths.checkouts())?;
        let tag = paths.root().join("CACHEDIR.TAG");
        if !tag.exists() {
            fs::write(&tag, CACHEDIR_TAG).map_err(SourceError::io(&tag))?;
        }
        let boot = fs::read_to_string(BOOT_ID).map_err(SourceError::io(Path::new(BOOT_ID)))?;
        Ok(Self {
            paths,
            boot: boot.trim().to_owned(),
            policy: Arc::default(),
        })
    }

    /// The same, fetching by this policy instead of the usual one.
    #[must_use]
    pub fn with_policy(mut self, policy: Arc<SourcePolicy>) -> Self {
        self.policy = policy;
        self
    }

    /// Whether its directories are still there.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.paths.mirrors().is_dir() && self.paths.checkouts().is_dir()
    }

    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    /// Where everything is.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Brings the commit that a source names into the cache.
    ///
    /// A full commit id that is there already needs no network; a branch, a tag and the default branch of a remote ask
    /// it each time. Dropping the future kills git and leaves the mirror to the next fetch.
    ///
    /// # Errors
    ///
    /// Any [`SourceError`] but [`SourceError::RefusedTree`].
    pub async fn fetch(
        &self,
        source: &SourceSpec,
        progress: Progress,
    ) -> Result<Fetched, SourceError> {
        self.find_or_fetch(source, &progress)
            .await
            .map_err(|e| e.in_cache(self.paths.root()))
    }

    async fn find_or_fetch(
        &self,
        source: &SourceSpec,
        progress: &Progress,
    ) -> Result<Fetched, SourceError> {
        let (source, policy) = (source.clone(), Arc::clone(&self.policy));
        let request = blocking(move || request(&source, &policy)).await?;
        let used = self.paths.mirror_use(&request.origin.key);
        let mirror = Arc::new(Lock::acquire(&used, Access::Shared).await?);
        mirror.touch();
        let (cache, hold) = (self.clone(), Arc::clone(&mirror));
        match blocking(move || cache.look(request, hold)).await? {
            Looked::Here(fetched) => Ok(*fetched),
            Looked::ToFetch(request) => self.update(*request, mirror, progress).await,
        }
    }

    /// The tree of a fetched commit, made if nobody has made it before.
    ///
    /// # Errors
    ///
    /// When the tree cannot be written, holds what must not be written, or its objects are damaged beyond one repair.
    pub async fn checkout(
        &self,
        fetched: &Fetched,
        progress: Progress,
    ) -> Result<Checkout, SourceError> {
        let checkout = match &fetched.ready {
            Some(ready) => ready.clone(),
            None => self
                .make_checkout(fetched, &progress)
                .await
                .map_err(|e| e.in_cache(self.paths.root()))?,
        };
        Ok(checkout.using(&fetched.mirror))
    }

    /// All that can be known without git: which commit a local source means, and whether the cache has it.
    fn look(&self, request: Request, hold: Arc<Lock>) -> Result<Looked, SourceError> {
        let Wanted::Commit { id, description } = &request.wanted else {
            return Ok(Looked::ToFetch(Box::new(request)));
        };
        let origin = &request.origin;
        let mirror = self.paths.mirror(&origin.key);
        if !mirror::has_stamp(&mirror, origin) {
            return Ok(Looked::ToFetch(Box::new(request)));
        }
        let place = Place::new(&self.paths, &origin.key, id.clone());
        let ready = place.try_open(&self.boot)?;
        let mut commit = id.clone();
        if ready.is_none() || request.subdir.is_some() {
            // What is damaged is found again, and repaired, by whoever holds the mirror's lock.
            let known = mirror
                .exists()
                .then(|| open_mirror(&mirror, &origin.location).ok())
                .flatten()
                .and_then(|r| Some((find_commit(&r, id, &origin.location).ok()??, r)));
            let Some((found, repository)) = known else {
                return Ok(Looked::ToFetch(Box::new(request)));
            };
            commit = found;
            let subdir = request.subdir.as_ref();
            match require_subdir(&repository, &commit, subdir, &origin.location) {
                Err(SourceError::Corrupt { .. }) => {
                    return Ok(Looked::ToFetch(Box::new(request)));
                }
                other => other?,
            }
        }
        Ok(Looked::Here(Box::new(Fetched {
            commit,
            description: description.clone(),
            was_cached: true,
            notices: Vec::new(),
            ready,
            mirror: hold,
            origin: request.origin,
        })))
    }

    /// Fetches, and once more into a new mirror if the old one turns out to be damaged.
    async fn update(
        &self,
        request: Request,
        hold: Arc<Lock>,
        progress: &Progress,
    ) -> Result<Fetched, SourceError> {
        let Request {
            origin,
            wanted,
            subdir,
        } = request;
        let mirror = LockedMirror::acquire(&self.paths, &origin).await?;
        let attempt = async || {
            // Whoever had the lock before us may have fetched just this.
            let known = match &wanted {
                Wanted::Commit { .. }
                    if mirror::has_stamp(&mirror_path(self, &origin), &origin) =>
                {
                    mirror.find(&wanted).await?
                }
                _ => None,
            };
            let was_cached = known.is_some();
            let resolved = match known {
                Some(resolved) => resolved,
                None => mirror.fetch(&wanted, progress).await?,
            };
            let path = mirror_path(self, &origin);
            let (commit, subdir) = (resolved.commit.clone(), subdir.clone());
            let location = origin.location.clone();
            blocking(move || {
                let repository = open_mirror(&path, &location)?;
                require_subdir(&repository, &commit, subdir.as_ref(), &location)
            })
            .await?;
            Ok((resolved, was_cached))
        };
        let mut notices = Vec::new();
        let (resolved, was_cached) = match attempt().await {
            Err(SourceError::Corrupt { .. }) => {
                mirror.discard().await?;
                notices.push(repaired(&origin));
                attempt().await?
            }
            other => other?,
        };
        Ok(Fetched {
            commit: resolved.commit,
            description: resolved.description,
            was_cached,
            notices,
            ready: None,
            mirror: hold,
            origin: origin.clone(),
        })
    }

    async fn make_checkout(
        &self,
        fetched: &Fetched,
        progress: &Progress,
    ) -> Result<Checkout, SourceError> {
        let key = &fetched.origin.key;
        let place = Place::new(&self.paths, key, fetched.commit.clone());
        let mut repairs = Vec::new();
        loop {
            let shared = place.lock(Access::Shared).await?;
            if let Some(mut checkout) = place.open(shared, &self.boot) {
                checkout.notices.extend(repairs);
                return Ok(checkout);
            }
            // Whoever is faster will hold it as long as its job runs: that is not to be waited for, but used.
            let Some(alone) = place.try_lock(Access::Exclusive)? else {
                tokio::time::sleep(TRY_AGAIN).await;
                continue;
            };
            match self.make(&place, alone, fetched, progress).await {
                Ok(()) => {}
                Err(SourceError::Corrupt { .. }) if repairs.is_empty() => {
                    self.repair(fetched, progress).await?;
                    repairs.push(repaired(&fetched.origin));
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Makes a checkout. The locks go with the work: it goes on to its end when the caller goes away.
    async fn make(
        &self,
        place: &Place,
        alone: Lock,
        fetched: &Fetched,
        progress: &Progress,
    ) -> Result<(), SourceError> {
        let mirror_lock = self.paths.mirror_lock(&fetched.origin.key);
        let steady = Lock::acquire(&mirror_lock, Access::Shared).await?;
        let (place, boot, progress) = (place.clone(), self.boot.clone(), Arc::clone(progress));
        let location = fetched.origin.location.clone();
        blocking(move || {
            let made = place.make(&boot, &location, &progress);
            drop((alone, steady));
            made
        })
        .await
    }

    async fn repair(&self, fetched: &Fetched, progress: &Progress) -> Result<(), SourceError> {
        let mirror = LockedMirror::acquire(&self.paths, &fetched.origin).await?;
        mirror.discard().await?;
        let wanted = Wanted::Commit {
            id: fetched.commit.clone(),
            description: fetched.description.clone(),
        };
        mirror.fetch(&wanted, progress).await.map(drop)
    }
}

#[derive(Debug)]
enum Looked {
    Here(Box<Fetched>),
    ToFetch(Box<Request>),
}

fn request(source: &SourceSpec, policy: &Arc<SourcePolicy>) -> Result<Request, SourceError> {
    let subdir = source.subdir.clone();
    match &source.location {
        SourceLocation::Local(path) => {
            let found = local::find(path, source.reference.as_ref())?;
            Ok(Request {
                origin: found.origin,
                wanted: Wanted::Commit {
                    id: found.commit,
                    description: found.description,
                },
                subdir,
            })
        }
        SourceLocation::Remote(url) => {
            policy.check(url).map_err(|why| SourceError::Refused {
                location: url.to_string(),
                why,
            })?;
            let origin = Origin::remote(url, policy);
            let wanted = match &source.reference {
                None => Wanted::Default,
                Some(GitRef::Name(name)) if name == "HEAD" => Wanted::Default,
                Some(GitRef::Name(name)) => Wanted::Name(name.clone()),
                Some(GitRef::Commit(id)) if id.as_str().len() != 40 => {
                    return Err(SourceError::Sha256 {
                        location: origin.location,
                    });
                }
                Some(GitRef::Commit(id)) => Wanted::Commit {
                    id: id.clone(),
                    description: id.short().to_owned(),
                },
            };
            Ok(Request {
                origin,
                wanted,
                subdir,
            })
        }
    }
}

fn mirror_path(cache: &SourceCache, origin: &Origin) -> PathBuf {
    cache.paths.mirror(&origin.key)
}

fn repaired(origin: &Origin) -> String {
    format!(
        "the cached copy of {} was damaged and has been made again",
        origin.location
    )
}
