//! How Bryo proves to a git server who it is: which credential for which address, and how git gets it.
//!
//! A credential is chosen by the beginning of the address, the longest that fits. Git never sees a secret on its command
//! line, in its environment or in an address: what it needs stands in files of a directory that nobody else can enter and
//! that goes with the fetch ([`crate::private`]).
//!
//! *Why a file of `git credential-store` and no header in the configuration?* Git asks it for the host that it is about
//! to speak to. After a redirect that is another host, for which the file has nothing; a header would go along.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bryo_model::{GitUrl, Scheme, Secret};

/// No token, password or key is longer.
const LONGEST: u64 = 64 << 10;

/// Where a secret is. A file is read for each fetch, so that a token that somebody else renews is the newest one.
#[derive(Clone, Debug)]
pub enum SecretRef {
    /// It was there at the start: in an environment variable.
    Value(Secret),
    /// In this file, without one line feed at its end.
    File(PathBuf),
    /// Nowhere, and why.
    Unavailable(String),
}

impl SecretRef {
    /// The secret.
    ///
    /// # Errors
    ///
    /// Why it cannot be had, without a word of it.
    pub(crate) fn read(&self) -> Result<Secret, String> {
        match self {
            Self::Value(secret) => Ok(secret.clone()),
            Self::File(path) => read(path).map_err(|why| format!("{}: {why}", path.display())),
            Self::Unavailable(why) => Err(why.clone()),
        }
    }
}

fn read(path: &Path) -> Result<Secret, String> {
    let text = |e: std::io::Error| e.to_string();
    let metadata = fs::metadata(path).map_err(text)?;
    // What never ends, and what waits for a writer, is no secret.
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    if metadata.mode() & 0o007 != 0 {
        return Err("everybody can read it; chmod 600 it".to_owned());
    }
    let mut secret = String::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST + 1).read_to_string(&mut secret))
        .map_err(text)?;
    if secret.len() as u64 > LONGEST {
        return Err(format!("longer than {LONGEST} bytes"));
    }
    if secret.ends_with('\n') {
        secret.pop();
    }
    Ok(Secret::new(secret))
}

/// What is proven.
#[derive(Clone, Debug)]
pub enum Credential {
    /// User and password, or any user and a token, over https or http.
    Password {
        /// Whom the server is told.
        user: String,
        /// The password or the token.
        password: SecretRef,
    },
    /// An ssh key without a passphrase.
    SshKey {
        /// The private key, in the form of OpenSSH or PEM.
        key: SecretRef,
        /// The servers that are believed: a file in the form of `~/.ssh/known_hosts`.
        known_hosts: PathBuf,
    },
    /// The keys of an ssh agent.
    SshAgent {
        /// Its socket.
        socket: PathBuf,
        /// As above.
        known_hosts: PathBuf,
    },
}

/// A credential for all addresses that begin alike.
#[derive(Clone, Debug)]
pub struct CredentialRule {
    /// How the configuration names it. A mirror belongs to it under this name, whatever its secret is at the time.
    pub name: String,
    /// For which addresses it is.
    pub url: UrlPrefix,
    /// What is proven there.
    pub credential: Credential,
}

/// The beginning of addresses: `https://HOST[:PORT][/PATH]`, `ssh://[USER@]HOST[:PORT][/PATH]`; whole parts of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPrefix {
    text: String,
    scheme: Scheme,
    user: Option<String>,
    host: String,
    port: Option<u16>,
    path: Vec<String>,
}

impl UrlPrefix {
    /// How its addresses are reached.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether this address begins so.
    #[must_use]
    pub fn is_for(&self, url: &GitUrl) -> bool {
        self.fits(url).is_some()
    }

    /// How long the common beginning is, if there is one. A longer one is for fewer addresses.
    fn fits(&self, url: &GitUrl) -> Option<(usize, bool)> {
        let path = parts(&url.normalised(), url.scheme());
        let same = self.scheme == url.scheme()
            && Some(&self.host) == url.host().as_ref()
            && self.port == url.port()
            && self
                .user
                .as_deref()
                .is_none_or(|user| Some(user) == url.user())
            && path.starts_with(&self.path);
        same.then_some((self.path.len(), self.user.is_some()))
    }
}

/// The parts of a normalised address's path.
fn parts(normalised: &str, scheme: Scheme) -> Vec<String> {
    let path = match normalised.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None if scheme == Scheme::Ssh => normalised.split_once(':').map_or("", |(_, path)| path),
        None => "",
    };
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

