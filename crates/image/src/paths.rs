//! Where everything is in the store.
//!
//! ```text
//! ROOT/
//!   blobs/sha256/<64 hex>            manifests, indexes, configurations, layers as they were distributed
//!   layers/<26 hex>/                 one unpacked layer, named after the beginning of its diff_id
//!     fs/                              its files: a lower directory of an overlay; owned by subordinate ids
//!     meta.json                        what is in it, and copies of its passwd and group files
//!   index/<64 hex>.json              what was found behind a name before: "this archive file is that manifest"
//!   locks/<name>                     empty files to flock; never removed, for that would be a race
//!   tmp/<pid>-<n>-<time>/            work in progress, locked by who works; without a lock it is garbage
//!   tmp/unpack-<26 hex>/             a layer being unpacked, under the layer's lock; owned by subordinate ids
//! ```
//!
//! What has a name outside `tmp/` is complete: it was renamed there last.
//!
//! - *Why 26 digits?* The option string of an overlay mount is limited to one page, and 104 bits are enough.
//! - *Why are locks not beside what they lock?* The things appear and disappear by rename; a lock has to be there before.

use std::fs;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::error::{ImageError, io};

const LAYER_NAME: usize = 26;
pub(crate) const UNPACKING: &str = "unpack-";

/// The directory scheme of one store.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    root: PathBuf,
}

impl Paths {
    /// Makes what is not there yet.
    pub(crate) fn create(root: &Path) -> Result<Self, ImageError> {
        let absolute = std::path::absolute(root).map_err(io("locate", root))?;
        for dir in ["blobs/sha256", "layers", "index", "locks", "tmp"] {
            let dir = absolute.join(dir);
            fs::create_dir_all(&dir).map_err(io("create", &dir))?;
        }
        Ok(Self { root: absolute })
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(layer_name(diff_id))
    }

    pub(crate) fn unpacking(&self, diff_id: &Digest) -> PathBuf {
        let name = format!("{UNPACKING}{}", layer_name(diff_id));
        self.tmp().join(name)
    }

    pub(crate) fn record(&self, key: &Digest) -> PathBuf {
        self.root.join("index").join(format!("{}.json", key.hex()))
    }

    pub(crate) fn layer_lock(&self, diff_id: &Digest) -> PathBuf {
        self.layer_lock_named(&layer_name(diff_id))
    }

    pub(crate) fn layer_lock_named(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(format!("layer-{name}"))
    }

    pub(crate) fn pull_lock(&self, key: &Digest) -> PathBuf {
        let name = format!("pull-{}", layer_name(key));
        self.root.join("locks").join(name)
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }
}

fn layer_name(diff_id: &Digest) -> String {
    let mut name = diff_id.hex();
    name.truncate(LAYER_NAME);
    name
}
