//! What the agent's own process gives up at its start.
//!
//! It knows the user's secrets and talks to what jobs print, so nobody else of the user may look into it and no crash may
//! write it to disk. It needs no capability: `newuidmap` and `newgidmap` bring their own.
//!
//! Why only the agent: a helper's namespaces are joined through `/proc`, which the kernel allows only for processes that
//! can be looked into. A helper starts anew from the program file and has none of the agent's memory.

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

/// Gives it up. What the kernel refuses to take stays as it was: none of it is what keeps a job in.
pub(crate) fn harden() {
    bryo_sandbox::give_up_capabilities();
    let _ = set_dumpable(false);
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
}
