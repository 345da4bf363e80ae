//! Things that break: servers, processes, disks.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use bryo_source::{SourceCache, SourceError};

use crate::bed::{
    Bed, SOON, build, commit, fetch, head, inode, mirror, recorded, silent, source, write,
};
use crate::http::{Manner, Server};

/// How long dropping a fetch may take.
const PROMPTLY: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_server_that_hangs_is_left_at_once() {
    let bed = Bed::new();
    bed.repository("project");
    let server = Server::start(&bed.path(""));
    let url = server.url("project/.git");
    let cache = bed.cache();
    server.behave(Manner::Hangs);
    let spec = source(&url, None);
    let mut hanging = Box::pin(cache.fetch(&spec, silent()));
    while server.requests() == 0 {
        let tick = Duration::from_millis(10);
        assert!(tokio::time::timeout(tick, &mut hanging).await.is_err());
    }
    let start = Instant::now();
    drop(hanging);
    assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    // The connection ends because git has ended, not because anybody asked.
    let server = tokio::task::spawn_blocking(move || {
        server.wait_for_hang_up();
        server
    });
    let server = server.await.unwrap();

    server.behave(Manner::Honest);
    fetch(&cache, &spec).await.unwrap();
}

#[tokio::test]
async fn a_pack_that_breaks_off_leaves_a_usable_mirror() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let server = Server::start(&bed.path(""));
    let spec = source(server.url("project/.git"), None);
    let cache = bed.cache();
    server.behave(Manner::DropsMidPack);
    let error = fetch(&cache, &spec).await.unwrap_err();
    assert!(
        matches!(error, SourceError::Unreachable { .. }),
        "{error:?}"
    );
    server.behave(Manner::Honest);
    let (fetched, _) = build(&cache, &spec).await;
    assert!(fetched.notices().is_empty());
    assert_eq!(fetched.commit().as_str(), head(&repo));
}

#[tokio::test]
async fn what_a_killed_git_left_is_no_obstacle() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    build(&cache, &source(&repo, None)).await;
    write(&repo, "README.md", "three\n");
    commit(&repo, "third");
    let mirror = mirror(&cache);
    let left = [
        "bryo-fetching",
        "refs/heads/main.lock",
        "packed-refs.lock",
        "shallow.lock",
        "objects/pack/tmp_pack_x",
    ];
    for name in left {
        fs::write(mirror.join(name), b"").unwrap();
    }
    let (fetched, _) = build(&cache, &source(&repo, None)).await;
    assert_eq!(fetched.commit().as_str(), head(&repo));
    assert!(fetched.notices().is_empty(), "{:?}", fetched.notices());
    for name in left {
        assert!(!mirror.join(name).exists(), "{name}");
    }
}

/// Git shows its pack before it has looked for what is missing, and before a reference leads to it.
#[tokio::test]
async fn a_pack_of_a_fetch_that_was_killed_is_not_a_commit() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let server = Server::start(&bed.path(""));
    let url = server.url("project/.git");
    for (n, first) in [true, false].into_iter().enumerate() {
        let cache = crate::bed::open(&bed.path(&format!("cache-{n}")));
        let commit = head(&repo);
        fetch(&cache, &source(&url, Some(&commit))).await.unwrap();
        // As a fetch leaves it that is killed after its pack: the first of a mirror, and a later one.
        let mirror = mirror(&cache);
        fs::write(mirror.join("bryo-fetching"), b"").unwrap();
        crate::bed::git(
            &mirror,
            &["update-ref", "-d", &format!("refs/bryo/commits/{commit}")],
        );
        if first {
            fs::remove_file(mirror.join("bryo-refs")).unwrap();
        } else {
            fs::write(
                mirror.join("bryo-refs"),
                "# pack-refs with: peeled fully-peeled sorted \n",
            )
            .unwrap();
        }
        let (fetched, checkout) = build(&cache, &source(&url, Some(&commit))).await;
        assert!(fetched.notices().is_empty(), "{:?}", fetched.notices());
        let described = crate::bed::git_in(&checkout, &["describe", "--tags"]);
        assert!(described.starts_with("v1.0-1-g"), "{described}");
        assert!(!mirror.join("bryo-fetching").exists());
    }
}

