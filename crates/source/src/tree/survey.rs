//! What the tree of a commit has, found before anything is written.

use std::collections::HashSet;
use std::path::Path;

use git2::{ObjectType, Oid, Repository};

use super::walk::{Entry, Kind, Step, Walk};
use super::{Bounds, Part, repository};
use crate::SourceError;
use crate::objects::damaged;

/// More than are fetched.
const MOST_MODULES: usize = 1024;

/// No honest list of attributes is larger.
const LARGEST_ATTRIBUTES: usize = 1 << 20;

/// What a tree has, all of it allowed.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Directories, without the top.
    pub(crate) dirs: u64,
    /// What is in the index: files, links and modules.
    pub(crate) entries: u64,
    /// Links among them.
    pub(crate) links: u64,
    /// Where commits of other repositories are, as many as any honest repository has.
    pub(crate) modules: Vec<Vec<u8>>,
    /// How many more of these there are.
    pub(crate) more_modules: usize,
    /// An attribute speaks of Git LFS.
    pub(crate) mentions_lfs: bool,
}

/// Looks at all of a commit's tree.
///
/// # Errors
///
/// When objects are missing, or the tree is not to be written.
pub(crate) fn survey(part: &Part, objects: &Path, bounds: &Bounds) -> Result<Survey, SourceError> {
    let failed = |e: git2::Error| damaged(&e, &part.location);
    let repository = repository(objects).map_err(failed)?;
    let mut found = Survey::default();
    // The same object can be in any number of directories.
    let mut attributes = HashSet::new();
    for step in Walk::first(&repository, part, bounds)? {
        match step? {
            Step::Dir(_) => found.dirs += 1,
            Step::Entry(entry) => {
                found.entries += 1;
                found.links += u64::from(entry.kind == Kind::Symlink);
                if !found.mentions_lfs && is_attributes(&entry) && attributes.insert(entry.id) {
                    found.mentions_lfs = mentions_lfs(&repository, entry.id).map_err(failed)?;
                }
                match entry.kind {
                    Kind::Module if found.modules.len() < MOST_MODULES => {
                        found.modules.push(entry.path);
                    }
                    Kind::Module => found.more_modules += 1,
                    Kind::File | Kind::Executable | Kind::Symlink => {}
                }
            }
        }
    }
    Ok(found)
}

/// Shows `see` the files of a tree that was surveyed.
///
/// # Errors
///
/// When objects are missing, and what `see` fails with.
pub(crate) fn each_file(
    part: &Part,
    objects: &Path,
    bounds: &Bounds,
    mut see: impl FnMut(Entry) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let repository = repository(objects).map_err(|e| damaged(&e, &part.location))?;
    for step in Walk::again(&repository, part, None, bounds)? {
        match step? {
            Step::Entry(entry) if matches!(entry.kind, Kind::File | Kind::Executable) => {
                see(entry)?;
            }
            Step::Entry(_) | Step::Dir(_) => {}
        }
    }
    Ok(())
}

fn is_attributes(entry: &Entry) -> bool {
    let name = b".gitattributes";
    matches!(entry.kind, Kind::File | Kind::Executable)
        && (entry.path == name || entry.path.ends_with(b"/.gitattributes"))
}

fn mentions_lfs(repository: &Repository, id: Oid) -> Result<bool, git2::Error> {
    const WORDS: &[u8] = b"filter=lfs";
    let (size, kind) = repository.odb()?.read_header(id)?;
    if kind != ObjectType::Blob || size > LARGEST_ATTRIBUTES {
        return Ok(false);
    }
    let blob = repository.find_blob(id)?;
    Ok(blob.content().windows(WORDS.len()).any(|at| at == WORDS))
}
