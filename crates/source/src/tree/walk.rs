//! What the tree of a commit will be on the disk.
//!
//! A tree is walked as often as it is needed and never kept: what is in memory is the directories on the way to one entry,
//! and a few that may be met again, so that a repository with many directories needs no more than one with few. The first
//! walk is the [`survey`](fn@super::survey): it looks at everything before anything is written. Objects are named by their
//! content, so later walks find the same.
//!
//! A few hundred bytes of objects can describe more files than any disk holds. Entries are therefore counted while they
//! are found, and bytes while they are written.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use bryo_model::ByteSize;
use git2::{ObjectType, Oid, Repository, Tree, TreeEntry};

use super::{Part, index, names};
use crate::SourceError;
use crate::objects::{GivenUp, damaged};

/// What a checkout may have.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// Files, links and directories.
    pub(crate) entries: u64,
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// Bytes of one of its files or directories, which is in memory while it is written.
    pub(crate) memory: u64,
    /// Nobody waits for it any more.
    pub(crate) given_up: GivenUp,
}

/// Leaves room for the path of the cache, and of the job's own, in the 4096 bytes that the kernel takes.
const LONGEST_PATH: usize = 3072;

/// The index has each path whole, and a tree of few bytes can be below a path of many. Honest ones have a hundredth.
const MOST_PATHS: usize = 256 << 20;

/// So many names of directories that were read are kept, for trees that have the same one over and over.
const MOST_KNOWN: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Executable,
    Symlink,
    /// A commit of another repository.
    Module,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// From the top of its repository's share, with `/`.
    pub(crate) path: Vec<u8>,
    pub(crate) id: Oid,
    pub(crate) kind: Kind,
    /// The base has it under the same path.
    pub(crate) in_base: bool,
}

/// What a walk comes to.
#[derive(Debug)]
pub(super) enum Step {
    /// A directory, before what is in it. Its path.
    Dir(Vec<u8>),
    Entry(Entry),
}

/// All of a tree in the order of git's index, each directory before what is in it.
pub(super) struct Walk<'r> {
    repository: &'r Repository,
    part: &'r Part,
    /// A stack of positions: the order must be that of git's index, and depth must cost no stack of ours.
    levels: Vec<Level<'r>>,
    bounds: &'r Bounds,
    /// What is left of the bounds; none for a tree that was surveyed.
    room: Option<Room>,
    known: Known<'r>,
}

impl<'r> Walk<'r> {
    /// The walk that checks everything.
    pub(super) fn first(
        repository: &'r Repository,
        part: &'r Part,
        bounds: &'r Bounds,
    ) -> Result<Self, SourceError> {
        let room = Room {
            entries: bounds.entries,
            most: bounds.entries,
            paths: MOST_PATHS,
        };
        Self::new(repository, part, None, bounds, Some(room))
    }

    /// The walk through a tree that was surveyed; `base` is the commit of an older checkout that can be linked to.
    pub(super) fn again(
        repository: &'r Repository,
        part: &'r Part,
        base: Option<Oid>,
        bounds: &'r Bounds,
    ) -> Result<Self, SourceError> {
        Self::new(repository, part, base, bounds, None)
    }

    fn new(
        repository: &'r Repository,
        part: &'r Part,
        base: Option<Oid>,
        bounds: &'r Bounds,
        room: Option<Room>,
    ) -> Result<Self, SourceError> {
        let tree_of = |commit: Oid| repository.find_commit(commit).map(|c| c.tree_id());
        let id = tree_of(part.oid()?).map_err(|e| damaged(&e, &part.location))?;
        let in_base = match base.and_then(|commit| tree_of(commit).ok()) {
            None => Beside::Nothing,
            Some(base) if base == id => Beside::TheSame,
            Some(base) => Beside::Another(base),
        };
        let mut walk = Self {
            repository,
            part,
            levels: Vec::new(),
            bounds,
            room,
            known: Known::default(),
        };
        walk.open(Vec::new(), id, in_base)?;
        Ok(walk)
    }

