use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bryo_depot::{DepotError, Retry, S3Depot, S3Tuning, StoreFault};
use bryo_model::Secret;
use bryo_test_s3::{Fault, Seen, Server};

use crate::bed::{block_on, chain, depot, noise, publish, publish_until, settings, tuning};

const FILES: &[(&str, &[u8])] = &[
    ("a.css", b"1"),
    ("b.js", b"2"),
    ("c/index.html", b"3"),
    ("index.html", b"4"),
];

/// Each request fails the first `times` times.
fn at_first(times: u32, fault: Fault) -> impl FnMut(&Seen) -> Option<Fault> + Send {
    let mut counts = BTreeMap::<(String, String), u32>::new();
    move |seen| {
        let count = counts
            .entry((seen.method.clone(), seen.path.clone()))
            .or_default();
        *count += 1;
        (*count <= times).then(|| fault.clone())
    }
}

fn store_fault(error: &DepotError) -> StoreFault {
    match error.cause() {
        DepotError::Store { fault, .. } => *fault,
        other => panic!("not the store's: {other}"),
    }
}

#[test]
fn passing_trouble_passes() {
    for fault in [
        Fault::Status(500, "InternalError"),
        Fault::Status(502, ""),
        Fault::Status(503, "SlowDown"),
        Fault::Status(429, "TooManyRequests"),
        Fault::Cut,
        Fault::AnswerLost,
    ] {
        let server = Server::start();
        server.faults(at_first(2, fault.clone()));
        let done = publish(&depot(&server), ("p", "1"), FILES)
            .unwrap_or_else(|e| panic!("{fault:?}: {}", chain(&e)));
        assert_eq!(done.put, 4);
        server.no_faults();
        assert_eq!(server.keys("p/").len(), 4, "{fault:?}");
    }
}

#[test]
fn a_slow_store_is_waited_for() {
    let server = Server::start();
    server.faults(|_| Some(Fault::Slow(Duration::from_millis(30))));
    publish(&depot(&server), ("p", "1"), FILES).unwrap();
}

#[test]
fn a_refusal_is_not_tried_again() {
    for (fault, wanted) in [
        (Fault::Status(403, "AccessDenied"), StoreFault::Denied),
        (
            Fault::Status(404, "NoSuchBucket"),
            StoreFault::BucketMissing,
        ),
        (
            Fault::Status(301, "PermanentRedirect"),
            StoreFault::Elsewhere,
        ),
        (Fault::Status(400, "InvalidRequest"), StoreFault::Refused),
    ] {
        let server = Server::start();
        server.faults(move |_| Some(fault.clone()));
        let error = publish(&depot(&server), ("p", "1"), FILES).unwrap_err();
        assert_eq!(store_fault(&error), wanted);
        assert_eq!(server.seen().len(), 1);
    }
}

#[test]
fn trouble_that_stays_is_told_apart() {
    for (fault, wanted) in [
        (Fault::Status(503, "SlowDown"), StoreFault::Throttled),
        (Fault::Status(500, "InternalError"), StoreFault::Unavailable),
        (Fault::Cut, StoreFault::Unreachable),
        (Fault::Hang, StoreFault::Unreachable),
    ] {
        let server = Server::start();
        server.faults(move |_| Some(fault.clone()));
        let tuning = S3Tuning {
            request_timeout: Duration::from_millis(200),
            ..tuning()
        };
        let depot = S3Depot::tuned(settings(&server), tuning).unwrap();
        let error = publish(&depot, ("p", "1"), FILES).unwrap_err();
        assert_eq!(store_fault(&error), wanted);
        assert!(!matches!(error, DepotError::Unfinished { .. }), "{error}");
        assert_eq!(server.seen().len(), 5, "attempts");
    }
}

#[test]
fn wrong_keys_and_a_wrong_bucket_are_found_by_a_check() {
    let server = Server::start();
    block_on(depot(&server).check()).unwrap();

    let mut wrong = settings(&server);
    wrong.credentials.secret_key = Secret::new("another-secret".to_owned());
    let error = block_on(S3Depot::new(wrong).unwrap().check()).unwrap_err();
    assert!(
        matches!(
            &error,
            DepotError::Right {
                right: "s3:ListBucket",
                ..
            }
        ),
        "{error}"
    );
    let text = format!("{} {error:?}", chain(&error));
    assert!(
        !text.contains("another-secret") && !text.contains("TESTACCESSKEY"),
        "{text}"
    );

    let mut wrong = settings(&server);
    wrong.bucket = "nothing".to_owned();
    let error = block_on(S3Depot::new(wrong).unwrap().check()).unwrap_err();
    assert_eq!(store_fault(&error), StoreFault::BucketMissing);
}

