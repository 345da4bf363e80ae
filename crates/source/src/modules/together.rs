//! Fetching the submodules of one level beside each other: most of the time each of them waits for its server.
//!
//! What comes out does not depend on who is faster: results are in the order of the wishes, and the error is that of the
//! first that failed in this order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bryo_model::Amount;
use tokio::task::{AbortHandle, JoinSet};

use super::{Child, Wish};
use crate::{Progress, SourceCache, SourceError};

/// So many at a time: a server is asked by no more of us than by a browser.
const AT_ONCE: usize = 4;

/// Brings all of them into the cache.
pub(super) async fn fetch(
    cache: &SourceCache,
    wishes: Vec<Wish>,
    progress: &Progress,
) -> Result<Vec<Child>, SourceError> {
    let sum = Sum::new(progress, wishes.len());
    let mut waiting = wishes.into_iter().enumerate();
    // Dropped with this future, and with it every git.
    let mut running = JoinSet::new();
    let mut handles: BTreeMap<usize, AbortHandle> = BTreeMap::new();
    let mut done = BTreeMap::new();
    let mut failed: Option<(usize, SourceError)> = None;
    loop {
        while failed.is_none()
            && running.len() < AT_ONCE
            && let Some((number, wish)) = waiting.next()
        {
            let (cache, progress) = (cache.clone(), sum.part(number));
            let task = async move { (number, cache.submodule(wish, &progress).await) };
            handles.insert(number, running.spawn(task));
        }
        let Some(ended) = running.join_next().await else {
            break;
        };
        match ended {
            Ok((number, Ok(child))) => {
                done.insert(number, child);
            }
            Ok((number, Err(error))) => {
                if failed.as_ref().is_none_or(|(first, _)| number < *first) {
                    failed = Some((number, error));
                }
                // Those before it may fail too, and would be told instead.
                for (_, later) in handles.range(number + 1..) {
                    later.abort();
                }
            }
            Err(ended) if ended.is_cancelled() => {}
            Err(ended) => return Err(SourceError::Task(ended)),
        }
    }
    match failed {
        Some((_, error)) => Err(error),
        None => Ok(done.into_values().collect()),
    }
}

/// How far all of them are together.
struct Sum {
    progress: Progress,
    /// Done and total of each.
    parts: Mutex<Vec<(u64, u64)>>,
}

impl Sum {
    fn new(progress: &Progress, parts: usize) -> Arc<Self> {
        Arc::new(Self {
            progress: Arc::clone(progress),
            parts: Mutex::new(vec![(0, 0); parts]),
        })
    }

    fn part(self: &Arc<Self>, number: usize) -> Progress {
        let sum = Arc::clone(self);
        Arc::new(move |amount| sum.tell(number, amount))
    }

    fn tell(&self, number: usize, amount: Amount) {
        let Amount::Items { done, total } = amount else {
            return (self.progress)(amount);
        };
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.get_mut(number) {
            *part = (done, total);
        }
        // Told under the lock: no smaller sum comes after a larger one.
        (self.progress)(Amount::Items {
            done: parts.iter().map(|part| part.0).sum(),
            total: parts.iter().map(|part| part.1).sum(),
        });
    }
}
