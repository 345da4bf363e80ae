//! The command line of `bryo`, parsed into data. What it means is decided elsewhere.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use bryo_model::{
    ByteSize, Ceiling, Cpus, Destination, EnvVar, GitRef, ImageRef, NetworkMode, RuntimeKind,
    SourceLocation, StageLimit, StopSignal, SubDir, Weight,
};
use bryo_sandbox::Selinux;
use clap::builder::FalseyValueParser;
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

const LIMITS: &str = "Limits";
const NETWORK: &str = "Network";

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

    /// Environment variable of the job with the value it has here, or that of a file; the value never shows in the
    /// job's output; repeatable
    #[arg(long = "secret", value_name = "NAME[=@FILE]")]
    pub(crate) secrets: Vec<String>,

    /// What the job can reach: "none", or "isolated" (outbound only, the host itself closed)
    #[arg(long, default_value = "isolated", help_heading = NETWORK)]
    pub(crate) network: NetworkMode,

    /// The job may connect to nothing but this, for example 192.0.2.0/24:443; repeatable
    #[arg(long, value_name = "ADDRESS[:PORT]", help_heading = NETWORK)]
    pub(crate) allow: Vec<Destination>,

    /// The job may not connect to this, even if it is allowed; repeatable
    #[arg(long, value_name = "ADDRESS[:PORT]", help_heading = NETWORK)]
    pub(crate) deny: Vec<Destination>,

    /// This host keeps these closed to every job; separated by commas
    #[arg(long, value_name = "ADDRESS[:PORT],...", env = "BRYO_CLOSED", value_delimiter = ',', help_heading = NETWORK)]
    pub(crate) closed: Vec<Destination>,

    /// Let the job connect to this host's own addresses, loopback excepted
    #[arg(long, env = "BRYO_REACH_HOST", value_parser = FalseyValueParser::new(), help_heading = NETWORK)]
    pub(crate) reach_host: bool,

    /// Give jobs that want a network this host's own: nothing above holds then
    #[arg(long, env = "BRYO_HOST_NETWORK", value_parser = FalseyValueParser::new(), help_heading = NETWORK)]
    pub(crate) host_network: bool,

    /// Certificates that the job trusts, one PEM file
    #[arg(long, value_name = "FILE", env = "BRYO_CA_BUNDLE", help_heading = NETWORK)]
    pub(crate) ca_bundle: Option<PathBuf>,

    /// Pass http_proxy, https_proxy, all_proxy and no_proxy on to the job
    #[arg(long, env = "BRYO_PASS_PROXY", value_parser = FalseyValueParser::new(), help_heading = NETWORK)]
    pub(crate) pass_proxy: bool,

    /// The job cannot write to /, only to /output, /tmp, /var/tmp and /run
    #[arg(long)]
    pub(crate) read_only: bool,

    /// Give each job that runs at the same time subordinate ids of its own; needs 65536 for each, and as many that are shared
    #[arg(long, env = "BRYO_OWN_IDS", value_parser = FalseyValueParser::new())]
    pub(crate) own_ids: bool,

    /// AppArmor profile of the job; it must be loaded
    #[arg(long, value_name = "NAME", env = "BRYO_APPARMOR_PROFILE")]
    pub(crate) apparmor_profile: Option<String>,

    /// SELinux labels of the job: auto (as the host's policy has them for containers), off, or the type of its processes
    #[arg(
        long,
        value_name = "TYPE",
        env = "BRYO_SELINUX",
        default_value = "auto"
    )]
    pub(crate) selinux: Selinux,

    /// Most memory, swap included, for example 512m or 2g
    #[arg(long, value_name = "SIZE", help_heading = LIMITS)]
    pub(crate) memory: Option<ByteSize>,

    /// Memory above which the job is slowed down
    #[arg(long, value_name = "SIZE", help_heading = LIMITS)]
    pub(crate) memory_high: Option<ByteSize>,

    /// Most processor time per time, for example 0.5 or 2
    #[arg(long, value_name = "NUMBER", help_heading = LIMITS)]
    pub(crate) cpus: Option<Cpus>,

    /// Share of processors when others want them too, 1 to 10000 (usual: 100)
    #[arg(long, value_name = "NUMBER", help_heading = LIMITS)]
    pub(crate) cpu_weight: Option<Weight>,

    /// Most processes and threads at one time
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..), help_heading = LIMITS)]
    pub(crate) pids: Option<u32>,

    /// Most bytes per second read from the disks of the job's files
    #[arg(long, value_name = "SIZE", help_heading = LIMITS)]
    pub(crate) io_read: Option<ByteSize>,

    /// Most bytes per second written to them
    #[arg(long, value_name = "SIZE", help_heading = LIMITS)]
    pub(crate) io_write: Option<ByteSize>,

    /// Most that the job may have on disk: what it writes to /, /tmp and /output together
    #[arg(long, value_name = "SIZE", help_heading = LIMITS)]
    pub(crate) disk: Option<ByteSize>,

    /// Most files and directories that it may have there
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..), help_heading = LIMITS)]
    pub(crate) disk_files: Option<u64>,

    /// Largest result [default: 16g]
    #[arg(long, value_name = "SIZE", help_heading = LIMITS)]
    pub(crate) max_output: Option<ByteSize>,

    /// Most files in the result [default: 1000000]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..), help_heading = LIMITS)]
    pub(crate) max_output_files: Option<u64>,

    /// Most of the job's output that is kept: its beginning and its end
    #[arg(long, value_name = "SIZE", help_heading = LIMITS)]
    pub(crate) max_log: Option<ByteSize>,

    /// Most time for the whole attempt, for example 90s, 10m or 2h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = bryo_model::parse_duration, help_heading = LIMITS)]
    pub(crate) timeout: Duration,

    /// Most time for one stage, for example run=10m; repeatable
    #[arg(long = "stage-timeout", value_name = "STAGE=TIME", help_heading = LIMITS)]
    pub(crate) stage_timeouts: Vec<StageLimit>,

    /// Most time in which the running job may write nothing
    #[arg(long, value_name = "TIME", value_parser = bryo_model::parse_duration, help_heading = LIMITS)]
    pub(crate) silence: Option<Duration>,

    /// Between the polite signal and the kill
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = bryo_model::parse_duration, help_heading = LIMITS)]
    pub(crate) grace: Duration,

    /// The polite signal [default: the image's own, else TERM]
    #[arg(long, value_name = "SIGNAL", help_heading = LIMITS)]
    pub(crate) stop_signal: Option<StopSignal>,

    /// The most that any job gets on this host, for example timeout=2h,memory=8g,pids=4096
    #[arg(long, value_name = "NAME=VALUE,...", env = "BRYO_AT_MOST", default_value = "", hide_default_value = true, help_heading = LIMITS)]
    pub(crate) at_most: Ceiling,

    /// Run without a limit that this host cannot enforce, instead of refusing the job
    #[arg(long, help_heading = LIMITS)]
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

    /// Write the time (UTC) before each line of the job's output
    #[arg(long)]
    pub(crate) timestamps: bool,

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
