//! The text of a TOML file becomes a fragment; every mistake in it is told, with its line.

use std::path::Path;
use std::sync::Arc;

use bryo_agent::FeedName;
use bryo_model::EnvVar;
use toml::de::{DeTable, DeValue};

use super::fragment::{Entry, Fragment, Origin, Problem, bare_or_quoted};
use super::keys::{self, Key};
use super::kind::Base;

/// How many letters of a word may be wrong for it to be taken for another.
const TYPOS: usize = 2;

/// Reads the text of the file at this path.
pub(crate) fn parse(path: &Path, text: &str, home: Option<&Path>) -> (Fragment, Vec<Problem>) {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut reader = Reader {
        path: Arc::from(path),
        text,
        base: Base { dir, home },
        fragment: Fragment::default(),
        problems: Vec::new(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        reader
            .problems
            .push(Problem::at(reader.origin(at), error.message()));
    }
    // What is left of a file that is no TOML would only give mistakes that are none.
    if errors.is_empty() {
        reader.table(table.get_ref(), &[]);
    }
    (reader.fragment, reader.problems)
}

struct Reader<'a> {
    path: Arc<Path>,
    text: &'a str,
    base: Base<'a>,
    fragment: Fragment,
    problems: Vec<Problem>,
}

/// The words of a path, with the names that the file chose.
type Words<'a> = [&'a str];

impl Reader<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = self.text.as_bytes().iter().take(at);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Origin::File(Arc::clone(&self.path), line)
    }

    fn table(&mut self, table: &DeTable<'_>, above: &Words<'_>) {
        for (word, value) in table {
            let at = word.span().start;
            let path: Vec<&str> = above
                .iter()
                .copied()
                .chain([word.get_ref().as_ref()])
                .collect();
            match place(&path) {
                Place::Key(key) => self.key(key, &path, value.get_ref(), at),
                Place::Table => match value.get_ref() {
                    DeValue::Table(inner) => {
                        if let Some(problem) = self.bad_name(&path, at) {
                            self.problems.push(problem);
                        } else if inner.is_empty() && chosen_name(&path) {
                            let text = format!("nothing is said in {}", shown(&path));
                            self.problems.push(Problem::at(self.origin(at), text));
                        } else {
                            self.table(inner, &path);
                        }
                    }
                    _ => {
                        let text = format!("{} is a table", shown(&path));
                        let names = if has_names(&path) { ".NAME" } else { "" };
                        let hint = format!("write [{}{names}] and its keys below", shown(&path));
                        self.problems
                            .push(Problem::at(self.origin(at), text).hint(hint));
                    }
                },
                Place::Nowhere => {
                    let mut problem =
                        Problem::at(self.origin(at), format!("unknown key {}", shown(&path)));
                    if let Some(hint) = hint(&path) {
                        problem = problem.hint(hint);
                    }
                    self.problems.push(problem);
                }
            }
        }
    }

    fn key(&mut self, key: &'static Key, path: &Words<'_>, value: &DeValue<'_>, at: usize) {
        let origin = self.origin(at);
        if let Some(problem) = self.bad_name(path, at) {
            return self.problems.push(problem);
        }
        let name = name_in(key, path);
        let result = key
            .kind
            .read(value, self.base)
            .map_err(|why| Problem::at(&origin, format!("{}: {why}", shown(path))));
        let result = result.and_then(|value| {
            self.fragment.say(Entry {
                key,
                name: name.to_owned(),
                value,
                origin,
            })
        });
        if let Err(problem) = result {
            self.problems.push(problem);
        }
    }

    /// Where the file has chosen a name that cannot be one.
    fn bad_name(&self, path: &Words<'_>, at: usize) -> Option<Problem> {
        let why = match path {
            ["feed", name] => name.parse::<FeedName>().err()?.to_string(),
            ["jobs", "env" | "secrets", name] => EnvVar::new(name, "").err()?.to_string(),
            ["jobs", "images", ""] => "the name of the image is empty".to_owned(),
            ["source", "credentials", name]
                if name.is_empty() || name.contains(char::is_control) =>
            {
                "the name of the credential is empty or has control characters in it".to_owned()
            }
            _ => return None,
        };
        Some(Problem::at(self.origin(at), why))
    }
}

enum Place {
    Key(&'static Key),
    Table,
    Nowhere,
}

fn words(key: &Key) -> impl Iterator<Item = &'static str> + use<> {
    key.path.split('.')
}

fn fits(pattern: &str, word: &str) -> bool {
    pattern == "*" || pattern == word
}

/// Keys whose paths begin like this one.
fn below<'a>(path: &'a Words<'a>) -> impl Iterator<Item = &'static Key> + 'a {
    keys::ALL.iter().copied().filter(move |key| {
        let mut pattern = words(key);
        path.iter()
            .all(|word| pattern.next().is_some_and(|p| fits(p, word)))
    })
}

fn place(path: &Words<'_>) -> Place {
    let mut below = below(path).peekable();
    if below.peek().is_none() {
        return Place::Nowhere;
    }
    match below.find(|key| words(key).count() == path.len()) {
        Some(key) => Place::Key(key),
        None => Place::Table,
    }
}

/// What stands where the key has its `*`.
fn name_in<'a>(key: &Key, path: &Words<'a>) -> &'a str {
    let at = words(key).position(|word| word == "*");
    at.and_then(|at| path.get(at)).copied().unwrap_or("")
}

