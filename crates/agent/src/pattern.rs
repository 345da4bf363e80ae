//! Patterns of what the host's owner allows: `*` and `?` for characters, `[…]` for one of some.
//!
//! One that can match nothing is refused where it is read, with what to write instead: its jobs would all fail, and nobody
//! would be told why.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use glob::Pattern;

/// Images that may run, by `registry/name:tag` or `registry/name@digest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePattern(Pattern);

/// Hosts that sources may come from, by `host` or `host:port`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern(Pattern);

/// The text is no such pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// Its brackets or asterisks are wrong.
    #[error(
        "{text:?} is no pattern ({why}); write * for any characters, and [*] where an asterisk itself is meant"
    )]
    Syntax {
        /// As it was said.
        text: String,
        /// The library's words.
        why: &'static str,
    },
    /// An image always has a registry.
    #[error(
        "{0:?} matches no image: it names no registry; write for example \"docker.io/library/alpine:*\""
    )]
    NoRegistry(String),
    /// An image always has a tag or a digest.
    #[error("{0:?} matches no image: it has no tag; write \"{0}:*\" for all of them")]
    NoTag(String),
    /// It is more than a host.
    #[error(
        "{0:?} matches no host; write HOST or HOST:PORT, for example \"*.example.org\", without https:// and without a path"
    )]
    NoHost(String),
    /// Hosts are compared as the network has them.
    #[error("{0:?} matches no host; write its name in ASCII (\"xn--…\")")]
    NotAscii(String),
}

impl ImagePattern {
    /// Whether it matches the whole name.
    pub(crate) fn matches(&self, name: &str) -> bool {
        self.0.matches(name)
    }
}

impl FromStr for ImagePattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pattern = pattern(text)?;
        // What a wild card may stand for is not looked into.
        let is_open = |part: &str| part.contains(['*', '?', '[']);
        let last = text.rsplit('/').next().unwrap_or_default();
        if !text.contains('/') && !is_open(text) {
            Err(InvalidPattern::NoRegistry(text.to_owned()))
        } else if !is_open(last) && !last.contains([':', '@']) {
            Err(InvalidPattern::NoTag(text.to_owned()))
        } else {
            Ok(Self(pattern))
        }
    }
}

impl HostPattern {
    /// Whether it matches the whole name, which is in lower case.
    pub(crate) fn matches(&self, name: &str) -> bool {
        self.0.matches(name)
    }
}

impl FromStr for HostPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@' | '\\');
        if !text.is_ascii() {
            return Err(InvalidPattern::NotAscii(text.to_owned()));
        }
        if text.is_empty() || text.contains(odd) {
            return Err(InvalidPattern::NoHost(text.to_owned()));
        }
        let lower = text.to_ascii_lowercase();
        // An address in brackets is no set of characters; compared are addresses without them.
        let bare = lower.strip_prefix('[').and_then(|rest| {
            let (address, port) = rest.split_once(']')?;
            let address = address.parse::<Ipv6Addr>().ok()?;
            Some(format!("{address}{port}"))
        });
        pattern(bare.as_ref().unwrap_or(&lower)).map(Self)
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

fn pattern(text: &str) -> Result<Pattern, InvalidPattern> {
    Pattern::new(text).map_err(|error| InvalidPattern::Syntax {
        text: text.to_owned(),
        why: error.msg,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_images_match_or_are_refused() {
        for (text, name) in [
            ("*", "docker.io/library/alpine:latest"),
            ("docker.io/*", "docker.io/library/alpine:latest"),
            ("ghcr.io/org/app:*", "ghcr.io/org/app:1"),
            ("ghcr.io/org/app@sha256:*", "ghcr.io/org/app@sha256:00"),
            ("127.0.0.1:5000/x/[ab]:9", "127.0.0.1:5000/x/b:9"),
        ] {
            let pattern: ImagePattern = text.parse().unwrap();
            assert!(
                pattern.matches(name) && pattern.to_string() == text,
                "{text}"
            );
        }
        for (text, hint) in [
            ("docker.io/[lib/*", "is no pattern"),
            ("docker.io/***", "is no pattern"),
            ("alpine", "docker.io/library/alpine:*"),
            ("alpine:3", "names no registry"),
            ("", "names no registry"),
            ("docker.io/library/alpine", "\"docker.io/library/alpine:*\""),
            ("127.0.0.1:5000/app", "has no tag"),
        ] {
            let error = text.parse::<ImagePattern>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn patterns_of_hosts_match_in_any_case_or_are_refused() {
        for (text, name) in [
            ("*", "git.example.org"),
            ("Git.Example.ORG", "git.example.org"),
            ("*.EXAMPLE.org:8443", "git.example.org:8443"),
            ("[2001:DB8:0::1]", "2001:db8::1"),
            ("[2001:db8::1]:8443", "2001:db8::1:8443"),
            ("git[12].example.org", "git2.example.org"),
        ] {
            let pattern: HostPattern = text.parse().unwrap();
            assert!(pattern.matches(name), "{text}: {pattern}");
        }
        for (text, hint) in [
            ("git.[example.org", "is no pattern"),
            ("https://git.example.org", "without https://"),
            ("git.example.org/org", "without a path"),
            ("git@example.org", "HOST:PORT"),
            ("a b", "matches no host"),
            ("", "matches no host"),
            ("bücher.example", "xn--"),
        ] {
            let error = text.parse::<HostPattern>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
