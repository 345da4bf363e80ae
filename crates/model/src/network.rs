//! What a job can reach.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;

use crate::UnknownWord;

/// How a job is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Nothing but its own loopback.
    None,
    /// Outbound connections from a network namespace of its own; the host's loopback and link-local addresses are closed.
    Isolated,
    /// The host's own network. No job can ask for it: it is a setting of the host alone.
    Host,
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Isolated => "isolated",
            Self::Host => "host",
        })
    }
}

impl FromStr for NetworkMode {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "isolated" => Ok(Self::Isolated),
            "host" => Err(UnknownWord::new(
                text,
                "none, isolated (a job cannot ask for the host's own network)",
            )),
            _ => Err(UnknownWord::new(text, "none, isolated")),
        }
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Addresses, and ports on them. Text: `NETWORK`, `NETWORK:PORT`, `NETWORK:FIRST-LAST`, each with `/tcp` or `/udp` after a
/// port; a network is an address or a CIDR, in brackets when it is IPv6 and has a port.
///
/// IPv4 that is written as IPv6 (`::ffff:192.0.2.7`) is IPv4: a packet to there is one.
///
/// Examples: `10.0.0.0/8`, `192.0.2.7:443`, `192.0.2.0/24:8000-8099/tcp`, `[2001:db8::/32]:443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Which addresses.
    pub network: IpNet,
    /// First and last port; `None` means all ports, and protocols without ports.
    pub ports: Option<(u16, u16)>,
    /// `None` means both.
    pub protocol: Option<Protocol>,
}

/// The text is not a destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a destination: an address or CIDR, with :PORT or :FIRST-LAST and /tcp or /udp where wanted \
     (for example 10.0.0.0/8, 192.0.2.7:443, [2001:db8::/32]:443/tcp)"
)]
pub struct InvalidDestination(String);

/// Where clouds have services that give a guest's own credentials to whoever asks, outside of the link-local ranges: Alibaba,
/// Azure, Oracle; AWS, Google and Oracle over IPv6.
pub const METADATA_SERVICES: [IpNet; 6] = [
    v4(Ipv4Addr::new(100, 100, 100, 200)),
    v4(Ipv4Addr::new(168, 63, 129, 16)),
    v4(Ipv4Addr::new(192, 0, 0, 192)),
    v6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32),
    v6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
    v6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe), 128),
];

const fn v4(address: Ipv4Addr) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, 32))
}

const fn v6(address: Ipv6Addr, prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, prefix))
}

/// Bits in front of an IPv4 address that is written as an IPv6 one, and of one that a translator serves.
const EMBEDDING: u8 = 96;

/// The well-known prefix of translators (RFC 6052, section 2.1).
const TRANSLATED: u128 = 0x0064_ff9b << 96;

impl Destination {
    /// All ports of these addresses.
    #[must_use]
    pub const fn network(network: IpNet) -> Self {
        Self {
            network,
            ports: None,
            protocol: None,
        }
    }

    /// All ports of one address.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        Self {
            network: IpNet::from(address.to_canonical()),
            ports: None,
            protocol: None,
        }
    }

    /// The IPv6 destination at which a translator of the network (NAT64) serves this one, if this is IPv4.
    #[must_use]
    pub fn translated(&self) -> Option<Self> {
        let IpNet::V4(v4) = self.network else {
            return None;
        };
        let address = TRANSLATED | u128::from(u32::from(v4.addr()));
        let network = Ipv6Net::new(Ipv6Addr::from(address), EMBEDDING + v4.prefix_len()).ok()?;
        Some(Self {
            network: network.into(),
            ..*self
        })
    }

    /// Whether a TCP connection to there is one to this destination. An IPv4 address that is written as an IPv6 one is
    /// the IPv4 address.
    #[must_use]
    pub fn includes_tcp(&self, to: SocketAddr) -> bool {
        let address = to.ip().to_canonical();
        self.network.contains(&address)
            && self
                .ports
                .is_none_or(|(first, last)| (first..=last).contains(&to.port()))
            && self.protocol != Some(Protocol::Udp)
    }
}

impl FromStr for Destination {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| InvalidDestination(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Destination> {
    let (network, ports) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) = rest.split_once(']')?;
            let ports = match after {
                "" => None,
                _ => Some(after.strip_prefix(':')?),
            };
            (inside, ports)
        }
        // More than one colon: IPv6 without brackets has no port.
        None if text.matches(':').count() == 1 => {
            let (network, ports) = text.split_once(':')?;
            (network, Some(ports))
        }
        None => (text, None),
    };
    let network: IpNet = network
        .parse()
        .ok()
        .or_else(|| network.parse::<IpAddr>().ok().map(IpNet::from))?;
    let network = canonical(network)?;
    let Some(ports) = ports else {
        return Some(Destination {
            network: network.trunc(),
            ports: None,
            protocol: None,
        });
    };
    let (ports, protocol) = match ports.split_once('/') {
        Some((ports, "tcp")) => (ports, Some(Protocol::Tcp)),
        Some((ports, "udp")) => (ports, Some(Protocol::Udp)),
        Some(_) => return None,
        None => (ports, None),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(Destination {
        network: network.trunc(),
        ports: Some((first, last)),
        protocol,
    })
}

