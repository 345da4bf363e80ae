//! What went wrong with a request, and whose fault it was.

use std::io;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;

use crate::SandboxError;

/// How much of an answer's text goes into an error.
const MOST_TEXT: usize = 1024;

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("could not connect to the podman socket")]
    Connect(#[source] io::Error),
    #[error("the podman service closed the connection without an answer")]
    Closed,
    #[error("the podman service did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("the connection to the podman service broke")]
    Http(#[from] hyper::Error),
    #[error("the answer of the podman service is too long")]
    TooLong,
    #[error("the answer of the podman service is not understood")]
    Answer(#[source] serde_json::Error),
    #[error("{0}")]
    Refused(Refusal),
}

/// libpod's own account of why it did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The innermost error, which libpod keeps stable.
    pub(super) cause: String,
    /// All of it.
    pub(super) message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (status {})", self.message, self.status.as_u16())
    }
}

impl Refusal {
    /// Reads libpod's JSON; anything else is taken as text.
    pub(super) fn parse(status: StatusCode, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(default)]
            cause: String,
            #[serde(default)]
            message: String,
        }
        let (cause, message) = match serde_json::from_slice::<Wire>(body) {
            Ok(wire) if !wire.message.is_empty() => (wire.cause, wire.message),
            Ok(wire) => (wire.cause.clone(), wire.cause),
            Err(_) => (String::new(), String::from_utf8_lossy(body).into_owned()),
        };
        Self {
            status,
            cause: bounded(cause),
            message: bounded(message),
        }
    }

    /// Whether the image or the job is at fault: its command, directory or user is not there or cannot be used.
    ///
    /// libpod says "permission denied" and "not found" for every such error of the runtime, one about a cgroup too, so
    /// the cause alone does not decide.
    pub(super) fn is_job_at_fault(&self) -> bool {
        let runtime_failed = matches!(
            self.cause.as_str(),
            "OCI runtime attempted to invoke a command that was not found"
                | "OCI permission denied"
        );
        let about_command = ["executable file", "open executable", "exec "]
            .iter()
            .any(|words| self.message.contains(words));
        let about_image = self.cause.starts_with("workdir ")
            || matches!(
                self.cause.as_str(),
                "no matching entries in passwd file" | "no matching entries in group file"
            );
        (runtime_failed && about_command) || about_image
    }

    /// Whether the container is not there.
    pub(super) fn is_no_such_container(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// Whether the container is not in a state for it: it ended already, or never ran.
    pub(super) fn is_wrong_state(&self) -> bool {
        self.status == StatusCode::CONFLICT || self.cause == "container state improper"
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > MOST_TEXT {
        let cut = (0..=MOST_TEXT).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(cut.unwrap_or(0));
        text.push('…');
    }
    text.trim_end().to_owned()
}

impl RequestError {
    /// The refusal, if it was one.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// As the crate's error, with what was to be done.
    pub(super) fn during(self, what: &str) -> SandboxError {
        use std::error::Error as _;
        let mut text = format!("could not {what}: {self}");
        // The crate's error keeps text only, so the chain is written out here.
        let mut source = self.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        SandboxError::Podman(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(cause: &str, message: &str) -> Refusal {
        let body = serde_json::json!({"cause": cause, "message": message, "response": 500});
        Refusal::parse(
            StatusCode::INTERNAL_SERVER_ERROR,
            body.to_string().as_bytes(),
        )
    }

    #[test]
    fn answers_of_podman_4_3_1() {
        let not_found = "OCI runtime attempted to invoke a command that was not found";
        let denied = "OCI permission denied";
        let table = [
            (
                not_found,
                "crun: executable file `nope` not found in $PATH: No such file",
                true,
            ),
            (
                denied,
                "crun: open executable: Permission denied: OCI permission denied",
                true,
            ),
            (
                denied,
                "crun: open executable: Operation not permitted: OCI permission denied",
                true,
            ),
            (
                "workdir \"/no\" does not exist on container 1e",
                "workdir \"/no\" does not",
                true,
            ),
            (
                "no matching entries in passwd file",
                "unable to find user x: no matching",
                true,
            ),
            (
                denied,
                "crun: create `/sys/fs/cgroup/x`: Permission denied",
                false,
            ),
            (
                not_found,
                "crun: cannot stat `/gone`: No such file or directory",
                false,
            ),
            (
                "OCI runtime error",
                "crun: the requested cgroup controller `pids` is not",
                false,
            ),
            ("image not known", "aaaa: image not known", false),
        ];
        for (cause, message, job) in table {
            assert_eq!(refusal(cause, message).is_job_at_fault(), job, "{message}");
        }
        assert!(refusal("container state improper", "can only kill").is_wrong_state());
    }

    #[test]
    fn an_answer_that_is_not_json_is_text_and_bounded() {
        let got = Refusal::parse(StatusCode::BAD_GATEWAY, b"<html>\xff\n");
        assert_eq!(got.message, "<html>\u{fffd}");
        assert_eq!(got.to_string(), "<html>\u{fffd} (status 502)");
        let long = Refusal::parse(StatusCode::BAD_GATEWAY, "é".repeat(3000).as_bytes());
        assert!(long.message.len() <= MOST_TEXT + 3 && long.message.ends_with('…'));
        assert_eq!(
            Refusal::parse(StatusCode::BAD_GATEWAY, b"{\"cause\":\"a\"}").message,
            "a"
        );
    }
}
