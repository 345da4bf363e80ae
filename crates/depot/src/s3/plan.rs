//! What is to be put, in which order, and what is to be deleted.
//!
//! The order is that of the references between files: pages refer to assets, so assets are put first and pages after them,
//! the start page last; what is stale is deleted in the opposite order, pages first. A reader in between sees an old page
//! with its old or its new assets, never a page whose assets are not there yet.

use std::collections::{BTreeMap, HashMap};

use super::api::Listed;
use super::others::Others;
use super::prefix::Prefix;
use super::tag::Tag;
use crate::{DepotError, OutputTree, dir};

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

    fn of(path: &str) -> Self {
        let lower = path.to_ascii_lowercase();
        if path == "index.html" {
            Self::Start
        } else if lower.ends_with(".html") || lower.ends_with(".htm") {
            Self::Pages
        } else {
            Self::Assets
        }
    }
}

/// A file with its key.
#[derive(Debug)]
pub(crate) struct Planned {
    /// Which of the tree's files.
    pub(crate) file: usize,
    pub(crate) key: String,
    pub(crate) phase: Phase,
    /// The entity tag of the object that is there, if it may be the same: it has the same size.
    pub(crate) there: Option<Tag>,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In the order in which they are put.
    pub(crate) files: Vec<Planned>,
    /// In the order in which they are deleted.
    pub(crate) stale: Vec<String>,
    /// What is there and was never Bryo's.
    pub(crate) others: Others,
    /// How many objects there are of each.
    pub(crate) counts: BTreeMap<String, u64>,
}

/// Gives each file of `tree` its key.
pub(crate) fn keys(tree: &OutputTree, prefix: &Prefix) -> Result<Vec<Planned>, DepotError> {
    let mut files = Vec::new();
    let inside = prefix.keys().len();
    for (n, file) in tree.all_files().iter().enumerate() {
        let path = tree.directory_of(n).path.join(dir::path_of(&file.name));
        let key = prefix.key(&path).map_err(|why| DepotError::Key {
            path: path.clone(),
            why,
        })?;
        files.push(Planned {
            file: n,
            phase: Phase::of(&key[inside..]),
            key,
            there: None,
        });
    }
    files.sort_by_key(|planned| planned.phase);
    Ok(files)
}

/// Compares the files with the objects that are there. `nested` are the versions inside this one's prefix: their objects
/// are not ours. `known` is what was never Bryo's; `None`: nothing is known, and whatever is not put again was not.
pub(crate) fn compare(
    tree: &OutputTree,
    mut files: Vec<Planned>,
    objects: Vec<Listed>,
    prefix: &Prefix,
    nested: &[Prefix],
    known: Option<&Others>,
) -> Result<Plan, DepotError> {
    let foreign: Vec<_> = nested.iter().map(|inner| (inner, inner.keys())).collect();
    let owner = |key: &str| foreign.iter().find(|(_, keys)| key.starts_with(keys));
    let mut there: HashMap<String, (u64, Option<Tag>)> = objects
        .into_iter()
        .filter(|object| owner(&object.key).is_none())
        .map(|object| (object.key, (object.size, object.tag)))
        .collect();
    for planned in &mut files {
        if let Some((inner, _)) = owner(&planned.key) {
            return Err(DepotError::Overlap {
                key: planned.key.clone(),
                version: inner.version().to_owned(),
            });
        }
        let size = tree.all_files()[planned.file].size;
        if let Some((same, tag)) = there.remove(&planned.key)
            && same == size
        {
            planned.there = tag;
        }
    }
    let inside = prefix.keys().len();
    let (others, counts) = Others::among(
        known,
        there.keys().map(|key| within(key, inside)),
        files.iter().map(|planned| within(&planned.key, inside)),
    );
    let mut stale: Vec<_> = there
        .into_keys()
        .filter(|key| !others.has(within(key, inside)))
        .collect();
    stale.sort_by(|a, b| {
        let phase = |key: &String| Phase::of(within(key, inside));
        phase(b).cmp(&phase(a)).then_with(|| a.cmp(b))
    });
    Ok(Plan {
        files,
        stale,
        others,
        counts,
    })
}

fn within(key: &str, inside: usize) -> &str {
    key.get(inside..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{OutputBounds, Watch};

    struct Patient;

    impl Watch for Patient {
        fn stop(&self) -> bool {
            false
        }

        fn progress(&self, _: bryo_model::Amount) {}
    }

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, OutputTree) {
        let top = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = top.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let tree = OutputTree::collect(top.path(), &OutputBounds::default(), &Patient).unwrap();
        (top, tree)
    }

    fn listed(keys: &[(&str, u64)]) -> Vec<Listed> {
        let one = |&(key, size): &(&str, u64)| Listed {
            key: key.to_owned(),
            size,
            tag: Some(Tag::of(b"x")),
        };
        keys.iter().map(one).collect()
    }

    #[test]
    fn pages_follow_assets_and_the_start_page_is_last() {
        let names = [
            "index.html",
            "a.css",
            "a/index.html",
            "404.HTML",
            "z/b.js",
            "feed.xml",
        ];
        let (_top, tree) = tree(&names.map(|n| (n, "1")));
        let prefix = Prefix::of("p", "1").unwrap();
        let files = keys(&tree, &prefix).unwrap();
        let phases: Vec<_> = files.iter().map(|p| p.phase).collect();
        assert!(phases.is_sorted());
        assert_eq!(files.last().unwrap().key, "p/1/index.html");
        let of = |phase| files.iter().filter(move |p| p.phase == phase).count();
        assert_eq!(
            (of(Phase::Assets), of(Phase::Pages), of(Phase::Start)),
            (3, 2, 1)
        );
    }

    #[test]
    fn what_is_not_put_again_is_stale_unless_it_is_another_versions() {
        let (_top, tree) = tree(&[("index.html", "12"), ("a.css", "123")]);
        let prefix = Prefix::of("p", "release").unwrap();
        let files = keys(&tree, &prefix).unwrap();
        let nested = [Prefix::of("p", "release/2.0").unwrap()];
        let objects = listed(&[
            ("p/release/index.html", 2),
            ("p/release/a.css", 4),
            ("p/release/old.css", 1),
            ("p/release/old.html", 1),
            ("p/release/index.html.bak", 1),
            ("p/release/2.0/index.html", 1),
            ("p/release/2.0x", 1),
        ]);
        let plan = compare(
            &tree,
            files,
            objects,
            &prefix,
            &nested,
            Some(&Others::default()),
        )
        .unwrap();
        assert_eq!(
            plan.stale,
            [
                "p/release/old.html",
                "p/release/2.0x",
                "p/release/index.html.bak",
                "p/release/old.css"
            ]
        );
        let there: Vec<_> = plan.files.iter().map(|p| p.there.is_some()).collect();
        assert_eq!(there, [false, true], "a.css has another size");
    }

    #[test]
    fn a_file_inside_another_version_is_refused() {
        let (_top, tree) = tree(&[("2.0/index.html", "1")]);
        let prefix = Prefix::of("p", "release").unwrap();
        let nested = [Prefix::of("p", "release/2.0").unwrap()];
        let files = keys(&tree, &prefix).unwrap();
        let refused = compare(&tree, files, Vec::new(), &prefix, &nested, None).unwrap_err();
        assert!(matches!(refused, DepotError::Overlap { .. }), "{refused}");
    }
}
