//! Requests to the store: signed by rust-s3, sent by the client that all attempts share, tried again when that can help.
//!
//! rust-s3 knows the protocol (commands, URLs, signatures); its own sending is not used: it takes no certificate authority,
//! hides the headers of a refusal, and tries again by a rule of its own. Redirects are not followed: a signature is for
//! one host.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bryo_http::Roots;
use bryo_model::Secret;
use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, StatusCode, redirect};
use s3::command::{Command, HttpMethod};
use s3::creds::Credentials;
use s3::request::Request as _;
use s3::request::tokio_backend::ReqwestRequest;
use s3::{Bucket, Region};
use tokio::sync::Semaphore;

use super::fault::{StoreFault, Trouble};
use super::fence::Fence;
use super::settings::{Retry, S3Settings, S3Tuning};
use crate::DepotError;

/// The longest answer that is read, in bytes. A page of a list with the longest keys has some 4 MiB.
pub(crate) const LONGEST_ANSWER: usize = 16 << 20;

/// What is asked.
pub(crate) struct Ask<'a> {
    /// For messages: an infinitive that stands before the key.
    pub(crate) doing: &'static str,
    pub(crate) key: &'a str,
    pub(crate) command: Command<'a>,
    pub(crate) body: Bytes,
    /// Headers that the command has no room for.
    pub(crate) extra: HeaderMap,
    /// Whether it waits for its turn among the others.
    pub(crate) turn: Turn,
}

/// Whether a request counts among those that are under way at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Waits,
    /// Small, and of no use when it comes late.
    AtOnce,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(doing: &'static str, key: &'a str, command: Command<'a>) -> Self {
        Self {
            doing,
            key,
            command,
            body: Bytes::new(),
            extra: HeaderMap::new(),
            turn: Turn::Waits,
        }
    }

    pub(crate) fn failed(&self, trouble: Trouble) -> DepotError {
        DepotError::Store {
            doing: self.doing,
            what: self.key.to_owned(),
            fault: trouble.fault,
            source: Box::new(trouble.answer),
        }
    }
}

/// What was answered.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as XML of rust-s3's types.
    pub(crate) fn xml<T: serde::de::DeserializeOwned>(&self) -> Result<T, Trouble> {
        let text = std::str::from_utf8(&self.body).map_err(Trouble::unreadable)?;
        quick_xml::de::from_str(text).map_err(Trouble::unreadable)
    }
}

/// A bucket, and the way to it. Clones share connections and the bound on requests.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    bucket: Bucket,
    retry: Retry,
    requests: Arc<Semaphore>,
    timeout: Duration,
    /// Whether the store has said that it knows no conditions for a put.
    unconditional: Arc<AtomicBool>,
    /// Outside of which nothing is asked.
    fence: Option<Arc<Fence>>,
}

