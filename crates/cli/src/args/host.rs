//! Options about this host, which its files and variables can say too.
//!
//! Variables are not read here: they stand between files and options, so the configuration reads them.

use std::path::PathBuf;

use bryo_model::{Ceiling, Destination, Scheme};
use clap::ValueEnum;
use clap::builder::BoolishValueParser;

use crate::config::{self, Flags};

pub(super) const LIMITS: &str = "Limits";
pub(super) const NETWORK: &str = "Network";
const HOST: &str = "Host";
const SOURCE: &str = "Source";

/// What this host gives to jobs.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HostArgs {
    /// How the container is made [auto: crun where this host can do it, else podman] [env: BRYO_RUNTIME]
    #[arg(long, value_enum, help_heading = HOST)]
    runtime: Option<RuntimeArg>,

    /// This host keeps these closed to every job; separated by commas [env: BRYO_CLOSED]
    #[arg(long, value_name = "ADDRESS[:PORT],...", value_delimiter = ',', help_heading = NETWORK)]
    closed: Option<Vec<Destination>>,

    /// Let the job connect to this host's own addresses, loopback excepted [env: BRYO_REACH_HOST]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true, help_heading = NETWORK)]
    reach_host: Option<bool>,

    /// Give jobs that want a network this host's own: nothing above holds then [env: BRYO_HOST_NETWORK]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true, help_heading = NETWORK)]
    host_network: Option<bool>,

    /// Certificates that the job trusts, one PEM file [env: BRYO_CA_BUNDLE]
    #[arg(long, value_name = "FILE", help_heading = NETWORK)]
    ca_bundle: Option<PathBuf>,

    /// Pass http_proxy, https_proxy, all_proxy and no_proxy on to the job [env: BRYO_PASS_PROXY]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true, help_heading = NETWORK)]
    pass_proxy: Option<bool>,

    /// Give each job that runs at the same time subordinate ids of its own; needs 65536 for each, and as many that are
    /// shared [env: BRYO_OWN_IDS]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true, help_heading = HOST)]
    own_ids: Option<bool>,

    /// AppArmor profile of the job; it must be loaded [env: BRYO_APPARMOR_PROFILE]
    #[arg(long, value_name = "NAME", help_heading = HOST)]
    apparmor_profile: Option<String>,

    /// SELinux labels of the job: auto (as the host's policy has them for containers), off, or the type of its processes
    /// [env: BRYO_SELINUX]
    #[arg(long, value_name = "TYPE", help_heading = HOST)]
    selinux: Option<String>,

    /// The most that any job gets on this host, for example timeout=2h,memory=8g,pids=4096 [env: BRYO_AT_MOST]
    #[arg(long, value_name = "NAME=VALUE,...", value_parser = ceiling, help_heading = LIMITS)]
    at_most: Option<String>,

    /// Credentials for registries [default: those of podman and skopeo] [env: REGISTRY_AUTH_FILE]
    #[arg(long, value_name = "FILE", help_heading = HOST)]
    authfile: Option<PathBuf>,

    /// Speak plain HTTP to the registry, or HTTPS without checking who answers
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true, help_heading = HOST)]
    plain_http: Option<bool>,

    /// How a source may be reached, of https, ssh, file and http [default: https,ssh,file] [env: BRYO_SOURCE_PROTOCOLS]
    #[arg(long, value_name = "PROTOCOL,...", value_delimiter = ',', help_heading = SOURCE)]
    source_protocols: Option<Vec<Scheme>>,

    /// Sources may come from these hosts only, for example git.example.org,*.example.net:8443,10.0.0.0/8
    /// [env: BRYO_SOURCE_ALLOWED_HOSTS]
    #[arg(long, value_name = "HOST,...", help_heading = SOURCE)]
    source_allowed_hosts: Option<String>,

    /// Sources may not come from these hosts [env: BRYO_SOURCE_DENIED_HOSTS]
    #[arg(long, value_name = "HOST,...", help_heading = SOURCE)]
    source_denied_hosts: Option<String>,

    /// Sources may come from these addresses although they are loopback or link-local ones [env: BRYO_SOURCE_REACH]
    #[arg(long, value_name = "ADDRESS[:PORT],...", value_delimiter = ',', help_heading = SOURCE)]
    source_reach: Option<Vec<Destination>>,

    /// Git gets your ssh agent and keys, ~/.netrc and GIT_ASKPASS where no configured credential is for the address
    /// [default: true] [env: BRYO_OWN_CREDENTIALS]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true, help_heading = SOURCE)]
    own_credentials: Option<bool>,

    /// Certificates that sources over https are believed with, one PEM file [env: BRYO_SOURCE_CA_BUNDLE]
    #[arg(long, value_name = "FILE", help_heading = SOURCE)]
    source_ca_bundle: Option<PathBuf>,

    /// Fetch only so many commits of a source's history [env: BRYO_SOURCE_DEPTH]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..), help_heading = SOURCE)]
    source_depth: Option<u32>,

    /// Fetch the files that a source keeps in Git LFS [env: BRYO_SOURCE_LFS]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true, help_heading = SOURCE)]
    lfs: Option<bool>,

    /// Where mirrors, checkouts and images are kept [default: $XDG_CACHE_HOME/bryo] [env: BRYO_CACHE_DIR]
    #[arg(long, value_name = "DIR", help_heading = HOST)]
    cache_dir: Option<PathBuf>,

    /// Where a job's own files are while it runs [default: work in the cache directory] [env: BRYO_WORK_DIR]
    #[arg(long, value_name = "DIR", help_heading = HOST)]
    work_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RuntimeArg {
    Auto,
    Crun,
    Podman,
}

