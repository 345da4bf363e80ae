//! The table of jobs.

use bryo_model::JobId;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Durability, Store, StoreError};
use crate::FeedName;

/// A job as it was taken from its feed.
#[derive(Clone, Debug)]
pub(crate) struct NewJob {
    /// Our id of it, and of its first attempt.
    pub(crate) job: JobId,
    pub(crate) feed: FeedName,
    /// Its id as the feed says it.
    pub(crate) feed_job: String,
    /// What the feed said, as JSON.
    pub(crate) claim: String,
    /// Wall clock, in milliseconds since 1970.
    pub(crate) taken_ms: i64,
}

/// What taking a job came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Took {
    /// It is recorded.
    Recorded,
    /// The feed has given it to us before, and it has not ended: nothing was recorded.
    Already(JobId),
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// Nothing was begun for it.
    Taken,
    /// An attempt goes on, or was cut short.
    Begun,
    /// It has a verdict.
    Ended,
}

impl Record {
    const fn word(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Begun => "begun",
            Self::Ended => "ended",
        }
    }

    fn of(word: &str) -> Option<Self> {
        [Self::Taken, Self::Begun, Self::Ended]
            .into_iter()
            .find(|record| record.word() == word)
    }
}

/// A row.
#[derive(Clone, Debug)]
pub(crate) struct JobRow {
    pub(crate) job: JobId,
    pub(crate) attempt: JobId,
    pub(crate) attempts: u32,
    pub(crate) feed: String,
    pub(crate) feed_job: String,
    pub(crate) claim: String,
    pub(crate) record: Record,
    /// How far the attempt came; empty before its first stage.
    pub(crate) progress: String,
    pub(crate) taken_ms: i64,
    pub(crate) ended_ms: Option<i64>,
    pub(crate) verdict: Option<String>,
    pub(crate) reason: Option<String>,
    /// Whether the feed does not know the result yet.
    pub(crate) in_outbox: bool,
}

/// How a job ended, and what its feed is to be told.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub(crate) job: JobId,
    pub(crate) ended_ms: i64,
    pub(crate) verdict: String,
    pub(crate) reason: Option<String>,
    /// The report as JSON, where there was an attempt.
    pub(crate) report: Option<String>,
    /// What the feed is told.
    pub(crate) body: String,
}

const COLUMNS: &str = "job, attempt, attempts, feed, feed_job, claim, state, progress, taken_ms, ended_ms, verdict, \
                       reason, EXISTS (SELECT 1 FROM outbox WHERE outbox.job = jobs.job)";

impl Store {
    /// Records a job. What of an earlier job with this id the feed was still to be told is dropped: that it gives the
    /// job out anew means that it does not wait for it.
    pub(crate) async fn take(&self, new: NewJob) -> Result<Took, StoreError> {
        self.change(Durability::Disk, move |tx| {
            let (feed, id) = (new.feed.as_str(), new.feed_job.as_str());
            let open = tx
                .prepare_cached(
                    "SELECT job FROM jobs WHERE feed = ?1 AND feed_job = ?2 AND state <> 'ended'",
                )?
                .query_map(params![feed, id], |row| parsed(row, 0))?
                .next()
                .transpose()?;
            if let Some(job) = open {
                return Ok(Took::Already(job));
            }
            tx.execute(
                "DELETE FROM outbox WHERE feed = ?1 AND feed_job = ?2",
                params![feed, id],
            )?;
            let job = new.job.to_string();
            tx.execute(
                "INSERT INTO jobs (job, attempt, feed, feed_job, claim, state, taken_ms)
                 VALUES (?1, ?1, ?2, ?3, ?4, 'taken', ?5)",
                params![job, feed, id, new.claim, new.taken_ms],
            )?;
            Ok(Took::Recorded)
        })
        .await
    }

    /// An attempt begins.
    pub(crate) async fn begin(&self, job: JobId) -> Result<(), StoreError> {
        self.change(Durability::Disk, move |tx| {
            tx.execute(
                "UPDATE jobs SET state = 'begun' WHERE job = ?1 AND state = 'taken'",
                [job.to_string()],
            )
            .map(drop)
        })
        .await
    }

