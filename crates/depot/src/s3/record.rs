//! What is known of a version's publication, kept in the bucket beside all projects.
//!
//! ```text
//!  nothing ──> publishing ──> complete
//!                 ^  │            │
//!                 └──┴── failed   └──> publishing (the next one) …
//! ```
//!
//! The record says `publishing` before the first object of the version is touched, and `complete` after the last one. An
//! attempt that finds `publishing` therefore knows that readers may see a mixture, and repairs it. While an attempt goes on
//! it says so again and again (`live`, `beat`); see `hold`. The record also says which versions exist, so that a version
//! inside another one's prefix is not taken for stale files of it.

use serde::{Deserialize, Serialize};

/// How the record is written; another number is another format.
const FORMAT: u32 = 1;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Publishing,
    Complete,
}

/// The record of one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    pub(crate) state: State,
    /// Which attempt wrote it: a random word.
    pub(crate) attempt: String,
    /// The rules by which every object of the version has its headers; `None` while they may be of two kinds.
    pub(crate) headers: Option<String>,
    /// How many files the version has, or is to have.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Whether the attempt goes on, as far as it knows: one that failed says that it does not, one that was killed
    /// cannot.
    #[serde(default)]
    pub(crate) live: bool,
    /// How often it has said so: a record that is written again has another entity tag.
    #[serde(default)]
    pub(crate) beat: u64,
}

impl Record {
    /// The record of an attempt that begins. `same` is whether every object that is there has its headers by the rules
    /// `headers`.
    pub(crate) fn begin(headers: &str, same: bool, files: u64, bytes: u64) -> Self {
        Self {
            format: FORMAT,
            state: State::Publishing,
            attempt: format!("{:016x}", fastrand::u64(..)),
            headers: same.then(|| headers.to_owned()),
            files,
            bytes,
            live: true,
            beat: 0,
        }
    }

    /// The same attempt's record at its end.
    pub(crate) fn completed(self, headers: &str) -> Self {
        Self {
            state: State::Complete,
            headers: Some(headers.to_owned()),
            live: false,
            ..self
        }
    }

    /// The same attempt's record while it goes on.
    pub(crate) fn again(self) -> Self {
        Self {
            beat: self.beat + 1,
            ..self
        }
    }

    /// The same attempt's record when it has failed.
    pub(crate) fn failed(self) -> Self {
        Self {
            live: false,
            ..self
        }
    }

    /// The same where another attempt has been at the objects too: nothing is known of their headers.
    pub(crate) fn mixed(self) -> Self {
        Self {
            state: State::Publishing,
            headers: None,
            ..self.failed()
        }
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        // A struct of strings and numbers has no way to fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// What was found in a record's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The version has not been published by us.
    Nothing,
    /// A record.
    Record(Record),
    /// Something that is no record of this format.
    Unreadable,
}

impl Found {
    pub(crate) fn of(bytes: Option<&[u8]>) -> Self {
        let Some(bytes) = bytes else {
            return Self::Nothing;
        };
        match serde_json::from_slice::<Record>(bytes) {
            Ok(record) if record.format == FORMAT => Self::Record(record),
            _ => Self::Unreadable,
        }
    }

    /// Whether readers may see a mixture of versions.
    pub(crate) fn is_half(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Record(record) => record.state == State::Publishing,
            Self::Unreadable => true,
        }
    }

    /// Whether an attempt goes on, as far as it has said.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self, Self::Record(record) if record.state == State::Publishing && record.live)
    }

    /// Whether it is of this attempt.
    pub(crate) fn is_of(&self, attempt: &str) -> bool {
        matches!(self, Self::Record(record) if record.attempt == attempt)
    }

    /// The rules by which every object has its headers, if that is known.
    pub(crate) fn headers(&self) -> Option<&str> {
        match self {
            Self::Record(record) => record.headers.as_deref(),
            Self::Nothing | Self::Unreadable => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(record: &Record) -> Found {
        Found::of(Some(&record.to_json()))
    }

    #[test]
    fn records_are_read_back() {
        let first = Record::begin("a", true, 3, 10);
        assert_eq!(read_back(&first), Found::Record(first.clone()));
        assert!(read_back(&first).is_half() && read_back(&first).is_live());
        assert!(read_back(&first).is_of(&first.attempt) && !read_back(&first).is_of("x"));
        assert!(!read_back(&first.clone().failed()).is_live());
        assert_ne!(first.clone().again().to_json(), first.to_json());
        let done = read_back(&first.completed("a"));
        assert!(!done.is_half() && !done.is_live());
        assert_eq!(done.headers(), Some("a"));
        for odd in [
            &b""[..],
            b"{}",
            b"<html>",
            br#"{"format":2,"state":"complete"}"#,
        ] {
            assert_eq!(Found::of(Some(odd)), Found::Unreadable);
        }
        assert!(Found::Unreadable.is_half() && !Found::of(None).is_half());
        let earlier = br#"{"format":1,"state":"publishing","attempt":"a","headers":null,"files":1,"bytes":1}"#;
        let earlier = Found::of(Some(earlier));
        assert!(earlier.is_half() && !earlier.is_live());
        let mixed = Record::begin("b", false, 1, 1);
        assert_eq!(read_back(&mixed).headers(), None);
        assert_eq!(mixed.completed("b").headers.as_deref(), Some("b"));
    }
}
