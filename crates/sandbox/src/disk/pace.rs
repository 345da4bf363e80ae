//! When a job's files are walked.
//!
//! Without a reason, rarely: a walk takes what it takes, and the rest after it twenty times that. When the file systems
//! have grown by what the job has left, at once: either it is over its bound, and the walk shows it, or somebody else
//! writes. Then that goes on, as a rule, and each glance would be a reason; so after a walk in vain there is a rest as well.
//! It is bounded, for what a job writes in it is beyond its bound, and ends when the disk is about to be full.

use std::time::Duration;

use tokio::time::Instant;

use crate::userns::OnDisk;

/// How often the job's files are walked at most, without a reason.
const WALK: Duration = Duration::from_secs(2);

/// So much longer than a walk took, nothing is walked without a reason.
const REST: u32 = 20;

/// The longest rest after a walk in vain, while there is a reason again; a walk that took longer rests as long as it took.
const LONGEST: Duration = Duration::from_secs(1);

/// When as much again, so many times, does not fit, a file system is about to be full: a walk takes a part of the time in
/// which that much was written.
const AGAIN: u64 = 2;

/// One file system since the job's files were walked last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grown {
    pub(super) by: OnDisk,
    pub(super) free: OnDisk,
}

/// What that says about the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It cannot be over a bound.
    None,
    /// It may be.
    MayBeOver,
    /// It may be, and soon nobody can write any more.
    Filling,
}

impl Reason {
    /// For a job that had this left.
    pub(super) fn of(all: &[Grown], left: OnDisk) -> Self {
        let bytes: u64 = all.iter().map(|volume| volume.by.bytes).sum();
        let files: u64 = all.iter().map(|volume| volume.by.files).sum();
        let fills = |by: u64, free: u64| by > 0 && by.saturating_mul(AGAIN) >= free;
        if bytes <= left.bytes && files <= left.files {
            Self::None
        } else if all.iter().any(|volume| {
            fills(volume.by.bytes, volume.free.bytes) || fills(volume.by.files, volume.free.files)
        }) {
            Self::Filling
        } else {
            Self::MayBeOver
        }
    }
}

/// What the next walk waits for.
#[derive(Debug)]
pub(super) struct Pace {
    ended: Instant,
    took: Duration,
    /// The last walk had a reason, and found nothing.
    in_vain: bool,
}

impl Pace {
    /// From now on.
    pub(super) fn begin() -> Self {
        Self {
            ended: Instant::now(),
            took: Duration::ZERO,
            in_vain: false,
        }
    }

    pub(super) fn is_due(&self, reason: Reason) -> bool {
        let rest = self.took.saturating_mul(REST);
        let rest = match reason {
            Reason::None => rest.max(WALK),
            Reason::MayBeOver if self.in_vain => rest.min(self.took.max(LONGEST)),
            Reason::MayBeOver | Reason::Filling => Duration::ZERO,
        };
        self.ended.elapsed() >= rest
    }

