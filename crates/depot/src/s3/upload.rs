//! One file to one object: left alone if it is the same, put at once, or put in parts.
//!
//! Invariants:
//! - what is in memory is bounded over all uploads of the depot, whatever the files' sizes;
//! - an upload in parts that was begun is finished or stands in [`Open`], from where it is given up.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bryo_model::Amount;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use s3::serde_types::Part;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::client::Client;
use super::fault::{StoreAnswer, StoreFault};
use super::files::Files;
use super::headers::{Headers, Rules};
use super::parts::{Source, part_size};
use super::tag::Tag;
use crate::DepotError;

/// How many parts of one file are under way at a time.
const PARTS_AT_A_TIME: usize = 4;

/// In how many bytes the memory for files is counted.
const UNIT: u64 = 4096;

/// Between two reports of progress.
const REPORT_FILES: u64 = 64;

/// How long an upload that is not wanted any more may take to be given up.
const GIVING_UP: Duration = Duration::from_secs(10);

/// The bound on what is in memory.
#[derive(Debug)]
pub(crate) struct Memory {
    units: Arc<Semaphore>,
    all: u32,
}

impl Memory {
    pub(crate) fn new(bytes: u64, least: u64) -> Self {
        let all = u32::try_from(bytes.max(least) / UNIT + 1).unwrap_or(u32::MAX >> 3);
        Self {
            units: Arc::new(Semaphore::new(all as usize)),
            all,
        }
    }

    async fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, DepotError> {
        let units = u32::try_from(bytes / UNIT + 1).unwrap_or(u32::MAX);
        let taken = Arc::clone(&self.units).acquire_many_owned(units.min(self.all));
        // It is never closed.
        taken.await.map_err(|_| DepotError::Lost)
    }
}

/// Uploads in parts that have begun and not ended.
#[derive(Debug, Default)]
pub(crate) struct Open(Mutex<Vec<(String, String)>>);

impl Open {
    fn add(&self, key: &str, id: &str) {
        let pair = (key.to_owned(), id.to_owned());
        self.list(|open| open.push(pair));
    }

    fn remove(&self, id: &str) {
        self.list(|open| open.retain(|(_, other)| other != id));
    }

