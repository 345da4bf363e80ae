//! The two requests, each sent at most once for each call.
//!
//! *Why a new connection for each request?* A connection that was kept may be closed by the server at the moment at which
//! a claim is sent on it; what then became of the claim cannot be known. The poll interval is what a handshake costs.

use std::time::Duration;

use bryo_http::{Roots, RootsError};
use bryo_model::Secret;
use reqwest::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::claim::{BuildId, Claim, ClaimFault, salvage};
use crate::DocThorSettings;
use crate::feed::{Answer, NoJob};

/// A server that does not take a connection within this is away.
const CONNECT: Duration = Duration::from_secs(10);

/// For a whole request. A result with a long log takes its time; a claim is answered from a database.
const CLAIM: Duration = Duration::from_secs(30);
const REPORT: Duration = Duration::from_secs(120);

/// A claim is six short strings.
const LARGEST_CLAIM: usize = 64 << 10;

/// The server's words for a build that has ended, and for one that it does not know. Whoever stands before the server has
/// the same statuses and other words, and must not be believed: a result would be lost.
const NOT_RUNNING: &str = "build is not in running state";
const NO_BUILD: &str = "build not found";

/// What of an answer to a report is looked at.
const LARGEST_ERROR: usize = 4 << 10;

/// The client cannot be made from its settings.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not an address.
    #[error(
        "{0:?} is not the address of a server (http://HOST or https://HOST, without a password)"
    )]
    Address(String),
    /// Cannot stand in a header.
    #[error("the token has characters that no header can have; is there a line break in it?")]
    Token,
    /// The certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] RootsError),
    /// The HTTP client refused.
    #[error("could not make the HTTP client")]
    Http(#[source] reqwest::Error),
}

/// One server.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: HeaderValue,
}

impl Client {
    pub(crate) fn new(settings: &DocThorSettings) -> Result<Self, ClientError> {
        let roots = match &settings.ca_bundle {
            Some(path) => Roots::AlsoOf(path),
            None => Roots::System,
        };
        let http = bryo_http::client(roots)?
            .user_agent(concat!("bryo/", env!("CARGO_PKG_VERSION")))
            .pool_max_idle_per_host(0)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT);
        Ok(Self {
            http: http.build().map_err(ClientError::Http)?,
            base: base(&settings.server)?,
            token: bearer(&settings.token)?,
        })
    }

    /// Takes a build. Never repeated: each call may give one away.
    pub(crate) async fn claim(&self) -> Result<Claim, NoJob> {
        let request = self.request(Method::GET, "builds/pending").timeout(CLAIM);
        let mut response = request.send().await.map_err(|error| {
            if error.is_connect() {
                NoJob::Away(chain(&error))
            } else {
                lost(ClaimFault {
                    id: None,
                    why: chain(&error),
                })
            }
        })?;
        match response.status() {
            StatusCode::NO_CONTENT => Err(NoJob::Nothing),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(NoJob::Refused),
            StatusCode::OK => match body(&mut response, LARGEST_CLAIM).await {
                Ok(bytes) => Claim::parse(&bytes).map_err(lost),
                Err((bytes, why)) => Err(lost(ClaimFault {
                    id: salvage(&bytes),
                    why,
                })),
            },
            // A gateway that gave up does not know what the server behind it did.
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Err(lost(ClaimFault {
                id: None,
                why: answered(response.status(), &response),
            })),
            status => Err(NoJob::Away(answered(status, &response))),
        }
    }

    /// Tells how a build ended.
    pub(crate) async fn report(&self, id: BuildId, result: String) -> Answer {
        let request = self
            .request(Method::POST, &format!("builds/{id}/result"))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(result)
            .timeout(REPORT);
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Answer::Away(chain(&error)),
        };
        let status = response.status();
        match status {
            StatusCode::OK => {
                // A build, with its log; one that breaks off after its id is as good.
                let (Ok(bytes) | Err((bytes, _))) = body(&mut response, LARGEST_CLAIM).await;
                if is_build(&bytes, id) {
                    Answer::Known
                } else {
                    Answer::Away(format!("{status}, but not the build {id}"))
                }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Answer::Refused,
            StatusCode::PAYLOAD_TOO_LARGE => Answer::TooLarge,
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Answer::Away(answered(status, &response)),
            status if status.is_redirection() => Answer::Away(answered(status, &response)),
            status if status.is_client_error() => {
                let (text, is_ours) = error_text(&mut response).await;
                refusal(status, &text, is_ours)
            }
            _ => {
                let (text, _) = error_text(&mut response).await;
                Answer::Failed(format!("{status}: {text}"))
            }
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("{}api/v1/{path}", self.base.path()));
        self.http
            .request(method, url)
            .header(AUTHORIZATION, self.token.clone())
            .header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
    }
}

