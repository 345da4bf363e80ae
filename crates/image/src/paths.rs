//! Where everything is in the store.
//!
//! ```text
//! ROOT/
//!   blobs/sha256/<64 hex>            manifests, indexes, configurations, layers as they were distributed
//!   layers/<26 hex>/                 one unpacked layer, named after the beginning of its diff_id
//!     fs/                              its files: a lower directory of an overlay; owned by subordinate ids
//!     meta.json                        what is in it, and copies of its passwd and group files
//!   index/<64 hex>.json              what was found behind a name before: "this archive file is that manifest"
//!   layers-<n>/<26 hex>/             the same for slot n of the user's subordinate ids (n > 0), to whom its files belong
//!   locks/<name>                     files to flock; never removed, for that would be a race
//!     layer-<26 hex>[-<n>]             alone: to unpack or remove a layer
//!     use-<26 hex>[-<n>]               shared: a job uses the layer; alone: to remove it; dated with the last use
//!     image-<64 hex>                   the same for an image, by its manifest; in it, what a job called the image
//!     blobs                            shared: an image is looked up or brought in; alone: to remove blobs
//!     pull-<26 hex>                    alone: to bring one image in
//!   tmp/<pid>-<n>-<time>/            work in progress, locked by who works; without a lock it is garbage
//!   tmp/unpack-<26 hex>[-<n>]/       a layer being unpacked, under the layer's lock; owned by subordinate ids
//! ```
//!
//! What has a name outside `tmp/` is complete: it was renamed there last.
//!
//! - *Why 26 digits?* The option string of an overlay mount is limited to one page, and 104 bits are enough.
//! - *Why are locks not beside what they lock?* The things appear and disappear by rename; a lock has to be there before.

use std::fs;
use std::path::{Path, PathBuf};

use bryo_model::IdSlot;

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
        self.blobs().join(digest.hex())
    }

    /// The directory of all layers whose files belong to this slot.
    pub(crate) fn layers(&self, slot: IdSlot) -> PathBuf {
        self.root.join(of_slot("layers", slot))
    }

    pub(crate) fn layer(&self, diff_id: &Digest, slot: IdSlot) -> PathBuf {
        self.layers(slot).join(layer_name(diff_id))
    }

    pub(crate) fn unpacking(&self, diff_id: &Digest, slot: IdSlot) -> PathBuf {
        let name = of_slot(&layer_name(diff_id), slot);
        self.tmp().join(format!("{UNPACKING}{name}"))
    }

    pub(crate) fn record(&self, key: &Digest) -> PathBuf {
        self.index().join(format!("{}.json", key.hex()))
    }

    pub(crate) fn layer_lock(&self, diff_id: &Digest, slot: IdSlot) -> PathBuf {
        self.layer_lock_named(&of_slot(&layer_name(diff_id), slot))
    }

    pub(crate) fn layer_lock_named(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(format!("layer-{name}"))
    }

    pub(crate) fn use_lock(&self, diff_id: &Digest, slot: IdSlot) -> PathBuf {
        self.use_lock_named(&of_slot(&layer_name(diff_id), slot))
    }

    pub(crate) fn use_lock_named(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(format!("use-{name}"))
    }

    pub(crate) fn image_lock(&self, manifest: &Digest) -> PathBuf {
        let name = format!("image-{}", manifest.hex());
        self.root.join("locks").join(name)
    }

    pub(crate) fn blobs_lock(&self) -> PathBuf {
        self.root.join("locks/blobs")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    pub(crate) fn unpacking_named(&self, name: &str) -> PathBuf {
        self.tmp().join(format!("{UNPACKING}{name}"))
    }

    /// Directories of unpacked layers, each with what ends the names of what belongs to it.
    pub(crate) fn all_layers(&self) -> Vec<(PathBuf, String)> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let named = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let behind = name.strip_prefix("layers")?.to_owned();
            Some((entry.path(), behind))
        });
        named.collect()
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

/// The name of what belongs to a slot; that of the shared one is plain.
fn of_slot(name: &str, slot: IdSlot) -> String {
    if slot.is_own() {
        format!("{name}-{}", slot.number())
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_share_nothing_but_the_blobs() {
        let paths = Paths {
            root: "/store".into(),
        };
        let id = Digest::of(b"layer");
        let (two, three) = (IdSlot::new(2).unwrap(), IdSlot::new(3).unwrap());
        for of in [Paths::layer, Paths::unpacking, Paths::layer_lock] {
            let all = [IdSlot::SHARED, two, three].map(|slot| of(&paths, &id, slot));
            assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
        }
        let hex = layer_name(&id);
        assert_eq!(
            paths.layer(&id, IdSlot::SHARED),
            Path::new("/store/layers").join(&hex)
        );
        assert_eq!(
            paths.layer(&id, two),
            Path::new("/store/layers-2").join(&hex)
        );
        // The sweep finds the lock by what is behind the prefix.
        let unpacking = paths.unpacking(&id, two);
        let name = unpacking.file_name().unwrap().to_str().unwrap();
        let behind = name.strip_prefix(UNPACKING).unwrap();
        assert_eq!(paths.layer_lock_named(behind), paths.layer_lock(&id, two));
    }
}
