//! What a cgroup counted. Each number is `None` where this kernel or this delegation does not count it.

use std::fs;
use std::path::Path;

use bryo_model::ResourceUse;

/// Reads the counters of a cgroup and everything beneath it.
pub(super) fn read(dir: &Path) -> ResourceUse {
    let text = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let io = text("io.stat");
    ResourceUse {
        cpu_us: keyed(&text("cpu.stat"), "usage_usec"),
        memory_peak_bytes: text("memory.peak").trim().parse().ok(),
        pids_peak: text("pids.peak").trim().parse().ok(),
        io_read_bytes: nested_sum(&io, "rbytes"),
        io_written_bytes: nested_sum(&io, "wbytes"),
        oom_kills: keyed(&text("memory.events"), "oom_kill"),
        ..ResourceUse::default()
    }
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
    fn flat_and_nested_files() {
        let events = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n";
        assert_eq!(keyed(events, "oom_kill"), Some(3));
        assert_eq!(keyed(events, "absent"), None);
        let io = "254:0 rbytes=10 wbytes=5 rios=1\n254:16 rbytes=7 wbytes=0 rios=1\n";
        assert_eq!(nested_sum(io, "rbytes"), Some(17));
        assert_eq!(nested_sum("", "rbytes"), None);
    }
}
