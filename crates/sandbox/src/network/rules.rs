//! Which destinations are open to an isolated job, as a list in which the first match decides, and as rules for ip(8).
//!
//! Rules of the routing policy, and not routes: they are looked at before the routes that a network program copies from
//! the host. Table `local` comes before them all, so the job's own loopback is never touched.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use bryo_model::{Destination, METADATA_SERVICES, Protocol};
use nix::ifaddrs::getifaddrs;

use crate::{Network, SandboxError};

/// Everything link-local: closed to every job, as the metadata services of clouds are.
///
/// `fe80::/10` as a destination of jobs does not touch neighbour discovery, for which the kernel asks no rule.
const LINK_LOCAL: [&str; 2] = ["169.254.0.0/16", "fe80::/10"];

/// Where a network's own translators (NAT64) serve IPv4 (RFC 8215). Which part of it stands for an address that is closed
/// is the network's choice, so all of it is.
const LOCAL_TRANSLATORS: &str = "64:ff9b:1::/48";

/// Everything, in both families.
const EVERYTHING: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// The table that takes in what is closed: see [`commands`].
pub(super) const TABLE: u32 = 25_202;

/// Numbers from here on, and before this one; those of the kernel's own rules are 0 and 32766.
const FIRST: u32 = 1000;
const LAST: u32 = 32_000;

/// One entry of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    open: bool,
    to: Destination,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.open { "open" } else { "closed" };
        write!(f, "{word} {}", self.to)
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a rule");
        let (word, to) = text.split_once(' ').ok_or_else(bad)?;
        let open = match word {
            "open" => true,
            "closed" => false,
            _ => return Err(bad()),
        };
        let to = to.parse().map_err(|_| bad())?;
        Ok(Self { open, to })
    }
}

/// The list for a network whose program answers DNS at this address, on a host with these.
pub(crate) fn rules(network: &Network, dns: Ipv4Addr, host: &[IpAddr]) -> Vec<Rule> {
    let own = if network.reach_host { &[] } else { host };
    list(network, dns, own)
}

fn list(network: &Network, dns: Ipv4Addr, own: &[IpAddr]) -> Vec<Rule> {
    let open = |to| Rule { open: true, to };
    let closed = |to| Rule { open: false, to };
    // What is closed is so where a translator has it, too.
    let everywhere = |to: Destination| std::iter::once(to).chain(to.translated()).map(closed);
    let fixed = |text: &&str| text.parse().ok();
    let dns = Destination::address(dns.into());
    let mut all = vec![
        open(Destination {
            ports: Some((53, 53)),
            ..dns
        }),
        // Other ports of that address are, for some network programs, ports of the host's name server.
        closed(dns),
    ];
    let own = own.iter().copied().map(Destination::address);
    let refused = LINK_LOCAL
        .iter()
        .filter_map(fixed)
        .chain(METADATA_SERVICES.map(Destination::network))
        .chain(network.closed.iter().copied())
        .chain(own)
        .chain(network.egress.deny.iter().copied());
    all.extend(refused.flat_map(everywhere));
    all.extend(fixed(&LOCAL_TRANSLATORS).map(closed));
    if !network.egress.allow.is_empty() {
        all.extend(network.egress.allow.iter().copied().map(open));
        all.extend(EVERYTHING.iter().filter_map(fixed).map(closed));
    }
    all
}

