//! Telling a feed what is in the outbox, until it knows.
//!
//! A row goes only when the feed has the result, had it before, or does not know the job any more. Nothing else removes
//! one: a token that is refused, a server that is away for a week, an answer that makes no sense are reasons to wait.
//!
//! When to try again is kept in memory, by a clock that does not jump. After a restart everything is tried at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::backoff::{Backoff, after};
use crate::error::chain;
use crate::feed::Answer;
use crate::shared::{FeedState, Shared, Trouble};
use crate::store::StoreError;

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
    sending: JoinSet<(i64, Outcome)>,
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
                    Ok((seq, outcome)) => outbox.settle(seq, outcome),
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
            backoff: Backoff::new(AWAY.0, AWAY.1),
            closed_until: None,
            failures: BTreeSet::new(),
            look_at: None,
        }
    }

    /// Takes all rows for new ones.
    fn begin_anew(&mut self) {
        self.newest = 0;
        self.due.clear();
        self.look_at = Some(Instant::now());
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
                        self.sending
                            .spawn(async move { (seq, send(&shared, &feed, seq).await) });
                    }
                }
                Some((at, _)) => return Some(at),
                None => return None,
            }
        }
        None
    }

    fn settle(&mut self, seq: i64, outcome: Outcome) {
        let now = Instant::now();
        let trouble = Trouble::Outbox(self.feed.name.clone());
        match outcome {
            Outcome::Done => {
                self.backoff.reset();
                self.failures.remove(&seq);
                if self.failures.is_empty() {
                    self.shared.mended(&trouble);
                }
            }
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

async fn send(shared: &Shared, feed: &FeedState, seq: i64) -> Outcome {
    let parcel = match shared.store.send_off(seq).await {
        Ok(Some(parcel)) => parcel,
        // A newer job with its id has taken its place.
        Ok(None) => return Outcome::Done,
        Err(error) => return Outcome::Store(error),
    };
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
            return Outcome::Away(
                "the server refuses the token; results are kept until it takes one".to_owned(),
            );
        }
        Answer::TooLarge => return shrink(shared, feed, seq, &parcel.body, tries).await,
        Answer::Away(why) => return Outcome::Away(why),
        Answer::Failed(why) if tries >= 3 && why.starts_with('4') => {
            // What the server does not understand may be the log; the verdict alone is worth telling.
            return match shrink(shared, feed, seq, &parcel.body, tries).await {
                Outcome::Stubborn(tries, _) => Outcome::Stubborn(tries, why),
                other => other,
            };
        }
        Answer::Failed(why) => return Outcome::Stubborn(tries, why),
    };
    tracing::info!(%job, feed = %feed.name, build, "{done}");
    shared.metrics.delivered(&feed.name);
    match shared.store.delivered(seq).await {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Store(error),
    }
}

async fn shrink(shared: &Shared, feed: &FeedState, seq: i64, body: &str, tries: u32) -> Outcome {
    match feed.feed().smaller(body) {
        Some(less) => match shared.store.replace_body(seq, less).await {
            Ok(()) => Outcome::Smaller,
            Err(error) => Outcome::Store(error),
        },
        None => Outcome::Stubborn(
            tries,
            "the server says that the result is too large, even without a log".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::server::{self, Server};
    use crate::tests::{Bed, anywhere};

    /// Has the table of results be there or not: a store that cannot be read.
    async fn set_readable(bed: &Bed, readable: bool) {
        let (from, to) = if readable {
            ("gone", "outbox")
        } else {
            ("outbox", "gone")
        };
        let rename = format!("ALTER TABLE {from} RENAME TO {to}");
        let rename = move |db: &rusqlite::Connection| db.execute_batch(&rename);
        bed.shared.store.look(rename).await.unwrap();
    }

    #[tokio::test]
    async fn a_store_that_could_not_be_read_is_read_again() {
        let server = Server::start(anywhere(), Box::new(server::known)).await;
        let bed = Bed::new(server.address);
        bed.ended(3).await;
        set_readable(&bed, false).await;
        let feed = Arc::clone(bed.feed());
        let task = tokio::spawn(run(
            Arc::clone(&bed.shared),
            feed,
            watch::channel(Until::Cancelled).1,
        ));
        let mut troubles = bed.shared.troubles.subscribe();
        let told = troubles.wait_for(|all| all.contains_key(&Trouble::Store));
        drop(told.await.unwrap());
        assert!(server.asked().is_empty());
        set_readable(&bed, true).await;
        // Nobody rings.
        let all = tokio::time::timeout(STUBBORN.0 * 5, async {
            while bed.depth().await > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        all.await.unwrap();
        task.abort();
        assert_eq!(server.asked().len(), 3);
    }

    /// A task that is lost has taken its row out of what is due.
    #[tokio::test]
    async fn after_a_task_that_was_lost_every_row_is_looked_for_again() {
        let server = Server::start(anywhere(), Box::new(server::known)).await;
        let bed = Bed::new(server.address);
        bed.ended(3).await;
        let mut outbox = Outbox::new(Arc::clone(&bed.shared), Arc::clone(bed.feed()));
        outbox.look().await;
        assert_eq!(outbox.due.len(), 3);
        outbox.due.pop_first();
        outbox.look().await;
        assert_eq!(outbox.due.len(), 2, "it is not new");
        outbox.begin_anew();
        assert!(outbox.look_at.is_some_and(|at| at <= Instant::now()));
        outbox.look().await;
        assert_eq!(outbox.due.len(), 3);
    }

    /// A server that answers late has the result all the same.
    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn what_is_on_its_way_at_the_end_is_told_once() {
        let (asked, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
        let (answer, may_answer) = std::sync::mpsc::channel::<()>();
        let may_answer = std::sync::Mutex::new(may_answer);
        let late = move |request: &server::Asked| {
            let _ = asked.send(());
            let _ = may_answer.lock().unwrap().recv();
            server::known(request)
        };
        let server = Server::start(anywhere(), Box::new(late)).await;
        let bed = Bed::new(server.address);
        bed.ended(1).await;
        let (until, end) = watch::channel(Until::Cancelled);
        let feed = Arc::clone(bed.feed());
        let task = tokio::spawn(run(Arc::clone(&bed.shared), feed, end));
        was_asked.recv().await.unwrap();
        until.send(Until::Flushed).unwrap();
        drop(answer);
        tokio::time::timeout(STUBBORN.0 * 5, task)
            .await
            .unwrap()
            .unwrap();
        assert_eq!((server.asked().len(), bed.depth().await), (1, 0));
    }
}