/// What came before a fetch that failed needs no network after it.
#[tokio::test]
async fn a_fetch_that_fails_takes_nothing_from_the_mirror() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let server = Server::start(&bed.path(""));
    let url = server.url("project/.git");
    let cache = bed.cache();
    let had = head(&repo);
    fetch(&cache, &source(&url, Some(&had))).await.unwrap();
    write(&repo, "README.md", "three\n");
    commit(&repo, "third");
    for manner in [Manner::DropsMidPack, Manner::Overloaded] {
        server.behave(manner);
        fetch(&cache, &source(&url, None)).await.unwrap_err();
        let (fetched, _) = build(&cache, &source(&url, Some(&had))).await;
        assert!(fetched.was_cached());
        cache
            .remove(
                &cache
                    .list()
                    .unwrap()
                    .into_iter()
                    .find(|c| c.kind == bryo_model::CachedKind::Checkout)
                    .unwrap(),
            )
            .unwrap();
    }
}

#[tokio::test]
async fn a_tree_half_made_is_made_again() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let (fetched, checkout) = build(&cache, &source(&repo, None)).await;
    let dir = checkout.tree().parent().unwrap().to_owned();
    drop((fetched, checkout));
    // As a process leaves it that is killed before the marker, and as an earlier boot leaves it.
    let marker = fs::read_to_string(dir.join("ready")).unwrap();
    let other_boot = marker.replace("\"boot\":\"", "\"boot\":\"x");
    for spoil in [None, Some(""), Some("{\"version\":1"), Some(&other_boot)] {
        fs::write(dir.join("tree/README.md"), "half").unwrap();
        fs::create_dir(dir.join("tree.new")).unwrap();
        match spoil {
            None => fs::remove_file(dir.join("ready")).unwrap(),
            Some(text) => fs::write(dir.join("ready"), text).unwrap(),
        }
        let (_, again) = build(&cache, &source(&repo, None)).await;
        let text = fs::read_to_string(again.tree().join("README.md")).unwrap();
        assert_eq!(text, "two\n", "{spoil:?}");
        assert!(!dir.join("tree.new").exists());
    }
}

pub(crate) fn packs(mirror: &Path) -> Vec<std::path::PathBuf> {
    let of = |e: &str| {
        fs::read_dir(mirror.join("objects/pack"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|x| x == e))
            .collect::<Vec<_>>()
    };
    let found = of("pack");
    assert!(!found.is_empty());
    found
}

pub(crate) fn writable(path: &Path) -> fs::File {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::File::options().write(true).open(path).unwrap()
}

/// Leaves header and length of each pack, and no object.
pub(crate) fn spoil_packs(mirror: &Path) {
    for pack in packs(mirror) {
        let mut bytes = fs::read(&pack).unwrap();
        let end = bytes.len() - 20;
        bytes[12..end].fill(0xaa);
        writable(&pack).write_all(&bytes).unwrap();
    }
}

#[tokio::test]
async fn a_damaged_mirror_is_made_again_once_and_told() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("no packs", |m| {
            fs::remove_dir_all(m.join("objects/pack")).unwrap();
        }),
        ("truncated pack", |m| {
            for pack in packs(m) {
                writable(&pack).set_len(20).unwrap();
            }
        }),
        ("garbage in a pack", spoil_packs),
        ("garbage for refs", |m| {
            fs::write(m.join("refs/heads/main"), "garbage").unwrap();
        }),
        ("no HEAD", |m| fs::remove_file(m.join("HEAD")).unwrap()),
        ("empty config and no objects", |m| {
            fs::remove_dir_all(m.join("objects")).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let bed = Bed::new();
        let repo = bed.repository("project");
        let cache = bed.cache();
        // The mirror has the second commit, and no checkout of it.
        let spec = source(&repo, None);
        fetch(&cache, &spec).await.unwrap();
        damage(&mirror(&cache));
        for _another_commit in 0..2 {
            let fetched = fetch(&cache, &spec)
                .await
                .unwrap_or_else(|e| panic!("{name}: {e:?}"));
            let checkout = cache.checkout(&fetched, silent()).await;
            let checkout = checkout.unwrap_or_else(|e| panic!("{name}: {e:?}"));
            crate::bed::git_in(&checkout, &["log"]);
            write(&repo, "README.md", name);
            commit(&repo, name);
        }
    }
}

#[tokio::test]
async fn a_repair_is_told() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let spec = source(&repo, None);
    let fetched = fetch(&cache, &spec).await.unwrap();
    spoil_packs(&mirror(&cache));
    let checkout = cache.checkout(&fetched, silent()).await.unwrap();
    assert!(
        checkout.notices()[0].contains("damaged"),
        "{:?}",
        checkout.notices()
    );
    // Told once: the tree itself is whole.
    let (_, again) = build(&cache, &spec).await;
    assert!(again.notices().is_empty());
}

