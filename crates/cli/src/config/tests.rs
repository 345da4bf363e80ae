//! The documented file, and settings from whole configurations.

use std::path::{Path, PathBuf};

use super::effective::default;
use super::environment::Environment;
use super::keys::{ALL, Usual};
use super::*;

/// The documented file with every commented value said.
fn uncommented() -> String {
    let key = |line: &str| line.starts_with('#') && !line.starts_with("# ");
    let lines = DOCUMENTED
        .lines()
        .map(|line| if key(line) { &line[1..] } else { line });
    lines.map(|line| format!("{line}\n")).collect()
}

fn parsed(text: &str) -> (fragment::Fragment, Vec<String>) {
    let (fragment, problems) =
        toml_file::parse(Path::new("/f"), text, Some(Path::new("/home/ana")));
    (fragment, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn the_documented_file_says_nothing_as_it_is() {
    let (fragment, problems) = parsed(DOCUMENTED);
    assert_eq!(problems, [""; 0]);
    assert!(fragment.entries().is_empty());
}

#[test]
fn the_documented_file_has_every_key_with_its_real_default() {
    // One secret cannot be said in four ways, so those are looked at one way after the other.
    let ways = ["-file", "-credential", "-env"];
    let mut said: Vec<(String, Value)> = Vec::new();
    for way in ["", ways[0], ways[1], ways[2]] {
        let kept = |line: &&str| {
            let word = line.split(" =").next().unwrap_or_default();
            let secret = [
                "token",
                "access-key",
                "secret-key",
                "session-token",
                "ssh-key",
            ];
            let secret = secret
                .iter()
                .find_map(|base| word.strip_prefix(base))
                .filter(|rest| rest.is_empty() || ways.contains(rest));
            let of_jobs = match word {
                "value" => Some(""),
                "file" => Some("-file"),
                "credential" => Some("-credential"),
                "env" => Some("-env"),
                _ => None,
            };
            secret.or(of_jobs).is_none_or(|its| its == way)
        };
        let text: String = uncommented()
            .lines()
            .filter(kept)
            .map(|line| format!("{line}\n"))
            .collect();
        let (fragment, problems) = parsed(&text);
        assert_eq!(problems, [""; 0]);
        said.extend(
            fragment
                .into_iter()
                .map(|entry| (entry.key.path.to_owned(), entry.value)),
        );
    }
    for key in ALL {
        let values: Vec<&Value> = said
            .iter()
            .filter(|(path, _)| path == key.path)
            .map(|(_, value)| value)
            .collect();
        assert!(!values.is_empty(), "{} is not in the file", key.path);
        match key.default {
            Usual::Is(text) => assert!(
                default(key, "").is_some_and(|entry| entry.value == *values[0]),
                "{}: the default is {text}",
                key.path
            ),
            Usual::Found(_) | Usual::Absent => {}
        }
    }
}

#[test]
fn every_key_and_variable_stands_in_the_documentation() {
    let page = include_str!("../../../../docs/configuration.md");
    for key in ALL {
        let ways = ["-file", "-credential", "-env"];
        let secret = ways.iter().any(|way| key.path.ends_with(way));
        let said = |word: &str| page.contains(&format!("`{word}`"));
        assert!(
            secret || key.word() == "*" || said(key.word()),
            "{}",
            key.path
        );
        let table = key.table().replace('*', "NAME");
        assert!(said(&format!("[{table}]")), "{table}");
        assert!(key.variable.is_none_or(said), "{:?}", key.variable);
    }
}

struct Case {
    dir: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Case {
    fn new(text: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bryo.toml");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self {
            dir,
            variables: Vec::new(),
        }
    }

    fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn file(self, name: &str, text: &str, mode: u32) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let file = self.dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn read(&self) -> Result<AgentConfig, Vec<String>> {
        let variables: Vec<(&str, &str)> = self
            .variables
            .iter()
            .map(|(n, v)| (*n, v.as_str()))
            .collect();
        let around = Surroundings {
            environment: Environment::of(&variables),
            here: PathBuf::from("/here"),
            home: Some(PathBuf::from("/home/ana")),
            config_dirs: vec![self.dir.path().to_owned()],
            credentials: Some(self.dir.path().join("credentials")),
            places: Places {
                cache: Some("/cache".into()),
                state: Some("/state".into()),
                ..Places::default()
            },
        };
        let loaded = load(About::Agent, &around, None, Flags::default());
        let secrets = around.secrets(true);
        let mut reader = around.reader(&loaded, &secrets);
        let config = reader.agent(&around.places, "/home/ana/.config/bryo/bryo.toml");
        let problems = reader.problems;
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(problems
                .iter()
                .map(|p| p.to_string().replace(self.dir.path().to_str().unwrap(), ""))
                .collect()),
        }
    }
}

const WHOLE: &str = "[feed.docs]\ntype = 'doc-thor'\nserver = 'https://192.0.2.1'\ntoken = 'hidden-1'\n[s3]\n\
                     endpoint = 'http://192.0.2.2:3900'\nbucket = 'b'\naccess-key = 'GK'\nsecret-key = 'hidden-2'\n";

#[test]
fn a_short_configuration_is_enough_for_an_agent() {
    let config = Case::new(WHOLE).read().unwrap();
    let agent = &config.agent;
    assert_eq!(agent.control, Path::new("/state/control.sock"));
    assert_eq!(
        (agent.slots, agent.drain.as_secs(), agent.history.as_secs()),
        (1, 300, 7 * 86_400)
    );
    assert_eq!(agent.depot.credentials.secret_key.expose(), "hidden-2");
    assert_eq!(config.engine.work, Path::new("/cache/work"));
    assert_eq!(agent.jobs.limits, bryo_model::Limits::default());
    let closed: Vec<u16> = config.control_plane.iter().map(Address::port).collect();
    assert_eq!(closed, [443, 3900]);
    let bryo_agent::FeedSettings::DocThor(feed) = &agent.feeds[0];
    assert_eq!(
        (feed.token.expose(), feed.poll.as_secs(), feed.slots),
        ("hidden-1", 5, 1)
    );
    assert!(!format!("{config:?}").contains("hidden-"));
}

#[test]
fn the_variables_of_doc_thor_are_enough_for_an_agent() {
    let case = [
        ("BUILDER_TOKEN", "hidden-1"),
        ("STORAGE_ENDPOINT", "http://localhost:3900"),
        ("STORAGE_ACCESS_KEY", "GK"),
        ("STORAGE_SECRET_KEY", "hidden-2"),
        ("POLL_INTERVAL", "7 # seconds"),
        ("WORKSPACE_DIR", "/w"),
    ];
    let case = case.into_iter().fold(Case::new(""), |case, (name, value)| {
        case.variable(name, value)
    });
    let config = case.read().unwrap();
    let bryo_agent::FeedSettings::DocThor(feed) = &config.agent.feeds[0];
    assert_eq!(
        (
            feed.name.as_str(),
            feed.server.as_str(),
            feed.poll.as_secs()
        ),
        ("doc-thor", "http://localhost:8080", 7)
    );
    assert_eq!(
        (
            config.agent.depot.bucket.as_str(),
            config.agent.depot.region.as_str()
        ),
        ("doc-thor-docs", "us-east-1")
    );
    assert_eq!(
        config
            .agent
            .jobs
            .limits
            .of_stage(bryo_model::Stage::Run)
            .map(|d| d.as_secs()),
        Some(300)
    );
    assert_eq!(
        config.agent.jobs.default_registry.as_deref(),
        Some("docker.io")
    );
    assert_eq!(config.engine.work, Path::new("/w"));
}

#[test]
fn a_run_of_doc_thors_is_not_cut_by_a_bound_of_ours() {
    let with = |toml: &str, seconds: &str| {
        let case = Case::new(&format!("{WHOLE}{toml}"));
        let case = case.variable("SERVER_URL", "https://192.0.2.1");
        case.variable("CONTAINER_TIMEOUT", seconds).read()
    };
    let bounds = |toml: &str, seconds: &str| {
        let limits = with(toml, seconds).unwrap().agent.jobs.limits;
        let run = limits.of_stage(bryo_model::Stage::Run).unwrap();
        (run.as_secs(), limits.timeout.as_secs())
    };
    assert_eq!(bounds("", "7200 # two hours"), (7200, 10_800));
    assert_eq!(bounds("", "31622400"), (31_622_400, 31_622_400));
    let said = "[jobs.limits]\ntimeout = '2h'\n";
    assert_eq!(bounds(said, "7200"), (7200, 7200));
    let most = "[host.at-most]\ntimeout = '150m'\n";
    assert_eq!(bounds(most, "7200"), (7200, 9000));
    for (toml, key) in [
        (said, "jobs.limits.timeout (2h, /bryo.toml:11)"),
        (most, "host.at-most.timeout (150m, /bryo.toml:11)"),
    ] {
        let told = with(toml, "9001").unwrap_err();
        assert_eq!(
            told,
            [format!(
                "variable CONTAINER_TIMEOUT: it is longer than {key}, which would end the attempt before; \
                 raise that one too, or lower this one"
            )]
        );
    }
}

#[test]
fn a_pattern_that_matches_nothing_is_told_where_it_is_said() {
    for (key, pattern, hint) in [
        ("allowed-images", "docker.io/[lib/*", "is no pattern"),
        ("allowed-images", "docker.io/library/alpine", "alpine:*"),
        ("allowed-images", "", "names no registry"),
        ("allowed-hosts", "https://git.example.org", "HOST:PORT"),
        ("allowed-hosts", "[git.example.org", "is no pattern"),
    ] {
        let told = Case::new(&format!("{WHOLE}[jobs]\n{key} = ['*', '{pattern}']\n"));
        let told = told.read().unwrap_err();
        assert_eq!(told.len(), 1, "{told:?}");
        let at = format!("/bryo.toml:11: jobs.{key}: ");
        assert!(
            told[0].starts_with(&at) && told[0].contains(hint),
            "{told:?}"
        );
    }
}

#[test]
fn all_that_is_missing_is_told_with_what_to_write() {
    let told = Case::new("").read().unwrap_err();
    let begins = [
        "there is no feed",
        "s3.endpoint is missing",
        "s3.bucket is missing",
        "s3.access-key is missing",
        "s3.secret-key is missing",
    ];
    assert_eq!(told.len(), begins.len(), "{told:?}");
    assert!(
        told.iter()
            .zip(begins)
            .all(|(told, begin)| told.starts_with(begin)),
        "{told:?}"
    );
    assert!(
        told[0].contains("[feed.NAME]")
            && told[0].contains("/home/ana/.config/bryo/bryo.toml")
            && told[0].contains("BUILDER_TOKEN")
    );
    let told = Case::new("[feed.docs]\npoll = '1ms'\n").read().unwrap_err();
    assert_eq!(
        told.iter()
            .filter(|line| line.starts_with("feed.docs."))
            .count(),
        3,
        "{told:?}"
    );
    assert!(
        told.iter().any(|line| line.contains("every 100ms at most")),
        "{told:?}"
    );
}

#[test]
fn a_secret_comes_from_a_file_a_credential_or_a_variable() {
    let text = WHOLE
        .replace("token = 'hidden-1'", "token-file = 't'")
        .replace("secret-key = 'hidden-2'", "secret-key-credential = 'c'")
        .replace("access-key = 'GK'", "access-key-env = 'KEY'");
    let case = || {
        let case = Case::new(&text)
            .file("t", "hidden-3\n", 0o600)
            .variable("KEY", "GK2");
        std::fs::create_dir(case.dir.path().join("credentials")).unwrap();
        case.file("credentials/c", "hidden-4", 0o440)
    };
    let config = case().read().unwrap();
    let bryo_agent::FeedSettings::DocThor(feed) = &config.agent.feeds[0];
    let keys = &config.agent.depot.credentials;
    assert_eq!(
        (
            feed.token.expose(),
            keys.secret_key.expose(),
            keys.access_key.as_str()
        ),
        ("hidden-3", "hidden-4", "GK2")
    );

    for (case, why) in [
        (
            case().file("t", "hidden-3", 0o644),
            "/t: holds a secret and others can read it (mode 644); chmod 600 /t",
        ),
        (
            case().file("t", "\n", 0o600),
            "/bryo.toml:4: feed.docs.token-file: the secret is empty",
        ),
        (
            case().file("t", "a\nb\n", 0o600),
            "the secret has control characters in it",
        ),
        (
            case().variable("KEY", ""),
            "s3.access-key-env: the variable KEY is not set",
        ),
        (
            Case::new(&text)
                .file("t", "hidden-3", 0o600)
                .variable("KEY", "k"),
            "write LoadCredential=c:FILE into the unit",
        ),
        (
            Case::new(WHOLE).file("bryo.toml", WHOLE, 0o640),
            "/bryo.toml: holds a secret and others can read it (mode 640); chmod 600",
        ),
        (
            Case::new(WHOLE).file("bryo.toml", "[agent]\n", 0o666),
            "everybody can change it",
        ),
    ] {
        let told = case.read().unwrap_err();
        assert!(
            told.iter().any(|line| line.contains(why)),
            "{why}: {told:?}"
        );
        assert!(!told.concat().contains("hidden-"), "{told:?}");
    }
}

#[test]
fn cache_rules_stand_in_their_order() {
    let with =
        |lines: &str| Case::new(&WHOLE.replace("[s3]\n", &format!("[s3]\n{lines}\n"))).read();
    let config = with("cache-control = ['*.html: no-cache', 'assets/**: max-age=60, immutable']\npart-size = '6m'").unwrap();
    let rule = |pattern, value| bryo_depot::CacheRule::new(pattern, value).unwrap();
    let tuning = &config.agent.depot_tuning;
    assert_eq!(
        tuning.cache_rules,
        [
            rule("*.html", "no-cache"),
            rule("assets/**", "max-age=60, immutable")
        ]
    );
    assert_eq!(tuning.part_size, 6 << 20);
    for (bad, why) in [
        (
            "cache-control = ['*.html']",
            "\"*.html\" is not PATTERN: VALUE",
        ),
        (
            "cache-control = ['*.html: ']",
            "is no value for Cache-Control",
        ),
        ("cache-control = ['a**b/[: x']", "cannot be read"),
        ("part-size = '4m'", "no parts smaller than 5m"),
    ] {
        let told = with(bad).unwrap_err();
        assert!(told[0].contains(why), "{told:?}");
    }
}

#[test]
fn the_told_defaults_of_s3_are_those_of_the_depot() {
    let config = Case::new(WHOLE).read().unwrap();
    assert_eq!(
        config.agent.depot_tuning.part_size,
        bryo_depot::S3Tuning::default().part_size
    );
}

#[test]
fn jobs_get_what_is_written_for_them() {
    let text = format!(
        "{WHOLE}[jobs]\nallow = ['10.0.0.0/8:443']\ndefault-image = 'oci:i'\nallow-unlimited = true\n[jobs.images]\n'a:1' = 'docker.io/x/a:1'\n\
         [jobs.env]\nA = ''\n[jobs.secrets.S]\nvalue = 'hunter2'\n[jobs.limits]\npids = 7\ncpus = 0.5\noutput = '1g'\n[jobs.limits.stages]\nfetch = 60\n\
         [host]\nclose-control-plane = false\n[host.at-most]\ntimeout = '2h'\n"
    );
    let config = Case::new(&text)
        .variable("BRYO_AT_MOST", "pids=9")
        .variable("BRYO_CLOSED", "192.0.2.0/24")
        .read()
        .unwrap();
    let jobs = &config.agent.jobs;
    assert_eq!(jobs.egress.allow.len(), 1);
    assert_eq!(jobs.limit_policy, bryo_model::LimitPolicy::AllowUnlimited);
    assert_eq!(jobs.images["a:1"].to_string(), "docker.io/x/a:1");
    assert_eq!(
        (
            jobs.env[0].name(),
            jobs.env[0].value(),
            jobs.secrets[0].value()
        ),
        ("A", "", "hunter2")
    );
    assert_eq!(
        (
            jobs.limits.pids,
            jobs.limits.cpus.map(bryo_model::Cpus::millis)
        ),
        (Some(7), Some(500))
    );
    assert_eq!(
        (
            jobs.limits.output.map(bryo_model::ByteSize::bytes),
            jobs.limits.output_files
        ),
        (Some(1 << 30), None)
    );
    assert_eq!(
        (
            config.engine.ceiling.timeout.map(|t| t.as_secs()),
            config.engine.ceiling.pids
        ),
        (Some(7200), Some(9))
    );
    assert_eq!(config.engine.network.closed.len(), 1);
    assert!(config.control_plane.is_empty());
    let told = Case::new(&text.replace("A = ''", "S = 'x'"))
        .read()
        .unwrap_err();
    assert!(
        told[0].contains("jobs.env.S: it is among jobs.secrets too"),
        "{told:?}"
    );
}

#[test]
fn what_is_shown_is_a_configuration_again_without_its_secrets() {
    let case = Case::new(WHOLE);
    let around_file = case.dir.path().join("bryo.toml");
    let found = files::named(&around_file, None);
    let mut loaded = Loaded::default();
    found
        .fragments
        .into_iter()
        .for_each(|fragment| loaded.merged.take(fragment));
    let places = Places {
        state: Some("/state".into()),
        ..Places::default()
    };
    let shown = loaded.show(&places);
    assert!(
        !shown.contains("hidden-1") && !shown.contains("hidden-2"),
        "{shown}"
    );
    assert!(
        shown.contains(&format!(
            "server = \"https://192.0.2.1\"  # {}:3\n",
            around_file.display()
        )),
        "{shown}"
    );
    assert!(
        shown.contains("token = \"***\"") && shown.contains("slots = 1  # default"),
        "{shown}"
    );
    let (again, problems) = parsed(&shown);
    assert_eq!(problems, [""; 0]);
    assert!(
        shown.contains("control = \"/state/control.sock\"  # default"),
        "{shown}"
    );
    let all = Effective {
        merged: &loaded.merged,
        places: &places,
    }
    .all();
    assert_eq!(again.entries().len(), all.len());
    let json = loaded.show_json(&places);
    assert_eq!(json["feed.docs.token"]["value"], "***");
    assert_eq!(json["agent.drain"]["origin"], "default");
}

const CREDENTIALS: &str = "[source]\nlfs = true\nprotocols = ['https', 'http']\nreach = ['127.0.0.1:3000']\nallowed-hosts = ['*.example.org']\n\
    [source.credentials.token]\nurl = 'https://git.example.org/org'\nuser = 'ana'\ntoken-file = 'token'\n\
    [source.credentials.unit]\nurl = 'https://git.example.org'\ntoken-credential = 'git'\n\
    [source.credentials.variable]\nurl = 'http://git.example.org'\ntoken-env = 'GIT_TOKEN'\n\
    [source.credentials.key]\nurl = 'ssh://git@git.example.org'\nssh-key-file = 'token'\nknown-hosts = 'known'\n\
    [source.credentials.agent]\nurl = 'ssh://other.example.org'\nssh-agent = '/run/agent'\nknown-hosts = 'known'\n";

fn with_credentials(text: &str) -> Case {
    let case = Case::new(&format!("{WHOLE}{text}"))
        .file("token", "hidden-3\n", 0o600)
        .file("known", "git.example.org ssh-ed25519 AAAA\n", 0o644)
        .variable("GIT_TOKEN", "hidden-4");
    std::fs::create_dir(case.dir.path().join("credentials")).unwrap();
    case.file("credentials/git", "hidden-5", 0o400)
}

#[test]
fn credentials_for_sources_in_each_way() {
    use bryo_source::{Credential, SecretRef};
    let config = with_credentials(CREDENTIALS).read().unwrap();
    let policy = &config.engine.source;
    assert!(!policy.own_credentials && policy.lfs);
    assert_eq!(policy.protocols.len(), 2);
    let kinds = policy.credentials.iter().map(|rule| {
        let (kind, secret) = match &rule.credential {
            Credential::Password { user, password } => (user.as_str(), Some(password)),
            Credential::SshKey { key, .. } => ("key", Some(key)),
            Credential::SshAgent { .. } => ("agent", None),
        };
        let place = secret.map(|secret| match secret {
            SecretRef::Value(_) => "here",
            SecretRef::File(path) if path.ends_with("credentials/git") => "unit",
            SecretRef::File(_) => "file",
            SecretRef::Unavailable(_) => "nowhere",
        });
        (rule.name.as_str(), kind, place)
    });
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        [
            ("agent", "agent", None),
            ("key", "key", Some("file")),
            ("token", "ana", Some("file")),
            ("unit", "git", Some("unit")),
            ("variable", "git", Some("here")),
        ]
    );
    assert!(!format!("{config:?}").contains("hidden-"));
}

