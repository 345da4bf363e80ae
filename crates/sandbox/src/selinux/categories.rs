//! Two categories that no other job has both of at the same time.
//!
//! ```text
//! STATE/selinux/<low>,<high>.lock      locked by the job that has them; an empty file that stays
//! ```
//!
//! They are drawn by lot, because a host may have others that give categories to containers and do not know of these
//! locks: podman does it so too.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::SandboxError;

/// How often the lot is drawn. With a thousand categories and a thousand jobs the second one is hardly ever needed.
const DRAWS: u32 = 1000;

/// A pair that nobody else has as long as this lives.
#[derive(Debug)]
pub(super) struct Categories {
    pair: (u32, u32),
    _lock: Flock<File>,
}

impl Categories {
    /// Draws a pair of `all`, which are distinct and in order. `None` when all are taken, or there are not two.
    pub(super) fn draw(dir: &Path, all: &[u32]) -> Result<Option<Self>, SandboxError> {
        if all.len() < 2 {
            return Ok(None);
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(SandboxError::file("make", dir))?;
        for _ in 0..DRAWS {
            let (Some(one), Some(other)) = (any_of(all), any_of(all)) else {
                return Ok(None);
            };
            if one == other {
                continue;
            }
            let pair = (one.min(other), one.max(other));
            let path = dir.join(format!("{},{}.lock", pair.0, pair.1));
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(SandboxError::file("open the lock", &path))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Some(Self { pair, _lock: lock })),
                Err((_, Errno::EWOULDBLOCK)) => {}
                Err((_, errno)) => return Err(SandboxError::file("lock", path)(errno.into())),
            }
        }
        Ok(None)
    }

    pub(super) const fn pair(&self) -> (u32, u32) {
        self.pair
    }
}

/// Each of the standard library's states has keys of its own, made from the kernel's randomness.
fn any_of(all: &[u32]) -> Option<u32> {
    let number = RandomState::new().build_hasher().finish();
    let length = u64::try_from(all.len()).ok()?;
    let index = usize::try_from(number.checked_rem(length)?).ok()?;
    all.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_the_same_pair() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state/selinux");
        let all = [3, 5, 8];
        let mut held: Vec<_> = (0..3)
            .map(|_| Categories::draw(&dir, &all).unwrap().unwrap())
            .collect();
        let mut pairs: Vec<_> = held.iter().map(Categories::pair).collect();
        pairs.sort_unstable();
        assert_eq!(pairs, [(3, 5), (3, 8), (5, 8)]);
        assert!(Categories::draw(&dir, &all).unwrap().is_none());
        let given_back = held.pop().unwrap().pair();
        let again = Categories::draw(&dir, &all).unwrap().unwrap();
        assert_eq!(again.pair(), given_back);
    }

    #[test]
    fn two_are_needed() {
        let dir = tempfile::tempdir().unwrap();
        for few in [&[][..], &[7]] {
            assert!(Categories::draw(dir.path(), few).unwrap().is_none());
        }
    }
}
