//! The command line of `bryo`, parsed into data. What it means is decided elsewhere.

mod agent;
mod cache;
mod config;
mod host;
mod run;

use std::io::Write;

use clap::{Parser, Subcommand};

pub(crate) use agent::{AgentArgs, AskArgs, Verb, WorkArgs};
pub(crate) use cache::{CacheArgs, GcArgs, Place};
pub(crate) use config::{ConfigArgs, ConfigCommand, ShowArgs};
pub(crate) use run::RunArgs;

use crate::exit_code::Exit;

/// A rootless, daemonless build runner.
#[derive(Debug, Parser)]
#[command(name = "bryo", version, max_term_width = 100, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one job: fetch a source, run an image on it in one rootless container, publish what it leaves in /output
    Run(Box<RunArgs>),
    /// Take jobs from servers and tell them the results, until told to stop
    Agent(Box<AgentArgs>),
    /// List what is kept for later jobs: mirrors, checkouts, images and their layers
    Cache(CacheArgs),
    /// Remove what of that is not used, within the bounds of the configuration or of the options
    Gc(GcArgs),
    /// Look at the configuration
    Config(ConfigArgs),
}

/// Reads the command line. Help and version are answered here and end the program with 0.
pub(crate) fn parse() -> Result<Args, Exit> {
    Args::try_parse().map_err(|error| {
        let wanted = matches!(
            error.kind(),
            clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
        );
        if error.print().is_err() {
            let _ = writeln!(std::io::stderr(), "bryo: the command line cannot be used");
        }
        if wanted { Exit::Succeeded } else { Exit::Usage }
    })
}

#[cfg(test)]
mod tests {
    use bryo_model::{ByteSize, NetworkMode};

    use super::*;

    fn run(line: &str) -> Result<Box<RunArgs>, clap::Error> {
        match Args::try_parse_from(line.split(' '))?.command {
            Command::Run(run) => Ok(run),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_two_examples_of_the_readme() {
        let here = run("bryo run . --image oci-archive:images/mkdocs.tar --output site").unwrap();
        assert_eq!(here.network, NetworkMode::Isolated);
        assert!(here.command.is_empty());
        let there = run(
            "bryo run https://host/org/repo.git --ref v1.2 --image registry.example/docs/mkdocs:9 \
             --output site --memory 1g --timeout 10m -- mkdocs build",
        )
        .unwrap();
        assert_eq!(there.memory.map(ByteSize::bytes), Some(1 << 30));
        assert_eq!(there.timeout.as_secs(), 600);
        assert_eq!(there.command, ["mkdocs", "build"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in [
            "bryo run",
            "bryo run . --output x",
            "bryo run . --image debian --output x",
            "bryo run ext::id --image oci:x --output x",
            "bryo run . --image oci:x --output x --memory lots",
            "bryo run . --image oci:x --output x --pids 0",
            "bryo run . --image oci:x --output x --env NAME",
            "bryo run . --image oci:x --output x --ref -x",
            "bryo run . --image oci:x --output x --subdir ..",
            "bryo run . --image oci:x --output x --network host",
            "bryo run . --image oci:x --output x --at-most moon=1",
            "bryo run . --image oci:x --output x --own-ids=maybe",
            "bryo agent --max-wait 5s",
            "bryo agent --once status",
            "bryo config",
            "bryo gc --all --keep 1g",
            "bryo gc --keep lots",
            "bryo gc --older-than 0s",
        ] {
            assert!(Args::try_parse_from(bad.split(' ')).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
