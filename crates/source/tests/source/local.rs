//! Repositories on this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use bryo_source::{Absence, SourceCache, SourceError, uncommitted_changes};

use crate::bed::{
    Bed, build, commit, fetch, git, git_in, head, inode, mirror, recorded, silent, skipped, source,
    write,
};

#[tokio::test]
async fn head_is_built_and_git_works_inside() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    write(&repo, "uncommitted.txt", "x");
    let cache = bed.cache();
    let (fetched, checkout) = build(&cache, &source(&repo, None)).await;

    assert_eq!(fetched.commit().as_str(), head(&repo));
    assert_eq!(fetched.description(), "main");
    assert!(!fetched.was_cached());
    let tree = checkout.tree();
    assert_eq!(fs::read_to_string(tree.join("README.md")).unwrap(), "two\n");
    assert!(!tree.join("uncommitted.txt").exists());

    assert_eq!(git_in(&checkout, &["log", "--format=%s"]), "second\nfirst");
    assert_eq!(git_in(&checkout, &["status", "--porcelain"]), "");
    assert!(git_in(&checkout, &["describe", "--tags"]).starts_with("v1.0-1-g"));
    let branches = git_in(&checkout, &["branch", "-r", "--format=%(refname:short)"]);
    assert_eq!(branches, "origin/dev\norigin/main");
    assert_eq!(git_in(&checkout, &["remote"]), "");
    assert_eq!(git_in(&checkout, &["fsck", "--connectivity-only"]), "");

    // A status that is always clean would be worth nothing.
    fs::write(tree.join("README.md"), "changed\n").unwrap();
    assert_eq!(
        git_in(&checkout, &["status", "--porcelain"]),
        " M README.md"
    );
}

#[tokio::test]
async fn nothing_in_a_checkout_tells_where_it_came_from() {
    let bed = Bed::new();
    let repo = bed.repository("whereabouts");
    let (_, checkout) = build(&bed.cache(), &source(&repo, None)).await;
    let git_dir = checkout.tree().join(".git");
    let mut rest = vec![git_dir.clone()];
    let mut files = Vec::new();
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                rest.push(path);
            } else {
                let content = fs::read(&path).unwrap();
                let text = String::from_utf8_lossy(&content).into_owned();
                assert!(!text.contains("whereabouts"), "{}: {text}", path.display());
                let name = path.strip_prefix(&git_dir).unwrap().to_owned();
                files.push(name.to_str().unwrap().to_owned());
            }
        }
    }
    files.sort();
    assert_eq!(files, ["HEAD", "config", "index", "packed-refs"]);
}

#[tokio::test]
async fn the_second_time_runs_no_git_and_makes_no_tree() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let (_, first) = build(&cache, &source(&repo, None)).await;
    let tree = inode(first.tree());
    drop(first);

    // A mirror that git cannot even start in: whatever succeeds now did not need it.
    let (progress, seen) = recorded();
    let fetched = fetch(&cache, &source(&repo, None)).await.unwrap();
    assert!(fetched.was_cached());
    let second = cache.checkout(&fetched, progress).await.unwrap();
    assert_eq!(inode(second.tree()), tree);
    assert!(seen.lock().unwrap().is_empty());

    // Another branch at a commit that the mirror has: a new tree, no git.
    let (dev, _) = build(&cache, &source(&repo, Some("dev"))).await;
    assert!(dev.was_cached());
    assert_eq!(dev.description(), "dev");
}

#[tokio::test]
async fn a_later_tag_on_the_same_commit_is_seen() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let (_, before) = build(&cache, &source(&repo, None)).await;
    let old_refs = fs::File::open(before.refs()).unwrap();
    for tag in ["v2.0", "release/2", "release/3"] {
        git(&repo, &["tag", tag]);
        let (fetched, after) = build(&cache, &source(&repo, None)).await;
        assert!(!fetched.was_cached(), "{tag}");
        assert_eq!(inode(after.tree()), inode(before.tree()));
        let refs = fs::read_to_string(after.refs()).unwrap();
        assert!(refs.contains(&format!(" refs/tags/{tag}\n")), "{refs}");
        let again = fetch(&cache, &source(&repo, Some(tag))).await.unwrap();
        assert!(again.was_cached(), "{tag}");
    }
    // Who mounted the old file keeps it.
    let old = std::io::read_to_string(old_refs).unwrap();
    assert!(!old.contains("v2.0"));
}

