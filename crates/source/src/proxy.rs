//! The proxy that the environment names for an address, by the rules of curl.
//!
//! With a proxy it is the proxy that resolves and connects: what it lets through is for whoever runs it to say. Names are
//! checked before; addresses cannot be.

use bryo_model::Scheme;

/// What the environment says, as curl reads it for this address. `None` means: no proxy.
pub(crate) fn proxy_for(
    scheme: Scheme,
    host: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    // The variable HTTP_PROXY could be a header of a CGI request; nobody reads it.
    let names: &[&str] = match scheme {
        Scheme::Https => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        Scheme::Http => &["http_proxy", "all_proxy", "ALL_PROXY"],
        Scheme::Ssh | Scheme::File => return None,
    };
    let said = |name: &&str| variable(name).filter(|value| !value.is_empty());
    let proxy = names.iter().find_map(said)?;
    let excepted = ["no_proxy", "NO_PROXY"].iter().find_map(said);
    let direct = excepted.is_some_and(|list| is_excepted(&list, host));
    (!direct).then_some(proxy)
}

/// Names stand for themselves and all below them, `*` for all. Networks are understood too; with curl before 7.86 they
/// are not, and then the proxy is used by neither: the connection is direct, and checked.
fn is_excepted(list: &str, host: &str) -> bool {
    list.split([',', ' '])
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            if entry == "*" {
                return true;
            }
            if let (Ok(network), Ok(address)) = (
                entry.parse::<bryo_model::Destination>(),
                host.parse::<std::net::IpAddr>(),
            ) {
                return network.network.contains(&address.to_canonical());
            }
            let name = entry
                .trim_start_matches('.')
                .trim_end_matches('.')
                .to_ascii_lowercase();
            host == name
                || host
                    .strip_suffix(&name)
                    .is_some_and(|above| above.ends_with('.'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(url: &str, variables: &[(&str, &str)]) -> Option<String> {
        let find = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let url: bryo_model::GitUrl = url.parse().unwrap();
        proxy_for(url.scheme(), &url.host().unwrap(), find)
    }

    #[test]
    fn the_environment_of_curl() {
        let https = [
            ("https_proxy", "http://p:1"),
            ("no_proxy", "a.test, .b.test,10.0.0.0/8"),
        ];
        let through = |url: &str| proxy(url, &https).is_some();
        assert!(through("https://h.test/x"));
        assert!(through("https://xa.test/x"));
        assert!(!through("https://a.test/x"));
        assert!(!through("https://x.B.test/x"));
        assert!(!through("https://10.1.2.3/x"));
        assert!(!through("https://[::ffff:10.1.2.3]/x"));
        assert!(through("https://11.1.2.3/x"));
        assert!(!through("http://h.test/x"));
        assert!(!through("ssh://git@h.test/x"));
        let shout = [("HTTP_PROXY", "http://p:1")];
        assert_eq!(proxy("http://h.test/x", &shout), None);
        let all = [("ALL_PROXY", "socks5://p:1"), ("no_proxy", "*")];
        assert_eq!(proxy("http://h.test/x", &all), None);
        assert!(proxy("http://h.test/x", &all[..1]).is_some());
        assert_eq!(proxy("https://h.test/x", &[("https_proxy", "")]), None);
    }
}
