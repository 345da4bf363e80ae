//! An output tree becomes the objects below a prefix.
//!
//! ```text
//! name ─► read the record ─► list ─► compare ─► put assets ─► put pages ─► put the start page ─► delete what is stale ─► record
//!                                                 └─ before the first change: the record says "publishing"
//! ```
//!
//! A store has no rename: readers see objects change one by one. What can be promised instead is this. Every name is looked
//! at before anything is changed. The order keeps old pages whole for as long as possible (`plan`). What is stale is
//! deleted only after everything is there, so a publication that fails deletes nothing. It says what readers may see
//! ([`Visible`]), and its record has the next publication repair it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bryo_model::Amount;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use super::api::Listed;
use super::depot::Inner;
use super::headers::Headers;
use super::plan::{self, Phase, Plan};
use super::prefix::Prefix;
use super::record::{Found, Record};
use super::upload::{Became, Meter, Open, Uploads};
use crate::{DepotError, OutputTree};

/// The record is for us alone, and must not be what a cache remembers.
const RECORD_TYPE: &str = "application/json";

/// What is there now.
#[derive(Debug)]
pub struct Uploaded {
    /// Regular files of the version.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them were put.
    pub put: u64,
    /// How many were there already.
    pub unchanged: u64,
    /// How many stale objects were deleted.
    pub removed: u64,
    /// Whether an earlier publication had failed half-way, which this one has repaired.
    pub repaired: bool,
    /// Stale objects that could not be deleted, with the reason. The next publication tries again.
    pub leftovers: Vec<String>,
}

/// What readers may see of a version whose publication failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visible {
    /// What an earlier publication that failed half-way left: this one had not changed anything yet.
    Earlier,
    /// Assets of the new files; pages as they were.
    Assets {
        /// Whether the version was not there before.
        new: bool,
    },
    /// Some pages of the new files.
    Pages {
        /// Whether the version was not there before.
        new: bool,
    },
    /// All of the new files; perhaps stale ones beside them.
    All,
}

impl fmt::Display for Visible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Earlier => {
                "nothing was changed, but an earlier publication had failed half-way and readers may see a mixture of versions"
            }
            Self::Assets { new: false } => {
                "readers see the pages of before, perhaps with some new assets"
            }
            Self::Assets { new: true } => "readers find no page yet, only some assets",
            Self::Pages { new: false } => "readers may see a mixture of old and new pages",
            Self::Pages { new: true } => "readers find only some of the pages",
            Self::All => "readers see all new files, and perhaps some that should be gone",
        })
    }
}

/// One publication under way.
pub(crate) struct Publication {
    pub(crate) inner: Arc<Inner>,
    pub(crate) prefix: Prefix,
    pub(crate) tree: Arc<OutputTree>,
    pub(crate) progress: Arc<dyn Fn(Amount) + Send + Sync>,
}

