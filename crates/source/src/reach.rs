//! Which addresses git may connect to, by their kind.
//!
//! A repository's address is a stranger's word, and so is what its name resolves to and where its server redirects to.
//! Addresses of this host, of its link and of what clouds answer to their guests are closed unless the configuration
//! opens them; addresses of private networks are not: a git server on one is what many hosts are for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bryo_model::METADATA_SERVICES;

/// Why an address is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// This host itself.
    Loopback,
    /// This host's link, and the metadata service of most clouds.
    LinkLocal,
    /// The metadata service of a cloud.
    Metadata,
    /// No address of one host.
    NoHost,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "the metadata service of a cloud",
            Self::NoHost => "no address of a host",
        })
    }
}

/// Why this address is closed, if it is.
pub(crate) fn closed(address: IpAddr) -> Option<Closed> {
    if is_metadata(address.to_canonical()) {
        return Some(Closed::Metadata);
    }
    match address {
        IpAddr::V4(v4) => closed_v4(v4),
        IpAddr::V6(v6) => embedded(v6).map_or_else(
            || closed_v6(v6),
            |v4| {
                let metadata = is_metadata(v4.into()).then_some(Closed::Metadata);
                metadata.or_else(|| closed_v4(v4))
            },
        ),
    }
}

fn is_metadata(address: IpAddr) -> bool {
    METADATA_SERVICES.iter().any(|net| net.contains(&address))
}

fn closed_v4(address: Ipv4Addr) -> Option<Closed> {
    if address.is_loopback() {
        Some(Closed::Loopback)
    } else if address.is_link_local() {
        Some(Closed::LinkLocal)
    // Linux takes 0.0.0.0 for loopback; the rest of 0/8 and of 240/4 is nobody's.
    } else if matches!(address.octets()[0], 0 | 240..) || address.is_multicast() {
        Some(Closed::NoHost)
    } else {
        None
    }
}

fn closed_v6(address: Ipv6Addr) -> Option<Closed> {
    if address.is_loopback() {
        Some(Closed::Loopback)
    } else if address.is_unicast_link_local() {
        Some(Closed::LinkLocal)
    } else if address.is_unspecified() || address.is_multicast() {
        Some(Closed::NoHost)
    } else {
        None
    }
}

/// The IPv4 address that an IPv6 one leads to: mapped (RFC 4291), compatible, translated (RFC 6052) or of 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_and_what_is_not() {
        for (text, why) in [
            ("127.0.0.1", Some(Closed::Loopback)),
            ("127.255.0.9", Some(Closed::Loopback)),
            ("::1", Some(Closed::Loopback)),
            ("::ffff:127.0.0.1", Some(Closed::Loopback)),
            ("::127.0.0.1", Some(Closed::Loopback)),
            ("::ffff:0:127.0.0.1", Some(Closed::Loopback)),
            ("64:ff9b::7f00:1", Some(Closed::Loopback)),
            ("2002:7f00:1::", Some(Closed::Loopback)),
            ("169.254.169.254", Some(Closed::LinkLocal)),
            ("::ffff:169.254.169.254", Some(Closed::LinkLocal)),
            ("fe80::1", Some(Closed::LinkLocal)),
            ("fd00:ec2::254", Some(Closed::Metadata)),
            ("100.100.100.200", Some(Closed::Metadata)),
            ("fd20:ce::254", Some(Closed::Metadata)),
            ("::ffff:168.63.129.16", Some(Closed::Metadata)),
            ("64:ff9b::a83f:8110", Some(Closed::Metadata)),
            ("0.0.0.0", Some(Closed::NoHost)),
            ("0.1.2.3", Some(Closed::NoHost)),
            ("::", Some(Closed::NoHost)),
            ("224.0.0.1", Some(Closed::NoHost)),
            ("ff02::1", Some(Closed::NoHost)),
            ("255.255.255.255", Some(Closed::NoHost)),
            ("10.1.2.3", None),
            ("172.16.0.1", None),
            ("192.168.1.1", None),
            ("100.64.0.1", None),
            ("fd12:3456::1", None),
            ("::ffff:10.1.2.3", None),
            ("2001:db8::7f00:1", None),
            ("192.0.2.1", None),
        ] {
            assert_eq!(closed(text.parse().unwrap()), why, "{text}");
        }
    }
}
