//! What a job can see.

use std::collections::BTreeMap;
use std::fs;

use crate::stories;

/// The sections that `shows-itself` prints, by their headings; what comes before the first is `""`.
fn sections(text: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut heading = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            name.clone_into(&mut heading);
        } else {
            let section: &mut String = all.entry(heading.clone()).or_default();
            section.push_str(line);
            section.push('\n');
        }
    }
    all
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim()
}

/// CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, KILL 5, SETGID 6, SETUID 7: the documented set.
const CAPABILITIES: &str = "00000000000000eb";

stories! {
    fn shows_itself(world) {
        world.build("shows-itself", &["--env", "COLOUR=blue"]).ended(0, "succeeded");
        let text = fs::read_to_string(world.site().join("shown")).unwrap();
        let sections = sections(&text);
        let shown = |name: &str| sections.get(name).map_or("", String::as_str);
        let status = shown("");
        assert_eq!(field(status, "NoNewPrivs:"), "1");
        assert_eq!(field(status, "Seccomp:"), "2");
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(field(status, set), CAPABILITIES, "{set}");
        }
        for set in ["CapInh:", "CapAmb:"] {
            assert_eq!(field(status, set), "0000000000000000", "{set}");
        }
        // The agent's ids are not mapped: not one range of the map covers them on the host.
        let host = nix::unistd::Uid::effective().as_raw();
        for map in ["uid_map", "gid_map"] {
            let numbers: Vec<u32> = shown(map).split_whitespace().map(|n| n.parse().unwrap()).collect();
            assert_eq!(numbers[0], 0, "{map}");
            assert_ne!(numbers[1], host, "{map}");
            assert_ne!(numbers[1], 0, "{map}: the outer namespace's 0 is the agent");
        }
        assert!(!shown("sockets").contains("docker") && !shown("sockets").contains("podman"), "{}", shown("sockets"));
        assert!(!shown("home").contains("bryo"), "{}", shown("home"));
        let env = shown("env");
        assert!(env.contains("COLOUR=blue\n") && env.contains("PATH=/bin\n"), "{env}");
        for secret in ["XDG_RUNTIME_DIR", "BRYO_", "SSH_AUTH_SOCK"] {
            assert!(!env.contains(secret), "{env}");
        }
        assert_eq!(shown("cgroup").trim().rsplit("::").next().unwrap().trim_matches('/'), "", "its own cgroup namespace");
        assert_eq!(shown("pid").trim(), "1");
        let mounts = shown("mounts");
        let options = |at: &str| {
            let line = mounts.lines().find(|l| l.split(' ').nth(1) == Some(at));
            line.unwrap_or_else(|| panic!("nothing at {at}: {mounts}")).split(' ').nth(3).unwrap().to_owned()
        };
        assert!(options("/repo").starts_with("ro,"), "{}", options("/repo"));
        assert!(options("/sys").starts_with("ro,") && options("/proc/sys").starts_with("ro,"));
        assert!(options("/output").starts_with("rw,"));
        assert!(!shown("mount").is_empty(), "a job cannot mount");
        assert_eq!(shown("sysctl").matches("Read-only file system").count(), 2, "{}", shown("sysctl"));
        for device in shown("devices").lines() {
            let known = ["core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero", "console"];
            assert!(known.contains(&device), "/dev/{device}");
        }
    }

    fn uses_sockets(world) {
        let repository = world.repository("uses-sockets");
        let image = world.image("mkdocs.tar");
        let args = ["--image", &image, "--network", "none", "--", "sh", "/repo/build.sh"];
        world.run(repository.path().to_str().unwrap(), &args).ended(0, "succeeded");
        let text = fs::read_to_string(world.site().join("sockets")).unwrap();
        let mut wanted = vec!["unix hello", "pair hello", "inet hello", "inet6 hello", "datagrams made", "netlink lo", "names lo"];
        if !fs::exists("/proc/net/if_inet6").unwrap() {
            eprintln!("SKIPPED: this host has no IPv6");
            wanted[3] = "inet6 EAFNOSUPPORT";
        }
        wanted.extend(["audit EINVAL", "packet EAFNOSUPPORT", "alg EAFNOSUPPORT", "vsock EAFNOSUPPORT", "pair-inet EAFNOSUPPORT"]);
        assert_eq!(text.lines().collect::<Vec<_>>(), wanted);
    }

    fn writes_to_repo(world) {
        let told = world.build("writes-to-repo", &[]);
        told.ended(1, "failed");
        assert!(told.err().contains("Read-only file system"), "{}", told.err());
        assert!(!told.err().contains("the source can"), "{}", told.err());
    }

    fn writes_everywhere(world) {
        // With a read-only root only the result, scratch space and what the kernel provides can be written to.
        let scratch = ["/dev/shm yes", "/output yes", "/run yes", "/tmp yes", "/var/tmp yes"];
        let rest = ["/ no", "/etc no", "/etc/hosts no", "/home no", "/repo no", "/root no", "/usr no", "/var no"];
        world.build("writes-everywhere", &["--read-only"]).ended(0, "succeeded");
        let written = || fs::read_to_string(world.site().join("written")).unwrap();
        let mut wanted = [&scratch[..], &rest[..]].concat();
        wanted.sort_unstable();
        let text = written();
        let (mounts, places): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("tmpfs "));
        assert_eq!(places, wanted);
        for (at, mount) in ["/run", "/tmp", "/var/tmp"].iter().zip(&mounts) {
            for word in [*at, "nosuid", "nodev", "size=524288k"] {
                assert!(mount.contains(word), "{word} is not in {mount}");
            }
        }
        assert_eq!(mounts.len(), 3, "{text}");
        // Without it the image can be changed, for the time of the job.
        world.build("writes-everywhere", &[]).ended(0, "succeeded");
        assert!(written().contains("/usr yes\n") && written().contains("/repo no\n"), "{}", written());
    }

    fn no_apparmor_no_job(world) {
        let on = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        if on.is_ok_and(|on| on.trim() == "Y") {
            eprintln!("SKIPPED: this host has AppArmor");
            return;
        }
        let told = world.build("succeeds", &["--apparmor-profile", "bryo-job"]);
        told.ended(3, "infrastructure");
        told.because("AppArmor is not enabled");
        told.because("run without an AppArmor profile");
    }

    fn no_selinux_no_label(world) {
        if fs::exists("/sys/fs/selinux/enforce").unwrap() {
            eprintln!("SKIPPED: this host has SELinux");
            return;
        }
        let told = world.build("succeeds", &["--selinux", "container_t"]);
        told.ended(3, "infrastructure");
        told.because("this host has no SELinux");
        told.because("--selinux auto");
        let told = world.build("succeeds", &["--selinux", "off"]);
        told.ended(0, "succeeded");
        assert!(told.report()["selinux_label"].is_null());
    }
}
