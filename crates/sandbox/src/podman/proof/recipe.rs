//! What podman has written down for the runtime: that is what the runtime obeys, and what of it cannot be seen from outside.
//!
//! Which filter a process has nobody may ask but a debugger, and of a path that is hidden it cannot be told whether it ever
//! was there. The file is the user's own, in podman's store, and no job sees it.

use std::path::Path;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};
use serde::Deserialize;

use super::Expected;
use crate::SandboxError;
use crate::privileges::{MASKED_PATHS, READONLY_PATHS, UMASK};

/// The part of the OCI configuration (runtime-spec, `config.md` and `config-linux.md`) that is looked at.
#[derive(Debug, Deserialize)]
struct Recipe {
    process: Process,
    linux: Linux,
}

#[derive(Debug, Deserialize)]
struct Process {
    user: User,
}

#[derive(Debug, Deserialize)]
struct User {
    umask: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    seccomp: Option<LinuxSeccomp>,
    #[serde(default)]
    masked_paths: Vec<String>,
    #[serde(default)]
    readonly_paths: Vec<String>,
}

/// Checks the file that podman names.
pub(super) fn check(file: &Path, expected: &Expected) -> Result<(), SandboxError> {
    let text = std::fs::read(file).map_err(SandboxError::file("read", file))?;
    let recipe = serde_json::from_slice(&text).map_err(|e| e.to_string());
    recipe
        .and_then(|recipe: Recipe| recipe.check(expected))
        .map_err(|why| SandboxError::Podman(format!("{}: {why}", file.display())))
}

impl Recipe {
    fn check(&self, expected: &Expected) -> Result<(), String> {
        let filter = self.linux.seccomp.as_ref();
        let filter = filter.ok_or("it has no system-call filter")?;
        if let Some(other) = difference(filter, &expected.filter) {
            return Err(format!("its system-call filter is not ours: {other}"));
        }
        for (what, paths, are) in [
            ("hide", &MASKED_PATHS[..], &self.linux.masked_paths),
            ("protect", &READONLY_PATHS[..], &self.linux.readonly_paths),
        ] {
            let missing = paths.iter().find(|path| !are.iter().any(|is| is == *path));
            if let Some(path) = missing {
                return Err(format!("it does not {what} {path}"));
            }
        }
        match self.process.user.umask {
            Some(UMASK) => Ok(()),
            other => Err(format!("its umask is {other:?} instead of {UMASK}")),
        }
    }
}

/// The first thing in which a filter is not the one that was given.
fn difference(is: &LinuxSeccomp, wanted: &LinuxSeccomp) -> Option<String> {
    if is.default_action() != wanted.default_action()
        || is.default_errno_ret() != wanted.default_errno_ret()
    {
        return Some("other calls than it names are treated otherwise".to_owned());
    }
    let arches = |filter: &LinuxSeccomp| {
        let mut all: Vec<_> = filter.architectures().iter().flatten().copied().collect();
        all.sort_unstable_by_key(|arch| *arch as u32);
        all
    };
    if arches(is) != arches(wanted) {
        return Some("it is for other architectures".to_owned());
    }
    let rules = |filter: &LinuxSeccomp| -> Vec<Rule> {
        let all = filter.syscalls().iter().flatten();
        all.map(rule).collect()
    };
    let (are, wanted) = (rules(is), rules(wanted));
    let at = (0..are.len().max(wanted.len())).find(|at| are.get(*at) != wanted.get(*at))?;
    let names = |rule: Option<&Rule>| rule.map(|rule| rule.names.clone()).unwrap_or_default();
    let (are, wanted) = (names(are.get(at)), names(wanted.get(at)));
    let differ = are.iter().filter(|name| !wanted.contains(name));
    let differ = differ.chain(wanted.iter().filter(|name| !are.contains(name)));
    // The same calls, and other arguments or another answer.
    let mut told: Vec<_> = differ.take(TOLD).map(String::as_str).collect();
    if told.is_empty() {
        told.extend(wanted.first().map(String::as_str));
    }
    Some(format!("look at {}", told.join(", ")))
}

