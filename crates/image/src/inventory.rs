//! What is in the store, and removing what nobody uses.
//!
//! Layers and images in use are held by shared locks; whoever removes takes them alone, and only tries. An image is gone
//! with its manifest, which goes first; a blob goes when no image needs it. A kill half-way leaves blobs of no image,
//! which the next collection removes and the next pull finds.
//!
//! *Why does no image go while another one is brought in?* What is brought in has no manifest yet, and may count on a blob
//! of the one that goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bryo_model::{Cached, CachedKind};
use bryo_process::Program;

use crate::blobs::{self, MAX_DOCUMENT};
use crate::digest::Digest;
use crate::error::{ImageError, io};
use crate::layer::LayerMeta;
use crate::lock::Lock;
use crate::manifest::{self, Document};
use crate::paths::Paths;
use crate::record;
use crate::store::ImageStore;
use crate::unpack::remove_layer;

/// The unit of `st_blocks`.
const BLOCK: u64 = 512;

/// More than any honest name of an image.
const MAX_NAME: u64 = 4096;

impl ImageStore {
    /// All images, unpacked layers, and blobs that belong to no image. What vanishes meanwhile is left out. A blob of
    /// several images counts for the one that was used last.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Cached>, ImageError> {
        let mut all = self.layers();
        let graph = Graph::read(&self.paths)?;
        let mut images: Vec<_> = graph
            .images
            .iter()
            .map(|(manifest, parts)| (changed(&self.paths.image_lock(manifest)), manifest, parts))
            .map(|(used, manifest, parts)| {
                let used = used.or_else(|| changed(&self.paths.blob(manifest)));
                (used.unwrap_or(SystemTime::UNIX_EPOCH), manifest, parts)
            })
            .collect();
        images.sort_by(|a, b| b.cmp(a));
        let mut counted = BTreeSet::new();
        for (last_used, manifest, parts) in images {
            let lock = self.paths.image_lock(manifest);
            let own = parts.iter().chain([manifest]);
            let own: Vec<_> = own.filter(|blob| counted.insert(**blob)).collect();
            all.push(Cached {
                kind: CachedKind::Image,
                name: manifest.to_string(),
                called: called(&lock),
                bytes: own.iter().map(|blob| graph.bytes(blob)).sum(),
                files: own.len() as u64,
                last_used,
                in_use: Lock::try_now(&lock)?.is_none(),
                worthless: false,
            });
        }
        // While an image comes in, its blobs are nobody's yet.
        let coming = Lock::try_now(&self.paths.blobs_lock())?.is_none();
        for blob in graph.loose() {
            all.push(Cached {
                kind: CachedKind::Blob,
                name: blob.to_string(),
                called: None,
                bytes: graph.bytes(&blob),
                files: 1,
                last_used: changed(&self.paths.blob(&blob)).unwrap_or(SystemTime::UNIX_EPOCH),
                in_use: coming,
                worthless: false,
            });
        }
        Ok(all)
    }

    /// Removes an unpacked layer of [`ImageStore::list`]; `false` when it is in use. `unpacker` is as for
    /// [`ImageStore::unpack`], for the files belong to subordinate ids.
    ///
    /// # Errors
    ///
    /// When the file system or the unpacker fail.
    pub async fn remove_layer(
        &self,
        entry: &Cached,
        unpacker: &Program,
    ) -> Result<bool, ImageError> {
        match self.layer_named(&entry.name) {
            Some((dir, name)) => remove_layer(&self.paths, &dir, &name, unpacker).await,
            None => Ok(true),
        }
    }

    /// Removes an image or a blob of [`ImageStore::list`]; `false` when it is in use, or when an image is brought in.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn remove_blobs(&self, entry: &Cached) -> Result<bool, ImageError> {
        match entry.kind {
            CachedKind::Image => self.unlink(&entry.name, Self::remove_image),
            CachedKind::Blob => self.unlink(&entry.name, |store, blob| {
                let loose = Graph::read(&store.paths)?.loose().contains(blob);
                if loose {
                    remove_file(&store.paths.blob(blob))?;
                }
                Ok(true)
            }),
            CachedKind::Checkout | CachedKind::Mirror | CachedKind::Layer => Ok(true),
        }
    }

    /// Whether a collection that was killed left layers half removed.
    #[must_use]
    pub fn has_leftovers(&self) -> bool {
        let entries = fs::read_dir(self.paths.tmp()).into_iter().flatten();
        let mut names = entries.flatten().map(|entry| entry.file_name());
        names.any(|name| name.to_string_lossy().starts_with(crate::paths::UNPACKING))
    }

    /// Removes them, unless somebody is at work on them. Best effort.
    pub async fn remove_leftovers(&self, unpacker: &Program) {
        self.sweep_unpacking(unpacker).await;
    }

    fn unlink(
        &self,
        name: &str,
        remove: impl FnOnce(&Self, &Digest) -> Result<bool, ImageError>,
    ) -> Result<bool, ImageError> {
        let Ok(digest) = name.parse() else {
            return Ok(true);
        };
        match Lock::try_now(&self.paths.blobs_lock())? {
            Some(_alone) => remove(self, &digest),
            None => Ok(false),
        }
    }

    fn remove_image(&self, manifest: &Digest) -> Result<bool, ImageError> {
        let Some(_unused) = Lock::try_now(&self.paths.image_lock(manifest))? else {
            return Ok(false);
        };
        let before = Graph::read(&self.paths)?;
        let Some(parts) = before.images.get(manifest) else {
            return Ok(true);
        };
        remove_file(&self.paths.blob(manifest))?;
        let after = Graph::read(&self.paths)?;
        for (index, images) in &before.indexes {
            if images.contains(manifest) && !images.iter().any(|i| after.images.contains_key(i)) {
                remove_file(&self.paths.blob(index))?;
            }
        }
        record::sweep(&self.paths);
        let needed: BTreeSet<_> = after.images.values().flatten().collect();
        for blob in parts.iter().filter(|blob| !needed.contains(blob)) {
            remove_file(&self.paths.blob(blob))?;
        }
        Ok(true)
    }

    fn layers(&self) -> Vec<Cached> {
        let mut all = Vec::new();
        for (place, behind) in self.paths.all_layers() {
            let entries = fs::read_dir(&place).into_iter().flatten().flatten();
            for entry in entries {
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                let used = self.paths.use_lock_named(&format!("{name}{behind}"));
                let dir = entry.path();
                let size = LayerMeta::size(&dir);
                let last_used = changed(&used).or_else(|| changed(&dir));
                let (bytes, files) = size.unwrap_or_default();
                all.push(Cached {
                    kind: CachedKind::Layer,
                    name: format!("layers{behind}/{name}"),
                    called: None,
                    bytes,
                    files,
                    last_used: last_used.unwrap_or(SystemTime::UNIX_EPOCH),
                    // A lock that cannot be had is no reason not to list the rest.
                    in_use: !matches!(Lock::try_now(&used), Ok(Some(_))),
                    worthless: size.is_none(),
                });
            }
        }
        all
    }

    /// Where a layer of the list is, and what its locks are called.
    fn layer_named(&self, name: &str) -> Option<(PathBuf, String)> {
        let (place, layer) = name.split_once('/')?;
        let behind = place.strip_prefix("layers")?;
        let mut known = self.paths.all_layers().into_iter();
        let (dir, behind) = known.find(|(_, known)| known == behind)?;
        Some((dir.join(layer), format!("{layer}{behind}")))
    }
}

