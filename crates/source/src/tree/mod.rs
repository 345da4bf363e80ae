//! The files of one commit: which there will be ([`survey`](mod@survey)), and writing them ([`write`](mod@write)).
//!
//! Why not libgit2's own checkout? It writes one file after another. Here as many threads write as there are processors,
//! and what an older checkout of the same repository has already is linked and not written.
//!
//! Invariants:
//! - a name is looked at by [`names`] before anything is made of it, and each directory is made by us and never found;
//! - links of the tree are made when everything else is there: no path of ours leads through one;
//! - what the tree says is data: no filter, no attribute, no line end is applied.

mod index;
pub(crate) mod names;
mod survey;
mod walk;
mod write;

pub(crate) use survey::{Survey, each_file, survey};
pub(crate) use walk::{Bounds, Known};
pub(crate) use write::{Base, To, write};

use crate::SourceError;
use bryo_model::CommitId;
use git2::{Odb, Oid, Repository};
use std::path::Path;

/// One repository's share of a tree: the whole of it, or a submodule.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Where below the top; empty for the whole.
    pub(crate) prefix: String,
    pub(crate) commit: CommitId,
    /// Its address, for messages.
    pub(crate) location: String,
}

impl Part {
    fn oid(&self) -> Result<Oid, SourceError> {
        Oid::from_str(self.commit.as_str()).map_err(|e| crate::objects::damaged(&e, &self.location))
    }

    /// A path in it, from the top of the whole tree.
    pub(crate) fn shown(&self, path: &[u8]) -> String {
        walk::shown(self.prefix.as_bytes(), path)
    }

    pub(crate) fn refused(&self, what: &str) -> SourceError {
        let detail = match self.prefix.as_str() {
            "" => what.to_owned(),
            prefix => format!("submodule '{prefix}': {what}"),
        };
        SourceError::RefusedTree {
            commit: self.commit.clone(),
            detail,
        }
    }
}

/// The objects in a directory, for one thread.
pub(crate) fn odb<'a>(objects: &Path) -> Result<Odb<'a>, git2::Error> {
    let odb = Odb::new()?;
    odb.add_disk_alternate(&objects.to_string_lossy())?;
    Ok(odb)
}

fn repository(objects: &Path) -> Result<Repository, git2::Error> {
    Repository::from_odb(odb(objects)?)
}
