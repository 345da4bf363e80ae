//! What the unpacker leaves beside a layer's files.
//!
//! The files belong to subordinate ids and may be unreadable to Bryo itself; so what it has to know about users is
//! copied while that is possible.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use bryo_model::IdSlot;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag};
use rustix::fs::fgetxattr;
use serde::{Deserialize, Serialize};

use super::apply::OPAQUE_XATTR;
use super::confined::{self, is, look, open_dir};
use crate::digest::Digest;
use crate::error::{ImageError, io};

const VERSION: u32 = 1;
const META: &str = "meta.json";
const ERROR: &str = "error.json";
/// More than any honest passwd file.
const MAX_ACCOUNTS: u64 = 1 << 20;

/// How much was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) devices: u64,
}

/// What a layer says about one of the account files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Account {
    /// Nothing: the layer beneath is asked.
    Beneath,
    /// That there is none, or none that can be used.
    None,
    /// This.
    Text(String),
}

/// `meta.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerMeta {
    version: u32,
    diff_id: String,
    /// Whose its files are. Layers of the shared slot need not say so.
    #[serde(default)]
    slot: u32,
    entries: u64,
    bytes: u64,
    /// Device nodes that were skipped.
    devices: u64,
    pub(crate) passwd: Account,
    pub(crate) group: Account,
}

impl LayerMeta {
    /// Looks at what was unpacked.
    pub(super) fn collect(
        target: &Path,
        diff_id: Digest,
        slot: IdSlot,
        counts: Counts,
    ) -> Result<Self, ImageError> {
        let root = target.join("fs");
        let root = File::open(&root).map_err(io("open", &root))?.into();
        let account = |name| account(&root, name).map_err(io("read etc/passwd in", target));
        Ok(Self {
            version: VERSION,
            diff_id: diff_id.to_string(),
            slot: slot.number(),
            entries: counts.entries,
            bytes: counts.bytes,
            devices: counts.devices,
            passwd: account("passwd")?,
            group: account("group")?,
        })
    }

    pub(super) fn write(&self, target: &Path) -> Result<(), ImageError> {
        let path = target.join(META);
        let text = serde_json::to_vec(self).unwrap_or_default();
        fs::write(&path, text).map_err(io("write", &path))
    }

    /// Bytes and entries of a layer that is there and complete, whoever's it is.
    pub(crate) fn size(layer: &Path) -> Option<(u64, u64)> {
        let meta: Self = serde_json::from_slice(&fs::read(layer.join(META)).ok()?).ok()?;
        (meta.version == VERSION).then_some((meta.bytes, meta.entries))
    }

    /// Of a layer that is there and complete; none if it is not.
    pub(crate) fn read(
        layer: &Path,
        diff_id: &Digest,
        slot: IdSlot,
    ) -> Result<Option<Self>, ImageError> {
        let path = layer.join(META);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("read", &path)(error)),
        };
        let meta: Self = serde_json::from_slice(&text)
            .map_err(|e| io("understand", &path)(io::Error::from(e)))?;
        let same = meta.diff_id == diff_id.to_string() && meta.slot == slot.number();
        if meta.version == VERSION && same {
            Ok(Some(meta))
        } else {
            let why = io::Error::new(
                io::ErrorKind::InvalidData,
                "it is of another layer, or of other ids",
            );
            Err(io("understand", &path)(why))
        }
    }
}

/// `error.json`: why the layer is to blame.
#[derive(Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) why: String,
}

impl Failure {
    pub(super) fn write(target: &Path, error: &ImageError) -> Result<(), ImageError> {
        let ImageError::Unusable { why } = error else {
            return Ok(());
        };
        let failure = Self { why: why.clone() };
        let path = target.join(ERROR);
        let text = serde_json::to_vec(&failure).unwrap_or_default();
        fs::write(&path, text).map_err(io("write", &path))
    }

    pub(crate) fn read(target: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(target.join(ERROR)).ok()?).ok()
    }
}

fn account(root: &OwnedFd, name: &str) -> io::Result<Account> {
    let (etc, name) = (OsStr::new("etc"), OsStr::new(name));
    match look(root, etc)? {
        None => return Ok(Account::Beneath),
        Some(there) if is(&there, SFlag::S_IFDIR) => {}
        Some(_) => return Ok(Account::None),
    }
    let etc = open_dir(root, etc)?;
    let Some(there) = look(&etc, name)? else {
        let mut value = [0; 1];
        let opaque = fgetxattr(&etc, OPAQUE_XATTR, &mut value).is_ok();
        return Ok(if opaque {
            Account::None
        } else {
            Account::Beneath
        });
    };
    let size = u64::try_from(there.st_size).unwrap_or(u64::MAX);
    if confined::is_whiteout(&there) || !is(&there, SFlag::S_IFREG) || size > MAX_ACCOUNTS {
        return Ok(Account::None);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = File::from(openat(&etc, name, flags, Mode::empty())?);
    let mut text = Vec::new();
    file.take(MAX_ACCOUNTS).read_to_end(&mut text)?;
    Ok(Account::Text(String::from_utf8_lossy(&text).into_owned()))
}
