//! Stands in for what the crate of the agent does not have yet. Goes when it has.

use std::path::Path;
use std::time::Duration;

use bryo_agent::AgentSettings;
use bryo_engine::Engine;
use bryo_model::Verdict;
use tokio::sync::mpsc;

#[derive(Debug)]
pub(crate) enum Order {
    Drain,
    Stop,
    Kill,
    Reload(Box<AgentSettings>),
    ReloadFailed(String),
}

#[derive(Debug, thiserror::Error)]
#[error("the agent is not there yet")]
pub(crate) struct AgentError;

pub(crate) struct Agent;

impl Agent {
    pub(crate) async fn run(
        _: AgentSettings,
        _: Engine,
        mut orders: mpsc::Receiver<Order>,
    ) -> Result<(), AgentError> {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Drain | Order::Kill => return Ok(()),
                Order::Stop => tracing::info!("told to stop"),
                Order::Reload(settings) => tracing::info!(slots = settings.slots, "told to reload"),
                Order::ReloadFailed(why) => tracing::error!("could not reload: {why}"),
            }
        }
        Err(AgentError)
    }

    pub(crate) async fn once(
        _: AgentSettings,
        _: Engine,
        mut orders: mpsc::Receiver<Order>,
        max_wait: Option<Duration>,
    ) -> Result<Option<Verdict>, AgentError> {
        let wait = max_wait.unwrap_or(Duration::MAX);
        match tokio::time::timeout(wait, orders.recv()).await {
            Ok(_) => Err(AgentError),
            Err(_) => Ok(None),
        }
    }
}

pub(crate) mod control {
    use super::Path;

    #[derive(Debug)]
    pub(crate) enum Request {
        Pause,
        Resume,
        Drain,
        Status,
        Jobs,
    }

    #[derive(Debug)]
    #[expect(dead_code, reason = "stands in")]
    pub(crate) enum Response {
        Done,
        Status(serde_json::Value),
        Jobs(Vec<serde_json::Value>),
    }

    #[derive(Debug, thiserror::Error)]
    #[error("no agent answers at {0}")]
    pub(crate) struct ControlError(String);

    pub(crate) async fn ask(path: &Path, _: Request) -> Result<Response, ControlError> {
        Err(ControlError(path.display().to_string()))
    }
}
