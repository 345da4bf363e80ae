//! What attempts need, made before they are there: namespaces, a network with its rules in force, a worker that waits.
//!
//! Where attempts follow each other, each one that starts its job has the same made once more for the next. An attempt takes
//! what is there only if it is exactly what it wants: the same ids, the same rules in the same order, the same addresses of
//! the host as at this moment. Else its own is made.
//!
//! Invariants: what was made is taken once, by one attempt, or by nobody; nothing of a job is ever here, for a job's things
//! are let go of and never come back; what waits here ends with this process, however that ends.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bryo_model::{IdSlot, NetworkMode};
use bryo_process::Running;
use tokio_util::task::TaskTracker;

use super::{FileStamp, Ready};
use crate::network::{DNS, Rule, own_addresses, rules};
use crate::userns::Worker;
use crate::{Leftover, Network, SandboxError};

/// A program that was killed and is there after this is held by the kernel.
const DYING: Duration = Duration::from_secs(10);

/// A program that ends by itself has done so after this.
const ENDING: Duration = Duration::from_secs(2);

/// What makes one attempt's needs the same as another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    slot: IdSlot,
    /// A worker has a copy of the program.
    crun: FileStamp,
    net: Option<Net>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Net {
    rules: Vec<Rule>,
    /// A network program may copy them when it starts.
    host: Vec<IpAddr>,
}

impl Wanted {
    /// What this attempt wants of the host as it is now.
    pub(super) fn of(
        network: &Network,
        slot: IdSlot,
        crun: &FileStamp,
    ) -> Result<Self, SandboxError> {
        let net = match network.mode {
            NetworkMode::None | NetworkMode::Host => None,
            NetworkMode::Isolated => {
                let host = own_addresses()?;
                Some(Net {
                    rules: rules(network, DNS, &host),
                    host,
                })
            }
        };
        Ok(Self {
            slot,
            crun: crun.clone(),
            net,
        })
    }

    pub(super) const fn slot(&self) -> IdSlot {
        self.slot
    }

    /// The rules of the network, if there is to be one.
    pub(super) fn rules(&self) -> Option<&[Rule]> {
        self.net.as_ref().map(|net| net.rules.as_slice())
    }
}

/// What was made ahead on one host.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// How many at most with a network, and how many without.
    keep: usize,
    next: AtomicU64,
    shelf: Mutex<Shelf>,
    beside: TaskTracker,
}

#[derive(Debug, Default)]
struct Shelf {
    ready: Vec<Ready>,
    /// With a network or without, of what is being made.
    coming: Vec<bool>,
    closed: bool,
    left: Vec<Leftover>,
}

impl Ahead {
    pub(crate) fn keeping(keep: usize) -> Self {
        Self {
            keep,
            ..Self::default()
        }
    }

    pub(crate) const fn keep(&self) -> usize {
        self.keep
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is exactly so, if there is one and its programs live.
    pub(super) fn take(&self, wanted: &Wanted) -> Option<Ready> {
        let mut shelf = self.shelf();
        while let Some(at) = shelf.ready.iter().position(|r| r.wanted == *wanted) {
            let mut ready = shelf.ready.remove(at);
            if ready.is_whole() {
                return Some(ready);
            }
        }
        None
    }

    /// A place for one more, unless there are enough of its kind.
    pub(super) fn reserve(ahead: &Arc<Self>, wanted: &Wanted) -> Option<Place> {
        let network = wanted.net.is_some();
        let mut shelf = ahead.shelf();
        let same = shelf.ready.iter().filter(|r| r.wanted == *wanted).count();
        let coming = shelf.coming.iter().filter(|kind| **kind == network).count();
        if shelf.closed || same + coming >= ahead.keep {
            return None;
        }
        shelf.coming.push(network);
        Some(Place {
            ahead: Arc::clone(ahead),
            network,
        })
    }

    /// Ends a program and waits until it is gone: at once where no attempt follows, else beside it.
    pub(super) async fn see_off(self: &Arc<Self>, mut program: Running) -> Option<Leftover> {
        self.now_or_beside(in_time(async move { program.kill().await }))
            .await
    }

    /// The same of a worker that has nothing left to do.
    pub(super) async fn see_off_worker(self: &Arc<Self>, mut worker: Worker) -> Option<Leftover> {
        let gone = in_time(async move {
            if tokio::time::timeout(ENDING, worker.wait()).await.is_err() {
                worker.kill().await;
            }
        });
        self.now_or_beside(gone).await
    }

    /// Does it now, or beside the next attempt where one may follow; then what is left is told by `close`.
    pub(super) async fn now_or_beside(
        self: &Arc<Self>,
        work: impl Future<Output = Option<Leftover>> + Send + 'static,
    ) -> Option<Leftover> {
        if self.keep == 0 {
            return work.await;
        }
        let ahead = Arc::clone(self);
        self.beside(async move {
            if let Some(left) = work.await {
                ahead.shelf().left.push(left);
            }
        });
        None
    }

    /// Has something done beside the attempts.
    pub(super) fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.beside.spawn(work);
    }

