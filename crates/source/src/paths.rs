//! Where everything of the cache is.

use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bryo_model::{CommitId, GitUrl};
use sha2::{Digest, Sha256};

use crate::credentials::Identity;

/// Ends the name of a checkout with files in Git LFS.
const LFS: &str = ".lfs";

/// Ends the name of a mirror that is no longer one.
const ASIDE: &str = ".old";

/// The directory scheme below the cache's root.
///
/// ```text
/// <root>/                          0700: a mirror may be of a private repository
///   CACHEDIR.TAG                   tells backup programs to leave it out
///   mirrors/
///     <key>.lock                   flock: exclusive to change the mirror, shared to make a checkout from it
///     <key>.use                    flock: exclusive to remove the mirror, shared from the fetch to the end of the job;
///                                  dated with the last use
///     <key>/                       a bare repository
///       objects/                   bind-mounted read-only over a checkout's `.git/objects`
///       lfs/objects/               objects of Git LFS, where a source was asked for with them
///       bryo-refs                  the mirror's refs as a checkout's `.git/packed-refs`; replaced by rename only
///       bryo-stamp                 local repositories: the state of the source's tags at the last fetch
///       bryo-fetching              present while git writes; found at a start, it tells that leftovers are to be removed
///     <key>.new/                   a mirror being made
///     <key>.<number>.old/          a mirror that was damaged and that jobs may still have mounted, or one being removed
///   private/                       what git must be told and nobody else may know, where there is no better place
///     <pid>-<number>/              of one fetch; removed at its end
///   checkouts/
///     <key>/<commit>/              with pointers where the repository has pointers of Git LFS
///     <key>/<commit>.lfs/          the same with the files themselves
///       lock                       flock: exclusive to make or remove it, shared while a job uses it; dated with the
///                                  last use
///       tree/                      the work tree with its `.git`; never changed once `ready` is there
///       tree.new/                  a work tree being made
///       ready                      written last: what it was made of, submodules included
///       size                       bytes and files, once somebody wanted to know
/// ```
///
/// Order of locks: `use` of the mirrors, a checkout's, `lock` of the mirrors (shared, by their names). Whoever holds a
/// mirror's `lock` only tries for a checkout's. An evictor takes `lock` exclusively before it removes a checkout, and both
/// locks of a mirror, and only tries for any of them; so does whoever repacks.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

/// The name of one repository in the cache: a word that a person recognises and a hash of the whole address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryKey(String);

impl RepositoryKey {
    /// One repository has a mirror for each who asks and for each depth of its history.
    pub(crate) fn of_url(url: &GitUrl, identity: &Identity, depth: Option<u32>) -> Self {
        let depth = depth.map(|depth| depth.to_string()).unwrap_or_default();
        let address = url.normalised();
        let parts = [address.as_str(), &identity.text(), &depth];
        Self::new(b"url", &parts.map(str::as_bytes))
    }

    pub(crate) fn of_path(canonical: &Path) -> Self {
        Self::new(b"path", &[canonical.as_os_str().as_bytes()])
    }

    /// One that stands in the cache.
    pub(crate) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The first part is what people recognise. No part has a NUL in it.
    fn new(kind: &[u8], parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        hash.update(kind);
        for part in parts {
            hash.update(b"\0");
            hash.update(part);
        }
        let address = parts.first().copied().unwrap_or_default();
        let mut name = recognisable(&String::from_utf8_lossy(address));
        name.push('-');
        for byte in &hash.finalize()[..16] {
            // Writing to a String cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        Self(name)
    }
}

impl fmt::Display for RepositoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The last part of an address that says something, in letters that are safe in a path.
fn recognisable(address: &str) -> String {
    let part = address
        .trim_end_matches('/')
        .rsplit(['/', ':'])
        .find(|p| !matches!(*p, "" | ".git"))
        .unwrap_or_default();
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let word: String = part
        .trim_end_matches(".git")
        .chars()
        .map(|c| if safe(c) { c } else { '_' })
        .take(32)
        .collect();
    if word.is_empty() {
        "repository".to_owned()
    } else {
        word
    }
}

impl Paths {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The cache's root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of all mirrors.
    #[must_use]
    pub fn mirrors(&self) -> PathBuf {
        self.root.join("mirrors")
    }

