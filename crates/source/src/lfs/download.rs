//! Bringing objects from a server into a mirror.
//!
//! Four at a time, each piece by piece: the connection waits for the disk, and what is in memory does not depend on the
//! object. It is compared with its pointer on the way, and appears under its name whole. What came stays, whatever becomes
//! of the rest.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bryo_model::Amount;
use tokio::sync::mpsc;

use super::batch::{Action, MOST_OBJECTS, Said};
use super::failure::Failure;
use super::server::{Patience, Server};
use super::store::{self, Check, NotCopied};
use super::{Needed, Pointer};
use crate::limits::ReachedLimit;
use crate::mirror::LockedMirror;
use crate::origin::{Origin, Remote};
use crate::session::Session;
use crate::{Paths, Progress, SourceError};

/// Pieces of one object that wait for the disk.
const WAITING: usize = 4;

/// What is asked for, and where it goes.
struct Download<'a> {
    mirror: &'a LockedMirror<'a>,
    server: &'a Server<'a>,
    objects: PathBuf,
    meter: Meter<'a>,
}

/// Brings objects into a mirror's directory.
///
/// # Errors
///
/// What the policy refuses, which bound was reached, what no server was reached for, and which object is not to be had.
pub(crate) async fn bring(
    mirror: &LockedMirror<'_>,
    (origin, remote): (&Origin, &Remote),
    paths: &Paths,
    objects: PathBuf,
    absent: &Needed,
    progress: &Progress,
) -> Result<(), SourceError> {
    let Some((first, path)) = absent.first_key_value() else {
        return Ok(());
    };
    let session = Session::open(mirror.path(), origin, paths).await?;
    let limits = remote.budget.limits();
    // Of the time of all that the job fetches. The gateway counts the bytes, or the server's client.
    let turn = remote.budget.begin();
    let activity = Arc::clone(&session.activity);
    let work = async {
        let server = Server::open(origin, remote, session)
            .await
            .map_err(|failure| failure.told(&origin.location, path, first))?;
        let sizes = absent.keys().map(|pointer| pointer.size);
        let download = Download {
            mirror,
            server: &server,
            objects,
            meter: Meter::new(progress, sizes.fold(0, u64::saturating_add)),
        };
        Box::pin(download.all(origin, absent)).await
    };
    let reached = |limit| {
        Err(SourceError::Limit {
            location: origin.location.clone(),
            limit,
        })
    };
    tokio::select! {
        biased;
        ended = tokio::time::timeout(turn.time, Box::pin(work)) => match ended {
            Ok(ended) => ended,
            Err(_) => reached(ReachedLimit::Timeout(limits.timeout)),
        },
        () = activity.silent_for(limits.stall, None) => reached(ReachedLimit::Stall(limits.stall)),
    }
}

/// Objects that nobody has begun with.
type Queue<'a> = Mutex<VecDeque<(&'a Pointer, &'a str, Action)>>;

