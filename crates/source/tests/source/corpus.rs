//! Trees and histories that no honest git writes. Each is fetched by the real git and refused with its reason, or made
//! without harm.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bryo_source::{SourceCache, SourceError, SourceLimits, SourcePolicy};
use git2::{ObjectType, Oid, Repository};

use crate::bed::{Bed, build, commit, fetch, git, git_in, on_loopback, silent, source, write};
use crate::hostile::raw_commit;
use crate::http::Server;

/// What is refused is refused before it costs anything.
const PROMPTLY: Duration = Duration::from_secs(120);

/// A tree of these raw entries: each a mode, a name and what it is.
pub(crate) fn raw_tree(repository: &Repository, entries: &[(&str, &str, Oid)]) -> Oid {
    let mut raw = Vec::new();
    for (mode, name, id) in entries {
        raw.extend_from_slice(format!("{mode} {name}\0").as_bytes());
        raw.extend_from_slice(id.as_bytes());
    }
    repository
        .odb()
        .unwrap()
        .write(ObjectType::Tree, &raw)
        .unwrap()
}

/// Fetches and checks out; the reason if that is refused. Nothing may be outside of the cache afterwards.
async fn refusal(bed: &Bed, cache: &SourceCache, repo: &PathBuf) -> Option<String> {
    let before = everything_but_the_cache(bed);
    let result = match fetch(cache, &source(repo, None)).await {
        Ok(fetched) => cache.checkout(&fetched, silent()).await.map(drop),
        Err(e) => Err(e),
    };
    assert_eq!(everything_but_the_cache(bed), before);
    match result {
        Ok(()) => None,
        // Git on the other side refuses some of it before we see it.
        Err(SourceError::RefusedTree { detail, .. } | SourceError::Git { detail, .. }) => {
            Some(detail)
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn everything_but_the_cache(bed: &Bed) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut rest = vec![bed.path("")];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() == "cache" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                rest.push(entry.path());
            }
            all.push(entry.path());
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    let git_dir = "taken for the repository's own '.git'";
    for (name, why) in [
        (".git", git_dir),
        (".GIT", git_dir),
        ("git~1", git_dir),
        ("GIT~1", git_dir),
        (".git ", git_dir),
        (".git.", git_dir),
        (".g\u{200c}it", git_dir),
        ("\u{feff}.GIT", git_dir),
        (".git::$INDEX_ALLOCATION", git_dir),
        ("a\\.git", git_dir),
        ("..", "leads out of its directory"),
        (".", "leads out of its directory"),
        ("../up", "contains a slash"),
        ("a/../../up", "contains a slash"),
        ("a/.git", "contains a slash"),
        ("/abs", "contains a slash"),
        ("", "empty filename in tree entry"),
        (&"x".repeat(256), "longer than 255 bytes"),
    ] {
        // As a directory, as a file, and one level down.
        for shape in 0..3 {
            let bed = Bed::new();
            let repo = bed.repository("raw");
            let repository = Repository::open(&repo).unwrap();
            let blob = repository
                .blob(b"[core]\n\tfsmonitor = touch pwned\n")
                .unwrap();
            let inner = raw_tree(&repository, &[("100644", "config", blob)]);
            let named = match shape {
                0 => ("40000", name, inner),
                1 => ("100644", name, blob),
                _ => (
                    "40000",
                    "d",
                    raw_tree(&repository, &[("40000", name, inner)]),
                ),
            };
            raw_commit(&repo, &[named]);
            let detail = refusal(&bed, &bed.cache(), &repo).await;
            let detail = detail.unwrap_or_else(|| panic!("{name:?} is made"));
            assert!(detail.contains(why), "{name:?}: {detail}");
        }
    }
}

#[tokio::test]
async fn two_entries_of_one_name_are_refused() {
    let bed = Bed::new();
    let outside = bed.path("outside");
    fs::create_dir(&outside).unwrap();
    for link_first in [true, false] {
        let repo = bed.repository(if link_first { "one" } else { "two" });
        let repository = Repository::open(&repo).unwrap();
        let blob = repository.blob(b"pwned").unwrap();
        let link = repository
            .blob(outside.to_str().unwrap().as_bytes())
            .unwrap();
        let inner = raw_tree(&repository, &[("100644", "file", blob)]);
        let mut entries = [("120000", "a", link), ("40000", "a", inner)];
        if !link_first {
            entries.reverse();
        }
        raw_commit(&repo, &entries);
        let detail = refusal(&bed, &bed.cache(), &repo).await.unwrap();
        assert!(detail.contains("'a': its name is there twice"), "{detail}");
    }
}

#[tokio::test]
async fn names_that_differ_in_case_are_two_files() {
    let bed = Bed::new();
    let repo = bed.repository("raw");
    let repository = Repository::open(&repo).unwrap();
    let [upper, lower] = [b"A", b"a"].map(|text| repository.blob(text).unwrap());
    raw_commit(
        &repo,
        &[("100644", "README", upper), ("100644", "readme", lower)],
    );
    let (_, checkout) = build(&bed.cache(), &source(&repo, None)).await;
    assert_eq!(fs::read(checkout.tree().join("README")).unwrap(), b"A");
    assert_eq!(fs::read(checkout.tree().join("readme")).unwrap(), b"a");
    assert_eq!(git_in(&checkout, &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn old_modes_are_read_as_git_reads_them() {
    let bed = Bed::new();
    let repo = bed.repository("raw");
    let repository = Repository::open(&repo).unwrap();
    let blob = repository.blob(b"x").unwrap();
    raw_commit(
        &repo,
        &[("100664", "group", blob), ("100775", "tool", blob)],
    );
    let (_, checkout) = build(&bed.cache(), &source(&repo, None)).await;
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        let meta = fs::metadata(checkout.tree().join(name)).unwrap();
        meta.permissions().mode() & 0o777
    };
    assert_eq!((mode("group"), mode("tool")), (0o644, 0o755));
}

#[tokio::test]
async fn links_to_nothing_that_a_path_can_be_are_refused() {
    for target in [b"".to_vec(), b"a\0b".to_vec(), vec![b'x'; 5000]] {
        let bed = Bed::new();
        let repo = bed.repository("raw");
        let blob = Repository::open(&repo).unwrap().blob(&target).unwrap();
        raw_commit(&repo, &[("120000", "link", blob)]);
        let detail = refusal(&bed, &bed.cache(), &repo).await.unwrap();
        assert!(detail.contains("'link': it is a link to"), "{detail}");
    }
}

/// A chain of directories of one letter each, with a file at its end.
fn deep(repository: &Repository, levels: usize) -> Oid {
    let blob = repository.blob(b"deep").unwrap();
    let mut tree = raw_tree(repository, &[("100644", "f", blob)]);
    for _ in 0..levels {
        tree = raw_tree(repository, &[("40000", "d", tree)]);
    }
    tree
}

#[tokio::test]
async fn deep_trees_are_made_as_far_as_a_path_reaches() {
    let bed = Bed::new();
    for (levels, made) in [(1000, true), (1600, false), (5000, false)] {
        let repo = bed.repository(&format!("deep-{levels}"));
        let repository = Repository::open(&repo).unwrap();
        raw_commit(&repo, &[("40000", "d", deep(&repository, levels))]);
        let detail = match levels {
            // Git's own connectivity check has a bound on depth too, and says so.
            5000 => fetch(&bed.cache(), &source(&repo, None))
                .await
                .err()
                .map(|e| e.to_string()),
            _ => refusal(&bed, &bed.cache(), &repo).await,
        };
        assert_eq!(detail.is_none(), made, "{levels}: {detail:?}");
        let reasons = ["longer than 3072 bytes", "depth"];
        assert!(
            detail
                .as_ref()
                .is_none_or(|d| reasons.iter().any(|why| d.contains(why))),
            "{levels}: {detail:?}"
        );
    }
}

#[tokio::test]
async fn a_tree_of_ten_thousand_million_files_is_counted_and_refused() {
    let bed = Bed::new();
    let repo = bed.repository("bomb");
    let repository = Repository::open(&repo).unwrap();
    let blob = repository.blob(b"boom").unwrap();
    let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    let ten = |mode: &'static str, id: Oid| -> Vec<(&str, &str, Oid)> {
        names.iter().map(|name| (mode, &**name, id)).collect()
    };
    let mut tree = raw_tree(&repository, &ten("100644", blob));
    for _ in 0..9 {
        tree = raw_tree(&repository, &ten("40000", tree));
    }
    raw_commit(&repo, &[("40000", "bomb", tree)]);
    let start = Instant::now();
    let detail = refusal(&bed, &bed.cache(), &repo).await.unwrap();
    assert!(detail.contains("more than 1000000 files"), "{detail}");
    assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
}

/// A cache whose fetches and checkouts may have so many bytes.
fn bounded(bed: &Bed, bytes: u64) -> SourceCache {
    let policy = SourcePolicy {
        limits: SourceLimits {
            bytes,
            ..SourceLimits::default()
        },
        ..on_loopback()
    };
    SourceCache::open(&bed.path("cache"))
        .unwrap()
        .with_policy(Arc::new(policy))
}

#[tokio::test]
async fn zeros_that_were_packed_well_are_not_unpacked() {
    let bed = Bed::new();
    let server = Server::start(&bed.path(""));
    let repo = bed.repository("zeros");
    let big = fs::File::create(repo.join("zeros.bin")).unwrap();
    big.set_len(256 << 20).unwrap();
    commit(&repo, "zeros");
    // One that is a delta of the other: a few bytes in the pack.
    big.set_len((256 << 20) + 1).unwrap();
    fs::copy(repo.join("zeros.bin"), repo.join("more.bin")).unwrap();
    commit(&repo, "more");
    git(&repo, &["repack", "-adq"]);
    let cache = bounded(&bed, 64 << 20);
    let spec = source(server.url("zeros/.git"), None);
    let fetched = fetch(&cache, &spec).await.unwrap();
    let error = cache.checkout(&fetched, silent()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("its files are larger than 64 MiB")
            || error.to_string().contains("its files are larger than 64"),
        "{error}"
    );
    assert!(peak_mib() < 600, "{} MiB", peak_mib());
    // Many small ones count together.
    let repo = bed.repository("sum");
    let repository = Repository::open(&repo).unwrap();
    let blob = repository.blob(&vec![0; 1 << 20]).unwrap();
    let names: Vec<String> = (0..100).map(|n| format!("f{n}")).collect();
    let entries: Vec<_> = names.iter().map(|n| ("100644", &**n, blob)).collect();
    raw_commit(&repo, &entries);
    let detail = refusal(&bed, &cache, &repo).await.unwrap();
    assert!(detail.contains("its files are larger than"), "{detail}");
}

/// What this process ever had in memory, files that it mapped included.
fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

#[tokio::test]
async fn ten_thousand_refs_and_names_like_options() {
    let bed = Bed::new();
    let repo = bed.repository("refs");
    let head = crate::bed::head(&repo);
    let mut packed = fs::read_to_string(repo.join(".git/packed-refs")).unwrap_or_default();
    for n in 0..10_000 {
        packed.push_str(&format!("{head} refs/heads/b{n:05}\n"));
    }
    fs::write(repo.join(".git/packed-refs"), packed).unwrap();
    for name in [
        "refs/heads/--upload-pack=id",
        "refs/tags/-x",
        "refs/tags/--exec",
    ] {
        git(&repo, &["update-ref", name, "HEAD"]);
    }
    let server = Server::start(&bed.path(""));
    let cache = bed.cache();
    let start = Instant::now();
    let (_, checkout) = build(&cache, &source(server.url("refs/.git"), Some("b09999"))).await;
    assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    let refs = fs::read_to_string(checkout.refs()).unwrap();
    assert!(refs.lines().count() >= 10_000);
    assert!(refs.contains(" refs/remotes/origin/--upload-pack=id\n"));
    assert!("--upload-pack=id".parse::<bryo_model::GitRef>().is_err());
}

#[tokio::test]
async fn what_is_linked_and_what_is_written_is_the_same() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    for n in 0..300 {
        write(&repo, &format!("d{}/f{n}", n % 7), &format!("{n}\n"));
    }
    commit(&repo, "files");
    let cache = bed.cache();
    let (_, first) = build(&cache, &source(&repo, None)).await;
    write(&repo, "d1/f1", "changed\n");
    fs::remove_file(repo.join("d2/f2")).unwrap();
    fs::remove_dir_all(repo.join("d3")).unwrap();
    write(&repo, "d3", "a file\n");
    commit(&repo, "changes");
    let (_, second) = build(&cache, &source(&repo, None)).await;
    let ino = |c: &bryo_source::Checkout, name: &str| crate::bed::inode(&c.tree().join(name));
    assert_eq!(ino(&first, "d0/f0"), ino(&second, "d0/f0"));
    assert_ne!(ino(&first, "d1/f1"), ino(&second, "d1/f1"));
    assert_eq!(
        fs::read_to_string(second.tree().join("d1/f1")).unwrap(),
        "changed\n"
    );
    assert!(!second.tree().join("d2/f2").exists() && second.tree().join("d3").is_file());
    for checkout in [&first, &second] {
        assert_eq!(git_in(checkout, &["status", "--porcelain"]), "");
        assert_eq!(git_in(checkout, &["diff", "--no-ext-diff", "HEAD"]), "");
    }
    // Removing one takes nothing from the other, and each file counts once.
    let all = cache.list().unwrap();
    let bytes: u64 = all.iter().map(|one| one.bytes).sum();
    let gone = first.commit().to_string();
    drop(first);
    let one = all.iter().find(|one| one.name.ends_with(&gone)).unwrap();
    assert!(cache.remove(one).unwrap());
    assert_eq!(
        fs::read_to_string(second.tree().join("d0/f0")).unwrap(),
        "0\n"
    );
    let left: u64 = cache.list().unwrap().iter().map(|one| one.bytes).sum();
    assert!(left < bytes);
}
