//! The last look before a publication is said to be complete: what is below the prefix is what was published, no more and
//! no less.
//!
//! Objects are compared by key, size and entity tag, so that nothing is read. Tags are compared with those that the store
//! gave when the objects were put, and only where both are sums of the same kind: other stores may tell two tags of one
//! object. They are compared as they are listed; kept are only the keys that are no file's.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::api::Listed;
use super::files::Files;
use super::tag::{Tag, contradict};
use crate::DepotError;

/// The objects of a version: those of its files, by their numbers, and what is beside them.
pub(crate) struct Objects {
    files: Arc<Files>,
    /// Before a file is put, the tag of the object that may be the same; then that of the object that is to be there.
    tags: Vec<Option<Tag>>,
    looks: Vec<Look>,
    beside: BTreeSet<String>,
}

/// What the last list told of a file's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Missing,
    Same,
    Different,
}

impl Objects {
    /// Before anything is listed.
    pub(crate) fn of(files: Arc<Files>) -> Self {
        Self {
            tags: vec![None; files.len()],
            looks: vec![Look::Missing; files.len()],
            beside: BTreeSet::new(),
            files,
        }
    }

    pub(crate) fn files(&self) -> Arc<Files> {
        Arc::clone(&self.files)
    }

    /// An object that was there before. It may be the same if it has the same size.
    pub(crate) fn found(&mut self, there: Listed) {
        match self.files.find(&there.key) {
            Some(n) => self.tags[n] = there.tag.filter(|_| there.size == self.files.size(n)),
            None => drop(self.beside.insert(there.key)),
        }
    }

    /// Nothing is known of what is there.
    pub(crate) fn forget(&mut self) {
        self.tags.fill(None);
    }

