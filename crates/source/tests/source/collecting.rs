//! What is removed of a cache that others use at the same time.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bryo_model::{Cached, CachedKind};
use bryo_source::{Checkout, SourceCache};
use tokio::sync::{Barrier, watch};

use crate::bed::{Bed, build, commit, fetch, git_in, head, silent, source, write};

/// Names the cache that [`the_collector`] empties.
const CACHE: &str = "BRYO_TEST_COLLECTED_CACHE";

fn find<'a>(all: &'a [Cached], kind: CachedKind, part: &str) -> &'a Cached {
    let mut found = all
        .iter()
        .filter(|one| one.kind == kind && one.name.contains(part));
    let one = found.next().unwrap_or_else(|| panic!("no {kind} {part}"));
    assert!(found.next().is_none());
    one
}

/// Removes everything that is not in use, in the order in which the list has it.
fn remove_all(cache: &SourceCache) -> usize {
    let all = cache.list().unwrap();
    all.iter().filter(|one| cache.remove(one).unwrap()).count()
}

fn is_whole(checkout: &Checkout) {
    assert_eq!(git_in(checkout, &["status", "--porcelain"]), "");
    assert_eq!(
        git_in(checkout, &["fsck", "--connectivity-only", "--no-dangling"]),
        ""
    );
}

fn files_in(cache: &SourceCache) -> Vec<PathBuf> {
    let dirs = [cache.paths().mirrors(), cache.paths().checkouts()];
    dirs.iter()
        .flat_map(|dir| fs::read_dir(dir).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[tokio::test]
async fn what_a_job_uses_stays_and_everything_else_goes() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let first = head(&repo);
    let held = build(&cache, &source(&repo, None)).await.1;
    write(&repo, "README.md", &"three\n".repeat(10_000));
    let second = commit(&repo, "third");
    drop(build(&cache, &source(&repo, None)).await);

    let all = cache.list().unwrap();
    assert_eq!(all.len(), 3, "{all:#?}");
    let (one, other) = (
        find(&all, CachedKind::Checkout, &first),
        find(&all, CachedKind::Checkout, &second),
    );
    let mirror = find(&all, CachedKind::Mirror, "project");
    assert!(one.in_use && mirror.in_use && !other.in_use, "{all:#?}");
    assert!(all.iter().all(|one| !one.worthless && one.bytes > 0));
    assert!(other.bytes >= one.bytes + 50_000, "{all:#?}");
    // Measured once, and the same from then on.
    let again = cache.list().unwrap();
    assert_eq!(find(&again, CachedKind::Checkout, &second), other);

    assert!(!cache.remove(mirror).unwrap());
    assert!(!cache.remove(one).unwrap());
    assert!(cache.remove(other).unwrap());
    is_whole(&held);
    assert_eq!(cache.list().unwrap().len(), 2);
    drop(held);
    assert!(cache.remove(mirror).unwrap());
    assert_eq!(files_in(&cache), Vec::<PathBuf>::new());

    let (fetched, checkout) = build(&cache, &source(&repo, None)).await;
    assert!(!fetched.was_cached() && checkout.notices().is_empty());
    is_whole(&checkout);
}

#[tokio::test]
async fn a_fetched_mirror_stays_until_its_checkout_is_made() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let fetched = fetch(&cache, &source(&repo, None)).await.unwrap();
    assert_eq!(remove_all(&cache), 0);
    let checkout = cache.checkout(&fetched, silent()).await.unwrap();
    is_whole(&checkout);
    drop(fetched);
    assert_eq!(remove_all(&cache), 0);
    is_whole(&checkout);
}

#[tokio::test]
async fn a_use_makes_young_and_a_mirror_is_never_older_than_its_checkouts() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let first = head(&repo);
    drop(build(&cache, &source(&repo, None)).await);
    let second = commit(&repo, "third");
    drop(build(&cache, &source(&repo, None)).await);
    let used = |part: &str, kind| {
        let all = cache.list().unwrap();
        find(&all, kind, part).last_used
    };
    let of = |commit: &str| used(commit, CachedKind::Checkout);
    assert!(of(&first) < of(&second));
    drop(build(&cache, &source(&repo, Some(&first))).await);
    assert!(of(&first) > of(&second));
    assert!(used("project", CachedKind::Mirror) >= of(&first));
}

