//! Which sockets a job makes: those of families that a build needs and that a network namespace bounds.
//!
//! Not every family belongs to a network namespace. A socket of `AF_VSOCK` reaches the hypervisor, and what listens there on
//! the host, from a namespace without any device, and no rule of the routing policy is asked; `AF_ALG` is a part of the
//! kernel that no build needs. The distributions allow what the kernel has. So this is a list of what is open: a family
//! that the kernel gets tomorrow is closed. A program that asks for another one is told that it is not supported, which is
//! what programs are prepared for.
//!
//! Nothing is opened: a rule of the profile holds for the families that are left of it, and what it refuses stays refused.
//! A family is compared in 64 bits, of which the kernel takes 32: bits above these make it another one, which is closed.
//!
//! Two calls make sockets where no filter can look. The arguments of `socketcall` lie in memory; where it exists there is
//! `socket` beside it since Linux 4.3, but not every C library asks for that. `io_uring` takes its orders from memory.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

use super::errno;

const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;

/// What stays open of the calls whose first argument is a family.
const OPEN: [(&str, &[u64]); 2] = [
    ("socket", &[AF_UNIX, AF_INET, AF_INET6, AF_NETLINK]),
    ("socketpair", &[AF_UNIX]),
];

const SOCKETCALL: &str = "socketcall";

/// Left to what the profile does with calls that it does not name.
const UNNAMED: [&str; 3] = ["io_uring_enter", "io_uring_register", "io_uring_setup"];

const EPERM: u32 = 1;
const EAFNOSUPPORT: u32 = 97;

/// The rules without other sockets, for a profile that answers so to what it does not name.
pub(super) fn close(
    rules: Vec<LinuxSyscall>,
    default_errno: Option<u32>,
) -> Result<Vec<LinuxSyscall>, OciSpecError> {
    // Runtimes leave out a rule that says what the default says. libseccomp makes a rule for `socketcall` of each one for
    // `socket`; only one without conditions, which has to be there before these are, keeps them away.
    let refusal = match default_errno {
        Some(EAFNOSUPPORT) => EPERM,
        _ => EAFNOSUPPORT,
    };
    let mut closed = vec![errno(vec![SOCKETCALL], refusal)?];
    let mut of_profile: Vec<LinuxSyscall> = Vec::new();
    for mut rule in rules {
        let (known, rest): (Vec<_>, Vec<_>) = rule
            .names()
            .iter()
            .cloned()
            .partition(|name| is_about_sockets(name));
        if !rest.is_empty() {
            rule.set_names(rest);
            closed.push(rule.clone());
        }
        of_profile.extend(known.into_iter().map(|name| {
            let mut one = rule.clone();
            one.set_names(vec![name]);
            one
        }));
    }
    for (name, families) in OPEN {
        let named = |rule: &&LinuxSyscall| rule.names().iter().any(|known| known == name);
        let rules: Vec<_> = of_profile
            .iter()
            .filter(named)
            .flat_map(alternatives)
            .collect();
        for family in families {
            closed.extend(left_for(*family, &rules)?);
        }
        for gap in gaps(families)? {
            let mut rule = errno(vec![name], refusal)?;
            rule.set_args(Some(vec![gap]));
            closed.push(rule);
        }
    }
    Ok(closed)
}

fn is_about_sockets(name: &str) -> bool {
    name == SOCKETCALL || UNNAMED.contains(&name) || OPEN.iter().any(|(known, _)| *known == name)
}

/// Whether this rule is a way to a socket of another family.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn is_too_open(rule: &LinuxSyscall) -> bool {
    let args = rule.args().as_deref().unwrap_or_default();
    let is_one_of = |families: &[u64]| {
        args.iter().any(|arg| {
            (arg.index(), arg.op()) == (0, LinuxSeccompOperator::ScmpCmpEq)
                && families.contains(&arg.value())
        })
    };
    let open = |name: &String| match OPEN.iter().find(|(known, _)| known == name) {
        Some((_, families)) => !is_one_of(families),
        None => is_about_sockets(name),
    };
    !super::refuses(rule.action()) && rule.names().iter().any(open)
}

/// Conditions of a rule hold together, except where two are about one argument: runtimes then take each for a rule.
fn alternatives(rule: &LinuxSyscall) -> Vec<LinuxSyscall> {
    let args = rule.args().as_deref().unwrap_or_default();
    let twice =
        |arg: &LinuxSeccompArg| args.iter().filter(|a| a.index() == arg.index()).count() > 1;
    if !args.iter().any(twice) {
        return vec![rule.clone()];
    }
    let alone = |arg: &LinuxSeccompArg| {
        let mut one = rule.clone();
        one.set_args(Some(vec![*arg]));
        one
    };
    args.iter().map(alone).collect()
}

