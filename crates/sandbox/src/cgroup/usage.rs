//! What a cgroup counted. Each number is `None` where this kernel or this delegation does not count it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use bryo_model::{Pressure, ResourceUse};

/// The kernel makes the text of such a file for one page, if it is not longer.
const PAGE: usize = 4096;

/// The text of a file that the kernel makes while it is read: whole at once, for its size is told by nobody.
pub(super) fn text_of(file: &Path) -> io::Result<String> {
    let mut text = String::with_capacity(PAGE);
    File::open(file)?.take(u64::MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads the counters of a cgroup and everything beneath it.
pub(super) fn read(dir: &Path) -> ResourceUse {
    let text = |file: &str| text_of(&dir.join(file)).unwrap_or_default();
    let io = text("io.stat");
    let events = text("memory.events");
    let [cpu, memory, disks] = ["cpu.pressure", "memory.pressure", "io.pressure"].map(text);
    ResourceUse {
        cpu_us: keyed(&text("cpu.stat"), "usage_usec"),
        memory_peak_bytes: text("memory.peak").trim().parse().ok(),
        pids_peak: text("pids.peak").trim().parse().ok(),
        io_read_bytes: nested_sum(&io, "rbytes"),
        io_written_bytes: nested_sum(&io, "wbytes"),
        oom_kills: keyed(&events, "oom_kill"),
        oom_events: keyed(&events, "oom"),
        pids_refused: refused(dir),
        pressure: Pressure {
            cpu_some_us: waited(&cpu, "some"),
            memory_some_us: waited(&memory, "some"),
            memory_full_us: waited(&memory, "full"),
            io_some_us: waited(&disks, "some"),
            io_full_us: waited(&disks, "full"),
        },
        ..ResourceUse::default()
    }
}

/// How often a process was refused. Kernels before 6.11 count that in the cgroup in which the process was to be, later ones in
/// the one whose limit it was: never in both.
fn refused(dir: &Path) -> Option<u64> {
    let own = text_of(&dir.join("pids.events"))
        .ok()
        .and_then(|text| keyed(&text, "max"));
    let beneath = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|entry| refused(&entry.path()));
    beneath.chain(own).reduce(u64::saturating_add)
}

/// The total of a pressure file's line.
fn waited(text: &str, who: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(who))?;
    let total = line
        .split_whitespace()
        .find_map(|w| w.strip_prefix("total="))?;
    total.parse().ok()
}

/// The value of `key` in a flat-keyed file.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

/// The sum over all lines of `key=value` in a nested-keyed file.
pub(crate) fn nested_sum(text: &str, key: &str) -> Option<u64> {
    let values = text
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter(|(name, _)| *name == key)
        .filter_map(|(_, value)| value.parse::<u64>().ok());
    values.reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_processes_are_summed_over_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(refused(dir.path()), None);
        fs::create_dir(dir.path().join("box")).unwrap();
        fs::write(dir.path().join("pids.events"), "max 2\n").unwrap();
        fs::write(dir.path().join("box/pids.events"), "max 5\n").unwrap();
        assert_eq!(refused(dir.path()), Some(7));
    }

    #[test]
    fn pressure_files() {
        let text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(
            (waited(text, "some"), waited(text, "full")),
            (Some(1234), Some(7))
        );
        assert_eq!(waited("", "some"), None);
    }

    #[test]
    fn flat_and_nested_files() {
        let events = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n";
        assert_eq!(keyed(events, "oom_kill"), Some(3));
        assert_eq!(keyed(events, "absent"), None);
        let io = "254:0 rbytes=10 wbytes=5 rios=1\n254:16 rbytes=7 wbytes=0 rios=1\n";
        assert_eq!(nested_sum(io, "rbytes"), Some(17));
        assert_eq!(nested_sum("", "rbytes"), None);
    }
}
