//! `oci:DIR[:tag]`: an OCI image layout in a directory.
//!
//! - *Why are layers copied and not linked?* The directory is the user's, who may write to its files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bryo_model::ImageRef;
use oci_spec::image::{Descriptor, ImageIndex};

use super::reported::Reported;
use super::{archive, loaded};
use crate::blobs;
use crate::blocking::{self, Waiting};
use crate::digest;
use crate::error::{ImageError, io, reading};
use crate::image::{Blob, Image};
use crate::import::{self, Arrival};
use crate::lock::Lock;
use crate::manifest;
use crate::paths::Paths;
use crate::platform;
use crate::scratch::Scratch;
use crate::store::Progress;

const TAG: &str = "org.opencontainers.image.ref.name";

/// Finds in the store what the layout's index names, or copies it.
pub(super) async fn resolve(
    paths: &Paths,
    image: &ImageRef,
    dir: &Path,
    tag: Option<&str>,
    progress: Progress,
) -> Result<Image, ImageError> {
    let dir = archive::canonical(image, dir)?;
    let index = dir.join("index.json");
    let state = fs::metadata(&index).map_err(|e| archive::missing(image, &e))?;
    if !state.is_file() {
        return Err(ImageError::unusable("its index.json is not a file"));
    }
    let file = File::open(&index).map_err(|e| archive::missing(image, &e))?;
    let top = manifest::blob(&select(&blobs::read_bounded(file, &index)?, tag)?)?;
    if let Some(image) = import::load(paths, &top.digest)? {
        return Ok(image);
    }
    let lock = Lock::wait(&paths.pull_lock(&top.digest)).await?;
    let paths = paths.clone();
    blocking::run(move |waiting| {
        let _lock = lock;
        let scratch = Scratch::new(&paths)?;
        let mut copies = Copies {
            dir: &dir,
            scratch: &scratch,
            waiting,
            progress: &progress,
            done: 0,
            total: 0,
        };
        let manifest = import::import(&paths, &scratch, top, &mut copies)?;
        loaded(&paths, &manifest)
    })
    .await
}

/// The entry of a layout's index that is meant: the one with the tag, or the only one.
pub(super) fn select(index: &[u8], tag: Option<&str>) -> Result<Descriptor, ImageError> {
    let index: ImageIndex = serde_json::from_slice(index)
        .map_err(|e| ImageError::unusable(format!("its index.json is malformed: {e}")))?;
    let fits = |d: &&Descriptor| tag.is_none_or(|tag| tag_of(d) == Some(tag));
    let mut candidates: Vec<_> = index.manifests().iter().filter(fits).cloned().collect();
    let tags: BTreeSet<_> = index.manifests().iter().filter_map(tag_of).collect();
    let listed = tags.iter().copied().collect::<Vec<_>>().join(", ");
    let different: BTreeSet<_> = candidates.iter().map(tag_of).collect();
    match (candidates.len(), tag) {
        (0, Some(tag)) => Err(ImageError::unusable(format!(
            "the layout has no image with the tag {tag} (it has: {listed})"
        ))),
        (0, None) => Err(ImageError::unusable("the layout has no image")),
        (1, _) => Ok(candidates.swap_remove(0)),
        // The same image for several platforms.
        _ if different.len() == 1 && candidates.iter().all(|d| d.platform().is_some()) => {
            platform::choose(&candidates).cloned()
        }
        (count, _) => Err(ImageError::unusable(format!(
            "the layout has {count} images; say which with oci:DIR:TAG (it has: {listed})"
        ))),
    }
}

fn tag_of(descriptor: &Descriptor) -> Option<&str> {
    descriptor
        .annotations()
        .as_ref()?
        .get(TAG)
        .map(String::as_str)
}

struct Copies<'a> {
    dir: &'a Path,
    scratch: &'a Scratch,
    waiting: &'a Waiting,
    progress: &'a Progress,
    done: u64,
    total: u64,
}

impl Arrival for Copies<'_> {
    fn expect(&mut self, bytes: u64) {
        (self.done, self.total) = (0, bytes);
    }

    fn take(&mut self, blob: &Blob) -> Result<PathBuf, ImageError> {
        let from = self.dir.join("blobs/sha256").join(blob.digest.hex());
        let file = File::open(&from).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                ImageError::unusable(format!("the layout does not hold its blob {}", blob.digest))
            }
            _ => io("read", &from)(error),
        })?;
        let to = self.scratch.path().join(blob.digest.hex());
        let mut copy = File::create(&to).map_err(io("create", &to))?;
        let watched = self.waiting.watch(file);
        let mut input = Reported::from(watched, self.done, self.total, self.progress);
        let found = digest::copy_hashed(&mut input, &mut copy)
            .map_err(reading("one of its blobs", &from))?;
        import::check(blob, found)?;
        self.done += blob.size;
        Ok(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(entries: &str) -> Vec<u8> {
        format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#).into_bytes()
    }

    fn entry(size: u32, extra: &str) -> String {
        let digest = digest::Digest::of(b"");
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{size}{extra}}}"#
        )
    }

    fn tagged(size: u32, tag: &str) -> String {
        entry(size, &format!(r#","annotations":{{"{TAG}":"{tag}"}}"#))
    }

    #[test]
    fn the_tag_or_the_only_one_is_chosen() {
        let two = index(&format!("{},{}", tagged(1, "a"), tagged(2, "b")));
        assert_eq!(select(&two, Some("b")).unwrap().size(), 2);
        assert_eq!(select(&index(&entry(3, "")), None).unwrap().size(), 3);
        let error = select(&two, None).unwrap_err().to_string();
        assert!(error.contains("a, b"), "{error}");
        let error = select(&two, Some("c")).unwrap_err().to_string();
        assert!(error.contains("a, b"), "{error}");
        assert!(select(&index(""), None).is_err());
        assert!(select(b"{", None).is_err());
    }

    #[test]
    fn several_platforms_are_one_image() {
        let platform = |size, arch: &str| {
            entry(
                size,
                &format!(r#","platform":{{"os":"linux","architecture":"{arch}"}}"#),
            )
        };
        let here = platform::architecture().to_string();
        let both = index(&format!("{},{}", platform(1, "mips"), platform(2, &here)));
        assert_eq!(select(&both, None).unwrap().size(), 2);
        let other = index(&format!("{},{}", platform(1, "mips"), platform(2, "s390x")));
        let error = select(&other, None).unwrap_err().to_string();
        assert!(error.contains("linux/mips, linux/s390x"), "{error}");
    }
}
