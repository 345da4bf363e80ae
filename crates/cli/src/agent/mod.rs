//! `bryo agent`: from the configuration to an agent that works, or to a word to one that does.

mod answer;
mod ask;
mod control_plane;
mod orders;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bryo_agent::Agent;
use bryo_engine::Engine;
use tokio::sync::mpsc;

use orders::Running;

use crate::apart::apart;
use crate::args::{AgentArgs, WorkArgs};
use crate::config::{self, About, AgentConfig, Flags, Problem, Value};
use crate::exit_code::Exit;
use crate::log::Levels;
use crate::{directories, log, terminal};

/// Orders that the agent has not looked at yet.
const ORDERS: usize = 8;

/// How many jobs have their namespaces and networks made ahead; a network costs a process that waits.
const MOST_READY: usize = 4;

/// How long a task of ours that nobody waits for may hold up the end of the program.
const STRAGGLERS: Duration = Duration::from_millis(200);

/// Works, or speaks to an agent that does.
pub(crate) fn main(args: AgentArgs) -> Exit {
    match args.verb {
        Some(verb) => ask::main(verb),
        None => work(args.work),
    }
}

fn work(args: WorkArgs) -> Exit {
    let read = match apart(|| configuration(args.config.as_deref(), args.flags())) {
        Ok(Ok(read)) => read,
        Ok(Err(problems)) => {
            problems
                .iter()
                .for_each(|problem| terminal::complain(&problem.to_string()));
            return Exit::Usage;
        }
        Err(error) => {
            terminal::complain(&format!("{error:#}"));
            return Exit::Usage;
        }
    };
    let levels = log::start(&read.levels);
    match started(read, args, levels) {
        Ok(exit) => exit,
        Err(error) => {
            // Why it ended is told in any case.
            if tracing::enabled!(tracing::Level::ERROR) {
                tracing::error!("{error:#}");
            } else {
                terminal::complain(&format!("{error:#}"));
            }
            Exit::OurFailure
        }
    }
}

fn started(read: Read, args: WorkArgs, levels: Levels) -> Result<Exit> {
    // One thread takes jobs and watches them; what blocks has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start")?;
    let ended = runtime.block_on(Box::pin(async {
        let AgentConfig {
            agent,
            mut engine,
            control_plane,
        } = read.config;
        let (sender, orders) = mpsc::channel(ORDERS);
        let (once, max_wait) = (args.once, args.max_wait);
        let running = Running {
            closed: control_plane.clone(),
            of_the_host: read.of_the_host,
            levels,
        };
        orders::listen(sender, args, running).context("could not listen for signals")?;
        let closed = control_plane::destinations(&control_plane).await;
        engine.network.closed.extend(closed);
        tracing::info!(
            state = %agent.state.display(),
            slots = agent.slots,
            feeds = agent.feeds.len(),
            "the agent begins"
        );
        let engine = Engine::new(engine);
        if once {
            let verdict = Agent::once(agent, engine, orders, max_wait).await?;
            return anyhow::Ok(verdict.as_ref().map_or(Exit::NothingToDo, Exit::of));
        }
        let engine = engine.keeping_ready(agent.slots.min(MOST_READY));
        Agent::run(agent, engine, orders).await?;
        anyhow::Ok(Exit::Succeeded)
    }));
    runtime.shutdown_timeout(STRAGGLERS);
    ended
}

/// What was read.
struct Read {
    config: AgentConfig,
    /// What is logged.
    levels: String,
    /// What the engine is made with, by key.
    of_the_host: BTreeMap<String, Value>,
}

/// Reads everything, at the start and again for SIGHUP.
fn configuration(named: Option<&Path>, flags: Flags) -> Result<Result<Read, Vec<Problem>>> {
    let around = directories::surroundings()?;
    let loaded = config::load(About::Agent, &around, named, flags);
    let secrets = around.secrets(true);
    let mut reader = around.reader(&loaded, &secrets);
    let config = reader.agent(&around.places, &around.file_to_write(named));
    let levels = reader.log();
    let problems = reader.problems;
    Ok(match config {
        Some(config) if problems.is_empty() => Ok(Read {
            config,
            levels,
            of_the_host: loaded.of_the_host(&around.places),
        }),
        _ => Err(problems),
    })
}
