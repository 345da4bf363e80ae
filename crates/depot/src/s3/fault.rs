//! Why a store did not do what it was asked.
//!
//! [`StoreFault`] is what a caller can act on; [`StoreAnswer`] is what was really said, for the reader of a message. What
//! passes by itself is tried again before it becomes either.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;

/// How much of a server's own words stands in a message, in characters.
const WORDS: usize = 200;

/// Who can mend it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// The credentials are wrong, or may not do this.
    Denied,
    /// There is no such bucket.
    BucketMissing,
    /// The bucket is in another region or at another endpoint.
    Elsewhere,
    /// Nobody answers: refused, lost or too slow connections, all attempts long.
    Unreachable,
    /// The server's certificate is not one that is trusted.
    Untrusted,
    /// The store wanted fewer requests, all attempts long.
    Throttled,
    /// The store is broken, all attempts long.
    Unavailable,
    /// The store refuses this request, and will again.
    Refused,
    /// What was answered is no answer of a store.
    NotUnderstood,
    /// A URL with its key names another object, so the store was not asked.
    Unnameable,
}

impl fmt::Display for StoreFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => {
                "the store denies it; check the keys, what they may do, and this host's clock"
            }
            Self::BucketMissing => "there is no such bucket; create it or correct its name",
            Self::Elsewhere => "the bucket is elsewhere; correct the region or the endpoint",
            Self::Unreachable => "the store cannot be reached",
            Self::Untrusted => {
                "the store's certificate is not trusted; give its authority as ca_bundle"
            }
            Self::Throttled => {
                "the store asks for fewer requests; lower the number of parallel ones"
            }
            Self::Unavailable => "the store is not in order",
            Self::Refused => "the store refuses it",
            Self::NotUnderstood => "this is no answer of an S3 store; check the endpoint",
            Self::Unnameable => {
                "a URL with its key names another object, so the store was not asked; see to it with the store's own tools"
            }
        })
    }
}

/// What was said.
#[derive(Debug, thiserror::Error)]
pub enum StoreAnswer {
    /// An answer that is no success.
    #[error("it answered {status} {code}{}{message}", if message.is_empty() { "" } else { ": " })]
    Status {
        /// The HTTP status.
        status: u16,
        /// The store's own word for it; empty where it had none.
        code: String,
        /// The store's own sentence, shortened.
        message: String,
    },
    /// There was no answer.
    #[error("no answer")]
    Nothing(#[source] reqwest::Error),
    /// An answer that cannot be read.
    #[error("{0}")]
    Unreadable(String),
}

/// One failed attempt.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) fault: StoreFault,
    /// Whether it may be otherwise in a moment.
    pub(crate) passing: bool,
    /// How long the server wants us to wait.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) answer: StoreAnswer,
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "Code", default)]
    code: String,
    #[serde(rename = "Message", default)]
    message: String,
}

impl Trouble {
    /// From an answer that is no success.
    pub(crate) fn of_status(
        status: StatusCode,
        retry_after: Option<Duration>,
        body: &[u8],
    ) -> Self {
        let body = std::str::from_utf8(body).unwrap_or_default();
        let said: Option<Body> = quick_xml::de::from_str(body).ok();
        let (code, message) = said.map_or_else(Default::default, |b| (b.code, b.message));
        let (fault, passing) = judge(status.as_u16(), &code);
        Self {
            fault,
            passing,
            retry_after,
            answer: StoreAnswer::Status {
                status: status.as_u16(),
                code: plain(&code),
                message: plain(&message),
            },
        }
    }

    /// From a request that had no whole answer.
    pub(crate) fn of_http(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let (fault, passing) = if distrusts(&error) {
            (StoreFault::Untrusted, false)
        } else if error.is_builder() {
            (StoreFault::Refused, false)
        } else {
            (StoreFault::Unreachable, true)
        };
        Self {
            fault,
            passing,
            retry_after: None,
            answer: StoreAnswer::Nothing(error),
        }
    }

    pub(crate) fn unreadable(what: impl fmt::Display) -> Self {
        Self {
            fault: StoreFault::NotUnderstood,
            passing: false,
            retry_after: None,
            answer: StoreAnswer::Unreadable(plain(&what.to_string())),
        }
    }

