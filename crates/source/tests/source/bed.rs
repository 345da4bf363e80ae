//! What the stories need: a directory of their own, repositories in it, and git without anybody's configuration.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bryo_model::{Amount, Scheme, SourceSpec};
use bryo_source::{Checkout, Fetched, Progress, SourceCache, SourceError, SourcePolicy};
use tempfile::TempDir;

/// No step of a story takes longer unless something is wrong.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) struct Bed {
    dir: TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn cache(&self) -> SourceCache {
        open(&self.path("cache"))
    }

    /// A repository with two commits on `main`, an annotated tag on the first, and a branch `dev`.
    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        let repo = self.path(name);
        fs::create_dir_all(repo.join("docs/en")).unwrap();
        git(&repo, &["init", "-q", "-b", "main"]);
        write(&repo, "README.md", "one\n");
        write(&repo, "docs/en/index.md", "# Hello\n");
        commit(&repo, "first");
        git(&repo, &["tag", "-a", "v1.0", "-m", "one"]);
        git(&repo, &["branch", "dev"]);
        write(&repo, "README.md", "two\n");
        commit(&repo, "second");
        repo
    }
}

/// A cache that may fetch from the servers of the stories.
pub(crate) fn open(root: &Path) -> SourceCache {
    SourceCache::open(root)
        .unwrap()
        .with_policy(Arc::new(on_loopback()))
}

/// Plain http, and this host.
pub(crate) fn on_loopback() -> SourcePolicy {
    SourcePolicy {
        protocols: Scheme::ALL.into(),
        reach: vec!["127.0.0.0/8".parse().unwrap()],
        ..SourcePolicy::default()
    }
}

pub(crate) fn write(repo: &Path, name: &str, text: &str) {
    let path = repo.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

pub(crate) fn commit(repo: &Path, message: &str) -> String {
    git(repo, &["add", "-A"]);
    git(repo, &["commit", "-q", "--allow-empty", "-m", message]);
    head(repo)
}

pub(crate) fn head(repo: &Path) -> String {
    git(repo, &["rev-parse", "HEAD"])
}

pub(crate) fn git_command(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("LC_ALL", "C")
        .env("GIT_AUTHOR_NAME", "A")
        .env("GIT_AUTHOR_EMAIL", "a@example.org")
        .env("GIT_COMMITTER_NAME", "A")
        .env("GIT_COMMITTER_EMAIL", "a@example.org")
        .current_dir(dir);
    command
}

/// Runs git and returns what it wrote, without the last line end.
pub(crate) fn git(dir: &Path, args: &[&str]) -> String {
    said(git_command(dir).args(args).output().unwrap(), args)
}

/// As [`git`], in a checkout, with the mirror's objects and refs where a sandbox mounts them.
pub(crate) fn git_in(checkout: &Checkout, args: &[&str]) -> String {
    let output = git_command(checkout.tree())
        .env("GIT_OBJECT_DIRECTORY", checkout.objects())
        .env("GIT_OPTIONAL_LOCKS", "0")
        .args(args)
        .output()
        .unwrap();
    said(output, args)
}

fn said(output: Output, args: &[&str]) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {args:?}: {stderr}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

/// A source by path or address and, perhaps, reference.
pub(crate) fn source(location: impl AsRef<Path>, reference: Option<&str>) -> SourceSpec {
    let location = location.as_ref().to_str().unwrap();
    SourceSpec {
        location: location.parse().unwrap(),
        reference: reference.map(|r| r.parse().unwrap()),
        subdir: None,
    }
}

pub(crate) fn silent() -> Progress {
    Arc::new(|_| {})
}

/// Progress that can be looked at afterwards.
pub(crate) fn recorded() -> (Progress, Arc<Mutex<Vec<Amount>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    (
        Arc::new(move |amount| sink.lock().unwrap().push(amount)),
        seen,
    )
}

pub(crate) async fn fetch(cache: &SourceCache, spec: &SourceSpec) -> Result<Fetched, SourceError> {
    tokio::time::timeout(SOON, cache.fetch(spec, silent()))
        .await
        .expect("the fetch hangs")
}

pub(crate) async fn build(cache: &SourceCache, spec: &SourceSpec) -> (Fetched, Checkout) {
    let fetched = fetch(cache, spec).await.unwrap();
    let checkout = cache.checkout(&fetched, silent()).await.unwrap();
    assert_eq!(checkout.commit(), fetched.commit());
    (fetched, checkout)
}

pub(crate) fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

/// The only mirror of a cache.
pub(crate) fn mirror(cache: &SourceCache) -> PathBuf {
    let mut found = fs::read_dir(cache.paths().mirrors())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir() && p.extension().is_none());
    let mirror = found.next().unwrap();
    assert!(found.next().is_none(), "more than one mirror");
    mirror
}

#[expect(clippy::print_stderr, reason = "a story that is left out must be seen")]
pub(crate) fn skipped(what: &str) {
    eprintln!("SKIPPED: {what}");
}
