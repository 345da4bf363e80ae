//! Submodules: which a commit has, where they come from, and bringing each into the cache.
//!
//! A submodule is fetched like any source: through the mirror of its own address, with that mirror's locks and bounds, and
//! under the same rules about addresses. What it may not do is lead from a server to this host: a file address is only
//! followed from a file address.
//!
//! Why do not all submodules get credentials? Whoever writes a `.gitmodules` would choose what the operator's credentials
//! are shown to, and read with them what they cannot read themselves.
//!
//! Why do local repositories look into `.git/modules` first? What the user has there is what they build: commits that are
//! nowhere else, and submodules that are reached with credentials that Bryo does not have.

pub(crate) mod declared;
pub(crate) mod subdir;
mod together;

use std::path::Path;
use std::sync::Arc;

use bryo_model::{CommitId, GitUrl, Scheme};
use git2::{ObjectType, Oid, Repository, Tree};

use crate::budget::Budget;
use crate::cache::{Obtained, Request};
use crate::checkout::Contents;
use crate::credentials::Identity;
use crate::lock::{Access, Lock};
use crate::mirror::Wanted;
use crate::objects::{GivenUp, Waiting, blocking, damaged, open_mirror};
use crate::origin::Origin;
use crate::tree::{Known, Part};
use crate::{Progress, RepositoryKey, SourceCache, SourceError, SourcePolicy, local};
use declared::Declared;

/// Submodules of submodules of submodules: more are a mistake or an attack.
const DEEPEST: usize = 8;

/// All submodules of a source.
const MOST: usize = 256;

/// A repository that can have submodules: the source itself, or one of them.
#[derive(Clone, Debug)]
struct Parent {
    origin: Origin,
    commit: CommitId,
    /// Where it is in the tree; empty for the whole.
    prefix: String,
    depth: usize,
    /// Its submodules get the credentials of its own server.
    entitled: bool,
    /// Of the whole job.
    budget: Arc<Budget>,
}

/// What a tree has of submodules.
struct Has {
    modules: Vec<(Declared, CommitId)>,
    /// Left out because `.gitmodules` says so.
    unwanted: Vec<String>,
}

/// Everything that a checkout needs, in the cache.
#[derive(Clone, Debug)]
pub(crate) struct Gathered {
    pub(crate) contents: Contents,
    /// By the number of its part: what it is fetched from.
    pub(crate) origins: Vec<Origin>,
    /// Held, the submodules' mirrors stay.
    pub(crate) holds: Vec<Arc<Lock>>,
    /// No git program ran.
    pub(crate) was_cached: bool,
    /// What the user should know about the fetches.
    pub(crate) notices: Vec<String>,
}

/// A submodule that is to be fetched.
struct Wish {
    parent: Arc<Parent>,
    module: Declared,
    path: String,
    commit: CommitId,
}

/// A submodule that is in the cache.
struct Child {
    as_parent: Parent,
    obtained: Obtained,
}

impl Gathered {
    /// Adds a submodule, which may have others.
    fn take(&mut self, child: Child) -> Parent {
        let Child {
            as_parent,
            obtained,
        } = child;
        self.was_cached &= obtained.was_cached;
        self.notices.extend(obtained.notices);
        self.holds.push(obtained.mirror);
        let Parent {
            origin,
            commit,
            prefix,
            ..
        } = &as_parent;
        self.contents
            .parts
            .push(part(origin, commit, prefix.clone()));
        self.origins.push(origin.clone());
        as_parent
    }
}

impl SourceCache {
    /// Brings all submodules of a commit into the cache, which has the commit itself.
    pub(crate) async fn gather(
        &self,
        origin: &Origin,
        commit: &CommitId,
        progress: &Progress,
    ) -> Result<Gathered, SourceError> {
        let mut all = Gathered {
            contents: Contents {
                parts: vec![part(origin, commit, String::new())],
                notices: Vec::new(),
                left_out: Vec::new(),
                lfs: self.policy().lfs,
                access: None,
            },
            origins: vec![origin.clone()],
            holds: Vec::new(),
            was_cached: true,
            notices: Vec::new(),
        };
        let mut level = vec![Parent {
            origin: origin.clone(),
            commit: commit.clone(),
            prefix: String::new(),
            depth: 0,
            entitled: true,
            budget: match origin.budget() {
                Some(budget) => Arc::clone(budget),
                None => Budget::new(self.policy().limits),
            },
        }];
        while !level.is_empty() {
            let mut wishes = Vec::new();
            for parent in level {
                let has = self.submodules_of(&parent, progress, &mut all).await?;
                for path in has.unwanted {
                    let path = below(&parent.prefix, &path);
                    all.contents.notices.push(format!(
                        "submodule {path} is not fetched: its update is 'none'"
                    ));
                    all.contents.left_out.push(path);
                }
                let parent = Arc::new(parent);
                for (module, commit) in has.modules {
                    let path = below(&parent.prefix, &module.path);
                    let too_many =
                        |what: String| part(origin, &parent.commit, String::new()).1.refused(&what);
                    if parent.depth == DEEPEST {
                        return Err(too_many(format!(
                            "submodule '{path}' is in {DEEPEST} others, and no more than {DEEPEST} levels are fetched"
                        )));
                    }
                    if all.origins.len() + wishes.len() > MOST {
                        return Err(too_many(format!(
                            "with '{path}' it has more than {MOST} submodules"
                        )));
                    }
                    wishes.push(Wish {
                        parent: Arc::clone(&parent),
                        module,
                        path,
                        commit,
                    });
                }
            }
            level = Vec::new();
            for child in together::fetch(self, wishes, progress).await? {
                level.push(all.take(child));
            }
            if level
                .iter()
                .any(|it| it.origin.identity() != Identity::Anonymous)
            {
                all.contents.access = Some(self.policy().access());
            }
        }
        if all.contents.lfs {
            all.was_cached &= self
                .bring_lfs(&mut all.contents, &all.origins, progress)
                .await?;
        }
        Ok(all)
    }