    fn open(&mut self, path: Vec<u8>, id: Oid, in_base: Beside) -> Result<(), SourceError> {
        let part = self.part;
        let tree = self.tree(&path, id)?;
        if let Some(room) = &mut self.room {
            room.take(part, &path, &tree)?;
            check(part, &path, &tree)?;
        }
        let base = match in_base {
            // Only a help: without it, all is written.
            Beside::Another(id) => self.repository.find_tree(id).ok(),
            Beside::Nothing | Beside::TheSame => None,
        };
        self.levels.push(Level {
            path,
            same: matches!(in_base, Beside::TheSame),
            order: index::order(&tree),
            tree,
            base,
            at: 0,
        });
        Ok(())
    }

    fn tree(&mut self, path: &[u8], id: Oid) -> Result<Tree<'r>, SourceError> {
        let failed = |e: git2::Error| damaged(&e, &self.part.location);
        let refused = |what: &str| {
            let path = String::from_utf8_lossy(path);
            self.part.refused(&format!("the tree of '{path}' {what}"))
        };
        if self.room.is_some() && !self.known.trees.contains_key(&id) {
            let odb = self.repository.odb().map_err(failed)?;
            let (size, _) = odb.read_header(id).map_err(failed)?;
            if u64::try_from(size).unwrap_or(u64::MAX) > self.bounds.memory {
                let most = ByteSize::new(self.bounds.memory);
                return Err(refused(&format!("is larger than {most} (source.memory)")));
            }
        }
        match self.known.find(self.repository, id) {
            Err(e) if is_malformed(&e) => Err(refused("is malformed")),
            other => other.map_err(failed),
        }
    }

    fn step(&mut self) -> Result<Option<Step>, SourceError> {
        let place = Path::new(&self.part.location);
        self.bounds.given_up.check(place)?;
        while let Some(level) = self.levels.last_mut() {
            match level.next(self.part)? {
                None => {
                    self.levels.pop();
                }
                Some((Found::Entry(entry), _)) => return Ok(Some(Step::Entry(entry))),
                Some((Found::Tree(path, id), in_base)) => {
                    self.open(path.clone(), id, in_base)?;
                    return Ok(Some(Step::Dir(path)));
                }
            }
        }
        Ok(None)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Step, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// What the base has where this tree is.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    Another(Oid),
    TheSame,
}

/// Trees that were read a short while ago. A few bytes of a pack can be one that takes long to read, and be in any number of
/// places.
#[derive(Default)]
pub(crate) struct Known<'r> {
    trees: HashMap<Oid, Tree<'r>>,
    names: usize,
}

impl<'r> Known<'r> {
    /// The tree of this id.
    ///
    /// # Errors
    ///
    /// Those of libgit2.
    pub(crate) fn find(
        &mut self,
        repository: &'r Repository,
        id: Oid,
    ) -> Result<Tree<'r>, git2::Error> {
        if let Some(tree) = self.trees.get(&id) {
            return Ok(tree.clone());
        }
        let tree = repository.find_tree(id)?;
        let names = tree.len() + 1;
        if self.names + names > MOST_KNOWN {
            self.trees.clear();
            self.names = 0;
        }
        if names <= MOST_KNOWN {
            self.trees.insert(id, tree.clone());
            self.names += names;
        }
        Ok(tree)
    }
}

/// What is left of the bounds. It is taken when a tree is opened: what is in it is looked at later.
struct Room {
    entries: u64,
    most: u64,
    paths: usize,
}

impl Room {
    fn take(&mut self, part: &Part, dir: &[u8], tree: &Tree<'_>) -> Result<(), SourceError> {
        let found = u64::try_from(tree.len()).unwrap_or(u64::MAX);
        self.entries = self.entries.checked_sub(found).ok_or_else(|| {
            let most = self.most;
            part.refused(&format!("it has more than {most} files and directories"))
        })?;
        let paths = tree.iter().map(|e| dir.len() + 1 + e.name_bytes().len());
        let paths: usize = paths.sum();
        self.paths = self.paths.checked_sub(paths).ok_or_else(|| {
            let most = MOST_PATHS >> 20;
            part.refused(&format!("its paths are longer than {most} MiB"))
        })?;
        Ok(())
    }
}

