//! Files in Git LFS: repositories that the real git-lfs has made, and pointers that it never would.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bryo_model::CachedKind;
use bryo_source::{Checkout, ReachedLimit, SourceCache, SourceError, SourceLimits, SourcePolicy};

use crate::bed::{
    Bed, build, commit, fetch, git, git_in, inode, mirror, on_loopback, silent, source, write,
};

const TEXT: &str = "a picture\n";
/// The SHA-256 of [`TEXT`] stands in no story: it is read from the pointer.
const PLACE: &str = "art/big.bin";

/// A repository with one file in Git LFS, as git-lfs leaves it.
fn repository(bed: &Bed, name: &str) -> PathBuf {
    let repo = bed.repository(name);
    git(&repo, &["lfs", "install", "--local"]);
    git(&repo, &["lfs", "track", "*.bin"]);
    write(&repo, PLACE, TEXT);
    commit(&repo, "a picture");
    repo
}

fn cache(bed: &Bed, lfs: bool, bytes: u64) -> SourceCache {
    let limits = SourceLimits {
        bytes,
        ..SourceLimits::default()
    };
    let policy = SourcePolicy {
        lfs,
        limits,
        ..on_loopback()
    };
    SourceCache::open(&bed.path("cache"))
        .unwrap()
        .with_policy(Arc::new(policy))
}

fn with_lfs(bed: &Bed) -> SourceCache {
    cache(bed, true, 1 << 30)
}

fn address(repo: &Path) -> String {
    format!("file://{}", repo.display())
}

fn text(checkout: &Checkout) -> String {
    fs::read_to_string(checkout.tree().join(PLACE)).unwrap()
}

/// The only object below a directory of git-lfs.
fn object(git_dir: &Path) -> PathBuf {
    let mut at = git_dir.join("lfs/objects");
    while at.is_dir() {
        let mut inside = fs::read_dir(&at).unwrap().map(|e| e.unwrap().path());
        at = inside.next().unwrap();
        assert!(inside.next().is_none());
    }
    at
}

fn spoil(object: &Path) {
    let mut permissions = fs::metadata(object).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    fs::set_permissions(object, permissions).unwrap();
    let spoiled = TEXT.replace('a', "o");
    fs::write(object, spoiled).unwrap();
}

