//! The door of the store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bryo_model::{Amount, ImageRef};

use crate::error::ImageError;
use crate::image::Image;
use crate::lock::{Hold, Lock};
use crate::paths::Paths;
use crate::{pull, scratch};

/// Told how far the work got.
pub type Progress = Arc<dyn Fn(Amount) + Send + Sync>;

/// How a registry is talked to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullOptions {
    /// The file with credentials; without one, where Podman and skopeo look by themselves.
    pub authfile: Option<PathBuf>,
    /// Talk plain HTTP where the registry does, and do not verify its certificate where it does not: skopeo has one
    /// switch for both.
    pub plain_http: bool,
}

/// A content-addressed store of images. Several processes may use one at the same time.
#[derive(Clone, Debug)]
pub struct ImageStore {
    pub(crate) paths: Paths,
}

impl ImageStore {
    /// Opens the store in a directory, which is made if need be, and removes what a crash left there.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let paths = Paths::create(root)?;
        scratch::sweep(&paths);
        Ok(Self { paths })
    }

    /// Whether its directories are still there.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.paths.tmp().is_dir() && self.paths.blobs().is_dir()
    }

    /// Brings an image into the store, verified against its digests, unless it is there already.
    ///
    /// As long as the image or a clone of it lives, nobody removes it from the store.
    ///
    /// Dropping the future gives the work up and ends the programs that it runs; how long it may take is the caller's
    /// decision.
    ///
    /// # Errors
    ///
    /// [`Fault::Missing`](crate::Fault::Missing) when there is no such image or it may not be read,
    /// [`Fault::Unusable`](crate::Fault::Unusable) when it is broken or not for this host, and
    /// [`Fault::Infrastructure`](crate::Fault::Infrastructure) when registry, disk or skopeo fail.
    pub async fn resolve(
        &self,
        image: &ImageRef,
        options: &PullOptions,
        progress: Progress,
    ) -> Result<Image, ImageError> {
        // Nobody removes blobs between looking for them and holding the image.
        let coming = Lock::share(&self.paths.blobs_lock()).await?;
        let mut found = pull::resolve(&self.paths, image, options, progress).await?;
        let hold = Lock::share(&self.paths.image_lock(found.manifest_digest())).await?;
        hold.call(&image.to_string());
        hold.touch();
        found.hold = Hold::on(vec![hold]);
        drop(coming);
        Ok(found)
    }
}
