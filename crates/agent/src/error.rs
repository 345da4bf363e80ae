//! Why an agent cannot begin.

use std::io;
use std::path::PathBuf;

use bryo_depot::DepotError;

use crate::FeedName;
use crate::doc_thor::ClientError;
use crate::store::StoreError;

/// The agent could not begin, or could not go on. Jobs that it took are recorded, and seen to at the next start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The state directory cannot be used.
    #[error("could not use the state directory {path}")]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent uses it.
    #[error(
        "another agent uses the state directory {0}; stop it, or give this one another (agent.state)"
    )]
    Taken(PathBuf),
    /// The database cannot be used.
    #[error("could not use the agent's database")]
    Store(#[from] StoreError),
    /// A feed cannot be used as it is configured.
    #[error("the feed {name} cannot be used")]
    Feed {
        /// Its name.
        name: FeedName,
        /// Why.
        source: ClientError,
    },
    /// Two feeds have one name.
    #[error("two feeds are called {0}; their jobs could not be told apart")]
    TwoFeeds(FeedName),
    /// There is none.
    #[error("no feed is configured, so there is nowhere to take jobs from")]
    NoFeed,
    /// The bucket cannot be used as it is configured.
    #[error("the place for output cannot be used")]
    Depot(#[from] DepotError),
    /// A part of it has ended that it cannot do without.
    #[error("{0}, which the agent cannot do without; start it anew")]
    Broke(String),
    /// The host cannot run jobs, so that one job was all that was wanted and none could be taken.
    #[error("{0}")]
    Unfit(String),
    /// A socket cannot be listened on.
    #[error("could not listen on {place}")]
    Listen {
        /// Where.
        place: String,
        /// Why.
        source: io::Error,
    },
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