#[tokio::test]
async fn halves_are_worthless_and_locks_of_nothing_are_swept() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    drop(build(&cache, &source(&repo, None)).await);
    let mirror = crate::bed::mirror(&cache);
    let checkout = cache.paths().checkouts().join(mirror.file_name().unwrap());
    let checkout = checkout.join(head(&repo));
    fs::remove_file(checkout.join("ready")).unwrap();
    fs::rename(&mirror, mirror.with_extension("old")).unwrap();
    let all = cache.list().unwrap();
    assert!(
        all.len() == 2 && all.iter().all(|one| one.worthless),
        "{all:#?}"
    );
    assert_eq!(remove_all(&cache), 2);

    fetch(&cache, &source(bed.path("none"), None))
        .await
        .unwrap_err();
    let url = format!("file://{}", bed.path("none").display());
    fetch(&cache, &source(url, None)).await.unwrap_err();
    assert_ne!(files_in(&cache), Vec::<PathBuf>::new());
    for one in cache.list().unwrap() {
        assert!(cache.remove(&one).unwrap());
    }
    cache.sweep().unwrap();
    assert_eq!(files_in(&cache), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn attempts_have_whole_checkouts_whatever_is_removed_meanwhile() {
    const ROUNDS: usize = 25;
    let bed = Bed::new();
    let repo = bed.repository("project");
    let commits = [head(&repo), commit(&repo, "third")];
    let cache = bed.cache();
    let over = Arc::new(AtomicBool::new(false));
    let (passed, passes) = watch::channel(0_usize);
    let collector = {
        let (cache, over) = (cache.clone(), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut removed = 0;
            while !over.load(Ordering::Relaxed) {
                removed += remove_all(&cache);
                cache.sweep().unwrap();
                passed.send_modify(|n| *n += 1);
            }
            removed
        })
    };
    let together = Arc::new(Barrier::new(4));
    let mut attempts = tokio::task::JoinSet::new();
    for commit in commits.iter().chain(&commits) {
        let (cache, spec) = (cache.clone(), source(&repo, Some(commit)));
        let (together, mut passes) = (Arc::clone(&together), passes.clone());
        attempts.spawn(async move {
            for _ in 0..ROUNDS {
                // Nobody holds anything for a whole pass; then all begin, beside the next one.
                together.wait().await;
                let seen = *passes.borrow();
                passes.wait_for(|n| *n >= seen + 2).await.unwrap();
                let (fetched, checkout) = build(&cache, &spec).await;
                let told = [fetched.notices(), checkout.notices()].concat();
                assert!(told.is_empty(), "{told:?}");
                is_whole(&checkout);
            }
        });
    }
    attempts.join_all().await;
    over.store(true, Ordering::Relaxed);
    let removed = collector.join().unwrap();
    assert!(removed > ROUNDS, "only {removed} things were removed");
}

/// Not a test, but the process that the next one kills.
#[test]
fn the_collector() {
    if let Some(dir) = std::env::var_os(CACHE) {
        let cache = SourceCache::open(dir.as_ref()).unwrap();
        writeln!(std::io::stdout(), "begins").unwrap();
        while remove_all(&cache) > 0 {}
    }
}

#[tokio::test]
async fn a_collection_that_is_killed_leaves_what_the_next_attempt_uses() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    for n in 0..400 {
        write(&repo, &format!("many/{}/{n}.md", n % 7), "x\n");
    }
    commit(&repo, "many");
    let cache = bed.cache();
    let mut half = 0;
    for round in 0..24_u32 {
        let (fetched, checkout) = build(&cache, &source(&repo, None)).await;
        let told = [fetched.notices(), checkout.notices()].concat();
        assert!(told.is_empty(), "{told:?}");
        is_whole(&checkout);
        drop((fetched, checkout));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "collecting::the_collector", "--nocapture"])
            .env(CACHE, cache.paths().root())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let begun = lines
            .map_while(Result::ok)
            .any(|line| line.ends_with("begins"));
        assert!(begun);
        // Another moment in each round; the machine's own rhythm does the rest.
        let moment = Duration::from_micros(300) * round;
        let since = Instant::now();
        while since.elapsed() < moment {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        half += usize::from(cache.list().unwrap().iter().any(|one| one.worthless));
    }
    // Without that, no kill was half-way and nothing was shown.
    assert!(half > 0);
    // The last kill may have come when nothing but locks was left.
    remove_all(&cache);
    cache.sweep().unwrap();
    assert_eq!(files_in(&cache), Vec::<PathBuf>::new());
}