/// It is kept as it was said, because the configuration takes it key by key.
fn ceiling(text: &str) -> Result<String, String> {
    text.parse::<Ceiling>()
        .map(|_| text.to_owned())
        .map_err(|e| e.to_string())
}

fn joined<T: ToString>(all: Option<&[T]>) -> Option<String> {
    let all: Vec<String> = all?.iter().map(ToString::to_string).collect();
    Some(all.join(","))
}

impl HostArgs {
    /// What was given, in the words of the configuration.
    pub(crate) fn flags(&self) -> Flags {
        let runtime = self.runtime.map(|runtime| match runtime {
            RuntimeArg::Auto => "auto",
            RuntimeArg::Crun => "crun",
            RuntimeArg::Podman => "podman",
        });
        let closed = joined(self.closed.as_deref());
        let protocols = joined(self.source_protocols.as_deref());
        let reach = joined(self.source_reach.as_deref());
        Flags::default()
            .say(&config::RUNTIME, "--runtime", runtime)
            .say(&config::CLOSED, "--closed", closed)
            .say(&config::REACH_HOST, "--reach-host", self.reach_host)
            .say(&config::HOST_NETWORK, "--host-network", self.host_network)
            .path(&config::CA_BUNDLE, "--ca-bundle", self.ca_bundle.as_deref())
            .say(&config::PASS_PROXY, "--pass-proxy", self.pass_proxy)
            .say(&config::OWN_IDS, "--own-ids", self.own_ids)
            .say(
                &config::APPARMOR_PROFILE,
                "--apparmor-profile",
                self.apparmor_profile.as_ref(),
            )
            .say(&config::SELINUX, "--selinux", self.selinux.as_ref())
            .at_most(self.at_most.clone())
            .path(&config::AUTHFILE, "--authfile", self.authfile.as_deref())
            .say(&config::PLAIN_HTTP, "--plain-http", self.plain_http)
            .say(&config::SOURCE_PROTOCOLS, "--source-protocols", protocols)
            .say(
                &config::SOURCE_ALLOWED_HOSTS,
                "--source-allowed-hosts",
                self.source_allowed_hosts.as_ref(),
            )
            .say(
                &config::SOURCE_DENIED_HOSTS,
                "--source-denied-hosts",
                self.source_denied_hosts.as_ref(),
            )
            .say(&config::SOURCE_REACH, "--source-reach", reach)
            .say(
                &config::SOURCE_OWN_CREDENTIALS,
                "--own-credentials",
                self.own_credentials,
            )
            .path(
                &config::SOURCE_CA_BUNDLE,
                "--source-ca-bundle",
                self.source_ca_bundle.as_deref(),
            )
            .say(&config::SOURCE_DEPTH, "--source-depth", self.source_depth)
            .say(&config::SOURCE_LFS, "--lfs", self.lfs)
            .path(&config::CACHE, "--cache-dir", self.cache_dir.as_deref())
            .path(&config::WORK, "--work-dir", self.work_dir.as_deref())
    }
}
