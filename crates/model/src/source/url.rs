//! The address of a repository: `https://host/path`, `ssh://user@host/path`, `file:///path`, or ssh's `user@host:path`.
//!
//! What is accepted is narrower than what git accepts. A host is letters, digits, `.`, `-` and `_`, or an IPv6 address in
//! brackets, never percent-encoded: what is compared with lists of hosts is what is connected to. A path has no part
//! `..`, however it is encoded. There is no password, query or fragment, so that no secret hides in an address that is
//! shown.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::InvalidSource;

/// How a repository is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// HTTP over TLS.
    Https,
    /// HTTP that everybody on the way can read and change.
    Http,
    /// Secure shell.
    Ssh,
    /// A repository on this machine.
    File,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Https, Self::Http, Self::Ssh, Self::File];

    /// The word in an address.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::File => "file",
        }
    }

    /// The port that an address without one means.
    #[must_use]
    pub const fn usual_port(self) -> Option<u16> {
        match self {
            Self::Https => Some(443),
            Self::Http => Some(80),
            Self::Ssh => Some(22),
            Self::File => None,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Scheme {
    type Err = crate::UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|scheme| text.eq_ignore_ascii_case(scheme.word()))
            .ok_or_else(|| crate::UnknownWord::new(text, "https, http, ssh, file"))
    }
}

/// An address that git can fetch from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct GitUrl {
    text: String,
    scheme: Scheme,
    /// `user@host:path` instead of `ssh://`.
    scp_like: bool,
}

/// An address in its parts, as it was written.
struct Parts<'a> {
    user: Option<&'a str>,
    host: &'a str,
    port: Option<&'a str>,
    path: &'a str,
}

impl GitUrl {
    /// The address as git takes it. It contains no password.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How it is reached.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host in lower case, without brackets and final dot; `None` for a repository on this machine.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        (self.scheme != Scheme::File).then(|| canonical_host(self.parts().host))
    }

    /// The port that is connected to; `None` for a repository on this machine.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        let written = self.parts().port.and_then(|port| port.parse().ok());
        written.or(self.scheme.usual_port())
    }

    /// The user of an ssh address, if it names one.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.parts().user
    }

    /// The path as it was written. Only that of `user@host:path` may begin without a slash: it starts from the user's home.
    #[must_use]
    pub fn path(&self) -> &str {
        self.parts().path
    }

    /// `host` or `host:port` as it was written, without a user; `None` for a repository on this machine.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        if self.scheme == Scheme::File {
            return None;
        }
        let rest = self.after_scheme();
        let end = if self.scp_like { ':' } else { '/' };
        let authority = rest.split(end).next()?;
        Some(authority.rsplit('@').next().unwrap_or(authority))
    }

    /// The one form of all addresses that mean the same repository: host in lower case, no usual port, no needless
    /// percent-encoding, no slash and no `.git` at the end. It is compared, never fetched from.
    ///
    /// Paths on this machine keep their `.git`: `x` and `x.git` may both be there.
    #[must_use]
    pub fn normalised(&self) -> String {
        let parts = self.parts();
        let mut path = if self.scp_like {
            // Nothing is encoded in this form.
            parts.path.to_owned()
        } else {
            decode_needless(parts.path)
        };
        path.truncate(path.trim_end_matches('/').len());
        if self.scheme != Scheme::File
            && let Some(short) = path.strip_suffix(".git")
            && !short.is_empty()
            && !short.ends_with('/')
        {
            path.truncate(short.len());
        }
        if self.scheme == Scheme::File {
            return format!("file://{path}");
        }
        let host = bracketed(&canonical_host(parts.host));
        let user = parts
            .user
            .map(|user| format!("{user}@"))
            .unwrap_or_default();
        if self.scp_like && !path.starts_with('/') {
            return format!("{user}{host}:{path}");
        }
        let port = self
            .port()
            .filter(|port| Some(*port) != self.scheme.usual_port())
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        format!("{}://{user}{host}{port}{path}", self.scheme)
    }

    /// What an address in a repository from here means: one that begins with `./` or `../` starts from this one, as git
    /// has it for submodules; any other is taken as it is.
    ///
    /// # Errors
    ///
    /// When it climbs above the root of this address, or what comes out is not an address.
    pub fn join(&self, text: &str) -> Result<Self, InvalidSource> {
        if !is_relative(text) {
            return text.parse();
        }
        let no = |why| Err(InvalidSource::Url(text.to_owned(), why));
        let path = self.path();
        let start = self.text.len() - path.len();
        let mut base: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let mut parts = text.split('/').filter(|part| !part.is_empty()).peekable();
        while let Some(step) = parts.next_if(|part| matches!(*part, "." | "..")) {
            if step == ".." && base.pop().is_none() {
                return no("it climbs above the root of the repository that names it");
            }
        }
        base.extend(parts);
        if base.is_empty() {
            return no("nothing is left of the path");
        }
        let root = if path.starts_with('/') { "/" } else { "" };
        format!("{}{root}{}", &self.text[..start], base.join("/")).parse()
    }

    fn after_scheme(&self) -> &str {
        self.text
            .split_once("://")
            .filter(|_| !self.scp_like)
            .map_or(self.text.as_str(), |(_, rest)| rest)
    }

    fn parts(&self) -> Parts<'_> {
        if self.scp_like {
            let (authority, path) = self.text.split_once(':').unwrap_or((&self.text, ""));
            let (user, host) = split_user(authority);
            return Parts {
                user,
                host,
                port: None,
                path,
            };
        }
        let rest = self.after_scheme();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, authority) = split_user(authority);
        let (host, port) = split_port(authority);
        Parts {
            user,
            host,
            port,
            path,
        }
    }
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl FromStr for GitUrl {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(InvalidSource::Url(
                masked(text),
                "it contains white space or control characters",
            ));
        }
        if let Some((word, rest)) = text.split_once("://") {
            let scheme: Scheme = word
                .parse()
                .map_err(|_| InvalidSource::Scheme(masked(text)))?;
            check_rest(text, scheme, rest)?;
            // Git knows schemes in lower case only.
            return Ok(Self {
                text: format!("{scheme}://{rest}"),
                scheme,
                scp_like: false,
            });
        }
        check_scp_like(text)?;
        Ok(Self {
            text: text.to_owned(),
            scheme: Scheme::Ssh,
            scp_like: true,
        })
    }
}

