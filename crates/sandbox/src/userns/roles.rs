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
use nix::unistd::dup2_stdin;

use super::{helper, nameless};

/// The hidden roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Holds the outer user namespace.
    Helper,
    /// Joins the helper's namespaces and becomes another program, or another role.
    Inside,
    /// The same, with a file of Bryo's choice as the program's standard input, and the program ends when Bryo does.
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
        Role::Inside => inside(args),
        Role::InsideBound => inside_bound(args),
        Role::Nameless => nameless::nameless_main(args),
        Role::CloseNetwork => crate::network::close_network_main(args),
        Role::LabelOutput => crate::selinux::label_output_main(args),
    }
}

/// `HELPER-PID PROGRAM ARG...`: the program, as root of the helper's namespaces.
fn inside(args: &[OsString]) -> Result<(), String> {
    let [pid, program, rest @ ..] = args else {
        return Err("usage: PID PROGRAM [ARG...]".to_owned());
    };
    join(pid)?;
    become_program(program, rest)
}

/// `HELPER-PID FILE PROGRAM ARG...`: the same with this file as standard input.
fn inside_bound(args: &[OsString]) -> Result<(), String> {
    let [pid, input, program, rest @ ..] = args else {
        return Err("usage: PID FILE PROGRAM [ARG...]".to_owned());
    };
    let input = Path::new(input);
    File::open(input)
        .and_then(|file| Ok(dup2_stdin(file)?))
        .map_err(|e| format!("could not open {}: {e}", input.display()))?;
    join(pid)?;
    // After joining, which takes such a wish back.
    set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("could not be bound to Bryo: {e}"))?;
    become_program(program, rest)
}

fn become_program(program: &OsStr, args: &[OsString]) -> Result<(), String> {
    let error = Command::new(program).args(args).exec();
    let program = Path::new(program).display();
    Err(format!("could not start {program}: {error}"))
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
