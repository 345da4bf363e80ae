//! What attempts keep for the next ones: listed, and removed when there is too much of it.
//!
//! What was not used for longest goes first; what was used at the same time goes in the order of what it costs to make it
//! again. What an attempt of any process uses stays: source and image crates hold it with locks of the kernel and refuse.
//! What one thing cannot be removed for is told, and the others go all the same.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bryo_image::{ImageError, ImageStore};
use bryo_model::{ByteSize, Cached, CachedKind};
use bryo_sandbox::{Host, SandboxError};
use bryo_source::{SourceCache, SourceError};
use nix::sys::statvfs::statvfs;
use tokio::task::{JoinError, spawn_blocking};

use crate::cause::chain;
use crate::engine::Engine;
use crate::inputs::unpacker;

/// What is to be removed: whatever breaks one of the bounds. Worthless things always are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collect {
    /// Mirrors and checkouts are looked at.
    pub source: bool,
    /// Images and layers are looked at.
    pub images: bool,
    /// What was not used for so long goes. No time at all means everything.
    pub unused_for: Option<Duration>,
    /// At most so many bytes stay of what is looked at.
    pub keep: Option<ByteSize>,
    /// So much is to be free on the cache's file system.
    pub free: Option<Room>,
    /// Nothing is removed; what would be is told.
    pub dry_run: bool,
}

/// Free space of a file system, for an ordinary user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// Inodes, where the file system counts them.
    pub inodes: u64,
}

/// What a collection did.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// What is gone, in the order in which it went.
    pub removed: Vec<Cached>,
    /// What is still there.
    pub left: Vec<Cached>,
    /// What should have gone and could not, each with the reason.
    pub failed: Vec<(Cached, String)>,
}

impl Collected {
    /// Bytes of what is gone.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.removed.iter().map(|one| one.bytes).sum()
    }
}