fn check_rest(text: &str, scheme: Scheme, rest: &str) -> Result<(), InvalidSource> {
    let bad = |why| Err(InvalidSource::Url(masked(text), why));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if scheme == Scheme::File {
        return if !authority.is_empty() || path.trim_matches('/').is_empty() {
            bad("a file address is file:///absolute/path")
        } else {
            check_path(text, path)
        };
    }
    let (user, authority) = split_user(authority);
    if user.is_some_and(|user| user.contains(':') || scheme != Scheme::Ssh) {
        return Err(InvalidSource::PasswordInUrl);
    }
    if !user.is_none_or(is_word) {
        return bad("its user has other characters than letters, digits, '.', '-' and '_'");
    }
    let (host, port) = split_port(authority);
    if host.is_empty() {
        return bad("it has no host name");
    }
    if !is_host(host) {
        return bad("its host name has other characters than letters, digits, '.', '-' and '_'");
    }
    // Digits only: a sign would be a number too.
    let is_port = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0)
    };
    if !port.is_none_or(is_port) {
        return bad("its port is not a number from 1 to 65535");
    }
    if path.trim_matches('/').is_empty() {
        return bad("it has no path");
    }
    if scheme != Scheme::Ssh && path.contains(['?', '#']) {
        return bad("a query or fragment has no place in it");
    }
    check_path(text, path)
}

/// `user@host:path`, the form that git hands to ssh.
fn check_scp_like(text: &str) -> Result<(), InvalidSource> {
    let refused = || InvalidSource::Scheme(masked(text));
    let (authority, path) = text.split_once(':').ok_or_else(refused)?;
    // "ext::sh -c ..." and its kind are transport helpers: programs, not addresses.
    if path.trim_matches('/').is_empty() || path.starts_with([':', '-']) {
        return Err(refused());
    }
    let (user, host) = authority.split_once('@').ok_or_else(refused)?;
    if !is_word(user) || !is_word(host) || !is_host(host) {
        return Err(refused());
    }
    if path.split('/').any(|part| part == "..") {
        return Err(InvalidSource::Url(
            text.to_owned(),
            "its path contains '..'",
        ));
    }
    Ok(())
}

fn check_path(text: &str, path: &str) -> Result<(), InvalidSource> {
    let bad = |why| Err(InvalidSource::Url(masked(text), why));
    let Some(decoded) = decode(path) else {
        return bad("a '%' in it is not followed by two hexadecimal digits");
    };
    if decoded.iter().any(u8::is_ascii_control) {
        return bad("it contains encoded control characters");
    }
    if decoded.split(|b| *b == b'/').any(|part| part == b"..") {
        return bad("its path contains '..'");
    }
    Ok(())
}