    /// An attempt came this far. Nobody waits for it.
    pub(crate) fn note_progress(&self, job: JobId, to: String) {
        self.post(move |tx| {
            tx.execute(
                "UPDATE jobs SET progress = ?2 WHERE job = ?1 AND state = 'begun'",
                params![job.to_string(), to],
            )
            .map(drop)
        });
    }

    /// The job gets another attempt, with this id, that has not begun.
    pub(crate) async fn again(&self, job: JobId, attempt: JobId) -> Result<(), StoreError> {
        self.change(Durability::Disk, move |tx| {
            tx.execute(
                "UPDATE jobs SET state = 'taken', attempt = ?2, attempts = attempts + 1, progress = ''
                 WHERE job = ?1 AND state <> 'ended'",
                params![job.to_string(), attempt.to_string()],
            )
            .map(drop)
        })
        .await
    }

    /// The job has ended; its result is in the outbox. A job that has ended already stays as it is.
    pub(crate) async fn end(&self, ending: Ending) -> Result<(), StoreError> {
        self.change(Durability::Disk, move |tx| {
            let job = ending.job.to_string();
            let changed = tx.execute(
                "UPDATE jobs SET state = 'ended', ended_ms = ?2, verdict = ?3, reason = ?4, report = ?5
                 WHERE job = ?1 AND state <> 'ended'",
                params![
                    job,
                    ending.ended_ms,
                    ending.verdict,
                    ending.reason,
                    ending.report
                ],
            )?;
            if changed == 1 {
                tx.execute(
                    "INSERT INTO outbox (job, feed, feed_job, body)
                     SELECT job, feed, feed_job, ?2 FROM jobs WHERE job = ?1",
                    params![job, ending.body],
                )?;
            }
            Ok(())
        })
        .await
    }

    /// One job.
    pub(crate) async fn job(&self, job: JobId) -> Result<Option<JobRow>, StoreError> {
        self.look(move |db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE job = ?1"))?
                .query_row([job.to_string()], of_row)
                .optional()
        })
        .await
    }

    /// Jobs without a verdict, in the order in which they were taken.
    pub(crate) async fn open_jobs(&self) -> Result<Vec<JobRow>, StoreError> {
        self.look(|db| rows(db, "WHERE state <> 'ended' ORDER BY seq", 1 << 20))
            .await
    }

    /// The newest jobs, newest first.
    pub(crate) async fn newest(&self, most: u32) -> Result<Vec<JobRow>, StoreError> {
        self.look(move |db| rows(db, "ORDER BY seq DESC", most))
            .await
    }

    /// Forgets jobs that ended before this time, and those beyond so many, unless their feed does not know the result.
    pub(crate) async fn forget(&self, before_ms: i64, most: u32) -> Result<usize, StoreError> {
        self.change(Durability::Process, move |tx| {
            tx.execute(
                "DELETE FROM jobs WHERE state = 'ended' AND job NOT IN (SELECT job FROM outbox)
                 AND (ended_ms < ?1 OR seq <= (SELECT max(seq) FROM jobs) - ?2)",
                params![before_ms, most],
            )
        })
        .await
    }
}

fn rows(db: &Connection, which: &str, most: u32) -> rusqlite::Result<Vec<JobRow>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs {which} LIMIT ?1"))?
        .query_map([most], of_row)?
        .collect()
}

fn of_row(row: &Row<'_>) -> rusqlite::Result<JobRow> {
    let word: String = row.get(6)?;
    let record = Record::of(&word).ok_or_else(|| unreadable(6))?;
    Ok(JobRow {
        job: parsed(row, 0)?,
        attempt: parsed(row, 1)?,
        attempts: row.get(2)?,
        feed: row.get(3)?,
        feed_job: row.get(4)?,
        claim: row.get(5)?,
        record,
        progress: row.get(7)?,
        taken_ms: row.get(8)?,
        ended_ms: row.get(9)?,
        verdict: row.get(10)?,
        reason: row.get(11)?,
        in_outbox: row.get(12)?,
    })
}

pub(super) fn parsed(row: &Row<'_>, column: usize) -> rusqlite::Result<JobId> {
    let text: String = row.get(column)?;
    text.parse().map_err(|_| unreadable(column))
}

fn unreadable(column: usize) -> rusqlite::Error {
    rusqlite::Error::InvalidColumnType(column, "a word of ours".to_owned(), Type::Text)
}