    /// Whether the thing asked for does not exist, while its bucket does.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self.answer, StoreAnswer::Status { status: 404, .. })
            && self.fault != StoreFault::BucketMissing
    }

    /// Whether the condition of a put did not hold.
    pub(crate) fn is_unmet(&self) -> bool {
        match &self.answer {
            StoreAnswer::Status { status: 412, .. } => true,
            // Of an object that must have a certain tag, and is gone.
            StoreAnswer::Status { .. } => self.is_missing(),
            StoreAnswer::Nothing(_) | StoreAnswer::Unreadable(_) => false,
        }
    }

    /// Whether the store refuses the headers of a condition.
    pub(crate) fn knows_no_conditions(&self) -> bool {
        match &self.answer {
            StoreAnswer::Status { status: 501, .. } => true,
            StoreAnswer::Status {
                status: 400, code, ..
            } => matches!(
                &**code,
                "NotImplemented" | "InvalidArgument" | "InvalidRequest"
            ),
            StoreAnswer::Status { .. } | StoreAnswer::Nothing(_) | StoreAnswer::Unreadable(_) => {
                false
            }
        }
    }
}

/// The one table of answers.
fn judge(status: u16, code: &str) -> (StoreFault, bool) {
    match (status, code) {
        (_, "NoSuchBucket") => (StoreFault::BucketMissing, false),
        (_, "SlowDown" | "TooManyRequests" | "RequestLimitExceeded" | "Throttling") | (429, _) => {
            (StoreFault::Throttled, true)
        }
        (301 | 302 | 307 | 308, _)
        | (400, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
            (StoreFault::Elsewhere, false)
        }
        (401 | 403, _) => (StoreFault::Denied, false),
        (408, _)
        | (400, "RequestTimeout" | "BadDigest" | "IncompleteBody")
        | (409, "OperationAborted" | "ConditionalRequestConflict") => {
            (StoreFault::Unavailable, true)
        }
        (501, _) => (StoreFault::Refused, false),
        (500.., _) => (StoreFault::Unavailable, true),
        _ => (StoreFault::Refused, false),
    }
}

fn distrusts(error: &(dyn Error + 'static)) -> bool {
    if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
        return true;
    }
    // An I/O error that carries another error has that one's source as its own: the carried one is asked for.
    let carried = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    match carried {
        Some(carried) => distrusts(carried),
        None => error.source().is_some_and(distrusts),
    }
}

/// A stranger's words: one line, short, nothing that a terminal would obey.
fn plain(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(WORDS).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        use StoreFault::*;
        for (status, code, fault, passing) in [
            (403, "AccessDenied", Denied, false),
            (403, "SignatureDoesNotMatch", Denied, false),
            (401, "", Denied, false),
            (404, "NoSuchBucket", BucketMissing, false),
            (404, "NoSuchKey", Refused, false),
            (301, "PermanentRedirect", Elsewhere, false),
            (400, "AuthorizationHeaderMalformed", Elsewhere, false),
            (429, "", Throttled, true),
            (503, "SlowDown", Throttled, true),
            (503, "", Unavailable, true),
            (500, "InternalError", Unavailable, true),
            (502, "", Unavailable, true),
            (501, "NotImplemented", Refused, false),
            (400, "InvalidArgument", Refused, false),
            (400, "RequestTimeout", Unavailable, true),
            (408, "", Unavailable, true),
            (200, "SlowDown", Throttled, true),
        ] {
            assert_eq!(judge(status, code), (fault, passing), "{status} {code}");
        }
    }

    #[test]
    fn a_servers_words_are_kept_short_and_plain() {
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>a\u{1b}[31m\n{}</Message><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>",
            "x".repeat(500)
        );
        let trouble = Trouble::of_status(StatusCode::FORBIDDEN, None, body.as_bytes());
        let said = trouble.answer.to_string();
        assert!(
            said.starts_with("it answered 403 AccessDenied: a [31m xxx"),
            "{said}"
        );
        assert!(said.len() < 260 && !said.contains("AKIA"), "{said}");
        let html = Trouble::of_status(StatusCode::BAD_GATEWAY, None, b"<html><body>nginx");
        assert_eq!(html.answer.to_string(), "it answered 502 ");
        let missing = Trouble::of_status(
            StatusCode::NOT_FOUND,
            None,
            b"<Error><Code>NoSuchKey</Code></Error>",
        );
        assert!(missing.is_missing());
        let bucket = Trouble::of_status(
            StatusCode::NOT_FOUND,
            None,
            b"<Error><Code>NoSuchBucket</Code></Error>",
        );
        assert!(!bucket.is_missing());
    }
}
