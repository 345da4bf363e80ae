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
    /// Those that hold the objects `there`, and how many objects each of them has; all relative to the prefix. `is_ours`
    /// tells whether files of the output are somewhere in a directory. `known` is what was written down before; `None`:
    /// nothing was, and nothing is known to be Bryo's.
    pub(crate) fn among<'a>(
        known: Option<&Self>,
        there: impl Iterator<Item = &'a str>,
        is_ours: impl Fn(&str) -> bool,
    ) -> (Self, BTreeMap<String, u64>) {
        let mut counts = BTreeMap::new();
        for key in there {
            let Some(name) = known.map_or(Some(""), |known| known.name_of(key)) else {
                continue;
            };
            // Never further up than before: what is beside it there was Bryo's.
            let apart = directories(key)
                .find(|directory| directory.len() >= name.len() && !is_ours(directory));
            *counts.entry(apart.unwrap_or(key).to_owned()).or_default() += 1;
        }
        if counts.len() > MOST_NAMES {
            counts = BTreeMap::from([(String::new(), counts.values().sum())]);
        }
        (Self(counts.keys().cloned().collect()), counts)
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
}

/// What to say of them to the reader of a log; bounded.
pub(crate) fn told(prefix: &str, counts: &BTreeMap<String, u64>) -> Vec<String> {
    let one = |(name, count): (&String, &u64)| {
        let objects = if *count == 1 { "object" } else { "objects" };
        // A stranger's words: nothing that a terminal would obey.
        let name = name.replace(char::is_control, "\u{fffd}");
        format!("{prefix}{name}: {count} {objects}")
    };
    let mut told: Vec<_> = counts.iter().take(MOST_TOLD).map(one).collect();
    if let Some(more @ 1..) = counts.len().checked_sub(MOST_TOLD) {
        told.push(format!("{prefix}: {more} more places"));
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

    const OURS: [&str; 2] = ["index.html", "img/a/new.png"];

    fn among(known: Option<&Others>, there: &[&str]) -> (Others, BTreeMap<String, u64>) {
        let is_ours = |directory: &str| OURS.iter().any(|file| file.starts_with(directory));
        Others::among(known, there.iter().copied(), is_ours)
    }

    fn names(others: &Others) -> Vec<&str> {
        others.0.iter().map(|name| &**name).collect()
    }

    #[test]
    fn places_are_named_as_far_up_as_nothing_of_ours_is_there() {
        let there = ["2.0/a/b", "2.0/c", "old.html", "img/b/x", "img/a/x"];
        let (found, counts) = among(None, &there);
        assert_eq!(names(&found), ["2.0/", "img/a/x", "img/b/", "old.html"]);
        assert_eq!((counts["2.0/"], counts["old.html"]), (2, 1));
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
    }

    #[test]
    fn what_is_known_is_named_more_closely_and_never_more_widely() {
        let known = |names: &[&str]| Others(names.iter().map(|name| (*name).to_owned()).collect());
        for (before, there, after) in [
            // What is gone is forgotten, and what was never theirs is not theirs.
            (
                &["2.0/", "gone/"][..],
                &["2.0/x", "ours.html"][..],
                &["2.0/"][..],
            ),
            // A directory that got a file of ours.
            (
                &["img/"],
                &["img/a/x", "img/b/x", "img/c"],
                &["img/a/x", "img/b/", "img/c"],
            ),
            // One that has none any more: it may have others that were.
            (
                &["css/a/x"],
                &["css/a/x", "css/a/ours", "css/b"],
                &["css/a/x"],
            ),
            (&[""], &["css/x", "y"], &["css/", "y"]),
        ] {
            let (found, _) = among(Some(&known(before)), there);
            assert_eq!(names(&found), after, "{before:?} {there:?}");
        }
    }

    #[test]
    fn of_too_many_nothing_is_deleted_and_few_are_told() {
        let many: Vec<_> = (0..=MOST_NAMES).map(|n| format!("{n}.html")).collect();
        let many: Vec<_> = many.iter().map(|name| &**name).collect();
        let (all, counts) = among(None, &many);
        assert!(all.has("anything") && counts.values().sum::<u64>() == many.len() as u64);
        assert_eq!(told("p/1/", &counts), ["p/1/: 501 objects"]);
        let (named, counts) = among(None, &many[1..]);
        assert!(!named.has("anything"));
        let told = told("p/1/", &counts);
        assert_eq!(told.len(), MOST_TOLD + 1);
        assert_eq!(told[MOST_TOLD], "p/1/: 480 more places");
        let odd = BTreeMap::from([("a\n\u{1b}[31m/".to_owned(), 1)]);
        assert_eq!(
            super::told("p/1/", &odd),
            ["p/1/a\u{fffd}\u{fffd}[31m/: 1 object"]
        );
    }
}
