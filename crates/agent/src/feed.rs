//! Where jobs come from, as the rest of the agent sees it: one enum, and words that every feed has.
//!
//! A feed gives jobs away, is told how they ended, and knows how to say both. What it says is kept as text in the store,
//! so that nothing but the feed itself has to understand it, also after a restart.

use std::time::Duration;

use bryo_model::{Report, Stage, Verdict};

use crate::doc_thor::{self, BuildId, BuildResult, Claim, ResultText, Wishes};
use crate::policy::{Accepted, Granting, Refusal};
use crate::settings::FeedSettings;

/// A job that was given away to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Its id as the feed says it.
    pub(crate) feed_job: String,
    /// What the feed said of it, as JSON.
    pub(crate) claim: String,
}

/// Why there is no job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoJob {
    /// None waits.
    Nothing,
    /// The feed does not know us. It gave nothing away.
    Refused,
    /// The request did not reach the feed, or it says that it failed. It gave nothing away.
    Away(String),
    /// The feed may have given a job away, and perhaps we know which.
    Lost {
        /// Its id as the feed says it.
        feed_job: Option<String>,
        /// What became of the answer.
        why: String,
    },
}

/// What telling a result came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The feed has it.
    Known,
    /// The feed knows an end of the job already: ours of an earlier try, or somebody else's.
    KnownBefore,
    /// The feed does not know the job any more.
    Forgotten,
    /// The feed does not know us.
    Refused,
    /// It is more than the feed takes.
    TooLarge,
    /// The feed cannot do it at the moment, for any job.
    Away(String),
    /// The feed cannot do it for this job.
    Failed(String),
    /// The feed says of itself that it does not understand what it is told of this job; that may be for the log in it.
    NotUnderstood(String),
}

/// How a job ended, for its feed.
#[derive(Debug)]
pub(crate) enum Ended<'a> {
    /// An attempt was made.
    Attempt {
        /// How it ended.
        verdict: &'a Verdict,
        /// Its report.
        report: &'a Report,
        /// What the job wrote, bounded.
        log: String,
        /// The bound on the run stage.
        run_timeout: Duration,
    },
    /// No attempt was made, or none came to an end.
    Without {
        /// How far it came.
        stage: Stage,
        /// Why.
        why: &'a str,
    },
}

/// A feed.
#[derive(Clone, Debug)]
pub(crate) enum Feed {
    /// A doc-thor server.
    DocThor(doc_thor::Client),
}

impl Feed {
    pub(crate) fn of(settings: &FeedSettings) -> Result<Self, doc_thor::ClientError> {
        match settings {
            FeedSettings::DocThor(settings) => doc_thor::Client::new(settings).map(Self::DocThor),
        }
    }

    /// Takes a job. Never repeated by any layer: each call may give one away.
    pub(crate) async fn claim(&self) -> Result<Offer, NoJob> {
        match self {
            Self::DocThor(client) => client.claim().await.map(|claim| Offer {
                feed_job: claim.id.to_string(),
                claim: claim.to_json(),
            }),
        }
    }

    /// Tells a result.
    pub(crate) async fn report(&self, feed_job: &str, body: String) -> Answer {
        match self {
            Self::DocThor(client) => match feed_job.parse::<BuildId>() {
                Ok(id) => client.report(id, body).await,
                Err(()) => Answer::Failed(format!("{feed_job:?} is not the id of a build")),
            },
        }
    }

    /// What is to be done, within what the host's owner grants.
    pub(crate) fn job(&self, granting: &Granting<'_>, offer: &Offer) -> Result<Accepted, Refusal> {
        match self {
            Self::DocThor(_) => match Claim::from_record(&offer.feed_job, &offer.claim) {
                Some(claim) => granting.of_doc_thor(&claim.wishes),
                None => Err(Refusal {
                    stage: Stage::Fetch,
                    why: "the agent's record of the build cannot be read".to_owned(),
                }),
            },
        }
    }

    /// How the feed calls the job, for people.
    pub(crate) fn title(&self, offer: &Offer) -> String {
        match self {
            Self::DocThor(_) => {
                let wishes: Wishes = serde_json::from_str(&offer.claim).unwrap_or_default();
                wishes.title()
            }
        }
    }

    /// What the feed is told of a job that has ended.
    pub(crate) fn body(&self, feed_job: &str, ended: Ended<'_>) -> String {
        match self {
            Self::DocThor(_) => {
                // An id that is no id was refused when the job was taken.
                let id = feed_job.parse().unwrap_or_default();
                of_doc_thor(id, ended).to_body()
            }
        }
    }

    /// The same with less of the log, for a feed that did not take it; `None` when there is nothing more to leave out.
    pub(crate) fn smaller(&self, body: &str) -> Option<String> {
        match self {
            Self::DocThor(_) => BuildResult::with_less_log(body),
        }
    }
}

fn of_doc_thor(id: BuildId, ended: Ended<'_>) -> BuildResult {
    match ended {
        Ended::Attempt {
            verdict,
            report,
            log,
            run_timeout,
        } => {
            let stage = report.stages.last().map_or(Stage::Fetch, |s| s.stage);
            let error = ResultText::of(verdict, stage, run_timeout);
            let took = Duration::from_secs_f64((report.total_ms / 1000.0).max(0.0));
            BuildResult::new(id, matches!(verdict, Verdict::Succeeded), error)
                .took(took)
                .with_logs(log)
        }
        Ended::Without { stage, why } => {
            BuildResult::new(id, false, Some(ResultText::refused(stage, why)))
        }
    }
}
