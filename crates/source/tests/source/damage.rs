//! A mirror that is damaged: found, made again once, and told.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use bryo_model::{CachedKind, SourceSpec};
use bryo_source::SourceCache;

use crate::bed::{
    Bed, build, commit, fetch, git, git_command, git_in, head, mirror, silent, source, write,
};
use crate::trouble::{packs, spoil_packs, writable};

/// Damages a mirror that has everything and a checkout of nothing, then builds, and builds once more.
async fn is_repaired(damage: impl FnOnce(&Path, &Bed)) {
    is_repaired_at(false, damage).await;
}

/// The same where only a fetch looks at what is damaged.
async fn is_repaired_at_the_next_fetch(damage: impl FnOnce(&Path, &Bed)) {
    is_repaired_at(true, damage).await;
}

async fn is_repaired_at(next_fetch: bool, damage: impl FnOnce(&Path, &Bed)) {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let spec = source(&repo, None);
    fetch(&cache, &spec).await.unwrap();
    damage(&mirror(&cache), &bed);
    if next_fetch {
        commit(&repo, "second and a half");
    }
    let told = build_and_listen(&cache, &spec).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("was damaged and has been made again"),
        "{told:?}"
    );
    write(&repo, "README.md", "three\n");
    commit(&repo, "third");
    let told = build_and_listen(&cache, &spec).await;
    assert!(told.is_empty(), "{told:?}");
}

async fn build_and_listen(cache: &SourceCache, spec: &SourceSpec) -> Vec<String> {
    let fetched = fetch(cache, spec).await.unwrap();
    let checkout = cache.checkout(&fetched, silent()).await.unwrap();
    assert_eq!(git_in(&checkout, &["status", "--porcelain"]), "");
    let fsck = ["fsck", "--connectivity-only", "--no-dangling"];
    assert_eq!(git_in(&checkout, &fsck), "");
    [fetched.notices(), checkout.notices()].concat()
}

#[tokio::test]
async fn a_truncated_pack() {
    is_repaired(|mirror, _| {
        for pack in packs(mirror) {
            let half = fs::metadata(&pack).unwrap().len() / 2;
            writable(&pack).set_len(half).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_pack_of_garbage() {
    is_repaired(|mirror, _| spoil_packs(mirror)).await;
}

#[tokio::test]
async fn a_truncated_index_of_a_pack() {
    is_repaired(|mirror, _| {
        for pack in packs(mirror) {
            writable(&pack.with_extension("idx")).set_len(100).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn one_missing_object() {
    is_repaired(|mirror, bed| {
        let blob = git(mirror, &["rev-parse", "main:docs/en/index.md"]);
        // All others one by one, without that one.
        for pack in packs(mirror) {
            let aside = bed.path("aside.pack");
            fs::rename(&pack, &aside).unwrap();
            fs::remove_file(pack.with_extension("idx")).unwrap();
            let input = fs::File::open(&aside).unwrap();
            let done = git_command(mirror)
                .args(["unpack-objects", "-q"])
                .stdin(input)
                .status();
            assert!(done.unwrap().success());
        }
        fs::remove_file(mirror.join("objects").join(&blob[..2]).join(&blob[2..])).unwrap();
    })
    .await;
}

#[tokio::test]
async fn no_objects_at_all() {
    is_repaired(|mirror, _| fs::remove_dir_all(mirror.join("objects/pack")).unwrap()).await;
}

#[tokio::test]
async fn a_ref_that_was_half_written() {
    is_repaired_at_the_next_fetch(|mirror, bed| {
        let half = &head(&bed.path("project"))[..17];
        fs::write(mirror.join("refs/heads/main"), half).unwrap();
    })
    .await;
}

#[tokio::test]
async fn packed_refs_that_were_half_written() {
    is_repaired_at_the_next_fetch(|mirror, _| {
        git(mirror, &["pack-refs", "--all"]);
        let refs = mirror.join("packed-refs");
        let text = fs::read_to_string(&refs).unwrap();
        fs::write(&refs, &text[..text.len() - 30]).unwrap();
    })
    .await;
}

#[tokio::test]
async fn no_head() {
    is_repaired(|mirror, _| fs::remove_file(mirror.join("HEAD")).unwrap()).await;
}

/// A job has the objects mounted: here they are open, which keeps no less.
#[tokio::test]
async fn jobs_that_run_keep_what_they_have_of_a_damaged_mirror() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let mut jobs = Vec::new();
    for round in ["one", "two"] {
        write(&repo, "README.md", round);
        commit(&repo, round);
        let (fetched, checkout) = build(&cache, &source(&repo, None)).await;
        assert_eq!(fetched.notices().len(), usize::from(!jobs.is_empty()));
        jobs.push((fs::File::open(checkout.objects()).unwrap(), checkout));
        fs::remove_file(mirror(&cache).join("HEAD")).unwrap();
    }
    commit(&repo, "three");
    drop(build(&cache, &source(&repo, None)).await);
    let asides = || {
        let all = cache.list().unwrap().into_iter();
        all.filter(|one| one.kind == CachedKind::Mirror && one.worthless)
            .collect::<Vec<_>>()
    };
    let aside = asides();
    assert_eq!(aside.len(), 2, "{aside:#?}");
    for one in &aside {
        assert!(one.in_use && one.bytes > 0 && !cache.remove(one).unwrap());
    }
    cache.sweep().unwrap();
    for (objects, checkout) in &jobs {
        let mounted = format!("/proc/{}/fd/{}", std::process::id(), objects.as_raw_fd());
        let shown = git_command(checkout.tree())
            .env("GIT_OBJECT_DIRECTORY", mounted)
            .args(["fsck", "--connectivity-only", "--no-dangling"])
            .status();
        assert!(shown.unwrap().success());
    }
    drop(jobs);
    for one in &aside {
        assert!(cache.remove(one).unwrap());
    }
    assert!(asides().is_empty());
    let (fetched, _) = build(&cache, &source(&repo, None)).await;
    assert!(fetched.was_cached());
}

/// Locks and temporary files of a git that was killed are no damage: they are removed, and nothing is fetched again.
#[tokio::test]
async fn stale_locks() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let spec = source(&repo, None);
    fetch(&cache, &spec).await.unwrap();
    let mirror = mirror(&cache);
    let left = [
        "refs/heads/main.lock",
        "packed-refs.lock",
        "HEAD.lock",
        "config.lock",
    ];
    fs::write(mirror.join("bryo-fetching"), b"").unwrap();
    for name in left {
        fs::write(mirror.join(name), b"").unwrap();
    }
    let packs_before = packs(&mirror);
    write(&repo, "README.md", "three\n");
    commit(&repo, "third");
    assert!(build_and_listen(&cache, &spec).await.is_empty());
    assert!(left.iter().all(|name| !mirror.join(name).exists()));
    let after = packs(&mirror);
    assert!(packs_before.iter().all(|pack| after.contains(pack)));
}
