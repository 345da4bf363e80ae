//! Servers that take too long, or give too much.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use bryo_source::{ReachedLimit, SourceCache, SourceError, SourceLimits, SourcePolicy};

use crate::bed::{Bed, build, commit, fetch, head, mirror, on_loopback, silent, source, write};
use crate::corpus::raw_tree;
use crate::hostile::raw_commit;
use crate::http::{Manner, Server};

fn bounded(bed: &Bed, limits: SourceLimits) -> SourceCache {
    let policy = SourcePolicy {
        limits,
        ..on_loopback()
    };
    SourceCache::open(&bed.path("cache"))
        .unwrap()
        .with_policy(Arc::new(policy))
}

async fn reached(cache: &SourceCache, url: &str) -> ReachedLimit {
    match fetch(cache, &source(url, None)).await.unwrap_err() {
        SourceError::Limit { limit, .. } => limit,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_goes_silent_is_left() {
    let bed = Bed::new();
    bed.repository("project");
    let stall = Duration::from_millis(700);
    let limits = SourceLimits {
        stall,
        ..SourceLimits::default()
    };
    let cache = bounded(&bed, limits);
    for server in [
        Server::start(&bed.path("")),
        Server::start_tls(&bed.path("")),
    ] {
        let url = server.url("project/.git");
        let policy = SourcePolicy {
            ca_bundle: server.authority.clone(),
            limits,
            ..on_loopback()
        };
        let cache = cache.clone().with_policy(Arc::new(policy));
        for manner in [Manner::Hangs, Manner::StopsMidPack] {
            server.behave(manner.clone());
            assert_eq!(
                reached(&cache, &url).await,
                ReachedLimit::Stall(stall),
                "{manner:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_left() {
    let bed = Bed::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stall = Duration::from_millis(500);
    let limits = SourceLimits {
        stall,
        ..SourceLimits::default()
    };
    let cache = bounded(&bed, limits);
    for scheme in ["https", "ssh"] {
        let url = format!("{scheme}://{address}/x");
        assert_eq!(
            reached(&cache, &url).await,
            ReachedLimit::Stall(stall),
            "{url}"
        );
    }
}

/// The cache and the address that [`the_slow_look`] fetches, by lines.
const SLOW_LOOK: &str = "BRYO_TEST_SLOW_LOOK";

/// Not a test, but the process of the next one, whose git takes long when everything is there.
#[tokio::test]
async fn the_slow_look() {
    let Ok(what) = std::env::var(SLOW_LOOK) else {
        return;
    };
    let (cache, url) = what.split_once('\n').unwrap();
    let policy = SourcePolicy {
        limits: SourceLimits {
            stall: Duration::from_secs(2),
            ..SourceLimits::default()
        },
        ..on_loopback()
    };
    let cache = SourceCache::open(cache.as_ref()).unwrap();
    let cache = cache.with_policy(Arc::new(policy));
    fetch(&cache, &source(url, None)).await.unwrap();
}

/// A stand-in, for a repository in which git looks for minutes would take minutes to make.
#[test]
fn git_that_looks_for_what_is_missing_is_no_stall() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let real = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|dir| dir.join("git"))
        .find(|git| git.exists())
        .unwrap();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n*' fetch '*)\n  {0} \"$@\" || exit\n  echo 'Receiving objects: 100% (1/1), done.' >&2\n  end=$(($(date +%s) + 7))\n  while [ $(date +%s) -lt $end ]; do :; done;;\n*) exec {0} \"$@\";;\nesac\n",
        real.display()
    );
    write(&bed.path(""), "bin/git", &script);
    let stand_in = bed.path("bin/git");
    std::fs::set_permissions(&stand_in, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        bed.path("bin").display(),
        std::env::var("PATH").unwrap()
    );
    let done = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "limits::the_slow_look"])
        .env("PATH", path)
        .env(
            SLOW_LOOK,
            format!("{}\nfile://{}", bed.path("cache").display(), repo.display()),
        )
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{text}");
}

