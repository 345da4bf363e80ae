//! What is below a version's prefix and was never Bryo's: another program's, and not Bryo's to delete.
//!
//! Which versions that program has nobody knows: `2.0/index.html` below `release` is a stale page of it, or a page of
//! `release/2.0`. Therefore it stays, and is told of: by directories that hold no file of the output, as far up as
//! possible, and by single files beside those of the output.

use std::collections::BTreeMap;

/// How many places are told apart.
const MOST_PLACES: usize = 500;

/// How many of them are told of.
const MOST_TOLD: usize = 20;

/// What to say of the objects `there`, relative to the prefix of a version, to the reader of a log; bounded. `is_ours` tells
/// whether files of the output are somewhere in a directory.
pub(crate) fn told<'a>(
    prefix: &str,
    there: impl Iterator<Item = &'a str>,
    is_ours: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut counts = BTreeMap::<&str, u64>::new();
    for key in there {
        let apart = directories(key).find(|directory| !is_ours(directory));
        let place = apart.unwrap_or(key);
        // Of too many of them only how many objects there are is told.
        let is_known = counts.contains_key(place);
        if counts.contains_key("") || (counts.len() == MOST_PLACES && !is_known) {
            counts = BTreeMap::from([("", counts.values().sum::<u64>() + 1)]);
        } else {
            *counts.entry(place).or_default() += 1;
        }
    }
    let one = |(name, count): (&&str, &u64)| {
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

    fn of(there: &[&str]) -> Vec<String> {
        let is_ours = |directory: &str| OURS.iter().any(|file| file.starts_with(directory));
        told("p/1/", there.iter().copied(), is_ours)
    }

    #[test]
    fn places_are_named_as_far_up_as_nothing_of_ours_is_there() {
        let there = ["2.0/a/b", "2.0/c", "old.html", "img/b/x", "img/a/x"];
        assert_eq!(
            of(&there),
            [
                "p/1/2.0/: 2 objects",
                "p/1/img/a/x: 1 object",
                "p/1/img/b/: 1 object",
                "p/1/old.html: 1 object"
            ]
        );
        assert_eq!(of(&[]), [""; 0]);
        assert_eq!(
            of(&["a\n\u{1b}[31m/x"]),
            ["p/1/a\u{fffd}\u{fffd}[31m/: 1 object"]
        );
    }

    #[test]
    fn of_many_few_are_told_and_of_too_many_their_number() {
        let many: Vec<_> = (0..=MOST_PLACES + 7).map(|n| format!("{n}.html")).collect();
        let many: Vec<_> = many.iter().map(|name| &**name).collect();
        assert_eq!(of(&many), ["p/1/: 508 objects"]);
        let told = of(&many[..MOST_PLACES]);
        assert_eq!(told.len(), MOST_TOLD + 1);
        assert_eq!(told[MOST_TOLD], "p/1/: 480 more places");
    }
}
