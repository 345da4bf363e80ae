//! Which of an image's variants this host can run.

use oci_spec::image::{Arch, Descriptor, Os};

use crate::error::ImageError;

/// The host's architecture as images spell it.
pub(crate) fn architecture() -> Arch {
    let name = match (std::env::consts::ARCH, cfg!(target_endian = "little")) {
        ("x86_64", _) => "amd64",
        ("x86", _) => "386",
        ("aarch64", _) => "arm64",
        ("powerpc64", true) => "ppc64le",
        ("powerpc64", false) => "ppc64",
        ("loongarch64", _) => "loong64",
        (other, _) => other,
    };
    Arch::from(name)
}

/// The one of several manifests that is for this host.
pub(crate) fn choose(candidates: &[Descriptor]) -> Result<&Descriptor, ImageError> {
    let fits = |d: &&Descriptor| {
        d.platform()
            .as_ref()
            .is_some_and(|p| *p.os() == Os::Linux && *p.architecture() == architecture())
    };
    // A variant may need more than this host's processor has; the plainest one runs everywhere.
    let rank = |d: &&Descriptor| {
        let variant = d.platform().as_ref().and_then(|p| p.variant().clone());
        match variant.as_deref() {
            None | Some("") => 0,
            Some("v1" | "v8") => 1,
            Some(_) => 2,
        }
    };
    if let Some(best) = candidates.iter().filter(fits).min_by_key(rank) {
        return Ok(best);
    }
    if let [only] = candidates
        && only.platform().is_none()
    {
        return Ok(only);
    }
    let offered: Vec<_> = candidates
        .iter()
        .filter_map(|d| d.platform().as_ref())
        .map(|p| format!("{}/{}", p.os(), p.architecture()))
        .collect();
    Err(ImageError::unusable(format!(
        "it is for {}, this host is linux/{}",
        if offered.is_empty() {
            "no platform that it names".to_owned()
        } else {
            offered.join(", ")
        },
        architecture()
    )))
}

/// Refuses a configuration for another kind of host. Some tools leave these fields empty.
pub(crate) fn check(os: &str, arch: &str) -> Result<(), ImageError> {
    let os_fits = os.is_empty() || os == "linux";
    let arch_fits = arch.is_empty() || Arch::from(arch) == architecture();
    if os_fits && arch_fits {
        Ok(())
    } else {
        Err(ImageError::unusable(format!(
            "it is for {os}/{arch}, this host is linux/{}",
            architecture()
        )))
    }
}
