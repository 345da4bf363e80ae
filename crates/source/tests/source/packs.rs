//! Mirrors that have been fetched into many times.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::bed::{Bed, build, commit, fetch, git, git_in, mirror, open, source, write};
use crate::trouble::packs;

/// Names the cache that [`the_packer`] works on.
const CACHE: &str = "BRYO_TEST_PACKED_CACHE";

/// More than a mirror may have without being worth a repack.
const FETCHES: usize = 52;

#[tokio::test]
async fn many_packs_become_one_when_nobody_uses_them_and_nothing_is_lost() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    // A commit that nothing leads to later.
    write(&repo, "README.md", "lonely\n");
    let lonely = commit(&repo, "lonely");
    drop(build(&cache, &source(&repo, None)).await);
    git(&repo, &["reset", "-q", "--hard", "HEAD~1"]);
    for n in 0..FETCHES {
        write(&repo, "README.md", &format!("{n}\n"));
        commit(&repo, "more");
        drop(fetch(&cache, &source(&repo, None)).await.unwrap());
    }
    let mirror = mirror(&cache);
    assert!(packs(&mirror).len() > FETCHES);

    let held = fetch(&cache, &source(&repo, None)).await.unwrap();
    assert!(cache.repack().await.unwrap().is_empty());
    drop(held);
    let done = cache.repack().await.unwrap();
    assert_eq!(done, [mirror.file_name().unwrap().to_str().unwrap()]);
    assert_eq!(packs(&mirror).len(), 1);
    assert!(cache.repack().await.unwrap().is_empty());

    git(&mirror, &["cat-file", "-e", &lonely]);
    let (fetched, checkout) = build(&cache, &source(&repo, None)).await;
    assert!(fetched.was_cached() && checkout.notices().is_empty());
    assert_eq!(
        git_in(&checkout, &["fsck", "--connectivity-only", "--no-dangling"]),
        ""
    );
}

/// Not a test, but the process that the next one kills.
#[tokio::test]
async fn the_packer() {
    if let Some(dir) = std::env::var_os(CACHE) {
        open(Path::new(&dir)).repack().await.unwrap();
    }
}

#[tokio::test]
async fn a_repack_that_is_killed_costs_nothing() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let mut cut_short = 0;
    for round in 0..3_u32 {
        for n in 0..FETCHES {
            write(&repo, "README.md", &format!("{round} {n}\n"));
            commit(&repo, "more");
            drop(fetch(&cache, &source(&repo, None)).await.unwrap());
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "packs::the_packer"])
            .env(CACHE, cache.paths().root())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let marker = mirror(&cache).join("bryo-fetching");
        let since = Instant::now();
        while !marker.exists() && child.try_wait().unwrap().is_none() {
            assert!(since.elapsed() < crate::bed::SOON);
            std::thread::sleep(Duration::from_micros(100));
        }
        std::thread::sleep(Duration::from_millis(7) * round);
        cut_short += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        write(&repo, "README.md", &format!("after {round}\n"));
        commit(&repo, "after");
        let (fetched, checkout) = build(&cache, &source(&repo, None)).await;
        assert!(fetched.notices().is_empty() && checkout.notices().is_empty());
        assert_eq!(
            git_in(&checkout, &["fsck", "--connectivity-only", "--no-dangling"]),
            ""
        );
        assert!(!marker.exists());
    }
    assert!(cut_short > 0);
}
