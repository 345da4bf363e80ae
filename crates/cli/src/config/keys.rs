//! Every key that a configuration can have: its place, what its values are, its default, its variable.
//!
//! This table is the only list. What a file may say is checked against it, defaults are read from it, and a test holds
//! `config/etc/bryo/bryo.toml` against it. A `*` in a path stands for a name that the file chooses.

use super::kind::Kind;

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its place, for instance `agent.slots` or `feed.*.token`.
    pub(crate) path: &'static str,
    /// What its values are.
    pub(crate) kind: Kind,
    /// What holds where nobody says anything.
    pub(crate) default: Usual,
    /// The environment variable that says the same.
    pub(crate) variable: Option<&'static str>,
}

/// What holds where nobody says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usual {
    /// This value, in the form that an environment variable has.
    Is(&'static str),
    /// Something that is found out on the host; the text says how.
    Found(&'static str),
    /// Nothing.
    Absent,
}

/// Which of the keys that say one secret in different ways a key is.
const WAYS: [&str; 3] = ["-file", "-credential", "-env"];

impl Key {
    const fn new(path: &'static str, kind: Kind, default: Usual) -> Self {
        Self {
            path,
            kind,
            default,
            variable: None,
        }
    }

    const fn variable(mut self, name: &'static str) -> Self {
        self.variable = Some(name);
        self
    }

    /// The table that it stands in, with its `*`.
    pub(crate) fn table(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(table, _)| table)
    }

    /// Its own name in that table.
    pub(crate) fn word(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or(self.path, |(_, word)| word)
    }

    /// Keys of one group say the same thing in different ways, so that one of them is enough and two are too many.
    pub(crate) fn group(&self) -> Option<&'static str> {
        if self.table() == "jobs.secrets.*" {
            return Some(self.table());
        }
        let base = WAYS.iter().find_map(|way| self.path.strip_suffix(way));
        let base = base.unwrap_or(self.path);
        [
            TOKEN.path,
            S3_ACCESS_KEY.path,
            S3_SECRET_KEY.path,
            S3_SESSION_TOKEN.path,
            // Said by reference alone, so that no file with them is copied around.
            "source.credentials.*.token",
            "source.credentials.*.ssh-key",
        ]
        .into_iter()
        .find(|path| *path == base)
    }
}

use Usual::{Absent, Found, Is};

/// Names of stages, in their order, with the keys of their bounds.
pub(crate) const STAGES: [&Key; 5] = [
    &STAGE_FETCH,
    &STAGE_PREPARE,
    &STAGE_RUN,
    &STAGE_COLLECT,
    &STAGE_PUBLISH,
];

macro_rules! keys {
    ($($name:ident = $key:expr;)*) => {
        $(pub(crate) static $name: Key = $key;)*

        /// All of them, in the order in which they are shown.
        pub(crate) static ALL: &[&Key] = &[$(&$name),*];
    };
}

