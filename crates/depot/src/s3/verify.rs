//! The last look before a publication is said to be complete: what is below the prefix is what was published, no more and
//! no less.
//!
//! Objects are compared by key, size and entity tag, so that nothing is read. Tags are compared with those that the store
//! gave when the objects were put, and only where both are sums of the same kind: other stores may tell two tags of
//! one object. They are compared as they are listed, and not kept.

use std::collections::HashMap;

use super::api::Listed;
use super::plan::Planned;
use super::tag::{Tag, contradict};

/// What a publication has put or left as it was, by key.
#[derive(Debug, Default)]
pub(crate) struct Published(HashMap<String, Object>);

/// An object as it should be.
#[derive(Debug)]
struct Object {
    /// Without its key, which the map has, and with nothing known of what was there before.
    file: Planned,
    size: u64,
    tag: Option<Tag>,
}

impl Published {
    pub(crate) fn add(&mut self, mut file: Planned, size: u64, tag: Option<Tag>) {
        file.there = None;
        let key = std::mem::take(&mut file.key);
        self.0.insert(key, Object { file, size, tag });
    }

    /// Begins to compare what is there with it.
    pub(crate) fn compare(&self) -> Comparison<'_> {
        let missing = self.0.iter().map(|(key, object)| (&**key, object));
        Comparison {
            missing: missing.collect(),
            different: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// Takes these out again: the files that must be put once more, and the keys that are no file's.
    pub(crate) fn take(&mut self, odd: Vec<String>) -> (Vec<Planned>, Vec<String>) {
        let mut again = Vec::new();
        let mut stale = Vec::new();
        for key in odd {
            match self.0.remove(&key) {
                Some(object) => again.push(Planned { key, ..object.file }),
                None => stale.push(key),
            }
        }
        again.sort_by_key(|file| file.phase);
        (again, stale)
    }
}

/// What is there beside what should be.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    missing: HashMap<&'a str, &'a Object>,
    different: Vec<String>,
    /// Those of no file.
    unknown: Vec<String>,
}

impl Comparison<'_> {
    /// An object that is there.
    pub(crate) fn see(&mut self, there: Listed) {
        match self.missing.remove(&*there.key) {
            Some(object) if object.size == there.size && !contradict(object.tag, there.tag) => {}
            Some(_) => self.different.push(there.key),
            None => self.unknown.push(there.key),
        }
    }

    /// The keys of objects that are not as they were published, sorted: others, none, or such as should not be there.
    /// `expected` tells of those that are no file's and may be there.
    pub(crate) fn odd(self, expected: impl Fn(&str) -> bool) -> Vec<String> {
        let mut odd = self.unknown;
        odd.retain(|key| !expected(key));
        odd.extend(self.different);
        odd.extend(self.missing.into_keys().map(str::to_owned));
        odd.sort();
        odd
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Phase;
    use super::*;

    const A: &str = "0cc175b9c0f1b6a831c399e269772661";
    const B: &str = "92eb5ffee6ae2fec3ad71c777531578f";

    fn listed(key: &str, size: u64, etag: &str) -> Listed {
        Listed {
            key: key.to_owned(),
            size,
            tag: Tag::read(etag),
        }
    }

    fn published() -> Published {
        let mut published = Published::default();
        for (key, phase, etag) in [
            ("p/1/a.html", Phase::Pages, Some(A)),
            ("p/1/b", Phase::Assets, None),
        ] {
            let file = Planned {
                file: 0,
                key: key.to_owned(),
                phase,
                there: Tag::read(A),
            };
            published.add(file, 1, etag.and_then(Tag::read));
        }
        published
    }

    fn odd(objects: &[Listed], expected: impl Fn(&str) -> bool) -> Vec<String> {
        let published = published();
        let mut comparison = published.compare();
        objects
            .iter()
            .for_each(|there| comparison.see(there.clone()));
        comparison.odd(expected)
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
    fn what_is_odd_is_put_again_pages_last() {
        let mut published = published();
        let odd = ["p/1/0", "p/1/a.html", "p/1/b"].map(str::to_owned);
        let (again, stale) = published.take(odd.to_vec());
        let keys: Vec<_> = again.iter().map(|file| &*file.key).collect();
        assert_eq!(
            (keys.as_slice(), stale.as_slice()),
            (&["p/1/b", "p/1/a.html"][..], &odd[..1])
        );
        assert!(
            again.iter().all(|file| file.there.is_none()),
            "nothing is known of what is there"
        );
        assert!(published.0.is_empty());
    }
}
