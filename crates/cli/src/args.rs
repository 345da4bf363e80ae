//! The command line of `bryo`, parsed into data. What it means is decided elsewhere.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use bryo_model::{
    ByteSize, Cpus, EnvVar, GitRef, ImageRef, NetworkMode, RuntimeKind, SourceLocation, SubDir,
};
use clap::{Parser, Subcommand, ValueEnum};

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
}

/// One job on this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// A git repository: a path or an address (https, ssh, file)
    #[arg(default_value = ".")]
    pub(crate) source: SourceLocation,

    /// Branch, tag or full commit [default: the remote's default branch; HEAD of a local repository]
    #[arg(long = "ref", value_name = "REF")]
    pub(crate) reference: Option<GitRef>,

    /// Directory of the source in which the job starts
    #[arg(long, value_name = "DIR")]
    pub(crate) subdir: Option<SubDir>,

    /// The image: oci:DIR[:tag], oci-archive:FILE, docker-archive:FILE, containers-storage:NAME, or host/name:tag
    #[arg(long)]
    pub(crate) image: ImageRef,

    /// Directory for the result; an earlier one is replaced in one step, and only on success
    #[arg(long, value_name = "DIR")]
    pub(crate) output: PathBuf,

    /// Replace the output directory even if it holds files that git tracks
    #[arg(long)]
    pub(crate) replace: bool,

    /// How the container is made [auto: crun where this host can do it, else podman]
    #[arg(long, value_enum, default_value = "auto", env = "BRYO_RUNTIME")]
    pub(crate) runtime: RuntimeArg,

    /// Environment variable of the job; repeatable
    #[arg(long = "env", short = 'e', value_name = "NAME=VALUE")]
    pub(crate) env: Vec<EnvVar>,

    /// What the job can reach: "none", or "isolated" (outbound only, the host's loopback closed)
    #[arg(long, default_value = "isolated")]
    pub(crate) network: NetworkMode,

    /// Most memory, swap included, for example 512m or 2g
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,

    /// Most processor time per time, for example 0.5 or 2
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<Cpus>,

    /// Most processes and threads at one time
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pids: Option<u32>,

    /// Most time for the whole attempt, for example 90s, 10m or 2h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = bryo_model::parse_duration)]
    pub(crate) timeout: Duration,

    /// Between the polite signal and the kill
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = bryo_model::parse_duration)]
    pub(crate) grace: Duration,

    /// Run without a limit that this host cannot enforce, instead of refusing the job
    #[arg(long)]
    pub(crate) allow_unlimited: bool,

    /// Credentials for registries [default: those of podman and skopeo]
    #[arg(long, value_name = "FILE", env = "REGISTRY_AUTH_FILE")]
    pub(crate) authfile: Option<PathBuf>,

    /// Speak plain HTTP to the registry, or HTTPS without checking who answers
    #[arg(long)]
    pub(crate) plain_http: bool,

    /// Print the report as one JSON object on standard output, everything else on standard error
    #[arg(long)]
    pub(crate) json: bool,

    /// Where mirrors, checkouts and images are kept [default: $XDG_CACHE_HOME/bryo]
    #[arg(long, value_name = "DIR", env = "BRYO_CACHE_DIR")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Where a job's own files are while it runs [default: work in the cache directory]
    #[arg(long, value_name = "DIR", env = "BRYO_WORK_DIR")]
    pub(crate) work_dir: Option<PathBuf>,

    /// What runs instead of the image's entrypoint
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuntimeArg {
    Auto,
    Crun,
    Podman,
}

impl RuntimeArg {
    pub(crate) const fn wanted(self) -> Option<RuntimeKind> {
        match self {
            Self::Auto => None,
            Self::Crun => Some(RuntimeKind::Crun),
            Self::Podman => Some(RuntimeKind::Podman),
        }
    }
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
    use super::*;

    fn run(line: &str) -> Result<Box<RunArgs>, clap::Error> {
        let Command::Run(run) = Args::try_parse_from(line.split(' '))?.command;
        Ok(run)
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
        ] {
            assert!(run(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
