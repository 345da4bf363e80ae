//! The servers that an agent speaks to are closed to its jobs, at the ports where it speaks to them.
//!
//! A name is resolved once, when the agent starts: what is closed is addresses, and jobs resolve names by themselves. A
//! name that moves later is closed after the next start; who cannot wait closes the network with `host.closed`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bryo_model::Destination;

use crate::config::Address;

/// How long names may hold up the start, all together.
const PATIENCE: Duration = Duration::from_secs(2);

/// What must be closed for these servers not to be reached.
pub(super) async fn destinations(servers: &[Address]) -> Vec<Destination> {
    let mut closed = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for server in servers {
        let found = match server.host().parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => named(server, deadline).await,
        };
        let found = found.into_iter().map(|address| address.to_canonical());
        // Loopback is the job's own or closed already.
        let found = found.filter(|address| !address.is_loopback());
        for destination in found.map(|address| at(address, server.port())) {
            if !closed.contains(&destination) {
                closed.push(destination);
            }
        }
    }
    closed
}

async fn named(server: &Address, deadline: tokio::time::Instant) -> Vec<IpAddr> {
    let name = server.host();
    // RFC 6761: it is loopback, whatever a resolver says.
    if name == "localhost" || name.ends_with(".localhost") {
        return Vec::new();
    }
    let looked_up =
        tokio::time::timeout_at(deadline, tokio::net::lookup_host((name, server.port()))).await;
    let why = match looked_up {
        Ok(Ok(found)) => return found.map(|address: SocketAddr| address.ip()).collect(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer in {} s", PATIENCE.as_secs()),
    };
    tracing::warn!(
        "{name} could not be resolved ({why}), so it is not closed to jobs until the agent starts again; write its address in host.closed"
    );
    Vec::new()
}

/// Both protocols: a server of HTTP/3 is there by UDP too.
fn at(address: IpAddr, port: u16) -> Destination {
    Destination {
        ports: Some((port, port)),
        ..Destination::address(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_closed_at_their_ports_and_loopback_needs_nothing() {
        let servers: Vec<Address> = [
            "http://192.0.2.7:8080",
            "https://[2001:db8::1]",
            "http://localhost:1",
            "http://127.0.0.1:1",
            "http://[::ffff:127.0.0.1]:1",
            "http://[::ffff:192.0.2.7]:8080",
            "http://192.0.2.7:8080/x",
        ]
        .iter()
        .map(|text| Address::parse(text).unwrap())
        .collect();
        let closed: Vec<String> = destinations(&servers)
            .await
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(closed, ["192.0.2.7:8080", "[2001:db8::1]:443"]);
    }
}
