//! `.gitmodules`, read as data.
//!
//! The format is git's configuration, but nothing of what a configuration can do is done: no includes, no conditions. A
//! file of another form than git writes it is refused, not guessed at.
//!
//! Why an own parser? libgit2 reads a configuration from a path and follows its `include.path`: to files of this host.

use std::collections::BTreeMap;

use crate::tree::names;

/// More is no list of submodules.
pub(crate) const LARGEST: usize = 1 << 20;

/// One section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Declared {
    pub(crate) name: String,
    /// Below the top of its tree, checked.
    pub(crate) path: String,
    /// As it stands there; not yet an address.
    pub(crate) url: String,
    /// `update = none`: its owner does not want it.
    pub(crate) unwanted: bool,
}

/// All complete sections.
///
/// # Errors
///
/// Why the file is refused, as the end of a sentence about it.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Declared>, String> {
    if text.len() > LARGEST {
        return Err("it is larger than 1 MiB".to_owned());
    }
    let text = str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut section = None;
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let bad = |what: &str| format!("{what} in line {}", number + 1);
        let mut line = line.trim_start();
        if line.starts_with('[') {
            let (name, rest) = header(line).ok_or_else(|| bad("there is no usable section"))?;
            if let Some(name) = &name {
                sections.entry(name.clone()).or_default();
            }
            section = Some(name);
            line = rest.trim_start();
        }
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or((line, "true"));
        let mut more = || lines.next().map(|(_, line)| line);
        let value = value_of(value, &mut more).ok_or_else(|| bad("there is no usable value"))?;
        let key = key.trim().to_ascii_lowercase();
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if key.is_empty() || !key.chars().all(word) {
            return Err(bad("there is no usable key"));
        }
        let section = section
            .as_ref()
            .ok_or_else(|| bad("there is a key before the first section"))?;
        let Some(name) = section else { continue };
        let keys = sections.entry(name.clone()).or_default();
        if keys.get(&key).is_some_and(|there| *there != value) {
            return Err(format!("submodule {name:?} has its {key} twice"));
        }
        keys.insert(key, value);
    }
    all(sections)
}

fn all(sections: BTreeMap<String, BTreeMap<String, String>>) -> Result<Vec<Declared>, String> {
    let mut found: Vec<Declared> = Vec::new();
    let mut paths: BTreeMap<String, String> = BTreeMap::new();
    for (name, mut keys) in sections {
        let refused = |why: &str| Err(format!("submodule {name:?}: {why}"));
        if let Some(why) = bad_name(&name) {
            return refused(why);
        }
        let update = keys.remove("update").unwrap_or_default();
        if update.starts_with('!') {
            return refused("its update is a program");
        }
        let (Some(path), Some(url)) = (keys.remove("path"), keys.remove("url")) else {
            continue;
        };
        let path = path.trim_end_matches('/').to_owned();
        if let Some(why) = bad_path(&path) {
            return refused(&format!("its path {path:?} {why}"));
        }
        if let Some(why) = bad_url(&url) {
            return refused(&format!("its url {why}"));
        }
        // On some disks they are one directory: then the files of one would be those of the other.
        if let Some(other) = paths.insert(path.to_lowercase(), name.clone()) {
            return refused(&format!("its path {path:?} is that of submodule {other:?}"));
        }
        found.push(Declared {
            path,
            url,
            unwanted: update == "none",
            name,
        });
    }
    Ok(found)
}

/// `[submodule "name"]`, with what stands behind it. The name is `None` for sections of another kind.
fn header(line: &str) -> Option<(Option<String>, &str)> {
    let inner = line.strip_prefix('[')?;
    let end = inner.find([' ', '\t', '"', ']'])?;
    let kind = &inner[..end];
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if kind.is_empty() || !kind.chars().all(word) {
        return None;
    }
    let mut rest = inner[end..].trim_start();
    let mut name = None;
    if let Some(quoted) = rest.strip_prefix('"') {
        let mut text = String::new();
        let mut chars = quoted.char_indices();
        loop {
            match chars.next()? {
                (at, '"') => {
                    rest = &quoted[at + 1..];
                    break;
                }
                (_, '\\') => text.push(chars.next()?.1),
                (_, c) => text.push(c),
            }
        }
        name = Some(text);
    }
    let rest = rest.strip_prefix(']')?;
    let ours = kind.eq_ignore_ascii_case("submodule");
    Some((name.filter(|_| ours), rest))
}

/// What stands behind a `=`: quotes, escapes, comments and continued lines as in git-config(1).
fn value_of<'a>(first: &'a str, more: &mut impl FnMut() -> Option<&'a str>) -> Option<String> {
    let mut value = String::new();
    // Blanks count when something follows them.
    let mut blanks = String::new();
    let mut quoted = false;
    let mut chars = first.trim_start().chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '"' => {
                quoted = !quoted;
                value.push_str(&blanks);
                blanks.clear();
                continue;
            }
            '\\' => match chars.next() {
                None => {
                    chars = more()?.chars();
                    continue;
                }
                Some('n') => '\n',
                Some('t') => '\t',
                Some('b') => '\u{8}',
                Some(c @ ('"' | '\\')) => c,
                Some(_) => return None,
            },
            '#' | ';' if !quoted => break,
            c if c.is_whitespace() && !quoted => {
                blanks.push(c);
                continue;
            }
            c => c,
        };
        value.push_str(&blanks);
        blanks.clear();
        value.push(c);
    }
    (!quoted).then_some(value)
}

