//! One request, immutable once accepted.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::{Egress, ImageRef, JobId, LimitPolicy, Limits, NetworkMode, SourceSpec};

/// The text is none of the words that may stand here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not one of {allowed}")]
pub struct UnknownWord {
    text: String,
    allowed: &'static str,
}

impl UnknownWord {
    pub(crate) fn new(text: &str, allowed: &'static str) -> Self {
        Self {
            text: text.to_owned(),
            allowed,
        }
    }
}

/// How a sandbox is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// An OCI bundle of our own, started with the `crun` program; no engine.
    Crun,
    /// The user's own Podman, through its socket.
    Podman,
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crun => "crun",
            Self::Podman => "podman",
        })
    }
}

/// One environment variable of the job. Its value never appears in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvVar {
    name: String,
    value: String,
}

/// The text is not `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an environment variable is NAME=VALUE with a name of letters, digits and underscores")]
pub struct InvalidEnvVar;

impl EnvVar {
    /// A variable of this name and value.
    ///
    /// # Errors
    ///
    /// When the name is empty, has other characters than letters, digits and `_`, begins with a digit, or the value
    /// contains a NUL.
    pub fn new(name: &str, value: &str) -> Result<Self, InvalidEnvVar> {
        let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if name.is_empty() || !word || name.as_bytes()[0].is_ascii_digit() || value.contains('\0') {
            return Err(InvalidEnvVar);
        }
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

impl FromStr for EnvVar {
    type Err = InvalidEnvVar;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').ok_or(InvalidEnvVar)?;
        Self::new(name, value)
    }
}

/// The name of a job's container and cgroup: `bryo-<job id>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName(String);

impl ContainerName {
    /// The prefix by which Bryo's own containers and cgroups are found.
    pub const PREFIX: &'static str = "bryo-";

    /// The name for this job.
    #[must_use]
    pub fn of(job: JobId) -> Self {
        Self(format!("{}{}", Self::PREFIX, job).to_ascii_lowercase())
    }

    /// The job of this name, if it is one of ours.
    #[must_use]
    pub fn job(name: &str) -> Option<JobId> {
        let id = name.strip_prefix(Self::PREFIX)?;
        id.to_ascii_uppercase().parse().ok()
    }

    /// The name, safe in a path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One job: source, environment, what to run and under which bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSpec {
    /// Its identity.
    pub id: JobId,
    /// What is built.
    pub source: SourceSpec,
    /// What it is built in.
    pub image: ImageRef,
    /// What runs instead of the image's own entrypoint; empty means the entrypoint.
    pub command: Vec<String>,
    /// Added to the image's environment, later ones winning.
    pub env: Vec<EnvVar>,
    /// Environment variables whose values must not show in any output, by name and value.
    pub secrets: Vec<EnvVar>,
    /// What it can reach.
    pub network: NetworkMode,
    /// Where it may connect to, when it is isolated.
    pub egress: Egress,
    /// Whether `/` is read-only; `/tmp`, `/var/tmp`, `/run` and `/output` are writable all the same.
    pub read_only_root: bool,
    /// Its bounds.
    pub limits: Limits,
    /// What to do about a bound that cannot be enforced.
    pub limit_policy: LimitPolicy,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_job() {
        let job = JobId::from_parts(1_700_000_000_000, 42);
        assert_eq!(
            ContainerName::job(ContainerName::of(job).as_str()),
            Some(job)
        );
        for other in ["bryo-", "bryo-x", "other", ""] {
            assert_eq!(ContainerName::job(other), None, "{other}");
        }
    }

    #[test]
    fn environment_variables() {
        let var: EnvVar = "TOKEN=a=b c".parse().unwrap();
        assert_eq!((var.name(), var.value()), ("TOKEN", "a=b c"));
        assert!(!format!("{var:?}").contains("a=b"));
        for bad in ["", "=x", "TOKEN", "1A=x", "A B=x", "A-B=x", "A=\0"] {
            assert!(bad.parse::<EnvVar>().is_err(), "{bad:?}");
        }
    }
}
