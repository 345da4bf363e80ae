//! What an attempt needs to know that is not in the job: values that the edge read from flags and environment.

use std::path::PathBuf;
use std::sync::Arc;

use bryo_image::PullOptions;
use bryo_model::{Ceiling, Destination, EnvVar, RuntimeKind};
use bryo_sandbox::{RuntimePlaces, Selinux};
use bryo_source::SourcePolicy;

/// Settings of this host and this caller.
///
/// ```text
/// cache/source/    mirrors and checkouts
/// cache/images/    blobs and unpacked layers
/// work/<job>/      what belongs to one attempt; removed at its end
/// ```
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shared by all attempts, and worth keeping.
    pub cache: PathBuf,
    /// Where attempts have their own directories; must be able to hold what a job writes.
    pub work: PathBuf,
    /// How images are pulled.
    pub pull: PullOptions,
    /// The wanted runtime; without one the best that the host can do.
    pub runtime: Option<RuntimeKind>,
    /// Where runtimes find things.
    pub places: RuntimePlaces,
    /// The most that a job gets, whatever it asks for.
    pub ceiling: Ceiling,
    /// What of the network a job gets, whatever it asks for.
    pub network: NetworkSettings,
    /// Each job has subordinate ids that no other job has at the same time; else all jobs of the user share some.
    pub own_ids: bool,
    /// Name of a loaded AppArmor profile that jobs run under.
    pub apparmor: Option<String>,
    /// SELinux labels of jobs.
    pub selinux: Selinux,
    /// What sources may come from, as whom, and how much of them.
    pub source: Arc<SourcePolicy>,
}

impl Settings {
    /// The directory of mirrors and checkouts.
    pub(crate) fn source_cache(&self) -> PathBuf {
        self.cache.join("source")
    }
}

/// What the host's owner says about the network of jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Jobs that ask for a network get the host's own, without any of the bounds below.
    pub host: bool,
    /// Jobs may connect to the host's own addresses (loopback and link-local ones excepted).
    pub reach_host: bool,
    /// Closed to every job: the control plane.
    pub closed: Vec<Destination>,
    /// Certificates that jobs trust, as one PEM file: mounted into the job and named by the variables that TLS
    /// libraries read.
    pub ca_bundle: Option<PathBuf>,
    /// Proxy variables (`https_proxy` and its kind) that jobs get.
    pub proxy: Vec<EnvVar>,
}
