use bryo_depot::{DepotError, Visible};
use bryo_test_s3::{Fault, Seen, Server};

use crate::bed::{chain, depot, publish};

const OLD: &[(&str, &[u8])] = &[
    ("a.css", b"old"),
    ("b.html", b"old"),
    ("gone.html", b"old"),
    ("index.html", b"old"),
];
const NEW: &[(&str, &[u8])] = &[
    ("a.css", b"new"),
    ("b.html", b"new"),
    ("new.js", b"new"),
    ("index.html", b"new"),
];

const RECORD: &str = ".bryo/publications/p/1.json";

fn denies(end: &'static str) -> impl FnMut(&Seen) -> Option<Fault> + Send {
    move |seen| {
        let hit = seen.method != "GET" && seen.path.ends_with(end);
        hit.then_some(Fault::Status(403, "AccessDenied"))
    }
}

fn bytes(server: &Server, path: &str) -> Option<Vec<u8>> {
    server
        .object(&format!("p/1/{path}"))
        .map(|object| object.bytes)
}

/// Where it breaks, what readers may see then, and whether the old start page and the stale page are still there.
#[test]
fn a_failure_says_what_readers_see_and_deletes_nothing() {
    for (breaks, visible) in [
        ("/a.css", Some(Visible::Assets { new: false })),
        ("/b.html", Some(Visible::Pages { new: false })),
        ("/1/index.html", Some(Visible::Pages { new: false })),
        ("/docs/", Some(Visible::All)),
        ("/1.json", None),
    ] {
        let server = Server::start();
        let depot = depot(&server);
        publish(&depot, ("p", "1"), OLD).unwrap();
        server.faults(denies(breaks));
        let error = publish(&depot, ("p", "1"), NEW).unwrap_err();
        let said = match &error {
            DepotError::Unfinished { visible, .. } => Some(*visible),
            _ => None,
        };
        assert_eq!(said, visible, "{breaks}: {}", chain(&error));
        assert!(matches!(error.cause(), DepotError::Store { .. }), "{error}");
        server.no_faults();
        assert_eq!(bytes(&server, "gone.html").unwrap(), b"old", "{breaks}");
        if visible != Some(Visible::All) {
            assert_eq!(bytes(&server, "index.html").unwrap(), b"old", "{breaks}");
        }

        let repaired = publish(&depot, ("p", "1"), NEW).unwrap();
        assert_eq!(repaired.repaired, visible.is_some(), "{breaks}");
        let keys = server.keys("p/1/");
        assert_eq!(
            keys,
            ["p/1/a.css", "p/1/b.html", "p/1/index.html", "p/1/new.js"]
        );
        for (path, wanted) in NEW {
            assert_eq!(bytes(&server, path).unwrap(), *wanted, "{breaks} {path}");
        }
        assert!(!publish(&depot, ("p", "1"), NEW).unwrap().repaired);
    }
}

#[test]
fn a_first_publication_that_fails_says_so() {
    let server = Server::start();
    let depot = depot(&server);
    server.faults(denies("/a.css"));
    let error = publish(&depot, ("p", "1"), NEW).unwrap_err();
    let assets = Visible::Assets { new: true };
    assert!(matches!(error, DepotError::Unfinished { visible, .. } if visible == assets));
    server.faults(|seen| (seen.method == "GET").then_some(Fault::Status(403, "AccessDenied")));
    let error = publish(&depot, ("p", "1"), NEW).unwrap_err();
    assert!(
        matches!(error, DepotError::Store { .. }),
        "nothing was looked at: {error}"
    );
    server.faults(|seen| {
        seen.query
            .contains("list-type")
            .then_some(Fault::Status(403, "AccessDenied"))
    });
    let error = publish(&depot, ("p", "1"), NEW).unwrap_err();
    assert!(
        matches!(
            error,
            DepotError::Unfinished {
                visible: Visible::Earlier,
                ..
            }
        ),
        "{error}"
    );
    server.no_faults();
    assert!(publish(&depot, ("p", "1"), NEW).unwrap().repaired);
}

/// Objects of the half that was put have new headers, the others old ones: the next attempt may trust none.
#[test]
fn changed_rules_are_not_forgotten_by_a_failure() {
    use bryo_depot::{CacheRule, S3Depot, S3Tuning};
    let server = Server::start();
    publish(&depot(&server), ("p", "1"), OLD).unwrap();
    let rules = vec![CacheRule::new("*", "max-age=60").unwrap()];
    let tuning = S3Tuning {
        cache_rules: rules,
        ..crate::bed::tuning()
    };
    let ruled = S3Depot::tuned(crate::bed::settings(&server), tuning).unwrap();
    server.faults(denies("/b.html"));
    publish(&ruled, ("p", "1"), OLD).unwrap_err();
    server.no_faults();
    assert_eq!(publish(&ruled, ("p", "1"), OLD).unwrap().put, 4);
    for (path, _) in OLD {
        let object = server.object(&format!("p/1/{path}")).unwrap();
        assert_eq!(object.cache_control, "max-age=60", "{path}");
    }
}

#[test]
fn a_record_that_cannot_be_read_is_no_obstacle() {
    let server = Server::start();
    let depot = depot(&server);
    publish(&depot, ("p", "1"), OLD).unwrap();
    server.put(RECORD, b"<html>");
    let done = publish(&depot, ("p", "1"), OLD).unwrap();
    assert!(done.repaired);
    assert_eq!(done.put, 4, "nothing is known of the headers");
    assert_eq!(publish(&depot, ("p", "1"), OLD).unwrap().put, 0);
}

/// Before that they may be somebody else's who repairs it, too.
#[test]
fn uploads_are_given_up_once_the_version_is_ours() {
    let server = Server::start();
    let depot = depot(&server);
    server.faults(denies("/a.css"));
    publish(&depot, ("p", "1"), NEW).unwrap_err();
    server.no_faults();
    server.leave_upload("p/1/new.js");
    server.seen();
    assert!(publish(&depot, ("p", "1"), NEW).unwrap().repaired);
    let seen = server.seen();
    let at = |is: fn(&Seen) -> bool| seen.iter().position(is).unwrap();
    let ours = at(|seen| seen.method == "PUT" && seen.path.ends_with("/1.json"));
    let given_up = at(|seen| seen.method == "DELETE" && seen.query.starts_with("uploadId="));
    assert!(ours < given_up, "{seen:?}");
}

#[test]
fn objects_that_cannot_be_deleted_are_told() {
    let server = Server::start();
    let depot = depot(&server);
    publish(&depot, ("p", "1"), OLD).unwrap();
    server.faults(|seen| match seen.method.as_str() {
        "POST" => Some(Fault::Status(501, "NotImplemented")),
        "DELETE" => Some(Fault::Status(403, "AccessDenied")),
        _ => None,
    });
    let done = publish(&depot, ("p", "1"), NEW).unwrap();
    assert_eq!((done.removed, done.leftovers.len()), (0, 1));
    assert!(
        done.leftovers[0].starts_with("p/1/gone.html: "),
        "{:?}",
        done.leftovers
    );
    server.no_faults();
    assert_eq!(publish(&depot, ("p", "1"), NEW).unwrap().removed, 1);
}
