//! The cache as its user sees it: fetch, then check out.
//!
//! Why does a fetch already look for the checkout? When it is ready, the fetch takes the lock that keeps it, and the
//! checkout has nothing left to do: the warm path is a handful of system calls, and no evictor can come in between.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use bryo_model::{Amount, CommitId, GitRef, SourceLocation, SourceSpec, SubDir};

use crate::budget::Budget;
use crate::checkout::{Checkout, NotMade, Place};
use crate::lock::{Access, Lock, TRY_AGAIN};
use crate::mirror::{self, LockedMirror, Wanted};
use crate::modules::Gathered;
use crate::modules::subdir::require_in_tree;
use crate::objects::{Waiting, blocking, find_commit, open_mirror, require_subdir};
use crate::origin::Origin;
use crate::tree::Bounds;
use crate::{Paths, RepositoryKey, SourceError, SourcePolicy, local};

/// Is told how far a transfer or a checkout is.
pub type Progress = Arc<dyn Fn(Amount) + Send + Sync>;

/// Tells backup programs to leave a directory out; the first line is prescribed by <https://bford.info/cachedir/>.
const CACHEDIR_TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# Made by Bryo; can be removed at any time.\n";

/// The largest repositories that people work in have half as many.
const MOST_ENTRIES: u64 = 1_000_000;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Mirrors and checkouts below one directory, shared by any number of tasks and processes.
#[derive(Clone, Debug)]
pub struct SourceCache {
    paths: Paths,
    boot: String,
    policy: Arc<SourcePolicy>,
}

/// A commit that is in the cache, with its submodules.
#[derive(Clone, Debug)]
pub struct Fetched {
    origin: Origin,
    commit: CommitId,
    description: String,
    was_cached: bool,
    notices: Vec<String>,
    tree: FetchedTree,
    /// The mirror's use: held, it stays.
    mirror: Arc<Lock>,
}

/// What a checkout begins with.
#[derive(Clone, Debug)]
enum FetchedTree {
    Ready(Box<Checkout>),
    ToMake(Arc<Gathered>),
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

    pub(crate) fn hold(&self) -> Arc<Lock> {
        Arc::clone(&self.mirror)
    }

    /// What the user should know about the fetch.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }
}

/// A [`SourceSpec`] that knows its mirror.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) origin: Origin,
    pub(crate) wanted: Wanted,
    pub(crate) subdir: Option<SubDir>,
}

/// A commit that is in its mirror.
#[derive(Clone, Debug)]
pub(crate) struct Obtained {
    pub(crate) origin: Origin,
    pub(crate) commit: CommitId,
    pub(crate) description: String,
    pub(crate) was_cached: bool,
    pub(crate) notices: Vec<String>,
    pub(crate) ready: Option<Checkout>,
    pub(crate) mirror: Arc<Lock>,
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
        // libgit2 would keep the trees that it has read, up to 256 MiB. Walks keep what they need themselves.
        static ONCE: Once = Once::new();
        ONCE.call_once(|| git2::opts::enable_caching(false));
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

    pub(crate) fn bounds(&self, waiting: &Waiting) -> Bounds {
        Bounds {
            given_up: waiting.given_up(),
            entries: MOST_ENTRIES,
            bytes: self.policy.limits.bytes,
            memory: self.policy.limits.memory,
        }
    }

    pub(crate) fn policy(&self) -> &Arc<SourcePolicy> {
        &self.policy
    }

    /// Where everything is.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Brings the commit that a source names into the cache, and what its submodules have at it.
    ///
    /// A full commit id that is there already needs no network; a branch, a tag and the default branch of a remote ask
    /// it each time. Dropping the future kills git and leaves the mirror to the next fetch.
    ///
    /// # Errors
    ///
    /// Any [`SourceError`].
    pub async fn fetch(
        &self,
        source: &SourceSpec,
        progress: Progress,
    ) -> Result<Fetched, SourceError> {
        self.fetch_all(source, &progress)
            .await
            .map_err(|e| e.in_cache(self.paths.root()))
    }

