//! An output tree becomes the objects below a prefix.
//!
//! ```text
//! name ─► read the record ─► list ─► compare ─► put assets, pages, the start page ─► delete what is stale ─► list ─► record
//!                                                 └─ before the first change: the record says "publishing"
//! ```
//!
//! A store has no rename: readers see objects change one by one. What can be promised instead is this. Every name is looked
//! at before anything is changed. The order keeps old pages whole for as long as possible (`plan`). What is stale is
//! deleted only after everything is there, so a publication that fails deletes nothing; and only what Bryo has put is ever
//! deleted (`ours`). It says what readers may see
//! ([`Visible`]), and its record has the next publication repair it. No two publications of one version go on at a time
//! (`hold`), and one is said to be complete only after a last look at all of it (`verify`).

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use bryo_model::Amount;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use super::api::{Kept, Listed};
use super::client::Client;
use super::depot::Inner;
use super::files::Files;
use super::hold::{Hold, Said};
use super::loops::Loops;
use super::ours::{List, Ours};
use super::plan::{Phase, plan};
use super::prefix::Prefix;
use super::record::{Found, Record};
use super::upload::{Became, Meter, Open, Uploads};
use super::verify::Objects;
use super::visible::{Reached, Visible};
use crate::{DepotError, OutputTree};

/// How often everything is looked at before it is said to be other than it was published: a list may be a little behind.
const LOOKS: u32 = 3;

/// How often what is found to be other is made as it should be: against somebody who goes on it would never end.
const ROUNDS: u32 = 3;

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
    /// Stale objects that could not be deleted, with the reason: the next publication tries again.
    pub leftovers: Vec<String>,
    /// What is there, was never Bryo's and is left alone: how many objects where, in 21 lines at most.
    pub others: Vec<String>,
}

/// One publication under way.
pub(crate) struct Publication {
    pub(crate) inner: Arc<Inner>,
    pub(crate) loops: Arc<Loops>,
    pub(crate) prefix: Prefix,
    pub(crate) tree: Arc<OutputTree>,
    pub(crate) progress: Arc<dyn Fn(Amount) + Send + Sync>,
}