#[tokio::test]
async fn a_damaged_source_is_an_error_and_not_a_loop() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    fetch(&cache, &source(&repo, None)).await.unwrap();
    let before = inode(&mirror(&cache));
    write(&repo, "README.md", "three\n");
    commit(&repo, "third");
    let blob = crate::bed::git(&repo, &["rev-parse", "HEAD:README.md"]);
    fs::remove_file(repo.join(".git/objects").join(&blob[..2]).join(&blob[2..])).unwrap();
    let error = fetch(&cache, &source(&repo, None)).await.unwrap_err();
    assert!(matches!(error, SourceError::Git { .. }), "{error:?}");
    // It is not the mirror's fault.
    assert_eq!(inode(&mirror(&cache)), before);
}

#[tokio::test]
async fn eight_at_once_make_one_tree() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    for n in 0..500 {
        write(&repo, &format!("many/{n}"), "x");
    }
    commit(&repo, "many");
    // Each with a cache of its own, as if it were another process.
    let eight = || (0..8).map(|_| bed.cache());
    let spec = source(&repo, None);
    let mut fetches = tokio::task::JoinSet::new();
    for cache in eight() {
        let spec = spec.clone();
        fetches.spawn(async move { cache.fetch(&spec, silent()).await.unwrap() });
    }
    let fetched = fetches.join_all().await;
    assert_eq!(fetched.iter().filter(|f| !f.was_cached()).count(), 1);

    let mut checkouts = tokio::task::JoinSet::new();
    for (cache, fetched) in eight().zip(fetched) {
        checkouts.spawn(async move {
            let (progress, seen) = recorded();
            let checkout = cache.checkout(&fetched, progress).await.unwrap();
            let made = !seen.lock().unwrap().is_empty();
            (made, inode(checkout.tree()), checkout)
        });
    }
    let all = checkouts.join_all().await;
    assert_eq!(all.iter().filter(|(made, ..)| *made).count(), 1);
    assert!(all.iter().all(|(_, tree, _)| *tree == all[0].1));
}

#[tokio::test]
async fn a_checkout_in_use_cannot_be_locked_away() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let (first, checkout) = build(&cache, &source(&repo, None)).await;
    let lock = checkout.tree().parent().unwrap().join("lock");
    let evictor = || fs::File::open(&lock).unwrap().try_lock().is_ok();
    // A program that another story starts right now holds every descriptor until it has become itself.
    let released = async || {
        let start = Instant::now();
        while !evictor() {
            assert!(start.elapsed() < SOON);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(!evictor());
    drop((first, checkout));
    released().await;
    // A fetch that found a ready tree keeps it already.
    let warm = fetch(&cache, &source(&repo, None)).await.unwrap();
    assert!(!evictor());
    drop(warm);
    released().await;
}

#[tokio::test]
async fn a_disk_that_is_full_names_the_cache() {
    const PLACE: &str = "BRYO_TEST_SMALL_DISK";
    let Some(place) = std::env::var_os(PLACE) else {
        return full_disk_in_a_namespace();
    };
    let place = Path::new(&place);
    let cache = SourceCache::open(&place.join("disk/cache")).unwrap();
    let error = fetch(&cache, &source(place.join("project"), None))
        .await
        .unwrap_err();
    assert!(matches!(error, SourceError::DiskFull { .. }), "{error:?}");
    assert!(error.to_string().ends_with("disk/cache"), "{error}");
}

/// Runs the story above once more, with a small disk that only it sees.
fn full_disk_in_a_namespace() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    // Not compressible, more than the disk holds.
    let noise = fs::File::open("/dev/urandom").unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(noise, 4 << 20), &mut bytes).unwrap();
    fs::write(repo.join("noise"), bytes).unwrap();
    commit(&repo, "noise");
    let place = bed.path("");
    fs::create_dir(place.join("disk")).unwrap();
    let script = "mount -t tmpfs -o size=2m none \"$1/disk\" || exit 77
        BRYO_TEST_SMALL_DISK=$1 exec \"$0\" --exact trouble::a_disk_that_is_full_names_the_cache";
    let ended = std::process::Command::new("unshare")
        .args(["--mount", "--user", "--map-root-user", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(&place)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    if ended.status.code() == Some(77) || said.contains("unshare:") {
        return crate::bed::skipped("a full disk needs user namespaces");
    }
    let out = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success() && out.contains("1 passed"),
        "{out}{said}"
    );
}