/// Each thing that a publication does is tried, and the right that is missing is named.
#[test]
fn a_right_that_is_missing_is_found_by_a_check() {
    let server = Server::start();
    let depot = depot(&server);
    for (method, what, right) in [
        ("PUT", "put", "s3:PutObject"),
        ("GET", "read", "s3:GetObject"),
        ("DELETE", "delete", "s3:DeleteObject"),
    ] {
        server.faults(move |seen| {
            let is_it = seen.method == method && seen.path.contains("/.bryo/probe-");
            is_it.then_some(Fault::Status(403, "AccessDenied"))
        });
        let error = block_on(depot.check()).unwrap_err();
        let text = chain(&error);
        assert!(
            text.contains(right) && text.contains(&format!("may not {what}")),
            "{text}"
        );
    }
    // What the last one could not delete is deleted by the next one that can.
    assert_eq!(server.keys(".bryo/").len(), 1);
    server.no_faults();
    block_on(depot.check()).unwrap();
    assert_eq!(server.keys(".bryo/"), [""; 0]);
}

#[test]
fn nobody_there_is_told_soon() {
    let server = Server::start();
    let depot = depot(&server);
    drop(server);
    let error = publish(&depot, ("p", "1"), FILES).unwrap_err();
    assert_eq!(store_fault(&error), StoreFault::Unreachable);
}

#[test]
fn a_private_authority_is_trusted_when_it_is_given() {
    let server = Server::start_tls();
    let error = block_on(depot(&server).check()).unwrap_err();
    assert_eq!(
        store_fault(&error),
        StoreFault::Untrusted,
        "{}",
        chain(&error)
    );
    let mut told = settings(&server);
    told.ca_bundle = server.authority().map(Into::into);
    let depot = S3Depot::new(told).unwrap();
    publish(&depot, ("p", "1"), FILES).unwrap();
    assert_eq!(std::fs::read(server.file("p/1/index.html")).unwrap(), b"4");
}

#[test]
fn settings_that_cannot_be_used_say_why() {
    let server = Server::start();
    let empty = tempfile::NamedTempFile::new().unwrap();
    let refused = |change: &dyn Fn(&mut bryo_depot::S3Settings)| {
        let mut settings = settings(&server);
        change(&mut settings);
        S3Depot::new(settings).unwrap_err().to_string()
    };
    for (text, wanted) in [
        (refused(&|s| s.endpoint = "s3.example.org".into()), "no URL"),
        (
            refused(&|s| s.endpoint = "ftp://x".into()),
            "no http or https URL",
        ),
        (
            refused(&|s| s.endpoint = "https://a:b@x".into()),
            "holds credentials",
        ),
        (
            refused(&|s| s.bucket = String::new()),
            "no name of a bucket",
        ),
        (
            refused(&|s| s.ca_bundle = Some("/nowhere/ca.pem".into())),
            "/nowhere/ca.pem",
        ),
        (
            refused(&|s| s.ca_bundle = Some(empty.path().into())),
            "holds no PEM certificate",
        ),
    ] {
        assert!(text.contains(wanted), "{text}");
    }
}

#[test]
fn a_stop_ends_a_hanging_publication() {
    let server = Server::start();
    let depot = S3Depot::tuned(
        settings(&server),
        S3Tuning {
            part_size: 5 << 20,
            ..tuning()
        },
    )
    .unwrap();
    let large = noise(11 << 20);
    let (hung, mut hangs) = tokio::sync::mpsc::unbounded_channel();
    server.faults(move |seen| {
        let part = seen.query.contains("partNumber=3");
        if part {
            hung.send(()).unwrap();
        }
        part.then_some(Fault::Hang)
    });
    let started = Instant::now();
    let stop = async move {
        hangs.recv().await;
    };
    let error = publish_until(&depot, ("p", "1"), &[("a.bin", &large)], stop).unwrap_err();
    assert!(matches!(error.cause(), DepotError::Stopped), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30));
    let seen = server.seen();
    let aborted = |s: &Seen| s.method == "DELETE" && s.query.starts_with("uploadId=");
    assert!(seen.iter().any(aborted), "the upload is given up");
    assert!(server.keys("p/").is_empty());
}

#[test]
fn a_lost_answer_to_the_end_of_an_upload_is_no_loss() {
    let server = Server::start();
    let depot = S3Depot::tuned(
        settings(&server),
        S3Tuning {
            part_size: 5 << 20,
            ..tuning()
        },
    )
    .unwrap();
    let large = noise(6 << 20);
    let mut lost = false;
    server.faults(move |seen| {
        let ends = seen.method == "POST" && seen.query.starts_with("uploadId=");
        (ends && !std::mem::replace(&mut lost, true)).then_some(Fault::AnswerLost)
    });
    publish(&depot, ("p", "1"), &[("a.bin", &large)]).unwrap();
    assert!(server.object("p/1/a.bin").unwrap().bytes == large);
}

#[test]
fn pauses_are_made_between_attempts() {
    let server = Server::start();
    server.faults(at_first(1, Fault::Status(503, "SlowDown")));
    let retry = Retry {
        attempts: 2,
        first: Duration::from_millis(400),
        longest: Duration::from_secs(1),
    };
    let depot = S3Depot::tuned(settings(&server), S3Tuning { retry, ..tuning() }).unwrap();
    let started = Instant::now();
    block_on(depot.check()).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(200));
}