#[tokio::test]
async fn a_fetch_ends_in_time() {
    let bed = Bed::new();
    bed.repository("project");
    let server = Server::start(&bed.path(""));
    let timeout = Duration::from_millis(700);
    let limits = SourceLimits {
        timeout,
        ..SourceLimits::default()
    };
    let cache = bounded(&bed, limits);
    server.behave(Manner::Hangs);
    let limit = reached(&cache, &server.url("project/.git")).await;
    assert_eq!(limit, ReachedLimit::Timeout(timeout));
    assert!(limit.to_string().contains("(source.timeout)"));
}

#[tokio::test]
async fn a_pack_without_end_ends_at_the_bound() {
    let bed = Bed::new();
    bed.repository("project");
    let server = Server::start(&bed.path(""));
    let most = 20 << 20;
    let limits = SourceLimits {
        bytes: most,
        ..SourceLimits::default()
    };
    let cache = bounded(&bed, limits);
    server.behave(Manner::Endless);
    let limit = reached(&cache, &server.url("project/.git")).await;
    assert_eq!(limit, ReachedLimit::Bytes(most));
    assert_eq!(
        limit.to_string(),
        "the repository is larger than 20 MiB, submodules included (source.bytes)"
    );
    server.wait_for_hang_up();
    let kept = || {
        let packs = std::fs::read_dir(mirror(&cache).join("objects/pack")).unwrap();
        packs
            .map(|e| e.unwrap().metadata().unwrap().len())
            .sum::<u64>()
    };
    assert!(kept() <= most + (1 << 20), "{}", kept());
    // The next fetch has the rest of this one removed.
    server.behave(Manner::Honest);
    let (fetched, _) = build(&cache, &source(server.url("project/.git"), None)).await;
    assert!(fetched.notices().is_empty());
    assert!(kept() < 1 << 20, "{}", kept());
}

#[tokio::test]
async fn no_file_grows_beyond_the_bound_where_nobody_counts() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let mut chance: u32 = 1;
    let noise = |_| {
        chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + chance.to_be_bytes()[0] % 90)
    };
    let noise: String = (0..3 << 20).map(noise).collect();
    write(&repo, "large.txt", &noise);
    commit(&repo, "large");
    let url = format!("file://{}", repo.display());
    let limits = |bytes| SourceLimits {
        bytes,
        ..SourceLimits::default()
    };
    let cache = bounded(&bed, limits(1 << 20));
    assert_eq!(reached(&cache, &url).await, ReachedLimit::Bytes(1 << 20));
    let cache = bounded(&bed, limits(100 << 20));
    let (fetched, _) = build(&cache, &source(&url, None)).await;
    assert_eq!(fetched.commit().as_str(), head(&repo));
}