fn split_user(authority: &str) -> (Option<&str>, &str) {
    match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    }
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => is_word(host) && !host.trim_end_matches('.').is_empty() && !host.ends_with(".."),
    }
}

fn canonical_host(host: &str) -> String {
    let bare = host.trim_matches(['[', ']']);
    match bare.parse::<Ipv6Addr>() {
        Ok(address) => address.to_string(),
        Err(_) => bare.trim_end_matches('.').to_ascii_lowercase(),
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

fn is_relative(text: &str) -> bool {
    matches!(text, "." | "..") || text.starts_with("./") || text.starts_with("../")
}

/// The bytes that percent-encoding stands for.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        out.push(hex(digits)?);
        rest = after;
    }
    Some(out)
}

fn hex(digits: &[u8]) -> Option<u8> {
    let value = |digit: &u8| char::from(*digit).to_digit(16);
    let (high, low) = (value(digits.first()?)?, value(digits.get(1)?)?);
    u8::try_from(high * 16 + low).ok()
}

/// Decodes what RFC 3986 calls unreserved, and writes other encodings with capital digits.
fn decode_needless(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let byte = after.as_bytes().get(..2).and_then(hex);
        let Some(byte) = byte else {
            // The parser lets no such address through.
            out.push('%');
            rest = after;
            continue;
        };
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') {
            out.push(c);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        rest = &after[2..];
    }
    out.push_str(rest);
    out
}

