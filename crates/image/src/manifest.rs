//! Manifests and indexes: which blobs make an image.
//!
//! Understands OCI image manifests and indexes and Docker's second schema of both. Refuses what names both layers and
//! manifests (one document must not mean two things to two readers), layers that may not be distributed, encrypted
//! layers, and everything else it does not know.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde_json::Value;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::image::{Blob, Compression};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// A document that may stand where an image is expected.
pub(crate) enum Document {
    /// One image.
    Image(Manifest),
    /// Several, to choose from.
    Index(Vec<Descriptor>),
}

/// The parts of one image.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Blob,
    pub(crate) layers: Vec<(Blob, Compression)>,
    /// Whether it is in OCI's own form.
    pub(crate) oci: bool,
}

/// What a document says.
pub(crate) fn parse(bytes: &[u8]) -> Result<Document, ImageError> {
    let value: Value = serde_json::from_slice(bytes).map_err(malformed)?;
    let media_type = value.get("mediaType").and_then(Value::as_str);
    if value.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
        return Err(ImageError::unusable(
            "its manifest is not of schema 2 (images of Docker before 1.10 cannot be used)",
        ));
    }
    let (one, many) = (
        value.get("layers").is_some() || value.get("config").is_some(),
        value.get("manifests").is_some(),
    );
    match (media_type, one, many) {
        (_, true, true) => Err(ImageError::unusable(
            "its manifest names both layers and manifests",
        )),
        (None | Some(OCI_MANIFEST | DOCKER_MANIFEST), true, false) => {
            let oci = media_type != Some(DOCKER_MANIFEST);
            let manifest = serde_json::from_value(value).map_err(malformed)?;
            image(&manifest, oci).map(Document::Image)
        }
        (None | Some(OCI_INDEX | DOCKER_LIST), false, true) => {
            let index: ImageIndex = serde_json::from_value(value).map_err(malformed)?;
            Ok(Document::Index(index.manifests().clone()))
        }
        (other, _, _) => Err(ImageError::unusable(format!(
            "its manifest is of a kind that is not understood ({})",
            other.unwrap_or("no mediaType")
        ))),
    }
}

/// Digest and size of a descriptor.
pub(crate) fn blob(descriptor: &Descriptor) -> Result<Blob, ImageError> {
    let digest: Digest = descriptor
        .digest()
        .to_string()
        .parse()
        .map_err(|e| ImageError::unusable(format!("its manifest is malformed: {e}")))?;
    Ok(Blob {
        digest,
        size: descriptor.size(),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn malformed(error: serde_json::Error) -> ImageError {
    ImageError::unusable(format!("its manifest is malformed: {error}"))
}

fn image(manifest: &ImageManifest, oci: bool) -> Result<Manifest, ImageError> {
    let config_type = manifest.config().media_type().to_string();
    if !CONFIGS.contains(&config_type.as_str()) {
        return Err(ImageError::unusable(format!(
            "it is not a container image but holds {config_type}"
        )));
    }
    let layers = manifest
        .layers()
        .iter()
        .map(|layer| Ok((blob(layer)?, compression(layer.media_type())?)))
        .collect::<Result<_, _>>()?;
    Ok(Manifest {
        config: blob(manifest.config())?,
        layers,
        oci,
    })
}

fn compression(media_type: &MediaType) -> Result<Compression, ImageError> {
    match media_type {
        MediaType::ImageLayer => Ok(Compression::None),
        MediaType::ImageLayerGzip => Ok(Compression::Gzip),
        MediaType::ImageLayerZstd => Ok(Compression::Zstd),
        other => {
            let text = other.to_string();
            match text.strip_prefix(DOCKER_LAYER) {
                Some("") => Ok(Compression::None),
                Some(".gzip") => Ok(Compression::Gzip),
                Some(".zstd") => Ok(Compression::Zstd),
                _ => Err(ImageError::unusable(format!(
                    "it has a layer of a kind that cannot be used ({text})"
                ))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest(media_type: &str, layer: &str) -> Result<Document, ImageError> {
        let config = if media_type == DOCKER_MANIFEST {
            CONFIGS[1]
        } else {
            CONFIGS[0]
        };
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}",
                "config":{{"mediaType":"{config}","digest":"sha256:{HEX}","size":7}},
                "layers":[{{"mediaType":"{layer}","digest":"sha256:{HEX}","size":9}}]}}"#
        );
        parse(text.as_bytes())
    }

    #[test]
    fn both_dialects_are_understood() {
        for (media_type, layer, expected) in [
            (
                OCI_MANIFEST,
                "application/vnd.oci.image.layer.v1.tar",
                Compression::None,
            ),
            (
                OCI_MANIFEST,
                "application/vnd.oci.image.layer.v1.tar+gzip",
                Compression::Gzip,
            ),
            (
                OCI_MANIFEST,
                "application/vnd.oci.image.layer.v1.tar+zstd",
                Compression::Zstd,
            ),
            (DOCKER_MANIFEST, DOCKER_LAYER, Compression::None),
            (
                DOCKER_MANIFEST,
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                Compression::Gzip,
            ),
        ] {
            let Ok(Document::Image(found)) = manifest(media_type, layer) else {
                panic!("{media_type} {layer}");
            };
            assert_eq!(found.layers[0].1, expected);
            assert_eq!((found.config.size, found.layers[0].0.size), (7, 9));
            assert_eq!(found.oci, media_type == OCI_MANIFEST);
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for layer in [
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "text/plain",
        ] {
            assert!(manifest(OCI_MANIFEST, layer).is_err(), "{layer}");
        }
        for text in [
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","layers":[]}"#,
            "[]",
            "",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