    /// A walk that began then, for this reason, has found nothing.
    pub(super) fn walked(&mut self, since: Instant, reason: Reason) {
        self.took = since.elapsed();
        self.ended = Instant::now();
        self.in_vain = reason != Reason::None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::GLANCE;
    use tokio::time::{advance, sleep};

    const NOTHING: OnDisk = OnDisk { bytes: 0, files: 0 };

    fn bytes(bytes: u64) -> OnDisk {
        OnDisk { bytes, files: 0 }
    }

    #[test]
    fn what_growth_says() {
        let volume = |by, free| Grown {
            by: bytes(by),
            free: bytes(free),
        };
        for (all, left, reason) in [
            (vec![], 0, Reason::None),
            (vec![volume(0, 0)], 0, Reason::None),
            (vec![volume(5, 100), volume(5, 100)], 10, Reason::None),
            (vec![volume(5, 100), volume(6, 100)], 10, Reason::MayBeOver),
            (vec![volume(11, 23)], 10, Reason::MayBeOver),
            (vec![volume(11, 22)], 10, Reason::Filling),
            (vec![volume(11, 100), volume(1, 2)], 10, Reason::Filling),
            // The other one is full, and nobody writes to it.
            (vec![volume(11, 100), volume(0, 0)], 10, Reason::MayBeOver),
            // There is no reason to look at a job that fills the disk and may.
            (vec![volume(9, 1)], 10, Reason::None),
        ] {
            assert_eq!(Reason::of(&all, bytes(left)), reason, "{all:?}");
        }
        let files = Grown {
            by: OnDisk { bytes: 0, files: 3 },
            free: OnDisk { bytes: 9, files: 6 },
        };
        assert_eq!(Reason::of(&[files], bytes(10)), Reason::Filling);
        let roomy = Grown {
            free: OnDisk { bytes: 9, files: 7 },
            ..files
        };
        assert_eq!(Reason::of(&[roomy], bytes(10)), Reason::MayBeOver);
    }

    /// The part of a minute or more that walks of this length take while there is always this reason.
    async fn share(took: Duration, reason: Reason) -> f64 {
        let (mut pace, began, mut walking) = (Pace::begin(), Instant::now(), Duration::ZERO);
        while began.elapsed() < Duration::from_secs(60).max(took * 60) {
            sleep(GLANCE).await;
            if pace.is_due(reason) {
                let since = Instant::now();
                sleep(took).await;
                pace.walked(since, reason);
                walking += took;
            }
        }
        assert!(walking > Duration::ZERO);
        walking.as_secs_f64() / began.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn walks_take_a_part_of_a_processor() {
        const MS: Duration = Duration::from_millis(1);
        for (took, idle, beside_a_neighbour) in [
            (MS, 0.001, 0.02),
            (20 * MS, 0.01, 0.05),
            (50 * MS, 0.025, 0.05),
            (200 * MS, 0.05, 0.17),
            (1000 * MS, 0.05, 0.5),
            (30_000 * MS, 0.05, 0.5),
        ] {
            let (none, busy) = (
                share(took, Reason::None).await,
                share(took, Reason::MayBeOver).await,
            );
            assert!(none <= idle, "{took:?}: {none}");
            assert!(busy <= beside_a_neighbour, "{took:?}: {busy}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_reason_is_looked_into_at_once() {
        let mut pace = Pace::begin();
        let took = Duration::from_secs(3);
        let since = Instant::now();
        assert!(!pace.is_due(Reason::None));
        assert!(pace.is_due(Reason::MayBeOver));
        advance(took).await;
        pace.walked(since, Reason::None);
        assert!(pace.is_due(Reason::MayBeOver), "nothing was in vain");
        let since = Instant::now();
        advance(took).await;
        pace.walked(since, Reason::MayBeOver);
        assert!(!pace.is_due(Reason::MayBeOver));
        assert!(pace.is_due(Reason::Filling));
        advance(took).await;
        assert!(pace.is_due(Reason::MayBeOver));
        assert!(!pace.is_due(Reason::None));
    }

    /// When a job is ended that writes a unit each second and has nothing left, on a disk with so many units free, where the
    /// last walk was in vain.
    async fn ended(took: Duration, free: f64) -> f64 {
        const UNIT: f64 = 1e9;
        let mut pace = Pace::begin();
        let since = Instant::now();
        sleep(took).await;
        pace.walked(since, Reason::MayBeOver);
        let begun = Instant::now();
        loop {
            sleep(GLANCE).await;
            let written = begun.elapsed().as_secs_f64();
            let grown = Grown {
                by: bytes((written * UNIT) as u64),
                free: bytes(((free - written) * UNIT) as u64),
            };
            if pace.is_due(Reason::of(&[grown], NOTHING)) {
                return (begun.elapsed() + took).as_secs_f64();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_fills_the_disk_is_ended_before_it_is_full() {
        for (took, free) in [
            (0.01, 0.2),
            (0.5, 1.0),
            (0.5, 1000.0),
            (3.0, 5.0),
            (3.0, 1000.0),
        ] {
            let took_time = Duration::from_secs_f64(took);
            let when = ended(took_time, free).await;
            assert!(when < free, "{took} of {free}: {when}");
            assert!(
                when <= took + 1_f64.max(took) + 0.1,
                "{took} of {free}: {when}"
            );
        }
    }
}
