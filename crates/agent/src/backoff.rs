//! How long to wait before something is tried again: twice as long each time, up to a bound, and never exactly, so that
//! many agents do not come back at the same moment.

use std::time::Duration;

/// A growing wait.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    /// The next wait, which is longer than the one before.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        jittered(wait)
    }

    /// Whether it works, as far as is known.
    pub(crate) fn is_fresh(&self) -> bool {
        self.next == self.first
    }

    /// It worked.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// For the try after so many.
pub(crate) fn after(tries: u32, first: Duration, most: Duration) -> Duration {
    let factor = 2_u32.saturating_pow(tries.min(16));
    jittered(first.saturating_mul(factor).min(most))
}

/// Between three quarters and five quarters of it.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.75 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_begin_anew() {
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut backoff = Backoff::new(first, most);
        let waits: Vec<_> = (0..10).map(|_| backoff.next()).collect();
        for (n, wait) in (0_u32..).zip(&waits) {
            let exact = first * 2_u32.pow(n).min(60);
            assert!(exact.mul_f64(0.75) <= *wait && *wait <= exact.mul_f64(1.25));
        }
        backoff.reset();
        assert!(backoff.next() < Duration::from_secs(2));
        assert!(after(1000, first, most) <= most.mul_f64(1.25));
    }
}
