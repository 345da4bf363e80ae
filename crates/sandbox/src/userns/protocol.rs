//! What the agent and its helper say to each other: one JSON object per line, on two pipes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::measure::OnDisk;

/// A wish of the agent, numbered; the answer carries the number.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) number: u64,
    pub(super) wish: Wish,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Wish {
    /// Make and pin a nested user namespace, in which the ids from `first` on are 0 and up, and a network
    /// namespace that it owns if asked.
    Nest {
        name: String,
        first: u32,
        network: bool,
    },
    /// Let go of both.
    Unnest { name: String },
    /// Give a directory to the root of a job: its id 0, as it is counted here.
    Give { path: PathBuf, root: u32 },
    /// Take a whole tree back: everything becomes the agent's, readable and removable.
    Reclaim { path: PathBuf },
    /// Remove a tree of any owner.
    Remove { path: PathBuf },
    /// Add up what is in these directories, and what these processes hold open without a name.
    Measure {
        dirs: Vec<PathBuf>,
        processes: Vec<u32>,
        most: OnDisk,
    },
    /// Kill everything in this cgroup if the agent ends before it takes this back.
    Guard { cgroup: PathBuf },
    /// The cgroup is gone.
    Unguard { cgroup: PathBuf },
}

/// The answer to a wish; an error is text because its cause lies in another process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) number: u64,
    pub(super) error: Option<String>,
    /// What was measured.
    #[serde(default)]
    pub(super) on_disk: Option<OnDisk>,
}