    fn list<T>(&self, with: impl FnOnce(&mut Vec<(String, String)>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives all of them up, as far as that can be done soon.
    pub(crate) async fn give_up(&self, client: &Client) {
        let open = self.list(std::mem::take);
        let all = stream::iter(open).for_each_concurrent(PARTS_AT_A_TIME, |(key, id)| async move {
            let _ = client.abort(&key, &id).await;
        });
        let _ = tokio::time::timeout(GIVING_UP, all).await;
    }
}

/// How far all files are.
pub(crate) struct Meter {
    progress: Arc<dyn Fn(Amount) + Send + Sync>,
    done: AtomicU64,
    files: AtomicU64,
    total: u64,
}

impl Meter {
    pub(crate) fn new(progress: Arc<dyn Fn(Amount) + Send + Sync>, total: u64) -> Self {
        Self {
            progress,
            done: AtomicU64::new(0),
            files: AtomicU64::new(0),
            total,
        }
    }

    pub(crate) fn report(&self) {
        (self.progress)(Amount::Bytes {
            done: self.done.load(Ordering::Relaxed),
            total: self.total,
        });
    }

    fn small_file(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        let files = self.files.fetch_add(1, Ordering::Relaxed) + 1;
        if files.is_multiple_of(REPORT_FILES) {
            self.report();
        }
    }

    fn part(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.report();
    }
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Became {
    /// It is put, and the object has this entity tag, where the store has told one.
    Put(Option<Tag>),
    /// The object was the same.
    Unchanged,
}

/// What all uploads of one publication share.
pub(crate) struct Uploads {
    pub(crate) client: Arc<Client>,
    pub(crate) files: Arc<Files>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) open: Arc<Open>,
    pub(crate) meter: Meter,
    pub(crate) part_size: u64,
}

impl Uploads {
    /// Makes the object what file `n` is. `there` is the tag of the object that may be the same; `touch` is waited for before
    /// the store is changed.
    pub(crate) async fn file<T>(
        &self,
        n: usize,
        there: Option<Tag>,
        touch: T,
    ) -> Result<Became, DepotError>
    where
        T: Future<Output = Result<(), DepotError>>,
    {
        let size = self.files.size(n);
        let key = self.files.key(n)?;
        let headers = self.rules.headers(self.files.within(&key));
        let files = Arc::clone(&self.files);
        let Some(part) = part_size(size, self.part_size) else {
            let _memory = self.memory.take(size).await?;
            let content = blocking(move || {
                let content = files.open(n)?.read(0, size)?;
                let same = there.is_some_and(|there| there == Tag::of(&content));
                Ok((!same).then_some(content))
            })
            .await?;
            let became = match content {
                Some(content) => {
                    touch.await?;
                    Became::Put(self.client.put(&key, &headers, &content).await?)
                }
                None => Became::Unchanged,
            };
            self.meter.small_file(size);
            return Ok(became);
        };
        let (source, same) = blocking(move || {
            let source = files.open(n)?;
            let same = there.is_some_and(|there| there.is_of_parts())
                && there == source.tag_of_parts(part)?;
            Ok((Arc::new(source), same))
        })
        .await?;
        if same {
            self.meter.part(size);
            return Ok(Became::Unchanged);
        }
        touch.await?;
        let pieces = Pieces { source, size, part };
        let etag = self.in_parts(&key, &headers, &pieces).await?;
        Ok(Became::Put(etag))
    }

    async fn in_parts(
        &self,
        key: &str,
        headers: &Headers,
        pieces: &Pieces,
    ) -> Result<Option<Tag>, DepotError> {
        // A store that lost the upload, or whose answer to its end was lost, gets it once more.
        for first in [true, false] {
            let id = self.client.begin(key, headers).await?;
            self.open.add(key, &id);
            let parts: Vec<Part> = stream::iter(pieces.all())
                .map(|piece| self.part(key, &id, pieces, piece, first))
                .buffered(PARTS_AT_A_TIME)
                .try_collect()
                .await?;
            let finished = self.client.complete(key, &id, parts).await?;
            self.open.remove(&id);
            if let Some(whole) = finished {
                return Ok(whole.tag());
            }
        }
        Err(DepotError::Store {
            doing: "finish putting",
            what: key.to_owned(),
            fault: StoreFault::Refused,
            source: Box::new(StoreAnswer::Unreadable(
                "it forgot the upload twice".to_owned(),
            )),
        })
    }

    async fn part(
        &self,
        key: &str,
        id: &str,
        pieces: &Pieces,
        piece: Piece,
        first: bool,
    ) -> Result<Part, DepotError> {
        let _memory = self.memory.take(piece.length).await?;
        let source = Arc::clone(&pieces.source);
        let content: Bytes = blocking(move || source.read(piece.offset, piece.length)).await?;
        let part = self
            .client
            .put_part(key, id, piece.number, &content)
            .await?;
        if first {
            self.meter.part(piece.length);
        }
        Ok(part)
    }
}

/// A file and how it is cut.
struct Pieces {
    source: Arc<Source>,
    size: u64,
    part: u64,
}

#[derive(Clone, Copy)]
struct Piece {
    number: u32,
    offset: u64,
    length: u64,
}

impl Pieces {
    fn all(&self) -> impl Iterator<Item = Piece> + Send + use<> {
        let (size, part) = (self.size, self.part);
        (1..)
            .zip(0..size.div_ceil(part))
            .map(move |(number, n)| Piece {
                number,
                offset: n * part,
                length: part.min(size - n * part),
            })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DepotError> + Send + 'static,
) -> Result<T, DepotError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| DepotError::Lost)?
}
