//! What the `bryo` program becomes when it starts itself with a hidden name, inside a namespace.
//!
//! A namespace can be joined only by a process with one thread, and setting up a mount needs system calls that must not
//! happen between fork and exec of a threaded program. So the program starts itself anew and does it there, in safe code.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::{helper, nameless};

/// The hidden roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Holds the outer user namespace.
    Helper,
    /// Joins the helper's namespaces and becomes another program, or another role.
    Inside,
    /// The same, and the program ends when Bryo does.
    InsideBound,
    /// Adds up what the processes of a job hold open without a name.
    Nameless,
    /// Sets the rules of a job's network namespace.
    CloseNetwork,
    /// Labels the pipes of a container's output.
    LabelOutput,
}

impl Role {
    const ALL: [Self; 6] = [
        Self::Helper,
        Self::Inside,
        Self::InsideBound,
        Self::Nameless,
        Self::CloseNetwork,
        Self::LabelOutput,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Helper => "__helper",
            Self::Inside => "__inside",
            Self::InsideBound => "__inside-bound",
            Self::Nameless => "__nameless",
            Self::CloseNetwork => "__close-network",
            Self::LabelOutput => "__label-output",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn of(name: &OsStr) -> Option<Self> {
        Self::ALL.into_iter().find(|role| name == role.name())
    }
}

/// Plays a role to its end.
///
/// # Errors
///
/// A sentence for the process that started this one; it reads it from standard error.
pub fn role_main(role: Role, args: &[OsString]) -> Result<(), String> {
    match role {
        Role::Helper => {
            let keep: Vec<PathBuf> = args.iter().map(PathBuf::from).collect();
            helper::main(&keep)
        }
        Role::Inside => inside(args, false),
        Role::InsideBound => inside(args, true),
        Role::Nameless => nameless::nameless_main(args),
        Role::CloseNetwork => crate::network::close_network_main(args),
        Role::LabelOutput => crate::selinux::label_output_main(args),
    }
}

/// `HELPER-PID PROGRAM ARG...`: the program, as root of the helper's namespaces.
fn inside(args: &[OsString], bound: bool) -> Result<(), String> {
    let [pid, program, rest @ ..] = args else {
        return Err("usage: PID PROGRAM [ARG...]".to_owned());
    };
    join(pid)?;
    if bound {
        // After joining, which takes such a wish back.
        set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("could not be bound to Bryo: {e}"))?;
    }
    let error = Command::new(program).args(rest).exec();
    Err(format!(
        "could not start {}: {error}",
        Path::new(program).display()
    ))
}

/// Joins the user and mount namespace of the helper. The caller is id 0 there: the agent.
fn join(pid: &OsStr) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| format!("could not join the helper's namespaces: {e}");
    let dir = Path::new("/proc").join(pid).join("ns");
    let user = File::open(dir.join("user")).map_err(|e| text(&e))?;
    let mnt = File::open(dir.join("mnt")).map_err(|e| text(&e))?;
    setns(&user, CloneFlags::CLONE_NEWUSER).map_err(|e| text(&e))?;
    setns(&mnt, CloneFlags::CLONE_NEWNS).map_err(|e| text(&e))
}
