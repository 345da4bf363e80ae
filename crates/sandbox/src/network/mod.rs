//! What a job can reach: nothing, or the outside through a user-mode network of its own, or all that the host reaches.
//!
//! An isolated job has its own network namespace. slirp4netns(1), or pasta(1) where that is missing, carries its packets
//! through ordinary sockets of the agent. The host's loopback is closed by the program's option. What else is closed
//! (metadata services, the host's own addresses, what the host's owner and the job itself want closed) is closed by rules
//! in the job's network namespace, which the job has no right to remove.
//!
//! Not closed by default: other machines in the host's networks.

mod close;
mod counters;
mod program;
mod resolver;
mod rules;

use std::net::Ipv4Addr;

pub(crate) use close::{close_network, close_network_main};
pub(crate) use counters::{Counters, Traffic};
pub(crate) use program::{NetworkHelper, NetworkProgram};
pub(crate) use resolver::resolver;
pub(crate) use rules::{Rule, own_addresses, rules};

/// The address at which the network program answers DNS.
pub(crate) const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
