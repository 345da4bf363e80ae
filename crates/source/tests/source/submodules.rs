//! Repositories in repositories.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bryo_model::{CachedKind, Scheme};
use bryo_source::{Absence, Checkout, SourceCache, SourceError, SourcePolicy};
use git2::Repository;

use crate::bed::{
    Bed, build, commit, fetch, git, git_command, head, inode, on_loopback, silent, source, write,
};
use crate::hostile::raw_commit;
use crate::http::{Manner, Server};

/// Adds a submodule as git does, by an address that git itself need not reach.
pub(crate) fn add(repo: &Path, name: &str, url: &str, at: &str) {
    let modules = repo.join(".gitmodules");
    let mut text = fs::read_to_string(&modules).unwrap_or_default();
    text.push_str(&format!(
        "[submodule \"{name}\"]\n\tpath = {name}\n\turl = {url}\n"
    ));
    fs::write(&modules, text).unwrap();
    git(repo, &["add", ".gitmodules"]);
    let entry = format!("160000,{at},{name}");
    git(repo, &["update-index", "--add", "--cacheinfo", &entry]);
    git(repo, &["commit", "-q", "-m", name]);
}

/// `app` has `libs/one` with a relative address, which has `deep`, and `two` with an absolute one.
struct Project {
    bed: Bed,
    server: Server,
    app: PathBuf,
}

impl Project {
    fn new() -> Self {
        let bed = Bed::new();
        let server = Server::start(&bed.path(""));
        let deep = bed.repository("deep");
        let one = bed.repository("one");
        add(&one, "deep", "../../deep/.git", &head(&deep));
        // Not what a branch has now: the recorded commit counts.
        let recorded = head(&one);
        write(&one, "README.md", "later\n");
        commit(&one, "later");
        let two = bed.repository("two");
        let app = bed.repository("app");
        add(&app, "libs/one", "../../one/.git", &recorded);
        add(&app, "two", &server.url("two/.git"), &head(&two));
        Self { bed, server, app }
    }

    fn url(&self) -> String {
        self.server.url("app/.git")
    }
}

/// A checkout as a job sees it: with the objects of the mirrors where they are mounted.
fn as_mounted(bed: &Bed, checkout: &Checkout, name: &str) -> PathBuf {
    let to = bed.path(name);
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([checkout.tree(), &to])
        .status()
        .unwrap();
    assert!(copied.success());
    let mount = |git: PathBuf, objects: &Path| {
        fs::remove_dir_all(git.join("objects")).unwrap();
        std::os::unix::fs::symlink(objects, git.join("objects")).unwrap();
    };
    mount(to.join(".git"), checkout.objects());
    for module in checkout.submodules() {
        mount(to.join(module.git_dir()), module.objects());
    }
    to
}

fn names(checkout: &Checkout) -> Vec<&str> {
    checkout
        .submodules()
        .iter()
        .map(bryo_source::Submodule::path)
        .collect()
}

#[tokio::test]
async fn all_levels_are_in_one_tree_and_cost_no_network_again() {
    let project = Project::new();
    let cache = project.bed.cache();
    let (fetched, checkout) = build(&cache, &source(project.url(), None)).await;
    assert!(!fetched.was_cached() && checkout.notices().is_empty());
    let text = |name: &str| fs::read_to_string(checkout.tree().join(name)).unwrap();
    assert_eq!(text("libs/one/README.md"), "two\n");
    assert_eq!(text("libs/one/deep/docs/en/index.md"), "# Hello\n");
    assert_eq!(text("two/README.md"), "two\n");
    assert_eq!(names(&checkout), ["libs/one", "two", "libs/one/deep"]);
    let mirrors = cache.list().unwrap();
    let mirrors = mirrors.iter().filter(|c| c.kind == CachedKind::Mirror);
    assert_eq!(mirrors.filter(|c| c.in_use).count(), 4);

    let asked = project.server.requests();
    let commit = head(&project.app);
    let (again, same) = build(&cache, &source(project.url(), Some(&commit))).await;
    assert!(again.was_cached() && inode(same.tree()) == inode(checkout.tree()));
    assert_eq!(project.server.requests(), asked);
    assert_eq!(names(&same), names(&checkout));
}

