//! What one source says: a file, the environment, the options.
//!
//! Every value has its origin. A fragment has no two values for one key, and of keys that say the same thing in
//! different ways only one.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::keys::Key;
use super::kind::Value;

/// Where a value was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nowhere: it holds where nobody says anything.
    Default,
    /// Nowhere: it is what doc-thor's own agent does where its variables say nothing.
    DocThor,
    /// In this line of this file.
    File(Arc<Path>, usize),
    /// In this environment variable.
    Variable(String),
    /// In this option.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::DocThor => f.write_str("default of doc-thor's variables"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One mistake: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    place: Option<String>,
    text: String,
    hint: Option<String>,
}

impl Problem {
    /// A mistake at this place.
    pub(crate) fn at(place: impl fmt::Display, text: impl Into<String>) -> Self {
        Self {
            place: Some(place.to_string()),
            text: text.into(),
            hint: None,
        }
    }

    /// Something that is nowhere.
    pub(crate) fn missing(text: impl Into<String>) -> Self {
        Self {
            place: None,
            text: text.into(),
            hint: None,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.text)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// One value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: &'static Key,
    /// What stands for the `*` of the key's path; empty where there is none.
    pub(crate) name: String,
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

impl Entry {
    /// Its place with its name, as TOML says it.
    pub(crate) fn path(&self) -> String {
        self.key.path.replacen('*', &bare_or_quoted(&self.name), 1)
    }
}

/// A key of TOML; what is not letters, digits, `_` and `-` stands in quotes.
pub(crate) fn bare_or_quoted(name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !name.is_empty() && name.bytes().all(bare) {
        name.to_owned()
    } else {
        quoted(name)
    }
}

/// A basic string of TOML: those of JSON are such, but for one character.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007f")
}

/// What one source says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fragment {
    entries: Vec<Entry>,
}

impl Fragment {
    /// One value more.
    ///
    /// # Errors
    ///
    /// When the same was said already in another way.
    pub(crate) fn say(&mut self, entry: Entry) -> Result<(), Problem> {
        let same = |other: &&Entry| {
            other.name == entry.name
                && entry.key.group().is_some()
                && other.key.group() == entry.key.group()
        };
        if let Some(other) = self.entries.iter().find(same) {
            return Err(Problem::at(
                &entry.origin,
                format!(
                    "{} and {} say the same thing twice",
                    other.path(),
                    entry.path()
                ),
            )
            .hint("keep one of them"));
        }
        self.entries.push(entry);
        Ok(())
    }

    /// All values.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl IntoIterator for Fragment {
    type Item = Entry;
    type IntoIter = std::vec::IntoIter<Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}
