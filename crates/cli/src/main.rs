//! `bryo`: a rootless, daemonless build runner.
//!
//! This file is the table of contents: it reads the command line, lets one command run and turns its result into an
//! exit code.

/// `bryo agent`.
mod agent;
/// Work on a stack of its own.
mod apart;
/// The command line, as data.
mod args;
/// `bryo cache` and `bryo gc`.
mod cache;
/// From files, environment and options to settings.
mod config;
/// Where Bryo keeps things on this host.
mod directories;
/// The documented table of exit codes.
mod exit_code;
/// What the program gives up before it does anything.
mod hardening;
/// Where an agent's events go.
mod log;
/// `bryo config`.
mod look;
/// Hidden roles that the program plays for itself inside namespaces.
mod roles;
/// `bryo run`.
mod run;
/// Ctrl-C and SIGTERM.
mod signals;
/// Times before the lines of a job's output.
mod stamps;
/// What people see.
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = roles::play() {
        return code;
    }
    hardening::harden();
    // Checkouts and published files are made for others to read, whatever the caller's umask is.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let args = match apart::apart(args::parse) {
        Ok(args) => args,
        Err(code) => return code.into(),
    };
    match args.command {
        args::Command::Run(run) => run::main(*run).into(),
        args::Command::Agent(agent) => agent::main(*agent).into(),
        args::Command::Cache(args) => cache::list(&args).into(),
        args::Command::Gc(args) => cache::collect(&args).into(),
        args::Command::Config(config) => look::main(&config).into(),
    }
}
