//! Asking servers of Git LFS.
//!
//! Each address, be it the repository's own or one that a server names or redirects to, is checked by the policy before it
//! is asked, and every connection is made by the gateway. With a proxy of the environment the same holds as for git: it
//! is the proxy that resolves and connects.
//!
//! Invariants:
//! - the repository's credential goes to the repository's server, what an answer wants to be told to the server that it
//!   names, and neither goes along with a redirect to another;
//! - nothing goes from https to http;
//! - no address of an object, header or credential is in a message.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bryo_model::{GitUrl, Scheme, Secret};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Method, Response, StatusCode, Url};

use super::batch::{self, Action, Said};
use super::clients::{Clients, bare};
use super::failure::{Failure, chain};
use super::secrets::Secrets;
use super::{Pointer, over_ssh, own};
use crate::SourceError;
use crate::gateway::{Gateway, Trouble};
use crate::limits::ReachedLimit;
use crate::origin::{Origin, Remote};
use crate::session::Session;

const MOST_REDIRECTS: usize = 5;

/// How often something is tried again that could pass, and the first pause; each is twice the one before.
const RETRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// No server makes us wait longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Between the signs of life of our own waiting.
const BEAT: Duration = Duration::from_secs(1);

/// Of an answer that is an error.
const LARGEST_ERROR: usize = 16 << 10;

/// Counts attempts.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    failed: u32,
}

impl Patience {
    /// Waits if there is to be another attempt.
    pub(crate) async fn again(&mut self, failure: &Failure, server: &Server<'_>) -> bool {
        let Failure::Passing { after, .. } = failure else {
            return false;
        };
        if self.failed >= RETRIES {
            return false;
        }
        let pause = after.unwrap_or(FIRST_PAUSE * 2_u32.pow(self.failed));
        self.failed += 1;
        let pause = tokio::time::sleep(pause.min(LONGEST_PAUSE));
        server.waiting_for(pause).await;
        true
    }
}

/// An answer of which there is more to come.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// The gateway counts it.
    counted: bool,
}

/// Where a repository's objects are asked for.
#[derive(Clone, Debug)]
struct Endpoint {
    url: Url,
    /// For the server of `url` alone.
    headers: HeaderMap,
}

/// The server of one repository, and those that it names.
#[derive(Debug)]
pub(crate) struct Server<'a> {
    origin: &'a Origin,
    remote: &'a Remote,
    session: Session,
    clients: Clients,
    endpoint: tokio::sync::Mutex<Endpoint>,
    secrets: Mutex<Secrets>,
}

impl<'a> Server<'a> {
    /// Finds where the objects of a repository are asked for.
    pub(crate) async fn open(
        origin: &'a Origin,
        remote: &'a Remote,
        mut session: Session,
    ) -> Result<Self, Failure> {
        let gateway = match session.take_gateway() {
            Some(gateway) => gateway,
            None => Gateway::open(&remote.policy, &remote.budget, &session.activity)
                .await
                .map_err(SourceError::io("127.0.0.1".as_ref()))?,
        };
        let own = endpoint_of(&remote.url).ok_or_else(|| {
            Failure::Told("the repository's address is none of a server of Git LFS".to_owned())
        })?;
        let mut headers = HeaderMap::new();
        if let Some((user, password)) = &session.basic {
            headers.insert(AUTHORIZATION, basic(user, password)?);
        }
        let mut secrets = Secrets::default();
        secrets.keep(&headers);
        if let Some((_, password)) = &session.basic {
            secrets.keep_password(password);
        }
        let server = Self {
            origin,
            remote,
            clients: Clients::new(gateway, remote),
            endpoint: tokio::sync::Mutex::new(Endpoint { url: own, headers }),
            secrets: Mutex::new(secrets),
            session,
        };
        if remote.url.scheme() == Scheme::Ssh {
            server
                .ask_over_ssh(&mut *server.endpoint.lock().await)
                .await?;
        }
        Ok(server)
    }