#[test]
fn credentials_that_cannot_be_used_are_told() {
    for (said, told) in [
        ("url = 'https://h'\n", "token-file"),
        (
            "token-file = 'token'\n",
            "source.credentials.x.url is missing",
        ),
        ("url = 'https://h'\ntoken-file = 'none'\n", "No such file"),
        ("url = 'https://h'\ntoken-file = 'open'\n", "chmod 600"),
        ("url = 'https://h'\ntoken-env = 'NONE'\n", "NONE is not set"),
        (
            "url = 'https://h'\ntoken-file = 'token'\ntoken-env = 'GIT_TOKEN'\n",
            "say the same thing twice",
        ),
        ("url = 'https://h'\ntoken = 'hidden-6'\n", "unknown key"),
        ("url = 'https://h'\nssh-key-file = 'token'\n", "token-file"),
        ("url = 'ssh://h'\ntoken-file = 'token'\n", "ssh-key-file"),
        ("url = 'ssh://h'\nssh-key-file = 'token'\n", "known-hosts"),
        (
            "url = 'ssh://h'\nssh-agent = '/s'\nknown-hosts = 'none'\n",
            "No such file",
        ),
        (
            "url = 'https://ana:hidden-7@h'\ntoken-file = 'token'\n",
            "contains a password",
        ),
        ("url = 'git.example.org'\ntoken-file = 'token'\n", "url"),
    ] {
        let case = with_credentials(&format!("[source.credentials.x]\n{said}"));
        let problems = case.file("open", "hidden-8", 0o644).read().unwrap_err();
        let all = problems.join("\n");
        assert!(all.contains(told), "{said}: {all}");
        assert!(!all.contains("hidden-"), "{all}");
    }
    for bad in [
        "protocols = ['ftp']",
        "allowed-hosts = ['a b']",
        "reach = ['localhost']",
        "depth = 0",
    ] {
        let problems = with_credentials(&format!("[source]\n{bad}\n"))
            .read()
            .unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}

#[test]
fn one_job_learns_of_a_credential_only_when_it_needs_it() {
    let case =
        with_credentials("[source.credentials.x]\nurl = 'https://h'\ntoken-credential = 'none'\n");
    let around = Surroundings {
        environment: Environment::of(&[]),
        here: PathBuf::from("/here"),
        home: None,
        config_dirs: vec![case.dir.path().to_owned()],
        credentials: None,
        places: Places {
            cache: Some("/cache".into()),
            ..Places::default()
        },
    };
    let loaded = load(About::Run, &around, None, Flags::default());
    let secrets = around.secrets(true);
    let mut reader = around.reader(&loaded, &secrets);
    let settings = reader.host(&around.places, About::Run).unwrap();
    assert_eq!(
        (&reader.problems[..], &reader.notes[..]),
        (&[][..], &[][..])
    );
    assert!(settings.source.own_credentials && !settings.source.lfs);
    let bryo_source::Credential::Password { password, .. } =
        &settings.source.credentials[0].credential
    else {
        panic!("it is a token");
    };
    let bryo_source::SecretRef::Unavailable(why) = password else {
        panic!("it is not here");
    };
    assert!(why.contains("LoadCredential=none"), "{why}");
}
