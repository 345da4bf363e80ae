//! What all sources say together: for each key the last one's value, and where it was said.

use std::collections::{BTreeMap, BTreeSet};

use super::fragment::{Entry, Fragment};
use super::keys::Key;

/// Values by key and name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Merged {
    entries: BTreeMap<(&'static str, String), Entry>,
}

impl Merged {
    /// What is said here wins over what was said before. A secret that is said in one way takes the place of one that
    /// was said in another.
    pub(crate) fn take(&mut self, fragment: Fragment) {
        for entry in fragment {
            if let Some(group) = entry.key.group() {
                self.entries.retain(|_, other| {
                    other.name != entry.name || other.key.group() != Some(group)
                });
            }
            self.entries
                .insert((entry.key.path, entry.name.clone()), entry);
        }
    }

    /// What was said about this key, if anything.
    pub(crate) fn said(&self, key: &Key, name: &str) -> Option<&Entry> {
        // The map owns its names; this one is looked for.
        self.entries.get(&(key.path, name.to_owned()))
    }

    /// Whether anything was said about such a key.
    pub(crate) fn any(&self, about: impl Fn(&Key) -> bool) -> bool {
        self.entries.values().any(|entry| about(entry.key))
    }

    /// The names that files chose below a table: those of feeds, for instance.
    pub(crate) fn names(&self, table: &str) -> BTreeSet<&str> {
        let below = |key: &Key| {
            key.path
                .strip_prefix(table)
                .is_some_and(|rest| rest.starts_with(".*"))
        };
        self.entries
            .values()
            .filter(|entry| below(entry.key))
            .map(|entry| entry.name.as_str())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{keys, toml_file};
    use super::*;

    fn merged(files: &[&str]) -> Merged {
        let mut merged = Merged::default();
        for (n, text) in files.iter().enumerate() {
            let (fragment, problems) =
                toml_file::parse(Path::new(&format!("/{n}.toml")), text, None);
            assert_eq!(problems, []);
            merged.take(fragment);
        }
        merged
    }

    #[test]
    fn later_ones_win_key_by_key_and_one_way_of_a_secret_over_another() {
        let merged = merged(&[
            "[agent]\nslots = 1\ndrain = '1m'\n[feed.a]\nserver = 'http://a'\ntoken = 'x'\n[feed.b]\ntoken = 'y'\n",
            "[agent]\nslots = 2\n[feed.a]\ntoken-file = '/t'\n",
        ]);
        let said =
            |key: &Key, name: &str| merged.said(key, name).map(|entry| entry.origin.to_string());
        assert_eq!(said(&keys::SLOTS, "").as_deref(), Some("/1.toml:2"));
        assert_eq!(said(&keys::DRAIN, "").as_deref(), Some("/0.toml:3"));
        assert_eq!(said(&keys::TOKEN, "a"), None);
        assert_eq!(said(&keys::TOKEN_FILE, "a").as_deref(), Some("/1.toml:4"));
        assert_eq!(said(&keys::TOKEN, "b").as_deref(), Some("/0.toml:8"));
        assert_eq!(merged.names("feed"), BTreeSet::from(["a", "b"]));
    }
}
