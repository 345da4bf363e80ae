//! What must survive: jobs taken, and results that a feed does not know yet.
//!
//! One thread owns the database; everybody else hands it closures over a transaction. A closure that fails changes
//! nothing.
//!
//! ```text
//! jobs      taken ──> begun ──> ended ──(outbox row gone)──> delivered ──(history)──> forgotten
//! outbox    one row for each job that has ended and whose result its feed does not know yet
//! ```
//!
//! Invariants:
//! - a job is in the database, and on the disk, before anything is begun for it;
//! - a job ends and its result enters the outbox in one transaction, on the disk before anybody is told;
//! - a row leaves the outbox only when its feed knows the result.
//!
//! *Two durabilities.* What must not be lost is synced to disk ([`Durability::Disk`]). Marks that only make a message
//! better (how far an attempt came) survive the death of the process, and need not survive that of the machine.
//!
//! No decision depends on a time that is stored: clocks jump.

mod jobs;
mod outbox;
mod schema;

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use crate::{Watermarks, watermark};

pub(crate) use jobs::{Ending, JobRow, NewJob, Record, Took};
pub(crate) use outbox::Parcel;

/// The database could not do what was asked; nothing of it was done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk or the quota is full.
    #[error("the disk with the agent's state is full; free some space there")]
    Full(#[source] rusqlite::Error),
    /// It was made by a later version.
    #[error(
        "the agent's state was written by a later version of bryo (format {found}, this one knows {known}); use that version"
    )]
    Later {
        /// The format that was found.
        found: u32,
        /// The newest one that this code knows.
        known: u32,
    },
    /// Others could read or replace it.
    #[error(
        "could not keep the agent's state {path:?} from other users; chmod 600 it as its owner"
    )]
    Open {
        /// The database or a file beside it.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// SQLite refused.
    #[error("could not {doing} the agent's state")]
    Sqlite {
        /// An infinitive: "open", "write".
        doing: &'static str,
        /// Its reason.
        source: rusqlite::Error,
    },
    /// The thread that owns the database has ended.
    #[error("the keeper of the agent's state is gone")]
    Gone,
}

impl StoreError {
    fn of(doing: &'static str, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full(source),
            _ => Self::Sqlite { doing, source },
        }
    }

    /// Whether room may be what it failed for. SQLite has other words for a file that could not be made, or made longer.
    pub(crate) fn may_want_room(&self, state: &Path, marks: &Watermarks) -> bool {
        match self {
            Self::Full(_) => true,
            Self::Sqlite { .. } => watermark::look(&[state.to_owned()], marks).is_err(),
            Self::Open { source, .. } => {
                use io::ErrorKind::{QuotaExceeded, StorageFull};
                matches!(source.kind(), StorageFull | QuotaExceeded)
            }
            Self::Later { .. } | Self::Gone => false,
        }
    }
}

/// What a change must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The machine losing power.
    Disk,
    /// The process being killed.
    Process,
}

type Task = Box<dyn FnOnce(&mut Connection) + Send>;

/// The database. Cloning gives another handle; the thread ends with the last one.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    tasks: mpsc::Sender<Task>,
}

/// The thread that owns the database.
#[derive(Debug)]
pub(crate) struct Keeper(JoinHandle<()>);

impl Keeper {
    /// Waits until everything that was handed over is done. All handles must be gone.
    pub(crate) fn join(self) {
        let _ = self.0.join();
    }
}

impl Store {
    /// Opens the database in this file, makes it where there is none, and brings it to the newest format.
    ///
    /// *Why an exclusive lock?* The state directory belongs to one agent anyway. Without others to share it with, the index
    /// of the log is in memory and not in a file, for which a disk that is full has no room. So one that is there can be
    /// read, and the agent begins, with nothing free at all. <https://sqlite.org/wal.html#noshm>
    pub(crate) fn open(path: &Path) -> Result<(Self, Keeper), StoreError> {
        close_to_others(path)?;
        let failed = |e| StoreError::of("open", e);
        // No mutex: one thread alone has the connection.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection
            .execute_batch(
                "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
                 PRAGMA cache_size = -512; PRAGMA busy_timeout = 5000;",
            )
            .map_err(failed)?;
        schema::migrate(&mut connection)?;
        let (tasks, inbox) = mpsc::channel::<Task>();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                for task in inbox {
                    task(&mut connection);
                }
            })
            .map_err(|_| StoreError::Gone)?;
        Ok((Self { tasks }, Keeper(thread)))
    }

    /// Lets `work` have a transaction. It is committed if `work` succeeds, and durable when this returns. Dropping the
    /// future does not stop what was begun.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, result) = oneshot::channel();
        let task = move |connection: &mut Connection| {
            let done =
                transact(connection, durability, work).map_err(|e| StoreError::of("write", e));
            let _ = answer.send(done);
        };
        self.tasks
            .send(Box::new(task))
            .map_err(|_| StoreError::Gone)?;
        result.await.map_err(|_| StoreError::Gone)?
    }

    /// The same for what is only good to know: nobody waits for it, and its failure changes nothing.
    fn post(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static) {
        let task = move |connection: &mut Connection| {
            if let Err(error) = transact(connection, Durability::Process, work) {
                tracing::debug!(%error, "could not note how far a job came");
            }
        };
        let _ = self.tasks.send(Box::new(task));
    }

    /// Whether there is room for another record.
    pub(crate) async fn probe(&self) -> Result<(), StoreError> {
        self.change(Durability::Process, |tx| {
            tx.execute("UPDATE probe SET n = n + 1", []).map(drop)
        })
        .await
    }

    /// The same for looking only.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, result) = oneshot::channel();
        let task = move |connection: &mut Connection| {
            let _ = answer.send(work(connection).map_err(|e| StoreError::of("read", e)));
        };
        self.tasks
            .send(Box::new(task))
            .map_err(|_| StoreError::Gone)?;
        result.await.map_err(|_| StoreError::Gone)?
    }
}

/// What is in it are claims and logs of private projects. SQLite would make it by the umask, and gives what it makes beside
/// it the mode of the database; what is there from before is tightened.
fn close_to_others(path: &Path) -> Result<(), StoreError> {
    let beside = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    for (path, is_made) in [
        (path.to_owned(), true),
        (beside("-wal"), false),
        (beside("-shm"), false),
    ] {
        let private = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(is_made).truncate(false);
            let file = options.mode(0o600).open(&path)?;
            if file.metadata()?.mode() & 0o077 != 0 {
                file.set_permissions(Permissions::from_mode(0o600))?;
            }
            Ok(())
        };
        match private() {
            Err(e) if !is_made && e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::Open { path, source }),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn transact<T>(
    connection: &mut Connection,
    durability: Durability,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    // In WAL mode `NORMAL` leaves a commit to the kernel, `FULL` waits for the disk. https://sqlite.org/wal.html
    connection.execute_batch(match durability {
        Durability::Disk => "PRAGMA synchronous = FULL",
        Durability::Process => "PRAGMA synchronous = NORMAL",
    })?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let value = work(&transaction)?;
    transaction.commit()?;
    Ok(value)
}

#[cfg(test)]
mod tests;
