//! What is to be put, in which order, and what is to be deleted.
//!
//! The order is that of the references between files: pages refer to assets, so assets are put first and pages after them,
//! the start page last; what is stale is deleted in the opposite order, pages first. A reader in between sees an old page
//! with its old or its new assets, never a page whose assets are not there yet.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::files::Files;
use super::others::told;
use super::ours::Ours;
use super::prefix::Prefix;
use crate::DepotError;

/// When a file is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Everything that is no page.
    Assets,
    /// Pages but the start page.
    Pages,
    /// The page at the top.
    Start,
}

impl Phase {
    pub(crate) const ALL: [Self; 3] = [Self::Assets, Self::Pages, Self::Start];

    /// Of the file at `path` within the output.
    pub(crate) fn of(path: &[u8]) -> Self {
        let lower = path.to_ascii_lowercase();
        if path == b"index.html" {
            Self::Start
        } else if lower.ends_with(b".html") || lower.ends_with(b".htm") {
            Self::Pages
        } else {
            Self::Assets
        }
    }
}

/// What is to be done beside putting the files.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In the order in which they are deleted.
    pub(crate) stale: Vec<String>,
    /// What to say of what is there and was never Bryo's.
    pub(crate) others: Vec<String>,
}

/// Plans for `beside`, the keys below the prefix that are no file's. `nested` are the versions inside this one's prefix:
/// their objects are not this one's, and neither is anything that `ours` does not know.
pub(crate) fn plan(
    files: &Files,
    mut beside: BTreeSet<String>,
    nested: &[Prefix],
    ours: &Ours,
) -> Result<Plan, DepotError> {
    let foreign: Vec<_> = nested.iter().map(|inner| (inner, inner.keys())).collect();
    let owner = |key: &str| foreign.iter().find(|(_, keys)| key.starts_with(keys));
    for n in 0..files.len() {
        let key = files.key(n)?;
        if let Some((inner, _)) = owner(&key) {
            let version = inner.version().to_owned();
            return Err(DepotError::Overlap { key, version });
        }
    }
    beside.retain(|key| owner(key).is_none());
    let theirs = beside.iter().filter(|key| !ours.has(key));
    let others = told(
        files.keys(),
        theirs.map(|key| files.within(key)),
        |directory| files.are_in(directory),
    );
    beside.retain(|key| ours.has(key));
    let mut stale: Vec<_> = beside.into_iter().collect();
    stale.sort_by_key(|key| Reverse(Phase::of(files.within(key).as_bytes())));
    Ok(Plan { stale, others })
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::files;
    use super::*;

    #[test]
    fn pages_follow_assets_and_the_start_page_is_last() {
        use Phase::{Assets, Pages, Start};
        for (path, phase) in [
            ("index.html", Start),
            ("a.css", Assets),
            ("a/index.html", Pages),
            ("404.HTML", Pages),
            ("old.htm", Pages),
            (".html", Pages),
            ("z/b.js", Assets),
            ("html", Assets),
            ("index.html.bak", Assets),
        ] {
            assert_eq!(files(("p", "1"), &[(path, "")]).phase(0), phase, "{path}");
        }
        assert!(Phase::ALL.is_sorted() && Phase::ALL.last() == Some(&Start));
    }

    #[test]
    fn what_is_not_put_again_is_stale_if_it_was_this_versions() {
        let files = files(("p", "release"), &[("index.html", "12"), ("a.css", "123")]);
        let nested = [Prefix::of("p", "release/2.0").unwrap()];
        let beside = [
            "p/release/old.css",
            "p/release/old.html",
            "p/release/index.html.bak",
            "p/release/2.0/index.html",
            "p/release/2.0x",
        ];
        let ours = Ours::knowing(&beside);
        let theirs = ["p/release/3.0/index.html", "p/release/theirs"];
        let all = beside.iter().chain(&theirs).map(|key| (*key).to_owned());
        let plan = plan(&files, all.collect(), &nested, &ours).unwrap();
        assert_eq!(
            plan.stale,
            [
                "p/release/old.html",
                "p/release/2.0x",
                "p/release/index.html.bak",
                "p/release/old.css"
            ]
        );
        let others = ["p/release/3.0/: 1 object", "p/release/theirs: 1 object"];
        assert_eq!(plan.others, others);
    }

    #[test]
    fn a_file_inside_another_version_is_refused() {
        let files = files(("p", "release"), &[("2.0/index.html", "1")]);
        let nested = [Prefix::of("p", "release/2.0").unwrap()];
        let refused = plan(&files, BTreeSet::new(), &nested, &Ours::default()).unwrap_err();
        assert!(matches!(refused, DepotError::Overlap { .. }), "{refused}");
    }
}