#[tokio::test]
async fn git_works_in_each_of_them() {
    let project = Project::new();
    let cache = project.bed.cache();
    let (_, checkout) = build(&cache, &source(project.url(), None)).await;
    let tree = as_mounted(&project.bed, &checkout, "mounted");
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
    let status = git(&tree, &["submodule", "status", "--recursive"]);
    let current = |line: &&str| !line.starts_with(['-', '+', 'U']);
    assert_eq!(status.lines().filter(current).count(), 3, "{status}");
    for module in checkout.submodules() {
        let at = tree.join(module.path());
        assert_eq!(head(&at), module.commit().as_str());
        assert_eq!(
            git(&at, &["rev-parse", "--show-toplevel"]),
            at.to_str().unwrap()
        );
        assert_eq!(git(&at, &["status", "--porcelain"]), "");
        assert!(git(&at, &["log", "--format=%s"]).ends_with("first"));
        assert!(git(&at, &["describe"]).starts_with("v1.0-"));
        assert!(!git(&at, &["config", "--list"]).contains("127.0.0.1"));
    }
    // A change is seen: what is clean above is looked at.
    write(&tree.join("two"), "README.md", "other\n");
    assert_eq!(git(&tree, &["status", "--porcelain"]), " M two");
}

#[tokio::test]
async fn a_job_starts_in_a_directory_of_a_submodule() {
    let project = Project::new();
    git(
        &project.app,
        &[
            "config",
            "-f",
            ".gitmodules",
            "submodule.two.update",
            "none",
        ],
    );
    git(&project.app, &["add", ".gitmodules"]);
    git(&project.app, &["commit", "-q", "-m", "without two"]);
    let cache = project.bed.cache();
    let within = |subdir: &str| bryo_model::SourceSpec {
        subdir: Some(subdir.parse().unwrap()),
        ..source(project.url(), None)
    };
    let there = ["libs", "libs/one", "libs/one/docs/en", "libs/one/deep/docs"];
    let missing = [
        "libs/one/nothing",
        "libs/one/README.md",
        "libs/one/deep/nothing",
        "two",
        "two/docs",
        "nothing",
    ];
    // Before there is a tree, and when there is one.
    for _ in 0..2 {
        for subdir in there {
            fetch(&cache, &within(subdir)).await.unwrap();
        }
        for subdir in missing {
            let error = fetch(&cache, &within(subdir)).await.unwrap_err();
            assert!(
                matches!(error, SourceError::SubDirMissing { .. }),
                "{subdir}: {error:?}"
            );
        }
        drop(build(&cache, &within(there[2])).await);
    }
}

/// A project with this many submodules beside each other.
fn with_siblings(bed: &Bed, many: usize) {
    let app = bed.repository("app");
    for n in 0..many {
        let name = format!("lib-{n}");
        let lib = bed.repository(&name);
        write(&lib, "README.md", &format!("{name}\n"));
        let at = commit(&lib, "own");
        add(&app, &name, &format!("../../{name}/.git"), &at);
    }
}

#[tokio::test]
async fn siblings_are_fetched_beside_each_other_and_come_in_order() {
    let bed = Bed::new();
    let server = Server::start(&bed.path(""));
    with_siblings(&bed, 9);
    server.behave(Manner::Slow(Duration::from_millis(300)));
    let url = server.url("app/.git");
    let (_, checkout) = build(&bed.cache(), &source(&url, None)).await;
    let expected: Vec<String> = (0..9).map(|n| format!("lib-{n}")).collect();
    assert_eq!(names(&checkout), expected);
    for name in &expected {
        let text = fs::read_to_string(checkout.tree().join(name).join("README.md"));
        assert_eq!(text.unwrap().trim(), name);
    }
    let most = server.most_at_once();
    assert!((2..=4).contains(&most), "{most}");

    // Whoever fails first, the first of those that fail is told.
    server.behave(Manner::Honest);
    for name in ["lib-2", "lib-3", "lib-7"] {
        fs::rename(bed.path(name), bed.path(&format!("no-{name}"))).unwrap();
    }
    for n in 0..5 {
        let cache = crate::bed::open(&bed.path(&format!("empty-{n}")));
        let error = fetch(&cache, &source(&url, None)).await.unwrap_err();
        assert!(
            matches!(&error, SourceError::Submodule { path, .. } if path == "lib-2"),
            "{error:?}"
        );
    }
}

/// Prints how long it takes to fetch eight submodules from a server that answers after 50 ms.
#[tokio::test]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "a measurement is read")]
async fn how_long_eight_siblings_take() {
    let bed = Bed::new();
    let server = Server::start(&bed.path(""));
    with_siblings(&bed, 8);
    server.behave(Manner::Slow(Duration::from_millis(50)));
    for n in 0..5 {
        let cache = crate::bed::open(&bed.path(&format!("cache-{n}")));
        let start = Instant::now();
        fetch(&cache, &source(server.url("app/.git"), None))
            .await
            .unwrap();
        eprintln!("{} ms", start.elapsed().as_millis());
    }
}