impl Download<'_> {
    async fn all(&self, origin: &Origin, absent: &Needed) -> Result<(), SourceError> {
        let left = self.mirror.path().join("lfs");
        self.mirror.at_work(move |_, _| clear(&left)).await?;
        let absent: Vec<(&Pointer, &str)> = absent.iter().map(|(p, at)| (p, at.as_str())).collect();
        for some in absent.chunks(MOST_OBJECTS) {
            let pointers: Vec<&Pointer> = some.iter().map(|(pointer, _)| *pointer).collect();
            self.server.end_of_loan();
            let of_first = |failure: Failure| failure.told(&origin.location, some[0].1, some[0].0);
            let mut said = self.server.find(&pointers).await.map_err(of_first)?;
            let mut queue = VecDeque::new();
            for (pointer, path) in some {
                let action = action(said.remove(pointer.oid()))
                    .map_err(|failure| failure.told(&origin.location, path, pointer))?;
                queue.push_back((*pointer, *path, action));
            }
            let queue = Mutex::new(queue);
            tokio::try_join!(
                self.work(0, origin, &queue),
                self.work(1, origin, &queue),
                self.work(2, origin, &queue),
                self.work(3, origin, &queue),
            )?;
        }
        Ok(())
    }

    /// One of those who take objects until there is none left.
    async fn work(
        &self,
        slot: usize,
        origin: &Origin,
        queue: &Queue<'_>,
    ) -> Result<(), SourceError> {
        loop {
            let next = queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some((pointer, path, action)) = next else {
                return Ok(());
            };
            self.object(slot, pointer, action)
                .await
                .map_err(|failure| failure.told(&origin.location, path, pointer))?;
        }
    }

    async fn object(&self, slot: usize, pointer: &Pointer, action: Action) -> Result<(), Failure> {
        let (mut action, mut asked_again) = (action, false);
        let mut patience = Patience::default();
        loop {
            let failure = match self.once(slot, pointer, &action).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if matches!(failure, Failure::Denied(_)) && !asked_again {
                // What the server gave holds for a while only.
                asked_again = true;
                let mut said = self.server.find(&[pointer]).await?;
                action = self::action(said.remove(pointer.oid()))?;
            } else if !patience.again(&failure, self.server).await {
                return Err(failure);
            }
        }
    }

    async fn once(&self, slot: usize, pointer: &Pointer, action: &Action) -> Result<(), Failure> {
        let mut answer = self.server.object(action).await?;
        if let Some(length) = answer.response.content_length()
            && length != pointer.size
        {
            let size = pointer.size;
            return Err(Failure::Told(format!(
                "the server has {length} bytes for it, and not the {size} of its pointer"
            )));
        }
        let (give, take) = mpsc::channel(WAITING);
        let (objects, of) = (self.objects.clone(), pointer.clone());
        let writing = self
            .mirror
            .at_work(move |mirror, _| Ok(write(mirror, slot, &objects, &of, take)));
        let mut counted = 0;
        let reading = async {
            // Whoever goes away in the middle takes this end with them, and the writer sees that there is no more.
            let give = give;
            loop {
                match answer.response.chunk().await {
                    Ok(None) => return Ok(()),
                    Ok(Some(piece)) => {
                        self.server.arrived(&answer, &piece)?;
                        counted += piece.len() as u64;
                        self.meter.add(piece.len() as u64);
                        if give.send(piece).await.is_err() {
                            // The writer has seen enough, and says so.
                            return Ok(());
                        }
                    }
                    Err(error) => return Err(self.server.broken(&error)),
                }
            }
        };
        let (written, read) = tokio::join!(writing, reading);
        let ended = match (written?, read) {
            (Err(NotCopied::Write(error)), _) => {
                Err(SourceError::io(&store::place(&self.objects, pointer))(error).into())
            }
            (Err(NotCopied::Wrong(why)), Ok(())) => Err(Failure::Told(why)),
            (Err(NotCopied::Missing | NotCopied::Read(_)), Ok(())) => {
                Err(Failure::Told("it was not written".to_owned()))
            }
            (_, Err(failure)) => Err(failure),
            (Ok(()), Ok(())) => Ok(()),
        };
        if ended.is_err() {
            self.meter.take_back(counted);
        }
        ended
    }
}

fn action(said: Option<Said>) -> Result<Action, Failure> {
    match said {
        Some(said) => said.map_err(Failure::Told),
        None => Err(Failure::Told("the server says nothing of it".to_owned())),
    }
}

/// Removes what a killed process was writing. The mirror's lock says that nobody is.
fn clear(dir: &Path) -> Result<(), SourceError> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b"tmp_") {
            fs::remove_file(entry.path()).map_err(SourceError::io(&entry.path()))?;
        }
    }
    Ok(())
}

/// Writes what comes. The end of it is the end of the object, or else it is too short.
fn write(
    mirror: &Path,
    slot: usize,
    objects: &Path,
    pointer: &Pointer,
    mut pieces: mpsc::Receiver<impl AsRef<[u8]>>,
) -> Result<(), NotCopied> {
    let place = store::place(objects, pointer);
    // A name that the mirror's clean-up knows.
    let new = mirror.join(format!("lfs/tmp_object-{slot}"));
    let mut all = || {
        if let Some(dir) = place.parent() {
            fs::create_dir_all(dir).map_err(NotCopied::Write)?;
        }
        let mut file = File::create(&new).map_err(NotCopied::Write)?;
        let mut check = Check::new(pointer);
        while let Some(piece) = pieces.blocking_recv() {
            check.feed(piece.as_ref()).map_err(NotCopied::Wrong)?;
            file.write_all(piece.as_ref()).map_err(NotCopied::Write)?;
        }
        check.end().map_err(NotCopied::Wrong)?;
        fs::rename(&new, &place).map_err(NotCopied::Write)
    };
    let written = all();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Tells how many bytes of all have come, a hundred times at most.
struct Meter<'a> {
    progress: &'a Progress,
    total: u64,
    done: AtomicU64,
    told: AtomicU64,
}

impl<'a> Meter<'a> {
    fn new(progress: &'a Progress, total: u64) -> Self {
        progress(Amount::Bytes { done: 0, total });
        Self {
            progress,
            total,
            done: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // A server may send more than it should.
        let done = done.min(self.total);
        let step = (self.total / 100).max(1);
        let told = self.told.load(Ordering::Relaxed);
        if done == self.total || done >= told + step {
            self.told.store(done, Ordering::Relaxed);
            (self.progress)(Amount::Bytes {
                done,
                total: self.total,
            });
        }
    }

    fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }
}
