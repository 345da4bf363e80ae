//! What a doc-thor server says of a build that it gives away: read as the word of a stranger.
//!
//! Invariant: whatever the bytes are, an id that can be read is read. A build whose id is known can be reported; one
//! without is lost.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::client::one_line;

/// The id of a build: decimal digits, nothing that could be a part of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BuildId(u64);

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for BuildId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // The server's own numbers have no leading zeros; "07" and "7" must not be two builds.
        if digits && (text == "0" || !text.starts_with('0')) {
            text.parse().map(Self).map_err(|_| ())
        } else {
            Err(())
        }
    }
}

/// A build as the server describes it. Nothing but the id is checked here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) id: BuildId,
    pub(crate) wishes: Wishes,
}

/// All members but the id, as they came; empty where they were missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Wishes {
    #[serde(default)]
    pub(crate) project_slug: String,
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) source_url: String,
    #[serde(default, rename = "ref")]
    pub(crate) reference: String,
    #[serde(default)]
    pub(crate) docker_image: String,
}

impl Wishes {
    /// `slug version`, as it may stand in a log.
    pub(crate) fn title(&self) -> String {
        one_line(format!("{} {}", self.project_slug, self.version).trim_end())
    }
}

/// An answer that gives a build away and cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimFault {
    /// Which build, if that can be told: it can then be reported as failed.
    pub(crate) id: Option<BuildId>,
    pub(crate) why: String,
}

#[derive(Deserialize)]
struct Wire {
    id: String,
    #[serde(default)]
    project_slug: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    source_url: String,
    #[serde(default, rename = "ref")]
    reference: String,
    #[serde(default)]
    docker_image: String,
}

impl Claim {
    /// Reads the body of an answer with status 200.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ClaimFault> {
        let wire: Wire = serde_json::from_slice(body).map_err(|error| ClaimFault {
            id: salvage(body),
            why: format!("it is not the description of a build ({error})"),
        })?;
        let id = wire.id.parse().map_err(|()| ClaimFault {
            id: None,
            why: format!("{:?} is not the id of a build", one_line(&wire.id)),
        })?;
        Ok(Self {
            id,
            wishes: Wishes {
                project_slug: wire.project_slug,
                version: wire.version,
                source_url: wire.source_url,
                reference: wire.reference,
                docker_image: wire.docker_image,
            },
        })
    }

    /// For the record of the job.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(&self.wishes).unwrap_or_default()
    }

    /// What [`Claim::to_json`] wrote.
    pub(crate) fn from_record(id: &str, json: &str) -> Option<Self> {
        Some(Self {
            id: id.parse().ok()?,
            wishes: serde_json::from_str(json).ok()?,
        })
    }
}

/// The id in what is left of an answer. The server writes it first, as a string; digits that are not closed by a quote
/// may be the beginning of a longer number.
pub(crate) fn salvage(body: &[u8]) -> Option<BuildId> {
    let text = body.strip_prefix(b"{")?.trim_ascii_start();
    let text = text.strip_prefix(b"\"id\"")?.trim_ascii_start();
    let text = text.strip_prefix(b":")?.trim_ascii_start();
    let text = text.strip_prefix(b"\"")?;
    let end = text.iter().position(|b| *b == b'"')?;
    std::str::from_utf8(&text[..end]).ok()?.parse().ok()
}
