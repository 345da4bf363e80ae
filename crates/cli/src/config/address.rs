//! The address of an HTTP server, as far as its host's owner has to say it.

use http::Uri;

/// `http://` or `https://`, a host, perhaps a port and a path; no slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    text: String,
    host: String,
    port: u16,
}

impl Address {
    /// # Errors
    ///
    /// What is wrong with the text. It is not repeated where a password may stand in it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            return Err(
                "an address with a user or a password in it; name the secret by itself".to_owned(),
            );
        }
        let bad = || {
            format!(
                "{text:?} is not an address (for example https://docs.example or http://10.0.0.7:8080)"
            )
        };
        if text.contains(['?', '#']) {
            return Err(bad());
        }
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let usual = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(bad()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        let authority = uri.authority().ok_or_else(bad)?;
        // A port that is no number is left in the authority by the parser.
        let port = match authority.as_str().strip_prefix(host).unwrap_or("") {
            "" => usual,
            rest => rest
                .strip_prefix(':')
                .and_then(|p| p.parse().ok())
                .filter(|p| *p > 0)
                .ok_or_else(bad)?,
        };
        Ok(Self {
            text: text.trim_end_matches('/').to_owned(),
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port,
        })
    }

    /// The whole of it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// A name, or an address without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Whether both are the same server.
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        self.host == other.host && self.port == other.port
    }

    /// The port that is meant.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for (text, kept, host, port) in [
            (
                "http://localhost:8080",
                "http://localhost:8080",
                "localhost",
                8080,
            ),
            (
                "https://docs.example/",
                "https://docs.example",
                "docs.example",
                443,
            ),
            (
                "http://[2001:db8::1]:9/x/",
                "http://[2001:db8::1]:9/x",
                "2001:db8::1",
                9,
            ),
            ("http://10.0.0.7", "http://10.0.0.7", "10.0.0.7", 80),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(
                (address.text(), address.host(), address.port()),
                (kept, host, port)
            );
        }
    }

    #[test]
    fn what_is_no_address_is_refused_and_a_password_not_repeated() {
        for bad in [
            "",
            "docs.example",
            "ftp://x",
            "http://",
            "http://x:0",
            "http://x:99999",
            "http://x y",
            "http://x/?q",
            "https:///p",
            "\"http://x\"",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad:?}");
        }
        let error = Address::parse("https://u:hunter2@x").unwrap_err();
        assert!(!error.contains("hunter2"));
    }
}
