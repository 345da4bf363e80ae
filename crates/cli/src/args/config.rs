//! The command line of `bryo config`.

use std::path::PathBuf;

use clap::Subcommand;

/// Looks at the configuration.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Tell everything that is wrong with it; ends with 2 if something is
    Check {
        /// Read this file instead of those in /etc/bryo and ~/.config/bryo [env: BRYO_CONFIG]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print what holds and where it was said; secrets are masked
    Show(ShowArgs),
}

/// What is printed, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Read this file instead of those in /etc/bryo and ~/.config/bryo [env: BRYO_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Print it as one JSON object
    #[arg(long, conflicts_with = "defaults")]
    pub(crate) json: bool,

    /// Print a file with every key, its meaning and its default instead
    #[arg(long, conflicts_with = "config")]
    pub(crate) defaults: bool,
}
