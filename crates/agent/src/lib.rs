//! An agent: takes jobs from feeds, lets the engine run them, and tells every result.

mod settings;

pub use settings::{
    AgentSettings, DocThorSettings, FeedName, FeedSettings, InvalidFeedName, JobPolicy, Listen,
    Recovery, Watermarks,
};