#[tokio::test]
async fn references_are_found_by_any_name() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let first = git(&repo, &["rev-parse", "dev"]);
    git(&repo, &["update-ref", "refs/remotes/origin/topic", &first]);
    git(&repo, &["update-ref", "refs/review/7", &first]);
    let cache = bed.cache();
    for name in [
        "dev",
        "v1.0",
        "refs/heads/dev",
        "refs/tags/v1.0",
        "refs/remotes/origin/topic",
        "refs/review/7",
        &first,
    ] {
        let fetched = fetch(&cache, &source(&repo, Some(name))).await.unwrap();
        assert_eq!(fetched.commit().as_str(), first, "{name}");
    }

    let missing = |name| fetch_error(&cache, source(&repo, name));
    let error = missing(Some("no-such")).await;
    assert!(matches!(error, SourceError::RefMissing { .. }));
    assert!(
        error
            .to_string()
            .ends_with("has no branch or tag 'no-such'")
    );
    assert_eq!(error.hint().unwrap(), "branches: dev, main; tags: v1.0");
    let error = missing(Some("origin/topic")).await;
    assert!(
        error
            .hint()
            .unwrap()
            .contains("'refs/remotes/origin/topic'")
    );
    let error = missing(Some("1234567890123456789012345678901234567890")).await;
    assert!(matches!(error, SourceError::RefMissing { .. }));
}

async fn fetch_error(cache: &SourceCache, spec: bryo_model::SourceSpec) -> SourceError {
    fetch(cache, &spec).await.unwrap_err()
}

#[tokio::test]
async fn a_commit_that_no_branch_leads_to() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    git(&repo, &["checkout", "-q", "--detach"]);
    let lonely = commit(&repo, "lonely");
    let cache = bed.cache();
    let (fetched, checkout) = build(&cache, &source(&repo, None)).await;
    assert_eq!(fetched.commit().as_str(), lonely);
    assert_eq!(fetched.description(), &lonely[..12]);
    assert!(git_in(&checkout, &["log", "--format=%s"]).starts_with("lonely"));
    // It stays reachable in the mirror.
    let refs = git(&mirror(&cache), &["for-each-ref", "--contains", &lonely]);
    assert!(refs.contains("refs/bryo/commits/"), "{refs}");
}

