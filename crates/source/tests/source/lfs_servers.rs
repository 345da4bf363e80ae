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
use crate::http::{Manner, Server};
use crate::lfs_server::Lfs;

const PASSWORD: &str = "hunter2:/@%\"'\\ #;$(id)-7f3a9c";

/// Tells [`the_download`] what to fetch: cache, address and most bytes, by lines.
const DOWNLOAD: &str = "BRYO_TEST_LFS_DOWNLOAD";

/// Bytes of an object that would be seen if it were in memory.
const LARGE: u64 = 300 << 20;

/// A repository with files in Git LFS, as git-lfs leaves it.
pub(crate) fn repository(bed: &Bed, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let repo = bed.repository(name);
    git(&repo, &["lfs", "install", "--local"]);
    git(&repo, &["lfs", "track", "*.bin"]);
    for (path, text) in files {
        write(&repo, path, text);
    }
    commit(&repo, "files");
    repo
}

pub(crate) const TWO: &[(&str, &str)] =
    &[("art/big.bin", "a picture\n"), ("other.bin", "a film\n")];

pub(crate) fn policy() -> SourcePolicy {
    SourcePolicy {
        lfs: true,
        ..on_loopback()
    }
}

pub(crate) fn cache(bed: &Bed, policy: SourcePolicy) -> SourceCache {
    SourceCache::open(&bed.path("cache"))
        .unwrap()
        .with_policy(Arc::new(policy))
}

pub(crate) fn with_password(policy: SourcePolicy, server: &Server, password: &str) -> SourcePolicy {
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

pub(crate) fn has(checkout: &Checkout, files: &[(&str, &str)]) {
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

pub(crate) fn gets(server: &Server) -> usize {
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

pub(crate) fn download_with(bed: &Bed, url: &str, variables: &[(&str, &str)]) -> Child {
    download_within(bed, url, variables, SourceLimits::default().bytes)
}

pub(crate) fn download_within(
    bed: &Bed,
    url: &str,
    variables: &[(&str, &str)],
    bytes: u64,
) -> Child {
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
