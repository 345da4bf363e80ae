//! An image whose every byte is in the store.

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::lock::Hold;

/// Content by digest and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// How a layer's tar stream is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Compression {
    /// What the beginning of the content says.
    pub(crate) fn detect(head: &[u8]) -> Self {
        if head.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else {
            Self::None
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::None => "tar",
            Self::Gzip => "tar+gzip",
            Self::Zstd => "tar+zstd",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        [Self::None, Self::Gzip, Self::Zstd]
            .into_iter()
            .find(|c| c.word() == word)
    }
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRef {
    pub(crate) blob: Blob,
    pub(crate) compression: Compression,
    pub(crate) diff_id: Digest,
}

impl LayerRef {
    /// The digest of the layer as it is distributed.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.blob.digest
    }

    /// The size of the layer as it is distributed.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blob.size
    }

    /// How it is packed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The digest of its tar stream.
    #[must_use]
    pub fn diff_id(&self) -> &Digest {
        &self.diff_id
    }
}

/// An image in the store: verified, for this host, ready to be unpacked.
#[derive(Clone, Debug)]
pub struct Image {
    pub(crate) manifest: Blob,
    pub(crate) config_blob: Blob,
    pub(crate) config: ImageConfig,
    pub(crate) layers: Vec<LayerRef>,
    /// Whether it was brought in for whoever has it.
    pub(crate) is_new: bool,
    /// While a job has it, nobody removes it.
    pub(crate) hold: Hold,
}

/// By what it is, and not by the way on which it came.
impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        self.manifest == other.manifest
            && self.config_blob == other.config_blob
            && self.config == other.config
            && self.layers == other.layers
    }
}

impl Eq for Image {}

impl Image {
    /// The digest of the manifest: what pins the image.
    #[must_use]
    pub fn manifest_digest(&self) -> &Digest {
        &self.manifest.digest
    }

    /// Whether it was in the store already, and nothing of it was brought in.
    #[must_use]
    pub fn was_cached(&self) -> bool {
        !self.is_new
    }

    /// The digest of the configuration: what Podman calls the image's id.
    #[must_use]
    pub fn config_digest(&self) -> &Digest {
        &self.config_blob.digest
    }

    /// How the image wants to be run.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// The layers, lowest first.
    #[must_use]
    pub fn layers(&self) -> &[LayerRef] {
        &self.layers
    }
}
