//! What a doc-thor server is told of a build that has ended.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::claim::BuildId;

/// The body of `POST builds/{id}/result`. Kept in the outbox as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BuildResult {
    pub(crate) job_id: String,
    /// `success` or `failed`.
    pub(crate) status: String,
    /// As Go writes a duration.
    pub(crate) duration: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) error: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) logs: String,
}

/// Why a build failed, in the form that doc-thor's users know: `<stage>: <message>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResultText(pub(crate) String);

impl BuildResult {
    /// A build that ended well or not; `error` is there unless it did.
    pub(crate) fn new(id: BuildId, succeeded: bool, error: Option<ResultText>) -> Self {
        let status = if succeeded { "success" } else { "failed" };
        Self {
            job_id: id.to_string(),
            status: status.to_owned(),
            duration: go_duration(Duration::ZERO),
            error: error.map(|text| text.0).unwrap_or_default(),
            logs: String::new(),
        }
    }

    /// The same with the time that the build took.
    pub(crate) fn took(self, time: Duration) -> Self {
        Self {
            duration: go_duration(time),
            ..self
        }
    }

    /// The same with the job's log.
    pub(crate) fn with_logs(self, logs: String) -> Self {
        Self { logs, ..self }
    }

    /// As it is sent.
    pub(crate) fn to_body(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The same with at most half of the log, its end; `None` when there is none left to leave out.
    pub(crate) fn with_less_log(body: &str) -> Option<String> {
        let mut result: Self = serde_json::from_str(body).ok()?;
        if result.logs.is_empty() {
            return None;
        }
        let half = result.logs.len() / 2;
        let from = (half..=result.logs.len()).find(|at| result.logs.is_char_boundary(*at))?;
        let kept = result.logs.split_off(from);
        result.logs = if kept.len() < 1024 {
            String::new()
        } else {
            format!("bryo: the server refused the whole log; this is its end\n{kept}")
        };
        Some(result.to_body())
    }
}

/// `time.Duration.String` of Go: `1h2m3.5s`, `1m0s`, `2.5s`, `350ms`, with milliseconds as the smallest part.
pub(crate) fn go_duration(time: Duration) -> String {
    let ms = time.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (hours, minutes, rest) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    let seconds = match (rest / 1000, rest % 1000) {
        (s, 0) => format!("{s}s"),
        (s, part) => format!("{}s", format!("{s}.{part:03}").trim_end_matches('0')),
    };
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, m) => format!("{m}m{seconds}"),
        (h, m) => format!("{h}h{m}m{seconds}"),
    }
}
