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

/// What begins something; none of it is ever a value, or the value of one entry could be the beginning of another.
const KEYWORDS: &[&str] = &[
    "machine", "default", "login", "password", "account", "macdef",
];

/// The first entry for a host that has a password, as netrc(5) writes it. An entry in which a value is missing is none.
fn parse(text: &str, host: &str) -> Option<(String, Secret)> {
    // A macro goes on to an empty line.
    let mut in_macro = false;
    let mut words = Vec::new();
    for line in text.lines() {
        if in_macro {
            in_macro = !line.trim().is_empty();
        } else if !line.trim_start().starts_with('#') {
            let mut rest = line;
            while let Some(word) = next_word(&mut rest) {
                in_macro = word.is("macdef");
                words.push(word);
                if in_macro {
                    break;
                }
            }
            // A quote without its second one: what stands behind it, in this line or the next, is nobody's value.
            if !in_macro && !rest.is_empty() {
                break;
            }
        }
    }
    let (mut ours, mut user, mut password) = (false, None, None);
    let mut words = words.into_iter().peekable();
    loop {
        let word = words.next();
        let begins = |word: &Word| word.is("machine") || word.is("default");
        if word.as_ref().is_none_or(begins) {
            if ours && let Some(password) = password {
                return Some((user.unwrap_or_default(), Secret::new(password)));
            }
            (ours, user, password) = (false, None, None);
        }
        let Word {
            quoted: false,
            text: word,
        } = word?
        else {
            continue;
        };
        let has_value = matches!(&*word, "machine" | "login" | "password" | "account");
        let value = words
            .next_if(|next| has_value && !KEYWORDS.iter().any(|keyword| next.is(keyword)))
            .map(|value| value.text);
        match (&*word, value) {
            ("machine", Some(name)) => ours = name.eq_ignore_ascii_case(host),
            ("default", _) => ours = true,
            ("login", Some(value)) => user = Some(value),
            ("password", Some(value)) => password = Some(value),
            ("machine" | "login" | "password" | "account", None) => ours = false,
            _ => {}
        }
    }
}

struct Word {
    text: String,
    /// It was in quotes, and so is a value.
    quoted: bool,
}

impl Word {
    fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}

/// Takes the next word of a line. In quotes it may have blanks, and what stands behind a backslash; without its second quote
/// it is none, and nothing behind it is.
fn next_word(rest: &mut &str) -> Option<Word> {
    *rest = rest.trim_start();
    if let Some(quoted) = rest.strip_prefix('"') {
        let mut text = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, char)) = chars.next() {
            match char {
                '"' => {
                    *rest = &quoted[at + 1..];
                    return Some(Word { text, quoted: true });
                }
                '\\' => text.push(match chars.next()?.1 {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    other => other,
                }),
                other => text.push(other),
            }
        }
        return None;
    }
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    *rest = after;
    let quoted = false;
    let text = word.to_owned();
    (!word.is_empty()).then_some(Word { text, quoted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_quotes() {
        let find = |text: &str| {
            parse(text, "a.test").map(|(user, password)| format!("{user}:{}", password.expose()))
        };
        for (text, found) in [
            (
                r#"machine a.test login "ana b" password "one two""#,
                "ana b:one two",
            ),
            (
                r#"machine a.test login ana password "a\"b\\c\td""#,
                "ana:a\"b\\c\td",
            ),
            (
                r#"machine "a.test" login "login" password "machine""#,
                "login:machine",
            ),
            (
                r#"machine a.test login ana password one"two""#,
                "ana:one\"two\"",
            ),
            (r#"machine a.test login ana password """#, "ana:"),
        ] {
            assert_eq!(find(text).as_deref(), Some(found), "{text}");
        }
        for text in [
            r#"machine a.test login ana password "one two"#,
            "machine a.test login ana password \"one\ntwo\nmachine a.test password three",
            r#"machine a.test login ana password "one\"#,
            r#"machine a.test login ana "password" one"#,
        ] {
            assert_eq!(find(text), None, "{text}");
        }
    }

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
        assert_eq!(
            find("machine a.test login #ana password one#1", "a.test").as_deref(),
            Some("#ana:one#1")
        );
        for text in [
            "",
            "machine",
            "machine a.test login ana password",
            "machine a.test password machine b.test login bob password two",
            "machine a.test login machine b.test login bob password two",
            "machine a.test login\nmachine b.test password two",
            "machine a.test login password two",
            "machine a.test account password two",
            "machine a.test password default login",
            "machine a.test login ana password macdef init\npassword two\n\n",
            "machine login a.test password two",
            "machine a.test password one login",
            "  # machine a.test login ana password one",
        ] {
            assert_eq!(find(text, "a.test"), None, "{text}");
        }
        // Of the user's own there is none for it, and so it is what all others get.
        let text = "machine a.test password default login any password three";
        assert_eq!(find(text, "a.test").as_deref(), Some("any:three"));
    }
}
