//! Signals become orders to the agent: SIGTERM drains it, SIGINT stops it and a second one ends it at once, SIGHUP has the
//! configuration read again.

use bryo_agent::Order;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Sender;

use super::configuration;
use crate::args::WorkArgs;
use crate::config::Address;
use crate::signals;

/// Listens for as long as the program runs. `closed` are the servers that jobs cannot reach.
///
/// # Errors
///
/// When the system does not let us listen.
pub(super) fn listen(
    orders: Sender<Order>,
    args: WorkArgs,
    closed: Vec<Address>,
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
        on(hangup, orders, move |_| reload(&args, &closed));
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
fn reload(args: &WorkArgs, closed: &[Address]) -> Order {
    match configuration(args.config.as_deref(), args.flags()) {
        Ok(Ok((config, _))) => match config
            .control_plane
            .iter()
            .find(|server| !closed.iter().any(|known| known.is_at(server)))
        {
            // What is closed to jobs is part of the engine, which stays as it is.
            Some(new) => Order::ReloadFailed(format!(
                "{} is a new server; restart the agent, so that jobs cannot reach it",
                new.text()
            )),
            None => Order::Reload(Box::new(config.agent)),
        },
        Ok(Err(problems)) => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Order::ReloadFailed(problems.join("\n"))
        }
        Err(error) => Order::ReloadFailed(format!("{error:#}")),
    }
}
