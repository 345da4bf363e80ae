//! What git may fetch from, and as whom.
//!
//! An address is checked before git hears of it: its scheme and the name of its host. The address that its name resolves
//! to is checked where the connection is made, in [`crate::gateway`] and [`crate::ssh`]: a name that resolves to something
//! else a moment later, and a redirect, come to the same check.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use bryo_model::{Destination, GitUrl, Scheme};
use glob::{MatchOptions, Pattern};

use crate::credentials::{CredentialRule, Identity, choose};
use crate::limits::SourceLimits;
use crate::origin::Origin;
use crate::reach::{Closed, closed};

/// What git may fetch from, as whom, and how much.
#[derive(Clone, Debug)]
pub struct SourcePolicy {
    /// How repositories may be reached.
    pub protocols: BTreeSet<Scheme>,
    /// Hosts that may be fetched from; all where there are none.
    pub allowed_hosts: Vec<HostRule>,
    /// Hosts that may not, even if they are allowed.
    pub denied_hosts: Vec<HostRule>,
    /// Destinations that are open although their kind is closed: loopback, link-local, metadata services.
    pub reach: Vec<Destination>,
    /// Credentials, by the addresses that they are for.
    pub credentials: Vec<CredentialRule>,
    /// Where no credential is for an address: whether git gets those of the user that Bryo runs as: the ssh agent and
    /// `~/.ssh`, `~/.netrc`, `GIT_ASKPASS`.
    pub own_credentials: bool,
    /// Servers that a submodule gets credentials for although its repository is on another one.
    pub submodule_credentials: Vec<HostRule>,
    /// Certificates that https servers are believed with, one PEM file.
    pub ca_bundle: Option<PathBuf>,
    /// Bounds of a fetch.
    pub limits: SourceLimits,
    /// How many commits of history are fetched; all where it is `None`.
    pub depth: Option<u32>,
    /// Whether files in Git LFS are brought; otherwise their pointers stay.
    pub lfs: bool,
    /// Where files are that only git may read, for as long as one fetch: best in memory, and nobody else's.
    pub private: Option<PathBuf>,
}

impl Default for SourcePolicy {
    /// Everything but plain http, and nobody's credentials.
    fn default() -> Self {
        Self {
            protocols: [Scheme::Https, Scheme::Ssh, Scheme::File].into(),
            allowed_hosts: Vec::new(),
            denied_hosts: Vec::new(),
            reach: Vec::new(),
            credentials: Vec::new(),
            own_credentials: false,
            submodule_credentials: Vec::new(),
            ca_bundle: None,
            limits: SourceLimits::default(),
            depth: None,
            lfs: false,
            private: None,
        }
    }
}

/// Some hosts: `HOST` or `HOST:PORT` with `*` and `?` for any characters, or addresses as a [`Destination`].
#[derive(Clone, Debug)]
pub struct HostRule {
    text: String,
    network: Option<Destination>,
    pattern: Pattern,
}

impl HostRule {
    fn names(&self, host: &str, port: u16) -> bool {
        let options = MatchOptions {
            case_sensitive: false,
            ..MatchOptions::default()
        };
        self.network.is_none()
            && (self.pattern.matches_with(host, options)
                || self
                    .pattern
                    .matches_with(&format!("{host}:{port}"), options))
    }

    fn contains(&self, to: SocketAddr) -> bool {
        self.network.is_some_and(|network| network.includes_tcp(to))
    }
}

impl FromStr for HostRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_*?:/[]".contains(c);
        if text.is_empty() || !text.chars().all(allowed) {
            return Err(format!(
                "{text:?} is not a host (for example git.example.org, *.example.org:8443 or 10.0.0.0/8)"
            ));
        }
        let network: Option<Destination> = text.parse().ok();
        if network.is_none() && text.contains(['/', '[', ']']) {
            return Err(format!("{text:?} is neither a host nor an address or CIDR"));
        }
        let literal = if network.is_some() { "" } else { text };
        let pattern = Pattern::new(literal).map_err(|e| e.to_string())?;
        Ok(Self {
            text: text.to_owned(),
            network,
            pattern,
        })
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why an address may not be fetched from. The text names the key that decides.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its scheme is not allowed.
    #[error("{0}:// is not allowed for sources (source.protocols)")]
    Scheme(Scheme),
    /// Its host is not among the allowed ones.
    #[error("{host} is not among the hosts that sources may come from (source.allowed-hosts)")]
    NotAllowed {
        /// The name or the address.
        host: String,
    },
    /// Its host is among the denied ones.
    #[error("{host} is among the hosts that sources may not come from (source.denied-hosts)")]
    Denied {
        /// The name or the address.
        host: String,
    },
    /// Its host has a closed address.
    #[error("{} is {kind}, which sources may not come from (source.reach)", Named(host, *address))]
    Closed {
        /// The name or the address.
        host: String,
        /// What it resolves to.
        address: IpAddr,
        /// What kind of address this is.
        kind: Closed,
    },
    /// A repository from elsewhere names one on this host.
    #[error("a repository from elsewhere may not name one on this host")]
    FromOutside,
}

