//! What an agent misses, and for whom it does not wait.

use super::*;
use crate::tests::{Bed, anywhere, engine_settings, server, settings};

/// Longer than any end takes.
const LONG: Duration = Duration::from_secs(60);

/// An agent whose server is at this address, and who tells it what to do.
async fn agent(
    dir: &std::path::Path,
    server: std::net::SocketAddr,
    quota: Option<usize>,
) -> (Agent, mpsc::Sender<Order>) {
    let (sender, orders) = mpsc::channel(4);
    let engine = Engine::new(engine_settings(dir));
    let agent = Agent::begin(settings(dir, server), engine, orders, quota);
    (agent.await.unwrap(), sender)
}

#[tokio::test]
async fn a_part_that_is_gone_ends_the_agent_and_is_named() {
    for name in [
        "the intake of docs",
        "the outbox of docs",
        "the way to the jobs of the past",
        "the look at the host",
        "the control socket",
        "the status line",
        "the tidying",
        "the collector",
    ] {
        let server = server::Server::start(anywhere(), Box::new(server::known)).await;
        let dir = tempfile::tempdir().unwrap();
        let (agent, _orders) = agent(dir.path(), server.address, None).await;
        let all = [&agent.intakes, &agent.outboxes, &agent.others];
        assert!(all.into_iter().any(|tasks| tasks.abort(name)), "{name}");
        let ended = timeout(LONG, agent.until_its_end()).await;
        let error = ended
            .unwrap_or_else(|_| panic!("{name} is not missed"))
            .unwrap_err();
        assert!(error.to_string().starts_with(name), "{error}");
        // In order: the state is another one's to take.
        drop(StateLock::take(dir.path()).unwrap());
        assert!(!dir.path().join("agent.sock").exists());
    }
}

#[tokio::test]
async fn a_part_that_panics_or_just_ends_is_gone_as_well() {
    let address = ([127, 0, 0, 1], 1).into();
    let dir = tempfile::tempdir().unwrap();
    let (mut broken, _orders) = agent(dir.path(), address, None).await;
    broken
        .others
        .spawn("a part", async { panic!("a mistake, on purpose") });
    let error = timeout(LONG, broken.until_its_end())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        error.to_string().starts_with("a part has panicked"),
        "{error}"
    );

    let (mut broken, _orders) = agent(dir.path(), address, None).await;
    broken.intakes.spawn("an intake", async {});
    let error = timeout(LONG, broken.until_its_end())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        error.to_string().starts_with("an intake has ended"),
        "{error}"
    );
}

#[tokio::test]
async fn who_is_told_to_end_misses_nothing() {
    let address = ([127, 0, 0, 1], 1).into();
    let dir = tempfile::tempdir().unwrap();
    for order in [Order::Drain, Order::Stop] {
        let (agent, orders) = agent(dir.path(), address, None).await;
        orders.send(order).await.unwrap();
        timeout(LONG, agent.until_its_end()).await.unwrap().unwrap();
    }
}

/// One result waits, its server is away, and somebody waits for the agent.
#[tokio::test(start_paused = true)]
async fn a_result_is_not_waited_for_longer_than_one_who_is_in_a_hurry_does() {
    for (order, least, most) in [
        (None, 120, 125),
        (Some(Order::Drain), 15, 20),
        (Some(Order::Stop), 15, 20),
        (Some(Order::Kill), 0, 5),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let told = format!("{order:?}");
        let (agent, orders) = agent(dir.path(), ([127, 0, 0, 1], 1).into(), Some(0)).await;
        Bed::ended_in(&agent.shared, 1).await;
        let since = Instant::now();
        if let Some(order) = order {
            orders.send(order).await.unwrap();
        }
        agent.finish(ending::ONE_RESULT).await.unwrap();
        let took = since.elapsed().as_secs();
        assert!((least..=most).contains(&took), "{told}: {took} s");
    }
}
