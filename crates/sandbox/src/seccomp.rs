//! The system-call filter: the distribution's own profile, lowered to the form that an OCI runtime takes.
//!
//! containers-common ships one profile for all architectures and capabilities (containers-seccomp.json(5)): groups of
//! calls that apply where their `includes` hold and their `excludes` do not. The OCI form has no conditions, so they are
//! decided here for this machine and for the capabilities that a job has. A group that cannot be decided is an error:
//! a filter that is silently weaker than the distribution's is worse than none.
//!
//! Then it is made narrower: see [`nesting`] and [`sockets`]. What crun compiles from it is made faster: see [`program`].

mod nesting;
pub(crate) mod program;
mod sockets;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use sockets::is_too_open;

use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder, LinuxSyscall,
    LinuxSyscallBuilder,
};
use serde::Deserialize;

use crate::proc::kernel_version;
use crate::{CAPABILITIES, Missing, SandboxError};

/// Where profiles are looked for: the administrator's before the distribution's.
const PLACES: [&str; 2] = [
    "/etc/containers/seccomp.json",
    "/usr/share/containers/seccomp.json",
];

/// The profile of this host, if it has one.
pub(crate) fn find_profile() -> Result<PathBuf, Missing> {
    PLACES
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Missing::new(
                "there is no seccomp profile in /usr/share/containers/seccomp.json",
                "install it: apt install golang-github-containers-common (Debian), \
                 dnf install containers-common (Fedora)",
            )
        })
}

/// Reads and lowers the profile.
pub(crate) fn load(path: &Path) -> Result<LinuxSeccomp, SandboxError> {
    let text = std::fs::read(path).map_err(SandboxError::file("read", path))?;
    let host = Host {
        arch: arch().unwrap_or_default(),
        kernel: kernel_version(),
    };
    lower(&text, host).map_err(|why| SandboxError::Seccomp {
        path: path.to_owned(),
        why,
    })
}

#[derive(Clone, Copy)]
pub(crate) struct Host {
    /// Go's name of the architecture, as profiles use it.
    pub(crate) arch: &'static str,
    /// Major and minor version.
    pub(crate) kernel: (u32, u32),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    syscalls: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

/// A field that is not known may be a condition: a group that has one cannot be decided.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Group {
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(rename = "errno")]
    _errno_name: Option<String>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

pub(crate) fn lower(profile: &[u8], host: Host) -> Result<LinuxSeccomp, String> {
    let profile: Profile = serde_json::from_slice(profile).map_err(|e| e.to_string())?;
    let native = native(host.arch)
        .ok_or_else(|| format!("it has no name for the architecture {:?}", host.arch))?;
    let mut arches = vec![native];
    for map in profile.arch_map {
        if map.architecture == native {
            arches.extend(map.sub_architectures.unwrap_or_default());
        }
    }
    if !refuses(profile.default_action) {
        return Err("it allows what it does not name; a profile must refuse that".to_owned());
    }
    let syscalls = decided(profile.syscalls, host)?;
    let syscalls = nesting::close(syscalls)
        .and_then(|rules| sockets::close(rules, profile.default_errno_ret))
        .map_err(|e| e.to_string())?;
    let mut seccomp = LinuxSeccompBuilder::default()
        .default_action(profile.default_action)
        .architectures(arches)
        .syscalls(syscalls)
        .build()
        .map_err(|e| e.to_string())?;
    seccomp.set_default_errno_ret(profile.default_errno_ret);
    Ok(seccomp)
}

/// Whether an action keeps a call from being made.
const fn refuses(action: LinuxSeccompAction) -> bool {
    use LinuxSeccompAction as Action;
    matches!(
        action,
        Action::ScmpActErrno
            | Action::ScmpActKill
            | Action::ScmpActKillProcess
            | Action::ScmpActKillThread
            | Action::ScmpActTrap
    )
}

/// The rules of a profile for this host, as it has them.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn rules_of(profile: &[u8], host: Host) -> Result<Vec<LinuxSyscall>, String> {
    let profile: Profile = serde_json::from_slice(profile).map_err(|e| e.to_string())?;
    decided(profile.syscalls, host)
}

/// The groups that apply, without their conditions.
fn decided(groups: Vec<Group>, host: Host) -> Result<Vec<LinuxSyscall>, String> {
    let mut rules = Vec::new();
    for group in groups {
        if applies(&group, host)? {
            rules.push(rule(group).map_err(|e| e.to_string())?);
        }
    }
    Ok(rules)
}

/// Includes must all hold; one exclude that holds is enough.
fn applies(group: &Group, host: Host) -> Result<bool, String> {
    let includes = &group.includes;
    let excludes = &group.excludes;
    let arch_named = |arches: &[String]| arches.iter().any(|a| a == host.arch);
    let new_enough = |wanted: &str| -> Result<bool, String> {
        let (major, minor) = wanted.split_once('.').unwrap_or((wanted, "0"));
        match (major.parse::<u32>(), minor.parse::<u32>()) {
            (Ok(major), Ok(minor)) => Ok(host.kernel >= (major, minor)),
            _ => Err(format!("minKernel {wanted:?} is not a version")),
        }
    };
    let mut holds = includes.caps.iter().all(|c| granted(c))
        && (includes.arches.is_empty() || arch_named(&includes.arches));
    if let Some(wanted) = &includes.min_kernel {
        holds = holds && new_enough(wanted)?;
    }
    let mut excluded = excludes.caps.iter().any(|c| granted(c)) || arch_named(&excludes.arches);
    if let Some(wanted) = &excludes.min_kernel {
        excluded = excluded || new_enough(wanted)?;
    }
    Ok(holds && !excluded)
}

