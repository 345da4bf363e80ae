//! A bare mirror, and bringing it up to date.
//!
//! Invariants:
//! - only [`LockedMirror`], which holds the mirror's exclusive lock, can change one;
//! - a mirror appears under its name whole, and is taken from it by one rename;
//! - its configuration names no remote and no address: both are arguments of each fetch;
//! - every commit that was fetched stays, whether or not a reference still leads to it: nothing here prunes objects.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bryo_model::CommitId;
use git2::{Repository, RepositoryInitOptions};

use crate::git::{Outcome, Tags, What};
use crate::lock::{Access, Lock};
use crate::objects::{blocking, damaged, find_commit, open_mirror};
use crate::origin::Origin;
use crate::{Paths, Progress, RepositoryKey, SourceError, git, refs};

/// Present while git writes.
pub(crate) const FETCHING: &str = "bryo-fetching";
const REFS: &str = "bryo-refs";
const STAMP: &str = "bryo-stamp";

/// Where [`Wanted::Name`] keeps what is neither a branch nor a tag.
const FULL_NAMES: &str = "refs/bryo/refs/";

/// What a fetch is for.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// This commit, and what to call it.
    Commit { id: CommitId, description: String },
    /// A branch, a tag or a full reference.
    Name(String),
    /// The remote's HEAD.
    Default,
}

impl Wanted {
    /// What is fetched beside all branches and tags, and where it is kept.
    fn refspec(&self) -> Option<String> {
        match self {
            Self::Commit { .. } => None,
            Self::Name(name) if !name.starts_with("refs/") => None,
            Self::Name(name)
                if name.starts_with("refs/heads/") || name.starts_with("refs/tags/") =>
            {
                None
            }
            Self::Name(name) => Some(format!("+{name}:{}{name}", refs::OWN)),
            Self::Default => Some(format!("+HEAD:{}HEAD", refs::OWN)),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Commit { id, .. } => format!("commit {id}"),
            Self::Name(name) => format!("branch or tag '{name}'"),
            Self::Default => "default branch".to_owned(),
        }
    }
}

/// What was found for it.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) commit: CommitId,
    pub(crate) description: String,
}

/// The file that shows a mirror's refs to a checkout.
pub(crate) fn refs_file(mirror: &Path) -> PathBuf {
    mirror.join(REFS)
}

/// Whether the last fetch came to its end. Git shows a pack before it has looked whether anything is missing and before a
/// reference leads to it: until then, that a mirror has a commit says nothing of the commit's files.
pub(crate) fn is_whole(mirror: &Path) -> bool {
    !mirror.join(FETCHING).exists() && refs_file(mirror).exists()
}

/// What tells a mirror from one that was made again in its place: its configuration is written once.
pub(crate) fn mark(mirror: &Path) -> Option<String> {
    let meta = fs::metadata(mirror.join("config")).ok()?;
    let (seconds, nanos) = (meta.mtime(), meta.mtime_nsec());
    Some(format!("{}.{seconds}.{nanos:09}", meta.ino()))
}

/// Whether the mirror was last fetched in this state of its source's tags.
pub(crate) fn has_stamp(mirror: &Path, origin: &Origin) -> bool {
    origin.stamp.as_ref().is_none_or(|stamp| {
        fs::read_to_string(mirror.join(STAMP)).is_ok_and(|recorded| recorded == *stamp)
    })
}

/// A mirror that nobody else reads or writes.
#[derive(Debug)]
pub(crate) struct LockedMirror<'a> {
    paths: &'a Paths,
    origin: &'a Origin,
    path: PathBuf,
    lock: Arc<Lock>,
}

