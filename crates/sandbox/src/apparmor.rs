//! AppArmor: one more fence around a job, whose profile the host's administrator wrote and loaded.
//!
//! Whether the profile is loaded can only be seen by root. The kernel tells when the job is to be put under it, and then
//! there is no job.

use std::fs;
use std::path::Path;

use bryo_model::RuntimeKind;

use crate::{Missing, SandboxError};

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";

/// The kernel's bound on a profile's name, long before that of a page.
const LONGEST: usize = 255;

/// Whether a job can run under this profile on this host.
///
/// # Errors
///
/// [`SandboxError::Host`] when the name is none, the kernel has no AppArmor, or the runtime cannot do it.
pub(crate) fn check(profile: &str, runtime: RuntimeKind) -> Result<(), SandboxError> {
    check_at(Path::new(ENABLED), profile, runtime).map_err(|m| SandboxError::Host(vec![m]))
}

fn check_at(enabled: &Path, profile: &str, runtime: RuntimeKind) -> Result<(), Missing> {
    if !is_plausible(profile) {
        return Err(Missing::new(
            format!("{profile:?} is no name of an AppArmor profile"),
            "give the name that aa-status shows; a job without a profile needs no option",
        ));
    }
    let enabled = fs::read_to_string(enabled).unwrap_or_default();
    if enabled.trim() != "Y" {
        return Err(Missing::new(
            format!("AppArmor is not enabled on this host, so no job can run under {profile:?}"),
            "boot with apparmor=1 security=apparmor, or run without an AppArmor profile",
        ));
    }
    match runtime {
        RuntimeKind::Crun => Ok(()),
        // It refuses by itself, in words that do not say what to do.
        RuntimeKind::Podman => Err(Missing::new(
            "a rootless podman puts no container under an AppArmor profile",
            "use --runtime crun, or run without an AppArmor profile",
        )),
    }
}

/// What a host lacks that does not know the profile. Only then there is no job.
pub(crate) fn missing(profile: &str, why: &str) -> String {
    format!(
        "the AppArmor profile {profile:?} cannot be used ({why}); load it with apparmor_parser, or give the name that \
         aa-status shows"
    )
}

/// `unconfined` is the kernel's word for none.
fn is_plausible(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-+:/@".contains(c);
    (1..=LONGEST).contains(&name.len()) && name.chars().all(known) && name != "unconfined"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(enabled: &str, profile: &str, runtime: RuntimeKind) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("enabled");
        if !enabled.is_empty() {
            fs::write(&file, enabled).unwrap();
        }
        check_at(&file, profile, runtime)
            .err()
            .map(|m| m.to_string())
    }

    #[test]
    fn a_loaded_profile_with_crun() {
        for name in ["bryo-job", "/usr/bin/x", ":ns:docker-default", "a//b"] {
            assert_eq!(why("Y\n", name, RuntimeKind::Crun), None);
        }
    }

    #[test]
    fn what_is_refused_says_what_to_do() {
        let long = "x".repeat(256);
        for name in ["", "unconfined", "a b", "x\n", "ä", &long] {
            let why = why("Y\n", name, RuntimeKind::Crun).unwrap();
            assert!(why.contains("aa-status"), "{why}");
        }
        for enabled in ["", "N\n"] {
            let why = why(enabled, "bryo-job", RuntimeKind::Crun).unwrap();
            assert!(why.contains("apparmor=1"), "{why}");
        }
        let why = why("Y\n", "bryo-job", RuntimeKind::Podman).unwrap();
        assert!(why.contains("--runtime crun"), "{why}");
    }
}
