//! How much a job received and sent.

use std::fs::File;
use std::io::{Read, Seek};

/// `/proc/PID/net/dev` of a process in the job's network namespace. It stays readable when that process is gone, and
/// keeps the namespace alive: dropping it lets go of it.
#[derive(Debug)]
pub(crate) struct Counters(File);

/// Bytes through all devices but the loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl Counters {
    /// Those of the namespace of a process of ours that lives.
    pub(super) fn of(pid: i32) -> std::io::Result<Self> {
        File::open(format!("/proc/{pid}/net/dev")).map(Self)
    }

    /// What was counted so far. The device goes with the network program, so this must be asked while that lives.
    pub(crate) fn read(&self) -> Option<Traffic> {
        let (mut file, mut text) = (&self.0, String::new());
        file.rewind().ok()?;
        file.read_to_string(&mut text).ok()?;
        traffic(&text)
    }
}

/// Without a device but the loopback nothing was counted, which is not the same as nothing.
fn traffic(text: &str) -> Option<Traffic> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(device, _)| device.trim() != "lo")
        .filter_map(|(_, counters)| {
            let mut numbers = counters.split_whitespace().map(str::parse::<u64>);
            // Eight columns are about receiving, and then come those about sending.
            let received = numbers.next()?.ok()?;
            let sent = numbers.nth(7)?.ok()?;
            Some(Traffic { received, sent })
        })
        .reduce(|a, b| Traffic {
            received: a.received.saturating_add(b.received),
            sent: a.sent.saturating_add(b.sent),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_all_devices_but_the_loopback() {
        let head = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
             lo:     208       3    0    0    0     0          0         0      208       3    0    0    0     0       0          0\n";
        assert_eq!(traffic(head), None);
        let text = format!(
            "{head}  tap0:     514       8    0    0    0     0          0         0     1146      18    0    0    0     0       0          0\n  \
             eth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n"
        );
        let wanted = Traffic {
            received: 515,
            sent: 1148,
        };
        assert_eq!(traffic(&text), Some(wanted));
        assert_eq!(traffic(&text.replace("514", "x")).unwrap().received, 1);
    }
}
