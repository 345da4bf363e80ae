//! The command line of `bryo run`.

use std::path::PathBuf;
use std::time::Duration;

use bryo_model::{
    ByteSize, Cpus, Destination, EnvVar, GitRef, ImageRef, NetworkMode, SourceLocation, StageLimit,
    StopSignal, SubDir, Weight,
};

use super::host::{HostArgs, LIMITS, NETWORK};

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

    /// The job cannot write to /, only to /output, /tmp, /var/tmp and /run
    #[arg(long)]
    pub(crate) read_only: bool,

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

    /// Run without a limit that this host cannot enforce, instead of refusing the job
    #[arg(long, help_heading = LIMITS)]
    pub(crate) allow_unlimited: bool,

    /// Print the report as one JSON object on standard output, everything else on standard error
    #[arg(long)]
    pub(crate) json: bool,

    /// Write the time (UTC) before each line of the job's output
    #[arg(long)]
    pub(crate) timestamps: bool,

    /// Read this file of configuration instead of those in /etc/bryo and ~/.config/bryo [env: BRYO_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) host: HostArgs,

    /// What runs instead of the image's entrypoint
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}