impl Publication {
    /// Publishes until it is done, has failed, or `stop` ends.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>) -> Result<Uploaded, DepotError> {
        let open = Arc::new(Open::default());
        let reached = Arc::new(Reached::default());
        let held = OnceLock::new();
        let result = tokio::select! {
            biased;
            result = self.alone(&held, &open, &reached) => result,
            () = stop => Err(DepotError::Stopped),
        };
        if let Err(error) = &result {
            open.give_up(&self.inner.client).await;
            if let Some(hold) = held.get() {
                let disturbed = matches!(error, DepotError::Disturbed { .. });
                hold.let_go(disturbed).await;
            }
        }
        result.map_err(|error| match reached.get() {
            None => error,
            Some(visible) => DepotError::Unfinished {
                visible,
                source: Box::new(error),
            },
        })
    }

    /// Publishes for as long as no other publication has taken the version.
    async fn alone(
        &self,
        held: &OnceLock<Arc<Hold>>,
        open: &Arc<Open>,
        reached: &Arc<Reached>,
    ) -> Result<Uploaded, DepotError> {
        let files = Arc::new(Files::of(Arc::clone(&self.tree), &self.prefix)?);
        let Inner { client, lease, .. } = &*self.inner;
        let (hold, found) = Hold::look(client, &self.prefix, *lease).await?;
        let hold = held.get_or_init(|| Arc::new(hold));
        tokio::select! {
            biased;
            result = self.all(files, hold, &found, open, reached) => result,
            lost = hold.keep() => Err(lost),
        }
    }

    async fn all(
        &self,
        files: Arc<Files>,
        hold: &Arc<Hold>,
        found: &Found,
        open: &Arc<Open>,
        reached: &Arc<Reached>,
    ) -> Result<Uploaded, DepotError> {
        let client = &Arc::new(self.inner.client.within(hold.fence()));
        let repairs = found.is_half();
        if repairs {
            reached.set(Visible::Earlier);
        }
        let mut objects = Objects::of(Arc::clone(&files));
        let mut new = *found == Found::Nothing;
        let each = |object| {
            new = false;
            objects.found(object);
        };
        self.inner.client.list(&self.prefix.keys(), each).await?;
        if *found == Found::Nothing && !new {
            self.is_apart().await?;
        }
        let mut ours = Ours::of(&self.inner.client, &self.prefix).await?;
        let unknown = ours.is_unknown();
        let earlier = ours.lists();
        let nested = self.nested().await?;
        let digest = self.inner.rules.digest();
        let same = new || found.headers() == Some(&*digest);
        let plan = plan(&files, objects.take_beside(), &nested, &ours)?;
        if !same {
            // An object with the right bytes may have the wrong headers: nothing is known of it.
            objects.forget();
        }
        let record = Record::begin(&digest, same, self.tree.files(), self.tree.bytes());
        let carried = (!repairs).then_some(&*plan.stale);
        let begun = Arc::new(Begun {
            hold: Arc::clone(hold),
            list: ours.next(&record.attempt, carried),
            client: Arc::clone(client),
            files: Arc::clone(&files),
            record,
            done: OnceCell::new(),
            reached: Arc::clone(reached),
            new,
            repairs,
        });

        if repairs {
            begun.take().await?;
            self.forget_uploads(client, &ours).await;
        }
        let Counts { put, unchanged } = self.put_all(client, &mut objects, &begun, open).await?;
        let unrecorded = !matches!(found, Found::Record(_)) || repairs || unknown;
        if !plan.stale.is_empty() || unrecorded {
            begun.touch(Phase::Start).await?;
        }
        let mut stale = plan.stale;
        let mut removed = stale.len();
        let mut kept = Vec::new();
        for round in 1.. {
            if begun.done.initialized() {
                hold.still_ours().await?;
                reached.set(Visible::All);
                kept.extend(client.delete(&stale).await?);
            }
            let Some(key) = self.odd(&mut objects, &mut ours, &kept).await? else {
                break;
            };
            if round == ROUNDS {
                return Err(DepotError::Disturbed {
                    key,
                    version: self.prefix.to_string(),
                });
            }
            // Whoever else has been here had not the record, or has it no more.
            begun.touch(Phase::Start).await?;
            hold.still_ours().await?;
            stale = objects.again();
            removed += stale.len();
            self.put_all(client, &mut objects, &begun, open).await?;
        }
        if begun.done.initialized() {
            // What they say our own list says too. Those that cannot be deleted are read once more.
            let _ = client.delete(&earlier).await;
        }
        if hold.complete(&digest).await? == Said::Late
            && self.odd(&mut objects, &mut ours, &kept).await?.is_some()
        {
            hold.take_back().await?;
        }
        Ok(Uploaded {
            files: self.tree.files(),
            bytes: self.tree.bytes(),
            put,
            unchanged,
            removed: removed.saturating_sub(kept.len()) as u64,
            repaired: repairs,
            leftovers: kept
                .into_iter()
                .map(|kept| format!("{}: {}", kept.key, kept.why))
                .collect(),
            others: plan.others,
        })
    }

    /// Looks at everything once more: the key of something that is not as it was published.
    async fn odd(
        &self,
        objects: &mut Objects,
        ours: &mut Ours,
        kept: &[Kept],
    ) -> Result<Option<String>, DepotError> {
        for look in 1..LOOKS {
            if self.look(objects, ours, kept).await?.is_none() {
                return Ok(None);
            }
            tokio::time::sleep(self.inner.client.pause(look)).await;
        }
        self.look(objects, ours, kept).await
    }

    async fn look(
        &self,
        objects: &mut Objects,
        ours: &mut Ours,
        kept: &[Kept],
    ) -> Result<Option<String>, DepotError> {
        // A version inside this one has its record before it has objects.
        objects.look();
        let see = |object| objects.see(object);
        self.inner.client.list(&self.prefix.keys(), see).await?;
        let nested: Vec<_> = self.nested().await?.iter().map(Prefix::keys).collect();
        let kept: HashSet<_> = kept.iter().map(|kept| &*kept.key).collect();
        // So has an attempt its list, even one that should not be here.
        ours.look(&self.inner.client).await?;
        objects.odd(|key| {
            kept.contains(key) || nested.iter().any(|keys| key.starts_with(keys)) || !ours.has(key)
        })
    }

    /// Uploads in parts that an attempt has left which was killed. Not every store can list them; one that cannot has to
    /// forget them by itself. Those of others may go on, also those of versions inside this one's prefix: such a version has
    /// its record before it has uploads.
    async fn forget_uploads(&self, client: &Client, ours: &Ours) {
        let prefix = self.prefix.keys();
        let begun = client.begun(&prefix).await.unwrap_or_default();
        let Ok(nested) = self.nested().await else {
            return;
        };
        let nested: Vec<_> = nested.iter().map(Prefix::keys).collect();
        for (key, id) in begun {
            if ours.has(&key) && !nested.iter().any(|keys| key.starts_with(keys)) {
                let _ = client.abort(&key, &id).await;
            }
        }
    }

    /// A version that has never been published may not take for its own what another one has put, inside whose prefix it
    /// lies.
    async fn is_apart(&self) -> Result<(), DepotError> {
        let client = &self.inner.client;
        for outer in self.prefix.around() {
            if client.get(&outer.record()).await?.is_none() {
                continue;
            }
            let ours = Ours::of(client, &outer).await?;
            let mut its = None;
            let each = |object: Listed| {
                if its.is_none() && (ours.is_unknown() || ours.has(&object.key)) {
                    its = Some(object.key);
                }
            };
            // Listed again after the lists, which are there before objects are.
            client.list(&self.prefix.keys(), each).await?;
            if let Some(key) = its {
                let version = outer.version().to_owned();
                return Err(DepotError::Overlap { key, version });
            }
        }
        Ok(())
    }

    /// The versions inside this one's prefix.
    async fn nested(&self) -> Result<Vec<Prefix>, DepotError> {
        let mut nested = Vec::new();
        if let Some(inside) = self.prefix.records_inside() {
            let each = |object: Listed| nested.extend(self.prefix.of_record(&object.key));
            self.inner.client.list(&inside, each).await?;
        }
        Ok(nested)
    }

    async fn put_all(
        &self,
        client: &Arc<Client>,
        objects: &mut Objects,
        begun: &Arc<Begun>,
        open: &Arc<Open>,
    ) -> Result<Counts, DepotError> {
        let files = objects.files();
        let uploads = Arc::new(Uploads {
            client: Arc::clone(client),
            files: Arc::clone(&files),
            rules: Arc::clone(&self.inner.rules),
            memory: Arc::clone(&self.inner.memory),
            open: Arc::clone(open),
            meter: Meter::new(Arc::clone(&self.progress), self.tree.bytes()),
            part_size: self.inner.part_size,
        });
        let mut counts = Counts::default();
        for phase in Phase::ALL {
            let mut running = JoinSet::new();
            for n in 0..files.len() {
                if !objects.wants(n) || files.phase(n) != phase {
                    continue;
                }
                if running.len() >= self.inner.parallel {
                    counts.add(running.join_next().await, objects)?;
                }
                let (uploads, begun) = (Arc::clone(&uploads), Arc::clone(begun));
                let there = objects.tag(n);
                let put = async move {
                    let became = uploads.file(n, there, begun.touch(phase)).await?;
                    Ok((n, became))
                };
                running.spawn_on(put, self.loops.next());
            }
            while !running.is_empty() {
                counts.add(running.join_next().await, objects)?;
            }
        }
        uploads.meter.report();
        Ok(counts)
    }
}

