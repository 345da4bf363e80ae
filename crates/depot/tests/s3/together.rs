use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bryo_depot::{DepotError, Retry, S3Depot, S3Tuning, Uploaded};
use bryo_test_s3::{Conditions, Fault, Gate, Seen, Server, Store};

use crate::bed::{chain, depot, publish, publish_until, settings, tuning};

type Files = &'static [(&'static str, &'static [u8])];

const BEFORE: Files = &[
    ("a.css", b"before"),
    ("gone.html", b"before"),
    ("index.html", b"before"),
];
const ONE: Files = &[
    ("a.css", b"1"),
    ("one.html", b"1"),
    ("only-one.js", b"1"),
    ("index.html", b"1"),
];
const OTHER: Files = &[
    ("a.css", b"22"),
    ("only-other.js", b"22"),
    ("other.html", b"22"),
    ("index.html", b"22"),
];

const PLACE: (&str, &str) = ("p", "1");
const RECORD: &str = ".bryo/publications/p/1.json";

/// Long enough for a publication on a busy machine to say in time that it goes on.
const LEASE: Duration = Duration::from_secs(6);

/// No test waits longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn with_lease(store: &Store, lease: Duration) -> S3Depot {
    // One at a time, so that a step is always the same step.
    let settings = bryo_depot::S3Settings {
        parallel: 1,
        ..settings(store)
    };
    S3Depot::tuned(settings, S3Tuning { lease, ..tuning() }).unwrap()
}

fn is_exactly(store: &Store, files: Files) -> bool {
    let mut wanted: Vec<_> = files
        .iter()
        .map(|(path, bytes)| (format!("p/1/{path}"), bytes.to_vec()))
        .collect();
    wanted.sort();
    let keys = store.keys("p/1/");
    let there: Vec<_> = keys
        .into_iter()
        .filter_map(|key| {
            let bytes = store.object(&key)?.bytes;
            Some((key, bytes))
        })
        .collect();
    there == wanted
}

