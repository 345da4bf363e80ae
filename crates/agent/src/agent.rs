//! The agent as a whole: what begins in which order, and what ends in which.
//!
//! ```text
//! begin   state lock, store, sockets, records of the past ──> READY ──> host looked at ──> jobs are taken
//! end     no more jobs ──> jobs that run come to their end (a while, then cancelled, then killed) ──> outbox told ──> store
//! ```
//!
//! Everything that goes on is a task on the caller's runtime. Programs are started by these tasks and bound to the thread
//! that started them, so that thread must last as long as the agent: a current-thread runtime in the main thread.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bryo_depot::S3Depot;
use bryo_engine::Engine;
use bryo_model::Verdict;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::deliver::{self, Until};
use crate::ending::{self, Ends, Step, until};
use crate::error::{AgentError, chain};
use crate::feed::Feed;
use crate::lock::StateLock;
use crate::shared::{FeedState, Parts, Phase, Shared, Trouble, lock, now_ms};
use crate::store::{Keeper, Store};
use crate::tasks::{Ended, Tasks};
use crate::{AgentSettings, collector, control, host, http, intake, notify, recover, socket};

/// Between two tries to tell a result that somebody waits for, while its feed is away.
const AGAIN: Duration = Duration::from_secs(1);

/// Between two looks at what can be forgotten.
const TIDYING: Duration = Duration::from_secs(3600);

/// Jobs that are remembered at most.
const MOST_REMEMBERED: u32 = 100_000;

/// What an agent that runs can be told by the process it is in.
#[derive(Debug)]
pub enum Order {
    /// Take no more jobs; let those that run come to their end within [`AgentSettings::drain`], then cancel them.
    Drain,
    /// Take no more jobs and cancel those that run.
    Stop,
    /// End those that run by force.
    Kill,
    /// Go on with these settings.
    Reload {
        /// The new ones.
        settings: Box<AgentSettings>,
        /// The keys of what else has changed, and takes effect at the next start only.
        kept: Vec<String>,
    },
    /// The settings were to be read anew, and cannot be used, for this reason.
    ReloadFailed(String),
}

/// An agent.
#[derive(Debug)]
pub struct Agent {
    shared: Arc<Shared>,
    keeper: Keeper,
    /// Until drain, stop or kill is ordered, and all who ask for jobs have ended.
    intakes: Tasks,
    outboxes: Tasks,
    /// Has them come to their end.
    flush: watch::Sender<Until>,
    others: Tasks,
    /// What of the agent itself has ended that should not have.
    broke: Option<String>,
    orders: mpsc::Receiver<Order>,
    inner_orders: mpsc::Receiver<Order>,
    _lock: StateLock,
}

impl Agent {
    /// Takes jobs until it is ordered to end. `orders` may be dropped; the agent then runs until it is drained through its
    /// control socket.
    ///
    /// # Errors
    ///
    /// When it cannot begin, and [`AgentError::Broke`] when a part of it does not go on. Whatever else happens later is told
    /// as an alarm, and does not end it.
    pub async fn run(
        settings: AgentSettings,
        engine: Engine,
        orders: mpsc::Receiver<Order>,
    ) -> Result<(), AgentError> {
        let agent = Self::begin(settings, engine, orders, None).await?;
        agent.until_its_end().await
    }

    async fn until_its_end(mut self) -> Result<(), AgentError> {
        self.until_ordered(std::future::pending()).await;
        self.finish(ending::LAST_WORDS).await
    }

