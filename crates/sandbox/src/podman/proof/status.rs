//! Privileges and resource limits of a process that runs.

use super::Expected;

/// Checks `/proc/PID/status`.
///
/// A job may give privileges up before it is looked at, so sets are checked for what they hold too much. The bounding set
/// is compared as it is: a job cannot change it.
pub(super) fn check(text: &str, expected: &Expected) -> Result<(), String> {
    if is_over(text) {
        return Ok(());
    }
    for (name, wanted) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        let is = field(text, name);
        if is != wanted {
            return Err(format!(
                "the container runs with {name} {is:?} instead of {wanted}"
            ));
        }
    }
    let most = expected.capabilities;
    for name in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
        let is = field(text, name);
        let set = u64::from_str_radix(is, 16).ok();
        let wanted = match name {
            "CapBnd" => set == Some(most),
            _ => set.is_some_and(|set| set & !most == 0),
        };
        if !wanted {
            return Err(format!(
                "the container runs with {name} {is:?} instead of {most:016x}"
            ));
        }
    }
    Ok(())
}

/// Checks `/proc/PID/limits`: nothing above what was asked for. Hard limits of a job only go down.
pub(super) fn check_limits(text: &str, expected: &Expected) -> Result<(), String> {
    for (name, most) in [
        ("Max open files", expected.open_files),
        ("Max core file size", 0),
    ] {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let hard = line.and_then(|line| line.split_whitespace().nth(1));
        let within = hard
            .and_then(|hard| hard.parse::<u64>().ok())
            .is_some_and(|hard| hard <= most);
        if !within {
            return Err(format!(
                "the container runs with {name} {} instead of at most {most}",
                hard.unwrap_or("unknown")
            ));
        }
    }
    Ok(())
}

/// Whether the process has ended: then it has no privileges.
pub(super) fn is_over(text: &str) -> bool {
    field(text, "State").starts_with(['Z', 'X'])
}

/// A field of `/proc/PID/status`; empty when it is not there.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_default()
        .trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        Expected {
            capabilities: 0xeb,
            open_files: 20_000,
            ..Expected::default()
        }
    }

    const GOOD: &str = "State:\tS (sleeping)\nCapInh:\t0000000000000000\nCapPrm:\t00000000000000eb\n\
        CapEff:\t00000000000000eb\nCapBnd:\t00000000000000eb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n\
        Seccomp_filters:\t1\n";

    #[test]
    fn statuses() {
        assert_eq!(check(GOOD, &expected()), Ok(()));
        let dropped = GOOD.replace("CapEff:\t00000000000000eb", "CapEff:\t0000000000000000");
        assert_eq!(check(&dropped, &expected()), Ok(()));
        for (from, to) in [
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("CapBnd:\t00000000000000eb", "CapBnd:\t00000000000000ff"),
            ("CapBnd:\t00000000000000eb", "CapBnd:\t0000000000000000"),
            ("CapPrm:\t00000000000000eb", "CapPrm:\t00000000002000eb"),
            ("CapEff:\t00000000000000eb", "CapEff:\t00000000002000eb"),
            ("CapInh:\t0000000000000000", "CapInh:\t0000000000200000"),
            ("CapAmb:\t0000000000000000", "CapAmb:\t0000000000200000"),
            ("CapAmb", "CapOther"),
        ] {
            assert!(check(&GOOD.replace(from, to), &expected()).is_err(), "{to}");
        }
        assert_eq!(check("State:\tZ (zombie)\n", &expected()), Ok(()));
        // An unprivileged user of the image has none at all.
        let nobody = Expected {
            capabilities: 0,
            ..expected()
        };
        let ambient = GOOD.replace("CapBnd:\t00000000000000eb", "CapBnd:\t0000000000000000");
        assert!(check(&ambient, &nobody).is_err());
    }

    #[test]
    fn limits() {
        let good = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max core file size        0                    0                    bytes     \n\
            Max open files            10                   20000                files     \n";
        assert_eq!(check_limits(good, &expected()), Ok(()));
        for (from, to) in [
            ("20000", "20001"),
            ("20000", "unlimited"),
            ("0                    0 ", "0                    unlimited "),
            ("Max open files", "Max something"),
        ] {
            assert!(
                check_limits(&good.replace(from, to), &expected()).is_err(),
                "{to}"
            );
        }
    }
}