struct Named<'a>(&'a str, IpAddr);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1.to_string() {
            f.write_str(self.0)
        } else {
            write!(f, "{} ({})", self.0, self.1)
        }
    }
}

/// Why there is no address to connect to.
#[derive(Debug)]
pub(crate) enum NoAddress {
    Refused(Refusal),
    Unresolved(io::Error),
}

impl SourcePolicy {
    /// Checks what can be known of an address without asking the network.
    ///
    /// # Errors
    ///
    /// Why it may not be fetched from.
    pub fn check(&self, url: &GitUrl) -> Result<(), Refusal> {
        match (url.host(), url.port()) {
            (Some(host), Some(port)) => self.check_server(url.scheme(), &host, port),
            _ if self.protocols.contains(&url.scheme()) => Ok(()),
            _ => Err(Refusal::Scheme(url.scheme())),
        }
    }

    /// The same, for a server that another one names.
    pub(crate) fn check_server(
        &self,
        scheme: Scheme,
        host: &str,
        port: u16,
    ) -> Result<(), Refusal> {
        if !self.protocols.contains(&scheme) {
            return Err(Refusal::Scheme(scheme));
        }
        self.check_name(host, port)?;
        match host.parse::<IpAddr>() {
            Ok(address) => self.check_address(host, SocketAddr::new(address, port)),
            Err(_) => Ok(()),
        }
    }

    /// As [`SourcePolicy::check`], for an address that the content of a repository names: a submodule. One on this host may
    /// be named only by one on this host.
    ///
    /// # Errors
    ///
    /// Why it may not be fetched from.
    pub fn check_named_by(&self, parent: Scheme, url: &GitUrl) -> Result<(), Refusal> {
        if url.scheme() == Scheme::File && parent != Scheme::File {
            return Err(Refusal::FromOutside);
        }
        self.check(url)
    }

