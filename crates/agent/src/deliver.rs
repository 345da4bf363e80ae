//! Telling a feed what is in the outbox, until it knows.
//!
//! A row goes only when the feed has the result, had it before, or does not know the job any more. Nothing else removes
//! one: a token that is refused, a server that is away for a week, an answer that makes no sense are reasons to wait.
//!
//! When to try again is kept in memory, by a clock that does not jump. After a restart everything is tried at once.
//!
//! A store that cannot be written to keeps nobody from being told: what it should know is kept in memory until it can be
//! written down. What is lost of that with the process is told once more, and the feed answers that it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::backoff::{Backoff, after};
use crate::error::chain;
use crate::feed::Answer;
use crate::shared::{FeedState, Shared, Trouble};
use crate::store::{Parcel, StoreError};

/// How many results are on their way to one feed at one time.
const ABREAST: usize = 4;

/// Waits for a feed that is away.
const AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Waits for one result that the feed cannot take.
const STUBBORN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// What became of one parcel.
#[derive(Debug)]
enum Outcome {
    /// It need not be told any more.
    Done,
    /// It has become smaller, and is tried at once.
    Smaller,
    /// The feed cannot be told anything.
    Away(String),
    /// This one cannot be told, after so many tries.
    Stubborn(u32, String),
    /// The store failed.
    Store(StoreError),
}

/// What is known of a row and could not be written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unwritten {
    /// How often it was tried beyond what its row says.
    tries: u32,
    /// Its feed knows the result, and the row should be gone.
    told: bool,
}

/// How an outbox comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Never.
    Cancelled,
    /// When nothing is left, or nothing can be told.
    Flushed,
}

struct Outbox {
    shared: Arc<Shared>,
    feed: Arc<FeedState>,
    /// When which row is tried.
    due: BTreeSet<(Instant, i64)>,
    /// The newest row that is known.
    newest: i64,
    sending: JoinSet<(i64, Unwritten, Outcome)>,
    unwritten: BTreeMap<i64, Unwritten>,
    backoff: Backoff,
    /// Nothing is sent before this.
    closed_until: Option<Instant>,
    failures: BTreeSet<i64>,
    /// When the store is looked into again, which could not be.
    look_at: Option<Instant>,
}