    async fn submodule(&self, wish: Wish, progress: &Progress) -> Result<Child, SourceError> {
        let Wish {
            parent,
            module,
            path,
            commit,
        } = wish;
        let wrap = |source: SourceError, withheld: bool| SourceError::Submodule {
            path: path.clone(),
            url: without_user(&module.url),
            withheld,
            source: Box::new(source),
        };
        let (origin, entitled) = {
            let (parent, module, wanted) = (Arc::clone(&parent), module.clone(), commit.clone());
            let policy = Arc::clone(self.policy());
            blocking(move || origin_of(&parent, &module, &wanted, &policy))
                .await
                .map_err(|e| wrap(e, false))?
        };
        let withheld = !entitled && self.policy().has_credential(&origin);
        let request = Request {
            origin: origin.clone(),
            wanted: Wanted::Commit {
                description: commit.short().to_owned(),
                id: commit.clone(),
            },
            subdir: None,
        };
        let obtained = Box::pin(self.obtain(request, progress))
            .await
            .map_err(|e| wrap(e, withheld))?;
        let as_parent = Parent {
            origin,
            commit,
            depth: parent.depth + 1,
            entitled,
            budget: Arc::clone(&parent.budget),
            prefix: path,
        };
        Ok(Child {
            as_parent,
            obtained,
        })
    }

    /// Reads them from the mirror, which is made again once if that finds it damaged.
    async fn submodules_of(
        &self,
        parent: &Parent,
        progress: &Progress,
        all: &mut Gathered,
    ) -> Result<Has, SourceError> {
        let seen = self.mark(&parent.origin);
        match self.read_submodules(parent).await {
            Err(SourceError::Corrupt { .. }) => {
                self.repair(&parent.origin, &parent.commit, seen.as_deref(), progress)
                    .await?;
                all.notices.push(crate::cache::repaired(&parent.origin));
                self.read_submodules(parent).await
            }
            other => other,
        }
    }

    async fn read_submodules(&self, parent: &Parent) -> Result<Has, SourceError> {
        let lock = self.paths().mirror_lock(&parent.origin.key);
        let steady = Lock::acquire(&lock, Access::Shared).await?;
        let (mirror, parent) = (self.paths().mirror(&parent.origin.key), parent.clone());
        let waiting = Waiting::default();
        let given_up = waiting.given_up();
        blocking(move || {
            let has = read(&mirror, &parent, &given_up);
            drop(steady);
            has
        })
        .await
    }
}

fn part(origin: &Origin, commit: &CommitId, prefix: String) -> (RepositoryKey, Part) {
    let part = Part {
        prefix,
        commit: commit.clone(),
        location: origin.location.clone(),
    };
    (origin.key.clone(), part)
}

fn below(prefix: &str, path: &str) -> String {
    match prefix {
        "" => path.to_owned(),
        prefix => format!("{prefix}/{path}"),
    }
}

fn read(mirror: &Path, parent: &Parent, given_up: &GivenUp) -> Result<Has, SourceError> {
    let location = &parent.origin.location;
    let failed = |e: git2::Error| damaged(&e, location);
    let repository = open_mirror(mirror, location)?;
    let oid = Oid::from_str(parent.commit.as_str()).map_err(failed)?;
    let tree = repository
        .find_commit(oid)
        .and_then(|commit| commit.tree())
        .map_err(failed)?;
    let refused = |what: &str| {
        let (_, part) = part(&parent.origin, &parent.commit, parent.prefix.clone());
        part.refused(&format!("its .gitmodules is refused: {what}"))
    };
    let mut has = Has {
        modules: Vec::new(),
        unwanted: Vec::new(),
    };
    let Some(entry) = tree.get_name(".gitmodules") else {
        return Ok(has);
    };
    if entry.filemode_raw() & 0o170_000 != 0o100_000 {
        return Err(refused("it is not a file"));
    }
    let (size, kind) = repository
        .odb()
        .and_then(|odb| odb.read_header(entry.id()))
        .map_err(failed)?;
    if size > declared::LARGEST || kind != ObjectType::Blob {
        return Err(refused("it is larger than 1 MiB"));
    }
    let text = repository.find_blob(entry.id()).map_err(failed)?;
    let mut known = Known::default();
    for module in declared::parse(text.content()).map_err(|why| refused(&why))? {
        given_up.check(mirror)?;
        let at = gitlink(&repository, &mut known, &tree, &module.path).map_err(failed)?;
        match at {
            At::Nothing => {}
            At::Link(link) => {
                let (name, path) = (&module.name, &module.path);
                return Err(refused(&format!(
                    "submodule {name:?}: its path {path:?} leads through the link '{link}'"
                )));
            }
            At::Commit(_) if module.unwanted => has.unwanted.push(module.path),
            At::Commit(id) => {
                let commit = crate::objects::commit_id(id, location)?;
                has.modules.push((module, commit));
            }
        }
    }
    Ok(has)
}