/// Which blobs there are, and which documents need which.
struct Graph {
    blobs: BTreeMap<Digest, u64>,
    /// Manifests, each with its configuration and its layers.
    images: BTreeMap<Digest, BTreeSet<Digest>>,
    /// Indexes, each with the manifests that it names.
    indexes: BTreeMap<Digest, BTreeSet<Digest>>,
}

impl Graph {
    fn read(paths: &Paths) -> Result<Self, ImageError> {
        let dir = paths.blobs();
        let mut graph = Self {
            blobs: BTreeMap::new(),
            images: BTreeMap::new(),
            indexes: BTreeMap::new(),
        };
        for entry in fs::read_dir(&dir).map_err(io("read", &dir))?.flatten() {
            let name = entry.file_name();
            let Ok(digest) = format!("sha256:{}", name.to_string_lossy()).parse() else {
                continue;
            };
            let Ok(meta) = entry.metadata() else { continue };
            graph.blobs.insert(digest, meta.blocks() * BLOCK);
            if meta.len() <= MAX_DOCUMENT && begins_as_json(&entry.path()) {
                graph.add(paths, digest);
            }
        }
        Ok(graph)
    }

    /// A document that cannot be understood is nobody's: it is one blob more.
    fn add(&mut self, paths: &Paths, digest: Digest) {
        let Ok(Some(bytes)) = blobs::document(paths, &digest) else {
            return;
        };
        match manifest::parse(&bytes) {
            Ok(Document::Image(parts)) => {
                let layers = parts.layers.iter().map(|(layer, _)| layer.digest);
                let all = layers.chain([parts.config.digest]).collect();
                self.images.insert(digest, all);
            }
            Ok(Document::Index(candidates)) => {
                let named = candidates.iter().filter_map(|c| manifest::blob(c).ok());
                self.indexes
                    .insert(digest, named.map(|blob| blob.digest).collect());
            }
            Err(_) => {}
        }
    }

    fn bytes(&self, blob: &Digest) -> u64 {
        self.blobs.get(blob).copied().unwrap_or(0)
    }

    /// What no image needs and what leads to none.
    fn loose(&self) -> Vec<Digest> {
        let needed: BTreeSet<_> = self.images.values().flatten().collect();
        let leads = |index: &Digest| {
            self.indexes
                .get(index)
                .is_some_and(|images| images.iter().any(|i| self.images.contains_key(i)))
        };
        let loose = self.blobs.keys().filter(|blob| {
            !needed.contains(blob) && !self.images.contains_key(blob) && !leads(blob)
        });
        loose.copied().collect()
    }
}

fn begins_as_json(path: &Path) -> bool {
    let mut first = [0];
    let read = fs::File::open(path).and_then(|mut file| io::Read::read(&mut file, &mut first));
    read.is_ok_and(|n| n == 1) && first == *b"{"
}

/// What a job called the image of this lock.
fn called(lock: &Path) -> Option<String> {
    let small = fs::metadata(lock).is_ok_and(|meta| (1..=MAX_NAME).contains(&meta.len()));
    small.then(|| fs::read_to_string(lock).ok()).flatten()
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

fn remove_file(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}
