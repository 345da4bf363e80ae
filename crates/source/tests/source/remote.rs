//! Repositories behind an address.

use bryo_model::Amount;
use bryo_source::{Absence, SourceError, SourcePolicy};

use crate::bed::{
    Bed, build, commit, fetch, git, git_in, head, inode, mirror, on_loopback, open, recorded,
    source, write,
};
use crate::http::{Manner, Server};

#[tokio::test]
async fn smart_http_from_first_fetch_to_no_network() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let server = Server::start(&bed.path(""));
    let url = server.url("project/.git");
    let cache = bed.cache();

    let (progress, seen) = recorded();
    let fetched = cache.fetch(&source(&url, None), progress).await.unwrap();
    assert_eq!(fetched.commit().as_str(), head(&repo));
    assert_eq!(fetched.description(), "main");
    let last = *seen.lock().unwrap().last().unwrap();
    assert!(
        matches!(last, Amount::Items { done, total } if done == total && total > 3),
        "{last:?}"
    );
    let one_fetch = server.requests();
    // Capabilities, refs and pack: the default branch costs nothing of its own.
    assert_eq!(one_fetch, 3);

    let (by_tag, checkout) = build(&cache, &source(&url, Some("v1.0"))).await;
    assert_eq!(by_tag.description(), "v1.0");
    assert_eq!(git_in(&checkout, &["describe", "--tags"]), "v1.0");
    assert!(server.requests() > one_fetch);

    let asked = server.requests();
    let by_id = fetch(&cache, &source(&url, Some(&head(&repo))))
        .await
        .unwrap();
    assert!(by_id.was_cached());
    assert_eq!(server.requests(), asked);

    // A branch that moved is asked for, and found moved.
    write(&repo, "README.md", "three\n");
    let third = commit(&repo, "third");
    let moved = fetch(&cache, &source(&url, Some("main"))).await.unwrap();
    assert_eq!(moved.commit().as_str(), third);
    let config = std::fs::read_to_string(mirror(&cache).join("config")).unwrap();
    assert!(!config.contains("127.0.0.1"), "{config}");
}

#[tokio::test]
async fn a_commit_comes_alone_with_its_tags() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    git(&repo, &["checkout", "-q", "-b", "large"]);
    write(&repo, "large.txt", "only on its branch\n");
    let large = commit(&repo, "large");
    git(&repo, &["tag", "-a", "v9.0", "-m", "nine"]);
    git(&repo, &["checkout", "-q", "main"]);
    let server = Server::start(&bed.path(""));
    let url = server.url("project/.git");
    let cache = bed.cache();
    let (fetched, checkout) = build(&cache, &source(&url, Some(&head(&repo)))).await;
    assert_eq!(fetched.commit().as_str(), head(&repo));
    let described = git_in(&checkout, &["describe", "--tags"]);
    assert!(described.starts_with("v1.0-1-g"), "{described}");
    let has = |id: &str| {
        git2::Repository::open(mirror(&cache))
            .unwrap()
            .find_commit(git2::Oid::from_str(id).unwrap())
            .is_ok()
    };
    assert!(!has(&large));
    let nothing = "1234567890123456789012345678901234567890";
    let error = fetch(&cache, &source(&url, Some(nothing)))
        .await
        .unwrap_err();
    assert!(matches!(error, SourceError::RefMissing { .. }), "{error:?}");
    let by_name = fetch(&cache, &source(&url, Some("v9.0"))).await.unwrap();
    assert_eq!(by_name.commit().as_str(), large);
}

