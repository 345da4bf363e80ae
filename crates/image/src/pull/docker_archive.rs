//! `docker-archive:FILE`: what `docker save` and `podman save` write.
//!
//! The form has no manifest of its own kind and no digests of the layers as they stand. We make an OCI manifest from
//! what is there: the same archive gives the same digest everywhere.

use serde::Deserialize;

use super::archive::Contents;
use crate::blobs;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::export;
use crate::image::Blob;
use crate::import;
use crate::paths::Paths;
use crate::scratch::Scratch;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The one image of the archive.
pub(super) fn import(
    paths: &Paths,
    scratch: &Scratch,
    contents: &mut Contents,
) -> Result<Digest, ImageError> {
    let list: Vec<Listed> = serde_json::from_slice(&contents.document("manifest.json")?)
        .map_err(|e| ImageError::unusable(format!("its manifest.json is malformed: {e}")))?;
    let [listed] = list.as_slice() else {
        let tags: Vec<_> = list
            .iter()
            .flat_map(|l| l.repo_tags.iter().flatten().map(String::as_str))
            .collect();
        return Err(ImageError::unusable(format!(
            "the archive holds {} images ({}), not one",
            list.len(),
            tags.join(", ")
        )));
    };
    let config = contents.item(&listed.config)?.blob;
    let layers = listed
        .layers
        .iter()
        .flatten()
        .map(|name| {
            contents
                .item(name)
                .map(|item| (item.blob, item.compression))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let manifest = export::write_manifest(&config, layers.into_iter());
    let top = Blob {
        digest: blobs::put(paths, scratch, &manifest)?,
        size: manifest.len() as u64,
    };
    import::import(paths, scratch, top, contents)
}