    /// Takes one job, waits until its feed knows how it ended, and says so; `None` when none came within `max_wait`, or
    /// an order came first.
    ///
    /// # Errors
    ///
    /// As [`Agent::run`]; also [`AgentError::Unfit`] when the host cannot run jobs: at once without `max_wait`, else when it
    /// still could not then.
    pub async fn once(
        settings: AgentSettings,
        engine: Engine,
        orders: mpsc::Receiver<Order>,
        max_wait: Option<Duration>,
    ) -> Result<Option<Verdict>, AgentError> {
        let settings = AgentSettings {
            slots: 1,
            ..settings
        };
        let mut agent = Self::begin(settings, engine, orders, Some(1)).await?;
        let mut troubles = agent.shared.troubles.subscribe();
        let waited = async {
            match max_wait {
                Some(most) => tokio::time::sleep(most).await,
                // Nobody waits for a host that may never be fit.
                None => drop(
                    troubles
                        .wait_for(|all| all.contains_key(&Trouble::Host))
                        .await,
                ),
            }
        };
        agent.until_ordered(waited).await;
        let verdict = lock(&agent.shared.last_verdict).clone();
        let unfit = agent.shared.troubles.borrow().get(&Trouble::Host).cloned();
        // Who has told it to end waits for no server.
        let is_told = agent.shared.phase().is_over();
        agent
            .finish(if is_told {
                ending::LAST_WORDS
            } else {
                ending::ONE_RESULT
            })
            .await?;
        match (verdict, unfit) {
            (None, Some(why)) => Err(AgentError::Unfit(why)),
            (verdict, _) => Ok(verdict),
        }
    }