fn granted(cap: &str) -> bool {
    CAPABILITIES.contains(&cap.trim_start_matches("CAP_"))
}

fn rule(group: Group) -> Result<LinuxSyscall, OciSpecError> {
    let mut rule = LinuxSyscallBuilder::default()
        .names(group.names)
        .action(group.action)
        .build()?;
    rule.set_errno_ret(group.errno_ret);
    rule.set_args(group.args.filter(|args| !args.is_empty()));
    Ok(rule)
}

/// A rule that refuses these calls with this error.
fn errno(names: Vec<&str>, number: u32) -> Result<LinuxSyscall, OciSpecError> {
    LinuxSyscallBuilder::default()
        .names(names.into_iter().map(str::to_owned).collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(number)
        .build()
}

fn arch() -> Option<&'static str> {
    Some(match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "riscv64" => "riscv64",
        "s390x" => "s390x",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        _ => return None,
    })
}

fn native(arch: &str) -> Option<Arch> {
    Some(match arch {
        "amd64" => Arch::ScmpArchX86_64,
        "arm64" => Arch::ScmpArchAarch64,
        "riscv64" => Arch::ScmpArchRiscv64,
        "s390x" => Arch::ScmpArchS390x,
        "ppc64le" => Arch::ScmpArchPpc64le,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host = Host {
        arch: "amd64",
        kernel: (6, 1),
    };

    fn names(text: &str) -> Result<Vec<String>, String> {
        let seccomp = lower(text.as_bytes(), HOST)?;
        Ok(seccomp
            .syscalls()
            .iter()
            .flatten()
            .flat_map(|s| s.names().clone())
            .collect())
    }

    fn profile(groups: &str) -> String {
        format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[{groups}],
            "archMap":[{{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}}]}}"#
        )
    }

    #[test]
    fn groups_are_kept_by_architecture_capability_and_kernel() {
        let group = |name: &str, rest: &str| {
            format!(r#"{{"names":["{name}"],"action":"SCMP_ACT_ALLOW"{rest}}}"#)
        };
        let groups = [
            group("read", ""),
            group("arch_here", r#","includes":{"arches":["amd64","x32"]}"#),
            group("arch_other", r#","includes":{"arches":["arm64"]}"#),
            group("cap_held", r#","includes":{"caps":["CAP_SETUID"]}"#),
            group("cap_not_held", r#","includes":{"caps":["CAP_SYS_ADMIN"]}"#),
            group(
                "cap_half",
                r#","includes":{"caps":["CAP_SETUID","CAP_SYS_ADMIN"]}"#,
            ),
            group("without_cap", r#","excludes":{"caps":["CAP_SYS_ADMIN"]}"#),
            group("with_cap", r#","excludes":{"caps":["CAP_CHOWN"]}"#),
            group("old_kernel", r#","includes":{"minKernel":"4.8"}"#),
            group("new_kernel", r#","includes":{"minKernel":"99.0"}"#),
        ]
        .join(",");
        let names: Vec<_> = names(&profile(&groups)).unwrap();
        let kept = names.iter().filter(|name| groups.contains(*name));
        assert_eq!(
            kept.collect::<Vec<_>>(),
            ["read", "arch_here", "cap_held", "without_cap", "old_kernel"]
        );
    }

    #[test]
    fn architectures_and_default_come_through() {
        let seccomp = lower(profile("").as_bytes(), HOST).unwrap();
        assert_eq!(
            seccomp.architectures().as_deref(),
            Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86][..])
        );
        assert_eq!(seccomp.default_errno_ret(), Some(38));
    }

    #[test]
    fn an_unknown_condition_is_an_error_and_not_a_hole() {
        let group = r#"{"names":["x"],"action":"SCMP_ACT_ALLOW","includes":{"moon":"full"}}"#;
        assert!(names(&profile(group)).is_err());
        let group = r#"{"names":["x"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"x"}}"#;
        assert!(names(&profile(group)).is_err());
        let group =
            r#"{"names":["x"],"action":"SCMP_ACT_ALLOW","onlyIf":{"caps":["CAP_SYS_ADMIN"]}}"#;
        assert!(names(&profile(group)).is_err());
        let group = r#"{"names":["x"],"action":"SCMP_ACT_ERRNO","comment":"","errnoRet":1,"errno":"EPERM"}"#;
        let rules = rules_of(profile(group).as_bytes(), HOST).unwrap();
        assert_eq!(rules[0].names(), &["x"]);
        assert!(names("{").is_err());
        let open = profile("").replace("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW");
        assert!(names(&open).unwrap_err().contains("does not name"));
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn the_hosts_own_profile_can_be_lowered() {
        let Ok(path) = find_profile() else {
            eprintln!("SKIPPED: this host has no seccomp profile");
            return;
        };
        let seccomp = load(&path).unwrap();
        let rules = seccomp.syscalls().as_ref().unwrap();
        let allowed = |name: &str| {
            rules.iter().any(|r| {
                r.action() == LinuxSeccompAction::ScmpActAllow
                    && r.names().iter().any(|n| n == name)
            })
        };
        assert!(allowed("read") && allowed("execve"));
        assert!(!allowed("init_module") && !allowed("bpf") && !allowed("chroot"));
        assert!(!allowed("unshare") && !allowed("mount") && !allowed("keyctl"));
        assert!(allowed("socket") && allowed("socketpair"));
        assert!(!rules.iter().any(is_too_open));
        assert!(!allowed("socketcall") && !allowed("io_uring_setup"));
    }
}