impl<'a> LockedMirror<'a> {
    /// Waits for the mirror.
    pub(crate) async fn acquire(paths: &'a Paths, origin: &'a Origin) -> Result<Self, SourceError> {
        let lock = Lock::acquire(&paths.mirror_lock(&origin.key), Access::Exclusive).await?;
        Ok(Self {
            paths,
            origin,
            path: paths.mirror(&origin.key),
            lock: Arc::new(lock),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Brings what is wanted into the mirror: a commit of a server's alone, with the tags on the way to it; where the server
    /// does not give it, and for names, all branches and tags. One git program, and for a commit another one where the mirror has tags.
    pub(crate) async fn fetch(
        &self,
        wanted: &Wanted,
        progress: &Progress,
    ) -> Result<Resolved, SourceError> {
        self.make_ready().await?;
        let marker = self.path.join(FETCHING);
        let before = is_whole(&self.path).then(|| packs(&self.path));
        fs::write(&marker, b"").map_err(SourceError::io(&marker))?;
        let resolved = match self.fetch_and_find(wanted, progress).await {
            Ok(resolved) => resolved,
            Err(error) => {
                self.clear_after(before).await?;
                return Err(error);
            }
        };
        self.publish().await?;
        fs::remove_file(&marker).map_err(SourceError::io(&marker))?;
        Ok(resolved)
    }

    async fn fetch_and_find(
        &self,
        wanted: &Wanted,
        progress: &Progress,
    ) -> Result<Resolved, SourceError> {
        let exactly = match self.fetch_only(wanted, progress).await {
            Ok(Some(resolved)) => return Ok(resolved),
            Ok(None) => self.origin.remote.is_none(),
            Err(SourceError::RefMissing { .. }) => false,
            // Servers refuse a commit that no reference names in words of their own. If it was something else, it comes again.
            Err(SourceError::Git { .. }) if matches!(wanted, Wanted::Commit { .. }) => false,
            Err(other) => return Err(other),
        };
        let everything = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
        let mut refspecs: Vec<String> = everything.map(str::to_owned).into();
        refspecs.extend(wanted.refspec());
        match self.all(&refspecs, progress).await {
            Ok(()) => {}
            Err(SourceError::RefMissing { .. }) if refspecs.len() > everything.len() => {
                // Git fetched nothing then; what exists is worth another round on the way to an error.
                self.all(&refspecs[..everything.len()], progress).await?;
                return Err(self.missing(wanted).await?);
            }
            Err(other) => return Err(other),
        }
        if let Some(resolved) = self.find(wanted).await? {
            return Ok(resolved);
        }
        if let Wanted::Commit { id, .. } = wanted
            && exactly
        {
            match self.all(&[exact(id)], progress).await {
                Ok(()) => {}
                Err(SourceError::RefMissing { .. }) => return Err(self.missing(wanted).await?),
                Err(other) => return Err(other),
            }
            if let Some(resolved) = self.find(wanted).await? {
                return Ok(resolved);
            }
        }
        Err(self.missing(wanted).await?)
    }

    /// Brings what is wanted alone, with the tags on the way to it, from where that costs less than everything: a commit of a
    /// server's, and where history is cut off anything. `None`, or that it is missing, where that is not the way: also where a
    /// name of the server's has no room beside one that it does not have any more, which only pruning everything takes.
    async fn fetch_only(
        &self,
        wanted: &Wanted,
        progress: &Progress,
    ) -> Result<Option<Resolved>, SourceError> {
        let cut_off = self.origin.depth().is_some();
        match wanted {
            Wanted::Commit { id, .. } if self.origin.remote.is_some() => {
                self.forget_stale_tags(progress).await?;
                match self.git(&[exact(id)], Tags::Followed, progress).await? {
                    Outcome::Brought => self.find(wanted).await,
                    Outcome::NoRoom(_) => Ok(None),
                }
            }
            Wanted::Default if cut_off => {
                let head: Vec<String> = wanted.refspec().into_iter().collect();
                match self.git(&head, Tags::Followed, progress).await? {
                    Outcome::Brought => self.find(wanted).await,
                    Outcome::NoRoom(_) => Ok(None),
                }
            }
            Wanted::Name(name) if cut_off => {
                for full in refs::candidates(name) {
                    let own = if full == *name && wanted.refspec().is_some() {
                        format!("{}{name}", refs::OWN)
                    } else {
                        full.clone()
                    };
                    let refspec = [format!("+{full}:{own}")];
                    match self.git(&refspec, Tags::Followed, progress).await {
                        // The name may be of an older branch in the mirror, so only what came now is looked at.
                        Ok(Outcome::Brought) => {
                            return self.find_reference(own, name.clone()).await;
                        }
                        Ok(Outcome::NoRoom(_)) => return Ok(None),
                        Err(SourceError::RefMissing { .. }) => {}
                        Err(other) => return Err(other),
                    }
                }
                Ok(None)
            }
            Wanted::Commit { .. } | Wanted::Default | Wanted::Name(_) => Ok(None),
        }
    }

    async fn find_reference(
        &self,
        reference: String,
        description: String,
    ) -> Result<Option<Resolved>, SourceError> {
        self.at_work(move |path, origin| {
            let repository = open_mirror(path, &origin.location)?;
            let commit = refs::first_commit(&repository, &[reference], &origin.location)?;
            Ok(commit.map(|commit| Resolved {
                commit,
                description,
            }))
        })
        .await
    }

    /// Work on the mirror's files. The lock goes with it: when the caller goes away, the work goes on to its end.
    pub(crate) async fn at_work<T, F>(&self, work: F) -> Result<T, SourceError>
    where
        T: Send + 'static,
        F: FnOnce(&Path, &Origin) -> Result<T, SourceError> + Send + 'static,
    {
        let (path, origin, lock) = (
            self.path.clone(),
            self.origin.clone(),
            Arc::clone(&self.lock),
        );
        blocking(move || {
            let result = work(&path, &origin);
            drop(lock);
            result
        })
        .await
    }

    async fn git(
        &self,
        refspecs: &[String],
        tags: Tags,
        progress: &Progress,
    ) -> Result<Outcome, SourceError> {
        let what = What { refspecs, tags };
        self.proved(git::fetch(&self.path, self.origin, self.paths, what, progress).await)
            .await
    }

    /// What git told after it talked to a server. A server can say what git would say, so words alone prove no damage.
    async fn proved<T>(&self, told: Result<T, SourceError>) -> Result<T, SourceError> {
        match told {
            Err(SourceError::Corrupt { location, detail })
                if self.origin.is_elsewhere()
                    && !git::is_damaged(&self.path, self.origin).await =>
            {
                Err(SourceError::Git { location, detail })
            }
            other => other,
        }
    }

    /// Takes the tags away that the server has no longer, or elsewhere: git follows tags, but never one that is there. Those
    /// on the way to what is fetched come again. By a refspec of all tags they would bring the histories of all versions.
    async fn forget_stale_tags(&self, progress: &Progress) -> Result<(), SourceError> {
        let ours = self
            .at_work(|path, origin| {
                let repository = open_mirror(path, &origin.location)?;
                refs::below(&repository, "refs/tags/", &origin.location)
            })
            .await?;
        if ours.is_empty() {
            return Ok(());
        }
        let listed = git::tags(&self.path, self.origin, self.paths, progress).await;
        let theirs = self.proved(listed).await?;
        let stale: Vec<Vec<u8>> = ours
            .into_iter()
            .filter(|(name, id)| theirs.get(name) != Some(id))
            .map(|(name, _)| name)
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        git::forget(&self.path, &stale).await
    }

    /// By refspecs that prune what is in the way. What still is can only be a reference that was fetched by its full name.
    async fn all(&self, refspecs: &[String], progress: &Progress) -> Result<(), SourceError> {
        if let Outcome::Brought = self.git(refspecs, Tags::Named, progress).await? {
            return Ok(());
        }
        self.forget_full_names().await?;
        match self.git(refspecs, Tags::Named, progress).await? {
            Outcome::Brought => Ok(()),
            Outcome::NoRoom(detail) => Err(SourceError::Git {
                location: self.origin.location.clone(),
                detail,
            }),
        }
    }

    /// Their commits stay: nothing takes what no reference leads to.
    async fn forget_full_names(&self) -> Result<(), SourceError> {
        let names = self
            .at_work(|path, origin| {
                let repository = open_mirror(path, &origin.location)?;
                let all = refs::below(&repository, FULL_NAMES, &origin.location)?;
                Ok(all.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
            })
            .await?;
        git::forget(&self.path, &names).await
    }

    /// What is wanted, if the mirror has it.
    pub(crate) async fn find(&self, wanted: &Wanted) -> Result<Option<Resolved>, SourceError> {
        let wanted = wanted.clone();
        self.at_work(move |path, origin| find(path, &wanted, &origin.location))
            .await
    }

    async fn missing(&self, wanted: &Wanted) -> Result<SourceError, SourceError> {
        let existing = match wanted {
            Wanted::Commit { .. } => String::new(),
            Wanted::Name(_) | Wanted::Default => {
                self.at_work(|path, origin| {
                    open_mirror(path, &origin.location).map(|r| refs::existing(&r))
                })
                .await?
            }
        };
        Ok(self.origin.ref_missing(wanted.words(), existing))
    }

    /// Makes the mirror if there is none, clears what a killed git left, and looks for damage.
    async fn make_ready(&self) -> Result<(), SourceError> {
        let new = self.paths.mirror_new(&self.origin.key);
        self.at_work(move |path, origin| {
            if !path.exists() {
                return make(path, &new);
            }
            if path.join(FETCHING).exists() {
                clear_leftovers(path)?;
            }
            let repository = open_mirror(path, &origin.location)?;
            refs::check(&repository, &origin.location)
        })
        .await
    }

    /// Removes what a failed fetch left. Where no pack came either, the mirror is what it was, `before` being its packs; else
    /// the marker stays, and the next fetch looks again.
    async fn clear_after(&self, before: Option<Vec<OsString>>) -> Result<(), SourceError> {
        self.at_work(move |path, _| {
            if !path.exists() {
                return Ok(());
            }
            clear_leftovers(path)?;
            if before.is_some_and(|before| before == packs(path)) {
                let marker = path.join(FETCHING);
                fs::remove_file(&marker).map_err(SourceError::io(&marker))?;
            }
            Ok(())
        })
        .await
    }

    /// Writes what checkouts see of the mirror's refs, and the state of the source that was fetched.
    async fn publish(&self) -> Result<(), SourceError> {
        self.at_work(|path, origin| {
            let repository = open_mirror(path, &origin.location)?;
            let text = refs::as_packed_refs(&repository, &origin.location)?;
            replace(&refs_file(path), &text)?;
            match &origin.stamp {
                Some(stamp) => replace(&path.join(STAMP), stamp.as_bytes()),
                None => Ok(()),
            }
        })
        .await
    }

    /// Puts a damaged mirror aside; the next fetch makes a new one. Jobs that run have its objects mounted and read what is
    /// whole of them, so it is removed when nobody uses the repository: see [`crate::inventory`].
    pub(crate) async fn discard(&self) -> Result<(), SourceError> {
        let paths = self.paths.clone();
        self.at_work(move |path, origin| put_aside(&paths, path, &origin.key))
            .await
    }
}

/// Renames a mirror, which may not be there, to a name that is free. The caller holds its lock alone.
pub(crate) fn put_aside(
    paths: &Paths,
    mirror: &Path,
    key: &RepositoryKey,
) -> Result<(), SourceError> {
    let Some(aside) = (0..)
        .map(|number| paths.mirror_aside(key, number))
        .find(|aside| !aside.exists())
    else {
        return Ok(());
    };
    match fs::rename(mirror, &aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SourceError::io(mirror)(e)),
        _ => Ok(()),
    }
}

/// The names of a mirror's packs.
fn packs(mirror: &Path) -> Vec<OsString> {
    let all = fs::read_dir(mirror.join("objects/pack"));
    let names = all.into_iter().flatten().flatten();
    let mut packs: Vec<OsString> = names
        .map(|entry| entry.file_name())
        .filter(|name| name.as_encoded_bytes().ends_with(b".pack"))
        .collect();
    packs.sort();
    packs
}

/// A commit, kept by its id.
fn exact(id: &CommitId) -> String {
    format!("{id}:{}commits/{id}", refs::OWN)
}

fn find(path: &Path, wanted: &Wanted, location: &str) -> Result<Option<Resolved>, SourceError> {
    if !path.exists() {
        return Ok(None);
    }
    let repository = open_mirror(path, location)?;
    let (commit, description) = match wanted {
        Wanted::Commit { id, description } => {
            (find_commit(&repository, id, location)?, description.clone())
        }
        Wanted::Name(name) => {
            let mut names = refs::candidates(name);
            if name.starts_with("refs/") {
                names.push(format!("{}{name}", refs::OWN));
            }
            (
                refs::first_commit(&repository, &names, location)?,
                name.clone(),
            )
        }
        Wanted::Default => {
            let head = [format!("{}HEAD", refs::OWN)];
            let commit = refs::first_commit(&repository, &head, location)?;
            let branch = commit
                .as_ref()
                .and_then(|c| refs::only_branch_at(&repository, c));
            (commit, branch.unwrap_or_else(|| "HEAD".to_owned()))
        }
    };
    Ok(commit.map(|commit| Resolved {
        commit,
        description,
    }))
}

fn make(path: &Path, new: &Path) -> Result<(), SourceError> {
    remove_all(new)?;
    let mut options = RepositoryInitOptions::new();
    options
        .bare(true)
        .external_template(false)
        .no_reinit(true)
        .mkdir(true)
        .initial_head("main");
    Repository::init_opts(new, &options).map_err(|e| damaged(&e, &new.display().to_string()))?;
    remove_all(&new.join("hooks"))?;
    fs::rename(new, path).map_err(SourceError::io(path))
}

/// Removes locks and temporary files of a git that was killed. The exclusive lock says that none is at work.
fn clear_leftovers(mirror: &Path) -> Result<(), SourceError> {
    let is_leftover = |name: &str| {
        name.ends_with(".lock")
            || name.ends_with(".keep")
            || name.starts_with("tmp_")
            || name.starts_with(".tmp-")
    };
    let mut rest = vec![mirror.to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(&dir).map_err(SourceError::io(&dir))? {
            let entry = entry.map_err(SourceError::io(&dir))?;
            let path = entry.path();
            if entry.file_type().map_err(SourceError::io(&path))?.is_dir() {
                rest.push(path);
            } else if is_leftover(&entry.file_name().to_string_lossy()) {
                fs::remove_file(&path).map_err(SourceError::io(&path))?;
            }
        }
    }
    Ok(())
}

/// Replaces a file by rename: whoever has the old one open or mounted keeps it.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), SourceError> {
    let new = path.with_extension("new");
    fs::write(&new, content).map_err(SourceError::io(&new))?;
    fs::rename(&new, path).map_err(SourceError::io(path))
}

/// Removes a directory with all in it, which may not be there.
pub(crate) fn remove_all(path: &Path) -> Result<(), SourceError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SourceError::io(path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_git_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = dir.path().join("m");
        make(&mirror, &dir.path().join("m.new")).unwrap();
        let left = [
            "shallow.lock",
            "packed-refs.lock",
            "refs/heads/main.lock",
            "objects/pack/tmp_pack_abc",
            "objects/pack/pack-1.keep",
        ];
        let kept = ["objects/pack/pack-1.pack", "refs/heads/main", "HEAD"];
        for name in left.iter().chain(&kept) {
            fs::write(mirror.join(name), b"x").unwrap();
        }
        clear_leftovers(&mirror).unwrap();
        assert!(left.iter().all(|n| !mirror.join(n).exists()));
        assert!(kept.iter().all(|n| mirror.join(n).exists()));
    }

    #[test]
    fn a_mirror_knows_no_remote() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = dir.path().join("m");
        make(&mirror, &dir.path().join("m.new")).unwrap();
        let config = fs::read_to_string(mirror.join("config")).unwrap();
        assert!(!config.contains("remote"), "{config}");
        assert!(!mirror.join("hooks").exists());
    }
}
