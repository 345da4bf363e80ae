//! One rootless container: made, watched, stopped, proved gone.
//!
//! A [`SandboxSpec`] is the recipe, a [`Sandbox`] the living thing. There are two runtimes behind one contract
//! ([`Runtime`]): `crun` (an OCI bundle of our own, no engine) and `podman` (the user's socket). Whatever the runtime, the
//! job's root is a subordinate id of the user and never the agent's uid, its limits were read back from the kernel before
//! its first instruction, and after [`Sandbox::close`] nothing of it is left: no process, no cgroup, no mount.
//!
//! The crate refuses to know what a job is for: it takes directories and a command, and gives bytes and an exit.

mod apparmor;
mod cgroup;
mod contract;
mod crun;
mod disk;
mod error;
mod first;
#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod host;
mod logs;
mod network;
mod outcome;
mod own_ids;
mod podman;
mod privileges;
mod proc;
mod runtime;
mod sandbox;
mod seccomp;
mod selinux;
mod spec;
mod subid;
mod userns;

pub use cgroup::Delegation;
pub use disk::DiskWatch;
pub use error::{Missing, SandboxError};
pub use host::Host;
pub use logs::Logs;
pub use outcome::{Exit, Leftover, Piece};
pub use own_ids::OwnIds;
pub use privileges::{CAPABILITIES, give_up_capabilities};
pub use runtime::{Ready, Runtime, RuntimePlaces};
pub use sandbox::{Sandbox, Status};
pub use selinux::{Selinux, SelinuxType};
pub use spec::{Access, Mount, Network, Root, SandboxSpec, UserIds};
pub use subid::SubordinateIds;
pub use userns::{InsideProgram, Role, UserNamespace, role_main};
