//! What an agent needs to know: usable values, read and checked at the edge.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bryo_depot::{S3Settings, S3Tuning};
use bryo_model::{ByteSize, Egress, EnvVar, ImageRef, LimitPolicy, Limits, NetworkMode, Secret};

use crate::pattern::{HostPattern, ImagePattern};

/// One agent on one host.
///
/// ```text
/// state/agent.db     jobs taken and results not delivered yet; the only thing here that cannot be made again
/// state/lock         held by the agent that uses this directory
/// ```
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// The durable directory, for this agent alone.
    pub state: PathBuf,
    /// Where the agent can be spoken to: the path of its control socket.
    pub control: PathBuf,
    /// Where jobs come from; at least one.
    pub feeds: Vec<FeedSettings>,
    /// How many attempts run at one time, over all feeds; at least one.
    pub slots: usize,
    /// Where output goes.
    pub depot: S3Settings,
    /// How it is put there.
    pub depot_tuning: S3Tuning,
    /// What jobs get that their feed says nothing of.
    pub jobs: JobPolicy,
    /// What becomes of jobs that were running when the agent was killed.
    pub recovery: Recovery,
    /// How long SIGTERM lets running attempts go on before they are cancelled.
    pub drain: Duration,
    /// When to take no more jobs.
    pub watermarks: Watermarks,
    /// What of the cache is kept while there is nothing to do.
    pub cache: CacheBudget,
    /// Where health and metrics are answered, if anywhere.
    pub listen: Option<Listen>,
    /// How long delivered jobs are remembered.
    pub history: Duration,
}

/// Where jobs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedSettings {
    /// A doc-thor server.
    DocThor(DocThorSettings),
}

impl FeedSettings {
    /// The name under which its jobs are recorded.
    #[must_use]
    pub const fn name(&self) -> &FeedName {
        match self {
            Self::DocThor(settings) => &settings.name,
        }
    }

    /// How many of its jobs run at one time.
    #[must_use]
    pub const fn slots(&self) -> usize {
        match self {
            Self::DocThor(settings) => settings.slots,
        }
    }

    /// Between two polls while there is nothing to do.
    #[must_use]
    pub const fn poll(&self) -> Duration {
        match self {
            Self::DocThor(settings) => settings.poll,
        }
    }

    /// Whether nothing but how often and how much is asked differs. What is in a file of certificates may have changed
    /// without its name.
    pub(crate) fn speaks_like(&self, other: &Self) -> bool {
        let Self::DocThor(mine) = self;
        let Self::DocThor(theirs) = other;
        let same = DocThorSettings {
            poll: mine.poll,
            slots: mine.slots,
            ..theirs.clone()
        };
        mine.ca_bundle.is_none() && *mine == same
    }
}

/// The name of a feed: 1 to 32 of lower-case letters, digits and hyphens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedName(String);

/// The text is not a name of a feed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name of a feed (1 to 32 lower-case letters, digits and hyphens)")]
pub struct InvalidFeedName(String);

impl FeedName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FeedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FeedName {
    type Err = InvalidFeedName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=32).contains(&text.len());
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if fits && text.bytes().all(letter) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidFeedName(text.to_owned()))
        }
    }
}

/// How a doc-thor server is polled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocThorSettings {
    /// Name of this feed.
    pub name: FeedName,
    /// Address of the server, `http://` or `https://`, without `/api/v1`.
    pub server: String,
    /// An API key of the server.
    pub token: Secret,
    /// Between two polls while there is nothing to do; at least 100 ms.
    pub poll: Duration,
    /// How many of its jobs run at one time; at least one, and bounded by [`AgentSettings::slots`] too.
    pub slots: usize,
    /// Certificates to trust beside the system's, as one PEM file.
    pub ca_bundle: Option<PathBuf>,
}

/// What jobs get that their feed says nothing of, and what of the feed's wishes is granted.
#[derive(Clone, Debug)]
pub struct JobPolicy {
    /// The bounds of an attempt; the engine's ceiling is over them.
    pub limits: Limits,
    /// What to do about a bound that this host cannot enforce.
    pub limit_policy: LimitPolicy,
    /// What jobs can reach.
    pub network: NetworkMode,
    /// Where they may connect to, when they are isolated.
    pub egress: Egress,
    /// Whether `/` is read-only for them.
    pub read_only_root: bool,
    /// Variables of every job.
    pub env: Vec<EnvVar>,
    /// Variables of every job whose values must not show in any output.
    pub secrets: Vec<EnvVar>,
    /// Images by the name that a feed says, exactly. What stands here need not stand in `allowed_images`.
    pub images: BTreeMap<String, ImageRef>,
    /// The image of a job that names none.
    pub default_image: Option<ImageRef>,
    /// The registry of image names without one, for instance `docker.io`; without it such names are refused.
    pub default_registry: Option<String>,
    /// The images that may run. Empty means all.
    pub allowed_images: Vec<ImagePattern>,
    /// The hosts that sources may come from. Empty means all but loopback and link-local addresses.
    pub allowed_hosts: Vec<HostPattern>,
    /// Whether a feed may name repositories on this host (`file://`).
    pub local_sources: bool,
    /// Bytes of a job's log that are told to the server, head and tail.
    pub log: ByteSize,
}

/// What becomes of jobs that were running when the agent was killed. Those that had not begun are run in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// They are reported as failed.
    Report,
    /// They are run once more; if that is cut short too, they are reported as failed.
    RetryOnce,
}

/// Free space below which caches are collected, and no job is taken as long as that does not help, on each of the file systems of cache, work and state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Bytes.
    pub free_bytes: ByteSize,
    /// Inodes, where the file system counts them.
    pub free_inodes: u64,
}

/// What of the cache is kept. What jobs use is kept in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheBudget {
    /// Bytes of all of it.
    pub bytes: Option<ByteSize>,
    /// How long a thing may be unused.
    pub unused_for: Option<Duration>,
}

/// Where health and metrics are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// TCP.
    Address(SocketAddr),
    /// A unix socket at this path.
    Socket(PathBuf),
    /// The socket that the service manager passes (`LISTEN_FDS`, sd_listen_fds(3)).
    Passed,
}