async fn refused(cache: &SourceCache, location: &str) -> String {
    match fetch(cache, &source(location, None)).await.unwrap_err() {
        error @ SourceError::Lfs { .. } => {
            assert!(error.hint().is_some());
            error.to_string()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_tree_has_pointers_or_what_they_point_to_as_asked() {
    let bed = Bed::new();
    let repo = repository(&bed, "app");
    let url = address(&repo);
    let (_, plain) = build(&cache(&bed, false, 1 << 30), &source(&url, None)).await;
    assert!(text(&plain).starts_with("version https://git-lfs"));
    assert_eq!(
        plain.notices(),
        ["files kept in Git LFS are not fetched: the tree has their pointers"]
    );

    let cache = with_lfs(&bed);
    let (fetched, full) = build(&cache, &source(&url, None)).await;
    assert!(!fetched.was_cached());
    assert_eq!(text(&full), TEXT);
    assert!(full.notices().is_empty(), "{:?}", full.notices());
    assert_eq!(git_in(&full, &["status", "--porcelain"]), "");
    assert!(text(&plain).starts_with("version"), "it is another tree");

    // Neither needs the repository again, and neither is taken for the other.
    let id = full.commit().as_str().to_owned();
    fs::rename(&repo, bed.path("gone")).unwrap();
    for (lfs, starts) in [(true, TEXT), (false, "version")] {
        let (fetched, again) =
            build(&self::cache(&bed, lfs, 1 << 30), &source(&url, Some(&id))).await;
        assert!(fetched.was_cached() && text(&again).starts_with(starts));
    }
    let checkouts = cache.list().unwrap();
    let checkouts = checkouts.iter().filter(|c| c.kind == CachedKind::Checkout);
    assert_eq!(checkouts.count(), 2);
}

#[tokio::test]
async fn objects_are_counted_and_removed_with_the_mirror() {
    let bed = Bed::new();
    let repo = repository(&bed, "app");
    let url = address(&repo);
    let size = |cache: &SourceCache| {
        let all = cache.list().unwrap();
        let mirror = all.iter().find(|c| c.kind == CachedKind::Mirror).unwrap();
        (mirror.files, mirror.clone())
    };
    drop(build(&cache(&bed, false, 1 << 30), &source(&url, None)).await);
    let cache = with_lfs(&bed);
    let before = size(&cache).0;
    drop(build(&cache, &source(&url, None)).await);
    let (after, entry) = size(&cache);
    assert!(after > before, "{after} {before}");
    assert!(object(&mirror(&cache)).is_file());
    assert!(cache.remove(&entry).unwrap());
    assert!(cache.list().unwrap().is_empty());
}

#[tokio::test]
async fn a_path_gives_what_its_own_repository_has() {
    let bed = Bed::new();
    let repo = repository(&bed, "app");
    let (_, checkout) = build(&with_lfs(&bed), &source(&repo, None)).await;
    assert_eq!(text(&checkout), TEXT);
}

#[tokio::test]
async fn files_are_linked_from_trees_of_the_same_kind_alone() {
    let bed = Bed::new();
    let repo = repository(&bed, "app");
    let cache = with_lfs(&bed);
    let (_, first) = build(&cache, &source(&repo, None)).await;
    write(&repo, "README.md", "three\n");
    commit(&repo, "third");
    let (_, plain) = build(&self::cache(&bed, false, 1 << 30), &source(&repo, None)).await;
    assert!(text(&plain).starts_with("version"));
    let (_, second) = build(&cache, &source(&repo, None)).await;
    assert_eq!(text(&second), TEXT);
    let of = |checkout: &Checkout| inode(&checkout.tree().join(PLACE));
    assert_eq!(of(&first), of(&second));

    // Without the attribute the same pointer is a text like others.
    fs::remove_file(repo.join(".gitattributes")).unwrap();
    git(&repo, &["rm", "-q", "--cached", ".gitattributes"]);
    git(&repo, &["commit", "-q", "-m", "no attributes"]);
    let (_, third) = build(&cache, &source(&repo, None)).await;
    assert!(text(&third).starts_with("version"), "{}", text(&third));
}

#[tokio::test]
async fn an_object_that_is_missing_or_another_one_is_named() {
    let bed = Bed::new();
    let repo = repository(&bed, "app");
    let there = object(&repo.join(".git"));
    let oid = there.file_name().unwrap().to_str().unwrap().to_owned();
    let cache = with_lfs(&bed);
    spoil(&there);
    let told = refused(&cache, &address(&repo)).await;
    assert!(told.contains(PLACE) && told.contains(&oid), "{told}");
    assert!(told.contains("its SHA-256 is "), "{told}");
    fs::write(&there, "longer than a picture\n").unwrap();
    let told = refused(&cache, &address(&repo)).await;
    assert!(told.contains("larger than the 10 bytes"), "{told}");
    fs::remove_file(&there).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &there).unwrap();
    let told = refused(&cache, &address(&repo)).await;
    assert!(told.contains("cannot be read"), "{told}");
    fs::remove_file(&there).unwrap();
    let told = refused(&cache, &address(&repo)).await;
    assert!(told.contains(&oid) && told.contains("not there"), "{told}");
    // Nothing of it stays, and the repository that is whole again is enough.
    fs::write(&there, TEXT).unwrap();
    let (_, checkout) = build(&cache, &source(address(&repo), None)).await;
    assert_eq!(text(&checkout), TEXT);
}

#[tokio::test]
async fn an_object_that_was_spoiled_in_the_cache_gets_into_no_tree() {
    let bed = Bed::new();
    let repo = repository(&bed, "app");
    let cache = with_lfs(&bed);
    let spec = source(address(&repo), None);
    let fetched = fetch(&cache, &spec).await.unwrap();
    spoil(&object(&mirror(&cache)));
    // It is brought again.
    let checkout = cache.checkout(&fetched, silent()).await.unwrap();
    assert_eq!(text(&checkout), TEXT);
}

#[tokio::test]
async fn what_pointers_promise_is_bounded_before_anything_is_fetched() {
    let bed = Bed::new();
    let repo = repository(&bed, "app");
    let oid = "ab".repeat(32);
    let huge = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 9223372036854775807\n"
    );
    // Stored as it is: the filter would take it for content.
    write(&repo, ".gitattributes", "*.bin filter=lfs\n*.txt -filter\n");
    write(&repo, "huge.txt", &huge);
    commit(&repo, "huge");
    let cache = with_lfs(&bed);
    let error = fetch(&cache, &source(address(&repo), None))
        .await
        .unwrap_err();
    let SourceError::Limit { limit, .. } = error else {
        panic!("{error:?}");
    };
    assert!(matches!(limit, ReachedLimit::Lfs { .. }), "{limit:?}");
    assert!(limit.to_string().ends_with("(source.bytes)"), "{limit}");
    assert!(!mirror(&cache).join("lfs").exists());
}

#[tokio::test]
async fn what_looks_like_a_pointer_and_is_none_stays_and_is_told() {
    let bed = Bed::new();
    let repo = repository(&bed, "app");
    let bad = "version https://git-lfs.github.com/spec/v1\noid sha256:../../../../../../etc/passwd\nsize 1\n";
    write(&repo, "bad.txt", bad);
    commit(&repo, "bad");
    let (_, checkout) = build(&with_lfs(&bed), &source(address(&repo), None)).await;
    let kept = fs::read_to_string(checkout.tree().join("bad.txt")).unwrap();
    assert_eq!((kept.as_str(), text(&checkout).as_str()), (bad, TEXT));
    let notices = checkout.notices();
    assert!(
        notices.len() == 1 && notices[0].contains("bad.txt"),
        "{notices:?}"
    );
}
