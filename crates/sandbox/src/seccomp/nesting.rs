//! No containers in a job: calls that the distributions allow so that a container can hold others.
//!
//! An unprivileged process that makes a user namespace has every capability in it, and with them reaches parts of the
//! kernel that are closed to it otherwise; most ways out of containers of recent years began so. A build needs none of it.
//! Kernel keyrings are closed too: they are older than namespaces and know only part of them.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
    LinuxSyscallBuilder,
};

use super::errno;

/// Refused whatever their arguments are.
const CLOSED: [&str; 17] = [
    "add_key",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "keyctl",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "open_tree_attr",
    "pivot_root",
    "request_key",
    "setns",
    "umount",
    "umount2",
    "unshare",
];

/// Every `CLONE_NEW*` that `clone` takes.
const NEW_NAMESPACES: u64 = 0x7E02_0000;

/// Which argument of `clone` its flags are.
const CLONE_FLAGS: usize = if cfg!(target_arch = "s390x") { 1 } else { 0 };

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The rules without them. `clone` makes processes and threads only; the flags of `clone3` lie in memory, where no filter
/// can look, so it does not exist, and libraries take `clone`.
pub(super) fn close(rules: Vec<LinuxSyscall>) -> Result<Vec<LinuxSyscall>, OciSpecError> {
    let mut closed = Vec::new();
    let mut kept = Vec::new();
    for mut rule in rules {
        let (out, stay): (Vec<_>, Vec<_>) = rule
            .names()
            .iter()
            .cloned()
            .partition(|name| CLOSED.contains(&name.as_str()) || name.starts_with("clone"));
        closed.extend(out);
        if !stay.is_empty() {
            rule.set_names(stay);
            kept.push(rule);
        }
    }
    let named = |name: &str| closed.iter().any(|known| known == name);
    let refused: Vec<_> = CLOSED.into_iter().filter(|name| named(name)).collect();
    if !refused.is_empty() {
        kept.push(errno(refused, EPERM)?);
    }
    kept.push(errno(vec!["clone3"], ENOSYS)?);
    let no_new = LinuxSeccompArgBuilder::default()
        .index(CLONE_FLAGS)
        .value(NEW_NAMESPACES)
        .value_two(0_u64)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .build()?;
    let clone = LinuxSyscallBuilder::default()
        .names(vec!["clone".to_owned()])
        .action(LinuxSeccompAction::ScmpActAllow)
        .args(vec![no_new])
        .build()?;
    kept.push(clone);
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_namespaces_is_closed_and_the_rest_stays() {
        let allow = LinuxSyscallBuilder::default()
            .names(
                ["read", "clone", "clone3", "unshare"]
                    .map(str::to_owned)
                    .to_vec(),
            )
            .action(LinuxSeccompAction::ScmpActAllow)
            .build()
            .unwrap();
        let alone = errno(vec!["setns"], 1).unwrap();
        let rules = close(vec![allow, alone]).unwrap();
        let text: Vec<_> = rules
            .iter()
            .map(|r| (r.names().join(" "), r.action(), r.errno_ret()))
            .collect();
        let (yes, no) = (
            LinuxSeccompAction::ScmpActAllow,
            LinuxSeccompAction::ScmpActErrno,
        );
        assert_eq!(
            text,
            [
                ("read".to_owned(), yes, None),
                ("setns unshare".to_owned(), no, Some(1)),
                ("clone3".to_owned(), no, Some(38)),
                ("clone".to_owned(), yes, None),
            ]
        );
        let arg = rules[3].args().as_ref().unwrap()[0];
        assert_eq!((arg.value(), arg.value_two()), (0x7E02_0000, Some(0)));
    }
}