    async fn begin(
        settings: AgentSettings,
        engine: Engine,
        orders: mpsc::Receiver<Order>,
        quota: Option<usize>,
    ) -> Result<Self, AgentError> {
        let feeds = feeds(&settings)?;
        let depot = S3Depot::tuned(settings.depot.clone(), settings.depot_tuning.clone())?;
        let lock_of_state = StateLock::take(&settings.state)?;
        let (store, keeper) = open_store(&settings, &engine).await?;
        let control_socket = control::bind(&settings.control)?;
        let http_socket = match &settings.listen {
            Some(listen) => Some(http::bind(listen).await?),
            None => None,
        };
        let (inner, inner_orders) = mpsc::channel(4);
        let shared = Arc::new(Shared::new(Parts {
            store,
            engine,
            settings,
            depot,
            feeds,
            quota,
            orders: inner,
        }));
        let mut others = Tasks::default();
        let past = recover::run(&shared).await?;
        others.spawn("the way to the jobs of the past", past);
        others.spawn("the look at the host", host::run(Arc::clone(&shared)));
        others.spawn(
            "the control socket",
            control::serve(Arc::clone(&shared), control_socket),
        );
        others.spawn("the status line", tell_status(Arc::clone(&shared)));
        others.spawn("the tidying", tidy(Arc::clone(&shared)));
        others.spawn("the collector", collector::run(Arc::clone(&shared)));
        if let Some(socket) = http_socket {
            others.spawn("the health page", http::serve(Arc::clone(&shared), socket));
        }
        if let Some(every) = notify::watchdog() {
            others.spawn("the watchdog", watchdog(Arc::clone(&shared), every));
        }
        let (mut intakes, mut outboxes) = (Tasks::default(), Tasks::default());
        let (flush, until) = watch::channel(Until::Cancelled);
        for feed in &shared.feeds {
            let (name, patient) = (&feed.name, quota.is_some());
            let tell = tell(
                Arc::clone(&shared),
                Arc::clone(feed),
                until.clone(),
                patient,
            );
            outboxes.spawn(format!("the outbox of {name}"), tell);
            let ask = intake::run(Arc::clone(&shared), Arc::clone(feed));
            intakes.spawn(format!("the intake of {name}"), ask);
        }
        notify::ready();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "the agent has begun");
        Ok(Self {
            shared,
            keeper,
            intakes,
            outboxes,
            flush,
            others,
            broke: None,
            orders,
            inner_orders,
            _lock: lock_of_state,
        })
    }

    /// Obeys until no jobs are taken any more and none runs. `waited` ends the taking of jobs too, if none was taken.
    async fn until_ordered(&mut self, waited: impl Future<Output = ()>) {
        let mut waited = std::pin::pin!(waited);
        let mut ends_at = Ends::default();
        let mut outer = true;
        let mut patient = true;
        loop {
            let shared = Arc::clone(&self.shared);
            let done = self.intakes.is_empty();
            tokio::select! {
                order = self.orders.recv(), if outer => match order {
                    Some(order) => self.obey(order, &mut ends_at),
                    None => outer = false,
                },
                Some(order) = self.inner_orders.recv() => self.obey(order, &mut ends_at),
                Some(ended) = self.intakes.ended() => {
                    let was_to = shared.phase().is_over() || *lock(&shared.quota) == Some(0);
                    if ended.is_broken() || !was_to {
                        self.miss(&ended, &mut ends_at);
                    }
                }
                Some(ended) = self.outboxes.ended() => self.miss(&ended, &mut ends_at),
                Some(ended) = self.others.ended() => self.miss(&ended, &mut ends_at),
                () = &mut waited, if patient => {
                    patient = false;
                    // A job that was taken is brought to its end; one of the past that waits for its host has not begun.
                    let taken = lock(&shared.quota).is_none_or(|left| left == 0);
                    let waits = !*shared.host.borrow() && lock(&shared.running).is_empty();
                    if !taken || waits {
                        self.obey(Order::Drain, &mut ends_at);
                    }
                }
                () = no_workers(&shared), if done => return,
                () = until(ends_at.next) => {
                    if ends_at.pass(&shared) {
                        tracing::error!("jobs do not end; the next start sees to them");
                        return;
                    }
                }
            }
        }
    }

    /// A part of the agent is gone. Jobs that run come to their end, and a service manager starts a whole one.
    fn miss(&mut self, ended: &Ended, ends_at: &mut Ends) {
        tracing::error!("{ended}, which the agent cannot do without: it comes to its end");
        self.broke.get_or_insert_with(|| ended.to_string());
        self.obey(Order::Drain, ends_at);
    }

    fn obey(&mut self, order: Order, ends_at: &mut Ends) {
        let shared = &self.shared;
        match order {
            Order::Drain => {
                let drain = shared.settings().drain;
                if shared.phase().is_over() {
                    return;
                }
                tracing::info!("no more jobs are taken; those that run have {drain:?}");
                shared.phase.send_replace(Phase::Draining);
                notify::stopping(ending::at_most(drain));
                ends_at.set(Instant::now() + drain, Step::Cancel);
            }
            Order::Stop => {
                if shared.phase() == Phase::Stopping {
                    return;
                }
                tracing::info!("no more jobs are taken; those that run are cancelled");
                notify::stopping(ending::at_most(Duration::ZERO));
                ends_at.set(Instant::now(), Step::Cancel);
            }
            // What is waited for then is not jobs, but a request that may have given one away.
            Order::Kill if ends_at.step == Step::GiveUp => {
                tracing::info!("a job may be on its way from its feed, which is waited for");
            }
            Order::Kill => {
                tracing::info!("jobs that run are ended by force");
                ends_at.set(Instant::now(), Step::Kill);
            }
            Order::Reload { settings, kept } => reload(shared, *settings, kept),
            Order::ReloadFailed(why) => shared.trouble(
                Trouble::Reload,
                format!("the settings were not read anew: {why}"),
            ),
        }
    }

    /// Nothing runs any more: tells feeds what there is to tell, and lets go of everything.
    async fn finish(self, at_most: Duration) -> Result<(), AgentError> {
        let Self {
            shared,
            keeper,
            mut intakes,
            mut outboxes,
            flush,
            mut others,
            mut broke,
            orders,
            ..
        } = self;
        intakes.shutdown().await;
        others.shutdown().await;
        flush.send_replace(Until::Flushed);
        if let Some(ended) = last_words(&mut outboxes, orders, at_most).await {
            broke.get_or_insert_with(|| ended.to_string());
        }
        outboxes.shutdown().await;
        if let Ok(left @ 1..) = shared.store.outbox_depth().await {
            tracing::warn!("{left} results are kept for the next start");
        }
        match timeout(ending::CLOSING, shared.engine.close()).await {
            Ok(left) => left
                .iter()
                .for_each(|left| tracing::warn!("not removed: {left}")),
            Err(_) => {
                tracing::warn!("what goes on beside jobs does not end; the next start removes it");
            }
        }
        let path = shared.settings().control.clone();
        drop(shared);
        let _ = socket::clear(&path);
        // Everything that was handed over is written before the lock goes.
        let written = tokio::task::spawn_blocking(move || keeper.join());
        let _ = timeout(ending::KEEPING, written).await;
        tracing::info!("the agent has ended");
        broke.map_or(Ok(()), |what| Err(AgentError::Broke(what)))
    }
}