#[tokio::test]
async fn a_server_that_gives_tips_alone_gives_all_of_them() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    commit(&repo, "third");
    let inner = git(&repo, &["rev-parse", "main~1"]);
    let server = Server::start(&bed.path(""));
    // As JGit's servers say it, and as nobody does.
    for (n, words) in ["want ID not valid", "go away"].into_iter().enumerate() {
        server.behave(Manner::TipsOnly(words));
        let cache = open(&bed.path(&format!("cache-{n}")));
        let url = server.url("project/.git");
        let (fetched, _) = build(&cache, &source(&url, Some(&inner))).await;
        assert_eq!(fetched.commit().as_str(), inner);
        let nothing = "1234567890123456789012345678901234567890";
        let error = fetch(&cache, &source(&url, Some(nothing)))
            .await
            .unwrap_err();
        assert!(matches!(error, SourceError::RefMissing { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_history_that_is_cut_off_has_a_mirror_of_its_own() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let first = git(&repo, &["rev-parse", "dev"]);
    let server = Server::start(&bed.path(""));
    let url = server.url("project/.git");
    let policy = SourcePolicy {
        depth: Some(1),
        ..on_loopback()
    };
    let whole = bed.cache();
    let cut_off = bed.cache().with_policy(std::sync::Arc::new(policy));
    for (reference, commit, log) in [
        (None, head(&repo), "second"),
        (Some("main"), head(&repo), "second"),
        (Some("v1.0"), first.clone(), "first"),
        (Some("refs/heads/dev"), first.clone(), "first"),
        (Some(&*head(&repo)), head(&repo), "second"),
    ] {
        let (fetched, checkout) = build(&cut_off, &source(&url, reference)).await;
        assert_eq!(fetched.commit().as_str(), commit, "{reference:?}");
        assert_eq!(
            git_in(&checkout, &["log", "--format=%s"]),
            log,
            "{reference:?}"
        );
        assert_eq!(git_in(&checkout, &["status", "--porcelain"]), "");
    }
    let error = fetch(&cut_off, &source(&url, Some("no-such")))
        .await
        .unwrap_err();
    assert!(matches!(error, SourceError::RefMissing { .. }), "{error:?}");
    let (_, checkout) = build(&whole, &source(&url, None)).await;
    assert_eq!(git_in(&checkout, &["log", "--format=%s"]), "second\nfirst");

    // A name that was a branch's and is a tag's.
    fetch(&cut_off, &source(&url, Some("dev"))).await.unwrap();
    git(&repo, &["branch", "-D", "dev"]);
    git(&repo, &["tag", "dev", "main"]);
    let fetched = fetch(&cut_off, &source(&url, Some("dev"))).await.unwrap();
    assert_eq!(fetched.commit().as_str(), head(&repo));
}

#[tokio::test]
async fn references_of_any_kind() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let first = git(&repo, &["rev-parse", "dev"]);
    git(&repo, &["update-ref", "refs/pull/7/head", &first]);
    git(&repo, &["checkout", "-q", "--detach"]);
    let lonely = commit(&repo, "lonely");
    git(&repo, &["checkout", "-q", "main"]);
    let server = Server::start(&bed.path(""));
    let urls = [
        server.url("project/.git"),
        format!("file://{}", repo.display()),
    ];
    for (n, url) in urls.iter().enumerate() {
        let cache = open(&bed.path(&format!("cache-{n}")));
        for (name, commit) in [
            ("dev", &first),
            ("refs/heads/dev", &first),
            ("v1.0", &first),
            ("refs/pull/7/head", &first),
            (lonely.as_str(), &lonely),
        ] {
            let fetched = fetch(&cache, &source(url, Some(name))).await.unwrap();
            assert_eq!(fetched.commit().as_str(), commit, "{name}");
        }
        for name in ["no-such", "refs/pull/8/head"] {
            let error = fetch(&cache, &source(url, Some(name))).await.unwrap_err();
            assert!(matches!(error, SourceError::RefMissing { .. }), "{error:?}");
            assert_eq!(error.hint().unwrap(), "branches: dev, main; tags: v1.0");
        }
        let nothing = "1234567890123456789012345678901234567890";
        let error = fetch(&cache, &source(url, Some(nothing)))
            .await
            .unwrap_err();
        assert!(matches!(error, SourceError::RefMissing { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_deleted_branch_makes_room_for_a_directory_of_its_name() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let url = format!("file://{}", repo.display());
    let cut_off = SourcePolicy {
        depth: Some(1),
        ..on_loopback()
    };
    let caches = [
        bed.cache(),
        bed.cache().with_policy(std::sync::Arc::new(cut_off)),
    ];
    for cache in &caches {
        fetch(cache, &source(&url, Some("dev"))).await.unwrap();
    }
    git(&repo, &["branch", "-D", "dev"]);
    git(&repo, &["branch", "dev/one"]);
    for cache in &caches {
        let fetched = fetch(cache, &source(&url, Some("dev/one"))).await.unwrap();
        assert!(fetched.notices().is_empty(), "{:?}", fetched.notices());
        let error = fetch(cache, &source(&url, Some("dev"))).await.unwrap_err();
        assert!(matches!(error, SourceError::RefMissing { .. }));
    }
}

#[tokio::test]
async fn a_full_name_makes_room_for_a_directory_of_its_name() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let url = format!("file://{}", repo.display());
    let cache = bed.cache();
    let mut before = None;
    for (old, new) in [
        ("", "refs/pull/7"),
        ("refs/pull/7", "refs/pull/7/head"),
        ("refs/pull/7/head", "refs/pull/7"),
    ] {
        if !old.is_empty() {
            git(&repo, &["update-ref", "-d", old]);
        }
        git(&repo, &["update-ref", new, "dev"]);
        let fetched = fetch(&cache, &source(&url, Some(new))).await.unwrap();
        assert!(fetched.notices().is_empty(), "{:?}", fetched.notices());
        let mirror = inode(&mirror(&cache));
        assert_eq!(mirror, *before.get_or_insert(mirror));
    }
}

#[tokio::test]
async fn a_deleted_tag_makes_room_for_a_directory_of_its_name() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let server = Server::start(&bed.path(""));
    let url = server.url("project/.git");
    let cache = bed.cache();
    fetch(&cache, &source(&url, Some(&head(&repo))))
        .await
        .unwrap();
    let before = inode(&mirror(&cache));
    git(&repo, &["tag", "-d", "v1.0"]);
    let third = commit(&repo, "third");
    git(&repo, &["tag", "v1.0/x"]);
    let (fetched, checkout) = build(&cache, &source(&url, Some(&third))).await;
    assert!(fetched.notices().is_empty(), "{:?}", fetched.notices());
    assert_eq!(git_in(&checkout, &["describe", "--tags"]), "v1.0/x");
    assert_eq!(inode(&mirror(&cache)), before);
}

#[tokio::test]
async fn tags_that_were_deleted_or_moved_do_not_stay_where_commits_come_alone() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    git(&repo, &["tag", "moving"]);
    git(&repo, &["tag", "in/a/directory"]);
    git(&repo, &["tag", "-a", "stays", "-m", "stays", "dev"]);
    let server = Server::start(&bed.path(""));
    let url = server.url("project/.git");
    let cache = bed.cache();
    let tags = |checkout| git_in(checkout, &["tag", "--list"]);
    let (_, checkout) = build(&cache, &source(&url, Some(&head(&repo)))).await;
    assert_eq!(tags(&checkout), "in/a/directory\nmoving\nstays\nv1.0");
    let one_commit = server.requests();
    // Where there are none yet, nobody asks whether they are stale.
    assert_eq!(one_commit, 3);

    git(&repo, &["tag", "-d", "v1.0", "in/a/directory"]);
    let third = commit(&repo, "third");
    git(&repo, &["tag", "-f", "moving"]);
    let (_, checkout) = build(&cache, &source(&url, Some(&third))).await;
    assert_eq!(tags(&checkout), "moving\nstays");
    assert_eq!(git_in(&checkout, &["describe", "--tags"]), "moving");
    assert_eq!(server.requests(), one_commit + 5);

    // A tag that went away from what is built is not told of it any more.
    git(&repo, &["checkout", "-q", "-b", "other", "dev"]);
    commit(&repo, "other");
    git(&repo, &["tag", "-f", "moving"]);
    git(&repo, &["checkout", "-q", "main"]);
    let fourth = commit(&repo, "fourth");
    let (_, checkout) = build(&cache, &source(&url, Some(&fourth))).await;
    assert_eq!(tags(&checkout), "stays");
}

/// Whatever a server says of damage and of full disks, it is not ours.
#[tokio::test]
async fn words_of_a_server_are_no_damage_of_the_mirror() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let server = Server::start(&bed.path(""));
    let url = server.url("project/.git");
    let cache = bed.cache();
    fetch(&cache, &source(&url, None)).await.unwrap();
    let before = inode(&mirror(&cache));
    for words in [
        "upload-pack: loose object ID is corrupt",
        "sorry\nfatal: bad object ID",
        "sorry\nerror: write error: No space left on device",
    ] {
        let inner = commit(&repo, "inner");
        commit(&repo, "tip");
        server.behave(Manner::TipsOnly(words));
        let fetched = fetch(&cache, &source(&url, Some(&inner))).await.unwrap();
        assert!(fetched.notices().is_empty(), "{:?}", fetched.notices());
    }
    // What git repeats in a sentence that nobody foresaw does not stand up to a look at the mirror.
    server.behave(Manner::Names("packfile x"));
    let error = fetch(&cache, &source(&url, None)).await.unwrap_err();
    assert!(matches!(error, SourceError::Git { .. }), "{error:?}");
    assert!(error.to_string().contains("packfile x"), "{error}");
    assert_eq!(inode(&mirror(&cache)), before);
    // Where the mirror has tags, the server is asked for its own before anything else.
    server.behave(Manner::Honest);
    git(&repo, &["tag", "v1"]);
    fetch(&cache, &source(&url, None)).await.unwrap();
    let next = commit(&repo, "next");
    server.behave(Manner::Names("packfile x"));
    let error = fetch(&cache, &source(&url, Some(&next))).await.unwrap_err();
    assert!(matches!(error, SourceError::Git { .. }), "{error:?}");
    assert_eq!(inode(&mirror(&cache)), before);
}

#[tokio::test]
async fn an_empty_repository_has_no_default_branch() {
    let bed = Bed::new();
    let repo = bed.path("empty");
    std::fs::create_dir(&repo).unwrap();
    git(&repo, &["init", "-q"]);
    let url = format!("file://{}", repo.display());
    let error = fetch(&bed.cache(), &source(&url, None)).await.unwrap_err();
    assert!(
        error.to_string().ends_with("has no default branch"),
        "{error}"
    );
    assert_eq!(error.hint().unwrap(), "the repository has no commits yet");
}

#[tokio::test]
async fn what_servers_say_becomes_a_cause() {
    let bed = Bed::new();
    bed.repository("project");
    let server = Server::start(&bed.path(""));
    let cache = bed.cache();
    let url = server.url("project/.git");
    let missing = |e: &SourceError, kind| matches!(e, SourceError::RepositoryMissing { why, .. } if *why == kind);

    let error = fetch(&cache, &source(server.url("nothing"), None))
        .await
        .unwrap_err();
    assert!(missing(&error, Absence::NotFound), "{error:?}");
    assert!(error.to_string().contains("/nothing"), "{error}");
    server.behave(Manner::Locked);
    let error = fetch(&cache, &source(&url, None)).await.unwrap_err();
    assert!(missing(&error, Absence::AccessDenied), "{error:?}");
    server.behave(Manner::NotGit);
    let error = fetch(&cache, &source(&url, None)).await.unwrap_err();
    assert!(missing(&error, Absence::NotARepository), "{error:?}");
    server.behave(Manner::Overloaded);
    let error = fetch(&cache, &source(&url, None)).await.unwrap_err();
    assert!(
        matches!(error, SourceError::Unreachable { .. }),
        "{error:?}"
    );

    let gone = format!("file://{}", bed.path("gone").display());
    let error = fetch(&cache, &source(&gone, None)).await.unwrap_err();
    assert!(missing(&error, Absence::NotARepository), "{error:?}");
    // Nobody listens on the discard port of loopback.
    let error = fetch(&cache, &source("http://127.0.0.1:9/x", None))
        .await
        .unwrap_err();
    assert!(
        matches!(error, SourceError::Unreachable { .. }),
        "{error:?}"
    );

    server.behave(Manner::Honest);
    fetch(&cache, &source(&url, None)).await.unwrap();
}
