//! Ids that one attempt has alone, among all attempts of the user that run at the same time.
//!
//! ```text
//! STATE/ids/<n>.lock      locked by the attempt that has slot n; an empty file that stays
//! ```
//!
//! *Why a lock of the kernel?* It ends with its holder, however that ends. *Why the lowest free one?* Layers are unpacked
//! for each slot that was ever used. What shares a host but not the state directory does not see each other's slots.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use bryo_model::IdSlot;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::{Missing, SandboxError, SubordinateIds};

/// A slot that nobody else has as long as this lives.
#[derive(Debug)]
pub struct OwnIds {
    slot: IdSlot,
    _lock: Flock<File>,
}

impl OwnIds {
    /// Takes the lowest free one. `state` is the agent's directory for runtime state.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Host`] when the user has none to give, or all are taken; it says how to get more.
    pub fn take(state: &Path) -> Result<Self, SandboxError> {
        let ids = SubordinateIds::of_this_user()?;
        let slots = ids.own_slots()?;
        if let Some(own) = Self::lowest(&state.join("ids"), &slots)? {
            return Ok(own);
        }
        let what = format!(
            "all {} sets of ids that jobs can have of their own are taken by jobs that run",
            slots.len()
        );
        let fix = format!("wait for one, or get more: {}", ids.some_more());
        Err(SandboxError::Host(vec![Missing::new(what, fix)]))
    }

    fn lowest(dir: &Path, slots: &[IdSlot]) -> Result<Option<Self>, SandboxError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(SandboxError::file("make", dir))?;
        for slot in slots {
            let path = dir.join(format!("{}.lock", slot.number()));
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(SandboxError::file("open the lock", &path))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => {
                    return Ok(Some(Self {
                        slot: *slot,
                        _lock: lock,
                    }));
                }
                Err((_, Errno::EWOULDBLOCK)) => {}
                Err((_, errno)) => return Err(SandboxError::file("lock", path)(errno.into())),
            }
        }
        Ok(None)
    }

    /// Which one it is.
    #[must_use]
    pub const fn slot(&self) -> IdSlot {
        self.slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_has_one_holder_and_the_lowest_free_one_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state/ids");
        let slots: Vec<_> = (1..3).filter_map(IdSlot::new).collect();
        let take = || OwnIds::lowest(&dir, &slots).unwrap();
        let (first, second) = (take().unwrap(), take().unwrap());
        assert_eq!((first.slot(), second.slot()), (slots[0], slots[1]));
        assert!(take().is_none());
        drop(first);
        let again = take().unwrap();
        assert_eq!(again.slot(), slots[0]);
        assert!(take().is_none());
    }
}
