//! Tasks that last as long as the agent does, each with a name, so that one that ends of itself is missed.
//!
//! *Why missed?* A task that panics takes nothing else with it. An agent without the task that asks for jobs, or without
//! the one that tells results, would look well to everybody and never work again.

use std::fmt;

use tokio::task::{AbortHandle, JoinError, JoinSet};

/// A set of them. Dropping it ends them all.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    set: JoinSet<()>,
    names: Vec<(AbortHandle, String)>,
}

/// One that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    name: String,
    /// Why, unless it came to its own end.
    broke: Option<JoinError>,
}

impl Ended {
    pub(crate) const fn is_broken(&self) -> bool {
        self.broke.is_some()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.broke {
            None => write!(f, "{name} has ended"),
            // What it said is on standard error, with its place.
            Some(error) if error.is_panic() => write!(f, "{name} has panicked"),
            Some(_) => write!(f, "{name} was given up"),
        }
    }
}

impl Tasks {
    pub(crate) fn spawn(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let handle = self.set.spawn(task);
        self.names.push((handle, name.into()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Waits for the next one that ends; `None` when there is none.
    pub(crate) async fn ended(&mut self) -> Option<Ended> {
        let (id, broke) = match self.set.join_next_with_id().await? {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let at = self.names.iter().position(|(task, _)| task.id() == id)?;
        let (_, name) = self.names.swap_remove(at);
        Some(Ended { name, broke })
    }

    /// Gives all of them up, and waits until they are gone.
    pub(crate) async fn shutdown(&mut self) {
        self.set.shutdown().await;
        self.names.clear();
    }
    /// As a mistake in it would end it.
    #[cfg(test)]
    pub(crate) fn abort(&self, name: &str) -> bool {
        let mut found = self.names.iter().filter(|(_, its)| its == name);
        found.next().is_some_and(|(task, _)| {
            task.abort();
            true
        })
    }
}
