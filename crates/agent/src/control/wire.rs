//! The words of the control socket. Members are added, never renamed.

use serde::{Deserialize, Serialize};

/// What an agent can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase")]
pub enum Request {
    /// Take no more jobs until [`Request::Resume`].
    Pause,
    /// Take jobs again.
    Resume,
    /// Take no more jobs, let those that run come to their end, and end.
    Drain,
    /// What is going on.
    Status,
    /// The newest jobs.
    Jobs {
        /// How many at most.
        most: u32,
    },
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "lowercase")]
pub enum Response {
    /// It is done.
    Done,
    /// For [`Request::Status`].
    Status(Box<Status>),
    /// For [`Request::Jobs`], newest first.
    Jobs {
        /// One for each job.
        jobs: Vec<JobLine>,
    },
    /// It cannot be done.
    Refused {
        /// Why.
        why: String,
    },
}

/// What is going on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the program that runs.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// `open`, `paused`, `draining` or `stopping`.
    pub state: String,
    /// Whether the host was found fit for jobs.
    pub host_ready: bool,
    /// Slots in use.
    pub slots_used: usize,
    /// Slots there are.
    pub slots: usize,
    /// Results that a feed does not know yet; left out where that cannot be looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbox: Option<u64>,
    /// Where jobs come from.
    pub feeds: Vec<FeedStatus>,
    /// Jobs that have been taken and have not ended.
    pub running: Vec<RunningJob>,
    /// What an operator should look at, by what it is about.
    pub alarms: Vec<Alarm>,
}

/// A feed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeedStatus {
    /// Its name.
    pub name: String,
    /// What came of the last request for a job.
    pub last: Option<String>,
    /// Seconds since then.
    pub last_seconds_ago: Option<f64>,
    /// Slots in use.
    pub slots_used: usize,
    /// Slots there are.
    pub slots: usize,
}

/// A job that has been taken and has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningJob {
    /// Our id.
    pub job: String,
    /// Its feed.
    pub feed: String,
    /// Its id there.
    pub feed_job: String,
    /// What it is called there.
    pub title: String,
    /// The stage that goes on; none while it waits for its turn.
    pub stage: Option<String>,
    /// Since it was taken.
    pub seconds: f64,
}

/// Something that an operator should look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// What it is about.
    pub about: String,
    /// What is wrong, and what to do.
    pub text: String,
}

/// A job of the past or the present.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobLine {
    /// Our id.
    pub job: String,
    /// Its feed.
    pub feed: String,
    /// Its id there.
    pub feed_job: String,
    /// `taken`, `begun`, `ended` (and not told yet) or `told`.
    pub state: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When it was taken, in milliseconds since 1970.
    pub taken_ms: i64,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: Option<i64>,
    /// The word of its verdict.
    pub verdict: Option<String>,
    /// Why.
    pub reason: Option<String>,
}