/// The cache could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// Its sources.
    #[error("could not look at the cached sources")]
    Source(#[source] SourceError),
    /// Its images.
    #[error("could not look at the cached images")]
    Images(#[source] ImageError),
    /// The work was cut short.
    #[error("the work on the cache was cut short")]
    Task(#[source] JoinError),
}

impl Engine {
    /// All that is in the cache.
    ///
    /// # Errors
    ///
    /// When the cache cannot be read.
    pub async fn cached(&self) -> Result<Vec<Cached>, CollectError> {
        let mut all = Caches::open(self).await?.list(true, true).await?;
        all.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        Ok(all)
    }

    /// Removes what breaks a bound of the wish and is not in use. When the future is dropped, what was begun is finished by
    /// the next collection.
    ///
    /// # Errors
    ///
    /// When the cache cannot be read. What cannot be removed is told in [`Collected::failed`].
    pub async fn collect(&self, wish: Collect) -> Result<Collected, CollectError> {
        let caches = Caches::open(self).await?;
        if !wish.dry_run {
            caches.sweep(self, wish).await?;
        }
        let mut all = caches.list(wish.source, wish.images).await?;
        put_in_order(&mut all);
        let now = SystemTime::now();
        let mut bound = Bound {
            wish,
            now,
            bytes: all.iter().map(|one| one.bytes).sum(),
            would_be_free: Room::default(),
        };
        let mut done = Collected::default();
        for entry in all {
            let free = room(&self.settings().cache);
            if !bound.is_broken(&entry, free) || entry.in_use {
                done.left.push(entry);
                continue;
            }
            let gone = if wish.dry_run {
                Ok(true)
            } else {
                caches.remove(self, &entry).await
            };
            match gone {
                Ok(true) => {
                    bound.gone(&entry);
                    done.removed.push(entry);
                }
                Ok(false) => done.left.push(Cached {
                    in_use: true,
                    ..entry
                }),
                Err(why) => {
                    done.failed.push((entry.clone(), why));
                    done.left.push(entry);
                }
            }
        }
        Ok(done)
    }
}

/// The order in which things go.
fn put_in_order(all: &mut [Cached]) {
    all.sort_by(|a, b| {
        let key = |one: &Cached| (!one.worthless, one.last_used, one.kind);
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
}

/// The wish, with what is left of what it is about.
struct Bound {
    wish: Collect,
    now: SystemTime,
    bytes: u64,
    /// By what a dry run has not removed.
    would_be_free: Room,
}

impl Bound {
    /// Whether this one has to go, `free` being the room that there is.
    fn is_broken(&self, entry: &Cached, free: Option<Room>) -> bool {
        let old = |most: Duration| entry.idle(self.now) >= most;
        let short = |want: Room| {
            free.is_some_and(|free| {
                free.bytes.saturating_add(self.would_be_free.bytes) < want.bytes
                    || free.inodes.saturating_add(self.would_be_free.inodes) < want.inodes
            })
        };
        entry.worthless
            || self.wish.unused_for.is_some_and(old)
            || self.wish.keep.is_some_and(|most| self.bytes > most.bytes())
            || self.wish.free.is_some_and(short)
    }

    fn gone(&mut self, entry: &Cached) {
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        if self.wish.dry_run {
            self.would_be_free.bytes += entry.bytes;
            self.would_be_free.inodes += entry.files;
        }
    }
}

/// The room on the file system of this directory. One that counts no inodes has enough of them.
fn room(dir: &Path) -> Option<Room> {
    let stat = statvfs(dir).ok()?;
    Some(Room {
        bytes: stat.blocks_available().saturating_mul(stat.fragment_size()),
        inodes: if stat.files() > 0 {
            stat.files_available()
        } else {
            u64::MAX
        },
    })
}

/// Both halves of the cache.
struct Caches {
    source: SourceCache,
    images: Arc<ImageStore>,
}

impl Caches {
    async fn open(engine: &Engine) -> Result<Self, CollectError> {
        let engine = engine.clone();
        let open = move || {
            let source = engine.source_cache().map_err(CollectError::Source)?;
            let images = engine.image_store().map_err(CollectError::Images)?;
            Ok(Self { source, images })
        };
        spawn_blocking(open).await.map_err(CollectError::Task)?
    }

    async fn list(&self, source: bool, images: bool) -> Result<Vec<Cached>, CollectError> {
        let (of_source, of_images) = (self.source.clone(), Arc::clone(&self.images));
        let list = move || {
            let mut all = Vec::new();
            if source {
                all.extend(of_source.list().map_err(CollectError::Source)?);
            }
            if images {
                all.extend(of_images.list().map_err(CollectError::Images)?);
            }
            Ok(all)
        };
        spawn_blocking(list).await.map_err(CollectError::Task)?
    }

    /// What an earlier collection began, and locks of what is not here.
    async fn sweep(&self, engine: &Engine, wish: Collect) -> Result<(), CollectError> {
        if wish.source {
            let source = self.source.clone();
            spawn_blocking(move || source.sweep())
                .await
                .map_err(CollectError::Task)?
                .map_err(CollectError::Source)?;
            // Only a help: a mirror that cannot be repacked is found damaged, and repaired, by whoever reads it.
            let _ = self.source.repack().await;
        }
        if wish.images
            && self.images.has_leftovers()
            && let Ok(host) = host(engine).await
        {
            self.images.remove_leftovers(&unpacker(&host)).await;
        }
        Ok(())
    }

    /// Removes one; what is in the way is told as a sentence.
    async fn remove(&self, engine: &Engine, entry: &Cached) -> Result<bool, String> {
        if entry.kind.is_source() {
            let (source, entry) = (self.source.clone(), entry.clone());
            let removed = spawn_blocking(move || source.remove(&entry)).await;
            return removed
                .map_err(|e| chain(&e))?
                .map_err(|error| chain(&error));
        }
        if entry.kind != CachedKind::Layer {
            let (images, entry) = (Arc::clone(&self.images), entry.clone());
            let removed = spawn_blocking(move || images.remove_blobs(&entry)).await;
            return removed
                .map_err(|e| chain(&e))?
                .map_err(|error| chain(&error));
        }
        // What belongs to subordinate ids can be removed from inside the helper's namespace alone.
        let host = host(engine).await.map_err(|error| chain(&error))?;
        let removed = self.images.remove_layer(entry, &unpacker(&host)).await;
        removed.map_err(|error| chain(&error))
    }
}

async fn host(engine: &Engine) -> Result<Host, SandboxError> {
    engine.hosts().get().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(kind: CachedKind, name: &str, bytes: u64, used: u64) -> Cached {
        Cached {
            kind,
            name: name.to_owned(),
            called: None,
            bytes,
            files: 1,
            last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(used),
            in_use: false,
            worthless: false,
        }
    }

    #[test]
    fn the_worthless_go_first_then_the_oldest_then_what_is_cheap() {
        use CachedKind::{Checkout, Image, Layer, Mirror};
        let broken = Cached {
            worthless: true,
            ..one(Checkout, "broken", 1, 99)
        };
        let mut all = vec![
            one(Image, "image", 1, 20),
            one(Mirror, "mirror", 1, 20),
            one(Layer, "layer", 1, 20),
            one(Checkout, "checkout", 1, 20),
            one(Image, "old", 1, 10),
            broken,
        ];
        put_in_order(&mut all);
        let names: Vec<_> = all.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(
            names,
            ["broken", "old", "checkout", "layer", "mirror", "image"]
        );
    }

    /// What goes of three things of ten bytes, used at 10, 20 and 30, at the time 100.
    fn gone(wish: Collect, free: Option<Room>) -> usize {
        let mut all: Vec<_> = (1..=3)
            .map(|n| one(CachedKind::Checkout, &n.to_string(), 10, n * 10))
            .collect();
        put_in_order(&mut all);
        let mut bound = Bound {
            wish,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
            bytes: 30,
            would_be_free: Room::default(),
        };
        let mut gone = 0;
        for entry in &all {
            if bound.is_broken(entry, free) {
                bound.gone(entry);
                gone += 1;
            }
        }
        gone
    }

    #[test]
    fn each_bound_takes_what_breaks_it_and_no_more() {
        let wish = Collect {
            dry_run: true,
            ..Collect::default()
        };
        let unused_for = |seconds| Collect {
            unused_for: Some(Duration::from_secs(seconds)),
            ..wish
        };
        let keep = |bytes| Collect {
            keep: Some(ByteSize::new(bytes)),
            ..wish
        };
        let free = |bytes, inodes| Collect {
            free: Some(Room { bytes, inodes }),
            ..wish
        };
        let room = |bytes, inodes| Some(Room { bytes, inodes });
        for (wish, room, expected) in [
            (wish, None, 0),
            (unused_for(0), None, 3),
            (unused_for(80), None, 2),
            (unused_for(91), None, 0),
            (keep(30), None, 0),
            (keep(29), None, 1),
            (keep(5), None, 3),
            (free(100, 0), room(100, 0), 0),
            (free(100, 0), room(81, 0), 2),
            (free(0, 5), room(0, 4), 1),
            (free(100, 0), None, 0),
        ] {
            assert_eq!(gone(wish, room), expected, "{wish:?} {room:?}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_old() {
        let entry = one(CachedKind::Image, "i", 1, 100);
        assert_eq!(
            entry.idle(SystemTime::UNIX_EPOCH + Duration::from_secs(50)),
            Duration::ZERO
        );
    }
}
