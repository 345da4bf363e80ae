//! Bounds on what a job may use.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::Stage;

/// The text is not a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct InvalidLimit {
    text: String,
    wanted: &'static str,
}

impl InvalidLimit {
    pub(crate) fn new(text: &str, wanted: &'static str) -> Self {
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

/// A share of something that is divided under contention: 1 to 10000, where 100 is everybody's share
/// (`cpu.weight` of cgroup v2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Weight(u16);

impl Weight {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl FromStr for Weight {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .ok()
            .filter(|n| (1..=10_000).contains(n))
            .map(Self)
            .ok_or_else(|| {
                InvalidLimit::new(text, "a weight from 1 to 10000 (100 is the usual one)")
            })
    }
}

/// A signal that asks a program to end. Text: a name with or without `SIG` (`TERM`, `SIGINT`), or its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSignal(i32);

/// Signals by which programs are asked to end, with the numbers that every Linux architecture has for them.
const STOP_SIGNALS: [(&str, i32); 8] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("TERM", 15),
    ("WINCH", 28),
];

impl StopSignal {
    /// `SIGTERM`, the usual one.
    pub const TERM: Self = Self(15);

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for StopSignal {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let known = STOP_SIGNALS
            .iter()
            .find(|(known, number)| *known == name || number.to_string() == name);
        known.map(|(_, number)| Self(*number)).ok_or_else(|| {
            InvalidLimit::new(
                text,
                "a signal that ends programs (for example TERM, INT or QUIT)",
            )
        })
    }
}

/// Bounds on the time that single stages may take. Text: `STAGE=TIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageLimit {
    /// Which.
    pub stage: Stage,
    /// How long.
    pub most: Duration,
}

impl FromStr for StageLimit {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || {
            InvalidLimit::new(
                text,
                "STAGE=TIME with a stage of fetch, prepare, run, collect, publish (for example run=10m)",
            )
        };
        let (stage, time) = text.split_once('=').ok_or_else(bad)?;
        Ok(Self {
            stage: Stage::of(stage).ok_or_else(bad)?,
            most: parse_duration(time)?,
        })
    }
}

/// The bounds of one attempt. `None` means that no bound was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory and swap together, in bytes.
    pub memory: Option<ByteSize>,
    /// Memory above which the job is slowed down and its memory reclaimed, in bytes.
    pub memory_high: Option<ByteSize>,
    /// Share of processors.
    pub cpus: Option<Cpus>,
    /// Share of processors when others want them too.
    pub cpu_weight: Option<Weight>,
    /// Processes and threads at one time.
    pub pids: Option<u32>,
    /// Bytes per second read from the disks that hold the job's files.
    pub io_read: Option<ByteSize>,
    /// Bytes per second written to them.
    pub io_write: Option<ByteSize>,
    /// Bytes that the job may have on disk: what it wrote to `/`, `/tmp` and `/output` together.
    pub disk: Option<ByteSize>,
    /// Files, directories and other entries that it may have there.
    pub disk_files: Option<u64>,
    /// Bytes of the result.
    pub output: Option<ByteSize>,
    /// Files of the result.
    pub output_files: Option<u64>,
    /// Bytes of the job's standard output and standard error that are kept: their head and their tail.
    pub log: Option<ByteSize>,
    /// Wall-clock time of the whole attempt, from the beginning of fetch to the end of publish.
    pub timeout: Duration,
    /// Wall-clock time of single stages.
    pub stages: Vec<StageLimit>,
    /// How long the running job may write nothing to its standard output and standard error.
    pub silence: Option<Duration>,
    /// Between the polite signal and the kill.
    pub grace: Duration,
    /// The polite signal; without a wish the image's own, else `SIGTERM`.
    pub stop_signal: Option<StopSignal>,
}

impl Default for Limits {
    /// One hour, ten seconds of grace, nothing else.
    fn default() -> Self {
        Self {
            memory: None,
            memory_high: None,
            cpus: None,
            cpu_weight: None,
            pids: None,
            io_read: None,
            io_write: None,
            disk: None,
            disk_files: None,
            output: None,
            output_files: None,
            log: None,
            timeout: Duration::from_secs(3600),
            stages: Vec::new(),
            silence: None,
            grace: Duration::from_secs(10),
            stop_signal: None,
        }
    }
}

impl Limits {
    /// For [`Limits::output`], without a wish.
    pub const USUAL_OUTPUT: ByteSize = ByteSize::new(16 << 30);

    /// For [`Limits::output_files`], without a wish.
    pub const USUAL_OUTPUT_FILES: u64 = 1_000_000;

    /// The bound on this stage, if it has one of its own.
    #[must_use]
    pub fn of_stage(&self, stage: Stage) -> Option<Duration> {
        let of_it = self.stages.iter().filter(|limit| limit.stage == stage);
        of_it.map(|limit| limit.most).min()
    }
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
    fn signals_weights_and_stages() {
        let signal = |s: &str| s.parse::<StopSignal>().map(StopSignal::number).ok();
        assert_eq!(signal("TERM"), Some(15));
        assert_eq!(signal("SIGINT"), Some(2));
        assert_eq!(signal("sigquit"), Some(3));
        assert_eq!(signal("10"), Some(10));
        for bad in ["", "SIG", "STOP", "CONT", "0", "-9", "99", "RTMIN+3"] {
            assert_eq!(signal(bad), None, "{bad:?}");
        }
        let weight = |s: &str| s.parse::<Weight>().map(Weight::get).ok();
        assert_eq!((weight("1"), weight("10000")), (Some(1), Some(10_000)));
        assert_eq!(
            (weight("0"), weight("10001"), weight("x")),
            (None, None, None)
        );
        let limit: StageLimit = "run=10m".parse().unwrap();
        assert_eq!((limit.stage, limit.most.as_secs()), (Stage::Run, 600));
        for bad in ["", "run", "run=", "cook=1m", "run=0"] {
            assert!(bad.parse::<StageLimit>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_shortest_bound_on_a_stage_counts() {
        let limits = Limits {
            stages: ["run=10m", "run=5m", "fetch=1m"]
                .map(|s| s.parse().unwrap())
                .to_vec(),
            ..Limits::default()
        };
        assert_eq!(limits.of_stage(Stage::Run).unwrap().as_secs(), 300);
        assert_eq!(limits.of_stage(Stage::Publish), None);
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