    /// Ends what nobody took, and waits until everything that was ended is gone. Nothing is made after this.
    pub(crate) async fn close(&self) -> Vec<Leftover> {
        let ready = {
            let mut shelf = self.shelf();
            shelf.closed = true;
            std::mem::take(&mut shelf.ready)
        };
        drop(ready);
        self.beside.close();
        self.beside.wait().await;
        std::mem::take(&mut self.shelf().left)
    }
}

async fn in_time(gone: impl Future<Output = ()>) -> Option<Leftover> {
    let late = tokio::time::timeout(DYING, gone).await.is_err();
    late.then(|| Leftover("a program of ours cannot be killed".to_owned()))
}

/// A place for what is being made. Dropping it without filling it makes it free again.
#[derive(Debug)]
pub(super) struct Place {
    ahead: Arc<Ahead>,
    network: bool,
}

impl Place {
    /// A name that nothing else has in this helper.
    pub(super) fn name(&self) -> String {
        format!("ahead-{}", self.ahead.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Puts it there. Gives back what has to give way: the oldest of its kind.
    pub(super) fn fill(self, ready: Ready) -> Option<Ready> {
        let mut shelf = self.ahead.shelf();
        let of_kind = |r: &Ready| r.wanted.net.is_some() == self.network;
        if shelf.closed {
            return Some(ready);
        }
        let full = shelf.ready.iter().filter(|r| of_kind(r)).count() >= self.ahead.keep;
        let oldest = shelf.ready.iter().position(of_kind).filter(|_| full);
        let gives_way = oldest.map(|at| shelf.ready.remove(at));
        shelf.ready.push(ready);
        gives_way
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shelf = self.ahead.shelf();
        if let Some(at) = shelf.coming.iter().position(|kind| *kind == self.network) {
            shelf.coming.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bryo_model::Egress;

    fn wanted(network: &Network, slot: IdSlot, crun: &str) -> Wanted {
        Wanted::of(network, slot, &FileStamp::of(crun.into()).unwrap()).unwrap()
    }

    fn isolated() -> Network {
        Network {
            mode: NetworkMode::Isolated,
            ..Network::none()
        }
    }

    #[test]
    fn only_an_attempt_that_wants_exactly_the_same_is_the_same() {
        let of = |network: &Network| wanted(network, IdSlot::SHARED, "/bin/sh");
        let plain = of(&isolated());
        assert_eq!(plain, of(&isolated()));
        let denies = Egress {
            deny: vec!["192.0.2.1".parse().unwrap()],
            ..Egress::default()
        };
        let allows = Egress {
            allow: vec!["192.0.2.1:443".parse().unwrap()],
            ..Egress::default()
        };
        let others = [
            Network::none(),
            Network {
                egress: denies,
                ..isolated()
            },
            Network {
                egress: allows,
                ..isolated()
            },
            Network {
                closed: vec!["192.0.2.1".parse().unwrap()],
                ..isolated()
            },
        ];
        for other in others {
            assert_ne!(plain, of(&other), "{other:?}");
        }
        let own = IdSlot::new(1).unwrap();
        assert_ne!(plain, wanted(&isolated(), own, "/bin/sh"));
        assert_ne!(plain, wanted(&isolated(), IdSlot::SHARED, "/proc/self/exe"));
        // The host has got another address since.
        let mut moved = plain.clone();
        let net = moved.net.as_mut().unwrap();
        net.host.push("192.0.2.7".parse().unwrap());
        assert_ne!(plain, moved);
    }

    #[test]
    fn there_is_no_place_for_more_than_are_kept() {
        let of = |network: &Network| wanted(network, IdSlot::SHARED, "/bin/sh");
        let (none, net) = (of(&Network::none()), of(&isolated()));
        let nothing = Arc::new(Ahead::default());
        assert!(Ahead::reserve(&nothing, &none).is_none());
        let one = Arc::new(Ahead::keeping(1));
        let place = Ahead::reserve(&one, &none).unwrap();
        assert!(Ahead::reserve(&one, &none).is_none());
        assert!(Ahead::reserve(&one, &net).is_some());
        drop(place);
        assert!(Ahead::reserve(&one, &none).is_some());
        one.shelf().closed = true;
        assert!(Ahead::reserve(&one, &none).is_none());
    }
}
