//! Signals become orders to the agent: SIGTERM drains it, SIGINT stops it and a second one ends it at once, SIGHUP has the
//! configuration read again.

use std::collections::{BTreeMap, BTreeSet};

use bryo_agent::Order;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Sender;

use super::configuration;
use crate::args::WorkArgs;
use crate::config::{Address, Value};
use crate::log::Levels;
use crate::signals;

/// What the agent that runs was made with and a reload cannot change, or changes elsewhere.
pub(super) struct Running {
    /// The servers that jobs cannot reach.
    pub(super) closed: Vec<Address>,
    /// What the engine was made with, by key.
    pub(super) of_the_host: BTreeMap<String, Value>,
    pub(super) levels: Levels,
}

/// Listens for as long as the program runs.
///
/// # Errors
///
/// When the system does not let us listen.
pub(super) fn listen(
    orders: Sender<Order>,
    args: WorkArgs,
    running: Running,
) -> std::io::Result<()> {
    if let Some(terminate) = listened(SignalKind::terminate())? {
        on(terminate, orders.clone(), |_| Order::Drain);
    }
    if let Some(interrupt) = listened(SignalKind::interrupt())? {
        on(interrupt, orders.clone(), |times| {
            if times == 1 { Order::Stop } else { Order::Kill }
        });
    }
    if let Some(hangup) = listened(SignalKind::hangup())? {
        on(hangup, orders, move |_| reload(&args, &running));
    }
    Ok(())
}

/// nohup(1), and a shell that runs us in the background, mean what they say.
fn listened(kind: SignalKind) -> std::io::Result<Option<Signal>> {
    if signals::is_ignored(kind) {
        Ok(None)
    } else {
        signal(kind).map(Some)
    }
}

fn on(mut signals: Signal, orders: Sender<Order>, order: impl Fn(u64) -> Order + Send + 'static) {
    tokio::spawn(async move {
        let mut times = 0;
        while signals.recv().await.is_some() {
            times += 1;
            // Nobody there to be told: the agent is at its end.
            if orders.send(order(times)).await.is_err() {
                return;
            }
        }
    });
}

/// What cannot be used changes nothing: the agent goes on with what it has.
fn reload(args: &WorkArgs, running: &Running) -> Order {
    match configuration(args.config.as_deref(), args.flags()) {
        Ok(Ok(read)) => match read
            .config
            .control_plane
            .iter()
            .find(|server| !running.closed.iter().any(|known| known.is_at(server)))
        {
            // What is closed to jobs is part of the engine, which stays as it is.
            Some(new) => Order::ReloadFailed(format!(
                "{} is a new server; restart the agent, so that jobs cannot reach it",
                new.text()
            )),
            None => {
                running.levels.change(&read.levels);
                Order::Reload {
                    settings: Box::new(read.config.agent),
                    kept: differing(&running.of_the_host, &read.of_the_host),
                }
            }
        },
        Ok(Err(problems)) => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Order::ReloadFailed(problems.join("\n"))
        }
        Err(error) => Order::ReloadFailed(format!("{error:#}")),
    }
}

/// The keys that do not say the same, on whichever side they are.
fn differing(one: &BTreeMap<String, Value>, other: &BTreeMap<String, Value>) -> Vec<String> {
    let keys: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differ = |key: &&&String| one.get(**key) != other.get(**key);
    keys.iter()
        .filter(differ)
        .map(|key| (*key).clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_are_named() {
        let of = |all: &[(&str, bool)]| -> BTreeMap<String, Value> {
            let entry = |(key, value): &(&str, bool)| ((*key).to_owned(), Value::Flag(*value));
            all.iter().map(entry).collect()
        };
        let one = of(&[("host.a", true), ("host.b", true), ("source.c", true)]);
        let other = of(&[("host.a", true), ("host.b", false), ("source.d", true)]);
        assert_eq!(differing(&one, &other), ["host.b", "source.c", "source.d"]);
        assert_eq!(differing(&one, &one), [""; 0]);
    }
}