impl Client {
    pub(crate) fn new(settings: &S3Settings, tuning: &S3Tuning) -> Result<Self, DepotError> {
        let unusable = |why: String| DepotError::Settings { why };
        let endpoint = settings.endpoint.trim_end_matches('/');
        let url = reqwest::Url::parse(endpoint)
            .map_err(|e| unusable(format!("the endpoint {endpoint:?} is no URL ({e})")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(unusable(format!(
                "the endpoint {endpoint:?} is no http or https URL"
            )));
        }
        if !url.username().is_empty() || url.password().is_some() {
            let why = "the endpoint holds credentials; give them as the access and the secret key";
            return Err(unusable(why.to_owned()));
        }
        if settings.bucket.is_empty() || settings.bucket.contains('/') {
            return Err(unusable(format!(
                "{:?} is no name of a bucket",
                settings.bucket
            )));
        }
        let roots = match &settings.ca_bundle {
            Some(path) => Roots::AlsoOf(path),
            None => Roots::System,
        };
        let http = bryo_http::client(roots)
            .map_err(|e| unusable(bryo_http::chain(&e)))?
            .redirect(redirect::Policy::none())
            .connect_timeout(tuning.connect_timeout)
            .pool_max_idle_per_host(settings.parallel)
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_nodelay(true)
            // What was handed to the kernel before a request was dropped must not be sent much later.
            .tcp_user_timeout(tuning.lease / 4)
            .build()
            .map_err(|e| unusable(format!("the HTTP client cannot be made ({e})")))?;
        Ok(Self {
            http,
            bucket: bucket(settings, endpoint)?,
            retry: tuning.retry,
            requests: Arc::new(Semaphore::new(settings.parallel.max(1))),
            timeout: tuning.request_timeout,
            unconditional: Arc::new(AtomicBool::new(false)),
            fence: None,
        })
    }

    /// The same, asking only while `fence` is open.
    pub(crate) fn within(&self, fence: Arc<Fence>) -> Self {
        Self {
            fence: Some(fence),
            ..self.clone()
        }
    }

    /// The same, with requests that take no longer.
    pub(crate) fn sooner(&self, timeout: Duration) -> Self {
        Self {
            timeout: self.timeout.min(timeout),
            ..self.clone()
        }
    }

    /// The same, that tries nothing again: for who asks again anyway.
    pub(crate) fn once_each(&self) -> Self {
        let mut client = self.clone();
        client.retry.attempts = 1;
        client
    }

    pub(crate) fn bucket_name(&self) -> String {
        self.bucket.name.clone()
    }

    /// Whether conditions are sent with a put.
    pub(crate) fn has_conditions(&self) -> bool {
        !self.unconditional.load(Ordering::Relaxed)
    }

    /// The store refuses conditions.
    pub(crate) fn forgo_conditions(&self) {
        self.unconditional.store(true, Ordering::Relaxed);
    }

    /// The pause before something is looked at again that was not yet as it should be.
    pub(crate) fn pause(&self, looks: u32) -> Duration {
        self.retry.pause(looks, None)
    }

    /// Asks until there is an answer, or no hope of one.
    pub(crate) async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, Trouble> {
        let mut failed = 0;
        loop {
            let once = Box::pin(self.once(ask));
            let asked = match &self.fence {
                Some(fence) => fence.within(once).await,
                None => Some(once.await),
            };
            // What the fence has cut off is no failure of the store's.
            let Some(asked) = asked else { continue };
            let trouble = match asked {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            failed += 1;
            if !trouble.passing || failed >= self.retry.attempts {
                return Err(trouble);
            }
            tokio::time::sleep(self.retry.pause(failed, trouble.retry_after)).await;
        }
    }

    async fn once(&self, ask: &Ask<'_>) -> Result<Answer, Trouble> {
        let permit = match ask.turn {
            Turn::Waits => self.requests.acquire().await.ok(),
            Turn::AtOnce => None,
        };
        let signed = self.sign(ask).await?;
        let mut response = signed.send().await.map_err(Trouble::of_http)?;
        let status = response.status();
        let headers = response.headers().clone();
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(Trouble::of_http)? {
            if body.len() + chunk.len() > LONGEST_ANSWER {
                return Err(Trouble::unreadable(
                    "it is longer than any answer of a store",
                ));
            }
            body.extend_from_slice(&chunk);
        }
        drop(permit);
        if !status.is_success() {
            return Err(Trouble::of_status(status, retry_after(&headers), &body));
        }
        // The last step of an upload in parts may say 200 first and find out afterwards that it failed.
        if matches!(ask.command, Command::CompleteMultipartUpload { .. }) && is_error(&body) {
            return Err(Trouble::of_status(StatusCode::OK, None, &body));
        }
        Ok(Answer {
            headers,
            body: body.freeze(),
        })
    }

    async fn sign(&self, ask: &Ask<'_>) -> Result<reqwest::RequestBuilder, Trouble> {
        let with_headers;
        let bucket = if ask.extra.is_empty() {
            &self.bucket
        } else {
            let mut bucket = self.bucket.clone();
            bucket.extra_headers = ask.extra.clone();
            with_headers = bucket;
            &with_headers
        };
        // What rust-s3 fails at here is what it was given, not the network.
        let unsigned = |error: s3::error::S3Error| Trouble {
            fault: StoreFault::Refused,
            ..Trouble::unreadable(error)
        };
        let path = match ask.command {
            Command::ListObjectsV2 { .. }
            | Command::ListMultipartUploads { .. }
            | Command::DeleteObjects { .. } => "/",
            _ => alone(ask.key)?,
        };
        let request = ReqwestRequest::new(bucket, path, ask.command.clone())
            .await
            .map_err(unsigned)?;
        let headers = request.headers().await.map_err(unsigned)?;
        let url = request.url().map_err(unsigned)?;
        let method = match ask.command.http_verb() {
            HttpMethod::Delete => Method::DELETE,
            HttpMethod::Get => Method::GET,
            HttpMethod::Put => Method::PUT,
            HttpMethod::Post => Method::POST,
            HttpMethod::Head => Method::HEAD,
        };
        let body = if ask.body.is_empty() {
            Bytes::from(request.request_body().map_err(unsigned)?)
        } else {
            ask.body.clone()
        };
        Ok(self
            .http
            .request(method, url)
            .headers(headers)
            .timeout(self.timeout)
            .body(body))
    }
}

fn bucket(settings: &S3Settings, endpoint: &str) -> Result<Bucket, DepotError> {
    let unusable = |why: String| DepotError::Settings { why };
    let known = &settings.credentials;
    // Given both keys it asks nothing and nobody for others.
    let credentials = Credentials::new(
        Some(&known.access_key),
        Some(known.secret_key.expose()),
        None,
        known.session_token.as_ref().map(Secret::expose),
        None,
    )
    .map_err(|e| unusable(format!("the keys cannot be used ({e})")))?;
    let region = Region::Custom {
        region: settings.region.clone(),
        endpoint: endpoint.to_owned(),
    };
    let bucket = Bucket::new(&settings.bucket, region, credentials)
        .map_err(|e| unusable(format!("the bucket cannot be used ({e})")))?;
    Ok(if settings.path_style {
        *bucket.with_path_style()
    } else {
        *bucket
    })
}

/// A key that a URL names as it is. Segments of dots are folded in every URL, a slash at the beginning is taken for the one
/// before the key, and without a key it is the bucket that is named: each of them is another object than was meant.
fn alone(key: &str) -> Result<&str, Trouble> {
    let odd = |segment: &&str| matches!(*segment, "." | "..");
    let why = match key.split('/').find(odd) {
        Some(dots) => format!("its key has the segment {dots:?}"),
        None if key.is_empty() || key.starts_with('/') => "its key begins with no name".to_owned(),
        None => return Ok(key),
    };
    Err(Trouble {
        fault: StoreFault::Unnameable,
        ..Trouble::unreadable(why)
    })
}

/// In seconds; the other form, a date, is not one that stores use.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

fn is_error(body: &[u8]) -> bool {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let root = text.find("?>").map_or(text, |end| &text[end + 2..]);
    root.trim_start().starts_with("<Error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_as_it_is_or_not_at_all() {
        for key in [
            "a",
            "p//index.html",
            "p/1/...",
            "p/1/.a/b..",
            "p/1/%2e%2e/b",
            "p/1/ ",
        ] {
            assert_eq!(alone(key).ok(), Some(key));
        }
        for key in [
            "",
            "/",
            "/p/1",
            "..",
            "p/1/../2/index.html",
            "p/./1",
            "p/1/.",
            "p/1/..",
        ] {
            let trouble = alone(key).unwrap_err();
            assert_eq!(trouble.fault, StoreFault::Unnameable, "{key}");
            assert!(!trouble.passing, "{key}");
        }
    }
}
