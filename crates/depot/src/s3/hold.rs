//! A version's record as one publication holds it, so that no two of the same version mix.
//!
//! ```text
//! look ──> take ──> "I go on", again and again ──> complete
//!   │        │                  └─ it failed ──> let go
//!   └────────┴── another one goes on: given up, nothing changed
//! ```
//!
//! A store has no locks. What it has is one object for each version, the record, and this is done with it:
//!
//! - a record that says "publishing" is left alone for as long as its publication may go on: it is watched for a lease, by
//!   the watcher's own clock, and one that changes meanwhile is not touched;
//! - whoever cannot say that it goes on changes nothing any more (`fence`), long before another one takes the version;
//! - each write of it is conditional on what was read before (`If-Match`, `If-None-Match`), so that of two that begin at the
//!   same moment one is refused;
//! - a store that ignores conditions does not say so. Therefore the record is also read before each write and after the
//!   first. What is left there is a gap of one request's length; whoever was in it and lost finds out at its next word, and
//!   whoever has won finds what the other one has put at its last look, and makes it as it should be.
//!
//! Who has lost says so, and reports nothing as published. Where its objects may have come after the other one's last look,
//! it has the record say that the next publication must repair the version.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::api::{Condition, PutOutcome, Read};
use super::client::Client;
use super::fence::{Fence, Moment};
use super::headers::Headers;
use super::prefix::Prefix;
use super::record::{Found, Record, State};
use crate::DepotError;

/// The record is for us alone, and must not be what a cache remembers.
const RECORD_TYPE: &str = "application/json";

/// How often a publication says within a lease that it goes on.
const BEATS: u32 = 8;

/// How long a publication that has failed may take to say so.
const LETTING_GO: Duration = Duration::from_secs(10);

/// When the last word was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// While nobody else could have taken the version.
    InTime,
    /// It was so long on its way that somebody could have, and a store without conditions has let it pass.
    Late,
}

/// The record of one version, for one publication.
pub(crate) struct Hold {
    /// Its requests take a part of a lease at most.
    client: Client,
    fence: Arc<Fence>,
    key: String,
    /// For messages.
    version: String,
    lease: Duration,
    /// What was there when it was looked at.
    before: Option<Read>,
    /// Our own record, once it is there. Held over requests: no two of ours cross.
    ours: Mutex<Option<Record>>,
}

impl Hold {
    /// Looks at the record. One whose publication may go on is waited for, until its lease has ended.
    ///
    /// # Errors
    ///
    /// [`DepotError::Overtaken`] when it does go on.
    pub(crate) async fn look(
        client: &Arc<Client>,
        prefix: &Prefix,
        lease: Duration,
    ) -> Result<(Self, Found), DepotError> {
        let mut hold = Self {
            client: client.sooner(lease / 4),
            fence: Arc::new(Fence::new(lease / 2)),
            key: prefix.record(),
            version: prefix.to_string(),
            lease,
            before: None,
            ours: Mutex::new(None),
        };
        hold.before = hold.read().await?;
        // From when it was read: getting there may have taken long, and says nothing of it.
        let since = Instant::now();
        let mut found = found(hold.before.as_ref());
        while found.is_live() && since.elapsed() < lease {
            sleep(lease / BEATS).await;
            let read = hold.read().await?;
            let next = self::found(read.as_ref());
            if next == found {
                continue;
            }
            if next.is_live() {
                return Err(hold.overtaken());
            }
            (hold.before, found) = (read, next);
        }
        Ok((hold, found))
    }

    /// Writes our record in place of what was there. Done once; again it does nothing.
    pub(crate) async fn take(&self, record: &Record) -> Result<(), DepotError> {
        let mut ours = self.ours.lock().await;
        if ours.is_some() {
            return Ok(());
        }
        let there = self.read().await?;
        // It is ours already if an earlier try had an answer that was lost.
        if !found(there.as_ref()).is_of(&record.attempt)
            && bytes(there.as_ref()) != bytes(self.before.as_ref())
        {
            return Err(self.overtaken());
        }
        let sent = Moment::now();
        self.write(record, there.as_ref()).await?;
        self.there(record).await?;
        self.fence.said(sent);
        *ours = Some(record.clone());
        Ok(())
    }

    /// Open while nobody else can have taken the version.
    pub(crate) fn fence(&self) -> Arc<Fence> {
        Arc::clone(&self.fence)
    }

    /// Says that the publication goes on, until somebody else has the record, or nothing was said for a lease. What a store
    /// does not take is said again.
    pub(crate) async fn keep(&self) -> DepotError {
        loop {
            sleep(self.lease / BEATS).await;
            match self.say_again().await {
                Err(lost @ DepotError::Overtaken(_)) => return lost,
                Err(error) if self.fence.silent_for() >= self.lease => return error,
                Ok(()) | Err(_) => {}
            }
        }
    }