/// A network of IPv4 addresses in whatever way it is written; `None` when only a part of it is one.
fn canonical(network: IpNet) -> Option<IpNet> {
    let IpNet::V6(v6) = network else {
        return Some(network);
    };
    match v6.addr().to_ipv4_mapped() {
        Some(v4) => {
            let prefix = v6.prefix_len().checked_sub(EMBEDDING)?;
            Ipv4Net::new(v4, prefix).ok().map(IpNet::V4)
        }
        None => Some(network),
    }
}

fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let single = self.network.prefix_len() == self.network.max_prefix_len();
        let network = match single {
            true => self.network.addr().to_string(),
            false => self.network.to_string(),
        };
        match (self.ports, self.network) {
            (None, _) => return f.write_str(&network),
            (Some(_), IpNet::V6(_)) => write!(f, "[{network}]")?,
            (Some(_), IpNet::V4(_)) => f.write_str(&network)?,
        }
        match self.ports {
            Some((first, last)) if first == last => write!(f, ":{first}")?,
            Some((first, last)) => write!(f, ":{first}-{last}")?,
            None => {}
        }
        self.protocol.map_or(Ok(()), |p| write!(f, "/{p}"))
    }
}

impl Serialize for Destination {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where an isolated job may connect to. A denied destination is closed even if it is allowed too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// If there are any, everything else is closed.
    pub allow: Vec<Destination>,
    /// Closed.
    pub deny: Vec<Destination>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_come_and_go_as_text() {
        for text in [
            "10.0.0.0/8",
            "192.0.2.7",
            "192.0.2.7:443",
            "192.0.2.0/24:8000-8099/tcp",
            "192.0.2.7:53/udp",
            "2001:db8::1",
            "2001:db8::/32",
            "[2001:db8::/32]:443",
        ] {
            let parsed: Destination = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
        }
        let host_bits: Destination = "10.1.2.3/8".parse().unwrap();
        assert_eq!(host_bits.to_string(), "10.0.0.0/8");
    }

    #[test]
    fn ipv4_is_ipv4_however_it_is_written() {
        for (text, wanted) in [
            ("::ffff:192.0.2.8", "192.0.2.8"),
            ("::ffff:c000:208", "192.0.2.8"),
            ("[::ffff:192.0.2.8]:443/tcp", "192.0.2.8:443/tcp"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("::1", "::1"),
        ] {
            let parsed: Destination = text.parse().unwrap();
            assert_eq!(parsed.to_string(), wanted, "{text}");
        }
        // Neither one nor the other.
        assert!("::ffff:10.0.0.0/95".parse::<Destination>().is_err());
        let mapped = Destination::address("::ffff:192.0.2.8".parse().unwrap());
        assert_eq!(mapped.to_string(), "192.0.2.8");
    }

    #[test]
    fn where_a_translator_serves_ipv4() {
        for (text, wanted) in [
            ("192.0.2.8", Some("64:ff9b::c000:208")),
            ("169.254.0.0/16", Some("64:ff9b::a9fe:0/112")),
            ("10.0.0.0/8:53/udp", Some("[64:ff9b::a00:0/104]:53/udp")),
            ("0.0.0.0/0", Some("64:ff9b::/96")),
            ("2001:db8::1", None),
        ] {
            let translated = text.parse::<Destination>().unwrap().translated();
            let told = translated.map(|to| to.to_string());
            assert_eq!(told.as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_destination() {
        for bad in [
            "",
            "host",
            "10.0.0.0/33",
            "10.0.0.1:",
            "10.0.0.1:0",
            "10.0.0.1:2-1",
            "10.0.0.1:+5",
            "10.0.0.1:80/sctp",
            "[::1]80",
            "[::1",
            "1.2.3.4 lookup main",
            "1.2.3.4:80/tcp/udp",
        ] {
            assert!(bad.parse::<Destination>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_job_asks_for_the_hosts_network() {
        let error = "host".parse::<NetworkMode>().unwrap_err().to_string();
        assert!(error.contains("cannot ask"), "{error}");
        assert_eq!("none".parse(), Ok(NetworkMode::None));
    }
}
