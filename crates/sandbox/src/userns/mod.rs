//! The user namespace in which everything of a job lives.
//!
//! ```text
//!  host                     helper's namespace            job's namespace (nested, one per attempt)
//!  agent's uid   ------->   0                             (not mapped)
//!  subuid i      ------->   1 + i            ------->     i
//! ```
//!
//! So it is for the jobs that share slot 0; those that get ids of their own begin at a later id ([`bryo_model::IdSlot`]).
//! The helper has the ids of all slots, so that it can clean up after any attempt, whichever it had.
//!
//! One long-lived helper process holds the outer namespace and a mount namespace of its own. In it, id 0 is the agent
//! and ids from 1 on are the agent's subordinate ids; so what runs there may give files to a job and take them back.
//! A job gets a nested user namespace in which the agent's uid does not exist: a break-out meets an id that owns nothing.
//!
//! *Why a helper?* newuidmap and newgidmap cost more than all the rest of starting a container, and they are needed once
//! per namespace. *Why does it hold no socket?* It talks over two pipes with its parent alone, ends with it, and has
//! neither secrets nor a descriptor through which a job could reach anything.
//!
//! *Why does the helper hold the nested namespaces open?* Then they need no process of their own, and no mount, of which each
//! further mount namespace would get a copy. Who opens them through the helper's `/proc` directory needs the kernel's
//! permission to look at the helper (ptrace(2), `PTRACE_MODE_READ_FSCREDS`): the agent has it, and who has all capabilities in
//! the helper's namespace; a job does not.

mod children;
mod connection;
mod files;
mod handle;
mod helper;
mod input;
mod measure;
mod nameless;
mod nested;
mod protocol;
mod roles;
mod server;
mod worker;

pub use handle::{InsideProgram, UserNamespace};
pub use roles::{Role, role_main};

pub(crate) use files::give;
pub(crate) use handle::Nested;
pub(crate) use measure::OnDisk;
pub(crate) use nameless::nameless_in;
pub(crate) use worker::Worker;
