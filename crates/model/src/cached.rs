//! What a cache holds, for those who list and collect it.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Serialize;

/// What kind of thing it is. What can be made from another one comes first: it is cheaper to make again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CachedKind {
    /// The tree of one commit, made from a mirror.
    Checkout,
    /// An unpacked layer, made from an image.
    Layer,
    /// A bare repository.
    Mirror,
    /// A blob that belongs to no whole image: what an interrupted pull left for the next one.
    Blob,
    /// An image: its documents, and its layers as they were distributed.
    Image,
}

impl CachedKind {
    /// Whether it came from a source of jobs; else it came from an image.
    #[must_use]
    pub const fn is_source(self) -> bool {
        matches!(self, Self::Checkout | Self::Mirror)
    }
}

impl fmt::Display for CachedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checkout => "checkout",
            Self::Layer => "layer",
            Self::Mirror => "mirror",
            Self::Blob => "blob",
            Self::Image => "image",
        })
    }
}

/// One thing in a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// Its kind.
    pub kind: CachedKind,
    /// Its name, unique among its kind.
    pub name: String,
    /// What people call it, where that is known.
    pub called: Option<String>,
    /// Bytes on the disk that would be free without it.
    pub bytes: u64,
    /// Files and directories.
    pub files: u64,
    /// When a job last began to use it.
    pub last_used: SystemTime,
    /// Whether a job uses it now, or somebody makes or removes it.
    pub in_use: bool,
    /// Whether nobody can use it any more: half of something, or made before the machine was started.
    pub worthless: bool,
}

impl Cached {
    /// How long it has not been used.
    #[must_use]
    pub fn idle(&self, now: SystemTime) -> Duration {
        // A time to come means a clock that was set back: just used, as far as anybody knows.
        now.duration_since(self.last_used).unwrap_or_default()
    }
}
