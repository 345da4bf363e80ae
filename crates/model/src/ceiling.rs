//! The most that any job gets on a host, whatever it asks for.

use std::str::FromStr;
use std::time::Duration;

use crate::{ByteSize, Cpus, InvalidLimit, Limits, parse_duration};

/// Bounds over all jobs. Text: `NAME=VALUE` separated by commas, for example `timeout=2h,memory=8g,pids=4096`.
///
/// Limits of a job that are larger, or that it does not have, become these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ceiling {
    /// For [`Limits::memory`].
    pub memory: Option<ByteSize>,
    /// For [`Limits::cpus`].
    pub cpus: Option<Cpus>,
    /// For [`Limits::pids`].
    pub pids: Option<u32>,
    /// For [`Limits::disk`].
    pub disk: Option<ByteSize>,
    /// For [`Limits::disk_files`].
    pub disk_files: Option<u64>,
    /// For [`Limits::output`].
    pub output: Option<ByteSize>,
    /// For [`Limits::output_files`].
    pub output_files: Option<u64>,
    /// For [`Limits::log`].
    pub log: Option<ByteSize>,
    /// For [`Limits::timeout`].
    pub timeout: Option<Duration>,
    /// For [`Limits::silence`].
    pub silence: Option<Duration>,
    /// For [`Limits::grace`].
    pub grace: Option<Duration>,
}

const NAMES: &str = "NAME=VALUE with a name of memory, cpus, pids, disk, disk-files, output, output-files, log, \
                     timeout, silence, grace";

impl FromStr for Ceiling {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut ceiling = Self::default();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let bad = || InvalidLimit::new(part, NAMES);
            let (name, value) = part.split_once('=').ok_or_else(bad)?;
            let number = || value.parse().ok().filter(|n| *n > 0).ok_or_else(bad);
            match name {
                "memory" => ceiling.memory = Some(value.parse()?),
                "cpus" => ceiling.cpus = Some(value.parse()?),
                "pids" => ceiling.pids = Some(u32::try_from(number()?).map_err(|_| bad())?),
                "disk" => ceiling.disk = Some(value.parse()?),
                "disk-files" => ceiling.disk_files = Some(number()?),
                "output" => ceiling.output = Some(value.parse()?),
                "output-files" => ceiling.output_files = Some(number()?),
                "log" => ceiling.log = Some(value.parse()?),
                "timeout" => ceiling.timeout = Some(parse_duration(value)?),
                "silence" => ceiling.silence = Some(parse_duration(value)?),
                "grace" => ceiling.grace = Some(parse_duration(value)?),
                _ => return Err(bad()),
            }
        }
        Ok(ceiling)
    }
}

impl Ceiling {
    /// The job's limits with none above the ceiling, and the names of those that were lowered although the job had asked
    /// for more.
    #[must_use]
    pub fn over(&self, limits: &Limits) -> (Limits, Vec<&'static str>) {
        let mut out = limits.clone();
        let mut lowered = Vec::new();
        let mut note = |name, was_lowered| {
            if was_lowered {
                lowered.push(name);
            }
        };
        note("memory", lower(&mut out.memory, self.memory));
        // What is slowed down above its own bound must not be more than what it may have at all.
        if let (Some(high), Some(most)) = (out.memory_high, out.memory) {
            out.memory_high = Some(high.min(most));
        }
        note("cpus", lower(&mut out.cpus, self.cpus));
        note("pids", lower(&mut out.pids, self.pids));
        note("disk", lower(&mut out.disk, self.disk));
        note("disk files", lower(&mut out.disk_files, self.disk_files));
        // Without a wish there is a usual bound, which no ceiling raises.
        let usual = |most: Option<ByteSize>| most.map(|m| m.min(Limits::USUAL_OUTPUT));
        let most = limits.output.map_or(usual(self.output), |_| self.output);
        note("output", lower(&mut out.output, most));
        let usual = |most: Option<u64>| most.map(|m| m.min(Limits::USUAL_OUTPUT_FILES));
        let most = limits
            .output_files
            .map_or(usual(self.output_files), |_| self.output_files);
        note("output files", lower(&mut out.output_files, most));
        note("log", lower(&mut out.log, self.log));
        note("silence", lower(&mut out.silence, self.silence));
        for (name, mine, most) in [
            ("timeout", &mut out.timeout, self.timeout),
            ("grace", &mut out.grace, self.grace),
        ] {
            if let Some(most) = most.filter(|most| most < mine) {
                *mine = most;
                note(name, true);
            }
        }
        (out, lowered)
    }
}

/// Returns whether the job had asked for more.
fn lower<T: Ord + Copy>(mine: &mut Option<T>, most: Option<T>) -> bool {
    let Some(most) = most else { return false };
    let asked_for_more = mine.is_some_and(|mine| mine > most);
    *mine = Some(mine.map_or(most, |mine| mine.min(most)));
    asked_for_more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_job_has_more_and_what_it_did_not_ask_for_is_bounded_too() {
        let ceiling: Ceiling = "timeout=2h, memory=8g,pids=100,log=1m".parse().unwrap();
        let limits = Limits {
            memory: Some(ByteSize::new(16 << 30)),
            memory_high: Some(ByteSize::new(12 << 30)),
            pids: Some(10),
            timeout: Duration::from_secs(86_400),
            ..Limits::default()
        };
        let (got, lowered) = ceiling.over(&limits);
        assert_eq!(got.memory, Some(ByteSize::new(8 << 30)));
        assert_eq!(got.memory_high, got.memory);
        assert_eq!(
            (got.pids, got.log),
            (Some(10), Some(ByteSize::new(1 << 20)))
        );
        assert_eq!(got.timeout.as_secs(), 7200);
        assert_eq!(lowered, ["memory", "timeout"]);
        assert_eq!(Ceiling::default().over(&limits), (limits, vec![]));
    }

    #[test]
    fn a_ceiling_above_the_usual_bound_raises_nothing() {
        let ceiling: Ceiling = "output=100g,output-files=5000000".parse().unwrap();
        let (got, lowered) = ceiling.over(&Limits::default());
        assert_eq!(got.output, Some(Limits::USUAL_OUTPUT));
        assert_eq!(got.output_files, Some(Limits::USUAL_OUTPUT_FILES));
        assert!(lowered.is_empty());
        let wish = Limits {
            output: Some(ByteSize::new(50 << 30)),
            ..Limits::default()
        };
        assert_eq!(ceiling.over(&wish).0.output, wish.output);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in [
            "memory",
            "memory=",
            "moon=1",
            "pids=0",
            "pids=99999999999",
            "timeout=1d",
        ] {
            assert!(bad.parse::<Ceiling>().is_err(), "{bad}");
        }
        assert_eq!("".parse(), Ok(Ceiling::default()));
    }
}
