//! What was found behind a name before, so that nobody has to look again.
//!
//! A record is only ever a shortcut: its key names the content so exactly that other content has another key, and what
//! it points to is checked to be there.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::error::{ImageError, io};
use crate::paths::Paths;
use crate::scratch::Scratch;

const VERSION: u32 = 1;

/// Two changes of a file within one tick of the clock get the same time: what changed this recently is not yet known by
/// its times.
pub(crate) const TICK: Duration = Duration::from_millis(20);

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    manifest: String,
}

/// The key of a local file in its present state.
pub(crate) fn file_key(kind: &str, path: &Path, state: &Metadata) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(kind.as_bytes());
    hasher.update(b"\0");
    hasher.update(path.as_os_str().as_bytes());
    hasher.update(b"\0");
    for number in [state.dev(), state.ino(), state.size()] {
        hasher.update(&number.to_le_bytes());
    }
    for number in [
        state.mtime(),
        state.mtime_nsec(),
        state.ctime(),
        state.ctime_nsec(),
    ] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.finish().0
}

/// The key of an image in the user's Podman store, by the manifest that it has there.
pub(crate) fn storage_key(manifest: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(b"containers-storage\0");
    hasher.update(manifest);
    hasher.finish().0
}

/// Whether a later change of the file is certain to give it another key.
pub(crate) fn is_settled(state: &Metadata, now: SystemTime) -> bool {
    let seconds = u64::try_from(state.ctime()).unwrap_or(0);
    let nanos = u32::try_from(state.ctime_nsec()).unwrap_or(0);
    let changed = UNIX_EPOCH + Duration::new(seconds, nanos);
    now.duration_since(changed).is_ok_and(|age| age > TICK)
}

/// The manifest recorded under the key. A record that cannot be read is no record.
pub(crate) fn find(paths: &Paths, key: &Digest) -> Option<Digest> {
    let text = fs::read(paths.record(key)).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    if record.version == VERSION {
        record.manifest.parse().ok()
    } else {
        None
    }
}

/// Removes the records that lead to a document that is not there.
pub(crate) fn sweep(paths: &Paths) {
    for entry in fs::read_dir(paths.index()).into_iter().flatten().flatten() {
        let known = fs::read(entry.path()).ok();
        let record = known.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let manifest = record.and_then(|record| record.manifest.parse().ok());
        if manifest.is_none_or(|digest: Digest| !paths.blob(&digest).exists()) {
            // One that stays is as good as none.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Records a manifest under the key.
pub(crate) fn write(
    paths: &Paths,
    scratch: &Scratch,
    key: &Digest,
    manifest: &Digest,
) -> Result<(), ImageError> {
    let record = Record {
        version: VERSION,
        manifest: manifest.to_string(),
    };
    let file = scratch.path().join("record");
    let text = serde_json::to_vec(&record).unwrap_or_default();
    fs::write(&file, text).map_err(io("write", &file))?;
    fs::rename(&file, paths.record(key)).map_err(io("move into the store", &file))
}