/// What a refusal of a report means, if these are the server's own words. A proxy that does not know the way, or does not
/// let it be gone, says nothing of the build and nothing of its log: the server is away behind it.
fn refusal(status: StatusCode, text: &str, is_ours: bool) -> Answer {
    match status {
        StatusCode::CONFLICT if is_ours && text == NOT_RUNNING => Answer::KnownBefore,
        StatusCode::NOT_FOUND if is_ours && text == NO_BUILD => Answer::Forgotten,
        _ if !is_ours || status == StatusCode::NOT_FOUND => {
            Answer::Away(format!("{status}, not from a doc-thor server: {text}"))
        }
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
            Answer::NotUnderstood(format!("{status}: {text}"))
        }
        _ => Answer::Failed(format!("{status}: {text}")),
    }
}

fn lost(fault: ClaimFault) -> NoJob {
    NoJob::Lost {
        feed_job: fault.id.map(|id| id.to_string()),
        why: fault.why,
    }
}

/// The address with a path that ends in `/`.
fn base(text: &str) -> Result<Url, ClientError> {
    let bad = || ClientError::Address(text.split('@').next_back().unwrap_or_default().to_owned());
    let mut url: Url = text.parse().map_err(|_| bad())?;
    let plain = url.username().is_empty() && url.password().is_none();
    let whole = url.query().is_none() && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain || !whole {
        return Err(bad());
    }
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/api/v1").unwrap_or(path);
    let path = format!("{path}/");
    url.set_path(&path);
    Ok(url)
}

fn bearer(token: &Secret) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
        .map_err(|_| ClientError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The whole body, if it is within the bound and comes to its end; else what there is of it, and why.
async fn body(response: &mut Response, most: usize) -> Result<Vec<u8>, (Vec<u8>, String)> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(bytes),
            Ok(Some(piece)) => {
                let room = most - bytes.len();
                bytes.extend_from_slice(&piece[..piece.len().min(room)]);
                if piece.len() > room {
                    return Err((bytes, format!("its answer has more than {most} bytes")));
                }
            }
            Err(error) => return Err((bytes, chain(&error))),
        }
    }
}

/// Whether this is the beginning of the JSON of the build with this id.
fn is_build(bytes: &[u8], id: BuildId) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some(inside) = text.trim_start().strip_prefix('{') else {
        return false;
    };
    let number = id.to_string();
    inside.split("\"id\"").skip(1).any(|after| {
        let value = after.trim_start().strip_prefix(':').map(str::trim_start);
        let rest = value.and_then(|value| value.strip_prefix(&*number));
        rest.is_some_and(|rest| rest.trim_start().starts_with([',', '}']))
    })
}

#[cfg(test)]
#[test]
fn a_build_is_known_by_its_id() {
    let id: BuildId = "17".parse().unwrap();
    for (text, good) in [
        (r#"{"id":17,"status":"success"}"#, true),
        (r#" {"created_at":"x", "id" : 17 }"#, true),
        (r#"{"id":17,"logs":"cut off"#, true),
        (r#"{"id":171}"#, false),
        (r#"{"id":1}"#, false),
        (r#"{"id":"17"}"#, false),
        ("{}", false),
        ("<html>\"id\":17,</html>", false),
        ("", false),
    ] {
        assert_eq!(is_build(text.as_bytes(), id), good, "{text}");
    }
}

/// What a server says in `{"error": ...}`, and whether it is such an answer.
async fn error_text(response: &mut Response) -> (String, bool) {
    #[derive(serde::Deserialize)]
    struct Wire {
        error: String,
    }
    let bytes = match body(response, LARGEST_ERROR).await {
        Ok(bytes) | Err((bytes, _)) => bytes,
    };
    match serde_json::from_slice::<Wire>(&bytes) {
        Ok(wire) => (one_line(&wire.error), true),
        Err(_) => (one_line(&String::from_utf8_lossy(&bytes)), false),
    }
}

fn answered(status: StatusCode, response: &Response) -> String {
    let location = response.headers().get(reqwest::header::LOCATION);
    match location.and_then(|value| value.to_str().ok()) {
        Some(place) if status.is_redirection() => format!(
            "it answered {status} to {:?}; redirects are not followed, set that address if it is right",
            one_line(place)
        ),
        _ => format!("it answered {status}"),
    }
}

/// A stranger's text in a log: one line, of bounded length, without control characters.
pub(crate) fn one_line(text: &str) -> String {
    const MOST: usize = 400;
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MOST)
        .collect();
    line.truncate(line.trim_end().len());
    line
}

/// An error and its causes. The address is known already, and stands in none of them.
fn chain(error: &reqwest::Error) -> String {
    one_line(&bryo_http::chain(error))
}