    pub(crate) fn private(&self) -> PathBuf {
        self.root.join("private")
    }

    /// The directory of all checkouts.
    #[must_use]
    pub fn checkouts(&self) -> PathBuf {
        self.root.join("checkouts")
    }

    /// The bare mirror of one repository.
    #[must_use]
    pub fn mirror(&self, key: &RepositoryKey) -> PathBuf {
        self.mirrors().join(&key.0)
    }

    /// The lock of that mirror.
    #[must_use]
    pub fn mirror_lock(&self, key: &RepositoryKey) -> PathBuf {
        self.mirrors().join(format!("{key}.lock"))
    }

    pub(crate) fn mirror_use(&self, key: &RepositoryKey) -> PathBuf {
        self.mirrors().join(format!("{key}.use"))
    }

    pub(crate) fn mirror_new(&self, key: &RepositoryKey) -> PathBuf {
        self.mirrors().join(format!("{key}.new"))
    }

    /// Where a mirror is put aside: there may be several.
    pub(crate) fn mirror_aside(&self, key: &RepositoryKey, number: usize) -> PathBuf {
        self.mirrors().join(format!("{key}.{number}{ASIDE}"))
    }

    /// Whether a name in the directory of all mirrors is of one that was put aside, and whose it was.
    pub(crate) fn aside_of(name: &str) -> Option<RepositoryKey> {
        let word = name.strip_suffix(ASIDE)?;
        let key = match word.rsplit_once('.') {
            Some((key, number)) if number.bytes().all(|b| b.is_ascii_digit()) => key,
            _ => word,
        };
        (!key.is_empty()).then(|| RepositoryKey::named(key))
    }

    /// The directory of one checkout: its tree, its marker and its lock.
    #[must_use]
    pub fn checkout(&self, key: &RepositoryKey, commit: &CommitId) -> PathBuf {
        self.checkouts().join(&key.0).join(commit.as_str())
    }

    /// That of the checkout that has its files in Git LFS.
    pub(crate) fn checkout_lfs(&self, key: &RepositoryKey, commit: &CommitId) -> PathBuf {
        self.checkouts().join(&key.0).join(format!("{commit}{LFS}"))
    }

    /// What the name of a checkout's directory means: a commit, and whether it is the one with files in Git LFS.
    pub(crate) fn checkout_of(name: &str) -> Option<(CommitId, bool)> {
        let commit = name.strip_suffix(LFS);
        Some((commit.unwrap_or(name).parse().ok()?, commit.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_recognisable_and_differs_with_the_address() {
        let of = |url: &str, identity, depth| {
            RepositoryKey::of_url(&url.parse().unwrap(), &identity, depth).to_string()
        };
        let key = |url: &str| of(url, Identity::Anonymous, None);
        let a = key("https://example.org/org/repo.git");
        assert!(a.starts_with("repo-") && a.len() == 5 + 32, "{a}");
        assert_ne!(a, key("https://example.org/other/repo.git"));
        assert!(key("git@example.org:thing").starts_with("thing-"));
        assert_eq!(a, key("https://Example.org:443/org/repo/"));
        let others = [
            Identity::Own,
            Identity::Rule("x".into()),
            Identity::Rule("y".into()),
        ];
        let mut keys = others
            .map(|who| of("https://example.org/org/repo", who, None))
            .to_vec();
        keys.push(of(
            "https://example.org/org/repo",
            Identity::Anonymous,
            Some(1),
        ));
        keys.push(a);
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 5, "{keys:?}");
        assert!(key("https://example.org/...").starts_with("___-"));
        let path = |p: &str| RepositoryKey::of_path(Path::new(p)).to_string();
        assert!(path("/srv/docs/.git").starts_with("docs-"));
        assert!(path("/").starts_with("repository-"));
        assert_ne!(path("/srv/x"), key("file:///srv/x"));
    }
}
