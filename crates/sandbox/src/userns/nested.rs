//! Inside the helper: a nested user namespace for one attempt, pinned by mounts.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use bryo_model::IdSlot;

use super::roles::Role;

/// Where the namespaces of attempt `name` are pinned, beneath the helper's own directory.
pub(super) fn pins(base: &Path, name: &str) -> (PathBuf, PathBuf) {
    let dir = base.join("ns");
    (
        dir.join(format!("{name}.user")),
        dir.join(format!("{name}.net")),
    )
}

/// Makes the namespaces and pins them; `first` is the job's id 0. The process that makes them is gone afterwards.
pub(super) fn make(base: &Path, name: &str, first: u32, network: bool) -> Result<(), String> {
    let mut child = Command::new("/proc/self/exe")
        .arg(Role::Nested.name())
        .arg(if network { "network" } else { "alone" })
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("could not start the namespace maker: {e}"))?;
    let result = map_and_pin(&mut child, base, name, first, network);
    // The end of its input ends it, whatever happened.
    drop(child.stdin.take());
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut said);
    }
    let _ = child.wait();
    if result.is_err() {
        let _ = unmake(base, name);
    }
    result.map_err(|e| if said.is_empty() { e } else { said })
}

fn map_and_pin(
    child: &mut std::process::Child,
    base: &Path,
    name: &str,
    first: u32,
    network: bool,
) -> Result<(), String> {
    let mut ready = [0];
    child
        .stdout
        .as_mut()
        .ok_or("the namespace maker has no output")?
        .read_exact(&mut ready)
        .map_err(|e| format!("the namespace maker did not answer: {e}"))?;
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let map = format!("0 {first} {}\n", IdSlot::IDS);
    for file in ["uid_map", "gid_map"] {
        let path = proc.join(file);
        // One write call: the kernel takes a map once, whole.
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut f| f.write_all(map.as_bytes()))
            .map_err(|e| format!("could not write {}: {e}", path.display()))?;
    }
    let (user, net) = pins(base, name);
    pin(&proc.join("ns/user"), &user)?;
    if network {
        pin(&proc.join("ns/net"), &net)?;
    }
    Ok(())
}

fn pin(namespace: &Path, at: &Path) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| format!("could not pin {}: {e}", at.display());
    std::fs::File::create(at).map_err(|e| text(&e))?;
    mount(
        Some(namespace),
        at,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|e| text(&e))
}

/// Lets go of the namespaces; what is gone already is no error.
pub(super) fn unmake(base: &Path, name: &str) -> Result<(), String> {
    let (user, net) = pins(base, name);
    for at in [user.with_extension("pid"), user, net] {
        if at.exists() {
            let _ = umount2(&at, MntFlags::MNT_DETACH);
            std::fs::remove_file(&at)
                .map_err(|e| format!("could not remove {}: {e}", at.display()))?;
        }
    }
    Ok(())
}

/// The main function of the namespace maker: unshares, says so, and waits until it is no longer needed.
pub(super) fn maker_main(network: bool) -> Result<(), String> {
    let mut flags = CloneFlags::CLONE_NEWUSER;
    if network {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).map_err(|e| format!("could not make the job's user namespace: {e}"))?;
    let mut stdout = std::io::stdout();
    stdout
        .write_all(b"1")
        .and_then(|()| stdout.flush())
        .map_err(|e| format!("the helper went away: {e}"))?;
    let _ = std::io::stdin().read(&mut [0]);
    Ok(())
}
