//! Registry references.
//!
//! One round trip asks for the manifest; its digest decides whether anything has to be copied, and pins what is. A
//! reference that is a digest itself needs no round trip once the image is here.

use bryo_model::{ImageRef, RegistryRef};

use super::loaded;
use super::skopeo::{Order, Skopeo, bring};
use crate::blobs;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::image::{Blob, Image};
use crate::import;
use crate::lock::Lock;
use crate::manifest::{self, Document};
use crate::paths::Paths;
use crate::platform;
use crate::scratch::Scratch;
use crate::store::{Progress, PullOptions};

/// Finds the image by its digest, or copies it from the registry.
pub(super) async fn resolve(
    paths: &Paths,
    image: &ImageRef,
    reference: &RegistryRef,
    options: &PullOptions,
    progress: Progress,
) -> Result<Image, ImageError> {
    let parts = Parts::of(reference.as_str())?;
    if let Some(digest) = &parts.digest
        && let Some(image) = import::load(paths, digest)?
    {
        return Ok(image);
    }
    let skopeo = Skopeo::find(image.to_string(), options)?;
    let (top, mut document) = ask(&skopeo, &parts).await?;
    // What is in front of the image: indexes, kept so that a digest of theirs is known again.
    let mut indexes = Vec::new();
    let wanted = loop {
        match manifest::parse(&document)? {
            Document::Image(wanted) => break wanted,
            Document::Index(candidates) => {
                let chosen = manifest::blob(platform::choose(&candidates)?)?;
                if indexes.len() >= import::MAX_DEPTH {
                    return Err(ImageError::unusable("its indexes are nested too deeply"));
                }
                indexes.push(document);
                if let Some(image) = import::load(paths, &chosen.digest)? {
                    keep(paths, &indexes)?;
                    return Ok(image);
                }
                let reference = parts.pinned(&chosen.digest);
                document = skopeo.manifest(&reference).await?;
                check(&chosen, &document)?;
            }
        }
    };
    let digest = if indexes.is_empty() {
        top
    } else {
        Digest::of(&document)
    };
    if let Some(image) = import::load(paths, &digest)? {
        return Ok(image);
    }
    let lock = Lock::wait(&paths.pull_lock(&digest)).await?;
    if let Some(image) = import::load(paths, &digest)? {
        return Ok(image);
    }
    let order = Order {
        reference: &parts.pinned(&digest),
        manifest: Some(digest),
        bytes: wanted.layers.iter().map(|(layer, _)| layer.size).sum(),
        record: None,
    };
    bring(paths, &skopeo, order, lock, &progress).await?;
    keep(paths, &indexes)?;
    loaded(paths, &digest)
}

async fn ask(skopeo: &Skopeo<'_>, parts: &Parts) -> Result<(Digest, Vec<u8>), ImageError> {
    let document = skopeo.manifest(&parts.asked()).await?;
    let digest = Digest::of(&document);
    match parts.digest {
        Some(expected) if expected != digest => Err(ImageError::unusable(format!(
            "the registry answered {digest} when asked for {expected}"
        ))),
        _ => Ok((digest, document)),
    }
}

fn check(expected: &Blob, document: &[u8]) -> Result<(), ImageError> {
    import::check(expected, (Digest::of(document), document.len() as u64))
}

fn keep(paths: &Paths, indexes: &[Vec<u8>]) -> Result<(), ImageError> {
    if indexes.is_empty() {
        return Ok(());
    }
    let scratch = Scratch::new(paths)?;
    for index in indexes {
        blobs::put(paths, &scratch, index)?;
    }
    Ok(())
}

/// A reference taken apart. skopeo refuses one with both a tag and a digest; the digest says more.
#[derive(Debug)]
struct Parts {
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Parts {
    fn of(reference: &str) -> Result<Self, ImageError> {
        let (name, digest) = match reference.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (reference, None),
        };
        let digest = digest
            .map(str::parse)
            .transpose()
            .map_err(|e| ImageError::Missing {
                image: reference.to_owned(),
                detail: format!("{e}"),
            })?;
        let slash = name.rfind('/').unwrap_or(0);
        let (repository, tag) = match name.rfind(':') {
            Some(colon) if colon > slash => (&name[..colon], Some(name[colon + 1..].to_owned())),
            _ => (name, None),
        };
        Ok(Self {
            repository: repository.to_owned(),
            tag,
            digest,
        })
    }

    fn asked(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => self.pinned(digest),
            (None, Some(tag)) => format!("docker://{}:{tag}", self.repository),
            (None, None) => format!("docker://{}", self.repository),
        }
    }

    fn pinned(&self, digest: &Digest) -> String {
        format!("docker://{}@{digest}", self.repository)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_asked_for_by_its_most_exact_part() {
        let digest = Digest::of(b"");
        for (reference, asked) in [
            (
                "localhost:5000/a/b",
                "docker://localhost:5000/a/b".to_owned(),
            ),
            (
                "localhost:5000/a:1",
                "docker://localhost:5000/a:1".to_owned(),
            ),
            (
                &format!("r.example/a:1@{digest}"),
                format!("docker://r.example/a@{digest}"),
            ),
        ] {
            let parts = Parts::of(reference).unwrap();
            assert_eq!(parts.asked(), asked);
        }
        let parts = Parts::of("localhost:5000/a:1").unwrap();
        assert_eq!(
            parts.pinned(&digest),
            format!("docker://localhost:5000/a@{digest}")
        );
        assert!(Parts::of("r.example/a@sha512:00").is_err());
    }
}