#[tokio::test]
async fn bare_and_linked_and_shallow_repositories() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let here = bed.path("");
    let url = format!("file://{}", repo.display());
    git(&here, &["clone", "-q", "--bare", &url, "bare.git"]);
    git(&here, &["clone", "-q", "--depth", "1", &url, "shallow"]);
    git(&repo, &["worktree", "add", "-q", "../linked", "dev"]);

    let cache = bed.cache();
    let (bare, _) = build(&cache, &source(bed.path("bare.git"), None)).await;
    assert_eq!(bare.commit().as_str(), head(&repo));

    let (linked, _) = build(&cache, &source(bed.path("linked"), None)).await;
    assert_eq!(linked.description(), "dev");

    let (shallow, checkout) = build(&cache, &source(bed.path("shallow"), None)).await;
    assert_eq!(shallow.commit().as_str(), head(&repo));
    assert_eq!(git_in(&checkout, &["log", "--format=%s"]), "second");
    assert_eq!(git_in(&checkout, &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn paths_that_are_not_the_top_of_a_repository() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    let error = fetch_error(&cache, source(repo.join("docs/en"), None)).await;
    assert!(
        error.hint().unwrap().ends_with("--subdir docs/en'"),
        "{error}"
    );

    fs::create_dir(bed.path("plain")).unwrap();
    let why = |e| match e {
        SourceError::RepositoryMissing { why, .. } => why,
        other => panic!("{other:?}"),
    };
    let error = fetch_error(&cache, source(bed.path("plain"), None)).await;
    assert_eq!(why(error), Absence::NotARepository);
    let error = fetch_error(&cache, source(bed.path("nowhere"), None)).await;
    assert_eq!(why(error), Absence::NotFound);

    git(&bed.path("plain"), &["init", "-q"]);
    let error = fetch_error(&cache, source(bed.path("plain"), None)).await;
    assert_eq!(error.hint().unwrap(), "the repository has no commits yet");
}

#[tokio::test]
async fn sha256_is_a_clear_answer() {
    let bed = Bed::new();
    let repo = bed.path("modern");
    fs::create_dir(&repo).unwrap();
    git(&repo, &["init", "-q", "--object-format=sha256"]);
    commit(&repo, "first");
    let cache = bed.cache();
    for location in [
        repo.display().to_string(),
        format!("file://{}", repo.display()),
    ] {
        let error = fetch_error(&cache, source(&location, None)).await;
        assert!(matches!(error, SourceError::Sha256 { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn sub_directories_are_checked_in_the_commit() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let cache = bed.cache();
    for _cold_then_warm in 0..2 {
        for (subdir, good) in [
            ("docs/en", true),
            ("docs/fr", false),
            ("README.md", false),
            ("README.md/x", false),
        ] {
            let mut spec = source(&repo, None);
            spec.subdir = Some(subdir.parse().unwrap());
            match fetch(&cache, &spec).await {
                Ok(_) => assert!(good, "{subdir}"),
                Err(SourceError::SubDirMissing { .. }) => assert!(!good, "{subdir}"),
                Err(other) => panic!("{other:?}"),
            }
        }
        build(&cache, &source(&repo, None)).await;
    }
}

#[tokio::test]
async fn modes_do_not_depend_on_the_umask() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    write(&repo, "bin/tool", "#!/bin/sh\n");
    let tool = repo.join("bin/tool");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    commit(&repo, "tool");
    let cache = bed.cache();
    let fetched = fetch(&cache, &source(&repo, None)).await.unwrap();
    // The umask belongs to the whole process: other stories that make trees now have it too, and must not mind.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let checkout = cache.checkout(&fetched, silent()).await;
    nix::sys::stat::umask(before);
    let checkout = checkout.unwrap();
    let mode = |name: &str| {
        let m = fs::metadata(checkout.tree().join(name)).unwrap();
        m.permissions().mode() & 0o777
    };
    assert_eq!(
        (mode(""), mode("docs/en"), mode(".git")),
        (0o755, 0o755, 0o755)
    );
    assert_eq!((mode("README.md"), mode(".git/index")), (0o644, 0o644));
    assert_eq!(mode("bin/tool"), 0o755);
    assert_eq!(git_in(&checkout, &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn uncommitted_changes_are_told() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    assert_eq!(uncommitted_changes(&repo).await.unwrap(), None);
    write(&repo, "README.md", "changed\n");
    write(&repo, "new", "x");
    assert_eq!(
        uncommitted_changes(&repo).await.unwrap().unwrap(),
        "1 file changed, 1 untracked"
    );
}

#[tokio::test]
async fn a_repository_of_somebody_else_is_refused() {
    const TRUSTED: &str = "BRYO_TEST_TRUSTED";
    if let Some(place) = std::env::var_os(TRUSTED) {
        let place = Path::new(&place);
        let cache = SourceCache::open(&place.join("trusting-cache")).unwrap();
        build(&cache, &source(place.join("theirs"), None)).await;
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        skipped("a_repository_of_somebody_else_is_refused needs root");
        return;
    }
    let bed = Bed::new();
    let repo = bed.repository("theirs");
    let other = Some(nix::unistd::Uid::from_raw(12345));
    for path in [repo.clone(), repo.join(".git")] {
        nix::unistd::chown(&path, other, None).unwrap();
    }
    let cache = bed.cache();
    let error = fetch_error(&cache, source(&repo, None)).await;
    assert!(matches!(error, SourceError::Foreign { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("safe.directory"));
    let url = format!("file://{}", repo.display());
    let error = fetch_error(&cache, source(&url, None)).await;
    assert!(matches!(error, SourceError::Foreign { .. }), "{error:?}");

    // What the hint says works, in a process that starts with such a home.
    let config = format!("[safe]\n\tdirectory = {}\n", repo.display());
    write(&bed.path("home"), ".gitconfig", &config);
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "local::a_repository_of_somebody_else_is_refused"])
        .env("HOME", bed.path("home"))
        .env(TRUSTED, bed.path(""))
        .output()
        .unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert!(bed.path("trusting-cache").exists());
}