    async fn fetch_all(
        &self,
        source: &SourceSpec,
        progress: &Progress,
    ) -> Result<Fetched, SourceError> {
        let request = match source.location {
            SourceLocation::Local(_) => {
                let (source, policy) = (source.clone(), Arc::clone(&self.policy));
                blocking(move || request(&source, &policy)).await?
            }
            SourceLocation::Remote(_) => request(source, &self.policy)?,
        };
        let got = self.obtain(request, progress).await?;
        let ready = match got.ready {
            Some(ready) => Some(ready),
            None => {
                let place = Place::new(
                    &self.paths,
                    &got.origin.key,
                    got.commit.clone(),
                    self.policy.lfs,
                );
                let boot = self.boot.clone();
                blocking(move || place.try_open(&boot)).await?
            }
        };
        // The checkout is named after the whole, whose credential says nothing of its submodules'. Who fetches them all gets
        // the same tree.
        let access = self.policy.access();
        let may_use = |ready: &Checkout| ready.access.as_ref().is_none_or(|made| *made == access);
        let subdir = source.subdir.as_ref();
        let tree = match ready.filter(may_use) {
            Some(ready) => {
                if let Some(subdir) = subdir {
                    require_in_tree(&ready, subdir)?;
                }
                FetchedTree::Ready(Box::new(ready))
            }
            None => {
                let gathered = self.gather(&got.origin, &got.commit, progress).await?;
                if let Some(subdir) = subdir {
                    self.require_in_modules(&gathered, subdir, progress).await?;
                }
                FetchedTree::ToMake(Arc::new(gathered))
            }
        };
        let mut fetched = Fetched {
            origin: got.origin,
            commit: got.commit,
            description: got.description,
            was_cached: got.was_cached,
            notices: got.notices,
            mirror: got.mirror,
            tree,
        };
        if let FetchedTree::ToMake(gathered) = &fetched.tree {
            fetched.was_cached &= gathered.was_cached;
            fetched.notices.extend(gathered.notices.iter().cloned());
        }
        Ok(fetched)
    }

