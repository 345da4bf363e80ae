//! How much a fetch may take: time, bytes, memory.

use std::fmt;
use std::time::Duration;

/// Bounds of all that one job fetches, submodules included. What comes from a path on this host has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLimits {
    /// Most time in which git runs for it.
    pub timeout: Duration,
    /// Most time in which nothing arrives and git tells nothing, from the first moment on.
    pub stall: Duration,
    /// Most bytes that are received, and that any file of git's or of a checkout may have.
    pub bytes: u64,
    /// Most bytes of memory for each of git's processes, and of one file of a checkout, which is in memory while it is written.
    pub memory: u64,
}

impl Default for SourceLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3600),
            stall: Duration::from_secs(120),
            bytes: 8 << 30,
            memory: 2 << 30,
        }
    }
}

/// A bound that was reached. Its text names the key that changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReachedLimit {
    /// [`SourceLimits::timeout`].
    Timeout(Duration),
    /// [`SourceLimits::stall`].
    Stall(Duration),
    /// [`SourceLimits::bytes`].
    Bytes(u64),
    /// [`SourceLimits::memory`].
    Memory(u64),
    /// [`SourceLimits::bytes`], by what the pointers of Git LFS promise.
    Lfs {
        /// Bytes of all objects.
        bytes: u64,
        /// The bound.
        most: u64,
    },
}

impl fmt::Display for ReachedLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(most) => write!(
                f,
                "the fetch took longer than {}, submodules included (source.timeout)",
                Seconds(*most)
            ),
            Self::Stall(most) => write!(f, "nothing arrived for {} (source.stall)", Seconds(*most)),
            Self::Bytes(most) => write!(
                f,
                "the repository is larger than {}, submodules included (source.bytes)",
                Size(*most)
            ),
            Self::Memory(most) => write!(
                f,
                "git needs more than {} of memory for it (source.memory)",
                Size(*most)
            ),
            Self::Lfs { bytes, most } => write!(
                f,
                "its files in Git LFS have {bytes} bytes, more than {} (source.bytes)",
                Size(*most)
            ),
        }
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let whole = |(bits, _): &(u32, &str)| self.0 > 0 && self.0.trailing_zeros() >= *bits;
        match units.iter().find(|unit| whole(unit)) {
            Some((bits, name)) => write!(f, "{} {name}", self.0 >> bits),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reached_bound_tells_its_value_and_its_key() {
        let text = |limit: ReachedLimit| limit.to_string();
        assert_eq!(
            text(ReachedLimit::Bytes(8 << 30)),
            "the repository is larger than 8 GiB, submodules included (source.bytes)"
        );
        assert_eq!(
            text(ReachedLimit::Bytes(1000)),
            "the repository is larger than 1000 bytes, submodules included (source.bytes)"
        );
        assert_eq!(
            text(ReachedLimit::Stall(Duration::from_millis(1500))),
            "nothing arrived for 1.5 s (source.stall)"
        );
    }
}
