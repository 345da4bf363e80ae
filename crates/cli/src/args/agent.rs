//! The command line of `bryo agent`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use crate::config::{self, Flags};

/// Takes jobs from feeds, or speaks to an agent that does.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,

    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// What an agent is started with. Everything else is in its configuration.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WorkArgs {
    /// Read this file of configuration instead of those in /etc/bryo and ~/.config/bryo [env: BRYO_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Take one job, and end with its exit code
    #[arg(long)]
    pub(crate) once: bool,

    /// With --once: how long to wait for a job [default: until there is one]
    #[arg(long, value_name = "TIME", requires = "once", value_parser = bryo_model::parse_duration)]
    pub(crate) max_wait: Option<Duration>,

    /// How many jobs run at one time [env: BRYO_SLOTS]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    slots: Option<u32>,

    /// The agent's durable directory [default: $XDG_STATE_HOME/bryo] [env: BRYO_STATE_DIR]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Where the agent can be spoken to [default: control.sock in the state directory] [env: BRYO_CONTROL]
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,

    /// Answer health and metrics here: ADDRESS:PORT, unix:/PATH or passed [env: BRYO_LISTEN]
    #[arg(long, value_name = "WHERE")]
    listen: Option<String>,

    /// How much is told: error, warn, info, debug, trace, or by part [default: info] [env: BRYO_LOG]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
}

impl WorkArgs {
    /// What was given, in the words of the configuration.
    pub(crate) fn flags(&self) -> Flags {
        Flags::default()
            .say(&config::SLOTS, "--slots", self.slots)
            .path(&config::STATE, "--state-dir", self.state_dir.as_deref())
            .path(&config::CONTROL, "--control", self.control.as_deref())
            .say(&config::LISTEN, "--listen", self.listen.as_ref())
            .say(&config::LOG, "--log", self.log.as_ref())
    }
}

/// What a running agent can be told and asked.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Take no more jobs; running ones go on
    Pause(AskArgs),
    /// Take jobs again
    Resume(AskArgs),
    /// Take no more jobs, and end when the running ones have
    Drain(AskArgs),
    /// How the agent and its feeds are
    Status(AskArgs),
    /// The newest jobs, and what became of them
    Jobs(AskArgs),
}

/// Which agent, and how its answer is printed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AskArgs {
    /// The file of configuration that the agent was started with [env: BRYO_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// The state directory that the agent was started with [env: BRYO_STATE_DIR]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Where the agent can be spoken to [env: BRYO_CONTROL]
    #[arg(long, value_name = "SOCKET")]
    pub(crate) control: Option<PathBuf>,

    /// Print the answer as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

impl AskArgs {
    /// What was given, in the words of the configuration.
    pub(crate) fn flags(&self) -> Flags {
        Flags::default()
            .path(&config::STATE, "--state-dir", self.state_dir.as_deref())
            .path(&config::CONTROL, "--control", self.control.as_deref())
    }
}