fn bad_name(name: &str) -> Option<&'static str> {
    let mut parts = name.split(['/', '\\']);
    if name.is_empty() || name.starts_with(['/', '\\']) || parts.any(|p| p == "..") {
        Some("its name leads out of its place")
    } else if name.starts_with('-') {
        Some("its name could be taken for an option")
    } else if name.chars().any(char::is_control) {
        Some("its name contains control characters")
    } else {
        None
    }
}

fn bad_path(path: &str) -> Option<&'static str> {
    if path.starts_with('-') {
        return Some("could be taken for an option");
    }
    if path.starts_with('/') {
        return Some("is absolute");
    }
    if path.chars().any(char::is_control) {
        return Some("contains control characters");
    }
    path.split('/').find_map(|part| match part {
        "" | "." | ".." => Some("does not lead to a place in the tree"),
        _ => names::refusal(part.as_bytes()).map(|_| "could be taken for a part of a '.git'"),
    })
}

fn bad_url(url: &str) -> Option<&'static str> {
    if url.is_empty() {
        Some("is empty")
    } else if url.starts_with('-') {
        Some("could be taken for an option")
    } else if url.chars().any(char::is_control) {
        Some("contains control characters")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Declared {
        let all = parse(text.as_bytes()).unwrap();
        assert_eq!(all.len(), 1, "{text}");
        all[0].clone()
    }

    #[test]
    fn what_git_writes() {
        let text =
            "[submodule \"libs/one\"]\n\tpath = libs/one\n\turl = ../one.git\n\tbranch = main\n";
        let got = one(text);
        assert_eq!(
            (&*got.name, &*got.path, &*got.url, got.unwanted),
            ("libs/one", "libs/one", "../one.git", false)
        );
    }

    #[test]
    fn what_people_write() {
        let got = one(
            "# a list\n[other]\nx = y\n[Submodule \"a \\\"b\\\\\"] ; why\r\n  Path = \"lib # one\" # two\n URL = https://h/\\\nx \nupdate=none",
        );
        assert_eq!(
            (&*got.name, &*got.path, &*got.url, got.unwanted),
            ("a \"b\\", "lib # one", "https://h/x", true)
        );
        assert_eq!(parse(b"").unwrap(), []);
        assert_eq!(parse(b"[submodule \"x\"]\npath = x\n").unwrap(), []);
    }

    #[test]
    fn every_refusal_names_its_reason() {
        let section = |path: &str, url: &str| {
            format!("[submodule \"evil\"]\n\tpath = \"{path}\"\n\turl = \"{url}\"\n")
        };
        for (text, why) in [
            (section("-x", "../a"), "taken for an option"),
            (section("../x", "../a"), "place in the tree"),
            (section("a/../../x", "../a"), "place in the tree"),
            (section("./x", "../a"), "place in the tree"),
            (section("", "../a"), "place in the tree"),
            (section("/etc", "../a"), "absolute"),
            (section(".git/hooks", "../a"), "'.git'"),
            (section("x/.GIT/hooks", "../a"), "'.git'"),
            (section("x/GIT~1", "../a"), "'.git'"),
            (section("a\\nb", "../a"), "control"),
            (section("x", "--upload-pack=id"), "taken for an option"),
            (section("x", "a\\nb"), "control"),
            (section("x", ""), "empty"),
            (
                "[submodule \"../../x\"]\npath = x\nurl = y\n".to_owned(),
                "out of its place",
            ),
            (
                "[submodule \"-x\"]\npath = x\nurl = y\n".to_owned(),
                "taken for an option",
            ),
            (
                "[submodule \"a\"]\npath=x\nurl=y\n[submodule \"b\"]\npath=X/\nurl=y\n".to_owned(),
                "that of submodule",
            ),
            (
                "[submodule \"a\"]\npath=x\npath=y\nurl=y\n".to_owned(),
                "twice",
            ),
            (
                "[submodule \"a\"]\npath=x\nurl=y\nupdate=!id\n".to_owned(),
                "a program",
            ),
            ("path = x\n".to_owned(), "before the first section"),
            ("[submodule \"a\n".to_owned(), "section in line 1"),
            (
                "[submodule \"a\"]\npath = \"x\n".to_owned(),
                "value in line 2",
            ),
            ("[submodule \"a\"]\np?th = x\n".to_owned(), "key in line 2"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(parse(&[b'#'; LARGEST + 1]).unwrap_err().contains("1 MiB"));
        assert!(parse(b"\xff").unwrap_err().contains("UTF-8"));
    }
}