fn says_complete(store: &Store) -> bool {
    let record = store.object(RECORD).map(|object| object.bytes);
    let record = String::from_utf8(record.unwrap_or_default()).unwrap();
    record.contains(r#""state":"complete""#)
}

/// Whether the record is of these files.
fn records(store: &Store, files: Files) -> bool {
    let record = store.object(RECORD).map(|object| object.bytes);
    let record = String::from_utf8(record.unwrap_or_default()).unwrap();
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    record.contains(&format!(r#""bytes":{bytes},"#))
}

fn is_overtaken<T>(result: &Result<T, DepotError>) -> bool {
    matches!(result, Err(error) if matches!(error.cause(), DepotError::Overtaken(_)))
}

/// Holds the request after `passing` of those that `counts`, and the same request when it is sent again.
fn hold(server: &Server, passing: usize, gate: &Gate, counts: fn(&Seen) -> bool) {
    let (gate, seen) = (gate.clone(), AtomicUsize::new(0));
    server.faults(move |request| {
        let is_it = counts(request) && seen.fetch_add(1, Ordering::SeqCst) == passing;
        is_it.then(|| Fault::Held(gate.clone()))
    });
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Ended {
    one: Result<Uploaded, DepotError>,
    other: Result<Uploaded, DepotError>,
}

/// One publication is held before one of its requests while the other one goes on to its end; `None` when it has no such
/// request.
fn interleaved(server: &Server, step: usize) -> Option<Ended> {
    publish(&depot(server), PLACE, BEFORE).unwrap();
    let gate = Gate::default();
    hold(server, step, &gate, |_| true);
    let depot = with_lease(server, LEASE);
    let one = std::thread::spawn(move || publish(&depot, PLACE, ONE));
    wait_until("held, or at its end", || {
        gate.is_reached() || one.is_finished()
    });
    if !gate.is_reached() {
        one.join().unwrap().unwrap();
        return None;
    }
    let other = publish(&with_lease(server, LEASE), PLACE, OTHER);
    gate.open();
    let one = one.join().unwrap();
    Some(Ended { one, other })
}

/// At every step: who is told of success is what readers see, and whoever lost has said so.
fn no_two_mix(conditions: Conditions) {
    let mut steps = 0;
    let (mut first, mut second) = (0, 0);
    loop {
        let server = Server::start_with(conditions);
        let Some(Ended { one, other }) = interleaved(&server, steps) else {
            break;
        };
        let told = |result: &Result<Uploaded, DepotError>| match result {
            Ok(_) => "published".to_owned(),
            Err(error) => chain(error),
        };
        let both = format!("step {steps}: {} / {}", told(&one), told(&other));
        match (&one, &other) {
            // One after the other: a request that is held for long is given up, and whoever waited follows.
            (Ok(_), Ok(_)) => {
                let last = if records(&server, ONE) { ONE } else { OTHER };
                assert!(records(&server, last), "{both}");
                assert!(is_exactly(&server, last), "{both}");
            }
            (Ok(_), Err(_)) => {
                assert!(is_overtaken(&other), "{both}");
                assert!(is_exactly(&server, ONE), "{both}");
                first += 1;
            }
            (Err(error), Ok(_)) => {
                assert!(is_overtaken(&one), "{both}");
                assert!(is_exactly(&server, OTHER), "{both}");
                // It was its word that was held, for longer than its lease: it does not know what came after what.
                let begun = matches!(error, DepotError::Unfinished { .. });
                assert_ne!(says_complete(&server), begun, "{both}");
                second += 1;
            }
            (Err(_), Err(_)) => {
                assert!(is_overtaken(&one) && is_overtaken(&other), "{both}");
                assert!(!says_complete(&server), "{both}");
            }
        }
        assert!(one.is_err() || says_complete(&server), "{both}");
        server.no_faults();
        publish(&depot(&server), PLACE, ONE).unwrap_or_else(|e| panic!("{both}: {}", chain(&e)));
        assert!(is_exactly(&server, ONE) && says_complete(&server), "{both}");
        steps += 1;
    }
    assert!(steps >= 12, "{steps} steps");
    // Else it was not the same version, or not the same time.
    assert!(first > 0 && second > 0, "{first} {second} of {steps}");
}

#[test]
fn no_two_mix_where_conditions_are_obeyed() {
    no_two_mix(Conditions::Obeyed);
}

#[test]
fn no_two_mix_where_conditions_are_ignored() {
    no_two_mix(Conditions::Ignored);
}

#[test]
fn no_two_mix_where_conditions_are_refused() {
    no_two_mix(Conditions::Refused);
}

fn is_record_put(seen: &Seen) -> bool {
    seen.method == "PUT" && seen.path.ends_with(".json")
}

/// Both have looked, and neither has begun: the store alone can tell them apart.
#[test]
fn of_two_that_begin_at_one_moment_the_store_refuses_one() {
    let server = Server::start();
    publish(&depot(&server), PLACE, BEFORE).unwrap();
    let gate = Gate::default();
    hold(&server, 0, &gate, is_record_put);
    let depot = with_lease(&server, LEASE);
    let one = std::thread::spawn(move || publish(&depot, PLACE, ONE));
    wait_until("held", || gate.is_reached());
    publish(&with_lease(&server, LEASE), PLACE, OTHER).unwrap();
    gate.open();
    let error = one.join().unwrap().unwrap_err();
    assert!(
        matches!(error, DepotError::Overtaken(_)),
        "{}",
        chain(&error)
    );
    assert!(is_exactly(&server, OTHER) && says_complete(&server));
}

/// Whose words do not get through changes nothing any more, long before another one takes the version over, and sends
/// nothing later either.
#[test]
fn whose_words_do_not_get_through_changes_nothing() {
    for conditions in [Conditions::Obeyed, Conditions::Ignored] {
        let server = Server::start_with(conditions);
        publish(&depot(&server), PLACE, BEFORE).unwrap();
        let lease = Duration::from_secs(4);
        let gate = Gate::default();
        let (held, words) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
        let said = Arc::clone(&words);
        server.faults(move |seen| {
            if held.is_reached() && seen.path.ends_with(".json") {
                said.fetch_add(1, Ordering::SeqCst);
                return Some(Fault::Hang);
            }
            let is_object = seen.path.ends_with("/only-one.js");
            is_object.then(|| Fault::Held(held.clone()))
        });
        let slow = with_lease(&server, lease);
        let one = std::thread::spawn(move || publish(&slow, PLACE, ONE));
        // Each of the two before has the time of a beat and a request: more than half of a lease in all.
        wait_until("it is silent", || words.load(Ordering::SeqCst) == 3);
        server.seen();
        gate.open();
        wait_until("it has failed", || one.is_finished());
        let one = one.join().unwrap();
        let text = chain(&one.unwrap_err());
        assert!(text.contains("the store cannot be reached"), "{text}");
        let changes: Vec<_> = server
            .seen()
            .into_iter()
            .filter(|seen| seen.method != "GET" && !seen.path.ends_with(".json"))
            .collect();
        assert_eq!(changes, [], "{conditions:?}");
        server.no_faults();
        let repaired = publish(&with_lease(&server, lease), PLACE, OTHER).unwrap();
        assert!(repaired.repaired && is_exactly(&server, OTHER));
    }
}

/// Whoever is cancelled or late does not wait for a word to get through.
#[test]
fn a_stop_ends_a_publication_that_waits_for_its_word() {
    let server = Server::start();
    publish(&depot(&server), PLACE, BEFORE).unwrap();
    let (mut reached, mut words) = (false, 0);
    let (sender, mut silent) = tokio::sync::mpsc::unbounded_channel();
    server.faults(move |seen| {
        if seen.path.ends_with("/only-one.js") {
            reached = true;
            return Some(Fault::Hang);
        }
        let is_word = reached && seen.path.ends_with(".json");
        is_word.then(|| {
            words += 1;
            // Four of them are half of a lease.
            if words == 5 {
                sender.send(()).unwrap();
            }
            Fault::Status(500, "InternalError")
        })
    });
    let stop = async move {
        silent.recv().await;
    };
    let depot = with_lease(&server, LEASE);
    let error = publish_until(&depot, PLACE, ONE, stop).unwrap_err();
    assert!(
        matches!(error.cause(), DepotError::Stopped),
        "{}",
        chain(&error)
    );
}

/// A trouble that is over before anybody could have taken the version costs nothing.
#[test]
fn whose_words_get_through_again_goes_on() {
    let server = Server::start();
    publish(&depot(&server), PLACE, BEFORE).unwrap();
    let (mut reached, mut refused) = (false, 0);
    server.faults(move |seen| {
        if seen.path.ends_with("/only-one.js") && !std::mem::replace(&mut reached, true) {
            return Some(Fault::Hang);
        }
        let is_word = reached && seen.path.ends_with(".json") && refused < 5;
        is_word.then(|| {
            refused += 1;
            Fault::Status(500, "InternalError")
        })
    });
    publish(&with_lease(&server, Duration::from_secs(4)), PLACE, ONE).unwrap();
    assert!(is_exactly(&server, ONE) && says_complete(&server));
}

/// After a long silence a word of ours that is not our last one may have come over another one's, who gave up then.
#[test]
fn a_late_word_of_ours_does_not_give_the_version_back() {
    let server = Server::start_with(Conditions::Ignored);
    publish(&depot(&server), PLACE, BEFORE).unwrap();
    let gate = Gate::default();
    let (held, words) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let said = Arc::clone(&words);
    server.faults(move |seen| {
        if held.is_reached() && seen.path.ends_with(".json") && seen.method == "GET" {
            said.fetch_add(1, Ordering::SeqCst);
            return Some(Fault::Status(500, "InternalError"));
        }
        let is_object = seen.path.ends_with("/only-one.js");
        is_object.then(|| Fault::Held(held.clone()))
    });
    let slow = with_lease(&server, LEASE);
    let one = std::thread::spawn(move || publish(&slow, PLACE, ONE));
    // Eight of them are a lease.
    wait_until("it is silent", || words.load(Ordering::SeqCst) >= 5);
    let last = std::fs::read_to_string(server.file(RECORD)).unwrap();
    let late = last.replace(r#""beat":"#, r#""beat":1"#);
    assert_ne!(late, last);
    server.put(RECORD, late.as_bytes());
    server.no_faults();
    gate.open();
    let one = one.join().unwrap();
    assert!(is_overtaken(&one), "{one:?}");
    assert!(!says_complete(&server));
}

/// It was taken for dead, and finds that the version is not its own any more.
#[test]
fn who_was_taken_for_dead_says_so_and_has_the_version_repaired() {
    for conditions in [Conditions::Obeyed, Conditions::Ignored] {
        let server = Server::start_with(conditions);
        publish(&depot(&server), PLACE, BEFORE).unwrap();
        let gate = Gate::default();
        let held = gate.clone();
        server.faults(move |seen| {
            // Each word begins with a look at the last one.
            if held.is_reached() && seen.path.ends_with(".json") && seen.method == "GET" {
                return Some(Fault::Status(500, "InternalError"));
            }
            let is_object = seen.path.ends_with("/only-one.js");
            is_object.then(|| Fault::Held(held.clone()))
        });
        let slow = with_lease(&server, LEASE);
        let one = std::thread::spawn(move || publish(&slow, PLACE, ONE));
        wait_until("it stands still", || gate.is_reached());
        for (path, bytes) in OTHER {
            server.put(&format!("p/1/{path}"), bytes);
        }
        let theirs =
            r#"{"format":1,"state":"complete","attempt":"b","headers":null,"files":4,"bytes":8}"#;
        server.put(RECORD, theirs.as_bytes());
        server.no_faults();
        gate.open();
        let one = one.join().unwrap();
        assert!(is_overtaken(&one), "{conditions:?}: {one:?}");
        assert!(!says_complete(&server), "{conditions:?}");
        let repaired = publish(&depot(&server), PLACE, OTHER).unwrap();
        assert!(repaired.repaired && is_exactly(&server, OTHER));
    }
}

#[test]
fn a_killed_publication_is_waited_out_and_a_failed_one_is_not() {
    let server = Server::start();
    let lease = Duration::from_secs(2);
    publish(&depot(&server), PLACE, BEFORE).unwrap();
    // Killed: it says nothing any more.
    let live = r#"{"format":1,"state":"publishing","attempt":"a","headers":null,"files":1,"bytes":1,"live":true,"beat":7}"#;
    server.put(RECORD, live.as_bytes());
    // How old the record is, and how long the way to it was, counts for nothing: it is watched from when it was read.
    let hour = Duration::from_secs(3600);
    let file = std::fs::File::options()
        .write(true)
        .open(server.file(RECORD));
    let long_ago = std::time::SystemTime::now() - hour;
    file.unwrap().set_modified(long_ago).unwrap();
    let away_until = Instant::now() + lease;
    let (sender, first_read) = mpsc::channel();
    server.faults(move |_| {
        if Instant::now() < away_until {
            return Some(Fault::Status(503, "SlowDown"));
        }
        let _ = sender.send(Instant::now());
        None
    });
    let retry = Retry {
        attempts: 1000,
        ..tuning().retry
    };
    let patient = S3Tuning {
        lease,
        retry,
        ..tuning()
    };
    let patient = S3Depot::tuned(settings(&server), patient).unwrap();
    let done = publish(&patient, PLACE, ONE).unwrap();
    let watched = first_read.recv().unwrap().elapsed();
    assert!(done.repaired && watched >= lease, "{watched:?}");
    assert!(is_exactly(&server, ONE));
    // Failed: it has said so.
    server.faults(|seen| {
        seen.path
            .ends_with("/a.css")
            .then_some(Fault::Status(403, "AccessDenied"))
    });
    publish(&with_lease(&server, lease), PLACE, OTHER).unwrap_err();
    server.no_faults();
    let long = Duration::from_secs(3600);
    assert!(
        publish(&with_lease(&server, long), PLACE, OTHER)
            .unwrap()
            .repaired
    );
    assert!(is_exactly(&server, OTHER));
}

/// An answer that is lost leaves a record that is our own.
#[test]
fn a_record_that_was_put_and_not_answered_is_not_somebody_elses() {
    for lost in 0..2 {
        let server = Server::start();
        publish(&depot(&server), PLACE, BEFORE).unwrap();
        let seen = AtomicUsize::new(0);
        server.faults(move |request| {
            let is_it = is_record_put(request) && seen.fetch_add(1, Ordering::SeqCst) == lost;
            is_it.then_some(Fault::AnswerLost)
        });
        publish(&with_lease(&server, LEASE), PLACE, ONE).unwrap();
        assert!(is_exactly(&server, ONE) && says_complete(&server));
    }
}

/// What somebody else does meanwhile to what is ours, who keeps no record: once is made good, and who goes on is told of.
/// What is theirs stays.
#[test]
fn what_is_changed_beside_us_is_made_good_or_told() {
    for goes_on in [false, true] {
        for (key, bytes) in [
            ("p/1/stranger.html", &b"x"[..]),
            ("p/1/gone.html", b"again"),
            ("p/1/a.css", b"2"),
            ("p/1/a.css", b"another size"),
        ] {
            let server = Server::start();
            publish(&depot(&server), PLACE, BEFORE).unwrap();
            let (sender, looks) = mpsc::channel();
            let after = AtomicBool::new(false);
            // Each list after the last object waits for the stranger.
            server.faults(move |seen| {
                if seen.method == "PUT" && seen.path.ends_with("/1/index.html") {
                    after.store(true, Ordering::SeqCst);
                }
                let is_list = seen.query.contains("list-type") && !seen.query.contains(".bryo");
                if !is_list || !after.load(Ordering::SeqCst) {
                    return None;
                }
                let gate = Gate::default();
                sender.send(gate.clone()).unwrap();
                Some(Fault::Held(gate))
            });
            let depot = depot(&server);
            let publisher = depot.clone();
            let one = std::thread::spawn(move || publish(&publisher, PLACE, ONE));
            let mut disturbed = 0;
            while !one.is_finished() {
                if let Ok(gate) = looks.recv_timeout(Duration::from_millis(5)) {
                    if goes_on || disturbed == 0 {
                        server.put(key, bytes);
                    }
                    disturbed += 1;
                    gate.open();
                }
            }
            let done = one.join().unwrap();
            server.no_faults();
            if key.contains("stranger") {
                assert!(done.unwrap().others.is_empty(), "it was not there before");
                let next = publish(&depot, PLACE, ONE).unwrap();
                assert_eq!(next.others, ["p/1/stranger.html: 1 object"]);
                assert_eq!(server.object(key).unwrap().bytes, bytes);
                continue;
            }
            if goes_on {
                let error = done.unwrap_err();
                let told =
                    matches!(error.cause(), DepotError::Disturbed { key: told, .. } if told == key);
                assert!(told, "{}", chain(&error));
                assert!(!says_complete(&server));
                assert!(publish(&depot, PLACE, ONE).unwrap().repaired);
            } else {
                let done = done.unwrap_or_else(|e| panic!("{key}: {}", chain(&e)));
                assert_eq!((done.put, done.files), (4, 4));
            }
            assert!(is_exactly(&server, ONE) && says_complete(&server), "{key}");
        }
    }
}

#[test]
fn a_publication_that_changes_nothing_looks_twice_too() {
    let server = Server::start();
    let depot = depot(&server);
    publish(&depot, PLACE, ONE).unwrap();
    // The last look of one to whom everything is as it should be.
    let gate = Gate::default();
    hold(&server, 1, &gate, |seen| {
        seen.query.contains("list-type") && !seen.query.contains(".bryo")
    });
    let one = std::thread::spawn(move || publish(&depot, PLACE, ONE));
    wait_until("held", || gate.is_reached());
    publish(&with_lease(&server, LEASE), PLACE, OTHER).unwrap();
    gate.open();
    let one = one.join().unwrap();
    assert!(matches!(one, Err(DepotError::Overtaken(_))), "{one:?}");
    assert!(is_exactly(&server, OTHER) && says_complete(&server));
}
