//! Which objects below a version's prefix Bryo has put there. Nothing else there is ever deleted.
//!
//! ```text
//! .bryo/files/<slug>/<version>.keys/<attempt>     eight bytes that say the format, then eight of each key's sum, in order
//! ```
//!
//! An attempt writes a list of its own before it puts its first object: of what it is to put, and of what earlier ones
//! have put and is there still. Only then are the earlier lists superfluous; they are deleted at the end. Lists of
//! attempts that go on beside this one have other names and stay, so whoever looks last knows what those have put too.
//!
//! *Why sums?* There may be a million keys, and nobody has to read them from here. *Why not in the record?* It is written
//! again every few seconds.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::api::Listed;
use super::client::{Client, LONGEST_ANSWER};
use super::files::Files;
use super::headers::Headers;
use super::prefix::Prefix;
use crate::DepotError;

/// How a list begins; another beginning is another format.
const FORMAT: &[u8; 8] = b"bryokey1";

/// How many keys a list holds. What is beyond them stays when it is stale.
const MOST: usize = 1_500_000;

/// Keys that Bryo has put, as far as lists tell.
#[derive(Debug, Default)]
pub(crate) struct Ours {
    /// Where the lists are.
    place: String,
    /// In order, each once.
    sums: Vec<u64>,
    /// The lists that were read.
    read: BTreeSet<String>,
}

impl Ours {
    /// What is known of the version in `prefix`.
    pub(crate) async fn of(client: &Client, prefix: &Prefix) -> Result<Self, DepotError> {
        let mut ours = Self {
            place: prefix.lists(),
            ..Self::default()
        };
        ours.look(client).await?;
        Ok(ours)
    }

    /// Reads the lists that were not there before.
    pub(crate) async fn look(&mut self, client: &Client) -> Result<(), DepotError> {
        let mut new = Vec::new();
        let each = |list: Listed| {
            // Lists of a version whose name goes on here lie further down; what is too long, or called otherwise, is none.
            let attempt = list.key.strip_prefix(&*self.place).unwrap_or_default();
            let is_list = attempt.len() == 16 && attempt.bytes().all(|b| b.is_ascii_hexdigit());
            if is_list && list.size <= LONGEST_ANSWER as u64 && !self.read.contains(&list.key) {
                new.push(list.key);
            }
        };
        client.list(&self.place, each).await?;
        for key in new {
            if let Some(list) = client.get(&key).await? {
                self.sums.extend(sums(&list.bytes));
                self.read.insert(key);
            }
        }
        self.sums.sort_unstable();
        self.sums.dedup();
        Ok(())
    }

    /// Whether nobody has written down what is ours.
    pub(crate) fn is_unknown(&self) -> bool {
        self.sums.is_empty()
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.sums.binary_search(&sum(key)).is_ok()
    }

    /// The lists that were read.
    pub(crate) fn lists(&self) -> Vec<String> {
        self.read.iter().cloned().collect()
    }

    /// The list that `attempt` is to write. `stale` is what it will delete; `None`: it repairs, and all that was ever ours
    /// may still come.
    pub(crate) fn next(&mut self, attempt: &str, stale: Option<&[String]>) -> List {
        let key = format!("{}{attempt}", self.place);
        self.read.insert(key.clone());
        let carried = match stale {
            Some(stale) => stale.iter().map(|key| sum(key)).collect(),
            None => self.sums.clone(),
        };
        List { key, carried }
    }

    #[cfg(test)]
    pub(crate) fn knowing(keys: &[&str]) -> Self {
        let sums: BTreeSet<_> = keys.iter().map(|key| sum(key)).collect();
        Self {
            sums: sums.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// A list that is not written yet.
#[derive(Debug)]
pub(crate) struct List {
    key: String,
    carried: Vec<u64>,
}

impl List {
    /// Writes it: the keys of `files`, and those that are carried on.
    pub(crate) async fn write(&self, client: &Client, files: &Files) -> Result<(), DepotError> {
        let content = self.content(files)?;
        let headers = Headers {
            content_type: "application/octet-stream".to_owned(),
            cache_control: Some("no-store".to_owned()),
        };
        client.put(&self.key, &headers, &content).await.map(drop)
    }

    fn content(&self, files: &Files) -> Result<Bytes, DepotError> {
        let all = (0..files.len()).map(|n| files.key(n).map(|key| sum(&key)));
        let mut all = all.take(MOST).collect::<Result<Vec<_>, DepotError>>()?;
        all.extend(self.carried.iter().take(MOST - all.len()));
        all.sort_unstable();
        all.dedup();
        let mut content = Vec::with_capacity(FORMAT.len() + 8 * all.len());
        content.extend_from_slice(FORMAT);
        all.iter()
            .for_each(|sum| content.extend_from_slice(&sum.to_be_bytes()));
        Ok(content.into())
    }
}

/// Of a list; of what is none there are none.
fn sums(list: &[u8]) -> impl Iterator<Item = u64> {
    let sums = list.strip_prefix(FORMAT).unwrap_or_default();
    sums.as_chunks::<8>()
        .0
        .iter()
        .map(|sum| u64::from_be_bytes(*sum))
}

fn sum(key: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = md5::compute(key).0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::files;
    use super::*;

    #[test]
    fn a_list_holds_what_is_put_and_what_is_carried_on() {
        let mut ours = Ours::knowing(&["p/1/stale.html", "p/1/gone.html", "p/1/a"]);
        let files = files(("p", "1"), &[("a", "1"), ("b/c", "1")]);
        let stale = ["p/1/stale.html".to_owned()];
        for (stale, gone, length) in [(Some(&stale[..]), false, 4), (None, true, 5)] {
            let content = ours.next("x", stale).content(&files).unwrap();
            assert_eq!(content.len(), 8 * length);
            let mut read = Ours::knowing(&[]);
            read.sums.extend(sums(&content));
            assert!(read.sums.is_sorted());
            for key in ["p/1/a", "p/1/b/c", "p/1/stale.html"] {
                assert!(read.has(key), "{key}");
            }
            assert_eq!(read.has("p/1/gone.html"), gone);
            assert!(!read.has("p/1/stranger.html") && !read.has("p/1/b/"));
        }
    }

    #[test]
    fn what_is_no_list_says_nothing() {
        for odd in [
            &b""[..],
            b"bryokey2\0\0\0\0\0\0\0\0",
            b"<html>",
            b"bryokey1\0\0\0",
        ] {
            assert_eq!(sums(odd).count(), 0, "{odd:?}");
        }
        assert_eq!(sums(b"bryokey1\0\0\0\0\0\0\0\x01").collect::<Vec<_>>(), [1]);
    }
}