    /// A sign of life.
    fn seen(&self) {
        self.session.activity.seen();
    }

    /// What came of an answer.
    pub(crate) fn arrived(&self, answer: &Answer, piece: &[u8]) -> Result<(), Failure> {
        self.seen();
        let budget = &self.remote.budget;
        if answer.counted || budget.receive(piece.len() as u64) {
            return Ok(());
        }
        Err(Failure::Source(SourceError::Limit {
            location: self.origin.location.clone(),
            limit: ReachedLimit::Bytes(budget.limits().bytes),
        }))
    }

    /// Waits for what has a bound of its own. Meanwhile nobody expects a word of the server.
    async fn waiting_for<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let ended = tokio::time::timeout(BEAT, &mut work).await;
            self.seen();
            if let Ok(ended) = ended {
                return ended;
            }
        }
    }

    /// Where these objects are.
    pub(crate) async fn find(
        &self,
        wanted: &[&Pointer],
    ) -> Result<BTreeMap<String, Said>, Failure> {
        let mut patience = Patience::default();
        let mut proven = false;
        loop {
            let endpoint = self.endpoint.lock().await.clone();
            match self.find_once(&endpoint, wanted).await {
                Err(Failure::Denied(why)) if !proven => {
                    proven = true;
                    if !self.prove(&endpoint).await? {
                        return Err(Failure::Denied(why));
                    }
                }
                Err(failure) if patience.again(&failure, self).await => {}
                other => return other,
            }
        }
    }

    async fn find_once(
        &self,
        endpoint: &Endpoint,
        wanted: &[&Pointer],
    ) -> Result<BTreeMap<String, Said>, Failure> {
        let mut url = endpoint.url.clone();
        url.set_path(&format!(
            "{}/objects/batch",
            url.path().trim_end_matches('/')
        ));
        let body = batch::request(wanted.iter().copied());
        let mut answer = self
            .send(Method::POST, url, &endpoint.headers, Some(&body))
            .await?;
        if !answer.response.status().is_success() {
            return Err(self
                .refusal(answer, "the repository has no Git LFS there")
                .await);
        }
        let (bytes, whole) = self.body(&mut answer, batch::LARGEST).await?;
        if !whole {
            let most = batch::LARGEST >> 20;
            return Err(Failure::Told(format!(
                "the server's answer is longer than {most} MiB"
            )));
        }
        let mut said =
            batch::read(&bytes, wanted).map_err(|why| Failure::Told(self.secrets().told(&why)))?;
        for action in said.values().flatten() {
            self.secrets().lend(&action.headers);
            if endpoint.url.scheme() == "https" && action.url.scheme() != "https" {
                return Err(Failure::Told(
                    "the server leads from https to http".to_owned(),
                ));
            }
        }
        // What one object may be had with may stand in the words about another.
        for why in said.values_mut().filter_map(|said| said.as_mut().err()) {
            *why = self.secrets().told(why);
        }
        Ok(said)
    }

    /// Nobody asks any more for what was found.
    pub(crate) fn end_of_loan(&self) {
        self.secrets().end_of_loan();
    }

    /// Asks for one object.
    pub(crate) async fn object(&self, action: &Action) -> Result<Answer, Failure> {
        let mut headers = action.headers.clone();
        if !action.authenticated && !headers.contains_key(AUTHORIZATION) {
            let endpoint = self.endpoint.lock().await;
            if self.is_by_http() && action.url.origin() == endpoint.url.origin() {
                headers.extend(endpoint.headers.clone());
            }
        }
        let answer = self
            .send(Method::GET, action.url.clone(), &headers, None)
            .await?;
        let status = answer.response.status();
        match status {
            StatusCode::OK => Ok(answer),
            // A part that nobody asked for.
            StatusCode::PARTIAL_CONTENT | StatusCode::NO_CONTENT => {
                Err(Failure::Told(format!("the server answered {status}")))
            }
            _ => Err(self.refusal(answer, "the server does not have it").await),
        }
    }

    fn is_by_http(&self) -> bool {
        self.remote.url.scheme() != Scheme::Ssh
    }

    /// Tells the server more of who asks, or anew. `false` when there is no more to be told.
    async fn prove(&self, used: &Endpoint) -> Result<bool, Failure> {
        let mut endpoint = self.endpoint.lock().await;
        if endpoint.headers != used.headers {
            return Ok(true);
        }
        if self.remote.url.scheme() == Scheme::Ssh {
            self.ask_over_ssh(&mut endpoint).await?;
            return Ok(true);
        }
        let policy = &self.remote.policy;
        if !policy.own_credentials
            || policy.credential(&self.remote.url).is_some()
            || !used.headers.is_empty()
        {
            return Ok(false);
        }
        let Some((user, password)) = self
            .waiting_for(own::password(&self.remote.url, &self.session))
            .await?
        else {
            return Ok(false);
        };
        endpoint
            .headers
            .insert(AUTHORIZATION, basic(&user, &password)?);
        let mut secrets = self.secrets();
        secrets.keep(&endpoint.headers);
        secrets.keep_password(&password);
        Ok(true)
    }

    async fn ask_over_ssh(&self, endpoint: &mut Endpoint) -> Result<(), Failure> {
        let mut patience = Patience::default();
        let (url, headers) = loop {
            let granted = over_ssh::granted(&self.remote.url, &self.session);
            match self.waiting_for(granted).await {
                Ok(granted) => break granted,
                Err(failure) if patience.again(&failure, self).await => {}
                Err(failure) => return Err(failure.masked(&self.secrets())),
            }
        };
        self.secrets().keep(&headers);
        if let Some(url) = url {
            endpoint.url = url;
        }
        endpoint.headers = headers;
        Ok(())
    }

    /// Asks, and follows redirects.
    async fn send(
        &self,
        method: Method,
        url: Url,
        headers: &HeaderMap,
        body: Option<&str>,
    ) -> Result<Answer, Failure> {
        let first = url.origin();
        let (mut url, mut carried) = (url, true);
        for _ in 0..=MOST_REDIRECTS {
            self.check(&url)?;
            carried &= url.origin() == first;
            let (client, counted) = self.clients.to(&url)?;
            let mut request = client.request(method.clone(), url.clone());
            if let Some(body) = body {
                request = request
                    .header(ACCEPT, batch::KIND)
                    .header(CONTENT_TYPE, batch::KIND)
                    .body(body.to_owned());
            }
            if carried {
                request = request.headers(headers.clone());
            }
            let response = request.send().await.map_err(|e| self.broken(&e))?;
            self.seen();
            if !is_redirect(response.status()) {
                return Ok(Answer { response, counted });
            }
            let to = response
                .headers()
                .get(LOCATION)
                .and_then(|to| to.to_str().ok());
            let to = to.and_then(|to| url.join(to).ok()).ok_or_else(|| {
                Failure::Told("the server redirects to an address that is none".to_owned())
            })?;
            if url.scheme() == "https" && to.scheme() != "https" {
                return Err(Failure::Told(
                    "the server redirects from https to http".to_owned(),
                ));
            }
            url = to;
        }
        Err(Failure::Told(format!(
            "the server redirects more than {MOST_REDIRECTS} times"
        )))
    }

    /// Whether the policy lets this address be asked.
    fn check(&self, url: &Url) -> Result<(), Failure> {
        let odd = |why: &str| Err(Failure::Told(format!("the server names an address {why}")));
        let scheme = match url.scheme() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return odd("that is neither of https nor of http"),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return odd("with a password in it");
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return odd("without a host");
        };
        self.remote
            .policy
            .check_server(scheme, bare(host), port)
            .map_err(|why| {
                Failure::Source(SourceError::Refused {
                    location: self.origin.location.clone(),
                    why,
                })
            })
    }

    /// What an answer without success means; `missing` for one that says that there is nothing.
    async fn refusal(&self, mut answer: Answer, missing: &str) -> Failure {
        const CHECK: &str = "check the credential for this address ([source.credentials.NAME])";
        let status = answer.response.status();
        let after = answer.response.headers().get(RETRY_AFTER).and_then(seconds);
        let message = match self.body(&mut answer, LARGEST_ERROR).await {
            Ok((bytes, _)) => {
                batch::message(&bytes).map(|text| format!(": {}", self.secrets().told(&text)))
            }
            Err(Failure::Source(error)) => return Failure::Source(error),
            Err(_) => None,
        }
        .unwrap_or_default();
        let code = status.as_u16();
        match code {
            401 => Failure::Denied(format!(
                "the server asks who we are (401){message}; {CHECK}"
            )),
            403 => Failure::Denied(format!("the server denies access (403){message}; {CHECK}")),
            404 => Failure::Told(format!("{missing}, or hides it (404){message}")),
            410 => Failure::Told(format!("{missing} any more (410){message}")),
            408 | 425 | 429 | 500 | 502..=504 => Failure::Passing {
                why: format!("the server answered {status}{message}"),
                after,
            },
            _ => Failure::Told(format!("the server answered {status}{message}")),
        }
    }

    /// As much of a body as is allowed, and whether that is all of it.
    async fn body(&self, answer: &mut Answer, most: usize) -> Result<(Vec<u8>, bool), Failure> {
        let mut bytes = Vec::new();
        while let Some(piece) = answer.response.chunk().await.map_err(|e| self.broken(&e))? {
            self.arrived(answer, &piece)?;
            if bytes.len() + piece.len() > most {
                return Ok((bytes, false));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok((bytes, true))
    }

    /// Why there was no answer, or no more of it.
    pub(crate) fn broken(&self, error: &reqwest::Error) -> Failure {
        let location = self.origin.location.clone();
        let why = self.secrets().told(&chain(error));
        match self.clients.trouble() {
            Some(trouble @ (Trouble::Refused(_) | Trouble::Reached(_))) => {
                Failure::Source(trouble.told(location))
            }
            Some(Trouble::Unreachable(detail)) if error.is_connect() => Failure::Passing {
                why: self.secrets().told(&detail),
                after: None,
            },
            // A certificate is no better a moment later.
            _ if why.contains("certificate") => Failure::Source(SourceError::Unreachable {
                location,
                detail: why,
            }),
            _ => Failure::Passing { why, after: None },
        }
    }

    fn secrets(&self) -> MutexGuard<'_, Secrets> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a repository's objects are asked for, without a word of its server's, as git-lfs has it.
fn endpoint_of(url: &GitUrl) -> Option<Url> {
    let path = match url.scheme() {
        Scheme::File => return None,
        Scheme::Https | Scheme::Http => url.path(),
        Scheme::Ssh => url.path().trim_start_matches('/'),
    };
    let (scheme, authority) = match url.scheme() {
        Scheme::Ssh => (Scheme::Https, bracketed(&url.host()?)),
        scheme => (scheme, url.authority()?.to_owned()),
    };
    let path = path.trim_matches('/');
    let git = if path.ends_with(".git") { "" } else { ".git" };
    Url::parse(&format!("{scheme}://{authority}/{path}{git}/info/lfs")).ok()
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn basic(user: &str, password: &Secret) -> Result<HeaderValue, Failure> {
    let pair = BASE64_STANDARD.encode(format!("{user}:{}", password.expose()));
    let mut value = HeaderValue::from_str(&format!("Basic {pair}"))
        .map_err(|_| Failure::Told("the credential cannot be a header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn seconds(value: &HeaderValue) -> Option<Duration> {
    let seconds = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
