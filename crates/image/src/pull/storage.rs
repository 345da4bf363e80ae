//! `containers-storage:REF`: the user's own Podman and Buildah store.
//!
//! What the store says the manifest is identifies the image, but what a copy of it gets may be another one: the store
//! does not keep layers as they were distributed. So a record leads from the one to the other. What is copied is asked
//! for by its id, for a name may move in between.

use bryo_model::ImageRef;

use super::loaded;
use super::skopeo::{Order, Skopeo, bring};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::image::Image;
use crate::import;
use crate::lock::Lock;
use crate::manifest::{self, Document};
use crate::paths::Paths;
use crate::record;
use crate::store::{Progress, PullOptions};

/// Finds what was copied from the user's store before, or copies it.
pub(super) async fn resolve(
    paths: &Paths,
    image: &ImageRef,
    name: &str,
    progress: Progress,
) -> Result<Image, ImageError> {
    let options = PullOptions::default();
    let skopeo = Skopeo::find(image.to_string(), &options)?;
    let reference = format!("containers-storage:{name}");
    let stored = skopeo.manifest(&reference).await?;
    let key = record::storage_key(&stored);
    if let Some(image) = recorded(paths, &key)? {
        return Ok(image);
    }
    let lock = Lock::wait(&paths.pull_lock(&key)).await?;
    if let Some(image) = recorded(paths, &key)? {
        return Ok(image);
    }
    let Document::Image(parts) = manifest::parse(&stored)? else {
        return Err(ImageError::unusable(
            "it is a list of images; name one of them",
        ));
    };
    let order = Order {
        reference: &format!("containers-storage:@{}", parts.config.digest.hex()),
        manifest: None,
        bytes: parts.layers.iter().map(|(layer, _)| layer.size).sum(),
        record: Some(key),
    };
    let digest = bring(paths, &skopeo, order, lock, &progress).await?;
    loaded(paths, &digest)
}

fn recorded(paths: &Paths, key: &Digest) -> Result<Option<Image>, ImageError> {
    match record::find(paths, key) {
        Some(manifest) => import::load(paths, &manifest),
        None => Ok(None),
    }
}
