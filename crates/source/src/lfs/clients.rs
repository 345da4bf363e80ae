//! Clients of HTTP whose connections go where those of a fetch go: through its gateway, or through the proxy that the
//! environment names for an address.
//!
//! Why one for each way and no function that chooses? Where a proxy is none, reqwest connects without one and without a word.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bryo_http::{Roots, RootsError};
use bryo_model::Scheme;
use reqwest::{Client, Proxy, Url, redirect};

use super::failure::{Failure, chain};
use crate::SourceError;
use crate::gateway::{Gateway, Trouble};
use crate::origin::Remote;
use crate::proxy::proxy_for;

/// Nothing takes longer until a connection stands; the gateway's own bound is the same.
const CONNECTING: Duration = Duration::from_secs(30);

/// All clients of one download.
#[derive(Debug)]
pub(crate) struct Clients {
    gateway: Gateway,
    /// The file of those that are believed instead of the system's.
    roots: Option<PathBuf>,
    /// By the proxy of the environment.
    made: Mutex<BTreeMap<Option<String>, Client>>,
}

impl Clients {
    pub(crate) fn new(gateway: Gateway, remote: &Remote) -> Self {
        Self {
            gateway,
            roots: certificates(remote),
            made: Mutex::default(),
        }
    }

    /// What went wrong on the way out.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.gateway.trouble()
    }

    /// The client whose connections go where those to this address must, and whether the gateway counts what comes there.
    pub(crate) fn to(&self, url: &Url) -> Result<(Client, bool), Failure> {
        let scheme = match url.scheme() {
            "https" => Scheme::Https,
            _ => Scheme::Http,
        };
        let host = bare(url.host_str().unwrap_or_default());
        let outer = proxy_for(scheme, host, |name| std::env::var(name).ok());
        let mut clients = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&outer) {
            return Ok((client.clone(), outer.is_none()));
        }
        let client = self.make(outer.as_deref())?;
        let counted = outer.is_none();
        clients.insert(outer, client.clone());
        Ok((client, counted))
    }

    fn make(&self, outer: Option<&str>) -> Result<Client, Failure> {
        let unusable =
            |e: reqwest::Error| Failure::Told(format!("no client can be made: {}", chain(&e)));
        let proxy = match outer {
            // What is no proxy would be none without a word.
            Some(proxy) => Proxy::all(outer_proxy(proxy).ok_or_else(|| {
                Failure::Told("the environment names a proxy that is none".to_owned())
            })?),
            None => Proxy::all(self.gateway.proxy().expose()),
        };
        let roots = match &self.roots {
            Some(path) => Roots::OnlyOf(path),
            None => Roots::System,
        };
        bryo_http::client(roots)
            .map_err(untrusted)?
            .user_agent(concat!("bryo/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECTING)
            .proxy(proxy.map_err(unusable)?)
            .build()
            .map_err(unusable)
    }
}

fn untrusted(error: RootsError) -> Failure {
    match error {
        RootsError::Unreadable { path, source } => SourceError::io(&path)(source).into(),
        error => Failure::Told(bryo_http::chain(&error)),
    }
}

/// A host as the policy knows it.
pub(crate) fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// A proxy in the form of curl, which may leave out that it is one of http.
fn outer_proxy(text: &str) -> Option<Url> {
    let text = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let url = Url::parse(&text).ok()?;
    let known = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];
    (known.contains(&url.scheme()) && url.has_host()).then_some(url)
}

/// The file of the certificates that are believed instead of the system's, where git would look for it.
fn certificates(remote: &Remote) -> Option<PathBuf> {
    let of_git = || std::env::var_os("GIT_SSL_CAINFO").map(Into::into);
    remote.policy.ca_bundle.clone().or_else(of_git)
}