/// Tells what there is to tell. What is on its way when the end comes is not given up: it would be told twice.
pub(crate) async fn run(
    shared: Arc<Shared>,
    feed: Arc<FeedState>,
    mut until: watch::Receiver<Until>,
) {
    let mut outbox = Outbox::new(shared, feed);
    outbox.look().await;
    let mut flushing = false;
    loop {
        if !flushing && *until.borrow_and_update() == Until::Flushed {
            flushing = true;
            outbox.hurry().await;
        }
        let next = outbox.send_what_is_due();
        let away = outbox.closed_until.is_some();
        let idle = outbox.sending.is_empty();
        if flushing && idle && (outbox.due.is_empty() || away) {
            return;
        }
        tokio::select! {
            Some(done) = outbox.sending.join_next() => {
                match done {
                    Ok((seq, unwritten, outcome)) => outbox.settle(seq, unwritten, outcome),
                    // Nobody knows which it was: the store does.
                    Err(_) => outbox.begin_anew(),
                }
            }
            Ok(()) = until.changed(), if !flushing => {}
            () = outbox.feed.outbox_bell.notified() => outbox.look().await,
            () = sleep_until(next) => outbox.closed_until = None,
            () = sleep_until(outbox.look_at) => outbox.look().await,
        }
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl Outbox {
    fn new(shared: Arc<Shared>, feed: Arc<FeedState>) -> Self {
        Self {
            shared,
            feed,
            due: BTreeSet::new(),
            newest: 0,
            sending: JoinSet::new(),
            unwritten: BTreeMap::new(),
            backoff: Backoff::new(AWAY.0, AWAY.1),
            closed_until: None,
            failures: BTreeSet::new(),
            look_at: None,
        }
    }

    /// Takes all rows for new ones, after a while: a mistake that one of them brings about is made again.
    fn begin_anew(&mut self) {
        self.newest = 0;
        self.due.clear();
        self.look_at = Some(Instant::now() + STUBBORN.0);
    }

    /// Everything is tried once more, at once.
    async fn hurry(&mut self) {
        let now = Instant::now();
        self.due = self.due.iter().map(|(_, seq)| (now, *seq)).collect();
        self.look().await;
    }

    /// Looks for rows that are new.
    async fn look(&mut self) {
        self.look_at = None;
        match self
            .shared
            .store
            .waiting(&self.feed.name, self.newest)
            .await
        {
            Ok(rows) => {
                let now = Instant::now();
                self.newest = rows.last().copied().unwrap_or(self.newest);
                self.due.extend(rows.into_iter().map(|seq| (now, seq)));
            }
            Err(StoreError::Gone) => {}
            Err(error) => {
                self.shared.trouble(Trouble::Store, chain(&error));
                self.look_at = Some(Instant::now() + STUBBORN.0);
            }
        }
        // Somebody has reason to think that the feed can be told something.
        self.closed_until = None;
    }

    /// Sends what may be sent, and says when there will be more.
    fn send_what_is_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if let Some(closed) = self.closed_until
            && closed > now
        {
            return Some(closed);
        }
        // A feed that was away is asked with one before it gets all.
        let abreast = if self.backoff.is_fresh() { ABREAST } else { 1 };
        while self.sending.len() < abreast {
            match self.due.first().copied() {
                Some((at, _)) if at <= now => {
                    if let Some((_, seq)) = self.due.pop_first() {
                        let (shared, feed) = (Arc::clone(&self.shared), Arc::clone(&self.feed));
                        let mut unwritten = self.unwritten.get(&seq).copied().unwrap_or_default();
                        self.sending.spawn(async move {
                            let outcome = send(&shared, &feed, seq, &mut unwritten).await;
                            (seq, unwritten, outcome)
                        });
                    }
                }
                Some((at, _)) => return Some(at),
                None => return None,
            }
        }
        None
    }

    fn settle(&mut self, seq: i64, unwritten: Unwritten, outcome: Outcome) {
        let now = Instant::now();
        let trouble = Trouble::Outbox(self.feed.name.clone());
        let is_done = matches!(outcome, Outcome::Done);
        if is_done || unwritten == Unwritten::default() {
            self.unwritten.remove(&seq);
        } else {
            self.unwritten.insert(seq, unwritten);
        }
        if is_done || unwritten.told {
            self.backoff.reset();
            self.failures.remove(&seq);
            if self.failures.is_empty() {
                self.shared.mended(&trouble);
            }
        }
        match outcome {
            Outcome::Done => {}
            Outcome::Smaller => {
                self.due.insert((now, seq));
            }
            Outcome::Away(why) => {
                self.failures.insert(seq);
                self.closed_until = Some(now + self.backoff.next());
                self.due.insert((now, seq));
                self.shared.trouble(trouble, why);
            }
            Outcome::Stubborn(tries, why) => {
                self.backoff.reset();
                self.failures.insert(seq);
                self.due
                    .insert((now + after(tries, STUBBORN.0, STUBBORN.1), seq));
                self.shared.trouble(trouble, why);
            }
            Outcome::Store(StoreError::Gone) => {}
            Outcome::Store(error) => {
                self.due.insert((now + STUBBORN.0, seq));
                self.shared.trouble(Trouble::Store, chain(&error));
            }
        }
    }
}

async fn send(shared: &Shared, feed: &FeedState, seq: i64, unwritten: &mut Unwritten) -> Outcome {
    if !unwritten.told {
        let before = unwritten.tries;
        let parcel = match shared.store.send_off(seq).await {
            Err(error) if !matches!(error, StoreError::Gone) => {
                shared.trouble(Trouble::Store, chain(&error));
                unwritten.tries = unwritten.tries.saturating_add(1);
                shared.store.parcel(seq).await
            }
            other => other,
        };
        let parcel = match parcel {
            Ok(Some(parcel)) => Parcel {
                tries: parcel.tries.saturating_add(before),
                ..parcel
            },
            // A newer job with its id has taken its place.
            Ok(None) => return Outcome::Done,
            Err(error) => return Outcome::Store(error),
        };
        if let Some(outcome) = tell(shared, feed, &parcel).await {
            return outcome;
        }
        unwritten.told = true;
    }
    match shared.store.delivered(seq).await {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Store(error),
    }
}

/// `None` when the feed knows it.
async fn tell(shared: &Shared, feed: &FeedState, parcel: &Parcel) -> Option<Outcome> {
    let (job, build, tries) = (parcel.job, &*parcel.feed_job, parcel.tries);
    let done = match feed.feed().report(build, parcel.body.clone()).await {
        Answer::Known => "told",
        Answer::KnownBefore if tries > 0 => "told by an earlier try",
        Answer::KnownBefore => {
            tracing::warn!(%job, feed = %feed.name, build, "the feed knows another end of it already");
            "ended by somebody else"
        }
        Answer::Forgotten => "not known to the feed any more",
        Answer::Refused => {
            return Some(Outcome::Away(
                "the server refuses the token; results are kept until it takes one".to_owned(),
            ));
        }
        Answer::TooLarge => return Some(shrink(shared, feed, parcel).await),
        Answer::Away(why) => return Some(Outcome::Away(why)),
        // What the server does not understand may be the log; the verdict alone is worth telling.
        Answer::NotUnderstood(why) if tries >= 3 => {
            return Some(match shrink(shared, feed, parcel).await {
                Outcome::Stubborn(tries, _) => Outcome::Stubborn(tries, why),
                other => other,
            });
        }
        Answer::NotUnderstood(why) | Answer::Failed(why) => {
            return Some(Outcome::Stubborn(tries, why));
        }
    };
    tracing::info!(%job, feed = %feed.name, build, "{done}");
    shared.metrics.delivered(&feed.name);
    None
}

async fn shrink(shared: &Shared, feed: &FeedState, parcel: &Parcel) -> Outcome {
    match feed.feed().smaller(&parcel.body) {
        Some(less) => match shared.store.replace_body(parcel.seq, less).await {
            Ok(()) => Outcome::Smaller,
            Err(error) => Outcome::Store(error),
        },
        None => Outcome::Stubborn(
            parcel.tries,
            "the server says that the result is too large, even without a log".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests;