/// What may be repeated of a text that is no address: nothing that could be a password, a token in a query, or a line.
fn masked(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = text.split_at(start);
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) if start > 0 || user.contains(':') => format!("***@{host}"),
        _ => authority.to_owned(),
    };
    let path = match path.split_once('?') {
        Some((path, _)) => format!("{path}?***"),
        None => path.to_owned(),
    };
    format!("{scheme}{authority}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> GitUrl {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn the_parts_of_an_address() {
        let parts = |text: &str| {
            let url = url(text);
            let (host, user) = (url.host(), url.user().map(str::to_owned));
            (url.scheme(), user, host, url.port(), url.path().to_owned())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            parts("HTTPS://Example.ORG./org/repo.git"),
            (
                Scheme::Https,
                None,
                some("example.org"),
                Some(443),
                "/org/repo.git".into()
            )
        );
        assert_eq!(
            parts("ssh://git@[2001:DB8::1]:2222/x"),
            (
                Scheme::Ssh,
                some("git"),
                some("2001:db8::1"),
                Some(2222),
                "/x".into()
            )
        );
        assert_eq!(
            parts("git@example.org:org/repo"),
            (
                Scheme::Ssh,
                some("git"),
                some("example.org"),
                Some(22),
                "org/repo".into()
            )
        );
        assert_eq!(
            parts("file:///srv/git/x"),
            (Scheme::File, None, None, None, "/srv/git/x".into())
        );
    }

    #[test]
    fn addresses_of_one_repository_have_one_form() {
        for (given, form) in [
            (
                "https://Example.org:443/org/repo.git/",
                "https://example.org/org/repo",
            ),
            (
                "https://example.org./org/%72epo",
                "https://example.org/org/repo",
            ),
            (
                "https://example.org/a%2fb%20c",
                "https://example.org/a%2Fb%20c",
            ),
            ("http://example.org:8080/x", "http://example.org:8080/x"),
            (
                "ssh://git@Example.org:22/org/repo.git",
                "ssh://git@example.org/org/repo",
            ),
            (
                "git@example.org:/org/repo",
                "ssh://git@example.org/org/repo",
            ),
            ("git@Example.org:org/repo.git", "git@example.org:org/repo"),
            ("git@example.org:50%25", "git@example.org:50%25"),
            ("https://[2001:DB8:0::1]/x", "https://[2001:db8::1]/x"),
            ("https://example.org/x/.git", "https://example.org/x/.git"),
            ("file:///srv/x.git", "file:///srv/x.git"),
            ("file:///srv/x/", "file:///srv/x"),
        ] {
            assert_eq!(url(given).normalised(), form, "{given}");
        }
        let other = |a: &str, b: &str| assert_ne!(url(a).normalised(), url(b).normalised());
        other("https://example.org/a%2Fb", "https://example.org/a/b");
        other("ssh://a@example.org/x", "ssh://b@example.org/x");
        other("git@example.org:x", "ssh://git@example.org/x");
        other("https://example.org/Repo", "https://example.org/repo");
    }

    #[test]
    fn submodules_start_from_the_address_of_their_repository() {
        for (base, text, joined) in [
            (
                "https://h/org/repo.git",
                "../other.git",
                "https://h/org/other.git",
            ),
            ("https://h/org/repo/", "./sub", "https://h/org/repo/sub"),
            ("https://h/org/repo", "../../x", "https://h/x"),
            ("git@h:org/repo", "../other", "git@h:org/other"),
            ("git@h:org/repo", "../../x", "git@h:x"),
            (
                "ssh://git@h:2222/org/repo",
                "../x",
                "ssh://git@h:2222/org/x",
            ),
            ("file:///srv/a", "../b", "file:///srv/b"),
            ("https://h/org/repo", "https://other/x", "https://other/x"),
        ] {
            assert_eq!(
                url(base).join(text).unwrap().as_str(),
                joined,
                "{base} {text}"
            );
        }
        for (base, text) in [
            ("https://h/org/repo", "../../../x"),
            ("https://h/org/repo", "../.."),
            ("https://h/org/repo", "../x/../../../y"),
            ("git@h:org/repo", "../../../x"),
            ("https://h/org/repo", "/etc"),
            ("https://h/org/repo", "ext::sh -c id"),
            ("https://h/org/repo", "-oProxyCommand=id"),
            ("git@h:repo", "../-x"),
            ("https://h/org/repo", "../..%2f"),
        ] {
            let joined = url(base).join(text);
            assert!(joined.is_err(), "{base} {text}: {joined:?}");
        }
    }

    #[test]
    fn addresses_that_are_accepted() {
        for good in [
            "https://example.org/org/repo.git",
            "http://127.0.0.1:8080/repo",
            "ssh://git@example.org:2222/org/repo",
            "file:///srv/git/repo.git",
            "git@example.org:org/repo.git",
        ] {
            assert_eq!(good.parse::<GitUrl>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn where_an_address_leads() {
        for (url, authority) in [
            ("https://example.org/org/repo.git", Some("example.org")),
            ("http://127.0.0.1:8080/repo", Some("127.0.0.1:8080")),
            ("ssh://git@[::1]:2222/repo", Some("[::1]:2222")),
            ("git@example.org:org/repo.git", Some("example.org")),
            ("file:///srv/git/repo.git", None),
        ] {
            assert_eq!(url.parse::<GitUrl>().unwrap().authority(), authority);
        }
    }

    #[test]
    fn addresses_that_are_refused() {
        for bad in [
            "ext::sh -c id",
            "ext::id",
            "ftp://example.org/x",
            "https://user:secret@example.org/x",
            "https://token@example.org/x",
            "ssh://-oProxyCommand=id/x",
            "-oProxyCommand=id@host:x",
            "git@-oProxyCommand=id:x",
            "git@host:-x",
            "https:///x",
            "https://example.org",
            "file://host/x",
            "https://example.org/a b",
            "https://example.org/a\nb",
            "https://example.org/a%0ab",
            "https://example.org/../x",
            "https://example.org/a/%2e%2E/x",
            "https://example.org/a%2f..%2fx",
            "https://example.org/a%2",
            "https://example.org/x?y",
            "https://example.org/x#y",
            "https://exa%6dple.org/x",
            "https://example.org:0/x",
            "https://example.org:+1/x",
            "https://example.org:99999/x",
            "https://example.org:/x",
            "https://[::1/x",
            "https://[fe80::1%25eth0]/x",
            "https://bücher.example/x",
            "https://.../x",
            "ssh://%2doProxyCommand=id/x",
            "ssh://-x@example.org/x",
            "ssh://git@example.org/~/../x",
            "git@example.org:../x",
            "git@example.org:/",
            "file:///",
            "file:///srv/../x",
        ] {
            assert!(bad.parse::<GitUrl>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_refused_address_shows_no_secret() {
        for bad in [
            "https://user:hunter2@example.org/x",
            "https://hunter2@example.org/x",
            "ftp://user:hunter2@example.org/x",
            "https://example.org/x?token=hunter2",
            "https://user:hunter2@example.org/x y",
            "ssh://git:hunter2@example.org/x",
            "user:hunter2@example.org:x",
        ] {
            let error = bad.parse::<GitUrl>().unwrap_err();
            for shown in [error.to_string(), format!("{error:?}")] {
                assert!(!shown.contains("hunter2"), "{shown}");
            }
        }
    }
}
