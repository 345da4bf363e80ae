//! How long it takes. Run with `cargo test --release -p bryo-source -- --ignored --nocapture speed`.

use std::time::{Duration, Instant};

use crate::bed::{Bed, build, commit, fetch, silent, source, write};

/// What a warm fetch and checkout of a local repository may take.
const WARM: Duration = Duration::from_millis(1);

#[tokio::test]
#[ignore = "prints numbers, takes half a minute"]
#[expect(clippy::print_stderr, reason = "its purpose")]
async fn speed_of_twenty_thousand_files() {
    let bed = Bed::new();
    let repo = bed.repository("large");
    for n in 0..20_000 {
        write(
            &repo,
            &format!("d{}/e{}/f{n}", n / 1000, n / 100),
            &format!("{n}\n").repeat(300),
        );
    }
    commit(&repo, "large");
    let cache = bed.cache();
    let start = Instant::now();
    let fetched = fetch(&cache, &source(&repo, None)).await.unwrap();
    let cold_fetch = start.elapsed();
    let start = Instant::now();
    let held = cache.checkout(&fetched, silent()).await.unwrap();
    let cold_checkout = start.elapsed();

    let mut warm: Vec<_> = Vec::new();
    for _ in 0..1000 {
        let start = Instant::now();
        build(&cache, &source(&repo, None)).await;
        warm.push(start.elapsed());
    }
    warm.sort();
    let start = Instant::now();
    crate::bed::git_in(&held, &["status", "--porcelain"]);
    let status = start.elapsed();
    write(&repo, "one-more", "x");
    commit(&repo, "one more");
    let start = Instant::now();
    let _next = fetch(&cache, &source(&repo, None)).await.unwrap();
    let update = start.elapsed();
    eprintln!(
        "cold fetch {cold_fetch:?}, cold checkout {cold_checkout:?}, fetch of one commit more {update:?}"
    );
    eprintln!("git status inside {status:?}");
    eprintln!(
        "warm fetch + checkout: median {:?}, 99 % {:?}",
        warm[500], warm[990]
    );
    assert!(warm[500] < WARM);
}
