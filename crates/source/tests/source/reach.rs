//! Where git may not go: told by name, by number, by redirect.

use std::net::TcpListener;
use std::sync::Arc;

use bryo_source::{Refusal, SourceCache, SourceError, SourcePolicy};

use crate::bed::{Bed, fetch, head, on_loopback, source};
use crate::http::{Manner, Server};

/// A cache whose git may connect to this port of loopback and to nothing else there.
fn only(bed: &Bed, server: &Server) -> SourceCache {
    let policy = SourcePolicy {
        reach: vec![format!("127.0.0.1:{}", server.port()).parse().unwrap()],
        ..on_loopback()
    };
    SourceCache::open(&bed.path("cache"))
        .unwrap()
        .with_policy(Arc::new(policy))
}

async fn refusal(cache: &SourceCache, url: &str) -> Refusal {
    match fetch(cache, &source(url, None)).await.unwrap_err() {
        SourceError::Refused { why, .. } => why,
        other => panic!("{url}: {other:?}"),
    }
}

#[tokio::test]
async fn loopback_is_closed_by_name_and_by_number() {
    let bed = Bed::new();
    bed.repository("project");
    let server = Server::start_tls(&bed.path(""));
    let cache = SourceCache::open(&bed.path("cache")).unwrap();
    let port = server.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "[::ffff:127.0.0.1]",
        "[::1]",
    ] {
        let url = format!("https://{host}:{port}/project/.git");
        let why = refusal(&cache, &url).await;
        assert!(matches!(why, Refusal::Closed { .. }), "{host}: {why:?}");
        assert!(why.to_string().contains("(source.reach)"), "{why}");
        let ssh = format!("ssh://git@{host}:{port}/project");
        assert!(matches!(
            refusal(&cache, &ssh).await,
            Refusal::Closed { .. }
        ));
    }
    let http = format!("http://git.example.org:{port}/x");
    assert_eq!(
        refusal(&cache, &http).await.to_string(),
        "http:// is not allowed for sources (source.protocols)"
    );
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_redirect_goes_through_the_same_door() {
    let bed = Bed::new();
    bed.repository("project");
    let server = Server::start(&bed.path(""));
    let cache = only(&bed, &server);
    let inner = TcpListener::bind("127.0.0.1:0").unwrap();
    inner.set_nonblocking(true).unwrap();
    let port = inner.local_addr().unwrap().port();
    for to in [
        format!("http://127.0.0.1:{port}"),
        format!("http://localhost:{port}"),
        format!("http://2130706433:{port}"),
        format!("http://[::ffff:7f00:1]:{port}"),
        "http://169.254.169.254/latest".to_owned(),
        "http://[fd00:ec2::254]".to_owned(),
    ] {
        server.behave(Manner::Redirects(to.clone()));
        let why = refusal(&cache, &server.url("project/.git")).await;
        assert!(matches!(why, Refusal::Closed { .. }), "{to}: {why:?}");
    }
    let nobody = inner.accept().map(drop).unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
    // Neither to a program nor to a file.
    for to in [
        "file:///etc",
        "ssh://git@127.0.0.1",
        "ext::sh -c id",
        "ftp://127.0.0.1",
    ] {
        server.behave(Manner::Redirects(to.to_owned()));
        let error = fetch(&cache, &source(server.url("project/.git"), None)).await;
        error.unwrap_err();
    }
}

#[tokio::test]
async fn a_redirect_to_where_git_may_go_is_followed() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    let (first, second) = (Server::start(&bed.path("")), Server::start(&bed.path("")));
    let address = second.url("");
    first.behave(Manner::Redirects(address.trim_end_matches('/').to_owned()));
    let fetched = fetch(&bed.cache(), &source(first.url("project/.git"), None)).await;
    assert_eq!(fetched.unwrap().commit().as_str(), head(&repo));
    assert_eq!(first.requests(), 1);
}

#[tokio::test]
async fn lists_of_hosts_hold_for_redirects_too() {
    let bed = Bed::new();
    bed.repository("project");
    let (first, second) = (Server::start(&bed.path("")), Server::start(&bed.path("")));
    let policy = SourcePolicy {
        denied_hosts: vec![format!("127.*:{}", second.port()).parse().unwrap()],
        ..on_loopback()
    };
    let cache = SourceCache::open(&bed.path("cache"))
        .unwrap()
        .with_policy(Arc::new(policy));
    let address = second.url("");
    first.behave(Manner::Redirects(address.trim_end_matches('/').to_owned()));
    let why = refusal(&cache, &first.url("project/.git")).await;
    assert!(why.to_string().contains("(source.denied-hosts)"), "{why}");
    assert_eq!(second.requests(), 0);
    first.behave(Manner::Honest);
    fetch(&cache, &source(first.url("project/.git"), None))
        .await
        .unwrap();
}