/// Refuses paths that no disk takes, and a name that is there twice.
fn check(part: &Part, dir: &[u8], tree: &Tree<'_>) -> Result<(), SourceError> {
    let entries: Vec<_> = tree.iter().collect();
    let mut seen = HashSet::with_capacity(entries.len());
    for name in entries.iter().map(TreeEntry::name_bytes) {
        if dir.len() + name.len() > LONGEST_PATH {
            let bytes = LONGEST_PATH;
            let start = String::from_utf8_lossy(&dir[..dir.len().min(40)]);
            return Err(part.refused(&format!(
                "a path below '{start}…' is longer than {bytes} bytes"
            )));
        }
        if !seen.insert(name) {
            let path = shown(dir, name);
            return Err(part.refused(&format!("{path}: its name is there twice")));
        }
    }
    Ok(())
}

struct Level<'r> {
    path: Vec<u8>,
    tree: Tree<'r>,
    base: Option<Tree<'r>>,
    same: bool,
    at: usize,
    /// The positions of its entries in the order of the index, if git's own order is another: nothing makes a server
    /// sort what it sends.
    order: Option<Vec<usize>>,
}

enum Found {
    Tree(Vec<u8>, Oid),
    Entry(Entry),
}

impl Level<'_> {
    fn next(&mut self, part: &Part) -> Result<Option<(Found, Beside)>, SourceError> {
        let at = match &self.order {
            None => Some(self.at),
            Some(order) => order.get(self.at).copied(),
        };
        let Some(entry) = at.and_then(|at| self.tree.get(at)) else {
            return Ok(None);
        };
        self.at += 1;
        let name = entry.name_bytes();
        // In every walk: the next thing that happens to it is that something is made of it.
        if let Some(why) = names::refusal(name) {
            return Err(part.refused(&format!("{}: {why}", shown(&self.path, name))));
        }
        let (id, mode) = (entry.id(), entry.filemode_raw());
        let other = self.base.as_ref().and_then(|b| b.get_name_bytes(name));
        let in_base = match &other {
            _ if self.same => Beside::TheSame,
            Some(other) if kind(other.filemode_raw()) == kind(mode) && other.id() == id => {
                Beside::TheSame
            }
            Some(other) if other.kind() == Some(ObjectType::Tree) => Beside::Another(other.id()),
            _ => Beside::Nothing,
        };
        let mut path = Vec::with_capacity(self.path.len() + name.len() + 1);
        path.extend_from_slice(&self.path);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let found = match kind(mode) {
            None if mode & 0o170_000 == 0o040_000 => Found::Tree(path, id),
            None => {
                let path = shown(&self.path, name);
                return Err(part.refused(&format!("{path}: its mode {mode:o} means nothing")));
            }
            Some(kind) => Found::Entry(Entry {
                path,
                id,
                kind,
                in_base: matches!(in_base, Beside::TheSame),
            }),
        };
        Ok(Some((found, in_base)))
    }
}

/// Old git wrote other permissions than those of today.
fn kind(mode: i32) -> Option<Kind> {
    match mode & 0o170_000 {
        0o100_000 if mode & 0o100 != 0 => Some(Kind::Executable),
        0o100_000 => Some(Kind::File),
        0o120_000 => Some(Kind::Symlink),
        0o160_000 => Some(Kind::Module),
        _ => None,
    }
}

/// libgit2 reads an object that it cannot make sense of with this class, and a missing or damaged one with another.
fn is_malformed(error: &git2::Error) -> bool {
    use git2::ErrorClass::{Invalid, Object, Tree};
    matches!(error.class(), Tree | Object | Invalid)
}

pub(super) fn shown(dir: &[u8], name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    match dir {
        b"" => format!("'{}'", name.escape_debug()),
        dir => format!(
            "'{}/{}'",
            String::from_utf8_lossy(dir).escape_debug(),
            name.escape_debug()
        ),
    }
}
