//! Ways to a server of Git LFS: with what the user has, through a proxy, for a submodule, and by ssh.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bryo_source::{Credential, CredentialRule, SecretRef, SourceError, SourcePolicy};

use crate::bed::{Bed, build, fetch, head, source};
use crate::http::{Manner, Server, basic};
use crate::lfs_server::Lfs;
use crate::lfs_servers::{
    TWO, cache, download_with, download_within, gets, has, policy, repository, with_password,
};
use crate::sshd::Sshd;

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