    /// Brings one commit of one repository into its mirror.
    pub(crate) async fn obtain(
        &self,
        request: Request,
        progress: &Progress,
    ) -> Result<Obtained, SourceError> {
        let used = self.paths.mirror_use(&request.origin.key);
        let mirror = Arc::new(Lock::acquire(&used, Access::Shared).await?);
        mirror.touch();
        if let Some(obtained) = self.find_ready(&request, &mirror)? {
            return Ok(obtained);
        }
        let (cache, hold) = (self.clone(), Arc::clone(&mirror));
        match blocking(move || cache.look(request, hold)).await? {
            Looked::Here(obtained) => Ok(*obtained),
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
        let checkout = match &fetched.tree {
            FetchedTree::Ready(ready) => Checkout::clone(ready),
            FetchedTree::ToMake(gathered) => self
                .make_checkout(fetched, gathered, &progress)
                .await
                .map_err(|e| e.in_cache(self.paths.root()))?,
        };
        Ok(checkout.using([Arc::clone(&fetched.mirror)]))
    }

    /// A commit whose checkout is ready. It takes a handful of system calls, which cost less than another thread to make them.
    fn find_ready(
        &self,
        request: &Request,
        hold: &Arc<Lock>,
    ) -> Result<Option<Obtained>, SourceError> {
        let Request {
            origin,
            wanted: Wanted::Commit { id, description },
            subdir: None,
        } = request
        else {
            return Ok(None);
        };
        if !mirror::has_stamp(&self.paths.mirror(&origin.key), origin) {
            return Ok(None);
        }
        let place = Place::new(&self.paths, &origin.key, id.clone(), self.policy.lfs);
        let ready = place.try_open(&self.boot)?;
        Ok(ready.map(|ready| Obtained {
            commit: id.clone(),
            description: description.clone(),
            was_cached: true,
            notices: Vec::new(),
            ready: Some(ready),
            mirror: Arc::clone(hold),
            origin: origin.clone(),
        }))
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
        let place = Place::new(&self.paths, &origin.key, id.clone(), self.policy.lfs);
        let ready = place.try_open(&self.boot)?;
        let mut commit = id.clone();
        if ready.is_none() || request.subdir.is_some() {
            // What is damaged is found again, and repaired, by whoever holds the mirror's lock.
            let known = (ready.is_some() || mirror::is_whole(&mirror))
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
        Ok(Looked::Here(Box::new(Obtained {
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
    ) -> Result<Obtained, SourceError> {
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
                    if mirror::has_stamp(&mirror_path(self, &origin), &origin)
                        && mirror::is_whole(&mirror_path(self, &origin)) =>
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
        Ok(Obtained {
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
        gathered: &Arc<Gathered>,
        progress: &Progress,
    ) -> Result<Checkout, SourceError> {
        let whole = &gathered.contents.parts[0].0;
        let place = Place::new(
            &self.paths,
            whole,
            fetched.commit.clone(),
            gathered.contents.lfs,
        );
        let mut repairs: BTreeMap<&RepositoryKey, String> = BTreeMap::new();
        let mut brought_again = false;
        loop {
            let shared = place.lock(Access::Shared).await?;
            if let Some(mut checkout) = place.open(shared, &self.boot)? {
                checkout.notices.extend(repairs.into_values());
                return Ok(checkout.using(gathered.holds.iter().cloned()));
            }
            // Whoever is faster will hold it as long as its job runs: that is not to be waited for, but used.
            let Some(alone) = place.try_lock(Access::Exclusive)? else {
                tokio::time::sleep(TRY_AGAIN).await;
                continue;
            };
            let origins = gathered.origins.iter();
            let seen: Vec<_> = origins.map(|origin| self.mark(origin)).collect();
            match self.make(&place, alone, gathered, progress).await? {
                Ok(()) => {}
                // An object was spoiled in the cache, or went with a mirror that another job has put aside.
                Err(NotMade {
                    error: SourceError::Lfs { .. },
                    ..
                }) if !brought_again => {
                    brought_again = true;
                    let mut contents = gathered.contents.clone();
                    self.bring_lfs(&mut contents, &gathered.origins, progress)
                        .await?;
                }
                Err(NotMade { part, error }) => {
                    let (origin, (key, damaged)) =
                        (&gathered.origins[part], &gathered.contents.parts[part]);
                    let corrupt = matches!(error, SourceError::Corrupt { .. });
                    if !corrupt || repairs.contains_key(key) {
                        return Err(error);
                    }
                    let seen = seen[part].as_deref();
                    self.repair(origin, &damaged.commit, seen, progress).await?;
                    if gathered.contents.lfs {
                        // They were in the mirror that is gone.
                        let mut contents = gathered.contents.clone();
                        self.bring_lfs(&mut contents, &gathered.origins, progress)
                            .await?;
                    }
                    repairs.insert(key, repaired(origin));
                }
            }
        }
    }

    /// Makes a checkout. The locks go with the work, which ends soon after the caller has gone away.
    async fn make(
        &self,
        place: &Place,
        alone: Lock,
        gathered: &Arc<Gathered>,
        progress: &Progress,
    ) -> Result<Result<(), NotMade>, SourceError> {
        let steady = self.steady(gathered).await?;
        let (place, boot, progress) = (place.clone(), self.boot.clone(), Arc::clone(progress));
        let waiting = Waiting::default();
        let (gathered, bounds) = (Arc::clone(gathered), self.bounds(&waiting));
        blocking(move || {
            let made = place.make(&boot, &gathered.contents, &bounds, &progress);
            drop((alone, steady));
            Ok(made)
        })
        .await
    }

    /// The locks of all mirrors, shared: nobody changes one of them.
    pub(crate) async fn steady(&self, gathered: &Gathered) -> Result<Vec<Lock>, SourceError> {
        let keys: BTreeSet<&RepositoryKey> =
            gathered.contents.parts.iter().map(|(key, _)| key).collect();
        let mut steady = Vec::new();
        for key in keys {
            steady.push(Lock::acquire(&self.paths.mirror_lock(key), Access::Shared).await?);
        }
        Ok(steady)
    }

    /// What a tree of a fetched commit is made of.
    pub(crate) async fn gathered(
        &self,
        fetched: &Fetched,
        progress: &Progress,
    ) -> Result<Arc<Gathered>, SourceError> {
        match &fetched.tree {
            FetchedTree::ToMake(gathered) => Ok(Arc::clone(gathered)),
            FetchedTree::Ready(_) => {
                let all = self.gather(&fetched.origin, &fetched.commit, progress);
                all.await.map(Arc::new)
            }
        }
    }

    /// The mark of an origin's mirror, if there is one.
    pub(crate) fn mark(&self, origin: &Origin) -> Option<String> {
        mirror::mark(&mirror_path(self, origin))
    }

    /// Makes a mirror again, with this commit. `seen` is the mark of the one that was found damaged: another job may have put
    /// that one aside meanwhile, and its successor is not thrown away after it.
    pub(crate) async fn repair(
        &self,
        origin: &Origin,
        commit: &CommitId,
        seen: Option<&str>,
        progress: &Progress,
    ) -> Result<(), SourceError> {
        let mirror = LockedMirror::acquire(&self.paths, origin).await?;
        if mirror::mark(mirror.path()).as_deref() == seen {
            mirror.discard().await?;
        }
        let wanted = Wanted::Commit {
            id: commit.clone(),
            description: commit.short().to_owned(),
        };
        mirror.fetch(&wanted, progress).await.map(drop)
    }
}

#[derive(Debug)]
enum Looked {
    Here(Box<Obtained>),
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
            let origin = Origin::remote(url, policy, &Budget::new(policy.limits));
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

pub(crate) fn repaired(origin: &Origin) -> String {
    format!(
        "the cached copy of {} was damaged and has been made again",
        origin.location
    )
}
