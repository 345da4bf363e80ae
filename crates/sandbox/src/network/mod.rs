//! What a job can reach: nothing, or the outside through a user-mode network of its own.
//!
//! An isolated job has its own network namespace. slirp4netns(1), or pasta(1) where that is missing, carries its packets
//! through ordinary sockets of the agent. Closed to it are the host's loopback (by the program's option) and link-local
//! addresses, where clouds keep their metadata services (by unreachable routes that the job has no right to remove).
//! Not closed: other addresses of the host and its networks; services there are reachable as from any neighbour.

mod link_local;
mod program;

pub(crate) use link_local::{close_link_local, close_link_local_main};
pub(crate) use program::{NetworkHelper, NetworkProgram};

/// The address at which the network program answers DNS.
pub(crate) const DNS: &str = "10.0.2.3";
