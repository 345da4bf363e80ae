//! Files in Git LFS from servers: what they give, what they may not do, and that the stand-in is one that git-lfs takes
//! for a server.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bryo_model::{Amount, Secret};
use bryo_source::{
    Checkout, Credential, CredentialRule, ReachedLimit, Refusal, SecretRef, SourceCache,
    SourceError, SourceLimits, SourcePolicy,
};

use crate::bed::{
    Bed, SOON, build, commit, fetch, git, git_command, head, mirror, on_loopback, recorded, silent,
    source, write,
};
use crate::http::{Manner, Server, basic};
use crate::lfs_server::Lfs;
use crate::sshd::Sshd;

const PASSWORD: &str = "hunter2:/@%\"'\\ #;$(id)-7f3a9c";

/// Tells [`the_download`] what to fetch: cache, address and most bytes, by lines.
const DOWNLOAD: &str = "BRYO_TEST_LFS_DOWNLOAD";

/// Bytes of an object that would be seen if it were in memory.
const LARGE: u64 = 300 << 20;

/// A repository with files in Git LFS, as git-lfs leaves it.
fn repository(bed: &Bed, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let repo = bed.repository(name);
    git(&repo, &["lfs", "install", "--local"]);
    git(&repo, &["lfs", "track", "*.bin"]);
    for (path, text) in files {
        write(&repo, path, text);
    }
    commit(&repo, "files");
    repo
}

const TWO: &[(&str, &str)] = &[("art/big.bin", "a picture\n"), ("other.bin", "a film\n")];

fn policy() -> SourcePolicy {
    SourcePolicy {
        lfs: true,
        ..on_loopback()
    }
}

fn cache(bed: &Bed, policy: SourcePolicy) -> SourceCache {
    SourceCache::open(&bed.path("cache"))
        .unwrap()
        .with_policy(Arc::new(policy))
}

fn with_password(policy: SourcePolicy, server: &Server, password: &str) -> SourcePolicy {
    let rule = CredentialRule {
        name: "story".to_owned(),
        url: server.url("").parse().unwrap(),
        credential: Credential::Password {
            user: "ana".to_owned(),
            password: SecretRef::Value(Secret::new(password.to_owned())),
        },
    };
    SourcePolicy {
        credentials: vec![rule],
        ca_bundle: server.authority.clone(),
        ..policy
    }
}

fn has(checkout: &Checkout, files: &[(&str, &str)]) {
    for (path, text) in files {
        assert_eq!(
            fs::read_to_string(checkout.tree().join(path)).unwrap(),
            *text
        );
    }
}

/// What is in the mirror's directory of objects: whole ones, and what is being written.
fn objects(cache: &SourceCache) -> (usize, usize) {
    // Who writes goes on to the end of a piece, with the mirror's lock.
    let lock = fs::File::open(mirror(cache).with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let (mut whole, mut parts) = (0, 0);
    let mut rest = vec![mirror(cache).join("lfs")];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => rest.push(path),
                false if path.file_name().unwrap().len() == 64 => whole += 1,
                false => parts += 1,
            }
        }
    }
    (whole, parts)
}

fn gets(server: &Server) -> usize {
    let asked = server.lfs().asked();
    asked.iter().filter(|one| one.starts_with("GET ")).count()
}

/// The stand-in, and everything of ours, has to agree with who knows better.
#[tokio::test]
async fn what_git_lfs_pushed_and_pulls_is_what_a_tree_has() {
    let bed = Bed::new();
    let repo = repository(&bed, "app", TWO);
    let hub = bed.path("hub.git");
    git(
        &bed.path(""),
        &["init", "-q", "--bare", "-b", "main", "hub.git"],
    );
    git(
        &repo,
        &["push", "-q", "--no-verify", hub.to_str().unwrap(), "main"],
    );
    let server = Server::start(&bed.path(""));
    server.lfs().behave(Lfs::Honest);
    // Without the end of a repository's name, as people write addresses.
    let url = server.url("hub");
    fs::rename(&hub, bed.path("hub")).unwrap();
    fs::create_dir(&hub).unwrap();
    git(&repo, &["remote", "add", "origin", &url]);
    git(&repo, &["lfs", "push", "--all", "origin"]);
    let asked = server.lfs().asked();
    let puts = asked
        .iter()
        .filter(|one| one.starts_with("PUT /hub.git/info/lfs/"));
    assert_eq!(puts.count(), 2, "{asked:?}");

    let clone = git_command(&bed.path(""))
        .env("GIT_LFS_SKIP_SMUDGE", "1")
        .args(["clone", "-q", &url, "clone"])
        .output()
        .unwrap();
    assert!(clone.status.success(), "{clone:?}");
    git(&bed.path("clone"), &["lfs", "install", "--local"]);
    git(&bed.path("clone"), &["lfs", "pull"]);
    let pulled = fs::read_to_string(bed.path("clone/art/big.bin")).unwrap();
    assert_eq!(pulled, TWO[0].1);

    server.lfs().behave(Lfs::Honest);
    let cache = cache(&bed, policy());
    let (fetched, checkout) = build(&cache, &source(&url, None)).await;
    has(&checkout, TWO);
    assert!(!fetched.was_cached() && checkout.notices().is_empty());
    assert_eq!(git(checkout.tree(), &["lfs", "version"]).lines().count(), 1);
    // As git-lfs asked: where, and how often.
    let ours = server.lfs().asked();
    assert_eq!(ours[0], "POST /hub.git/info/lfs/objects/batch", "{ours:?}");
    assert_eq!(ours.len(), 3, "{ours:?}");
    let again = source(&url, Some(&head(&repo)));
    assert!(fetch(&cache, &again).await.unwrap().was_cached());
    assert_eq!(server.lfs().asked().len(), 3);
}