/// Whether the last word of this table's path is a name that the file chose.
fn chosen_name(path: &Words<'_>) -> bool {
    below(path).any(|key| words(key).nth(path.len() - 1) == Some("*"))
}

/// Whether tables below this one have names that the file chooses.
fn has_names(path: &Words<'_>) -> bool {
    below(path).any(|key| words(key).nth(path.len()) == Some("*"))
}

fn shown(path: &Words<'_>) -> String {
    let words: Vec<String> = path.iter().map(|word| bare_or_quoted(word)).collect();
    words.join(".")
}

/// The nearest known key: beside this one, or of this name elsewhere.
fn hint(path: &Words<'_>) -> Option<String> {
    let (last, above) = path.split_last()?;
    let mut beside: Vec<&str> = below(above)
        .filter_map(|key| words(key).nth(above.len()))
        .filter(|word| *word != "*")
        .collect();
    beside.dedup();
    let wanted = last.to_lowercase().replace('_', "-");
    let far = |word: &&str| strsim::damerau_levenshtein(word, &wanted);
    if let Some(near) = beside
        .iter()
        .copied()
        .min_by_key(far)
        .filter(|word| far(word) <= TYPOS.min(word.len() / 2))
    {
        return Some(format!("did you mean {near}?"));
    }
    let elsewhere = keys::ALL.iter().find(|key| key.word() == wanted);
    if let Some(key) = elsewhere {
        let table = key.table().replace('*', "NAME");
        return Some(format!("{} is a key of [{table}]", key.word()));
    }
    let table = match above {
        [] => "the tables are".to_owned(),
        _ => format!("{} has", shown(above)),
    };
    (!beside.is_empty()).then(|| format!("{table} {}", beside.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let (_, problems) = parse(
            Path::new("/c/bryo.toml"),
            text,
            Some(Path::new("/home/ana")),
        );
        problems
            .iter()
            .map(|p| p.to_string().replace("/c/bryo.toml:", ""))
            .collect()
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_a_hint() {
        let text = "slots = 2\n[agent]\nslot = 2\nstate_dir = 'x'\ndrain = 'soon'\nslots = 0\n[jobs]\nread-only = 'yes'\n\
                    allow = ['10.0.0.0/8', 'moon']\n[feed]\nx = 1\n[feed.Docs]\ntype = 'doc-thor'\n[feed.a]\n[s4]\nx = 1\n\
                    [jobs.env]\n'A B' = 'x'\n[feed.b]\ntype = 'x'\ntoken = 'hunter2'\ntoken-file = 'f'\n[[s3]]\n";
        let mut told = problems(text);
        let line = |text: &String| {
            text.split(':')
                .next()
                .and_then(|n| n.parse::<usize>().ok())
                .unwrap()
        };
        told.sort_by_key(line);
        let wanted = [
            (1, "unknown key slots; slots is a key of [agent]"),
            (3, "unknown key agent.slot; did you mean slots?"),
            (4, "unknown key agent.state_dir; agent has state,"),
            (5, "agent.drain: \"soon\" is not a length of time"),
            (6, "agent.slots: \"0\" is not a whole number from 1"),
            (8, "jobs.read-only: expected true or false, found a text"),
            (9, "jobs.allow: \"moon\" is not a destination"),
            (11, "feed.x is a table; write [feed.x] and its keys below"),
            (12, "\"Docs\" is not a name of a feed"),
            (14, "nothing is said in feed.a"),
            (15, "unknown key s4; did you mean s3?"),
            (18, "an environment variable is"),
            (20, "feed.b.type: \"x\" is not one of doc-thor"),
            (
                22,
                "feed.b.token and feed.b.token-file say the same thing twice; keep one of them",
            ),
            (23, "s3 is a table; write [s3] and its keys below"),
        ];
        assert_eq!(told.len(), wanted.len(), "{told:#?}");
        for (told, (line, text)) in told.iter().zip(wanted) {
            assert!(
                told.starts_with(&format!("{line}: {text}")),
                "{told}, not {line}: {text}"
            );
        }
    }

    #[test]
    fn what_is_no_toml_is_told_without_its_values() {
        let told = problems("[agent]\nslots = \n[feed.a]\ntoken = 'hunter2\n");
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("2: ") && told[1].starts_with("4: "),
            "{told:?}"
        );
        assert!(!told.concat().contains("hunter2"));
    }

    #[test]
    fn paths_start_from_their_file() {
        let text = "[host]\ncache = 'x'\nwork = '~/w'\n[jobs]\ndefault-image = 'oci:i'\n[jobs.images]\n'py:3' = 'docker-archive:/a.tar'\n";
        let (fragment, problems) = parse(
            Path::new("/c/bryo.toml"),
            text,
            Some(Path::new("/home/ana")),
        );
        assert_eq!(problems, []);
        let said = |path: &str| {
            let entry = fragment
                .entries()
                .iter()
                .find(|e| e.path() == path)
                .unwrap();
            (entry.value.clone(), entry.origin.to_string())
        };
        let text = |text: &str| super::super::kind::Value::Text(text.to_owned());
        assert_eq!(
            said("host.cache"),
            (text("/c/x"), "/c/bryo.toml:2".to_owned())
        );
        assert_eq!(said("host.work").0, text("/home/ana/w"));
        assert_eq!(said("jobs.default-image").0, text("oci:/c/i"));
        assert_eq!(
            said("jobs.images.\"py:3\"").0,
            text("docker-archive:/a.tar")
        );
    }
}
