//! What an attempt needs to know that is not in the job: values that the edge read from flags and environment.

use std::path::PathBuf;

use bryo_image::PullOptions;
use bryo_model::RuntimeKind;
use bryo_sandbox::RuntimePlaces;

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
}
