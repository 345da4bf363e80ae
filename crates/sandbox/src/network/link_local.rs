//! Link-local addresses are made unreachable in a job's network namespace.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bryo_process::{Program, find_program};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, setresgid, setresuid};

use crate::userns::Role;
use crate::{Missing, SandboxError};

/// RFC 3927. A rule, and not a route: it is looked at before the routes that a network program copies from the host, some
/// of which lead to just one such address.
const RULES: &[u8] = b"rule add unreachable to 169.254.0.0/16 pref 1\n";

const PATIENCE: Duration = Duration::from_secs(20);

/// Adds the rule to the namespace whose user and network namespace are at these paths, as the host sees them.
pub(crate) async fn close_link_local(user: &Path, net: &Path) -> Result<(), SandboxError> {
    let ip = find_program("ip").ok_or_else(|| {
        SandboxError::Host(vec![Missing::new(
            "the program ip is not installed",
            "install it: apt install iproute2",
        )])
    })?;
    Program::new("/proc/self/exe")
        .arg(Role::CloseLinkLocal.name())
        .arg(user)
        .arg(net)
        .arg(ip)
        .finish(RULES, 4096, PATIENCE)
        .await
        .and_then(bryo_process::Finished::success)
        .map(drop)
        .map_err(SandboxError::program("close link-local addresses"))
}

/// `USER-NAMESPACE NETWORK-NAMESPACE IP`: joins both and becomes ip(8), which reads the rule.
pub(crate) fn close_link_local_main(args: &[OsString]) -> Result<(), String> {
    let [user, net, ip] = args else {
        return Err("usage: USER-NAMESPACE NETWORK-NAMESPACE IP".to_owned());
    };
    let open = |path: &OsString| {
        File::open(path).map_err(|e| format!("could not open {}: {e}", Path::new(path).display()))
    };
    let (user, net) = (open(user)?, open(net)?);
    let join = |file: &File, flag| {
        setns(file, flag).map_err(|e| format!("could not join the job's namespaces: {e}"))
    };
    join(&user, CloneFlags::CLONE_NEWUSER)?;
    join(&net, CloneFlags::CLONE_NEWNET)?;
    // A program that another id than 0 starts loses the capabilities that joining gave.
    let root = |e| format!("could not become root of the job's user namespace: {e}");
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0)).map_err(root)?;
    setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).map_err(root)?;
    let error = Command::new(ip).args(["-batch", "-"]).exec();
    Err(format!("could not start ip: {error}"))
}