#[tokio::test]
async fn a_submodule_that_is_not_there_is_named() {
    let project = Project::new();
    let gone = head(&project.app);
    add(
        &project.app,
        "gone",
        &project.server.url("gone/.git"),
        &gone,
    );
    let cache = project.bed.cache();
    let error = fetch(&cache, &source(project.url(), None))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("submodule gone (http") && text.contains("/gone/.git)"),
        "{text}"
    );
    let SourceError::Submodule { source: why, .. } = error else {
        panic!("{error:?}");
    };
    let missing = |why: &SourceError| {
        matches!(
            why,
            SourceError::RepositoryMissing {
                why: Absence::NotFound,
                ..
            }
        )
    };
    assert!(missing(&why), "{why:?}");

    // A commit that its repository does not have.
    let (bed, server) = (Bed::new(), Project::new());
    drop(server);
    let server = Server::start(&bed.path(""));
    bed.repository("lib");
    let app = bed.repository("app");
    add(&app, "lib", "../../lib/.git", &"1".repeat(40));
    let error = fetch(&bed.cache(), &source(server.url("app/.git"), None))
        .await
        .unwrap_err();
    let SourceError::Submodule { source: why, .. } = error else {
        panic!("{error:?}");
    };
    assert!(matches!(*why, SourceError::RefMissing { .. }), "{why:?}");
}

