//! Containers that are weak on purpose: every check is seen to succeed at least once.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use bryo_stories::{Runtime, World};

use super::{CHECKS, Outside, outcomes};

/// What no container of an ordinary user can turn: the kernel asks for a privilege in the host's own user namespace, or
/// the host's own settings bound everybody.
const UNTURNABLE: [(&str, &str); 11] = [
    (
        "bpf",
        "CAP_BPF on the host, where kernel.unprivileged_bpf_disabled is set",
    ),
    (
        "kernel-log",
        "CAP_SYSLOG on the host, where kernel.dmesg_restrict is set",
    ),
    ("new-kernel", "CAP_SYS_BOOT on the host"),
    ("kernel-modules", "CAP_SYS_MODULE on the host"),
    ("file-handles", "CAP_DAC_READ_SEARCH on the host"),
    ("make-block-device", "CAP_MKNOD on the host"),
    ("make-character-device", "CAP_MKNOD on the host"),
    ("kernel-helpers", "files of the host's root"),
    ("magic-keys", "a file of the host's root"),
    ("out-of-memory-order", "CAP_SYS_RESOURCE on the host"),
    (
        "open-files",
        "the user's own hard limit, which may be lower than a job's",
    ),
];

/// What a kernel may be built without, and what a check says then where no filter could have said it.
const BUILT_WITHOUT: [(&str, &str); 4] = [
    ("vm-sockets", "Address family not supported"),
    ("crypto-sockets", "Address family not supported"),
    ("multiplexed-sockets", "this machine has no such call"),
    // The instruction of a call of i386 is then a fault.
    ("multiplexed-sockets", "by its end, status 11"),
];

/// A container like a job's, as far as podman's command line goes; each weakening takes one thing away from it.
const STRICT: [&str; 17] = [
    "--network=none",
    "--cap-drop=ALL",
    "--cap-add=CHOWN",
    "--cap-add=DAC_OVERRIDE",
    "--cap-add=FOWNER",
    "--cap-add=KILL",
    "--cap-add=SETGID",
    "--cap-add=SETUID",
    "--uidmap=0:1:65536",
    "--gidmap=0:1:65536",
    "--security-opt=no-new-privileges",
    "--ulimit=core=0",
    "--log-driver=none",
    "--rm",
    "--pids-limit=0",
    "--ipc=private",
    "--entrypoint=sh",
];

/// One weakening: what is left out of [`STRICT`], what comes instead, and what must then be possible.
struct Weakening {
    without: &'static [&'static str],
    with: Vec<String>,
    possible: &'static [&'static str],
}

fn weakening(
    without: &'static [&'static str],
    with: &[&str],
    possible: &'static [&'static str],
) -> Weakening {
    Weakening {
        without,
        with: with.iter().map(ToString::to_string).collect(),
        possible,
    }
}

const NETWORK: &[&str] = &["--network=none"];

/// Each takes one thing away, the last one everything.
fn weakenings(world: &World) -> Vec<Weakening> {
    let here = |path: &str| format!("--volume={path}:{path}");
    let mut everything = vec![
        "--privileged".to_owned(),
        "--network=host".to_owned(),
        "--pid=host".to_owned(),
        "--uts=host".to_owned(),
        "--cgroupns=host".to_owned(),
        "--userns=host".to_owned(),
        "--env-host".to_owned(),
        here(world.path().to_str().unwrap()),
        here(&std::env::var("HOME").unwrap()),
    ];
    everything.extend(["--env=PIDS=64".to_owned()]);
    vec![
        // Podman's own filter, as the distribution ships it.
        weakening(
            &[],
            &[],
            &[
                "new-user-namespace",
                "clone-user-namespace",
                "clone3-user-namespace",
                "keyring-lookup",
            ],
        ),
        weakening(
            &["--security-opt=no-new-privileges"],
            &[],
            &["set-user-id-program"],
        ),
        weakening(
            &[],
            &["--security-opt=seccomp=unconfined"],
            &[
                "keyrings",
                "perf-events",
                "userfaultfd",
                "io-uring",
                "personality",
                "vm-sockets",
                "crypto-sockets",
                "multiplexed-sockets",
            ],
        ),
        weakening(
            &["--cap-drop=ALL"],
            &["--cap-add=ALL"],
            &[
                "mount-tmpfs",
                "mount-proc",
                "mount-bind",
                "mount-overlay",
                "remount-read-only",
                "unmount-masks",
                "new-mount-calls",
                "new-mount-namespace",
                "new-network-namespace",
                "join-namespaces",
                "more-capabilities",
                "capabilities-of-programs",
                "change-root",
                "kernel-settings",
                "host-name",
                "raw-sockets",
                "packet-sockets",
                "low-ports",
            ],
        ),
        weakening(
            &[],
            &["--pid=host"],
            &[
                "environment-of-others",
                "host-processes",
                "signal-everybody",
            ],
        ),
        weakening(
            NETWORK,
            &["--network=host"],
            &[
                "abstract-sockets",
                "host-loopback",
                "host-address",
                "control-plane",
            ],
        ),
        weakening(
            NETWORK,
            &["--network=slirp4netns:allow_host_loopback=true"],
            &["gateway"],
        ),
        weakening(&[], &["--preserve-fds=1"], &["inherited-descriptors"]),
        weakening(&[], &["--tty"], &["terminal-input"]),
        weakening(&["--ulimit=core=0"], &[], &["core-dumps"]),
        Weakening {
            without: &STRICT[..10],
            with: everything,
            possible: &[
                "agent-files",
                "agent-files-through-proc",
                "image-cache",
                "source",
                "environment",
                "signal-host-processes",
                "trace",
                "memory-of-others",
                "descriptors-of-others",
                "agents-id",
                "host-devices",
                "cgroups",
                "unix-sockets",
                "processes",
            ],
        },
    ]
}

