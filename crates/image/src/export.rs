//! Images out again: as the archive that Podman loads.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::json;

use crate::blobs;
use crate::digest::Digest;
use crate::error::{ImageError, io};
use crate::image::{Blob, Compression, Image};
use crate::manifest::{self, Document, OCI_MANIFEST};
use crate::store::ImageStore;

impl ImageStore {
    /// Writes the image as an `oci-archive` tar stream, straight from the store.
    ///
    /// An image that came with a Docker manifest gets an OCI one, with the same configuration and layers: its
    /// [`Image::config_digest`], by which Podman knows it, stays.
    ///
    /// # Errors
    ///
    /// When the store cannot be read or `out` not be written.
    pub fn write_oci_archive(&self, image: &Image, out: impl Write) -> Result<(), ImageError> {
        let manifest = self.oci_manifest(image)?;
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": OCI_MANIFEST,
                "digest": Digest::of(&manifest).to_string(),
                "size": manifest.len(),
            }],
        })
        .to_string();
        let mut archive = Archive(tar::Builder::new(out));
        archive.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.bytes("index.json", index.as_bytes())?;
        archive.bytes(&blob_name(&Digest::of(&manifest)), &manifest)?;
        let mut written = Vec::new();
        let layers = image.layers.iter().map(|layer| layer.blob);
        for blob in std::iter::once(image.config_blob).chain(layers) {
            if !written.contains(&blob.digest) {
                let path = self.paths.blob(&blob.digest);
                let file = File::open(&path).map_err(io("read", &path))?;
                archive.file(&blob_name(&blob.digest), blob.size, file, &path)?;
                written.push(blob.digest);
            }
        }
        archive
            .0
            .into_inner()
            .and_then(|mut out| out.flush())
            .map_err(writing)
    }

    fn oci_manifest(&self, image: &Image) -> Result<Vec<u8>, ImageError> {
        let path = self.paths.blob(&image.manifest.digest);
        let gone = || io("read", &path)(io::Error::from(io::ErrorKind::NotFound));
        let bytes = blobs::document(&self.paths, &image.manifest.digest)?.ok_or_else(gone)?;
        match manifest::parse(&bytes)? {
            Document::Image(parts) if parts.oci => Ok(bytes),
            _ => Ok(write_manifest(
                &image.config_blob,
                image.layers.iter().map(|l| (l.blob, l.compression)),
            )),
        }
    }
}

/// An OCI manifest of these parts, the same bytes for the same parts.
pub(crate) fn write_manifest(
    config: &Blob,
    layers: impl Iterator<Item = (Blob, Compression)>,
) -> Vec<u8> {
    let layers: Vec<_> = layers
        .map(|(blob, compression)| {
            json!({
                "mediaType": format!("application/vnd.oci.image.layer.v1.{}", compression.word()),
                "digest": blob.digest.to_string(),
                "size": blob.size,
            })
        })
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.digest.to_string(),
            "size": config.size,
        },
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn writing(error: io::Error) -> ImageError {
    io("write", Path::new("the image archive"))(error)
}

struct Archive<W: Write>(tar::Builder<W>);

impl<W: Write> Archive<W> {
    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let mut header = header(bytes.len() as u64);
        self.0
            .append_data(&mut header, name, bytes)
            .map_err(writing)
    }

    fn file(&mut self, name: &str, size: u64, file: File, path: &Path) -> Result<(), ImageError> {
        let length = file.metadata().map_err(io("inspect", path))?.len();
        if length != size {
            let why = io::Error::new(io::ErrorKind::InvalidData, "its length changed");
            return Err(io("read", path)(why));
        }
        let mut header = header(size);
        self.0
            .append_data(&mut header, name, file.take(size))
            .map_err(writing)
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header
}
