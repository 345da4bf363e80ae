//! The commands for an agent that runs: one request over its control socket, one answer.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bryo_agent::control::{self, Request, Response};

use super::answer;
use crate::args::{AskArgs, Verb};
use crate::config::{self, About};
use crate::exit_code::Exit;
use crate::{directories, terminal};

/// How many jobs are listed at most.
const JOBS: u32 = 1000;

/// Asks, and prints the answer.
pub(super) fn main(verb: Verb) -> Exit {
    let (request, args) = match verb {
        Verb::Pause(args) => (Request::Pause, args),
        Verb::Resume(args) => (Request::Resume, args),
        Verb::Drain(args) => (Request::Drain, args),
        Verb::Status(args) => (Request::Status, args),
        Verb::Jobs(args) => (Request::Jobs { most: JOBS }, args),
    };
    let socket = match socket(&args) {
        Ok(socket) => socket,
        Err(error) => {
            terminal::complain(&format!("{error:#}"));
            return Exit::Usage;
        }
    };
    match asked(&socket, request, args.json) {
        Ok(()) => Exit::Succeeded,
        Err(error) => {
            terminal::complain(&format!("{error:#}"));
            Exit::OurFailure
        }
    }
}

fn asked(socket: &std::path::Path, request: Request, json: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start")?;
    let response = runtime.block_on(control::ask(socket, request))?;
    if let Response::Refused { why } = response {
        bail!("the agent refuses: {why}");
    }
    answer::print(&response, json).context("could not print the answer")
}

/// Mistakes elsewhere in the configuration do not keep anybody from asking an agent that runs; they are told.
fn socket(args: &AskArgs) -> Result<PathBuf> {
    let around = directories::surroundings()?;
    let loaded = config::load(About::Ask, &around, args.config.as_deref(), args.flags());
    let secrets = around.secrets(false);
    let mut reader = around.reader(&loaded, &secrets);
    let socket = reader.control();
    for problem in &reader.problems {
        terminal::complain(&problem.to_string());
    }
    socket.context("there is neither HOME nor XDG_STATE_HOME; say --control SOCKET")
}
