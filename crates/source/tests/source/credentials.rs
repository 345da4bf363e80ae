//! Who Bryo is for a server: each kind of credential, and that it goes nowhere else.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bryo_model::Secret;
use bryo_source::{
    Absence, Credential, CredentialRule, SecretRef, SourceCache, SourceError, SourcePolicy,
};

use crate::bed::{Bed, build, fetch, git_in, head, mirror, on_loopback, silent, source};
use crate::http::{Manner, Server};
use crate::sshd::{Agent, Sshd};

/// It has what a URL, a shell and a configuration of git would trip over, and is nowhere else.
const PASSWORD: &str = "hunter2:/@%\"'\\ #;$(id)-7f3a9c";

fn rule(url: &str, user: &str, password: SecretRef) -> CredentialRule {
    CredentialRule {
        name: "story".to_owned(),
        url: url.parse().unwrap(),
        credential: Credential::Password {
            user: user.to_owned(),
            password,
        },
    }
}

fn value(text: &str) -> SecretRef {
    SecretRef::Value(Secret::new(text.to_owned()))
}

fn cache(bed: &Bed, server: Option<&Server>, rules: Vec<CredentialRule>) -> SourceCache {
    let policy = SourcePolicy {
        credentials: rules,
        ca_bundle: server.and_then(|server| server.authority.clone()),
        ..on_loopback()
    };
    SourceCache::open(&bed.path("cache"))
        .unwrap()
        .with_policy(Arc::new(policy))
}

/// Who writes a `.gitmodules` does not choose what the operator's credentials are shown to.
#[tokio::test]
async fn a_submodule_on_another_server_gets_no_credential() {
    let bed = Bed::new();
    let (open, locked) = (Server::start(&bed.path("")), Server::start(&bed.path("")));
    locked.behave(Manner::Knows("git:secret".to_owned()));
    let lib = bed.repository("lib");
    let app = bed.repository("app");
    crate::submodules::add(&app, "lib", &locked.url("lib/.git"), &head(&lib));
    let server = locked.url("").trim_end_matches('/').to_owned();
    let policy = SourcePolicy {
        credentials: vec![rule(&server, "git", value("secret"))],
        ..on_loopback()
    };
    let opened = SourcePolicy {
        submodule_credentials: vec![server.trim_start_matches("http://").parse().unwrap()],
        ..policy.clone()
    };
    let cache = |policy: &SourcePolicy| bed.cache().with_policy(Arc::new(policy.clone()));
    let spec = source(open.url("app/.git"), Some(&head(&app)));
    let refused = async || {
        let error = fetch(&cache(&policy), &spec).await.unwrap_err();
        assert!(
            error
                .hint()
                .unwrap()
                .contains("source.submodule-credentials"),
            "{error:?}"
        );
        let SourceError::Submodule { source: why, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(absence(&why), Some(Absence::AccessDenied));
    };
    refused().await;
    let (_, checkout) = build(&cache(&opened), &spec).await;
    assert!(checkout.tree().join("lib/README.md").exists());
    // What one was given is not there for the other, though the whole is.
    refused().await;
    let (again, same) = build(&cache(&opened), &spec).await;
    assert!(again.was_cached() && same.tree() == checkout.tree());

    // On its repository's server it gets what that got.
    let at_home = bed.repository("at-home");
    crate::submodules::add(&at_home, "lib", "../../lib/.git", &head(&lib));
    build(&cache(&policy), &source(locked.url("at-home/.git"), None)).await;
}

fn absence(error: &SourceError) -> Option<Absence> {
    match error {
        SourceError::RepositoryMissing { why, .. } => Some(*why),
        _ => None,
    }
}

/// Files below a directory that contain a text.
fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let (mut found, mut rest) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                rest.push(path);
            } else if contains(&fs::read(&path).unwrap_or_default(), text) {
                found.push(path);
            }
        }
    }
    found
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|piece| piece == text.as_bytes())
}

/// What of all processes' command lines and environments contains a text.
fn processes_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let dir = entry.unwrap().path();
        for name in ["cmdline", "environ"] {
            let bytes = fs::read(dir.join(name)).unwrap_or_default();
            if contains(&bytes, text) {
                found.push(format!(
                    "{}: {}",
                    dir.display(),
                    String::from_utf8_lossy(&bytes)
                ));
            }
        }
    }
    found
}