impl Publication {
    /// Publishes until it is done, has failed, or `stop` ends.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>) -> Result<Uploaded, DepotError> {
        let open = Arc::new(Open::default());
        let reached = Arc::new(Reached::default());
        let result = tokio::select! {
            biased;
            result = self.all(&open, &reached) => result,
            () = stop => Err(DepotError::Stopped),
        };
        if result.is_err() {
            open.give_up(&self.inner.client).await;
        }
        result.map_err(|error| match reached.get() {
            None => error,
            Some(visible) => DepotError::Unfinished {
                visible,
                source: Box::new(error),
            },
        })
    }

    async fn all(&self, open: &Arc<Open>, reached: &Arc<Reached>) -> Result<Uploaded, DepotError> {
        let client = &self.inner.client;
        let files = plan::keys(&self.tree, &self.prefix)?;
        let record_key = self.prefix.record();
        let found = Found::of(client.get(&record_key).await?.as_deref());
        let repairs = found.is_half();
        if repairs {
            reached.set(Visible::Earlier);
            self.forget_uploads().await;
        }
        let mut objects = Vec::new();
        client
            .list(&self.prefix.keys(), |object| objects.push(object))
            .await?;
        let new = objects.is_empty() && found == Found::Nothing;
        let nested = self.nested(&found, &objects).await?;
        let digest = self.inner.rules.digest();
        let same = new || found.headers() == Some(&*digest);
        let mut plan = plan::compare(&self.tree, files, objects, &self.prefix, &nested)?;
        if !same {
            // An object with the right bytes may have the wrong headers: nothing is known of it.
            plan.files.iter_mut().for_each(|file| file.there = None);
        }
        let record = Record::begin(&digest, same, self.tree.files(), self.tree.bytes());
        let begun = Arc::new(Begun {
            inner: Arc::clone(&self.inner),
            key: record_key,
            record: record.clone(),
            done: OnceCell::new(),
            reached: Arc::clone(reached),
            new,
            repairs,
        });

        let counts = self.put_all(&mut plan, &begun, open).await?;
        let stale = &plan.stale;
        let unrecorded = !matches!(found, Found::Record(_)) || repairs;
        if !stale.is_empty() || unrecorded {
            begun.touch(Phase::Start).await?;
        }
        let mut kept = Vec::new();
        if begun.done.initialized() {
            self.still_ours(&begun).await?;
            reached.set(Visible::All);
            kept = client.delete(stale).await?;
            let record = record.completed(&digest).to_json().into();
            client.put(&begun.key, &record_headers(), &record).await?;
        }
        Ok(Uploaded {
            files: self.tree.files(),
            bytes: self.tree.bytes(),
            put: counts.put,
            unchanged: counts.unchanged,
            removed: (stale.len() - kept.len().min(stale.len())) as u64,
            repaired: repairs,
            leftovers: kept
                .into_iter()
                .map(|kept| format!("{}: {}", kept.key, kept.why))
                .collect(),
        })
    }

    /// Uploads in parts that an attempt has left which was killed. Not every store can list them; one that cannot has to
    /// forget them by itself.
    async fn forget_uploads(&self) {
        let client = &self.inner.client;
        for (key, id) in client.begun(&self.prefix.keys()).await.unwrap_or_default() {
            let _ = client.abort(&key, &id).await;
        }
    }

    /// The versions inside this one's prefix. A version that has never been published may not take what lies inside another
    /// one's prefix for its own.
    async fn nested(&self, found: &Found, objects: &[Listed]) -> Result<Vec<Prefix>, DepotError> {
        let client = &self.inner.client;
        if *found == Found::Nothing
            && let Some(object) = objects.first()
        {
            for outer in self.prefix.around() {
                if client.get(&outer.record()).await?.is_some() {
                    return Err(DepotError::Overlap {
                        key: object.key.clone(),
                        version: outer.version().to_owned(),
                    });
                }
            }
        }
        let mut nested = Vec::new();
        if let Some(inside) = self.prefix.records_inside() {
            let each = |object: Listed| nested.extend(self.prefix.of_record(&object.key));
            client.list(&inside, each).await?;
        }
        Ok(nested)
    }

    async fn put_all(
        &self,
        plan: &mut Plan,
        begun: &Arc<Begun>,
        open: &Arc<Open>,
    ) -> Result<Counts, DepotError> {
        let uploads = Arc::new(Uploads {
            client: Arc::clone(&self.inner.client),
            tree: Arc::clone(&self.tree),
            rules: Arc::clone(&self.inner.rules),
            memory: Arc::clone(&self.inner.memory),
            open: Arc::clone(open),
            meter: Meter::new(Arc::clone(&self.progress), self.tree.bytes()),
            inside: self.prefix.keys().len(),
            part_size: self.inner.part_size,
        });
        let mut counts = Counts::default();
        let mut files = std::mem::take(&mut plan.files).into_iter().peekable();
        for phase in Phase::ALL {
            let mut running = JoinSet::new();
            while let Some(file) = files.next_if(|file| file.phase == phase) {
                if running.len() >= self.inner.parallel {
                    counts.add(running.join_next().await)?;
                }
                let (uploads, begun) = (Arc::clone(&uploads), Arc::clone(begun));
                running.spawn(async move { uploads.file(&file, begun.touch(phase)).await });
            }
            while !running.is_empty() {
                counts.add(running.join_next().await)?;
            }
        }
        uploads.meter.report();
        Ok(counts)
    }

    /// Two publications of the same version at once would each take the other's objects for its own.
    async fn still_ours(&self, begun: &Begun) -> Result<(), DepotError> {
        let found = self.inner.client.get(&begun.key).await?;
        match Found::of(found.as_deref()) {
            Found::Record(record) if record.attempt == begun.record.attempt => Ok(()),
            _ => Err(DepotError::Overtaken(self.prefix.to_string())),
        }
    }
}

/// What is done before the first change, once.
struct Begun {
    inner: Arc<Inner>,
    key: String,
    record: Record,
    done: OnceCell<()>,
    reached: Arc<Reached>,
    new: bool,
    repairs: bool,
}

impl Begun {
    /// The store is about to be changed in `phase`.
    async fn touch(&self, phase: Phase) -> Result<(), DepotError> {
        let put = || async {
            let record = self.record.to_json().into();
            let client = &self.inner.client;
            client.put(&self.key, &record_headers(), &record).await
        };
        self.done.get_or_try_init(put).await?;
        let new = self.new;
        self.reached.set(match phase {
            // The pages of a half publication are a mixture from the beginning.
            Phase::Assets if !self.repairs => Visible::Assets { new },
            Phase::Assets | Phase::Pages | Phase::Start => Visible::Pages { new },
        });
        Ok(())
    }
}

/// What readers may see if it ends now; `None`: what they saw before.
#[derive(Debug, Default)]
struct Reached(Mutex<Option<Visible>>);

impl Reached {
    fn set(&self, visible: Visible) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(visible);
    }

    fn get(&self) -> Option<Visible> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Counts {
    put: u64,
    unchanged: u64,
}

impl Counts {
    fn add(&mut self, ended: Option<Ended>) -> Result<(), DepotError> {
        match ended {
            None => {}
            Some(Ok(Ok(Became::Put))) => self.put += 1,
            Some(Ok(Ok(Became::Unchanged))) => self.unchanged += 1,
            Some(Ok(Err(error))) => return Err(error),
            Some(Err(_)) => return Err(DepotError::Lost),
        }
        Ok(())
    }
}

type Ended = Result<Result<Became, DepotError>, tokio::task::JoinError>;

fn record_headers() -> Headers {
    Headers {
        content_type: RECORD_TYPE.to_owned(),
        cache_control: Some("no-store".to_owned()),
    }
}
