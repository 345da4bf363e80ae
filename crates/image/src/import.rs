//! From documents and blobs that arrived somewhere to an image in the store, and from the store to an [`Image`].
//!
//! The manifest goes in last: where it is, the rest is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::blobs;
use crate::config;
use crate::digest::{self, Digest};
use crate::error::{ImageError, io, reading};
use crate::image::{Blob, Image, LayerRef};
use crate::lock::Hold;
use crate::manifest::{self, Document, Manifest};
use crate::paths::Paths;
use crate::platform;
use crate::scratch::Scratch;

/// How many indexes may point to each other.
pub(crate) const MAX_DEPTH: usize = 4;

/// Where blobs come from: makes a file of the store's own file system that the caller may keep, with content that was
/// checked against digest and size.
pub(crate) trait Arrival {
    /// How many bytes of layers will be taken.
    fn expect(&mut self, _bytes: u64) {}

    fn take(&mut self, blob: &Blob) -> Result<PathBuf, ImageError>;
}

/// Brings an image in, given the digest and size of its manifest or index. Returns its manifest's digest.
pub(crate) fn import(
    paths: &Paths,
    scratch: &Scratch,
    top: Blob,
    from: &mut dyn Arrival,
) -> Result<Digest, ImageError> {
    let mut indexes: Vec<Vec<u8>> = Vec::new();
    let mut document = top;
    for _ in 0..MAX_DEPTH {
        let bytes = match blobs::document(paths, &document.digest)? {
            Some(bytes) => bytes,
            None => small(&document, from)?.0,
        };
        match manifest::parse(&bytes)? {
            Document::Image(parts) => {
                bring(paths, &parts, from)?;
                for index in indexes {
                    blobs::put(paths, scratch, &index)?;
                }
                return blobs::put(paths, scratch, &bytes);
            }
            Document::Index(candidates) => {
                document = manifest::blob(platform::choose(&candidates)?)?;
                indexes.push(bytes);
            }
        }
    }
    Err(ImageError::unusable("its indexes are nested too deeply"))
}

/// The image with this manifest, or with this index, if all of it is in the store.
pub(crate) fn load(paths: &Paths, top: &Digest) -> Result<Option<Image>, ImageError> {
    let mut digest = *top;
    for _ in 0..MAX_DEPTH {
        let Some(bytes) = blobs::document(paths, &digest)? else {
            return Ok(None);
        };
        match manifest::parse(&bytes)? {
            Document::Image(parts) => {
                let manifest = Blob {
                    digest,
                    size: bytes.len() as u64,
                };
                return complete(paths, manifest, &parts);
            }
            Document::Index(candidates) => {
                digest = manifest::blob(platform::choose(&candidates)?)?.digest;
            }
        }
    }
    Ok(None)
}

/// Hashes a file that is already in place and compares.
pub(crate) fn check_file(
    path: &Path,
    blob: &Blob,
    input: impl std::io::Read,
) -> Result<(), ImageError> {
    let mut input = input;
    let found = digest::copy_hashed(&mut input, &mut std::io::sink())
        .map_err(reading("one of its blobs", path))?;
    check(blob, found)
}

/// Compares what came with what was announced.
pub(crate) fn check(blob: &Blob, (digest, size): (Digest, u64)) -> Result<(), ImageError> {
    if size != blob.size {
        Err(ImageError::unusable(format!(
            "its blob {} has {size} bytes and should have {}",
            blob.digest, blob.size
        )))
    } else if digest != blob.digest {
        Err(ImageError::unusable(format!(
            "its blob {} is damaged: the content is {digest}",
            blob.digest
        )))
    } else {
        Ok(())
    }
}

fn small(blob: &Blob, from: &mut dyn Arrival) -> Result<(Vec<u8>, PathBuf), ImageError> {
    if blob.size > blobs::MAX_DOCUMENT {
        return Err(ImageError::unusable(format!(
            "its document {} is larger than {} bytes",
            blob.digest,
            blobs::MAX_DOCUMENT
        )));
    }
    let path = from.take(blob)?;
    let bytes = fs::read(&path).map_err(io("read", &path))?;
    Ok((bytes, path))
}

fn bring(paths: &Paths, parts: &Manifest, from: &mut dyn Arrival) -> Result<(), ImageError> {
    let bytes = match blobs::document(paths, &parts.config.digest)? {
        Some(bytes) => bytes,
        None => {
            let (bytes, file) = small(&parts.config, from)?;
            blobs::adopt(paths, &file, &parts.config.digest)?;
            bytes
        }
    };
    let (_, diff_ids) = config::parse(&bytes)?;
    matching(parts, &diff_ids)?;
    let absent = parts.layers.iter().map(|(l, _)| l);
    let absent = absent.filter(|l| !blobs::holds(paths, l));
    from.expect(absent.map(|l| l.size).sum());
    for (layer, _) in &parts.layers {
        // Asked again: an image may have the same layer twice.
        if !blobs::holds(paths, layer) {
            let file = from.take(layer)?;
            blobs::adopt(paths, &file, &layer.digest)?;
        }
    }
    Ok(())
}

fn complete(paths: &Paths, manifest: Blob, parts: &Manifest) -> Result<Option<Image>, ImageError> {
    let Some(bytes) = blobs::document(paths, &parts.config.digest)? else {
        return Ok(None);
    };
    let (config, diff_ids) = config::parse(&bytes)?;
    matching(parts, &diff_ids)?;
    if !parts
        .layers
        .iter()
        .all(|(layer, _)| blobs::holds(paths, layer))
    {
        return Ok(None);
    }
    let layers = parts
        .layers
        .iter()
        .zip(diff_ids)
        .map(|(&(blob, compression), diff_id)| LayerRef {
            blob,
            compression,
            diff_id,
        })
        .collect();
    Ok(Some(Image {
        manifest,
        config_blob: parts.config,
        config,
        layers,
        is_new: false,
        hold: Hold::default(),
    }))
}

fn matching(parts: &Manifest, diff_ids: &[Digest]) -> Result<(), ImageError> {
    if parts.layers.len() == diff_ids.len() {
        Ok(())
    } else {
        Err(ImageError::unusable(format!(
            "its manifest has {} layers and its configuration {}",
            parts.layers.len(),
            diff_ids.len()
        )))
    }
}