/// What a tree has at the path of a submodule.
enum At {
    Commit(Oid),
    /// A link on the way.
    Link(String),
    /// Something else, or nothing: git does not mind, and nothing is made of it.
    Nothing,
}

fn gitlink<'r>(
    repository: &'r Repository,
    known: &mut Known<'r>,
    top: &Tree<'r>,
    path: &str,
) -> Result<At, git2::Error> {
    let mut tree = top.clone();
    let mut parts = path.split('/').peekable();
    let mut way = String::new();
    while let Some(name) = parts.next() {
        way = below(&way, name);
        let (mode, id) = match tree.get_name_bytes(name.as_bytes()) {
            Some(entry) => (entry.filemode_raw() & 0o170_000, entry.id()),
            None => return Ok(At::Nothing),
        };
        match (mode, parts.peek()) {
            (0o160_000, None) => return Ok(At::Commit(id)),
            (0o120_000, Some(_)) => return Ok(At::Link(way)),
            (0o040_000, Some(_)) => {
                tree = known.find(repository, id)?;
            }
            _ => return Ok(At::Nothing),
        }
    }
    Ok(At::Nothing)
}

/// Where a submodule comes from, and whether it is entitled to credentials.
fn origin_of(
    parent: &Parent,
    module: &Declared,
    commit: &CommitId,
    policy: &Arc<SourcePolicy>,
) -> Result<(Origin, bool), SourceError> {
    let here = parent.origin.local.as_deref();
    if let Some(here) = here
        && let Some(origin) = local::initialised(here, &module.name, commit)?
    {
        return Ok((origin, true));
    }
    // What the user has, they brought there themselves.
    let bring = match here {
        Some(_) => "; run 'git submodule update --init' in the repository",
        None => "",
    };
    let bad = |what: String| SourceError::BadAddress(format!("{what}{bring}"));
    let base = match here {
        None => parent
            .origin
            .remote
            .as_ref()
            .map(|remote| remote.url.clone()),
        Some(here) => local::remote_url(here),
    };
    let relative = module.url.starts_with("./") || module.url.starts_with("../");
    let url: GitUrl = match (relative, base.clone()) {
        (true, None) => {
            let what = "it is relative, and the repository has no remote 'origin' with an address";
            return Err(bad(what.to_owned()));
        }
        (true, Some(base)) => base.join(&module.url),
        (false, _) => module.url.parse(),
    }
    .map_err(|e| bad(e.to_string()))?;
    match (&parent.origin.remote, url.scheme()) {
        (None, Scheme::File) => Err(bad(
            "a submodule that leads to another place on this host is not followed".to_owned(),
        )),
        (None, _) => policy.check(&url).map_err(|why| refused(&url, why)),
        (Some(remote), _) => policy
            .check_named_by(remote.url.scheme(), &url)
            .map_err(|why| refused(&url, why)),
    }?;
    let entitled = policy.is_open_to_submodules(&url)
        || parent.entitled && base.is_some_and(|base| belongs(&base, &url, policy));
    Ok(match entitled {
        true => (Origin::remote(&url, policy, &parent.budget), true),
        false => {
            let policy = Arc::new(policy.without_credentials());
            (Origin::remote(&url, &policy, &parent.budget), false)
        }
    })
}

/// Whether a submodule is on the server of its repository, or for the same credential.
fn belongs(base: &GitUrl, url: &GitUrl, policy: &SourcePolicy) -> bool {
    let server = |url: &GitUrl| (url.scheme(), url.host(), url.port());
    let name = |url| policy.credential(url).map(|rule| &rule.name);
    server(base) == server(url) || name(base).is_some() && name(base) == name(url)
}

fn refused(url: &GitUrl, why: crate::Refusal) -> SourceError {
    SourceError::Refused {
        location: url.to_string(),
        why,
    }
}

/// An address without what stands before its host: that may be a password.
fn without_user(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            match authority.rsplit_once('@') {
                Some((_, host)) => format!("{scheme}://…@{host}/{path}"),
                None => url.to_owned(),
            }
        }
        None => url.to_owned(),
    }
}
