//! Bringing images in, one module per form.

mod archive;
mod docker_archive;
mod failure;
mod layout;
mod oci_archive;
mod registry;
mod reported;
mod skopeo;
mod storage;

use bryo_model::ImageRef;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::image::Image;
use crate::import;
use crate::paths::Paths;
use crate::store::{Progress, PullOptions};

/// Finds or brings in what the job calls its image.
pub(crate) async fn resolve(
    paths: &Paths,
    image: &ImageRef,
    options: &PullOptions,
    progress: Progress,
) -> Result<Image, ImageError> {
    match image {
        ImageRef::OciLayout { dir, tag } => {
            layout::resolve(paths, image, dir, tag.as_deref(), progress).await
        }
        ImageRef::OciArchive(file) => {
            archive::resolve(paths, image, file, archive::Kind::Oci, progress).await
        }
        ImageRef::DockerArchive(file) => {
            archive::resolve(paths, image, file, archive::Kind::Docker, progress).await
        }
        ImageRef::ContainersStorage(name) => storage::resolve(paths, image, name, progress).await,
        ImageRef::Registry(reference) => {
            registry::resolve(paths, image, reference, options, progress).await
        }
    }
}

/// The image that was brought in just now.
fn loaded(paths: &Paths, manifest: &Digest) -> Result<Image, ImageError> {
    let image = import::load(paths, manifest)?.ok_or_else(|| {
        ImageError::unusable("parts of it disappeared from the store while it was brought in")
    })?;
    Ok(Image {
        is_new: true,
        ..image
    })
}
