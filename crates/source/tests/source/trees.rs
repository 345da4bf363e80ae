//! The files of a commit and their index.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bryo_model::Amount;
use bryo_source::Progress;

use crate::bed::{Bed, build, commit, fetch, git, git_in, mirror, recorded, silent, source, write};
use crate::corpus::raw_tree;
use crate::hostile::raw_commit;
use crate::trouble::packs;

/// More than one thread takes at a time, in directories that stand among files of nearly their names.
fn many_files(repo: &std::path::Path) {
    for n in 0..300 {
        // Paths of all lengths: an entry of the index has a multiple of eight bytes.
        let long = "x".repeat(n % 9 + 1);
        write(repo, &format!("d{}/{n}-{long}", n % 7), &format!("{n}\n"));
    }
    for name in [
        "a",
        "a.b",
        "a-b/c",
        "ab/c",
        "a0",
        "d1.x",
        "d1-x",
        "with space/ä",
    ] {
        write(repo, name, name);
    }
    fs::set_permissions(repo.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../a.b", repo.join("d3/link")).unwrap();
    symlink("nowhere", repo.join("z")).unwrap();
}

#[tokio::test]
async fn the_index_has_all_files_as_the_commit_has_them() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    many_files(&repo);
    commit(&repo, "many");
    let (_, checkout) = build(&bed.cache(), &source(&repo, None)).await;

    let in_tree = git(
        &repo,
        &[
            "ls-tree",
            "-r",
            "--format=%(objectmode) %(objectname) 0\t%(path)",
            "HEAD",
        ],
    );
    assert_eq!(git_in(&checkout, &["ls-files", "--stage"]), in_tree);
    // Which looks at the checksum and at the order.
    assert_eq!(git_in(&checkout, &["fsck", "--connectivity-only"]), "");
    let index = git2::Index::open(&checkout.tree().join(".git/index")).unwrap();
    assert_eq!(index.len(), in_tree.lines().count());
    for entry in index.iter() {
        let path = checkout.tree().join(str::from_utf8(&entry.path).unwrap());
        let size = fs::symlink_metadata(&path).unwrap().len();
        assert_eq!(u64::from(entry.file_size), size, "{}", path.display());
        assert_ne!(entry.mtime.seconds(), 0, "{}", path.display());
    }
    assert_eq!(git_in(&checkout, &["status", "--porcelain"]), "");
}

/// Git sorts, but takes what is not sorted from a server that does not check.
#[tokio::test]
async fn a_tree_that_is_not_sorted_has_an_index_that_is() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let repository = git2::Repository::open(&repo).unwrap();
    let blob = repository.blob(b"text\n").unwrap();
    let sub = raw_tree(&repository, &[("100644", "z", blob), ("100644", "b", blob)]);
    let entries = [
        ("40000", "m", sub),
        ("100644", "z", blob),
        ("100644", "m.x", blob),
        ("100755", "a", blob),
    ];
    raw_commit(&repo, &entries);

    let (_, checkout) = build(&bed.cache(), &source(&repo, None)).await;
    assert_eq!(git_in(&checkout, &["ls-files"]), "a\nm.x\nm/b\nm/z\nz");
    assert_eq!(git_in(&checkout, &["diff-files"]), "");
    assert_eq!(fs::read(checkout.tree().join("m/b")).unwrap(), b"text\n");
}

/// More than all threads together are handed ahead of what is made.
const MANY: usize = 5000;

const TICK: Duration = Duration::from_millis(1);

#[tokio::test]
async fn what_breaks_off_among_many_files_is_made_again_whole() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    for n in 0..MANY {
        write(
            &repo,
            &format!("d{}/f{n}", n / 100),
            &format!("{n} {}\n", n * 7919),
        );
    }
    commit(&repo, "many");
    let cache = bed.cache();
    let fetched = fetch(&cache, &source(&repo, None)).await.unwrap();
    // Where the pack has files.
    for pack in packs(&mirror(&cache)) {
        let file = fs::File::options().write(true).open(&pack);
        let file = file.or_else(|_| {
            fs::set_permissions(&pack, fs::Permissions::from_mode(0o600))?;
            fs::File::options().write(true).open(&pack)
        });
        let file = file.unwrap();
        let size = file.metadata().unwrap().len();
        file.write_all_at(&[0xff; 4096], size / 2).unwrap();
    }
    let checkout = cache.checkout(&fetched, silent()).await.unwrap();
    assert!(
        checkout
            .notices()
            .iter()
            .any(|n| n.contains("has been made again")),
        "{:?}",
        checkout.notices()
    );
    assert_eq!(git_in(&checkout, &["status", "--porcelain"]), "");
    let files = git(&repo, &["ls-files"]);
    assert_eq!(git_in(&checkout, &["ls-files"]), files);
}

#[tokio::test]
async fn a_checkout_that_nobody_waits_for_is_not_written_to_its_end() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    for n in 0..MANY {
        write(&repo, &format!("d{}/f{n}", n / 100), &format!("{n}\n"));
    }
    commit(&repo, "many");
    let cache = bed.cache();
    let fetched = fetch(&cache, &source(&repo, None)).await.unwrap();
    // Nothing more is made than is under way, until it has been left.
    let left = Arc::new(AtomicBool::new(false));
    let (record, seen) = recorded();
    let held = Arc::clone(&left);
    let progress: Progress = Arc::new(move |amount| {
        record(amount);
        while !held.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
        }
    });
    let mut checkout = Box::pin(cache.checkout(&fetched, progress));
    while seen.lock().unwrap().is_empty() {
        assert!(tokio::time::timeout(TICK, &mut checkout).await.is_err());
    }
    drop(checkout);
    left.store(true, Ordering::Relaxed);
    // Which waits for the other one's lock.
    drop(cache.checkout(&fetched, silent()).await.unwrap());
    let last = seen.lock().unwrap().last().copied();
    assert!(
        matches!(last, Some(Amount::Items { done, total }) if done < total),
        "{last:?}"
    );
}
