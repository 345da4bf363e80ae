//! The format of the database, and the way to it from every earlier one.
//!
//! Steps are only ever added. `PRAGMA user_version` tells how many have been made.

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// Each step is made once, in its own transaction.
const STEPS: [&str; 1] = ["
    CREATE TABLE jobs (
        seq       INTEGER PRIMARY KEY AUTOINCREMENT,
        job       TEXT    NOT NULL UNIQUE,           -- our id of the first attempt
        attempt   TEXT    NOT NULL,                  -- our id of the current attempt
        attempts  INTEGER NOT NULL DEFAULT 1,        -- how many there were, this one included
        feed      TEXT    NOT NULL,
        feed_job  TEXT    NOT NULL,                  -- its id as the feed says it
        claim     TEXT    NOT NULL,                  -- JSON: what the feed said
        state     TEXT    NOT NULL CHECK (state IN ('taken', 'begun', 'ended')),
        progress  TEXT    NOT NULL DEFAULT '',       -- how far the attempt came, for messages
        taken_ms  INTEGER NOT NULL,                  -- wall clock, Unix time in milliseconds: for people
        ended_ms  INTEGER,
        verdict   TEXT,
        reason    TEXT,
        report    TEXT                               -- JSON
    ) STRICT;
    CREATE INDEX jobs_open ON jobs (feed, feed_job) WHERE state <> 'ended';
    CREATE INDEX jobs_ended ON jobs (ended_ms) WHERE state = 'ended';
    CREATE TABLE outbox (
        seq       INTEGER PRIMARY KEY AUTOINCREMENT,
        job       TEXT    NOT NULL UNIQUE REFERENCES jobs (job),
        feed      TEXT    NOT NULL,
        feed_job  TEXT    NOT NULL,
        body      TEXT    NOT NULL,                  -- what the feed is told
        tries     INTEGER NOT NULL DEFAULT 0         -- how often it may have reached the feed
    ) STRICT;
    CREATE INDEX outbox_feed ON outbox (feed, seq);
    CREATE TABLE probe (n INTEGER NOT NULL) STRICT;  -- written to, to know that it can be
    INSERT INTO probe VALUES (0);
"];

/// Makes the steps that are missing.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let failed = |e| StoreError::of("bring up to date", e);
    let known = u32::try_from(STEPS.len()).unwrap_or(u32::MAX);
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed)?;
    if found > known {
        return Err(StoreError::Later { found, known });
    }
    for (version, step) in (1..).zip(STEPS).skip(found as usize) {
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        transaction.execute_batch(step).map_err(failed)?;
        transaction
            .pragma_update(None, "user_version", version)
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}
