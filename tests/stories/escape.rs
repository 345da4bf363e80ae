//! Trying to get out: the same checks in a job of Bryo, where none may succeed, and in containers that are weak on
//! purpose, where they must: a check that nothing can turn shows nothing.

mod weak;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bryo_stories::World;

use crate::network::{host_addresses, listener};
use crate::stories;

/// Every check of the fixture, in its order: none can be missing.
const CHECKS: [&str; 67] = [
    "agent-files",
    "agent-files-through-proc",
    "image-cache",
    "source",
    "environment",
    "environment-of-others",
    "inherited-descriptors",
    "host-processes",
    "signal-host-processes",
    "signal-everybody",
    "trace",
    "memory-of-others",
    "descriptors-of-others",
    "mount-tmpfs",
    "mount-proc",
    "mount-bind",
    "mount-overlay",
    "remount-read-only",
    "unmount-masks",
    "new-mount-calls",
    "new-user-namespace",
    "new-mount-namespace",
    "new-network-namespace",
    "clone-user-namespace",
    "clone3-user-namespace",
    "join-namespaces",
    "agents-id",
    "more-capabilities",
    "capabilities-of-programs",
    "set-user-id-program",
    "change-root",
    "keyrings",
    "keyring-lookup",
    "bpf",
    "perf-events",
    "userfaultfd",
    "io-uring",
    "kernel-log",
    "personality",
    "new-kernel",
    "kernel-modules",
    "file-handles",
    "make-block-device",
    "make-character-device",
    "host-devices",
    "kernel-settings",
    "kernel-helpers",
    "magic-keys",
    "cgroups",
    "host-name",
    "out-of-memory-order",
    "terminal-input",
    "raw-sockets",
    "packet-sockets",
    "vm-sockets",
    "crypto-sockets",
    "multiplexed-sockets",
    "unix-sockets",
    "abstract-sockets",
    "host-loopback",
    "gateway",
    "host-address",
    "control-plane",
    "low-ports",
    "open-files",
    "core-dumps",
    "processes",
];

/// What is to be reached from inside: files, processes, sockets and ports of the user who runs Bryo.
struct Outside {
    secret: PathBuf,
    cache: PathBuf,
    bystander: Child,
    traceable: Option<(Child, String)>,
    told: Vec<(&'static str, String)>,
    _sockets: [UnixListener; 2],
}

impl Outside {
    fn new(world: &World) -> Self {
        let (secret, cache) = (world.path().join("secret"), world.path().join("a-cache"));
        fs::write(&secret, "a secret of the agent\n").unwrap();
        fs::create_dir(&cache).unwrap();
        let sleep = Command::new("sleep").arg("1000").spawn();
        let bystander = sleep.unwrap();
        let traceable = traceable();
        let socket = world.path().join("socket");
        let name = format!("bryo-escape-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [
            UnixListener::bind(&socket).unwrap(),
            UnixListener::bind_addr(&address).unwrap(),
        ];
        let home = std::env::var("HOME").unwrap();
        let runtime = std::env::var("XDG_RUNTIME_DIR").unwrap_or_default();
        // Without another address there is nothing to reach; the checks then find nobody at loopback.
        let host = host_addresses().into_iter().next();
        let host = host.unwrap_or_else(|| "127.0.0.1".to_owned());
        let told = vec![
            ("AGENT_UID", nix::unistd::getuid().to_string()),
            ("AGENT_FILES", format!("{}:{home}", secret.display())),
            (
                "AGENT_PIDS",
                format!("{},{}", bystander.id(), std::process::id()),
            ),
            (
                "TARGET_PIDS",
                traceable.as_ref().map_or_else(String::new, |t| t.1.clone()),
            ),
            (
                "SOCKETS",
                format!("{}:{runtime}/podman/podman.sock:@{name}", socket.display()),
            ),
            ("LOOPBACK", listener("127.0.0.1", 1).to_string()),
            ("ANYWHERE", listener("0.0.0.0", 1).to_string()),
            ("CLOSED", format!("{host}:{}", listener("0.0.0.0", 1))),
            ("HOST", host),
            ("CACHE", cache.display().to_string()),
        ];
        Self {
            secret,
            cache,
            bystander,
            traceable,
            told,
            _sockets: sockets,
        }
    }

    fn told(&self, name: &str) -> &str {
        let known = self.told.iter().find(|(known, _)| *known == name);
        known.map_or("", |(_, value)| value)
    }

    /// Nobody outside was hurt.
    fn is_unharmed(&mut self) {
        assert!(self.bystander.try_wait().unwrap().is_none());
        assert!(self.secret.exists() && self.cache.exists());
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let traceable = self.traceable.as_mut().map(|(child, _)| child);
        for child in std::iter::once(&mut self.bystander).chain(traceable) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some((_, pid)) = &self.traceable
            && let Ok(pid) = pid.parse()
        {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
    }
}

/// A process in podman's user namespace, whose processes the owner of a container in it may trace. Its number on the host.
fn traceable() -> Option<(Child, String)> {
    let mut child = Command::new("podman")
        .args(["unshare", "sh", "-c", "echo $$; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take()?)
        .read_line(&mut line)
        .ok()?;
    Some((child, line.trim().to_owned()))
}

/// The checks by name, with what came of each: `refused WHY`, `POSSIBLE HOW` or `skipped WHY`.
fn outcomes(file: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(name, rest)| (name.to_owned(), rest.to_owned()))
        .collect()
}

stories! {
    fn escape_checks(world) {
        let mut outside = Outside::new(world);
        let repository = world.repository("escape-checks");
        let mut bryo = world.command();
        bryo.args(["run", repository.path().to_str().unwrap(), "--json", "--runtime", world.runtime().word()])
            .args(["--image", &world.image("mkdocs.tar"), "--network", "isolated"])
            .args(["--closed", outside.told("CLOSED")])
            .arg("--output")
            .arg(world.site());
        for (name, value) in &outside.told {
            bryo.arg("--env").arg(format!("{name}={value}"));
        }
        bryo.args(["--", "sh", "/repo/build.sh"]);
        // A descriptor and a variable that the caller of Bryo has and no job is to have.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec 7< \"$1\"; shift; exec \"$@\"", "sh"])
            .arg(&outside.secret)
            .arg(bryo.get_program())
            .args(bryo.get_args())
            .envs(bryo.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("BRYO_ESCAPE_SECRET", "a secret of the agent")
            .current_dir(world.path());
        world.start_command(&mut command).end().ended(0, "succeeded");
        let found = outcomes(&world.site().join("checks"));
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        let mut wanted = CHECKS.to_vec();
        wanted.sort_unstable();
        assert_eq!(names, wanted);
        let refused = |name: &str, how: &str| {
            how.starts_with("refused ") || (name == "processes" && how.starts_with("skipped "))
        };
        let out: Vec<_> = found.iter().filter(|(name, how)| !refused(name, how)).collect();
        assert!(out.is_empty(), "ways out: {out:#?}");
        outside.is_unharmed();
    }
}