#[tokio::test]
async fn a_password_in_gitmodules_is_not_repeated() {
    let project = Project::new();
    let url = "https://me:hunter2@example.org/x";
    add(&project.app, "secret", url, &head(&project.app));
    let error = fetch(&project.bed.cache(), &source(project.url(), None))
        .await
        .unwrap_err();
    let text = format!("{error} {error:?} {:?}", error.hint());
    assert!(
        text.contains("secret") && text.contains("…@example.org"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn addresses_that_are_not_followed() {
    for (url, why) in [
        ("ext::sh -c 'touch /tmp/bryo-pwned'", "white space"),
        ("ext::id", "not a supported source"),
        ("git://example.org/x", "not a supported source"),
        ("/srv/secret.git", "not a supported source"),
        ("file:///srv/secret.git", "file"),
        ("http://169.254.169.254/x", "link-local"),
        ("../../../../../x", "climbs above"),
        ("--upload-pack=id", "taken for an option"),
    ] {
        let bed = Bed::new();
        let server = Server::start(&bed.path(""));
        let app = bed.repository("app");
        add(&app, "evil", url, &head(&app));
        let error = fetch(&bed.cache(), &source(server.url("app/.git"), None))
            .await
            .unwrap_err();
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(next) = cause {
            text.push_str(&format!(": {next}"));
            cause = next.source();
        }
        assert!(text.contains(why) && text.contains("evil"), "{url}: {text}");
    }
    assert!(!Path::new("/tmp/bryo-pwned").exists());
}

#[tokio::test]
async fn the_policy_holds_for_submodules_too() {
    let project = Project::new();
    let policy = SourcePolicy {
        denied_hosts: vec!["*.example.org".parse().unwrap()],
        protocols: Scheme::ALL.into(),
        ..on_loopback()
    };
    add(
        &project.app,
        "far",
        "https://git.example.org/x",
        &head(&project.app),
    );
    let cache = SourceCache::open(&project.bed.path("cache")).unwrap();
    let cache = cache.with_policy(Arc::new(policy));
    let error = fetch(&cache, &source(project.url(), None))
        .await
        .unwrap_err();
    let SourceError::Submodule {
        source: why, path, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert!(
        path == "far" && matches!(*why, SourceError::Refused { .. }),
        "{why:?}"
    );
}

#[tokio::test]
async fn depth_and_number_are_bounded() {
    let bed = Bed::new();
    let server = Server::start(&bed.path(""));
    // Each level is the same repository at the commit before.
    let own = bed.repository("own");
    for _ in 0..9 {
        let at = head(&own);
        let text = "[submodule \"in\"]\n\tpath = in\n\turl = ../../own/.git\n";
        fs::write(own.join(".gitmodules"), text).unwrap();
        git(&own, &["add", ".gitmodules"]);
        git(
            &own,
            &[
                "update-index",
                "--add",
                "--cacheinfo",
                &format!("160000,{at},in"),
            ],
        );
        git(&own, &["commit", "-q", "-m", "level"]);
    }
    let refused = async |reference: &str| match fetch(
        &bed.cache(),
        &source(server.url("own/.git"), Some(reference)),
    )
    .await
    {
        Err(SourceError::RefusedTree { detail, .. }) => Some(detail),
        Err(other) => panic!("{other:?}"),
        Ok(_) => None,
    };
    let eight = git(&own, &["rev-parse", "HEAD~1"]);
    assert_eq!(refused(&eight).await, None);
    let detail = refused(&head(&own)).await.unwrap();
    assert!(detail.contains("8 levels"), "{detail}");

    let lib = bed.repository("lib");
    let many = bed.repository("many");
    let mut text = String::new();
    for n in 0..257 {
        text.push_str(&format!(
            "[submodule \"m{n}\"]\n\tpath = m{n}\n\turl = ../../lib/.git\n"
        ));
        let entry = format!("160000,{},m{n}", head(&lib));
        git(&many, &["update-index", "--add", "--cacheinfo", &entry]);
    }
    fs::write(many.join(".gitmodules"), text).unwrap();
    git(&many, &["add", ".gitmodules"]);
    git(&many, &["commit", "-q", "-m", "many"]);
    let error = fetch(&bed.cache(), &source(server.url("many/.git"), None))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("more than 256 submodules"),
        "{error}"
    );
}

#[tokio::test]
async fn what_gitmodules_leaves_out_is_told() {
    let bed = Bed::new();
    let app = bed.repository("app");
    add(
        &app,
        "unwanted",
        "https://example.org/x\n\tupdate = none",
        &head(&app),
    );
    let entry = format!("160000,{},stray", head(&app));
    git(&app, &["update-index", "--add", "--cacheinfo", &entry]);
    git(&app, &["commit", "-q", "-m", "stray"]);
    let (_, checkout) = build(&bed.cache(), &source(&app, None)).await;
    assert_eq!(
        checkout.notices(),
        [
            "submodule unwanted is not fetched: its update is 'none'",
            "submodule stray is not in .gitmodules: its directory is empty"
        ]
    );
    for dir in ["unwanted", "stray"] {
        assert!(
            fs::read_dir(checkout.tree().join(dir))
                .unwrap()
                .next()
                .is_none()
        );
    }
    let tree = as_mounted(&bed, &checkout, "mounted");
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn what_is_in_no_gitmodules_is_not_told_without_end() {
    let bed = Bed::new();
    let app = bed.repository("app");
    for n in 0..30 {
        let entry = format!("160000,{},stray{n:02}", head(&app));
        git(&app, &["update-index", "--add", "--cacheinfo", &entry]);
    }
    git(&app, &["commit", "-q", "-m", "strays"]);
    let (_, checkout) = build(&bed.cache(), &source(&app, None)).await;
    let told = checkout.notices();
    assert_eq!(told.len(), 21);
    assert!(told[19].starts_with("submodule stray19 is not"), "{told:?}");
    assert!(told[20].starts_with("10 more submodules"), "{told:?}");
}

#[tokio::test]
async fn a_gitmodules_that_is_a_trap_is_refused() {
    let section = |path: &str| format!("[submodule \"evil\"]\n\tpath = {path}\n\turl = ../x\n");
    for (text, why) in [
        (section("-x"), "taken for an option"),
        (section("../x"), "place in the tree"),
        (section("/etc"), "absolute"),
        (section(".git/hooks"), "'.git'"),
        (section("link/x"), "through the link 'link'"),
        (section("x\n\tupdate = !touch /tmp/bryo-pwned"), "a program"),
        ("[include]\n\tpath = /etc/passwd\n".to_owned(), ""),
    ] {
        let bed = Bed::new();
        let app = bed.repository("app");
        std::os::unix::fs::symlink("docs", app.join("link")).unwrap();
        write(&app, ".gitmodules", &text);
        commit(&app, "trap");
        let result = fetch(&bed.cache(), &source(&app, None)).await;
        match why {
            "" => drop(result.unwrap()),
            why => {
                let error = result.unwrap_err().to_string();
                assert!(
                    error.contains(".gitmodules") && error.contains(why),
                    "{error}"
                );
            }
        }
    }
    let bed = Bed::new();
    let app = bed.repository("app");
    let target = Repository::open(&app).unwrap().blob(b"/etc/passwd");
    raw_commit(&app, &[("120000", ".gitmodules", target.unwrap())]);
    let error = fetch(&bed.cache(), &source(&app, None)).await.unwrap_err();
    assert!(error.to_string().contains("it is not a file"), "{error}");
}

#[tokio::test]
async fn a_local_repository_uses_what_its_user_has() {
    let bed = Bed::new();
    let lib = bed.repository("lib");
    let app = bed.repository("app");
    let allowed = ["-c", "protocol.file.allow=always"];
    let lib_path = lib.to_str().unwrap();
    git(
        &app,
        &[
            &allowed[..],
            &["submodule", "--quiet", "add", lib_path, "lib"],
        ]
        .concat(),
    );
    commit(&app, "with lib");
    // Only here, and in no remote.
    let inside = app.join("lib");
    write(&inside, "README.md", "unpublished\n");
    commit(&inside, "unpublished");
    commit(&app, "with unpublished lib");
    let (fetched, checkout) = build(&bed.cache(), &source(&app, None)).await;
    let text = fs::read_to_string(checkout.tree().join("lib/README.md")).unwrap();
    assert_eq!(text, "unpublished\n");
    let (again, _) = build(&bed.cache(), &source(&app, None)).await;
    assert!(!fetched.was_cached() && again.was_cached());

    // A clone that has not brought it yet is told how to.
    let plain = bed.path("plain");
    git(
        &bed.path(""),
        &[
            "clone",
            "-q",
            app.to_str().unwrap(),
            plain.to_str().unwrap(),
        ],
    );
    let error = fetch(&bed.cache(), &source(&plain, None))
        .await
        .unwrap_err();
    let SourceError::Submodule { source: why, .. } = error else {
        panic!("{error:?}");
    };
    assert!(
        why.to_string().contains("git submodule update --init"),
        "{why}"
    );
}

#[tokio::test]
async fn a_relative_address_of_a_local_repository_starts_at_its_remote() {
    let project = Project::new();
    let clone = project.bed.path("clone");
    let made = git_command(&project.bed.path(""))
        .args(["clone", "-q", &project.url()])
        .arg(&clone)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let (_, checkout) = build(&project.bed.cache(), &source(&clone, None)).await;
    assert_eq!(names(&checkout), ["libs/one", "two", "libs/one/deep"]);
}

#[tokio::test]
async fn a_tree_of_an_earlier_version_is_made_again() {
    let project = Project::new();
    let cache = project.bed.cache();
    let (_, checkout) = build(&cache, &source(project.url(), None)).await;
    let tree = checkout.tree().to_owned();
    drop(checkout);
    let marker = tree.with_file_name("ready");
    let text = fs::read_to_string(&marker).unwrap();
    assert!(text.starts_with("{\"version\":3,"), "{text}");
    fs::write(&marker, text.replacen(":3,", ":2,", 1)).unwrap();
    fs::remove_dir_all(tree.join("libs/one")).unwrap();
    drop(build(&cache, &source(project.url(), None)).await);
    assert!(tree.join("libs/one/README.md").exists());
}

#[tokio::test]
async fn a_mirror_that_was_made_again_makes_its_trees_again() {
    let project = Project::new();
    let cache = project.bed.cache();
    let commit = head(&project.app);
    drop(build(&cache, &source(project.url(), Some(&commit))).await);
    let mirrors = cache.list().unwrap();
    let deep = mirrors
        .iter()
        .find(|c| c.kind == CachedKind::Mirror && !c.in_use)
        .unwrap();
    assert!(cache.remove(deep).unwrap());
    let all = cache.list().unwrap();
    assert!(
        all.iter()
            .filter(|c| c.kind == CachedKind::Checkout)
            .all(|c| c.worthless)
    );
    let (_, checkout) = build(&cache, &source(project.url(), Some(&commit))).await;
    let tree = as_mounted(&project.bed, &checkout, "mounted");
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn one_damaged_mirror_is_made_again_and_told() {
    let project = Project::new();
    let cache = project.bed.cache();
    let fetched = fetch(&cache, &source(project.url(), None)).await.unwrap();
    let mut spoiled = 0;
    for entry in fs::read_dir(cache.paths().mirrors()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name.starts_with("one-") {
            crate::trouble::spoil_packs(&path);
            spoiled += 1;
        }
    }
    assert_eq!(spoiled, 1);
    let checkout = cache.checkout(&fetched, silent()).await.unwrap();
    assert_eq!(checkout.notices().len(), 1, "{:?}", checkout.notices());
    assert!(
        checkout.notices()[0].contains("/one/.git was damaged"),
        "{:?}",
        checkout.notices()
    );
}

#[tokio::test]
async fn a_server_that_fails_half_way_leaves_what_the_next_fetch_uses() {
    let project = Project::new();
    let cache = project.bed.cache();
    project.server.behave(Manner::DropsMidPack);
    fetch(&cache, &source(project.url(), None))
        .await
        .unwrap_err();
    project.server.behave(Manner::Honest);
    let (_, checkout) = build(&cache, &source(project.url(), None)).await;
    assert_eq!(names(&checkout).len(), 3);
}
