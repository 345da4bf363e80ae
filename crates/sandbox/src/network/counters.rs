//! How much a job received and sent.

use std::fs::File;
use std::io::{self, Read, Seek};

use bryo_model::ResourceUse;

/// What `/proc/PID/net` tells of a job's network namespace, opened while a process lived there. It stays readable when
/// that process is gone, and keeps the namespace alive: dropping it lets go of it.
#[derive(Debug)]
pub(crate) struct Counters {
    devices: File,
    ip: File,
    /// Absent where the kernel has no IPv6.
    ip6: Option<File>,
}

/// Bytes through all devices but the loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl Traffic {
    /// As it stands in a report.
    pub(crate) fn reported(traffic: Option<Self>) -> ResourceUse {
        ResourceUse {
            network_received_bytes: traffic.map(|t| t.received),
            network_sent_bytes: traffic.map(|t| t.sent),
            ..ResourceUse::default()
        }
    }
}

impl Counters {
    /// Those of the namespace of a process of ours that lives.
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        let open = |file: &str| File::open(format!("/proc/{pid}/net/{file}"));
        Ok(Self {
            devices: open("dev")?,
            ip: open("netstat")?,
            ip6: open("snmp6").ok(),
        })
    }

    /// What was counted so far.
    ///
    /// The device goes with the network program, and podman ends that at the same moment as the job. Then what counts is
    /// what the protocols saw, less what went through the loopback. That is right for what was received; of what was sent
    /// some packets that TCP makes by itself are not in it, so it can be too little.
    pub(crate) fn read(&self) -> Option<Traffic> {
        let devices = text(&self.devices).ok()?;
        let (loopback, outside) = by_device(&devices);
        if outside.is_some() {
            return outside;
        }
        let ip = by_protocol(&text(&self.ip).ok()?)?;
        let ip6 = self.ip6.as_ref().and_then(|file| text(file).ok());
        let ip6 = ip6.map(|text| by_protocol6(&text)).unwrap_or_default();
        let less = |all: u64, own: u64| all.saturating_sub(own);
        Some(Traffic {
            received: less(ip.received.saturating_add(ip6.received), loopback.received),
            sent: less(ip.sent.saturating_add(ip6.sent), loopback.sent),
        })
    }
}

fn text(mut file: &File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// `net/dev`: the loopback, and the sum of the other devices, if there are any.
fn by_device(text: &str) -> (Traffic, Option<Traffic>) {
    let (mut loopback, mut outside) = (Traffic::default(), None::<Traffic>);
    for line in text.lines() {
        let Some((device, counters)) = line.split_once(':') else {
            continue;
        };
        let mut numbers = counters.split_whitespace().map(str::parse::<u64>);
        // Eight columns are about receiving, and then come those about sending.
        let (Some(Ok(received)), Some(Ok(sent))) = (numbers.next(), numbers.nth(7)) else {
            continue;
        };
        if device.trim() == "lo" {
            loopback = Traffic { received, sent };
        } else {
            let sum = outside.unwrap_or_default();
            outside = Some(Traffic {
                received: sum.received.saturating_add(received),
                sent: sum.sent.saturating_add(sent),
            });
        }
    }
    (loopback, outside)
}

/// `net/netstat`: a line of names and a line of values, both beginning with what they are about.
fn by_protocol(text: &str) -> Option<Traffic> {
    let mut lines = text.lines().filter(|line| line.starts_with("IpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |wanted: &str| {
        let mut both = names.split_whitespace().zip(values.split_whitespace());
        both.find(|(name, _)| *name == wanted)?.1.parse().ok()
    };
    Some(Traffic {
        received: value("InOctets")?,
        sent: value("OutOctets")?,
    })
}

/// `net/snmp6`: a name and a value on each line.
fn by_protocol6(text: &str) -> Traffic {
    let value = |wanted: &str| {
        let line = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(wanted));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    };
    Traffic {
        received: value("Ip6InOctets"),
        sent: value("Ip6OutOctets"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Inter-|   Receive                        |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
         lo:     208       3    0    0    0     0          0         0      209       3    0    0    0     0       0          0\n";

    const fn traffic(received: u64, sent: u64) -> Traffic {
        Traffic { received, sent }
    }

    #[test]
    fn bytes_of_all_devices_but_the_loopback() {
        assert_eq!(by_device(HEAD), (traffic(208, 209), None));
        let text = format!(
            "{HEAD}  tap0:     514       8    0    0    0     0          0         0     1146      18    0    0    0     0       0          0\n  \
             eth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n"
        );
        assert_eq!(by_device(&text).1, Some(traffic(515, 1148)));
        let broken = by_device(&text.replace("514", "x")).1;
        assert_eq!(broken, Some(traffic(1, 2)));
    }

    #[test]
    fn bytes_that_the_protocols_saw() {
        let netstat = "TcpExt: SyncookiesSent InOctets\nTcpExt: 1 2\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 60984 1332\n";
        assert_eq!(by_protocol(netstat), Some(traffic(60984, 1332)));
        assert_eq!(by_protocol("TcpExt: InOctets\nTcpExt: 2\n"), None);
        let snmp6 = "Ip6InMcastOctets \t7\nIp6InOctets     \t5\nIp6OutOctets    \t6\n";
        assert_eq!(by_protocol6(snmp6), traffic(5, 6));
        assert_eq!(by_protocol6(""), traffic(0, 0));
    }

    #[test]
    fn a_namespace_is_read_again_and_again() {
        let own = i32::try_from(std::process::id()).unwrap();
        let counters = Counters::of(own).unwrap();
        assert!(counters.read().is_some() && counters.read().is_some());
    }
}