#[tokio::test]
async fn a_private_repository_over_https_with_a_private_authority() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let server = Server::start_tls(&bed.path(""));
    server.behave(Manner::Knows(format!("ana@example.org:{PASSWORD}")));
    let url = server.url("project/.git");
    let spec = source(&url, None);
    let file = bed.path("token");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    for password in [value(PASSWORD), SecretRef::File(file.clone())] {
        let rules = vec![rule(&server.url("project"), "ana@example.org", password)];
        let cache = cache(&bed, Some(&server), rules);
        let (fetched, checkout) = build(&cache, &spec).await;
        assert_eq!(fetched.commit().as_str(), head(&repo));
        git_in(&checkout, &["log", "--oneline"]);
        assert_eq!(
            files_with(cache.paths().root(), "hunter2"),
            [""; 0].map(PathBuf::from)
        );
        let mirror = fs::read_to_string(mirror(&cache).join("config")).unwrap();
        assert!(
            !mirror.contains("127.0.0.1") && !mirror.contains("ana"),
            "{mirror}"
        );
    }

    let nobody = cache(&bed, Some(&server), Vec::new());
    let error = fetch(&nobody, &spec).await.unwrap_err();
    assert_eq!(absence(&error), Some(Absence::AccessDenied), "{error:?}");
    // Nobody has a mirror of their own: what the one before them may read is not theirs.
    let error = fetch(&nobody, &source(&url, Some(&head(&repo))))
        .await
        .unwrap_err();
    assert_eq!(absence(&error), Some(Absence::AccessDenied), "{error:?}");

    let stranger = cache(
        &bed,
        None,
        vec![rule(
            &server.url("project"),
            "ana@example.org",
            value(PASSWORD),
        )],
    );
    let error = fetch(&stranger, &spec).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(
        matches!(error, SourceError::Unreachable { .. }) && text.contains("ertificate"),
        "{text}"
    );
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_repeated() {
    let bed = Bed::new();
    bed.repository("project");
    let server = Server::start(&bed.path(""));
    let url = server.url("project/.git");
    let cache = cache(
        &bed,
        None,
        vec![rule(&server.url("project"), "ana", value(PASSWORD))],
    );
    server.behave(Manner::Locked);
    let error = fetch(&cache, &source(&url, None)).await.unwrap_err();
    assert_eq!(absence(&error), Some(Absence::AccessDenied), "{error:?}");
    let shown = format!("{error} {error:?} {}", error.hint().unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("source.credentials"), "{shown}");
    server.behave(Manner::Repeats);
    let error = fetch(&cache, &source(&url, None)).await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("who is ana:***?"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(server.was_told_who());
    for (secret, what) in [
        (SecretRef::File(bed.path("none")), "No such file"),
        (
            SecretRef::Unavailable("the variable X is not set".to_owned()),
            "X is not set",
        ),
        (value(""), "it is empty"),
    ] {
        let asked = server.requests();
        let cache = self::cache(
            &bed,
            None,
            vec![rule(&server.url("project"), "ana", secret)],
        );
        let error = fetch(&cache, &source(&url, None)).await.unwrap_err();
        assert!(matches!(error, SourceError::Credential { .. }), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(server.requests(), asked);
    }
}

#[tokio::test]
async fn a_redirect_to_another_server_does_not_carry_the_password() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let (trusted, thief) = (Server::start(&bed.path("")), Server::start(&bed.path("")));
    let spec = source(trusted.url("project/.git"), None);
    let cache = cache(
        &bed,
        None,
        vec![rule(&trusted.url(""), "ana", value(PASSWORD))],
    );
    // First the password is asked for and given where it belongs; the next fetch is sent away.
    trusted.behave(Manner::Knows(format!("ana:{PASSWORD}")));
    fetch(&cache, &spec).await.unwrap();
    assert!(trusted.was_told_who());
    let address = |host: &str| format!("http://{host}:{}", thief.port());
    for to in [
        address("127.0.0.1"),
        address("127.0.0.2").replace("127.0.0.2", "localhost"),
    ] {
        trusted.behave(Manner::Redirects(to.clone()));
        for manner in [Manner::Locked, Manner::Honest] {
            thief.behave(manner.clone());
            let fetched = fetch(&cache, &spec).await;
            match manner {
                Manner::Honest => assert_eq!(fetched.unwrap().commit().as_str(), head(&repo)),
                _ => assert_eq!(absence(&fetched.unwrap_err()), Some(Absence::AccessDenied)),
            }
            assert!(thief.requests() > 0);
            assert!(!thief.was_told_who(), "{to}: {:?}", thief.seen());
        }
    }
}

#[tokio::test]
async fn while_git_works_the_password_is_in_one_file_that_nobody_else_can_read() {
    let bed = Bed::new();
    bed.repository("project");
    let server = Server::start(&bed.path(""));
    server.behave(Manner::Hangs);
    let cache = cache(
        &bed,
        None,
        vec![rule(&server.url("project"), "ana", value(PASSWORD))],
    );
    let spec = source(server.url("project/.git"), None);
    let mut hanging = Box::pin(cache.fetch(&spec, silent()));
    while server.requests() == 0 {
        let tick = Duration::from_millis(10);
        assert!(tokio::time::timeout(tick, &mut hanging).await.is_err());
    }
    assert_eq!(processes_with("hunter2"), [""; 0]);
    assert_eq!(processes_with("socks5h"), [""; 0]);
    let files = files_with(cache.paths().root(), "hunter2");
    assert_eq!(files.len(), 1, "{files:?}");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(
        (mode(&files[0]), mode(files[0].parent().unwrap())),
        (0o600, 0o700)
    );
    // This is how it would be seen.
    let mut seen = std::process::Command::new("sleep")
        .arg("60")
        .env("X", "hunter2")
        .spawn()
        .unwrap();
    // A process that has just become another program has no environment for a moment.
    let since = Instant::now();
    while processes_with("hunter2").is_empty() && since.elapsed() < Duration::from_secs(60) {
        tokio::task::yield_now().await;
    }
    assert_eq!(processes_with("hunter2").len(), 1);
    let _ = (seen.kill(), seen.wait());
    drop(hanging);
    assert_eq!(files_with(cache.paths().root(), "hunter2").len(), 0);
    let private = fs::read_dir(cache.paths().root().join("private")).unwrap();
    assert_eq!(private.count(), 1, "only the lock of all is left");
}

#[tokio::test]
async fn ssh_with_a_key_and_with_an_agent() {
    let Some(server) = Sshd::start() else { return };
    let bed = Bed::new();
    let repo = bed.repository("it's a project");
    let spec = source(server.url(&repo).replace(' ', "%20"), None);
    let rule = |credential| CredentialRule {
        name: "story".to_owned(),
        url: server.prefix().parse().unwrap(),
        credential,
    };
    let of = |credential| cache(&bed, None, vec![rule(credential)]);
    let key = |key: &str, known: &str| Credential::SshKey {
        key: SecretRef::File(server.file(key)),
        known_hosts: server.file(known),
    };
    let (fetched, _) = build(&of(key("key", "known_hosts")), &spec).await;
    assert_eq!(fetched.commit().as_str(), head(&repo));
    let text = fs::read_to_string(server.file("key")).unwrap();
    let trimmed = Credential::SshKey {
        key: value(text.trim_end()),
        known_hosts: server.file("known_hosts"),
    };
    fetch(&of(trimmed), &spec).await.unwrap();

    let error = fetch(&of(key("other", "known_hosts")), &spec)
        .await
        .unwrap_err();
    assert_eq!(absence(&error), Some(Absence::AccessDenied), "{error:?}");
    let error = fetch(&of(key("key", "known_wrongly")), &spec)
        .await
        .unwrap_err();
    assert_eq!(absence(&error), Some(Absence::UnknownHost), "{error:?}");
    let error = fetch(&cache(&bed, None, Vec::new()), &spec)
        .await
        .unwrap_err();
    assert_eq!(absence(&error), Some(Absence::UnknownHost), "{error:?}");
    assert_eq!(
        files_with(cache(&bed, None, Vec::new()).paths().root(), "PRIVATE KEY").len(),
        0
    );

    let by_agent = |socket: PathBuf| Credential::SshAgent {
        socket,
        known_hosts: server.file("known_hosts"),
    };
    let agent = Agent::start(&bed.path(""), &server.file("key"));
    fetch(&of(by_agent(agent.socket.clone())), &spec)
        .await
        .unwrap();
    let error = fetch(&of(by_agent(bed.path("none"))), &spec)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no ssh agent"), "{error}");
}
