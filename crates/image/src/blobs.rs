//! The blobs of the store.
//!
//! - *Why are layers not hashed again, but documents are?* A layer is hashed when it comes in and once more, as its
//!   `diff_id`, when it is unpacked; its size is enough in between. Documents are read all the time and are small.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::digest::Digest;
use crate::error::{ImageError, io};
use crate::image::Blob;
use crate::paths::Paths;
use crate::scratch::Scratch;

/// More than any honest manifest or configuration.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;

/// Whether the blob is there in full length.
pub(crate) fn holds(paths: &Paths, blob: &Blob) -> bool {
    fs::metadata(paths.blob(&blob.digest)).is_ok_and(|m| m.is_file() && m.len() == blob.size)
}

/// A document of the store, or none if it is not there or was damaged by a crash.
pub(crate) fn document(paths: &Paths, digest: &Digest) -> Result<Option<Vec<u8>>, ImageError> {
    let path = paths.blob(digest);
    match File::open(&path) {
        Ok(file) => {
            let bytes = read_bounded(file, &path)?;
            Ok((Digest::of(&bytes) == *digest).then_some(bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", &path)(error)),
    }
}

/// All of a document.
pub(crate) fn read_bounded(input: impl Read, path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    input
        .take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .map_err(io("read", path))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        return Err(ImageError::unusable(format!(
            "its document {name} is larger than {MAX_DOCUMENT} bytes"
        )));
    }
    Ok(bytes)
}

/// Moves a file with this content, which the caller has verified, into the store.
pub(crate) fn adopt(paths: &Paths, file: &Path, digest: &Digest) -> Result<(), ImageError> {
    fs::rename(file, paths.blob(digest)).map_err(io("move into the store", file))
}

/// Puts a document into the store.
pub(crate) fn put(paths: &Paths, scratch: &Scratch, bytes: &[u8]) -> Result<Digest, ImageError> {
    let digest = Digest::of(bytes);
    let file = scratch.path().join("document");
    fs::write(&file, bytes).map_err(io("write", &file))?;
    adopt(paths, &file, &digest)?;
    Ok(digest)
}
