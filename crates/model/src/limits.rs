//! Bounds on what a job may use.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

/// The text is not a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct InvalidLimit {
    text: String,
    wanted: &'static str,
}

impl InvalidLimit {
    fn new(text: &str, wanted: &'static str) -> Self {
        Self {
            text: text.to_owned(),
            wanted,
        }
    }
}

/// A number of bytes. Text: a whole number with an optional `k`, `m`, `g` or `t` (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ByteSize(u64);

impl ByteSize {
    /// So many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        for (shift, name) in UNITS {
            let unit = 1_u64 << shift;
            if self.0 >= unit {
                let whole = self.0 / unit;
                let tenth = (self.0 % unit) * 10 / unit;
                return write!(f, "{whole}.{tenth} {name}");
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || InvalidLimit::new(text, "a size (for example 512m or 2g)");
        let lower = text.to_ascii_lowercase();
        let digits = lower.trim_end_matches(['i', 'b']);
        let (number, shift) = match digits.as_bytes().last().ok_or_else(bad)? {
            b'k' => (&digits[..digits.len() - 1], 10),
            b'm' => (&digits[..digits.len() - 1], 20),
            b'g' => (&digits[..digits.len() - 1], 30),
            b't' => (&digits[..digits.len() - 1], 40),
            _ => (digits, 0),
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(1 << shift))
            .filter(|n| *n > 0)
            .map(Self)
            .ok_or_else(bad)
    }
}

/// A share of processors in thousandths. Text: a decimal number such as `0.5` or `2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus(u32);

impl Cpus {
    /// Thousandths of one processor.
    #[must_use]
    pub const fn millis(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 1000.0)
    }
}

impl Serialize for Cpus {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / 1000.0)
    }
}

impl FromStr for Cpus {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || InvalidLimit::new(text, "a number of processors (for example 0.5 or 2)");
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || fraction.len() > 3 || !digits(whole) || !digits(fraction) {
            return Err(bad());
        }
        let whole: u32 = whole.parse().map_err(|_| bad())?;
        let thousandths: u32 = format!("{fraction:0<3}").parse().map_err(|_| bad())?;
        whole
            .checked_mul(1000)
            .and_then(|w| w.checked_add(thousandths))
            .filter(|n| (10..=4_096_000).contains(n))
            .map(Self)
            .ok_or_else(bad)
    }
}

/// A length of time: a whole number with `ms`, `s`, `m` or `h`; without a unit, seconds.
///
/// # Errors
///
/// When the text is not such a number, or is zero.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidLimit> {
    let bad = || InvalidLimit::new(text, "a length of time (for example 90s, 10m or 2h)");
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    let most: u64 = 366 * 24 * 3_600_000;
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .filter(|ms| (1..=most).contains(ms))
        .map(Duration::from_millis)
        .ok_or_else(bad)
}

/// The bounds of one attempt. `None` means that no bound was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory and swap together, in bytes.
    pub memory: Option<ByteSize>,
    /// Share of processors.
    pub cpus: Option<Cpus>,
    /// Processes and threads at one time.
    pub pids: Option<u32>,
    /// Wall-clock time of the whole attempt, from the beginning of fetch to the end of publish.
    pub timeout: Duration,
    /// Between the polite signal and the kill.
    pub grace: Duration,
}

/// What to do about a limit that this host cannot enforce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitPolicy {
    /// Refuse the job.
    Enforce,
    /// Run it without the limit, and say so in the report.
    AllowUnlimited,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let parse = |s: &str| s.parse::<ByteSize>().map(ByteSize::bytes).ok();
        assert_eq!(parse("1"), Some(1));
        assert_eq!(parse("64k"), Some(65_536));
        assert_eq!(parse("1g"), Some(1 << 30));
        assert_eq!(parse("512MiB"), Some(512 << 20));
        for bad in ["", "g", "-1", "1.5g", "0", "99999999t", "1x"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(ByteSize::new(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteSize::new(12).to_string(), "12 B");
    }

    #[test]
    fn processors() {
        let parse = |s: &str| s.parse::<Cpus>().map(Cpus::millis).ok();
        assert_eq!(parse("2"), Some(2000));
        assert_eq!(parse("0.5"), Some(500));
        assert_eq!(parse("1.125"), Some(1125));
        for bad in ["", ".5", "0", "0.001", "-1", "1.2345", "5000", "x"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn durations() {
        let ms = |s: &str| parse_duration(s).map(|d| d.as_millis()).ok();
        assert_eq!(ms("10m"), Some(600_000));
        assert_eq!(ms("250ms"), Some(250));
        assert_eq!(ms("90"), Some(90_000));
        for bad in ["", "0s", "m", "1d", "1.5h", "-1s", "9999999h"] {
            assert_eq!(ms(bad), None, "{bad:?}");
        }
    }
}
