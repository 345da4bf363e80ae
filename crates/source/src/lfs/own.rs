//! The passwords of the user that Bryo runs as, in the places where git would find them: `~/.netrc`, then `GIT_ASKPASS`.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use bryo_model::{GitUrl, Secret};
use bryo_process::Program;

use super::failure::Failure;
use crate::SourceError;
use crate::session::Session;

/// No honest one is larger.
const LARGEST: u64 = 1 << 20;

/// Whoever asks a person has that long.
const ASKING: Duration = Duration::from_secs(600);

/// User and password for an address.
pub(crate) async fn password(
    url: &GitUrl,
    session: &Session,
) -> Result<Option<(String, Secret)>, Failure> {
    let host = url.host().unwrap_or_default();
    if let Some(home) = std::env::var_os("HOME")
        && let Some(found) = in_netrc(&Path::new(&home).join(".netrc"), &host)
    {
        return Ok(Some(found));
    }
    if std::env::var_os("GIT_ASKPASS").is_none() {
        return Ok(None);
    }
    let mut git = Program::new("git")
        .args(["-c", "credential.helper=", "credential", "fill"])
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", &session.config)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C");
    for (name, value) in &session.env {
        git = git.env(*name, value);
    }
    let authority = url.authority().unwrap_or_default();
    let asked = format!("protocol={}\nhost={authority}\n\n", url.scheme());
    let told = git
        .finish(asked.as_bytes(), 64 << 10, ASKING)
        .await
        .map_err(SourceError::Program)?;
    let text = String::from_utf8_lossy(&told.stdout);
    let of = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::to_owned)
    };
    Ok(match (of("username="), of("password=")) {
        (Some(user), Some(password)) if told.status.success() && !password.is_empty() => {
            Some((user, Secret::new(password)))
        }
        _ => None,
    })
}

fn in_netrc(path: &Path, host: &str) -> Option<(String, Secret)> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    file.take(LARGEST).read_to_string(&mut text).ok()?;
    parse(&text, host)
}

/// The first entry for a host that has a password, as netrc(5) writes it.
fn parse(text: &str, host: &str) -> Option<(String, Secret)> {
    // A macro goes on to an empty line.
    let mut in_macro = false;
    let mut words = Vec::new();
    for line in text.lines() {
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        for word in line.split_whitespace() {
            match word {
                _ if word.starts_with('#') => break,
                "macdef" => {
                    in_macro = true;
                    break;
                }
                word => words.push(word.trim_matches('"')),
            }
        }
    }
    let (mut ours, mut user, mut password) = (false, None, None);
    let mut words = words.into_iter().peekable();
    loop {
        let word = words.next();
        if matches!(word, None | Some("machine" | "default")) {
            if ours && let Some(password) = password {
                return Some((user.unwrap_or_default(), Secret::new(password)));
            }
            (user, password) = (None, None);
        }
        match word? {
            "machine" => ours = words.next()?.eq_ignore_ascii_case(host),
            "default" => ours = true,
            "login" => user = words.next().map(str::to_owned),
            "password" => password = words.next().map(str::to_owned),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_netrc() {
        let text = "# machine h.test login no password no\n\
            machine a.test login ana password one\n\
            macdef init\nmachine h.test login macro password macro\n\n\
            machine H.test\n  login \"bob\"\n  account x\n  password two\n\
            default login any password three\n";
        let find = |text: &str, host: &str| {
            parse(text, host).map(|(user, password)| format!("{user}:{}", password.expose()))
        };
        assert_eq!(find(text, "a.test").as_deref(), Some("ana:one"));
        assert_eq!(find(text, "h.test").as_deref(), Some("bob:two"));
        assert_eq!(find(text, "other.test").as_deref(), Some("any:three"));
        let short = "machine a.test login ana password";
        for (text, host) in [(short, "a.test"), ("", "a.test"), ("machine", "a.test")] {
            assert_eq!(find(text, host), None, "{text}");
        }
    }
}