/// The host's addresses. A network program connects to them from the host itself, past what the host's firewall does with
/// packets from elsewhere. 127.0.0.0/8 and ::1 are left out: inside, these are the job's own.
pub(crate) fn own_addresses() -> Result<Vec<IpAddr>, SandboxError> {
    let interfaces = getifaddrs().map_err(|e| SandboxError::System {
        what: "list the host's own addresses",
        source: e.into(),
    })?;
    let mut all: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .filter(|address| !address.is_loopback())
        .collect();
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// What the rules become in one family, each without its number, for a namespace with these devices.
///
/// A closed destination of IPv4 is two rules. A socket that is bound to a device may send even where the rules know no
/// way: the kernel then takes the destination to be next door, and pasta answers for everybody. So packets of such a
/// socket are given to the table whose only route leads back into the namespace. IPv6 knows no such exception.
///
/// Multicast and broadcast are beyond rules: the kernel asks none for them. What leaves so ends at the network program.
fn family(rules: &[Rule], v4: bool, devices: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for rule in rules {
        if rule.to.network.addr().is_ipv4() != v4 {
            continue;
        }
        for to in selectors(&rule.to) {
            if rule.open {
                all.push(format!("{to}lookup main"));
                continue;
            }
            if v4 {
                all.extend(
                    devices
                        .iter()
                        .map(|d| format!("{to}oif {d} lookup {TABLE}")),
                );
            }
            all.push(format!("{to}unreachable"));
        }
    }
    all
}

/// Ports belong to a protocol, so those without one are two selectors. Protocols by number: the host may have no list of
/// names.
fn selectors(to: &Destination) -> Vec<String> {
    let network = match to.network.prefix_len() {
        0 => String::new(),
        _ => {
            let all_ports = Destination {
                ports: None,
                protocol: None,
                ..*to
            };
            format!("to {all_ports} ")
        }
    };
    let Some((first, last)) = to.ports else {
        return vec![network];
    };
    let ports = match first == last {
        true => format!("dport {first} "),
        false => format!("dport {first}-{last} "),
    };
    let protocols = match to.protocol {
        Some(Protocol::Tcp) => &[6][..],
        Some(Protocol::Udp) => &[17],
        None => &[6, 17],
    };
    protocols
        .iter()
        .map(|number| format!("{network}ipproto {number} {ports}"))
        .collect()
}

/// A batch for ip(8) that sets the rules of one family and lists what is then there, and what the list must have.
pub(super) struct Commands {
    /// Standard input of `ip -batch -`.
    pub(super) batch: String,
    wanted: Vec<String>,
}

pub(super) fn commands(rules: &[Rule], v4: bool, devices: &[String]) -> Commands {
    let numbered = (FIRST..).zip(family(rules, v4, devices));
    let mut wanted: Vec<String> = numbered.map(|(n, rule)| format!("{n}: {rule}")).collect();
    let mut batch: String = wanted
        .iter()
        .map(|rule| format!("rule add pref {}\n", rule.replacen(':', "", 1)))
        .collect();
    if v4 {
        for device in devices {
            let route = format!("local default dev {device}");
            batch.push_str(&format!("route append {route} table {TABLE}\n"));
            wanted.push(route);
        }
        batch.push_str(&format!("route show table {TABLE}\n"));
    }
    batch.push_str("rule show\n");
    Commands { batch, wanted }
}

impl Commands {
    /// Whether all rules stand before the kernel's own.
    pub(super) fn fit(&self) -> bool {
        u32::try_from(self.wanted.len()).is_ok_and(|count| FIRST + count < LAST)
    }

    /// The first rule or route that the list does not have.
    pub(super) fn missing(&self, listed: &str) -> Option<&str> {
        let has = |wanted: &str| {
            listed.lines().any(|line| {
                let words: Vec<&str> = line.split_whitespace().map(protocol_number).collect();
                wanted.split(' ').all(|word| words.contains(&word))
            })
        };
        self.wanted
            .iter()
            .map(String::as_str)
            .find(|wanted| !has(wanted))
    }
}

/// ip(8) lists a protocol by its name where the host has names, and else as `ipproto-6`.
fn protocol_number(word: &str) -> &str {
    match word {
        "tcp" | "ipproto-6" => "6",
        "udp" | "ipproto-17" => "17",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bryo_model::{Egress, NetworkMode};

    const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

    fn network(allow: &[&str], deny: &[&str], closed: &[&str]) -> Network {
        let all = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
        Network {
            mode: NetworkMode::Isolated,
            egress: Egress {
                allow: all(allow),
                deny: all(deny),
            },
            closed: all(closed),
            reach_host: false,
        }
    }

    fn texts(network: &Network, own: &[IpAddr]) -> Vec<String> {
        list(network, DNS, own)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_order_of_the_list() {
        let bare = texts(&network(&[], &[], &[]), &[]);
        assert_eq!(
            bare[..4],
            [
                "open 10.0.2.3:53",
                "closed 10.0.2.3",
                "closed 169.254.0.0/16",
                "closed 64:ff9b::a9fe:0/112",
            ]
        );
        let end = bare.len() - 1;
        assert_eq!(bare[end], "closed 64:ff9b:1::/48");
        let full = texts(
            &network(&["192.0.2.9:443"], &["192.0.2.9"], &["192.0.2.8"]),
            &["192.0.2.1".parse().unwrap()],
        );
        assert_eq!(
            full[end..],
            [
                "closed 192.0.2.8",
                "closed 64:ff9b::c000:208",
                "closed 192.0.2.1",
                "closed 64:ff9b::c000:201",
                "closed 192.0.2.9",
                "closed 64:ff9b::c000:209",
                "closed 64:ff9b:1::/48",
                "open 192.0.2.9:443",
                "closed 0.0.0.0/0",
                "closed ::/0",
            ]
        );
    }

    #[test]
    fn what_is_closed_is_closed_where_a_translator_has_it() {
        let told = texts(
            &network(
                &["64:ff9b::/96"],
                &["198.51.100.0/24:25/tcp"],
                &["2001:db8::7"],
            ),
            &[],
        );
        let at = |text: &str| told.iter().position(|known| known == text).unwrap();
        let opened = at("open 64:ff9b::/96");
        for closed in [
            "closed 64:ff9b::a9fe:0/112",
            "closed 64:ff9b::6464:64c8",
            "closed 64:ff9b::a83f:8110",
            "closed 64:ff9b::c000:c0",
            "closed [64:ff9b::c633:6400/120]:25/tcp",
            "closed 64:ff9b:1::/48",
        ] {
            assert!(at(closed) < opened, "{closed}");
        }
        let translated = told.iter().filter(|text| text.contains("64:ff9b::"));
        assert_eq!(translated.count(), 6, "{told:?}");
    }

    #[test]
    fn rules_come_and_go_as_text() {
        for text in texts(&network(&["[2001:db8::/32]:1-2/udp"], &[], &[]), &[]) {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        for bad in ["", "open", "shut 10.0.0.1", "open 10.0.0.1\nrule flush"] {
            assert!(bad.parse::<Rule>().is_err(), "{bad:?}");
        }
    }

    fn parsed(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn rules_for_ip() {
        let rules = parsed(&[
            "open 10.0.2.3:53",
            "closed 10.0.0.0/8:8000-8099/tcp",
            "closed 2001:db8::/32",
            "closed 0.0.0.0/0",
            "closed ::/0",
        ]);
        assert_eq!(
            family(&rules, true, &["tap0".to_owned()]),
            [
                "to 10.0.2.3 ipproto 6 dport 53 lookup main",
                "to 10.0.2.3 ipproto 17 dport 53 lookup main",
                "to 10.0.0.0/8 ipproto 6 dport 8000-8099 oif tap0 lookup 25202",
                "to 10.0.0.0/8 ipproto 6 dport 8000-8099 unreachable",
                "oif tap0 lookup 25202",
                "unreachable",
            ]
        );
        assert_eq!(
            family(&rules, false, &["tap0".to_owned()]),
            ["to 2001:db8::/32 unreachable", "unreachable"]
        );
    }

    #[test]
    fn a_rule_that_is_not_listed_is_noticed() {
        let rules = parsed(&["open 10.0.2.3:53/udp", "closed 10.0.0.0/8"]);
        let commands = commands(&rules, true, &["tap0".to_owned()]);
        assert_eq!(
            commands.batch,
            "rule add pref 1000 to 10.0.2.3 ipproto 17 dport 53 lookup main\n\
             rule add pref 1001 to 10.0.0.0/8 oif tap0 lookup 25202\n\
             rule add pref 1002 to 10.0.0.0/8 unreachable\n\
             route append local default dev tap0 table 25202\n\
             route show table 25202\n\
             rule show\n"
        );
        let listed = "local default dev tap0 scope host\n0:\tfrom all lookup local\n\
             1000:\tfrom all to 10.0.2.3 ipproto udp dport 53 lookup main\n\
             1001:\tfrom all to 10.0.0.0/8 oif tap0 lookup 25202\n\
             1002:\tfrom all to 10.0.0.0/8 unreachable\n32766:\tfrom all lookup main\n";
        assert_eq!(commands.missing(listed), None);
        for (gone, missing) in [
            ("1002:", "1002: to 10.0.0.0/8 unreachable"),
            ("local default", "local default dev tap0"),
            (" oif tap0", "1001: to 10.0.0.0/8 oif tap0 lookup 25202"),
            ("udp", "1000: to 10.0.2.3 ipproto 17 dport 53 lookup main"),
        ] {
            let listed = listed.replacen(gone, "", 1);
            assert_eq!(commands.missing(&listed), Some(missing), "{gone}");
        }
    }

    #[test]
    fn the_hosts_addresses_are_not_loopback() {
        let own = own_addresses().unwrap();
        assert!(own.iter().all(|a| !a.is_loopback()), "{own:?}");
    }
}