keys! {
    STATE = Key::new("agent.state", Kind::Path, Found("$STATE_DIRECTORY of a systemd unit, else $XDG_STATE_HOME/bryo")).variable("BRYO_STATE_DIR");
    CONTROL = Key::new("agent.control", Kind::Path, Found("control.sock in the state directory")).variable("BRYO_CONTROL");
    SLOTS = Key::new("agent.slots", Kind::Count, Is("1")).variable("BRYO_SLOTS");
    DRAIN = Key::new("agent.drain", Kind::Time, Is("5m")).variable("BRYO_DRAIN");
    RECOVERY = Key::new("agent.recovery", Kind::Word(&["report", "retry-once"]), Is("report")).variable("BRYO_RECOVERY");
    HISTORY = Key::new("agent.history", Kind::Time, Is("168h"));
    LISTEN = Key::new("agent.listen", Kind::Listen, Absent).variable("BRYO_LISTEN");
    LOG = Key::new("agent.log", Kind::Log, Is("info")).variable("BRYO_LOG");

    FEED_TYPE = Key::new("feed.*.type", Kind::Word(&["doc-thor"]), Absent);
    SERVER = Key::new("feed.*.server", Kind::Server, Absent);
    TOKEN = Key::new("feed.*.token", Kind::Secret, Absent);
    TOKEN_FILE = Key::new("feed.*.token-file", Kind::Path, Absent);
    TOKEN_CREDENTIAL = Key::new("feed.*.token-credential", Kind::Credential, Absent);
    TOKEN_ENV = Key::new("feed.*.token-env", Kind::Variable, Absent);
    POLL = Key::new("feed.*.poll", Kind::Time, Is("5s"));
    FEED_SLOTS = Key::new("feed.*.slots", Kind::Count, Found("agent.slots"));
    FEED_CA_BUNDLE = Key::new("feed.*.ca-bundle", Kind::Path, Absent);

    S3_ENDPOINT = Key::new("s3.endpoint", Kind::Url, Absent);
    S3_REGION = Key::new("s3.region", Kind::Text, Is("us-east-1"));
    S3_BUCKET = Key::new("s3.bucket", Kind::Text, Absent);
    S3_PATH_STYLE = Key::new("s3.path-style", Kind::Flag, Is("true"));
    S3_ACCESS_KEY = Key::new("s3.access-key", Kind::Text, Absent);
    S3_ACCESS_KEY_FILE = Key::new("s3.access-key-file", Kind::Path, Absent);
    S3_ACCESS_KEY_CREDENTIAL = Key::new("s3.access-key-credential", Kind::Credential, Absent);
    S3_ACCESS_KEY_ENV = Key::new("s3.access-key-env", Kind::Variable, Absent);
    S3_SECRET_KEY = Key::new("s3.secret-key", Kind::Secret, Absent);
    S3_SECRET_KEY_FILE = Key::new("s3.secret-key-file", Kind::Path, Absent);
    S3_SECRET_KEY_CREDENTIAL = Key::new("s3.secret-key-credential", Kind::Credential, Absent);
    S3_SECRET_KEY_ENV = Key::new("s3.secret-key-env", Kind::Variable, Absent);
    S3_SESSION_TOKEN = Key::new("s3.session-token", Kind::Secret, Absent);
    S3_SESSION_TOKEN_FILE = Key::new("s3.session-token-file", Kind::Path, Absent);
    S3_SESSION_TOKEN_CREDENTIAL = Key::new("s3.session-token-credential", Kind::Credential, Absent);
    S3_SESSION_TOKEN_ENV = Key::new("s3.session-token-env", Kind::Variable, Absent);
    S3_CA_BUNDLE = Key::new("s3.ca-bundle", Kind::Path, Absent);
    S3_PARALLEL = Key::new("s3.parallel", Kind::Count, Is("16"));
    S3_PART_SIZE = Key::new("s3.part-size", Kind::Size, Is("8m"));
    S3_CACHE_CONTROL = Key::new("s3.cache-control", Kind::CacheRules, Is(""));

    NETWORK = Key::new("jobs.network", Kind::Word(&["none", "isolated"]), Is("isolated"));
    ALLOW = Key::new("jobs.allow", Kind::Destinations, Is(""));
    DENY = Key::new("jobs.deny", Kind::Destinations, Is(""));
    READ_ONLY = Key::new("jobs.read-only", Kind::Flag, Is("false"));
    ALLOW_UNLIMITED = Key::new("jobs.allow-unlimited", Kind::Flag, Is("false"));
    DEFAULT_IMAGE = Key::new("jobs.default-image", Kind::Image, Absent);
    DEFAULT_REGISTRY = Key::new("jobs.default-registry", Kind::Registry, Absent).variable("BRYO_DEFAULT_REGISTRY");
    ALLOWED_IMAGES = Key::new("jobs.allowed-images", Kind::ImagePatterns, Is(""));
    ALLOWED_HOSTS = Key::new("jobs.allowed-hosts", Kind::HostPatterns, Is(""));
    LOCAL_SOURCES = Key::new("jobs.local-sources", Kind::Flag, Is("false"));
    REPORTED_LOG = Key::new("jobs.reported-log", Kind::Size, Is("1m"));
    JOB_IMAGES = Key::new("jobs.images.*", Kind::Image, Absent);
    JOB_ENV = Key::new("jobs.env.*", Kind::EnvValue, Absent);
    JOB_SECRET_VALUE = Key::new("jobs.secrets.*.value", Kind::Secret, Absent);
    JOB_SECRET_FILE = Key::new("jobs.secrets.*.file", Kind::Path, Absent);
    JOB_SECRET_CREDENTIAL = Key::new("jobs.secrets.*.credential", Kind::Credential, Absent);
    JOB_SECRET_ENV = Key::new("jobs.secrets.*.env", Kind::Variable, Absent);

    MEMORY = Key::new("jobs.limits.memory", Kind::Size, Absent);
    MEMORY_HIGH = Key::new("jobs.limits.memory-high", Kind::Size, Absent);
    CPUS = Key::new("jobs.limits.cpus", Kind::Cpus, Absent);
    CPU_WEIGHT = Key::new("jobs.limits.cpu-weight", Kind::Weight, Absent);
    PIDS = Key::new("jobs.limits.pids", Kind::Small, Absent);
    IO_READ = Key::new("jobs.limits.io-read", Kind::Size, Absent);
    IO_WRITE = Key::new("jobs.limits.io-write", Kind::Size, Absent);
    DISK = Key::new("jobs.limits.disk", Kind::Size, Absent);
    DISK_FILES = Key::new("jobs.limits.disk-files", Kind::Count, Absent);
    OUTPUT = Key::new("jobs.limits.output", Kind::Size, Is("16g"));
    OUTPUT_FILES = Key::new("jobs.limits.output-files", Kind::Count, Is("1000000"));
    LOG_KEPT = Key::new("jobs.limits.log", Kind::Size, Absent);
    TIMEOUT = Key::new("jobs.limits.timeout", Kind::Time, Is("1h"));
    SILENCE = Key::new("jobs.limits.silence", Kind::Time, Absent);
    GRACE = Key::new("jobs.limits.grace", Kind::Time, Is("10s"));
    STOP_SIGNAL = Key::new("jobs.limits.stop-signal", Kind::Signal, Found("the image's own, else TERM"));
    STAGE_FETCH = Key::new("jobs.limits.stages.fetch", Kind::Time, Absent);
    STAGE_PREPARE = Key::new("jobs.limits.stages.prepare", Kind::Time, Absent);
    STAGE_RUN = Key::new("jobs.limits.stages.run", Kind::Time, Absent);
    STAGE_COLLECT = Key::new("jobs.limits.stages.collect", Kind::Time, Absent);
    STAGE_PUBLISH = Key::new("jobs.limits.stages.publish", Kind::Time, Absent);

    CACHE = Key::new("host.cache", Kind::Path, Found("$XDG_CACHE_HOME/bryo")).variable("BRYO_CACHE_DIR");
    WORK = Key::new("host.work", Kind::Path, Found("work in the cache directory")).variable("BRYO_WORK_DIR");
    RUNTIME = Key::new("host.runtime", Kind::Word(&["auto", "crun", "podman"]), Is("auto")).variable("BRYO_RUNTIME");
    CLOSED = Key::new("host.closed", Kind::Destinations, Is("")).variable("BRYO_CLOSED");
    CLOSE_CONTROL_PLANE = Key::new("host.close-control-plane", Kind::Flag, Is("true"));
    REACH_HOST = Key::new("host.reach-host", Kind::Flag, Is("false")).variable("BRYO_REACH_HOST");
    HOST_NETWORK = Key::new("host.host-network", Kind::Flag, Is("false")).variable("BRYO_HOST_NETWORK");
    CA_BUNDLE = Key::new("host.ca-bundle", Kind::Path, Absent).variable("BRYO_CA_BUNDLE");
    PASS_PROXY = Key::new("host.pass-proxy", Kind::Flag, Is("false")).variable("BRYO_PASS_PROXY");
    OWN_IDS = Key::new("host.own-ids", Kind::Flag, Is("false")).variable("BRYO_OWN_IDS");
    APPARMOR_PROFILE = Key::new("host.apparmor-profile", Kind::Text, Absent).variable("BRYO_APPARMOR_PROFILE");
    SELINUX = Key::new("host.selinux", Kind::Text, Is("auto")).variable("BRYO_SELINUX");
    AUTHFILE = Key::new("host.authfile", Kind::Path, Found("where podman and skopeo look")).variable("REGISTRY_AUTH_FILE");
    PLAIN_HTTP = Key::new("host.plain-http", Kind::Flag, Is("false"));
    MOST_MEMORY = Key::new("host.at-most.memory", Kind::Size, Absent);
    MOST_CPUS = Key::new("host.at-most.cpus", Kind::Cpus, Absent);
    MOST_PIDS = Key::new("host.at-most.pids", Kind::Small, Absent);
    MOST_DISK = Key::new("host.at-most.disk", Kind::Size, Absent);
    MOST_DISK_FILES = Key::new("host.at-most.disk-files", Kind::Count, Absent);
    MOST_OUTPUT = Key::new("host.at-most.output", Kind::Size, Absent);
    MOST_OUTPUT_FILES = Key::new("host.at-most.output-files", Kind::Count, Absent);
    MOST_LOG = Key::new("host.at-most.log", Kind::Size, Absent);
    MOST_TIMEOUT = Key::new("host.at-most.timeout", Kind::Time, Absent);
    MOST_SILENCE = Key::new("host.at-most.silence", Kind::Time, Absent);
    MOST_GRACE = Key::new("host.at-most.grace", Kind::Time, Absent);

    SOURCE_PROTOCOLS = Key::new("source.protocols", Kind::Protocols, Is("https,ssh,file")).variable("BRYO_SOURCE_PROTOCOLS");
    SOURCE_ALLOWED_HOSTS = Key::new("source.allowed-hosts", Kind::Hosts, Is("")).variable("BRYO_SOURCE_ALLOWED_HOSTS");
    SOURCE_DENIED_HOSTS = Key::new("source.denied-hosts", Kind::Hosts, Is("")).variable("BRYO_SOURCE_DENIED_HOSTS");
    SOURCE_REACH = Key::new("source.reach", Kind::Destinations, Is("")).variable("BRYO_SOURCE_REACH");
    SOURCE_OWN_CREDENTIALS = Key::new("source.own-credentials", Kind::Flag, Found("true for bryo run, false for bryo agent")).variable("BRYO_OWN_CREDENTIALS");
    SOURCE_SUBMODULE_CREDENTIALS = Key::new("source.submodule-credentials", Kind::Hosts, Is(""));
    SOURCE_CA_BUNDLE = Key::new("source.ca-bundle", Kind::Path, Found("the system's")).variable("BRYO_SOURCE_CA_BUNDLE");
    SOURCE_DEPTH = Key::new("source.depth", Kind::Small, Absent).variable("BRYO_SOURCE_DEPTH");
    SOURCE_LFS = Key::new("source.lfs", Kind::Flag, Is("false")).variable("BRYO_SOURCE_LFS");
    SOURCE_TIMEOUT = Key::new("source.timeout", Kind::Time, Is("1h"));
    SOURCE_STALL = Key::new("source.stall", Kind::Time, Is("2m"));
    SOURCE_BYTES = Key::new("source.bytes", Kind::Size, Is("8g"));
    SOURCE_MEMORY = Key::new("source.memory", Kind::Size, Is("2g"));
    CREDENTIAL_URL = Key::new("source.credentials.*.url", Kind::UrlPrefix, Absent);
    CREDENTIAL_USER = Key::new("source.credentials.*.user", Kind::Text, Is("git"));
    CREDENTIAL_TOKEN_FILE = Key::new("source.credentials.*.token-file", Kind::Path, Absent);
    CREDENTIAL_TOKEN_CREDENTIAL = Key::new("source.credentials.*.token-credential", Kind::Credential, Absent);
    CREDENTIAL_TOKEN_ENV = Key::new("source.credentials.*.token-env", Kind::Variable, Absent);
    CREDENTIAL_SSH_KEY_FILE = Key::new("source.credentials.*.ssh-key-file", Kind::Path, Absent);
    CREDENTIAL_SSH_KEY_CREDENTIAL = Key::new("source.credentials.*.ssh-key-credential", Kind::Credential, Absent);
    CREDENTIAL_SSH_KEY_ENV = Key::new("source.credentials.*.ssh-key-env", Kind::Variable, Absent);
    CREDENTIAL_SSH_AGENT = Key::new("source.credentials.*.ssh-agent", Kind::Path, Absent);
    CREDENTIAL_KNOWN_HOSTS = Key::new("source.credentials.*.known-hosts", Kind::Path, Absent);

    CACHE_BYTES = Key::new("cache.bytes", Kind::Size, Absent);
    CACHE_UNUSED = Key::new("cache.unused", Kind::Time, Is("720h"));

    FREE_BYTES = Key::new("watermarks.free-bytes", Kind::Size, Is("1g"));
    FREE_INODES = Key::new("watermarks.free-inodes", Kind::Count, Is("10000"));
}
