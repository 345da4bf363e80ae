//! The files of an output as what a version is to have: by number and by key.
//!
//! There may be a million of them, and the output has their names already. So nothing is kept of a file here: its key is
//! made when it is needed, and a key's file is looked for among the names, which stand in order.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::parts::Source;
use super::plan::Phase;
use super::prefix::Prefix;
use crate::collect::File;
use crate::{DepotError, OutputTree, dir};

/// The files of one version, numbered in the order of the output.
pub(crate) struct Files {
    tree: Arc<OutputTree>,
    prefix: Prefix,
    /// What all keys begin with.
    keys: String,
}

impl Files {
    /// Those of `tree`, all of which have a key.
    pub(crate) fn of(tree: Arc<OutputTree>, prefix: &Prefix) -> Result<Self, DepotError> {
        let files = Self {
            tree,
            prefix: prefix.clone(),
            keys: prefix.keys(),
        };
        (0..files.len()).try_for_each(|n| files.key(n).map(drop))?;
        Ok(files)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.tree.all_files().len()
    }

    pub(crate) fn key(&self, n: usize) -> Result<String, DepotError> {
        let path = self.path(n);
        let key = self.prefix.key(&path);
        key.map_err(|why| DepotError::Key { path, why })
    }

    /// What all keys begin with.
    pub(crate) fn keys(&self) -> &str {
        &self.keys
    }

    /// What `key` is within the version.
    pub(crate) fn within<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(&*self.keys).unwrap_or_default()
    }

    pub(crate) fn phase(&self, n: usize) -> Phase {
        Phase::of(self.path(n).as_os_str().as_bytes())
    }

    pub(crate) fn size(&self, n: usize) -> u64 {
        self.tree.all_files()[n].size
    }

    /// Opens it; blocking.
    pub(crate) fn open(&self, n: usize) -> Result<Source, DepotError> {
        Source::open(&self.tree, n)
    }

    /// The file that has this key.
    pub(crate) fn find(&self, key: &str) -> Option<usize> {
        let path = key.strip_prefix(&*self.keys)?;
        let (directory, name) = match path.rsplit_once('/') {
            // The top has no name: "/a" is not "a".
            Some(("", _)) => return None,
            Some(pair) => pair,
            None => ("", path),
        };
        let among = self.tree.directory(Path::new(directory))?.files.clone();
        let order = |file: &File| file.name.to_bytes().cmp(name.as_bytes());
        let found = self.tree.all_files()[among.clone()].binary_search_by(order);
        Some(among.start + found.ok()?)
    }

    /// Whether files are in `directory`, which ends with a slash, at any depth.
    pub(crate) fn are_in(&self, directory: &str) -> bool {
        let path = directory.strip_suffix('/').unwrap_or_default();
        !path.is_empty() && self.tree.directory(Path::new(path)).is_some()
    }

    fn path(&self, n: usize) -> PathBuf {
        let name = dir::path_of(&self.tree.all_files()[n].name);
        self.tree.directory_of(n).path.join(name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tests::World;

    /// The files of an output with these texts, as a version. The output itself is gone.
    pub(crate) fn files((slug, version): (&str, &str), all: &[(&str, &str)]) -> Arc<Files> {
        let world = World::new();
        all.iter().for_each(|(path, text)| world.write(path, text));
        let prefix = Prefix::of(slug, version).unwrap();
        Arc::new(Files::of(Arc::new(world.collect().unwrap()), &prefix).unwrap())
    }

    /// Of which several stand in one order as paths, in another one as bytes, and are the beginning of others.
    const NAMES: [&str; 14] = [
        "index.html",
        "a.html",
        "a-b/x",
        "a-b.html",
        "a/b",
        "a/b.html",
        "a/b-c/d",
        "a/c/d/e",
        "a0/b",
        "a%2Fb",
        "B/a b+?#",
        "z/z/z",
        "ü/ß%C3.html",
        "ü.html",
    ];

    #[test]
    fn every_key_is_found_and_nothing_else_is() {
        let files = files(("p", "1"), &NAMES.map(|name| (name, "")));
        let keys: Vec<_> = (0..files.len()).map(|n| files.key(n).unwrap()).collect();
        let wanted: BTreeSet<_> = NAMES.iter().map(|name| format!("p/1/{name}")).collect();
        assert_eq!(keys.iter().cloned().collect::<BTreeSet<_>>(), wanted);
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(files.find(key), Some(n), "{key}");
            for odd in [
                format!("{key}.bak"),
                format!("{key}/"),
                format!("{key}/x"),
                key[..key.len() - 1].to_owned(),
                key.replace("p/1/", "p/1//"),
                key.replace("p/1/", "p/1/./"),
                key.replace("p/1/", "p/10/"),
                key.replace("p/1/", "p/1/x/../"),
                key.replace("a/", "a//").replace("z/", "z/./"),
            ] {
                let found = files.find(&odd);
                assert_eq!(found.is_some(), wanted.contains(&odd), "{odd}");
            }
        }
        for odd in ["", "p/1", "p/1/", "p/1/a", "p/1/a/c/d", "p/1/a/", "p/1//"] {
            assert_eq!(files.find(odd), None, "{odd}");
        }
    }

    #[test]
    fn directories_have_files_at_any_depth() {
        let files = files(("p", "1"), &NAMES.map(|name| (name, "")));
        for is in ["a/", "a/c/", "a/c/d/", "a-b/", "z/", "z/z/", "ü/"] {
            assert!(files.are_in(is), "{is}");
        }
        for no in [
            "", "/", "//", "a", "a//", "a/b/", "/a/", "a/./c/", "b/", "c/",
        ] {
            assert!(!files.are_in(no), "{no}");
        }
    }

    #[test]
    fn an_empty_output_has_no_files() {
        let files = files(("p", "1"), &[]);
        assert_eq!((files.len(), files.find("p/1/index.html")), (0, None));
        assert!(!files.are_in("a/"));
    }
}