/// So many calls in which two filters differ say enough.
const TOLD: usize = 5;

/// A rule, without what is written in more than one way.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    names: Vec<String>,
    action: String,
    errno: Option<u32>,
    arguments: Vec<(usize, u64, u64, String)>,
}

fn rule(rule: &LinuxSyscall) -> Rule {
    let mut names = rule.names().clone();
    names.sort_unstable();
    let argument = |argument: &LinuxSeccompArg| {
        (
            argument.index(),
            argument.value(),
            argument.value_two().unwrap_or(0),
            format!("{:?}", argument.op()),
        )
    };
    Rule {
        names,
        action: format!("{:?}", rule.action()),
        errno: rule.errno_ret(),
        arguments: rule.args().iter().flatten().map(argument).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{Host, lower};

    /// Two profiles that differ in one rule.
    fn filter(names: &str) -> LinuxSeccomp {
        let profile = format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
                "archMap": [{{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}}],
                "syscalls": [
                    {{"names": [{names}], "action": "SCMP_ACT_ALLOW", "args": null}},
                    {{"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                      "args": [{{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}}]}}]}}"#
        );
        let host = Host {
            arch: "amd64",
            kernel: (6, 1),
        };
        lower(profile.as_bytes(), host).unwrap()
    }

    fn recipe(filter: &LinuxSeccomp) -> serde_json::Value {
        serde_json::json!({
            "process": {"user": {"uid": 0, "gid": 0, "umask": 18}},
            "linux": {
                "seccomp": filter,
                "maskedPaths": MASKED_PATHS.iter().chain(&["/sys/fs/selinux"]).collect::<Vec<_>>(),
                "readonlyPaths": READONLY_PATHS,
            }
        })
    }

    fn checked(recipe: serde_json::Value) -> Result<(), String> {
        let expected = Expected {
            filter: filter(r#""read", "write""#),
            ..Expected::default()
        };
        let recipe: Recipe = serde_json::from_value(recipe).unwrap();
        recipe.check(&expected)
    }

    #[test]
    fn what_was_asked_for_in_other_words() {
        let same = filter(r#""write", "read""#);
        assert_eq!(checked(recipe(&same)), Ok(()));
    }

    #[test]
    fn what_is_weaker_is_refused() {
        let ours = filter(r#""read", "write""#);
        for (other, differs) in [
            (r#""read", "write", "bpf""#, "look at bpf"),
            (r#""read""#, "look at write"),
        ] {
            let why = checked(recipe(&filter(other))).unwrap_err();
            assert!(why.ends_with(differs), "{why}");
        }
        let rule = |call: &str| {
            let mut all = ours.syscalls().iter().flatten();
            let at = all.position(|rule| rule.names().iter().any(|name| name == call));
            format!("/linux/seccomp/syscalls/{}", at.unwrap())
        };
        for (field, to) in [
            (&*(rule("personality") + "/args/0/value"), 9.into()),
            (&*(rule("personality") + "/args"), serde_json::Value::Null),
            (&*(rule("read") + "/action"), "SCMP_ACT_LOG".into()),
            ("/linux/seccomp", serde_json::Value::Null),
            ("/linux/seccomp/defaultErrnoRet", 1.into()),
            ("/linux/seccomp/defaultAction", "SCMP_ACT_ALLOW".into()),
            ("/linux/seccomp/architectures", serde_json::json!([])),
            ("/linux/maskedPaths/0", "/proc/other".into()),
            ("/linux/readonlyPaths/0", "/proc/other".into()),
            ("/process/user/umask", serde_json::Value::Null),
            ("/process/user/umask", 0.into()),
        ] {
            let mut changed = recipe(&ours);
            *changed.pointer_mut(field).unwrap() = to;
            assert!(checked(changed).is_err(), "{field}");
        }
    }
}