/// Waits until feeds know what there is to tell, for so long at most, and not as long when somebody is in a hurry: what is
/// not told is kept. Returns what has broken.
async fn last_words(
    outboxes: &mut Tasks,
    mut orders: mpsc::Receiver<Order>,
    at_most: Duration,
) -> Option<Ended> {
    let mut deadline = Instant::now() + at_most;
    let mut listening = true;
    let mut broke = None;
    loop {
        tokio::select! {
            ended = outboxes.ended() => match ended {
                Some(ended) if ended.is_broken() => {
                    tracing::error!("{ended}, and with it what it would have told");
                    broke = Some(ended);
                }
                Some(_) => {}
                None => return broke,
            },
            order = orders.recv(), if listening => match order {
                Some(Order::Drain | Order::Stop) => {
                    tracing::info!("results that are not told soon are kept for the next start");
                    notify::stopping(ending::AFTER_JOBS);
                    deadline = deadline.min(Instant::now() + ending::LAST_WORDS);
                }
                Some(Order::Kill) => return broke,
                Some(Order::Reload { .. } | Order::ReloadFailed(_)) => {}
                None => listening = false,
            },
            () = sleep_until(deadline) => return broke,
        }
    }
}

/// Has a feed told what is in its outbox for as long as the agent lives. At its end a patient one does not leave off while
/// something is in it.
async fn tell(
    shared: Arc<Shared>,
    feed: Arc<FeedState>,
    until: watch::Receiver<Until>,
    patient: bool,
) {
    loop {
        deliver::run(Arc::clone(&shared), Arc::clone(&feed), until.clone()).await;
        let left = shared.store.waiting(&feed.name, 0).await;
        if !patient || left.is_ok_and(|rows| rows.is_empty()) {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn no_workers(shared: &Shared) {
    shared.workers.close();
    shared.workers.wait().await;
}

/// A disk that is full of what can be made again keeps no agent from beginning: the caches are collected once.
async fn open_store(
    settings: &AgentSettings,
    engine: &Engine,
) -> Result<(Store, Keeper), AgentError> {
    let path = settings.state.join("agent.db");
    let error = match Store::open(&path) {
        Err(error) if error.may_want_room(&settings.state, &settings.watermarks) => error,
        opened => return Ok(opened?),
    };
    tracing::warn!("{}; the caches are collected first", chain(&error));
    collector::before_the_start(engine, &settings.watermarks).await;
    Ok(Store::open(&path)?)
}

fn feeds(settings: &AgentSettings) -> Result<Vec<Arc<FeedState>>, AgentError> {
    let mut names = BTreeSet::new();
    let feeds = settings
        .feeds
        .iter()
        .map(|of_feed| {
            let name = of_feed.name().clone();
            if !names.insert(name.clone()) {
                return Err(AgentError::TwoFeeds(name));
            }
            let feed = Feed::of(of_feed).map_err(|source| AgentError::Feed { name, source })?;
            Ok(Arc::new(FeedState::new(of_feed, feed)))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if feeds.is_empty() {
        return Err(AgentError::NoFeed);
    }
    Ok(feeds)
}

/// Takes over what can change while the agent runs; what cannot is told.
fn reload(shared: &Shared, settings: AgentSettings, kept_outside: Vec<String>) {
    notify::reloading();
    let old = shared.settings();
    let outcome = try_reload(shared, &old, settings);
    match outcome.map(|kept| [kept, kept_outside].concat()) {
        Ok(kept) if kept.is_empty() => {
            shared.mended(&Trouble::Reload);
            tracing::info!("the settings were read anew");
        }
        Ok(kept) => shared.trouble(
            Trouble::Reload,
            format!(
                "these settings change at the next start only: {}",
                kept.join(", ")
            ),
        ),
        Err(error) => shared.trouble(
            Trouble::Reload,
            format!("the settings were not read anew: {}", chain(&error)),
        ),
    }
    notify::ready();
}

fn try_reload(
    shared: &Shared,
    old: &AgentSettings,
    settings: AgentSettings,
) -> Result<Vec<String>, AgentError> {
    // Everything is checked before anything is changed.
    let fresh = feeds(&settings)?;
    // Bounds on requests and memory are those of one depot; two of them at one time would have twice as much.
    let same_depot = settings.depot.ca_bundle.is_none()
        && (&settings.depot, &settings.depot_tuning) == (&old.depot, &old.depot_tuning);
    let depot = if same_depot {
        shared.depot()
    } else {
        S3Depot::tuned(settings.depot.clone(), settings.depot_tuning.clone())?
    };
    let names = |feeds: &[Arc<FeedState>]| -> BTreeSet<_> {
        feeds.iter().map(|feed| feed.name.clone()).collect()
    };
    let (now, then) = (names(&shared.feeds), names(&fresh));
    let mut kept: Vec<_> = now
        .symmetric_difference(&then)
        .map(|name| format!("feed.{name}"))
        .collect();
    for (same, key) in [
        (settings.state == old.state, "agent.state"),
        (settings.control == old.control, "agent.control"),
        (settings.listen == old.listen, "agent.listen"),
    ] {
        if !same {
            kept.push(key.to_owned());
        }
    }
    for (feed, of_feed) in fresh.iter().zip(&settings.feeds) {
        if let Some(known) = shared.feed(feed.name.as_str()) {
            known.change(of_feed, feed.feed());
        }
    }
    let settings = AgentSettings {
        state: old.state.clone(),
        control: old.control.clone(),
        listen: old.listen.clone(),
        ..settings
    };
    shared.replace(settings, depot);
    Ok(kept)
}

/// Keeps the line that systemctl shows up to date.
async fn tell_status(shared: Arc<Shared>) {
    let mut phase = shared.phase.subscribe();
    let mut host = shared.host.subscribe();
    let mut troubles = shared.troubles.subscribe();
    let mut slots = shared.slots.changes();
    loop {
        let text = {
            let troubles = troubles.borrow_and_update();
            let first = troubles.iter().next();
            let phase = phase.borrow_and_update().word();
            let host = *host.borrow_and_update();
            let running = slots.borrow_and_update().used();
            match first {
                Some((about, text)) => format!("{phase}, {running} jobs; {about}: {text}"),
                None if host => format!("{phase}, {running} jobs"),
                None => format!("{phase}, {running} jobs; looking at the host"),
            }
        };
        notify::status(&text);
        tokio::select! {
            _ = phase.changed() => {}
            _ = host.changed() => {}
            _ = troubles.changed() => {}
            _ = slots.changed() => {}
        }
    }
}

/// Says that the agent is alive for as long as its store is: one that cannot record anything should be started anew.
async fn watchdog(shared: Arc<Shared>, every: Duration) {
    loop {
        if shared.store.look(|_| Ok(())).await.is_ok() {
            notify::alive();
        }
        tokio::time::sleep(every).await;
    }
}

/// Forgets what nobody needs to know any more.
pub(crate) async fn tidy(shared: Arc<Shared>) {
    loop {
        intake::forget_lost(&shared);
        let history = i64::try_from(shared.settings().history.as_millis()).unwrap_or(i64::MAX);
        let before = now_ms().saturating_sub(history);
        if let Err(error) = shared.store.forget(before, MOST_REMEMBERED).await {
            tracing::debug!(%error, "could not forget old jobs");
        }
        tokio::time::sleep(TIDYING).await;
    }
}

#[cfg(test)]
mod tests;
