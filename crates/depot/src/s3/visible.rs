//! What readers may see of a version while it is published: a store has no rename.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// What readers may see of a version whose publication failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visible {
    /// What an earlier publication that failed half-way left: this one had not changed anything yet.
    Earlier,
    /// Assets of the new files; pages as they were.
    Assets {
        /// Whether the version was not there before.
        new: bool,
    },
    /// Some pages of the new files.
    Pages {
        /// Whether the version was not there before.
        new: bool,
    },
    /// All of the new files; perhaps stale ones beside them.
    All,
}

impl fmt::Display for Visible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Earlier => {
                "nothing was changed, but an earlier publication had failed half-way and readers may see a mixture of versions"
            }
            Self::Assets { new: false } => {
                "readers see the pages of before, perhaps with some new assets"
            }
            Self::Assets { new: true } => "readers find no page yet, only some assets",
            Self::Pages { new: false } => "readers may see a mixture of old and new pages",
            Self::Pages { new: true } => "readers find only some of the pages",
            Self::All => "readers see all new files, and perhaps some that should be gone",
        })
    }
}

/// What readers may see if it ends now; `None`: what they saw before.
#[derive(Debug, Default)]
pub(crate) struct Reached(Mutex<Option<Visible>>);

impl Reached {
    pub(crate) fn set(&self, visible: Visible) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(visible);
    }

    pub(crate) fn get(&self) -> Option<Visible> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
