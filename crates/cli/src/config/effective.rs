//! What holds for each key: what was said; else what is found on this host; else the default.

use std::collections::BTreeSet;
use std::path::Path;

use super::fragment::{Entry, Origin};
use super::keys::{self, Key, Usual};
use super::kind::{Base, Value};
use super::merged::Merged;
use super::settings::Places;

/// What was said, on this host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effective<'a> {
    pub(crate) merged: &'a Merged,
    pub(crate) places: &'a Places,
}

impl Effective<'_> {
    /// What holds for this key, if anything does.
    pub(crate) fn entry(&self, key: &'static Key, name: &str) -> Option<Entry> {
        let said = self.merged.said(key, name).cloned();
        said.or_else(|| self.found(key, name))
            .or_else(|| default(key, name))
    }

    /// What depends on the host or on another key.
    fn found(&self, key: &'static Key, name: &str) -> Option<Entry> {
        let below = |key: &'static Key, word: &str| {
            let dir = self.entry(key, "")?;
            Some(Value::Text(
                Path::new(dir.value.text()?).join(word).to_str()?.to_owned(),
            ))
        };
        let is = |other: &Key| key.path == other.path;
        let text = |path: &Path| path.to_str().map(|text| Value::Text(text.to_owned()));
        let value = if is(&keys::STATE) {
            text(self.places.state.as_deref()?)
        } else if is(&keys::CACHE) {
            text(self.places.cache.as_deref()?)
        } else if is(&keys::CONTROL) {
            below(&keys::STATE, "control.sock")
        } else if is(&keys::WORK) {
            below(&keys::CACHE, "work")
        } else if is(&keys::FEED_SLOTS) {
            self.entry(&keys::SLOTS, "").map(|slots| slots.value)
        } else {
            None
        };
        Some(Entry {
            key,
            name: name.to_owned(),
            value: value?,
            origin: Origin::Default,
        })
    }

    /// All that holds, in the order of the keys: what was said, and the defaults of what was not.
    pub(crate) fn all(&self) -> Vec<Entry> {
        let mut out = Vec::new();
        let mut tables: Vec<&str> = Vec::new();
        for key in keys::ALL {
            if !tables.contains(&key.table()) {
                tables.push(key.table());
            }
        }
        for table in tables {
            let keys: Vec<&'static Key> = keys::ALL
                .iter()
                .copied()
                .filter(|key| key.table() == table)
                .collect();
            let names = match table.strip_suffix(".*") {
                Some(above) => self.merged.names(above),
                None if keys.iter().any(|key| key.word() == "*") => self.merged.names(table),
                None => BTreeSet::from([""]),
            };
            for name in names {
                out.extend(keys.iter().filter_map(|key| self.entry(key, name)));
            }
        }
        out
    }
}

/// The default as if somebody had said it.
pub(super) fn default(key: &'static Key, name: &str) -> Option<Entry> {
    let Usual::Is(text) = key.default else {
        return None;
    };
    let nowhere = Base {
        dir: Path::new("/"),
        home: None,
    };
    // That every default is a value is a test's to prove.
    let value: Value = key.kind.text(text, nowhere).ok()?;
    Some(Entry {
        key,
        name: name.to_owned(),
        value,
        origin: Origin::Default,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value() {
        for key in keys::ALL {
            if let Usual::Is(_) = key.default {
                assert!(default(key, "").is_some(), "{}", key.path);
            }
        }
    }
}