/// What the rules are for this family.
fn left_for(family: u64, rules: &[LinuxSyscall]) -> Result<Vec<LinuxSyscall>, OciSpecError> {
    let mut left: Vec<LinuxSyscall> = Vec::new();
    for rule in rules {
        let args = rule.args().as_deref().unwrap_or_default();
        let (of_family, others): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.index() == 0);
        if !of_family.into_iter().all(|arg| holds(arg, family)) {
            continue;
        }
        let mut args = vec![condition(LinuxSeccompOperator::ScmpCmpEq, family)?];
        args.extend(others);
        let mut rule = rule.clone();
        rule.set_args(Some(args));
        if !left.contains(&rule) {
            left.push(rule);
        }
    }
    let whole: Vec<_> = left
        .iter()
        .filter(|rule| is_whole(rule))
        .map(LinuxSyscall::action)
        .collect();
    left.retain(|rule| is_whole(rule) || !whole.contains(&rule.action()));
    Ok(left)
}

/// Whether nothing but the family is a condition.
fn is_whole(rule: &LinuxSyscall) -> bool {
    rule.args().as_ref().is_none_or(|args| args.len() == 1)
}

fn holds(arg: &LinuxSeccompArg, family: u64) -> bool {
    use LinuxSeccompOperator as Operator;
    let value = arg.value();
    match arg.op() {
        Operator::ScmpCmpNe => family != value,
        Operator::ScmpCmpLt => family < value,
        Operator::ScmpCmpLe => family <= value,
        Operator::ScmpCmpEq => family == value,
        Operator::ScmpCmpGe => family >= value,
        Operator::ScmpCmpGt => family > value,
        Operator::ScmpCmpMaskedEq => family & value == arg.value_two().unwrap_or(0) & value,
    }
}

/// Conditions that hold for every family but these, each for itself.
fn gaps(families: &[u64]) -> Result<Vec<LinuxSeccompArg>, OciSpecError> {
    let last = families.iter().copied().max().unwrap_or(0);
    let between = (0..last).filter(|family| !families.contains(family));
    let mut gaps = between
        .map(|family| condition(LinuxSeccompOperator::ScmpCmpEq, family))
        .collect::<Result<Vec<_>, _>>()?;
    gaps.push(condition(LinuxSeccompOperator::ScmpCmpGt, last)?);
    Ok(gaps)
}

