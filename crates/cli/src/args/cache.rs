//! The command lines of `bryo cache` and `bryo gc`.

use std::path::PathBuf;
use std::time::Duration;

use bryo_model::ByteSize;

use crate::config::{self, Flags};

/// Where the cache is.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// Read this file of configuration instead of those in /etc/bryo and ~/.config/bryo [env: BRYO_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// The cache [default: $XDG_CACHE_HOME/bryo] [env: BRYO_CACHE_DIR]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

impl Place {
    /// What was given, in the words of the configuration.
    pub(crate) fn flags(&self) -> Flags {
        Flags::default().path(&config::CACHE, "--cache-dir", self.cache_dir.as_deref())
    }
}

/// Lists what is in the cache.
#[derive(Debug, clap::Args)]
pub(crate) struct CacheArgs {
    /// Print it as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) place: Place,
}

/// Removes what breaks a bound; without one, what breaks those of the configuration.
#[derive(Debug, clap::Args)]
pub(crate) struct GcArgs {
    /// Look at mirrors and checkouts alone
    #[arg(long)]
    pub(crate) source: bool,

    /// Look at images and layers alone
    #[arg(long)]
    pub(crate) images: bool,

    /// Remove what was not used for so long, for example 48h
    #[arg(long, value_name = "TIME", value_parser = bryo_model::parse_duration)]
    pub(crate) older_than: Option<Duration>,

    /// Let so much stay, for example 20g; what was not used for longest goes first
    #[arg(long, value_name = "SIZE")]
    pub(crate) keep: Option<ByteSize>,

    /// Remove everything that no job uses now
    #[arg(long, conflicts_with_all = ["older_than", "keep"])]
    pub(crate) all: bool,

    /// Remove nothing, and tell what would be
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print what was done as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) place: Place,
}
