//! Identities: of a job and of a commit.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Identity of a job: a ULID, so that ids sort by age.
///
/// Its text form is 26 characters of `0-9A-Z`, safe in a path, a cgroup name and a container name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Ulid);

/// The text is not a job id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a job id (26 characters of Crockford base 32)")]
pub struct InvalidJobId(String);

impl JobId {
    /// The id made of the milliseconds since the Unix epoch and 80 random bits.
    #[must_use]
    pub const fn from_parts(unix_ms: u64, random: u128) -> Self {
        Self(Ulid::from_parts(unix_ms, random))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ulid::from_string(text)
            .map(Self)
            .map_err(|_| InvalidJobId(text.to_owned()))
    }
}

impl Serialize for JobId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A full commit id: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CommitId(String);

/// The text is not a full commit id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a full commit id (40 or 64 hexadecimal digits)")]
pub struct InvalidCommitId(String);

impl CommitId {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CommitId {
    type Err = InvalidCommitId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let full = matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
        if full {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(InvalidCommitId(text.to_owned()))
        }
    }
}

impl TryFrom<String> for CommitId {
    type Error = InvalidCommitId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<CommitId> for String {
    fn from(id: CommitId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_survives_its_text_form() {
        let id = JobId::from_parts(1_700_000_000_000, 42);
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
        assert!("../../etc".parse::<JobId>().is_err());
    }

    #[test]
    fn a_commit_id_is_full_or_refused() {
        let hex = "0123456789ABCDEF0123456789abcdef01234567";
        assert_eq!(
            hex.parse::<CommitId>().unwrap().as_str(),
            hex.to_lowercase()
        );
        for bad in ["", "0123456", "g123456789abcdef0123456789abcdef01234567"] {
            assert!(bad.parse::<CommitId>().is_err(), "{bad:?}");
        }
    }
}