#[tokio::test]
async fn without_a_word_pointers_stay_and_nobody_is_asked() {
    let bed = Bed::new();
    repository(&bed, "app", TWO);
    let server = Server::start(&bed.path(""));
    server.lfs().behave(Lfs::Honest);
    let (_, checkout) = build(&bed.cache(), &source(server.url("app/.git"), None)).await;
    let text = fs::read_to_string(checkout.tree().join("other.bin")).unwrap();
    assert!(text.starts_with("version https://git-lfs"), "{text}");
    assert_eq!(checkout.notices().len(), 1);
    assert_eq!(server.lfs().asked(), [""; 0]);
}

#[tokio::test]
async fn a_thousand_small_files_come_a_hundred_at_a_time() {
    let bed = Bed::new();
    let names: Vec<(String, String)> = (0..1000)
        .map(|n| (format!("many/{}/{n}.bin", n % 9), format!("file {n}\n")))
        .collect();
    let files: Vec<(&str, &str)> = names
        .iter()
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect();
    repository(&bed, "app", &files);
    let server = Server::start(&bed.path(""));
    server.lfs().behave(Lfs::Honest);
    let cache = cache(&bed, policy());
    let (progress, seen) = recorded();
    let spec = source(server.url("app/.git"), None);
    let fetched = tokio::time::timeout(SOON, cache.fetch(&spec, progress)).await;
    let checkout = cache.checkout(&fetched.unwrap().unwrap(), silent()).await;
    has(&checkout.unwrap(), &files);
    assert_eq!(objects(&cache), (1000, 0));
    assert_eq!((gets(&server), server.lfs().asked().len()), (1000, 1010));
    let total: usize = files.iter().map(|(_, text)| text.len()).sum();
    let total = u64::try_from(total).unwrap();
    let told: Vec<u64> = seen
        .lock()
        .unwrap()
        .iter()
        .filter_map(|amount| match amount {
            Amount::Bytes { done, total: all } if *all == total => Some(*done),
            _ => None,
        })
        .collect();
    assert!(
        told.is_sorted() && told.len() > 20 && told.len() < 210,
        "{told:?}"
    );
    assert_eq!((told[0], *told.last().unwrap()), (0, total));
}

