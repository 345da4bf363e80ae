//! `oci-archive:FILE`: an OCI image layout in a tar file.

use super::archive::Contents;
use super::layout;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::import;
use crate::manifest;
use crate::paths::Paths;
use crate::scratch::Scratch;

/// The one image of the archive.
pub(super) fn import(
    paths: &Paths,
    scratch: &Scratch,
    contents: &mut Contents,
) -> Result<Digest, ImageError> {
    let index = contents.document("index.json")?;
    let top = manifest::blob(&layout::select(&index, None)?)?;
    import::import(paths, scratch, top, contents)
}
