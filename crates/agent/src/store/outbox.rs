//! The table of results that a feed does not know yet.

use bryo_model::JobId;
use rusqlite::{Connection, OptionalExtension, params};

use super::jobs::parsed;
use super::{Durability, Store, StoreError};
use crate::FeedName;

/// A result on its way to its feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parcel {
    pub(crate) seq: i64,
    pub(crate) job: JobId,
    /// The job's id as the feed says it.
    pub(crate) feed_job: String,
    /// What the feed is told.
    pub(crate) body: String,
    /// How often it may have reached the feed before.
    pub(crate) tries: u32,
}

impl Store {
    /// Numbers of what this feed is to be told, beyond this one, in the order in which the jobs ended.
    pub(crate) async fn waiting(
        &self,
        feed: &FeedName,
        beyond: i64,
    ) -> Result<Vec<i64>, StoreError> {
        let feed = feed.clone();
        self.look(move |db| {
            db.prepare_cached("SELECT seq FROM outbox WHERE feed = ?1 AND seq > ?2 ORDER BY seq")?
                .query_map(params![feed.as_str(), beyond], |row| row.get(0))?
                .collect()
        })
        .await
    }

    /// How many results wait, over all feeds.
    pub(crate) async fn outbox_depth(&self) -> Result<u64, StoreError> {
        self.look(|db| {
            let count: i64 = db.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0))?;
            Ok(u64::try_from(count).unwrap_or(0))
        })
        .await
    }

    /// How many results wait for each feed that has any, configured or not.
    pub(crate) async fn waiting_by_feed(&self) -> Result<Vec<(String, i64)>, StoreError> {
        self.look(|db| {
            db.prepare_cached("SELECT feed, count(*) FROM outbox GROUP BY feed ORDER BY feed")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .await
    }

    /// One of them, marked as tried once more; `None` when it need not be told any more.
    pub(crate) async fn send_off(&self, seq: i64) -> Result<Option<Parcel>, StoreError> {
        self.change(Durability::Process, move |tx| {
            let parcel = parcel(tx, seq)?;
            tx.execute(
                "UPDATE outbox SET tries = tries + 1 WHERE seq = ?1",
                params![seq],
            )?;
            Ok(parcel)
        })
        .await
    }

    /// The same without the mark, for a disk that is full.
    pub(crate) async fn parcel(&self, seq: i64) -> Result<Option<Parcel>, StoreError> {
        self.look(move |db| parcel(db, seq)).await
    }

    /// It is told in other words.
    pub(crate) async fn replace_body(&self, seq: i64, body: String) -> Result<(), StoreError> {
        self.change(Durability::Process, move |tx| {
            tx.execute(
                "UPDATE outbox SET body = ?2 WHERE seq = ?1",
                params![seq, body],
            )
            .map(drop)
        })
        .await
    }

    /// The feed knows it. If this is lost with the machine, the feed is told once more, and answers that it knows.
    pub(crate) async fn delivered(&self, seq: i64) -> Result<(), StoreError> {
        self.change(Durability::Process, move |tx| {
            tx.execute("DELETE FROM outbox WHERE seq = ?1", params![seq])
                .map(drop)
        })
        .await
    }
}

fn parcel(db: &Connection, seq: i64) -> rusqlite::Result<Option<Parcel>> {
    db.prepare_cached("SELECT job, feed_job, body, tries FROM outbox WHERE seq = ?1")?
        .query_row([seq], |row| {
            Ok(Parcel {
                seq,
                job: parsed(row, 0)?,
                feed_job: row.get(1)?,
                body: row.get(2)?,
                tries: row.get(3)?,
            })
        })
        .optional()
}