/// Not a test, but a process of the ones below: says why it failed, or how much memory it had at most, in KiB.
#[tokio::test]
async fn the_download() {
    let Ok(what) = std::env::var(DOWNLOAD) else {
        return;
    };
    let [root, url, bytes] = what.lines().collect::<Vec<_>>()[..] else {
        panic!("{what}");
    };
    let cache = SourceCache::open(Path::new(root)).unwrap();
    let own = SourcePolicy {
        own_credentials: true,
        limits: SourceLimits {
            bytes: bytes.parse().unwrap(),
            ..SourceLimits::default()
        },
        ..policy()
    };
    let cache = cache.with_policy(Arc::new(own));
    match fetch(&cache, &source(url, None)).await {
        Ok(fetched) => drop(cache.checkout(&fetched, silent()).await.unwrap()),
        Err(error) => return writeln!(std::io::stdout(), "\nfailed: {error}").unwrap(),
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .unwrap();
    let peak = peak.trim().trim_end_matches(" kB");
    writeln!(std::io::stdout(), "\npeak {peak}").unwrap();
}

fn download(bed: &Bed, url: &str) -> Child {
    download_with(bed, url, &[])
}

fn download_with(bed: &Bed, url: &str, variables: &[(&str, &str)]) -> Child {
    download_within(bed, url, variables, SourceLimits::default().bytes)
}

fn download_within(bed: &Bed, url: &str, variables: &[(&str, &str)], bytes: u64) -> Child {
    let root = bed.path("cache");
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lfs_servers::the_download", "--nocapture"])
        .env(DOWNLOAD, format!("{}\n{url}\n{bytes}", root.display()))
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_large_file_goes_through_memory_piece_by_piece() {
    let bed = Bed::new();
    let repo = repository(&bed, "app", TWO);
    let large = fs::File::create(repo.join("large.bin")).unwrap();
    large.set_len(LARGE).unwrap();
    commit(&repo, "large");
    let server = Server::start(&bed.path(""));
    server.lfs().behave(Lfs::Honest);
    let ended = download(&bed, &server.url("app/.git"))
        .wait_with_output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{said}");
    let peak = said.lines().find_map(|l| l.strip_prefix("peak ")).unwrap();
    let peak: u64 = peak.parse().unwrap();
    assert!(peak < 100 << 10, "{peak} KiB");
}

#[tokio::test]
async fn a_download_that_is_killed_leaves_no_half_object_under_its_name() {
    let bed = Bed::new();
    repository(&bed, "app", &[("one.bin", &"x".repeat(1 << 20))]);
    let server = Server::start(&bed.path(""));
    server.lfs().behave(Lfs::Hangs);
    let url = server.url("app/.git");
    // As in the other process: each has mirrors of its own.
    let own = SourcePolicy {
        own_credentials: true,
        ..policy()
    };
    let cache = cache(&bed, own);
    let mut child = download(&bed, &url);
    let since = Instant::now();
    let half = || {
        let part = mirror(&cache).join("lfs/tmp_object-0");
        fs::metadata(part).is_ok_and(|part| part.len() == 1 << 19)
    };
    while !cache.paths().mirrors().exists() || gets(&server) == 0 || !half() {
        assert!(since.elapsed() < SOON, "it does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(objects(&cache), (0, 1));
    // As a second object at the same time would have left.
    fs::write(mirror(&cache).join("lfs/tmp_object-3"), "half").unwrap();
    server.lfs().behave(Lfs::Honest);
    let (_, checkout) = build(&cache, &source(&url, None)).await;
    assert_eq!(
        fs::metadata(checkout.tree().join("one.bin")).unwrap().len(),
        1 << 20
    );
    assert_eq!(objects(&cache), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_nobody_waits_for_ends() {
    let bed = Bed::new();
    repository(&bed, "app", TWO);
    let server = Server::start(&bed.path(""));
    server.lfs().behave(Lfs::Hangs);
    let cache = cache(&bed, policy());
    let spec = source(server.url("app/.git"), None);
    let mut hanging = Box::pin(cache.fetch(&spec, silent()));
    while gets(&server) < 2 {
        let tick = Duration::from_millis(10);
        assert!(tokio::time::timeout(tick, &mut hanging).await.is_err());
    }
    drop(hanging);
    server.wait_for_hang_up();
    server.wait_for_hang_up();
    server.lfs().behave(Lfs::Honest);
    let (_, checkout) = build(&cache, &spec).await;
    has(&checkout, TWO);
    assert_eq!(objects(&cache), (2, 0));
}

#[tokio::test]
async fn with_a_password_over_https_with_a_private_authority() {
    let bed = Bed::new();
    repository(&bed, "app", TWO);
    let server = Server::start_tls(&bed.path(""));
    server.behave(Manner::Knows(format!("ana:{PASSWORD}")));
    server.lfs().behave(Lfs::Honest);
    let spec = source(server.url("app/.git"), None);
    let cache = cache(&bed, with_password(policy(), &server, PASSWORD));
    let (_, checkout) = build(&cache, &spec).await;
    has(&checkout, TWO);
    let stranger = SourcePolicy {
        ca_bundle: None,
        ..with_password(policy(), &server, PASSWORD)
    };
    fs::remove_dir_all(mirror(&cache).join("lfs")).unwrap();
    drop(checkout);
    for entry in cache.list().unwrap() {
        if entry.kind == bryo_model::CachedKind::Checkout {
            assert!(cache.remove(&entry).unwrap());
        }
    }
    // The commit is there, and only Git LFS is left to be asked.
    let spec = source(server.url("app/.git"), Some(&head(&bed.path("app"))));
    let error = fetch(&self::cache(&bed, stranger), &spec)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SourceError::Unreachable { detail, .. } if detail.contains("ertificate")),
        "{error:?}"
    );
    let asked = server.lfs().asked().len();
    let wrong = with_password(policy(), &server, "wrong-password-7f3a9c");
    let error = fetch(&self::cache(&bed, wrong), &spec).await.unwrap_err();
    let shown = format!("{error} {error:?} {}", error.hint().unwrap());
    assert!(
        shown.contains("401") && shown.contains("source.credentials"),
        "{shown}"
    );
    // The server repeats what it was told.
    assert!(
        shown.contains("who is Basic ***?") && !shown.contains("wrong-password"),
        "{shown}"
    );
    assert_eq!(server.lfs().asked().len(), asked + 1);
}

#[tokio::test]
async fn credentials_stay_on_the_server_that_they_are_for() {
    let bed = Bed::new();
    repository(&bed, "app", TWO);
    let (trusted, thief) = (Server::start(&bed.path("")), Server::start(&bed.path("")));
    trusted.behave(Manner::Knows("ana:secret-7f3a9c".to_owned()));
    let spec = source(trusted.url("app/.git"), None);
    let elsewhere = thief.url("").trim_end_matches('/').to_owned();
    let by_name = elsewhere.replace("127.0.0.1", "localhost");
    for manner in [
        Lfs::Elsewhere(elsewhere.clone()),
        Lfs::Elsewhere(by_name),
        Lfs::BatchRedirects(elsewhere.clone()),
    ] {
        trusted.lfs().behave(manner.clone());
        thief.lfs().behave(Lfs::Elsewhere(elsewhere.clone()));
        let cache = cache(&bed, with_password(policy(), &trusted, "secret-7f3a9c"));
        let (_, checkout) = build(&cache, &spec).await;
        has(&checkout, TWO);
        assert!(gets(&thief) == 2 && gets(&trusted) == 0, "{manner:?}");
        assert!(!thief.was_told_who(), "{manner:?}: {:?}", thief.seen());
        assert!(trusted.was_told_who());
        drop(checkout);
        fs::remove_dir_all(bed.path("cache")).unwrap();
    }
    // Where an answer leads back, the server is told once more.
    let home = trusted.url("").trim_end_matches('/').to_owned();
    trusted.lfs().behave(Lfs::Elsewhere(home));
    let back = cache(&bed, with_password(policy(), &trusted, "secret-7f3a9c"));
    let (_, checkout) = build(&back, &spec).await;
    has(&checkout, TWO);
    drop(checkout);
    fs::remove_dir_all(bed.path("cache")).unwrap();
    // What an answer wants to be told is for the address that it names, and for nobody whom that one sends on to.
    trusted.lfs().behave(Lfs::ObjectRedirects(format!(
        "{elsewhere}/app/.git/info/lfs/storage/x"
    )));
    thief.lfs().behave(Lfs::ObjectSays("418 Teapot"));
    let cache = cache(&bed, with_password(policy(), &trusted, "secret-7f3a9c"));
    let error = fetch(&cache, &spec).await.unwrap_err();
    assert!(error.to_string().contains("418"), "{error}");
    assert!(!thief.was_told_who(), "{:?}", thief.seen());
}

#[tokio::test]
async fn nothing_leads_to_where_sources_may_not_come_from() {
    let bed = Bed::new();
    repository(&bed, "app", TWO);
    let (server, second) = (Server::start(&bed.path("")), Server::start(&bed.path("")));
    second.lfs().behave(Lfs::Honest);
    let only = SourcePolicy {
        reach: vec![format!("127.0.0.1:{}", server.port()).parse().unwrap()],
        ..policy()
    };
    let cache = cache(&bed, only);
    let spec = source(server.url("app/.git"), None);
    let inside = second.url("").trim_end_matches('/').to_owned();
    let port = second.port();
    let mut manners = Vec::new();
    for to in [
        inside,
        format!("http://localhost:{port}"),
        format!("http://127.1:{port}"),
        format!("http://2130706433:{port}"),
        format!("http://[::ffff:127.0.0.1]:{port}"),
        format!("http://[::1]:{port}"),
        "http://169.254.169.254".to_owned(),
        "https://[fd00:ec2::254]".to_owned(),
    ] {
        manners.push(Lfs::BatchRedirects(to.clone()));
        manners.push(Lfs::ObjectRedirects(format!("{to}/x")));
        manners.push(Lfs::Elsewhere(to));
    }
    for manner in manners {
        server.lfs().behave(manner.clone());
        let error = fetch(&cache, &spec).await.unwrap_err();
        let SourceError::Refused { why, .. } = error else {
            panic!("{manner:?}: {error:?}");
        };
        assert!(matches!(why, Refusal::Closed { .. }), "{manner:?}: {why:?}");
        assert!(why.to_string().contains("source.reach"), "{why}");
    }
    assert_eq!(second.requests(), 0);
    for (to, word) in [
        ("ftp://127.0.0.1/x", "neither of https"),
        ("file:///etc/passwd", "neither of https"),
        ("http://user:secret@127.0.0.1/x", "password"),
    ] {
        server.lfs().behave(Lfs::ObjectRedirects(to.to_owned()));
        let error = fetch(&cache, &spec).await.unwrap_err();
        assert!(error.to_string().contains(word), "{to}: {error}");
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
    let own = format!("{}/info/lfs/storage/x", server.url("app/.git"));
    server.lfs().behave(Lfs::ObjectRedirects(own));
    let error = fetch(&cache, &spec).await.unwrap_err();
    assert!(error.to_string().contains("more than 5 times"), "{error}");
}

#[tokio::test]
async fn nothing_leads_from_https_to_http() {
    let bed = Bed::new();
    repository(&bed, "app", TWO);
    let (safe, open) = (
        Server::start_tls(&bed.path("")),
        Server::start(&bed.path("")),
    );
    open.lfs().behave(Lfs::Honest);
    let with_authority = SourcePolicy {
        ca_bundle: safe.authority.clone(),
        ..policy()
    };
    let cache = cache(&bed, with_authority);
    let to = open.url("").trim_end_matches('/').to_owned();
    for manner in [
        Lfs::BatchRedirects(to.clone()),
        Lfs::ObjectRedirects(format!("{to}/x")),
        Lfs::Elsewhere(to.clone()),
    ] {
        safe.lfs().behave(manner.clone());
        let spec = source(safe.url("app/.git"), None);
        let error = fetch(&cache, &spec).await.unwrap_err();
        assert!(
            error.to_string().contains("from https to http"),
            "{manner:?}: {error}"
        );
    }
    assert_eq!(open.requests(), 0);
}

#[tokio::test]
async fn what_is_not_the_object_is_named_and_leaves_nothing() {
    let bed = Bed::new();
    repository(&bed, "app", TWO);
    let server = Server::start(&bed.path(""));
    let cache = cache(&bed, policy());
    let spec = source(server.url("app/.git"), None);
    for (manner, word) in [
        (Lfs::WrongBytes, "its SHA-256 is "),
        (Lfs::Longer, "and not the"),
        (Lfs::Endless, "it is larger than the"),
        (Lfs::Shorter, "and not the"),
        (Lfs::Lacks, "does not have it (404)"),
        (
            Lfs::ObjectSays("404 Not Found"),
            "does not have it, or hides it (404)",
        ),
        (
            Lfs::ObjectSays("403 Forbidden"),
            "denies access (403): Bearer ***",
        ),
        (Lfs::ObjectSays("206 Partial Content"), "answered 206"),
        (Lfs::Says("401 Unauthorized", "x"), "(401)"),
        (
            Lfs::Says("403 Forbidden", "{\"message\":\"no\\nway\"}"),
            "(403): no way",
        ),
        (
            Lfs::Says("404 Not Found", "{}"),
            "has no Git LFS there, or hides it (404)",
        ),
        (Lfs::Says("422 Unprocessable Entity", "{}"), "answered 422"),
        (Lfs::Says("200 OK", "<html>"), "not of the batch API"),
        (
            Lfs::Says("200 OK", "{\"objects\":[]}"),
            "says nothing of it",
        ),
        (
            Lfs::Says("200 OK", "{\"objects\":[{\"oid\":1}]}"),
            "not of the batch API",
        ),
        (
            Lfs::Says("200 OK", "{\"objects\":\"grant-7f3a9c\"}"),
            "something else is expected, line 1 column",
        ),
        (Lfs::Repeats, "says 422: Bearer ***"),
        (Lfs::Huge, "longer than 4 MiB"),
        (
            Lfs::Wants("X-Y", "a\r\nAuthorization: b"),
            "a header for it that is none",
        ),
        (Lfs::Wants("X Y", "a"), "a header for it that is none"),
    ] {
        server.lfs().behave(manner.clone());
        let error = fetch(&cache, &spec).await.unwrap_err();
        let text = error.to_string();
        let SourceError::Lfs { path, oid, .. } = &error else {
            panic!("{manner:?}: {error:?}");
        };
        assert!(
            TWO.iter().any(|(name, _)| path.contains(name)) && oid.len() == 64,
            "{text}"
        );
        assert!(
            text.contains(word) && text.contains(path) && text.contains(oid),
            "{manner:?}: {text}"
        );
        assert!(
            !text.contains("signature") && !text.contains("grant"),
            "{text}"
        );
        assert!(error.hint().unwrap().contains("git lfs fetch"));
        assert_eq!(objects(&cache), (0, 0), "{manner:?}");
    }
    server.lfs().behave(Lfs::Honest);
    let (_, checkout) = build(&cache, &spec).await;
    has(&checkout, TWO);
}

#[tokio::test]
async fn trouble_that_passes_is_waited_for() {
    let bed = Bed::new();
    repository(&bed, "app", TWO);
    let server = Server::start(&bed.path(""));
    let spec = source(server.url("app/.git"), None);
    // The first three requests; a connection that ends in the middle; a grant that was for the past.
    for manner in [Lfs::Busy(3), Lfs::Cuts(1), Lfs::Expired] {
        server.lfs().behave(manner.clone());
        let cache = cache(&bed, policy());
        let (_, checkout) = build(&cache, &spec).await;
        has(&checkout, TWO);
        assert_eq!(objects(&cache), (2, 0), "{manner:?}");
        assert!(server.lfs().asked().len() > 3, "{manner:?}");
        drop(checkout);
        fs::remove_dir_all(bed.path("cache")).unwrap();
    }
    server.lfs().behave(Lfs::Busy(usize::MAX));
    let cache = cache(&bed, policy());
    let error = fetch(&cache, &spec).await.unwrap_err();
    assert!(
        matches!(error, SourceError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("503"), "{error}");
    assert_eq!(server.lfs().asked().len(), 5, "it is not asked for ever");
}

#[tokio::test]
async fn waiting_as_the_server_wants_it_is_no_stall() {
    let bed = Bed::new();
    repository(&bed, "app", TWO);
    let server = Server::start(&bed.path(""));
    server.lfs().behave(Lfs::Later(5));
    let limits = SourceLimits {
        stall: Duration::from_secs(3),
        ..SourceLimits::default()
    };
    let bounded = SourcePolicy { limits, ..policy() };
    let spec = source(server.url("app/.git"), None);
    let (_, checkout) = build(&cache(&bed, bounded), &spec).await;
    has(&checkout, TWO);
}

#[tokio::test]
async fn what_came_stays_for_the_next_attempt() {
    let bed = Bed::new();
    let files: Vec<(String, String)> = (0..9)
        .map(|n| (format!("{n}.bin"), format!("file {n}\n")))
        .collect();
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect();
    repository(&bed, "app", &files);
    let server = Server::start(&bed.path(""));
    server.lfs().behave(Lfs::Honest);
    let cache = cache(&bed, policy());
    let spec = source(server.url("app/.git"), None);
    // One object is not where the others are.
    let mut gone = bed.path("app/.git/lfs/objects");
    while gone.is_dir() {
        gone = fs::read_dir(&gone).unwrap().next().unwrap().unwrap().path();
    }
    let content = fs::read(&gone).unwrap();
    let spoiled: Vec<u8> = content.iter().rev().copied().collect();
    let mut permissions = fs::metadata(&gone).unwrap().permissions();
    permissions.set_mode(0o644);
    fs::set_permissions(&gone, permissions).unwrap();
    fs::write(&gone, spoiled).unwrap();
    let error = fetch(&cache, &spec).await.unwrap_err();
    assert!(matches!(error, SourceError::Lfs { .. }), "{error:?}");
    fs::write(&gone, content).unwrap();
    let (there, _) = objects(&cache);
    server.lfs().behave(Lfs::Honest);
    let (_, checkout) = build(&cache, &spec).await;
    has(&checkout, &files);
    // A connection that was given up may come late; whoever is asked where objects are is not.
    assert_eq!(server.lfs().batches(), [9 - there]);
}

#[tokio::test]
async fn a_server_that_hangs_is_left() {
    let bed = Bed::new();
    repository(&bed, "app", TWO);
    let server = Server::start(&bed.path(""));
    let spec = source(server.url("app/.git"), None);
    fetch(&bed.cache(), &spec).await.unwrap();
    let spec = source(server.url("app/.git"), Some(&head(&bed.path("app"))));
    let soon = Duration::from_millis(700);
    server.lfs().behave(Lfs::Hangs);
    let of = |stall, timeout| SourceLimits {
        stall,
        timeout,
        ..SourceLimits::default()
    };
    for (limits, expected) in [
        (of(soon, SOON), ReachedLimit::Stall(soon)),
        (of(SOON, soon), ReachedLimit::Timeout(soon)),
    ] {
        let bounded = SourcePolicy { limits, ..policy() };
        let error = fetch(&cache(&bed, bounded), &spec).await.unwrap_err();
        let SourceError::Limit { limit, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(limit, expected);
    }
}

/// With own credentials a process of its own: whose they are is read from its environment.
#[test]
fn own_passwords_are_found_where_git_finds_them() {
    let bed = Bed::new();
    repository(&bed, "app", TWO);
    let server = Server::start(&bed.path(""));
    server.behave(Manner::Knows("ana:secret-7f3a9c".to_owned()));
    let url = server.url("app/.git");
    let (empty, home) = (bed.path("empty"), bed.path("home"));
    let asks = bed.path("askpass");
    for dir in [&empty, &home] {
        fs::create_dir(dir).unwrap();
    }
    let netrc = "machine 127.0.0.1\n  login ana\n  password secret-7f3a9c\n";
    fs::write(home.join(".netrc"), netrc).unwrap();
    let script = "#!/bin/sh\ncase $1 in Username*) echo ana;; *) echo secret-7f3a9c;; esac\n";
    fs::write(&asks, script).unwrap();
    fs::set_permissions(&asks, PermissionsExt::from_mode(0o755)).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (empty, home, asks) = (text(&empty), text(&home), text(&asks));
    for variables in [
        [("HOME", home.as_str()), ("GIT_ASKPASS", "")],
        [("HOME", empty.as_str()), ("GIT_ASKPASS", asks.as_str())],
    ] {
        server.lfs().behave(Lfs::Honest);
        let ended = download_with(&bed, &url, &variables)
            .wait_with_output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(said.contains("\npeak "), "{variables:?}: {said}");
        assert_eq!(gets(&server), 2);
        fs::remove_dir_all(bed.path("cache")).unwrap();
    }
}

#[test]
fn a_proxy_of_the_environment_is_asked_for_what_may_be_asked_for() {
    let bed = Bed::new();
    repository(&bed, "app", TWO);
    let proxy = Server::start(&bed.path(""));
    let address = proxy.url("");
    // What the caller has of them does not count.
    let variables = [
        ("http_proxy", address.as_str()),
        ("no_proxy", ""),
        ("NO_PROXY", ""),
    ];
    for (at, refused) in [
        ("http://objects.invalid", ""),
        ("http://169.254.169.254", "source.reach"),
        ("ftp://objects.invalid", "neither of https"),
    ] {
        proxy.lfs().behave(Lfs::Elsewhere(at.to_owned()));
        let url = "http://git.invalid/app/.git";
        let ended = download_with(&bed, url, &variables)
            .wait_with_output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(
            said.contains(if refused.is_empty() {
                "\npeak "
            } else {
                refused
            }),
            "{at}: {said}"
        );
        assert_eq!(gets(&proxy), if refused.is_empty() { 2 } else { 0 });
        fs::remove_dir_all(bed.path("cache")).unwrap();
    }
}

#[test]
fn behind_a_proxy_of_the_environment_the_bytes_are_counted_too() {
    let bed = Bed::new();
    let text = "x".repeat(600 << 10);
    repository(&bed, "app", &[("one.bin", &text)]);
    let proxy = Server::start(&bed.path(""));
    let address = proxy.url("");
    let variables = [
        ("http_proxy", address.as_str()),
        ("no_proxy", ""),
        ("NO_PROXY", ""),
    ];
    // An answer that has no end, and an object that begins anew, four halves and a whole.
    for manner in [Lfs::Huge, Lfs::Cuts(4)] {
        proxy.lfs().behave(manner.clone());
        let url = "http://git.invalid/app/.git";
        let ended = download_within(&bed, url, &variables, 1 << 20)
            .wait_with_output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(said.contains("larger than 1 MiB"), "{manner:?}: {said}");
        fs::remove_dir_all(bed.path("cache")).unwrap();
    }
}

#[tokio::test]
async fn a_submodule_gets_its_objects_from_its_own_server() {
    let bed = Bed::new();
    let lib = repository(&bed, "lib", &[("lib.bin", "of the library\n")]);
    let app = repository(&bed, "app", TWO);
    let (first, second) = (Server::start(&bed.path("")), Server::start(&bed.path("")));
    crate::submodules::add(&app, "lib", &second.url("lib/.git"), &head(&lib));
    first.behave(Manner::Knows("ana:secret-7f3a9c".to_owned()));
    for server in [&first, &second] {
        server.lfs().behave(Lfs::Honest);
    }
    let mut policy = with_password(policy(), &first, "secret-7f3a9c");
    let mut other = with_password(policy.clone(), &second, "secret-7f3a9c").credentials;
    other[0].name = "other".to_owned();
    policy.credentials.append(&mut other);
    let cache = cache(&bed, policy.clone());
    let (_, checkout) = build(&cache, &source(first.url("app/.git"), None)).await;
    has(&checkout, TWO);
    has(&checkout, &[("lib/lib.bin", "of the library\n")]);
    assert_eq!((gets(&first), gets(&second)), (2, 1));
    // There is a credential for it, which a submodule on another server does not get.
    let told = |headers: &String| headers.contains("Basic ");
    assert!(!second.seen().iter().any(told), "{:?}", second.seen());
    second
        .lfs()
        .behave(Lfs::Says("401 Unauthorized", "{\"message\":\"no\"}"));
    drop(checkout);
    fs::remove_dir_all(bed.path("cache")).unwrap();
    let cache = self::cache(&bed, policy);
    let error = fetch(&cache, &source(first.url("app/.git"), None))
        .await
        .unwrap_err();
    let SourceError::Submodule {
        path,
        withheld: true,
        source: why,
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(path, "lib");
    assert!(why.to_string().contains("lib/lib.bin"), "{why}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("source.submodule-credentials"), "{hint}");
}

#[tokio::test]
async fn an_ssh_server_says_where_its_objects_are() {
    let Some(sshd) = Sshd::start() else { return };
    let bed = Bed::new();
    let repo = repository(&bed, "it's an app", TWO);
    let server = Server::start_tls(&bed.path(""));
    server.behave(Manner::Knows("git:granted-7f3a9c".to_owned()));
    server.lfs().behave(Lfs::Honest);
    let rule = CredentialRule {
        name: "story".to_owned(),
        url: sshd.prefix().parse().unwrap(),
        credential: Credential::SshKey {
            key: SecretRef::File(sshd.file("key")),
            known_hosts: sshd.file("known_hosts"),
        },
    };
    let with_key = SourcePolicy {
        credentials: vec![rule],
        ca_bundle: server.authority.clone(),
        ..policy()
    };
    let cache = cache(&bed, with_key.clone());
    let spec = source(sshd.url(&repo).replace(' ', "%20"), None);
    let error = fetch(&cache, &spec).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("git-lfs-authenticate") && text.contains("art/big.bin"),
        "{text}"
    );

    let header = basic("git:granted-7f3a9c");
    let href = format!(
        "{}/info/lfs",
        server.url("it's an app/.git").replace(' ', "%20")
    );
    let answer =
        serde_json::json!({"href": href, "header": {"Authorization": header}, "expires_in": 60});
    sshd.authenticate(&answer.to_string(), &format!("{} download", repo.display()));
    let (_, checkout) = build(&cache, &spec).await;
    has(&checkout, TWO);
    drop(checkout);
    let open = Server::start(&bed.path(""));
    let to = open.url("").trim_end_matches('/').to_owned();
    server.lfs().behave(Lfs::Elsewhere(to));
    fs::remove_dir_all(bed.path("cache")).unwrap();
    let error = fetch(&self::cache(&bed, with_key.clone()), &spec)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("from https to http"), "{error}");
    assert_eq!(open.requests(), 0);
    sshd.authenticate("<html>", "");
    fs::remove_dir_all(bed.path("cache")).unwrap();
    let error = fetch(&self::cache(&bed, with_key.clone()), &spec)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not JSON"), "{error}");
    sshd.authenticate(&"x".repeat(65 << 10), "");
    let error = fetch(&self::cache(&bed, with_key), &spec)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SourceError::Lfs { why, .. } if why.contains("longer than 64 KiB")),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_ssh_server_that_is_busy_is_asked_again() {
    let Some(sshd) = Sshd::start() else { return };
    let bed = Bed::new();
    let repo = repository(&bed, "app", TWO);
    let server = Server::start(&bed.path(""));
    server.lfs().behave(Lfs::Honest);
    let href = format!("{}/info/lfs", server.url("app/.git"));
    sshd.authenticate(&serde_json::json!({"href": href}).to_string(), "");
    let with = |known_hosts: &str| SourcePolicy {
        credentials: vec![CredentialRule {
            name: "story".to_owned(),
            url: sshd.prefix().parse().unwrap(),
            credential: Credential::SshKey {
                key: SecretRef::File(sshd.file("key")),
                known_hosts: sshd.file(known_hosts),
            },
        }],
        ..policy()
    };
    // The commit is there, and only Git LFS is left to be asked.
    let without = SourcePolicy {
        lfs: false,
        ..with("known_hosts")
    };
    let spec = source(sshd.url(&repo), None);
    fetch(&cache(&bed, without), &spec).await.unwrap();
    let spec = source(sshd.url(&repo), Some(&head(&repo)));
    sshd.close(1000);
    let error = fetch(&cache(&bed, with("known_hosts")), &spec)
        .await
        .unwrap_err();
    assert!(
        matches!(error, SourceError::Unreachable { .. }),
        "{error:?}"
    );
    assert_eq!(sshd.left_to_close(), 995, "it is not asked for ever");
    // A host that is another one stays so.
    sshd.close(0);
    let error = fetch(&cache(&bed, with("known_wrongly")), &spec)
        .await
        .unwrap_err();
    assert!(matches!(error, SourceError::Lfs { .. }), "{error:?}");
    sshd.close(2);
    let (_, checkout) = build(&cache(&bed, with("known_hosts")), &spec).await;
    has(&checkout, TWO);
    assert_eq!(sshd.left_to_close(), 0);
}