impl FromStr for UrlPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A host alone is the beginning of an address, but not one.
        const REST: &str = "-";
        let url: GitUrl = format!("{}/{REST}", text.trim_end_matches('/'))
            .parse()
            .map_err(|e: bryo_model::InvalidSource| e.to_string())?;
        let Some(host) = url.host().filter(|_| text.contains("://")) else {
            return Err(format!(
                "{url} is not the beginning of an address (https://HOST/PATH or ssh://USER@HOST/PATH)"
            ));
        };
        let mut path = parts(&url.normalised(), url.scheme());
        path.pop();
        if let Some(last) = path.last_mut()
            && let Some(short) = last.strip_suffix(".git").filter(|short| !short.is_empty())
        {
            *last = short.to_owned();
        }
        Ok(Self {
            text: text.to_owned(),
            scheme: url.scheme(),
            user: url.user().map(str::to_owned),
            host,
            port: url.port(),
            path,
        })
    }
}

impl fmt::Display for UrlPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Who asks for a repository. What one may read another may not: each has mirrors of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nobody.
    Anonymous,
    /// The user that Bryo runs as, with their own keys and passwords.
    Own,
    /// The credential of this name.
    Rule(String),
}

impl Identity {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Anonymous => "anonymous".to_owned(),
            Self::Own => "own".to_owned(),
            Self::Rule(name) => format!("credential {name}"),
        }
    }
}

/// The rule for this address.
pub(crate) fn choose<'a>(rules: &'a [CredentialRule], url: &GitUrl) -> Option<&'a CredentialRule> {
    let fitting = rules
        .iter()
        .filter_map(|rule| Some((rule.url.fits(url)?, rule)));
    fitting.max_by_key(|(fit, _)| *fit).map(|(_, rule)| rule)
}

/// A line of `git credential-store` for the host that this address names, as it names it.
pub(crate) fn store_line(url: &GitUrl, user: &str, password: &Secret) -> Secret {
    Secret::new(format!(
        "{}://{}:{}@{}\n",
        url.scheme(),
        encoded(user),
        encoded(password.expose()),
        url.authority().unwrap_or_default()
    ))
}

/// Percent-encoded, but for what RFC 3986 calls unreserved.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, url: &str) -> CredentialRule {
        CredentialRule {
            name: name.to_owned(),
            url: url.parse().unwrap(),
            credential: Credential::Password {
                user: "git".to_owned(),
                password: SecretRef::Value(Secret::new("x".to_owned())),
            },
        }
    }

    #[test]
    fn the_longest_beginning_decides() {
        let rules = [
            rule("host", "https://git.example.org"),
            rule("org", "https://git.example.org/org/"),
            rule("repo", "https://git.example.org/org/one.git"),
            rule("port", "https://git.example.org:8443"),
            rule("ssh", "ssh://git.example.org"),
            rule("ssh-bob", "ssh://bob@git.example.org"),
            rule("ssh-org", "ssh://git@git.example.org/org"),
        ];
        let chosen = |url: &str| choose(&rules, &url.parse().unwrap()).map(|r| r.name.as_str());
        for (url, name) in [
            ("https://git.example.org/x", Some("host")),
            ("https://GIT.example.org.:443/x", Some("host")),
            ("https://git.example.org/organisation/x", Some("host")),
            ("https://git.example.org/org/two", Some("org")),
            ("https://git.example.org/%6frg/two", Some("org")),
            ("https://git.example.org/org/one", Some("repo")),
            ("https://git.example.org/org/one.git/", Some("repo")),
            ("https://git.example.org:8443/org/one", Some("port")),
            ("http://git.example.org/org/one", None),
            ("https://git.example.org.evil.example/org/one", None),
            ("https://evil.example/git.example.org/org", None),
            ("ssh://git@git.example.org/x", Some("ssh")),
            ("git@git.example.org:x", Some("ssh")),
            ("bob@git.example.org:x", Some("ssh-bob")),
            ("git@git.example.org:org/x", Some("ssh-org")),
            ("ssh://git@git.example.org:2222/org/x", None),
            ("file:///git.example.org/org", None),
        ] {
            assert_eq!(chosen(url), name, "{url}");
        }
    }

    #[test]
    fn beginnings_that_are_none() {
        for bad in [
            "git.example.org",
            "https://",
            "file:///srv",
            "git@example.org:org",
            "https://user:hunter2@example.org/",
            "https://example.org/../x",
        ] {
            let error = bad.parse::<UrlPrefix>().unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_line_of_the_store_says_what_an_address_cannot() {
        let url: GitUrl = "https://Git.example.org:8443/x".parse().unwrap();
        let line = store_line(&url, "a@b", &Secret::new("p:/ü\n%".to_owned()));
        assert_eq!(
            line.expose(),
            "https://a%40b:p%3A%2F%C3%BC%0A%25@Git.example.org:8443\n"
        );
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "hunter2\n").unwrap();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o604);
        let error = SecretRef::File(path.clone()).read().unwrap_err();
        assert!(
            error.contains("chmod 600") && !error.contains("hunter2"),
            "{error}"
        );
        mode(0o640);
        assert_eq!(
            SecretRef::File(path.clone()).read().unwrap().expose(),
            "hunter2"
        );
        let error = SecretRef::File(dir.path().to_owned()).read().unwrap_err();
        assert!(error.ends_with("not a regular file"), "{error}");
    }
}