/// What is done before the first change, once.
struct Begun {
    hold: Arc<Hold>,
    client: Arc<Client>,
    files: Arc<Files>,
    record: Record,
    list: List,
    done: OnceCell<()>,
    reached: Arc<Reached>,
    new: bool,
    repairs: bool,
}

impl Begun {
    /// The version is ours from here on.
    async fn take(&self) -> Result<(), DepotError> {
        let take = async {
            self.hold.take(&self.record).await?;
            self.list.write(&self.client, &self.files).await
        };
        self.done.get_or_try_init(|| take).await.map(drop)
    }

    /// The store is about to be changed in `phase`.
    async fn touch(&self, phase: Phase) -> Result<(), DepotError> {
        self.take().await?;
        let new = self.new;
        self.reached.set(match phase {
            // The pages of a half publication are a mixture from the beginning.
            Phase::Assets if !self.repairs => Visible::Assets { new },
            Phase::Assets | Phase::Pages | Phase::Start => Visible::Pages { new },
        });
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Counts {
    put: u64,
    unchanged: u64,
}

impl Counts {
    fn add(&mut self, ended: Option<Ended>, objects: &mut Objects) -> Result<(), DepotError> {
        let Some(ended) = ended else { return Ok(()) };
        match ended.map_err(|_| DepotError::Lost)?? {
            (n, Became::Put(tag)) => {
                self.put += 1;
                objects.put(n, tag);
            }
            (_, Became::Unchanged) => self.unchanged += 1,
        }
        Ok(())
    }
}

type Ended = Result<Result<(usize, Became), DepotError>, tokio::task::JoinError>;
