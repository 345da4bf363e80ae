//! Which of a user's subordinate ids a job gets.

/// Ids that a job has: 0 to 65535. Fewer would leave files of `nobody` without an owner.
const IDS: u32 = 65_536;

/// A whole set of subordinate ids, by its number: the user's ids are divided into sets of equal size.
///
/// ```text
///  helper's namespace   0        1 ......... 65536    65537 ...... 131072   ...
///                       agent    slot 0               slot 1
/// ```
///
/// Slot 0 is that of all jobs that do not want ids of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdSlot(u32);

impl IdSlot {
    /// That of all jobs that do not want ids of their own.
    pub const SHARED: Self = Self(0);

    /// How many there are at most: more jobs do not run on one host at the same time.
    pub const MOST: u32 = 64;

    /// How many ids each has.
    pub const IDS: u32 = IDS;

    /// The slot of this number, if there can be one.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number < Self::MOST {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The job's id 0, as the helper's user namespace counts, in which 0 is the agent.
    #[must_use]
    pub const fn first(self) -> u32 {
        1 + self.0 * IDS
    }

    /// The last of its ids there.
    #[must_use]
    pub const fn last(self) -> u32 {
        self.first() + IDS - 1
    }

    /// Whether no other job has these ids at the same time.
    #[must_use]
    pub const fn is_own(self) -> bool {
        self.0 > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_lie_side_by_side_and_never_have_the_agent() {
        let all: Vec<_> = (0..IdSlot::MOST).filter_map(IdSlot::new).collect();
        assert_eq!(all.len(), 64);
        assert_eq!(
            (all[0], all[0].first(), all[0].last()),
            (IdSlot::SHARED, 1, 65_536)
        );
        for pair in all.windows(2) {
            assert_eq!(pair[0].last() + 1, pair[1].first());
        }
        assert_eq!(IdSlot::new(IdSlot::MOST), None);
    }
}
