//! What is kept, what is told, and how often.

use std::sync::Mutex;

use super::*;
use crate::tests::server::{self, Server};
use crate::tests::{Bed, Clock, anywhere};

/// Has the table of results be there or not: a store that cannot be read.
async fn set_readable(bed: &Bed, readable: bool) {
    let (from, to) = if readable {
        ("gone", "outbox")
    } else {
        ("outbox", "gone")
    };
    let rename = format!("ALTER TABLE {from} RENAME TO {to}");
    let rename = move |db: &rusqlite::Connection| db.execute_batch(&rename);
    bed.shared.store.look(rename).await.unwrap();
}

#[tokio::test]
async fn a_store_that_could_not_be_read_is_read_again() {
    let server = Server::start(anywhere(), Box::new(server::known)).await;
    let bed = Bed::new(server.address);
    bed.ended(3).await;
    set_readable(&bed, false).await;
    let feed = Arc::clone(bed.feed());
    let task = tokio::spawn(run(
        Arc::clone(&bed.shared),
        feed,
        watch::channel(Until::Cancelled).1,
    ));
    let mut troubles = bed.shared.troubles.subscribe();
    let told = troubles.wait_for(|all| all.contains_key(&Trouble::Store));
    drop(told.await.unwrap());
    assert!(server.asked().is_empty());
    set_readable(&bed, true).await;
    // Nobody rings.
    let all = tokio::time::timeout(STUBBORN.0 * 5, async {
        while bed.depth().await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    all.await.unwrap();
    task.abort();
    assert_eq!(server.asked().len(), 3);
}

/// A task that is lost has taken its row out of what is due.
#[tokio::test]
async fn after_a_task_that_was_lost_every_row_is_looked_for_again() {
    let server = Server::start(anywhere(), Box::new(server::known)).await;
    let bed = Bed::new(server.address);
    bed.ended(3).await;
    let mut outbox = Outbox::new(Arc::clone(&bed.shared), Arc::clone(bed.feed()));
    outbox.look().await;
    assert_eq!(outbox.due.len(), 3);
    outbox.due.pop_first();
    outbox.look().await;
    assert_eq!(outbox.due.len(), 2, "it is not new");
    outbox.begin_anew();
    let look_at = outbox.look_at.unwrap();
    assert!(look_at > Instant::now() && look_at <= Instant::now() + STUBBORN.0);
    outbox.look().await;
    assert_eq!(outbox.due.len(), 3);
}

/// A server that answers late has the result all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_is_on_its_way_at_the_end_is_told_once() {
    let (asked, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
    let (answer, may_answer) = std::sync::mpsc::channel::<()>();
    let may_answer = Mutex::new(may_answer);
    let late = move |request: &server::Asked| {
        let _ = asked.send(());
        let _ = may_answer.lock().unwrap().recv();
        server::known(request)
    };
    let server = Server::start(anywhere(), Box::new(late)).await;
    let bed = Bed::new(server.address);
    bed.ended(1).await;
    let (until, end) = watch::channel(Until::Cancelled);
    let feed = Arc::clone(bed.feed());
    let task = tokio::spawn(run(Arc::clone(&bed.shared), feed, end));
    was_asked.recv().await.unwrap();
    until.send(Until::Flushed).unwrap();
    drop(answer);
    tokio::time::timeout(STUBBORN.0 * 5, task)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((server.asked().len(), bed.depth().await), (1, 0));
}

/// A result with a long log.
async fn with_log(bed: &Bed) -> String {
    bed.ended(1).await;
    let log = "x".repeat(100_000);
    let body = format!(r#"{{"job_id":"1","status":"failed","duration":"1s","logs":"{log}"}}"#);
    bed.shared
        .store
        .replace_body(1, body.clone())
        .await
        .unwrap();
    body
}

/// Tells all there is, with virtual time.
async fn tell_all(bed: &Bed) {
    let feed = Arc::clone(bed.feed());
    let end = watch::channel(Until::Cancelled).1;
    let task = tokio::spawn(run(Arc::clone(&bed.shared), feed, end));
    bed.until_empty().await;
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn who_stands_before_the_server_costs_no_log() {
    for (status, words) in [
        (405, ""),
        (408, "<html>timeout</html>"),
        (421, "misdirected"),
        (409, "<html>conflict</html>"),
        (409, "build is not in running state"),
        (400, "<html>bad request</html>"),
        (422, r#"{"message":"no"}"#),
        (404, r#"{"error":"no such route"}"#),
        (405, r#"{"error":"method not allowed"}"#),
    ] {
        let times = Mutex::new(0);
        let answering = move |asked: &server::Asked| {
            let mut times = times.lock().unwrap();
            *times += 1;
            if *times <= 5 {
                (status, words.to_owned())
            } else {
                server::known(asked)
            }
        };
        let server = Server::start(anywhere(), Box::new(answering)).await;
        let bed = Bed::new(server.address);
        let whole = with_log(&bed).await;
        tell_all(&bed).await;
        let asked = server.asked();
        assert_eq!(asked.len(), 6, "{status} {words}");
        assert!(asked.iter().all(|a| a.body == whole), "{status} {words}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_server_itself_does_not_understand_is_told_without_its_log() {
    for status in [400, 422] {
        let answering = move |asked: &server::Asked| {
            if asked.body.len() > 5000 {
                (status, r#"{"error":"invalid request body"}"#.to_owned())
            } else {
                server::known(asked)
            }
        };
        let server = Server::start(anywhere(), Box::new(answering)).await;
        let bed = Bed::new(server.address);
        let whole = with_log(&bed).await;
        tell_all(&bed).await;
        let asked = server.asked();
        assert!((5..20).contains(&asked.len()), "{status}: {}", asked.len());
        assert!(asked[..4].iter().all(|a| a.body == whole), "{status}");
        let last = &asked.last().unwrap().body;
        assert!(last.contains(r#""status":"failed""#) && last.contains("the server refused"));
    }
}

/// Longer than the longest wait between two tries.
const LONG: Duration = Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_nothing_keeps_no_feed_from_being_told() {
    let server = Server::start(anywhere(), Box::new(server::known)).await;
    let bed = Bed::new(server.address);
    bed.ended(3).await;
    bed.set_writable(false).await;
    let clock = Clock::hold();
    let end = watch::channel(Until::Cancelled).1;
    let task = tokio::spawn(run(Arc::clone(&bed.shared), Arc::clone(bed.feed()), end));
    clock.pass(&bed, LONG).await;
    assert_eq!((server.asked().len(), bed.depth().await), (3, 3));
    assert!(bed.shared.has(&Trouble::Store));
    bed.set_writable(true).await;
    clock.pass(&bed, Duration::from_secs(30)).await;
    task.abort();
    assert_eq!((server.asked().len(), bed.depth().await), (3, 0));
}

/// Tries that cannot be written down count: for what the second answer means, and for the wait before the next one.
#[tokio::test(start_paused = true)]
async fn tries_count_while_the_store_takes_nothing() {
    let answering = |asked: &server::Asked| match asked.path.as_str() {
        "/api/v1/builds/1/result" => (500, r#"{"error":"database error"}"#.to_owned()),
        _ => server::known(asked),
    };
    let server = Server::start(anywhere(), Box::new(answering)).await;
    let bed = Bed::new(server.address);
    bed.ended(2).await;
    bed.set_writable(false).await;
    let clock = Clock::hold();
    let end = watch::channel(Until::Cancelled).1;
    let task = tokio::spawn(run(Arc::clone(&bed.shared), Arc::clone(bed.feed()), end));
    clock.pass(&bed, LONG).await;
    task.abort();
    let asked = server.asked();
    let of = |n: u32| {
        asked
            .iter()
            .filter(|a| a.path.contains(&format!("/{n}/")))
            .count()
    };
    assert!((4..12).contains(&of(1)), "{}", of(1));
    assert_eq!(of(2), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_and_knows_all_the_same_is_done_with_whatever_can_be_written() {
    let times = Mutex::new(0);
    let answering = move |_: &server::Asked| {
        let mut times = times.lock().unwrap();
        *times += 1;
        match *times {
            1 => (500, r#"{"error":"database error"}"#.to_owned()),
            _ => (
                409,
                r#"{"error":"build is not in running state"}"#.to_owned(),
            ),
        }
    };
    let server = Server::start(anywhere(), Box::new(answering)).await;
    let bed = Bed::new(server.address);
    bed.ended(1).await;
    bed.set_writable(false).await;
    let clock = Clock::hold();
    let end = watch::channel(Until::Cancelled).1;
    let task = tokio::spawn(run(Arc::clone(&bed.shared), Arc::clone(bed.feed()), end));
    clock.pass(&bed, LONG).await;
    assert_eq!(server.asked().len(), 2);
    bed.set_writable(true).await;
    clock.pass(&bed, Duration::from_secs(30)).await;
    task.abort();
    assert_eq!((server.asked().len(), bed.depth().await), (2, 0));
}
