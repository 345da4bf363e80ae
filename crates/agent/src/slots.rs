//! How much goes on at one time: a number of slots that may change, and turns at a place that only one may write to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedMutexGuard, watch};

/// How many there are, and how many are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    most: usize,
    used: usize,
}

impl Count {
    pub(crate) const fn used(self) -> usize {
        self.used
    }
}

/// A number of slots.
#[derive(Clone, Debug)]
pub(crate) struct Slots(watch::Sender<Count>);

/// One of them; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot(watch::Sender<Count>);

impl Slots {
    pub(crate) fn new(most: usize) -> Self {
        Self(watch::Sender::new(Count { most, used: 0 }))
    }

    /// Another number. Those that are taken stay taken.
    pub(crate) fn set(&self, most: usize) {
        self.0.send_modify(|count| count.most = most);
    }

    pub(crate) fn used(&self) -> usize {
        self.0.borrow().used
    }

    pub(crate) fn most(&self) -> usize {
        self.0.borrow().most
    }

    /// Told of every change.
    pub(crate) fn changes(&self) -> watch::Receiver<Count> {
        self.0.subscribe()
    }

    /// Waits for a free one.
    pub(crate) async fn take(&self) -> Slot {
        let mut changes = self.0.subscribe();
        loop {
            let took = self.0.send_if_modified(|count| {
                let free = count.used < count.most;
                count.used += usize::from(free);
                free
            });
            if took {
                return Slot(self.0.clone());
            }
            let _ = changes.changed().await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.send_modify(|count| count.used -= 1);
    }
}

/// Turns: whoever asks first for a name has it first, and alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>);

/// A turn; over when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _guard: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for a turn.
    pub(crate) async fn turn(&self, name: &str) -> Turn {
        let line = {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.retain(|_, line| Arc::strong_count(line) > 1);
            Arc::clone(lines.entry(name.to_owned()).or_default())
        };
        Turn {
            _guard: line.lock_owned().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slots_are_given_back_and_their_number_changes() {
        let slots = Slots::new(1);
        let first = slots.take().await;
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        slots.set(2);
        let second = waiting.await.unwrap();
        assert_eq!(slots.used(), 2);
        slots.set(1);
        drop((first, second));
        assert_eq!((slots.used(), slots.most()), (0, 1));
    }

    #[tokio::test]
    async fn turns_are_taken_in_order() {
        let turns = Turns::default();
        let other = turns.turn("other").await;
        let first = turns.turn("a").await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..5)
            .map(|n| {
                let (turns, order) = (turns.clone(), Arc::clone(&order));
                tokio::spawn(async move {
                    let _turn = turns.turn("a").await;
                    order.lock().unwrap().push(n);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(order.lock().unwrap().is_empty());
        drop((first, other));
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
        let _last = turns.turn("b").await;
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
