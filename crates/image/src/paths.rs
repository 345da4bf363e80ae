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
//!   locks/<name>                     empty files to flock; never removed, for that would be a race
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
        self.root.join("blobs/sha256").join(digest.hex())
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
        self.root.join("index").join(format!("{}.json", key.hex()))
    }

    pub(crate) fn layer_lock(&self, diff_id: &Digest, slot: IdSlot) -> PathBuf {
        self.layer_lock_named(&of_slot(&layer_name(diff_id), slot))
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
