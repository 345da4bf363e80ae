//! What was below a version's prefix before Bryo published there, and is not Bryo's to delete.
//!
//! A bucket may have been filled by another program. Which versions that one had nobody knows: `2.0/index.html` below
//! `release` is a stale page of it, or a page of `release/2.0`. Therefore it stays, is told of, and stands in the record, so
//! that the next publication leaves it alone as well.
//!
//! Named are directories that hold no file of the output, as far up as possible, and single files beside those of the
//! output. Of too many of them only that there are some is remembered, and nothing below the prefix is deleted then.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// How many names a record holds: it is written again every few seconds.
const MOST_NAMES: usize = 500;

/// How many of them are told of.
const MOST_TOLD: usize = 20;

/// Names relative to the prefix; one that is empty or ends with a slash stands for all that begins with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Others(BTreeSet<String>);

impl Others {
    /// Those that hold the objects `foreign`, beside an output of the files `ours`; all relative to the prefix.
    pub(crate) fn beside<'a>(
        foreign: impl Iterator<Item = &'a str>,
        ours: impl Iterator<Item = &'a str>,
    ) -> Self {
        let mut shared = BTreeSet::new();
        for file in ours {
            shared.extend(directories(file));
        }
        let mut names = BTreeSet::new();
        for key in foreign {
            let apart = directories(key).find(|directory| !shared.contains(directory));
            names.insert(apart.unwrap_or(key).to_owned());
            if names.len() > MOST_NAMES {
                return Self(BTreeSet::from([String::new()]));
            }
        }
        Self(names)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the object at `key`, relative to the prefix, is one of them.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.name_of(key).is_some()
    }

    fn name_of(&self, key: &str) -> Option<&str> {
        let all = [""].into_iter().chain(directories(key)).chain([key]);
        all.filter_map(|name| self.0.get(name))
            .map(|name| &**name)
            .next()
    }

    /// Without those of which nothing is there any more, and with how many objects there are of each.
    pub(crate) fn counted<'a>(
        &self,
        there: impl Iterator<Item = &'a str>,
    ) -> (Self, BTreeMap<String, u64>) {
        let mut counts = BTreeMap::new();
        for name in there.filter_map(|key| self.name_of(key)) {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
        (Self(counts.keys().cloned().collect()), counts)
    }
}

/// What to say of them to the reader of a report; bounded.
pub(crate) fn told(prefix: &str, counts: &BTreeMap<String, u64>) -> Vec<String> {
    let one = |(name, count): (&String, &u64)| {
        let (objects, them) = if *count == 1 {
            ("object", "it")
        } else {
            ("objects", "them")
        };
        format!(
            "{prefix}{name}: {count} {objects} not put by Bryo; left there, delete {them} by hand if nobody needs {them}"
        )
    };
    let mut told: Vec<_> = counts.iter().take(MOST_TOLD).map(one).collect();
    if let Some(more @ 1..) = counts.len().checked_sub(MOST_TOLD) {
        told.push(format!(
            "{prefix}: {more} more places with objects not put by Bryo"
        ));
    }
    told
}

/// The directories of a file, the outermost first, with their slashes.
fn directories(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..=at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn others(foreign: &[&str]) -> Others {
        let ours = ["index.html", "img/a/new.png"];
        Others::beside(foreign.iter().copied(), ours.into_iter())
    }

    #[test]
    fn places_are_named_as_far_up_as_nothing_of_ours_is_there() {
        let found = others(&["2.0/a/b", "2.0/c", "old.html", "img/b/x", "img/a/x"]);
        let names: Vec<_> = found.0.iter().map(|name| &**name).collect();
        assert_eq!(names, ["2.0/", "img/a/x", "img/b/", "old.html"]);
        for (key, is) in [
            ("2.0/new", true),
            ("2.0x", false),
            ("old.html", true),
            ("old.html/x", false),
            ("img/a/new.png", false),
            ("img/b/c/d", true),
        ] {
            assert_eq!(found.has(key), is, "{key}");
        }
        let (left, counts) = found.counted(["2.0/x", "2.0/y", "index.html"].into_iter());
        assert_eq!((left.has("2.0/x"), left.has("old.html")), (true, false));
        assert_eq!(counts, BTreeMap::from([("2.0/".to_owned(), 2)]));
    }

    #[test]
    fn of_too_many_nothing_is_deleted_and_few_are_told() {
        let many: Vec<_> = (0..=MOST_NAMES).map(|n| format!("{n}.html")).collect();
        let many: Vec<_> = many.iter().map(|name| &**name).collect();
        assert!(others(&many).has("anything") && !others(&many[1..]).has("anything"));
        let (_, counts) = others(&many[1..]).counted(many.into_iter());
        let told = told("p/1/", &counts);
        assert_eq!(told.len(), MOST_TOLD + 1);
        assert_eq!(
            told[MOST_TOLD],
            "p/1/: 480 more places with objects not put by Bryo"
        );
    }
}