/// Whether the kernel still lets a program type into a terminal. Without it there is nothing to turn.
fn terminals_take_input() -> bool {
    fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").is_ok_and(|value| value.trim() == "1")
}

#[test]
fn each_escape_check_succeeds_where_the_sandbox_is_weak() {
    let Some(world) = World::new(Runtime::Podman) else {
        return;
    };
    let mut outside = Outside::new(&world);
    let image = load(&world.image("mkdocs.tar"));
    let repository = world.repository("escape-checks");
    let mut seen: BTreeSet<&str> = UNTURNABLE.iter().map(|(name, _)| *name).collect();
    for weakening in weakenings(&world) {
        run(&world, &outside, &weakening, &image, repository.path());
        seen.extend(weakening.possible);
    }
    let unseen: Vec<_> = CHECKS
        .iter()
        .filter(|name| !seen.contains(**name))
        .collect();
    assert!(unseen.is_empty(), "never seen to succeed: {unseen:?}");
    outside.is_unharmed();
    drop(outside);
    world.nothing_is_left();
}

fn run(world: &World, outside: &Outside, weakening: &Weakening, image: &str, source: &Path) {
    let out = world.path().join("out");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    let mut podman = Command::new("sh");
    podman
        .args(["-c", "exec 3< \"$1\"; shift; exec \"$@\"", "sh"])
        .arg(&outside.secret)
        .args(["podman", "run"])
        .args(
            STRICT
                .iter()
                .filter(|option| !weakening.without.contains(option)),
        )
        .args(&weakening.with)
        .arg(format!(
            "--volume={}:/repo:{}",
            source.display(),
            if weakening.possible.contains(&"source") {
                "rw"
            } else {
                "ro"
            }
        ))
        .arg(format!("--volume={}:/output", out.display()))
        .arg(format!("--env=ONLY={}", weakening.possible.join(",")))
        .env("BRYO_ESCAPE_SECRET", "a secret of the agent");
    for (name, value) in &outside.told {
        podman.arg(format!("--env={name}={value}"));
    }
    let ran = podman.arg(image).arg("/repo/build.sh").output().unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let found = outcomes(&out.join("checks"));
    for name in weakening.possible {
        if *name == "terminal-input" && !terminals_take_input() {
            continue;
        }
        let how = found.get(*name).map_or("not made", String::as_str);
        if let Some((_, why)) = BUILT_WITHOUT
            .iter()
            .find(|(one, why)| one == name && how.contains(why))
        {
            eprintln!("SKIPPED: {name} shows nothing on this kernel: {why}");
            continue;
        }
        assert!(
            how.starts_with("POSSIBLE "),
            "{name} shows nothing: without {:?}, with {:?} it is {how:?}",
            weakening.without,
            weakening.with
        );
    }
}

/// Gives podman the image.
fn load(archive: &str) -> String {
    let file = archive.trim_start_matches("oci-archive:");
    let out = Command::new("podman")
        .args(["load", "--quiet", "--input", file])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let name = said
        .trim()
        .rsplit(": ")
        .next()
        .unwrap_or_default()
        .to_owned();
    assert!(
        out.status.success() && !name.is_empty(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    name
}