/// How a job ended that fetches a repository with three submodules.
async fn of_many(cache: &SourceCache, url: &str) -> Option<ReachedLimit> {
    match fetch(cache, &source(url, None)).await {
        Ok(_) => None,
        Err(SourceError::Submodule { source, .. }) => match *source {
            SourceError::Limit { limit, .. } => Some(limit),
            other => panic!("{other:?}"),
        },
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_bound_on_bytes_is_for_all_submodules_together() {
    let bed = Bed::new();
    let server = Server::start(&bed.path(""));
    let app = bed.repository("app");
    let mut chance: u32 = 1;
    for name in ["one", "two", "three"] {
        let module = bed.repository(name);
        let noise: String = (0..600 << 10)
            .map(|_| {
                chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                char::from(b'!' + chance.to_be_bytes()[0] % 90)
            })
            .collect();
        write(&module, "noise.txt", &noise);
        let at = commit(&module, "noise");
        crate::submodules::add(&app, name, &format!("../../{name}/.git"), &at);
    }
    for (n, url) in [
        server.url("app/.git"),
        format!("file://{}/.git", app.display()),
    ]
    .iter()
    .enumerate()
    {
        let within = |bytes, name: &str| {
            let limits = SourceLimits {
                bytes,
                ..SourceLimits::default()
            };
            let policy = SourcePolicy {
                limits,
                ..on_loopback()
            };
            SourceCache::open(&bed.path(&format!("{name}-{n}")))
                .unwrap()
                .with_policy(Arc::new(policy))
        };
        // Each of them is far below, and so is any file of theirs.
        let limit = of_many(&within(1 << 20, "small"), url).await;
        assert_eq!(limit, Some(ReachedLimit::Bytes(1 << 20)), "{url}");
        assert_eq!(of_many(&within(3 << 20, "large"), url).await, None, "{url}");
    }
}

#[tokio::test]
async fn the_bound_on_time_is_for_all_submodules_together() {
    let bed = Bed::new();
    let server = Server::start(&bed.path(""));
    let mut inner: Option<String> = None;
    for name in ["four", "three", "two", "one"] {
        let repo = bed.repository(name);
        if let Some(inner) = inner.replace(name.to_owned()) {
            let at = head(&bed.path(&inner));
            crate::submodules::add(&repo, &inner, &format!("../../{inner}/.git"), &at);
        }
    }
    // Three answers each: one repository takes a second and a half, all of them six.
    let timeout = Duration::from_secs(5);
    let limits = SourceLimits {
        timeout,
        ..SourceLimits::default()
    };
    server.behave(Manner::Slow(Duration::from_millis(500)));
    let limit = of_many(&bounded(&bed, limits), &server.url("one/.git")).await;
    assert_eq!(limit, Some(ReachedLimit::Timeout(timeout)));
}

#[tokio::test]
async fn nonsense_is_told_as_such_and_leaves_a_usable_mirror() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let server = Server::start(&bed.path(""));
    let cache = bed.cache();
    let spec = source(server.url("project/.git"), None);
    for manner in [
        Manner::Garbage,
        Manner::DropsMidPack,
        Manner::BadPack,
        Manner::NotGit,
    ] {
        server.behave(manner.clone());
        let error = fetch(&cache, &spec).await.unwrap_err();
        assert!(
            !matches!(error, SourceError::Corrupt { .. }),
            "{manner:?}: {error:?}"
        );
        let text = error.to_string();
        assert!(
            text.starts_with(&server.url("project/.git")) || text.contains("could not fetch"),
            "{text}"
        );
    }
    server.behave(Manner::Honest);
    let (fetched, _) = build(&cache, &spec).await;
    assert_eq!(fetched.commit().as_str(), head(&repo));
    assert!(fetched.notices().is_empty(), "{:?}", fetched.notices());
}

/// A few bytes of a pack can be a file of any length, and writing it takes it into memory.
#[tokio::test]
async fn a_file_that_is_larger_than_memory_is_refused() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    std::fs::write(repo.join("zeros.bin"), vec![0; 3 << 20]).unwrap();
    commit(&repo, "zeros");
    let limits = |memory| SourceLimits {
        memory,
        ..SourceLimits::default()
    };
    let cache = bounded(&bed, limits(1 << 20));
    let fetched = fetch(&cache, &source(&repo, None)).await.unwrap();
    let error = cache.checkout(&fetched, silent()).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, SourceError::RefusedTree { .. }),
        "{error:?}"
    );
    assert!(
        text.contains("zeros.bin") && text.contains("source.memory"),
        "{text}"
    );
    build(&bounded(&bed, limits(4 << 20)), &source(&repo, None)).await;
}

/// A hundred thousand files need no more than their number, but the index has the whole path of each.
#[tokio::test]
async fn paths_that_no_index_should_have_are_refused() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let repository = git2::Repository::open(&repo).unwrap();
    let blob = repository.blob(b"").unwrap();
    let names: Vec<_> = (0..100_000).map(|n| format!("{n:06}")).collect();
    let files: Vec<_> = names.iter().map(|name| ("100644", &**name, blob)).collect();
    let mut top = raw_tree(&repository, &files);
    let name = "d".repeat(240);
    for _ in 0..11 {
        top = raw_tree(&repository, &[("40000", &name, top)]);
    }
    raw_commit(&repo, &[("40000", &name, top)]);
    let cache = bed.cache();
    let fetched = fetch(&cache, &source(&repo, None)).await.unwrap();
    let error = cache.checkout(&fetched, silent()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("its paths are longer than 256 MiB"),
        "{error}"
    );
}