    /// Addresses of a host that may be connected to, in the order of the resolver; at least one.
    pub(crate) async fn admit(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, NoAddress> {
        self.check_name(host, port).map_err(NoAddress::Refused)?;
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
            .await
            .map_err(NoAddress::Unresolved)?
            .collect();
        let mut refusal = None;
        let mut open = Vec::new();
        for address in found {
            match self.check_address(host, address) {
                Ok(()) => open.push(address),
                Err(why) => refusal = Some(why),
            }
        }
        match (open.is_empty(), refusal) {
            (false, _) => Ok(open),
            (true, Some(why)) => Err(NoAddress::Refused(why)),
            (true, None) => Err(NoAddress::Unresolved(io::Error::from(
                io::ErrorKind::NotFound,
            ))),
        }
    }

    /// What the lists say of a name. A name that no pattern allows may still have an address that a network allows.
    pub(crate) fn check_name(&self, host: &str, port: u16) -> Result<(), Refusal> {
        let host = canonical(host);
        if self.denied_hosts.iter().any(|rule| rule.names(&host, port)) {
            return Err(Refusal::Denied { host });
        }
        let allowed = self.allowed_hosts.is_empty()
            || self
                .allowed_hosts
                .iter()
                .any(|rule| rule.network.is_some() || rule.names(&host, port));
        if allowed {
            Ok(())
        } else {
            Err(Refusal::NotAllowed { host })
        }
    }

    fn check_address(&self, host: &str, to: SocketAddr) -> Result<(), Refusal> {
        let host = canonical(host);
        if self.denied_hosts.iter().any(|rule| rule.contains(to)) {
            return Err(Refusal::Denied { host });
        }
        let allowed = self.allowed_hosts.is_empty()
            || self
                .allowed_hosts
                .iter()
                .any(|rule| rule.contains(to) || rule.names(&host, to.port()));
        if !allowed {
            return Err(Refusal::NotAllowed { host });
        }
        match closed(to.ip()) {
            Some(kind) if !self.reach.iter().any(|open| open.includes_tcp(to)) => {
                Err(Refusal::Closed {
                    host,
                    address: to.ip(),
                    kind,
                })
            }
            _ => Ok(()),
        }
    }

    /// The credential for this address.
    pub(crate) fn credential(&self, url: &GitUrl) -> Option<&CredentialRule> {
        choose(&self.credentials, url)
    }

    /// Whether a submodule gets the credential for this address wherever its repository is.
    pub(crate) fn is_open_to_submodules(&self, url: &GitUrl) -> bool {
        let (Some(host), Some(port)) = (url.host(), url.port()) else {
            return false;
        };
        let literal = host.parse::<IpAddr>().ok();
        self.submodule_credentials.iter().any(|rule| {
            let contains = |to| rule.contains(SocketAddr::new(to, port));
            rule.names(&canonical(&host), port) || literal.is_some_and(contains)
        })
    }

    /// Whether a fetch from there would have a credential if it were not withheld.
    pub(crate) fn has_credential(&self, origin: &Origin) -> bool {
        origin
            .remote
            .as_ref()
            .is_some_and(|remote| self.identity(&remote.url) != Identity::Anonymous)
    }

    /// The same policy for what is fetched as nobody.
    pub(crate) fn without_credentials(&self) -> Self {
        Self {
            credentials: Vec::new(),
            own_credentials: false,
            ..self.clone()
        }
    }

    /// All that decides as whom a submodule is fetched, in words.
    pub(crate) fn access(&self) -> String {
        let mut text = format!("own {}", self.own_credentials);
        for rule in &self.credentials {
            text.push_str(&format!("; {} for {}", rule.name, rule.url));
        }
        for rule in &self.submodule_credentials {
            text.push_str(&format!("; submodules of {rule}"));
        }
        text
    }

    /// As whom this address is fetched from.
    pub(crate) fn identity(&self, url: &GitUrl) -> Identity {
        match self.credential(url) {
            _ if url.scheme() == Scheme::File => Identity::Anonymous,
            Some(rule) => Identity::Rule(rule.name.clone()),
            None if self.own_credentials => Identity::Own,
            None => Identity::Anonymous,
        }
    }
}

fn canonical(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<HostRule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn check(policy: &SourcePolicy, url: &str) -> Result<(), String> {
        policy
            .check(&url.parse().unwrap())
            .map_err(|why| why.to_string())
    }

    #[test]
    fn an_address_is_checked_before_anything_is_asked() {
        let policy = SourcePolicy::default();
        for good in [
            "https://git.example.org/x",
            "ssh://git@10.0.0.1/x",
            "git@git.example.org:x",
            "file:///srv/x",
        ] {
            check(&policy, good).unwrap();
        }
        for (bad, key) in [
            ("http://git.example.org/x", "source.protocols"),
            ("https://127.0.0.1/x", "source.reach"),
            ("https://[::ffff:169.254.169.254]/x", "source.reach"),
            ("ssh://git@[::1]/x", "source.reach"),
            ("git@0.0.0.0:x", "source.reach"),
        ] {
            let why = check(&policy, bad).unwrap_err();
            assert!(why.contains(key), "{bad}: {why}");
        }
    }

    #[test]
    fn lists_of_hosts() {
        let policy = SourcePolicy {
            allowed_hosts: rules(&["*.example.org", "git.test:8443", "10.0.0.0/8"]),
            denied_hosts: rules(&["bad.example.org", "10.9.0.0/16"]),
            ..SourcePolicy::default()
        };
        let denied = |url: &str| {
            let why = check(&policy, url).unwrap_err();
            why.contains("source.denied-hosts")
        };
        check(&policy, "https://git.Example.org/x").unwrap();
        check(&policy, "https://git.test:8443/x").unwrap();
        check(&policy, "https://10.1.2.3/x").unwrap();
        assert!(denied("https://BAD.example.org./x"));
        assert!(denied("https://10.9.1.1/x"));
        assert!(denied("https://[::ffff:10.9.1.1]/x"));
        assert!(!denied("https://192.0.2.1/x"));
        assert!(
            policy.check_name("example.org.evil.test", 443).is_ok(),
            "its address decides"
        );
        let names = SourcePolicy {
            allowed_hosts: rules(&["*.example.org"]),
            ..SourcePolicy::default()
        };
        let why = check(&names, "https://example.org.evil.test/x").unwrap_err();
        assert!(why.contains("source.allowed-hosts"), "{why}");
    }

    #[tokio::test]
    async fn what_a_name_resolves_to_decides() {
        let closed = SourcePolicy::default();
        for host in ["localhost", "127.1", "2130706433", "0x7f.1", "0"] {
            let found = closed.admit(host, 443).await;
            // Some resolvers do not know the old ways to write an address.
            assert!(
                matches!(
                    found,
                    Err(NoAddress::Refused(Refusal::Closed { .. }) | NoAddress::Unresolved(_))
                ),
                "{host}: {found:?}"
            );
        }
        let open = SourcePolicy {
            reach: vec!["127.0.0.1:443".parse().unwrap()],
            ..SourcePolicy::default()
        };
        assert!(open.admit("127.0.0.1", 443).await.is_ok());
        assert!(open.admit("127.0.0.1", 444).await.is_err());
    }

    #[test]
    fn a_repository_from_elsewhere_names_none_on_this_host() {
        let policy = SourcePolicy::default();
        let url: GitUrl = "file:///srv/x".parse().unwrap();
        assert_eq!(
            policy.check_named_by(Scheme::Https, &url),
            Err(Refusal::FromOutside)
        );
        policy.check_named_by(Scheme::File, &url).unwrap();
    }

    #[test]
    fn hosts_that_are_none() {
        for bad in ["", "a b", "https://x", "[::1", "10.0.0.0/99", "a\nb"] {
            assert!(bad.parse::<HostRule>().is_err(), "{bad:?}");
        }
    }
}
