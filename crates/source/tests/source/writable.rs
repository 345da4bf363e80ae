//! Trees that their owner may change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bryo_model::CachedKind;
use bryo_source::SourceError;

use crate::bed::{Bed, build, commit, fetch, git, head, silent, source, write};

/// Every path below a directory with its size and date. Git dates a pack anew that has what it would write already; where
/// the mirror is mounted read-only it does not.
fn state(dir: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut all = Vec::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                rest.push(path.clone());
            }
            let date = match path.extension() {
                Some(pack) if pack == "pack" => (0, 0),
                _ => (meta.mtime(), meta.mtime_nsec()),
            };
            all.push((path, meta.size(), date.0, date.1));
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn what_is_done_in_one_is_seen_nowhere_else() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let (fetched, checkout) = build(&cache, &source(&repo, None)).await;
    let mirror = crate::bed::mirror(&cache);
    let before = (state(&mirror), state(checkout.tree()));

    let [one, other] = ["one", "other"].map(|name| bed.path(name));
    let trees = [
        cache
            .worktree(&fetched, &one, None, silent())
            .await
            .unwrap(),
        cache
            .worktree(&fetched, &other, None, silent())
            .await
            .unwrap(),
    ];
    assert_eq!(trees[0].path(), one);
    assert_eq!(git(&one, &["status", "--porcelain"]), "");
    // A change of the same length in the second of the checkout is seen.
    write(&one, "README.md", "TWO\n");
    assert_eq!(git(&one, &["status", "--porcelain"]), " M README.md");
    git(&one, &["checkout", "-q", "-b", "topic"]);
    let topic = commit(&one, "topic");
    git(&one, &["gc", "-q"]);
    assert_eq!(git(&one, &["log", "--format=%s"]), "topic\nsecond\nfirst");
    assert!(git(&one, &["describe"]).starts_with("v1.0-2-g"));
    git(&one, &["fsck"]);

    assert_eq!(git(&other, &["status", "--porcelain"]), "");
    assert_eq!(
        fs::read_to_string(other.join("README.md")).unwrap(),
        "two\n"
    );
    assert_eq!((state(&mirror), state(checkout.tree())), before);
    let known = crate::bed::git_command(&mirror)
        .args(["cat-file", "-e", &topic])
        .output();
    assert!(!known.unwrap().status.success());
    // No file of it is one of anybody else's.
    assert_eq!(fs::metadata(other.join("README.md")).unwrap().nlink(), 1);

    // It needs the mirror, and holds it.
    drop((fetched, checkout));
    let all = cache.list().unwrap();
    let entry = all
        .iter()
        .find(|one| one.kind == CachedKind::Mirror)
        .unwrap();
    assert!(entry.in_use && !cache.remove(entry).unwrap());
    drop(trees);
    assert!(cache.remove(entry).unwrap());
}

#[tokio::test]
async fn its_objects_may_be_seen_elsewhere() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let fetched = fetch(&cache, &source(&repo, None)).await.unwrap();
    let (to, seen) = (bed.path("tree"), bed.path("mounted"));
    let tree = cache
        .worktree(&fetched, &to, Some(&seen), silent())
        .await
        .unwrap();
    fs::create_dir(&seen).unwrap();
    for (objects, place) in tree.objects() {
        assert!(place.starts_with(&seen));
        std::os::unix::fs::symlink(objects, place).unwrap();
    }
    assert_eq!(head(&to), head(&repo));
    assert_eq!(git(&to, &["status", "--porcelain"]), "");
    let config = fs::read_to_string(to.join(".git/config")).unwrap();
    assert!(
        !config.contains("remote") && !config.contains("url"),
        "{config}"
    );
}

#[tokio::test]
async fn nothing_that_is_there_is_touched() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let fetched = fetch(&cache, &source(&repo, None)).await.unwrap();
    let to = bed.path("there");
    write(&to, "mine", "x");
    let error = cache
        .worktree(&fetched, &to, None, silent())
        .await
        .unwrap_err();
    assert!(matches!(error, SourceError::Io { .. }), "{error:?}");
    assert_eq!(fs::read_to_string(to.join("mine")).unwrap(), "x");
}