    async fn say_again(&self) -> Result<(), DepotError> {
        let mut ours = self.ours.lock().await;
        let Some(record) = &*ours else {
            return Ok(());
        };
        // A try that comes late must not be made again blindly: it could come after another one's record.
        let client = self.client.once_each();
        let there = self.there_by(&client, record).await?;
        let record = record.clone().again();
        let sent = Moment::now();
        self.write_by(&client, &record, Some(&there)).await?;
        self.fence.said(sent);
        *ours = Some(record);
        Ok(())
    }

    /// Whether nobody else has the record.
    pub(crate) async fn still_ours(&self) -> Result<(), DepotError> {
        match &*self.ours.lock().await {
            Some(record) => self.there(record).await.map(drop),
            None => self.untouched().await,
        }
    }

    /// Says that everything is there. If nothing was changed, nothing is written either.
    pub(crate) async fn complete(&self, headers: &str) -> Result<Said, DepotError> {
        let mut ours = self.ours.lock().await;
        let since = Moment::now();
        let Some(record) = &*ours else {
            self.untouched().await?;
            return Ok(Said::InTime);
        };
        let there = self.there(record).await?;
        let record = record.clone().completed(headers);
        self.write(&record, Some(&there)).await?;
        self.fence.said(since);
        *ours = Some(record);
        Ok(if self.fence.is_open() {
            Said::InTime
        } else {
            Said::Late
        })
    }

    /// It was said that everything is there, and is not so: the next publication must repair it.
    pub(crate) async fn take_back(&self) -> Result<(), DepotError> {
        let mut ours = self.ours.lock().await;
        if let Some(record) = &*ours {
            let there = self.there(record).await?;
            let record = record.clone().mixed();
            self.write(&record, Some(&there)).await?;
            *ours = Some(record);
        }
        Err(self.overtaken())
    }

    /// The publication has failed: as far as that can be said soon, the record says so too. `disturbed` is whether somebody
    /// else has been at the objects.
    pub(crate) async fn let_go(&self, disturbed: bool) {
        let say = async {
            let ours = self.ours.lock().await;
            let record = ours.as_ref()?;
            let there = self.read().await.ok()?;
            let next = match found(there.as_ref()) {
                Found::Record(found) => match (found.attempt == record.attempt, found.state) {
                    (true, State::Publishing) if !disturbed => Some(found.failed()),
                    (true, State::Publishing) => Some(found.mixed()),
                    // What we have put may have come after its last look.
                    (false, State::Complete) => Some(record.clone().mixed()),
                    // The last write was done, and only its answer was lost; or another one goes on, and looks later.
                    (true, State::Complete) | (false, State::Publishing) => None,
                },
                Found::Nothing | Found::Unreadable => None,
            };
            self.write(&next?, there.as_ref()).await.ok()
        };
        let _ = timeout(LETTING_GO, say).await;
    }

    /// Our record is there, perhaps an earlier one of ours.
    async fn there(&self, record: &Record) -> Result<Read, DepotError> {
        self.there_by(&self.client, record).await
    }

    async fn there_by(&self, client: &Client, record: &Record) -> Result<Read, DepotError> {
        match client.get(&self.key).await? {
            // Once somebody could have taken it, another word than our last one may be a late one of ours over theirs.
            Some(read)
                if *read.bytes == *record.to_json()
                    || self.fence.is_open() && found(Some(&read)).is_of(&record.attempt) =>
            {
                Ok(read)
            }
            _ => Err(self.overtaken()),
        }
    }

    async fn untouched(&self) -> Result<(), DepotError> {
        let there = self.read().await?;
        if bytes(there.as_ref()) == bytes(self.before.as_ref()) {
            Ok(())
        } else {
            Err(self.overtaken())
        }
    }

    async fn read(&self) -> Result<Option<Read>, DepotError> {
        self.client.get(&self.key).await
    }

    /// Writes it in place of this one.
    async fn write(&self, record: &Record, over: Option<&Read>) -> Result<(), DepotError> {
        self.write_by(&self.client, record, over).await
    }

    async fn write_by(
        &self,
        client: &Client,
        record: &Record,
        over: Option<&Read>,
    ) -> Result<(), DepotError> {
        let content = Bytes::from(record.to_json());
        let condition = match over {
            None => Condition::Absent,
            Some(Read { etag, .. }) => etag.as_deref().map_or(Condition::Any, Condition::Tag),
        };
        let headers = headers();
        let put = client
            .put_if(&self.key, &headers, &content, condition)
            .await?;
        if put == PutOutcome::Unmet {
            // Unless it is what we have put ourselves, with an answer that was lost.
            let there = client.get(&self.key).await?;
            if bytes(there.as_ref()) != Some(&content) {
                return Err(self.overtaken());
            }
        }
        Ok(())
    }

    fn overtaken(&self) -> DepotError {
        DepotError::Overtaken(self.version.clone())
    }
}

fn found(read: Option<&Read>) -> Found {
    Found::of(read.map(|read| &*read.bytes))
}

fn bytes(read: Option<&Read>) -> Option<&Bytes> {
    read.map(|read| &read.bytes)
}

fn headers() -> Headers {
    Headers {
        content_type: RECORD_TYPE.to_owned(),
        cache_control: Some("no-store".to_owned()),
    }
}
