use bryo_model::JobId;
use tempfile::TempDir;

use super::*;
use crate::FeedName;

fn id(n: u128) -> JobId {
    JobId::from_parts(1_700_000_000_000, n)
}

fn feed() -> FeedName {
    "docs".parse().unwrap()
}

fn new(n: u128, feed_job: &str) -> NewJob {
    NewJob {
        job: id(n),
        feed: feed(),
        feed_job: feed_job.to_owned(),
        claim: "{}".to_owned(),
        taken_ms: 1,
    }
}

fn ending(n: u128) -> Ending {
    Ending {
        job: id(n),
        ended_ms: 2,
        verdict: "succeeded".to_owned(),
        reason: None,
        report: Some("{}".to_owned()),
        body: format!("result of {n}"),
    }
}

fn open() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _keeper) = Store::open(&dir.path().join("agent.db")).unwrap();
    (dir, store)
}

#[tokio::test]
async fn a_job_goes_from_taken_to_delivered() {
    let (dir, store) = open();
    assert_eq!(store.take(new(1, "17")).await.unwrap(), Took::Recorded);
    store.begin(id(1)).await.unwrap();
    store.note_progress(id(1), "run".to_owned());
    let open_jobs = store.open_jobs().await.unwrap();
    assert_eq!(open_jobs.len(), 1);
    assert_eq!(open_jobs[0].record, Record::Begun);
    assert_eq!(open_jobs[0].progress, "run");
    store.end(ending(1)).await.unwrap();
    assert!(store.open_jobs().await.unwrap().is_empty());

    // Another process opens what this one left.
    drop(store);
    let (store, _keeper) = Store::open(&dir.path().join("agent.db")).unwrap();
    let waiting = store.waiting(&feed(), 0).await.unwrap();
    assert_eq!(waiting.len(), 1);
    let parcel = store.send_off(waiting[0]).await.unwrap().unwrap();
    assert_eq!((&*parcel.feed_job, &*parcel.body), ("17", "result of 1"));
    assert_eq!(parcel.tries, 0);
    assert_eq!(store.send_off(waiting[0]).await.unwrap().unwrap().tries, 1);
    store.delivered(waiting[0]).await.unwrap();
    assert_eq!(store.send_off(waiting[0]).await.unwrap(), None);
    assert_eq!(store.outbox_depth().await.unwrap(), 0);
}

#[tokio::test]
async fn a_job_that_is_given_out_twice_is_taken_once() {
    let (_dir, store) = open();
    store.take(new(1, "17")).await.unwrap();
    assert_eq!(
        store.take(new(2, "17")).await.unwrap(),
        Took::Already(id(1))
    );
    assert_eq!(store.take(new(3, "18")).await.unwrap(), Took::Recorded);
    // Ended and not told yet, then given out anew: the old result would end the new attempt.
    store.end(ending(1)).await.unwrap();
    assert_eq!(store.take(new(4, "17")).await.unwrap(), Took::Recorded);
    assert!(store.waiting(&feed(), 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_job_ends_once() {
    let (_dir, store) = open();
    store.take(new(1, "17")).await.unwrap();
    store.end(ending(1)).await.unwrap();
    let again = Ending {
        verdict: "failed".to_owned(),
        body: "another".to_owned(),
        ..ending(1)
    };
    store.end(again).await.unwrap();
    let waiting = store.waiting(&feed(), 0).await.unwrap();
    assert_eq!(waiting.len(), 1);
    let newest = store.newest(10).await.unwrap();
    assert_eq!(newest[0].verdict.as_deref(), Some("succeeded"));
    assert!(newest[0].in_outbox);
}

#[tokio::test]
async fn another_attempt_has_another_id() {
    let (_dir, store) = open();
    store.take(new(1, "17")).await.unwrap();
    store.begin(id(1)).await.unwrap();
    store.again(id(1), id(2)).await.unwrap();
    let row = store.open_jobs().await.unwrap().remove(0);
    assert_eq!((row.job, row.attempt, row.attempts), (id(1), id(2), 2));
    assert_eq!(row.record, Record::Taken);
}

#[tokio::test]
async fn what_a_feed_does_not_know_is_not_forgotten() {
    let (_dir, store) = open();
    for n in 1..=3 {
        store.take(new(n, &n.to_string())).await.unwrap();
    }
    store.end(ending(1)).await.unwrap();
    store.end(ending(2)).await.unwrap();
    let first = store.waiting(&feed(), 0).await.unwrap()[0];
    store.delivered(first).await.unwrap();
    assert_eq!(store.forget(i64::MAX, 1000).await.unwrap(), 1);
    assert_eq!(store.newest(10).await.unwrap().len(), 2);
}

/// A job that is begun and not known to be would be begun again after a crash of the machine.
#[tokio::test]
async fn what_must_not_be_lost_is_synced() {
    let (_dir, store) = open();
    let synced = async || {
        let level = |db: &Connection| db.pragma_query_value(None, "synchronous", |row| row.get(0));
        let level: u32 = store.look(level).await.unwrap();
        // For what is only good to know it is lowered; the next one must raise it again.
        store.probe().await.unwrap();
        level == 2
    };
    store.probe().await.unwrap();
    assert!(!synced().await);
    store.take(new(1, "17")).await.unwrap();
    assert!(synced().await, "take");
    store.begin(id(1)).await.unwrap();
    assert!(synced().await, "begin");
    store.again(id(1), id(2)).await.unwrap();
    assert!(synced().await, "again");
    store.end(ending(1)).await.unwrap();
    assert!(synced().await, "end");
}

#[tokio::test]
async fn a_closure_that_fails_changes_nothing() {
    let (_dir, store) = open();
    let failed = store
        .change(Durability::Disk, |tx| {
            tx.execute(
                "INSERT INTO jobs (job, attempt, feed, feed_job, claim, state, taken_ms)
                 VALUES ('x', 'x', 'f', '1', '{}', 'taken', 1)",
                [],
            )?;
            tx.execute("INSERT INTO nowhere VALUES (1)", []).map(drop)
        })
        .await;
    assert!(matches!(failed, Err(StoreError::Sqlite { .. })));
    assert!(store.newest(10).await.unwrap().is_empty());
}

/// There is one format so far: whoever adds a step adds a database of the one before it, with rows in it, here.
#[tokio::test]
async fn the_newest_format_is_opened_as_it_is_and_a_later_one_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.db");
    let (store, keeper) = Store::open(&path).unwrap();
    store.take(new(1, "17")).await.unwrap();
    drop(store);
    keeper.join();
    let (store, keeper) = Store::open(&path).unwrap();
    assert_eq!(store.open_jobs().await.unwrap()[0].feed_job, "17");
    drop(store);
    keeper.join();
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(
        Store::open(&path),
        Err(StoreError::Later { found: 99, .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// Whatever the umask is, and whatever an earlier version has left.
#[tokio::test]
async fn nobody_else_can_read_the_state() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.db");
    let modes = || {
        ["agent.db", "agent.db-wal"].map(|name| {
            let file = std::fs::metadata(dir.path().join(name)).unwrap();
            file.permissions().mode() & 0o777
        })
    };
    for _ in 0..2 {
        let (store, keeper) = Store::open(&path).unwrap();
        store.probe().await.unwrap();
        assert_eq!(modes(), [0o600; 2]);
        drop(store);
        keeper.join();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    }
    // Killed: they are still there.
    for name in ["agent.db-wal", "agent.db-shm"] {
        let file = dir.path().join(name);
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    }
    let (_store, _keeper) = Store::open(&path).unwrap();
    assert_eq!(modes(), [0o600; 2]);
}