fn condition(op: LinuxSeccompOperator, family: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(family)
        .op(op)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxSeccompAction, LinuxSyscallBuilder};

    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno};
    use LinuxSeccompOperator::{ScmpCmpEq, ScmpCmpGt, ScmpCmpLt, ScmpCmpMaskedEq, ScmpCmpNe};

    const AF_ALG: u64 = 38;
    const AF_VSOCK: u64 = 40;
    const NETLINK_AUDIT: u64 = 9;

    fn arg(index: usize, op: LinuxSeccompOperator, value: u64) -> LinuxSeccompArg {
        let arg = LinuxSeccompArgBuilder::default();
        arg.index(index).op(op).value(value).build().unwrap()
    }

    fn rule(names: &[&str], action: LinuxSeccompAction, args: &[LinuxSeccompArg]) -> LinuxSyscall {
        let mut rule = LinuxSyscallBuilder::default()
            .names(names.iter().map(ToString::to_string).collect::<Vec<_>>())
            .action(action)
            .build()
            .unwrap();
        rule.set_args((!args.is_empty()).then(|| args.to_vec()));
        rule.set_errno_ret((action == ScmpActErrno).then_some(22));
        rule
    }

    /// As Debian 12 has them.
    fn distribution() -> Vec<LinuxSyscall> {
        let audit = arg(2, ScmpCmpNe, NETLINK_AUDIT);
        vec![
            rule(&["read", "socketcall", "socketpair"], ScmpActAllow, &[]),
            rule(
                &["socket"],
                ScmpActErrno,
                &[
                    arg(0, ScmpCmpEq, AF_NETLINK),
                    arg(2, ScmpCmpEq, NETLINK_AUDIT),
                ],
            ),
            rule(&["socket"], ScmpActAllow, &[audit]),
            rule(&["socket"], ScmpActAllow, &[arg(0, ScmpCmpNe, AF_NETLINK)]),
            rule(&["socket"], ScmpActAllow, &[audit]),
        ]
    }

    /// What the rules do with a call: all of those that hold for it, as libseccomp would find one of them.
    fn answers(rules: &[LinuxSyscall], name: &str, args: [u64; 3]) -> Vec<Option<u32>> {
        let named = |rule: &&LinuxSyscall| rule.names().iter().any(|known| known == name);
        let hold = |rule: &&LinuxSyscall| {
            let all = rule.args().as_deref().unwrap_or_default();
            all.iter().all(|arg| holds(arg, args[arg.index()]))
        };
        let all = rules.iter().filter(named).filter(hold);
        all.map(|rule| (rule.action() != ScmpActAllow).then(|| rule.errno_ret().unwrap()))
            .collect()
    }

    const ALLOWED: &[Option<u32>] = &[None];

    #[test]
    fn a_build_has_its_families_and_no_others() {
        let rules = close(distribution(), Some(38)).unwrap();
        for family in [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK] {
            assert_eq!(
                answers(&rules, "socket", [family, 1, 0]),
                ALLOWED,
                "{family}"
            );
        }
        let above = [
            1 << 32 | AF_UNIX,
            1 << 32 | AF_VSOCK,
            u64::from(u32::MAX),
            u64::MAX,
        ];
        let others = (0..64).filter(|family| ![1, 2, 10, 16].contains(family));
        for family in others.chain(above) {
            assert_eq!(
                answers(&rules, "socket", [family, 1, 0]),
                [Some(EAFNOSUPPORT)],
                "{family}"
            );
        }
        assert_eq!(answers(&rules, "socketpair", [AF_UNIX, 1, 0]), ALLOWED);
        for family in [0, AF_INET, AF_VSOCK, 1 << 32 | AF_UNIX] {
            assert_eq!(
                answers(&rules, "socketpair", [family, 1, 0]),
                [Some(EAFNOSUPPORT)]
            );
        }
        assert_eq!(answers(&rules, "read", [0; 3]), ALLOWED);
    }

    #[test]
    fn what_the_profile_refuses_stays_refused() {
        let rules = close(distribution(), None).unwrap();
        let audit = |family| answers(&rules, "socket", [family, 3, NETLINK_AUDIT]);
        assert_eq!(audit(AF_NETLINK), [Some(22)]);
        assert_eq!(audit(AF_INET), ALLOWED);
        // Nor is opened what it does not allow.
        let few = [rule(&["socket"], ScmpActAllow, &[arg(0, ScmpCmpLt, 3)])];
        let rules = close(few.to_vec(), None).unwrap();
        assert_eq!(answers(&rules, "socket", [AF_INET, 1, 0]), ALLOWED);
        for (name, family) in [("socket", AF_INET6), ("socketpair", AF_UNIX)] {
            assert_eq!(answers(&rules, name, [family, 1, 0]), []);
        }
    }

    #[test]
    fn families_are_told_apart_in_whatever_way() {
        let masked = LinuxSeccompArgBuilder::default()
            .value(!1_u64)
            .value_two(AF_INET6)
            .op(ScmpCmpMaskedEq)
            .build()
            .unwrap();
        for (args, open) in [
            (vec![], &[AF_UNIX, AF_INET, AF_INET6, AF_NETLINK][..]),
            (vec![masked], &[AF_INET6]),
            (vec![arg(0, ScmpCmpNe, AF_VSOCK)], &[1, 2, 10, 16]),
            // Two conditions on one argument are two rules.
            (
                vec![arg(0, ScmpCmpLt, AF_ALG), arg(0, ScmpCmpGt, AF_VSOCK)],
                &[1, 2, 10, 16],
            ),
            (
                vec![arg(0, ScmpCmpEq, AF_INET), arg(0, ScmpCmpEq, AF_VSOCK)],
                &[AF_INET],
            ),
        ] {
            let rules = close(vec![rule(&["socket"], ScmpActAllow, &args)], None).unwrap();
            let allowed = (0..64).filter(|f| answers(&rules, "socket", [*f, 1, 0]) == ALLOWED);
            assert_eq!(allowed.collect::<Vec<_>>(), open, "{args:?}");
        }
    }

    #[test]
    fn what_makes_sockets_out_of_sight_is_closed() {
        let mut all = distribution();
        all.push(rule(
            &["io_uring_setup", "io_uring_enter"],
            ScmpActAllow,
            &[],
        ));
        for (default, wanted) in [(None, 97), (Some(38), 97), (Some(97), 1)] {
            let rules = close(all.clone(), default).unwrap();
            // The first, without conditions, and the only one.
            assert_eq!(
                (rules[0].names()[0].as_str(), rules[0].args()),
                ("socketcall", &None)
            );
            assert_eq!(answers(&rules, "socketcall", [1, 0, 0]), [Some(wanted)]);
            assert_eq!(answers(&rules, "io_uring_setup", [1, 0, 0]), []);
            assert_eq!(answers(&rules, "io_uring_enter", [1, 0, 0]), []);
        }
    }
}