    /// The keys of what was seen and is no file's, which are forgotten.
    pub(crate) fn take_beside(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.beside)
    }

    /// Whether file `n` was not seen to be there as it should be.
    pub(crate) fn wants(&self, n: usize) -> bool {
        self.looks[n] != Look::Same
    }

    pub(crate) fn tag(&self, n: usize) -> Option<Tag> {
        self.tags[n]
    }

    /// File `n` is put.
    pub(crate) fn put(&mut self, n: usize, tag: Option<Tag>) {
        self.tags[n] = tag;
    }

    /// Begins to compare what is there with what should be.
    pub(crate) fn look(&mut self) {
        self.looks.fill(Look::Missing);
        self.beside.clear();
    }

    /// An object that is there.
    pub(crate) fn see(&mut self, there: Listed) {
        let Some(n) = self.files.find(&there.key) else {
            self.beside.insert(there.key);
            return;
        };
        let same = there.size == self.files.size(n) && !contradict(self.tags[n], there.tag);
        self.looks[n] = match self.looks[n] {
            Look::Missing if same => Look::Same,
            // Also one that is listed twice.
            _ => Look::Different,
        };
    }

    /// Ends it: the key of an object that is not as it should be: another one, none, or one that should not be there.
    /// `expected` tells of those that are no file's and may be there.
    pub(crate) fn odd(
        &mut self,
        expected: impl Fn(&str) -> bool,
    ) -> Result<Option<String>, DepotError> {
        self.beside.retain(|key| !expected(key));
        match (0..self.files.len()).find(|&n| self.wants(n)) {
            Some(n) => self.files.key(n).map(Some),
            None => Ok(self.beside.first().cloned()),
        }
    }

    /// Files that are not as they should be are to be put whatever is there; the keys of what should not be there.
    pub(crate) fn again(&mut self) -> Vec<String> {
        for (tag, look) in self.tags.iter_mut().zip(&self.looks) {
            if *look != Look::Same {
                *tag = None;
            }
        }
        self.take_beside().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::files;
    use super::*;

    const A: &str = "0cc175b9c0f1b6a831c399e269772661";
    const B: &str = "92eb5ffee6ae2fec3ad71c777531578f";

    fn listed(key: &str, size: u64, tag: &str) -> Listed {
        Listed {
            key: key.to_owned(),
            size,
            tag: Tag::read(tag),
        }
    }

    /// Files of one byte each; of one the store has told no tag.
    fn published() -> Objects {
        let files = files(("p", "1"), &[("a.html", "1"), ("b", "1")]);
        let a = files.find("p/1/a.html").unwrap();
        let mut published = Objects::of(files);
        published.put(a, Tag::read(A));
        published
    }

    fn see(objects: &[Listed]) -> Objects {
        let mut published = published();
        // What an earlier look has seen counts no more.
        published.see(listed("p/1/b", 1, B));
        published.see(listed("p/1/stranger", 1, B));
        published.look();
        objects.iter().for_each(|one| published.see(one.clone()));
        published
    }

    /// The keys of what is odd.
    fn odd(objects: &[Listed], expected: impl Fn(&str) -> bool) -> Vec<String> {
        let mut published = see(objects);
        let told = published.odd(expected).unwrap();
        let files = published.files();
        let mut odd: Vec<_> = (0..files.len())
            .filter(|&n| published.wants(n))
            .map(|n| files.key(n).unwrap())
            .collect();
        odd.extend(published.again());
        odd.sort();
        assert_eq!(told.is_none(), odd.is_empty());
        assert!(told.is_none_or(|told| odd.contains(&told)));
        odd
    }

    #[test]
    fn what_is_odd_is_found() {
        let whole = [listed("p/1/a.html", 1, A), listed("p/1/b", 1, B)];
        let found = |objects: &[Listed]| odd(objects, |_| false);
        assert_eq!(found(&whole), [""; 0]);
        let another = [listed("p/1/a.html", 1, B), listed("p/1/b", 1, B)];
        assert_eq!(found(&another), ["p/1/a.html"]);
        let longer = [listed("p/1/a.html", 2, A), listed("p/1/b", 1, B)];
        assert_eq!(found(&longer), ["p/1/a.html"]);
        assert_eq!(found(&whole[..1]), ["p/1/b"]);
        let more = [&[listed("p/1/0", 1, A)], &whole[..1]].concat();
        assert_eq!(found(&more), ["p/1/0", "p/1/b"]);
        let twice = [&another[..1], &whole].concat();
        assert_eq!(found(&twice), ["p/1/a.html"]);
    }

    #[test]
    fn what_is_expected_is_not_odd() {
        let objects = [
            listed("p/1/2/c", 1, A),
            listed("p/1/a.html", 1, A),
            listed("p/1/b", 1, B),
        ];
        let found = |is: bool| odd(&objects, |key| is && key == "p/1/2/c");
        assert_eq!(found(true), [""; 0]);
        assert_eq!(found(false), ["p/1/2/c"]);
        // A file of the version is what it should be, or it is not.
        let longer = [listed("p/1/a.html", 2, A), listed("p/1/b", 1, B)];
        assert_eq!(odd(&longer, |_| true), ["p/1/a.html"]);
    }

    #[test]
    fn what_is_odd_is_put_again_whatever_is_there() {
        for (objects, wanted, tag) in [
            (
                [listed("p/1/0", 1, A), listed("p/1/a.html", 1, B)],
                [true, true],
                None,
            ),
            (
                [listed("p/1/0", 1, A), listed("p/1/a.html", 1, A)],
                [false, true],
                Tag::read(A),
            ),
        ] {
            let mut published = see(&objects);
            assert!(published.odd(|_| false).unwrap().is_some());
            assert_eq!(published.again(), ["p/1/0"]);
            assert_eq!([0, 1].map(|n| published.wants(n)), wanted);
            assert_eq!([0, 1].map(|n| published.tag(n)), [tag, None]);
        }
    }

    #[test]
    fn what_was_there_may_be_the_same_if_it_has_the_same_size() {
        let mut objects = Objects::of(published().files);
        objects.found(listed("p/1/a.html", 1, A));
        objects.found(listed("p/1/b", 2, B));
        objects.found(listed("p/1/old", 1, B));
        assert_eq!([0, 1].map(|n| objects.tag(n)), [Tag::read(A), None]);
        assert!(
            objects.wants(0) && objects.wants(1),
            "looked at all the same"
        );
        assert_eq!(
            objects.take_beside().into_iter().collect::<Vec<_>>(),
            ["p/1/old"]
        );
        objects.forget();
        assert_eq!(objects.tag(0), None);
    }
}
