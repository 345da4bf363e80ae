//! What is mounted in the container, and nothing else.
//!
//! A container engine has many places where a mount can be configured for every container (`containers.conf`,
//! `mounts.conf`, hooks). None of them is in the recipe, so none of them may be in the job.

use std::path::{Path, PathBuf};

use super::Expected;
use crate::Access;
use crate::privileges::SCRATCH;

/// Everything that may be mounted beneath `/dev`.
const DEVICES: [&str; 11] = [
    "", "pts", "shm", "mqueue", "null", "zero", "full", "random", "urandom", "tty", "console",
];

/// Files that podman writes for one container and mounts into it, wherever the image's links lead them.
const OF_PODMAN: [&str; 4] = ["hosts", "hostname", "resolv.conf", ".containerenv"];

/// One mount of the recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::podman) struct Wanted {
    pub(in crate::podman) host: PathBuf,
    pub(in crate::podman) guest: PathBuf,
    pub(in crate::podman) access: Access,
}

/// A line of `/proc/PID/mountinfo`.
#[derive(Debug)]
struct Entry<'a> {
    /// The directory of the file system that is mounted.
    root: PathBuf,
    point: PathBuf,
    options: &'a str,
    kind: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        Some(Self {
            root: unescaped(fields.next()?),
            point: unescaped(fields.next()?),
            options: fields.next()?,
            kind: file_system.split(' ').next()?,
        })
    }

    fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|is| is == option)
    }

    /// By its place; or by what it shows, for a place that is a link in the image.
    fn is(&self, wanted: &Wanted) -> bool {
        let shown = self.root.strip_prefix("/").unwrap_or(&self.root);
        self.point == wanted.guest
            || (!shown.as_os_str().is_empty() && wanted.host.ends_with(shown))
    }
}

/// Checks `/proc/PID/mountinfo`.
pub(super) fn check(text: &str, expected: &Expected) -> Result<(), String> {
    let entries: Vec<_> = text
        .lines()
        .map(|line| Entry::parse(line).ok_or_else(|| format!("unreadable mount {line:?}")))
        .collect::<Result<_, _>>()?;
    // Of two at one place the later one is seen.
    let root = entries.iter().rfind(|e| e.point == Path::new("/"));
    if expected.read_only_root && !root.is_some_and(|e| e.has("ro")) {
        return Err("its root file system can be written to".to_owned());
    }
    for wanted in &expected.mounts {
        let found = entries.iter().rfind(|entry| entry.is(wanted));
        let entry = found.ok_or_else(|| format!("{} is not mounted", wanted.guest.display()))?;
        // crun drops nosuid and nodev of a writable one in a nested user namespace. There no_new_privs and the missing
        // right to make device nodes stand for them.
        let needed: &[_] = match wanted.access {
            Access::ReadOnly => &["ro", "nosuid", "nodev"],
            Access::ReadWrite => &["rw"],
        };
        if let Some(option) = needed.iter().find(|option| !entry.has(option)) {
            return Err(format!(
                "{} is mounted without {option}: {}",
                wanted.guest.display(),
                entry.options
            ));
        }
    }
    match entries.iter().find(|entry| !is_expected(entry, expected)) {
        Some(entry) => Err(format!(
            "{} ({}, {}) is mounted in it, which is not in the recipe; look at volumes, mounts and devices in \
             containers.conf, and at mounts.conf",
            entry.point.display(),
            entry.kind,
            entry.options
        )),
        None => Ok(()),
    }
}

fn is_expected(entry: &Entry<'_>, expected: &Expected) -> bool {
    let point = &entry.point;
    let beneath = |top: &str| point.strip_prefix(top).ok();
    if point == Path::new("/") || expected.mounts.iter().any(|wanted| entry.is(wanted)) {
        return true;
    }
    if let Some(name) = beneath("/dev") {
        return DEVICES.iter().any(|known| name == Path::new(known));
    }
    if point == Path::new("/proc") {
        return entry.kind == "proc";
    }
    if beneath("/proc").is_some() {
        return entry.has("ro") || entry.root == Path::new("/null");
    }
    if beneath("/sys").is_some() {
        // With the host's network, podman can only show the host's /sys, with all that is mounted there.
        return entry.has("ro") || expected.has_hosts_network();
    }
    if expected.read_only_root && SCRATCH.iter().any(|scratch| point == Path::new(scratch)) {
        return entry.kind == "tmpfs";
    }
    OF_PODMAN
        .iter()
        .any(|name| entry.root.ends_with(Path::new("userdata").join(name)))
}

/// Undoes the octal escapes of white space and backslashes.
fn unescaped(text: &str) -> PathBuf {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job with a read-only root under podman 4.3.1 and crun 1.8.1, as its mountinfo was.
    const RECORDED: &str = "\
175 181 254:0 /cache/checkout /repo ro,nosuid,nodev,relatime - ext4 /dev/vda rw
176 181 0:44 /a\\040job/output /output rw,relatime - tmpfs none rw
177 181 0:44 /a\\040job/hosts /etc/hosts ro,nosuid,nodev,noexec,relatime - tmpfs none rw,mode=700
178 184 0:45 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=64000k
179 181 0:42 /containers/overlay-containers/08/userdata/.containerenv /run/.containerenv ro,nosuid - tmpfs none rw
180 181 0:42 /containers/overlay-containers/08/userdata/resolv.conf /run/stub.conf ro,nosuid - tmpfs none rw
181 131 0:46 / / ro,relatime - overlay overlay rw,lowerdir=/l
182 181 0:49 / /tmp rw,nosuid,nodev,relatime - tmpfs tmpfs rw,size=524288k
183 181 0:50 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
184 181 0:51 / /dev rw,nosuid,noexec - tmpfs tmpfs rw,size=65536k,mode=755
185 181 0:52 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs rw
187 184 0:53 / /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw
188 185 0:38 /bed/init /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup2 rw
189 184 0:6 /null /dev/null rw,nosuid,noexec,relatime - devtmpfs devtmpfs rw
195 183 0:54 / /proc/acpi ro,relatime - tmpfs tmpfs rw,size=0k
196 183 0:6 /null /proc/keys ro,relatime - devtmpfs devtmpfs rw
203 183 0:50 /sys /proc/sys ro,relatime - proc proc rw
";

    fn expected() -> Expected {
        let wanted = |host: &str, guest: &str, access| Wanted {
            host: host.into(),
            guest: guest.into(),
            access,
        };
        Expected {
            mounts: vec![
                wanted("/tmp/a job/hosts", "/etc/hosts", Access::ReadOnly),
                wanted("/cache/checkout", "/repo", Access::ReadOnly),
                wanted("/tmp/a job/output", "/output", Access::ReadWrite),
            ],
            read_only_root: true,
            ..Expected::default()
        }
    }

    #[test]
    fn what_podman_really_mounts() {
        assert_eq!(check(RECORDED, &expected()), Ok(()));
        let sys = format!(
            "{RECORDED}204 185 0:9 / /sys/fs/cgroup/unified rw,relatime - cgroup2 none rw\n"
        );
        let host_network = Expected {
            network_mode: "host",
            ..expected()
        };
        assert_eq!(check(&sys, &host_network), Ok(()));
        assert!(check(&sys, &expected()).is_err());
        // A place that is a link in the image.
        let link = RECORDED.replace(" /output rw", " /srv/output rw");
        assert_eq!(check(&link, &expected()), Ok(()));
    }

    #[test]
    fn what_is_missing_writable_or_too_much() {
        for (from, to, why) in [
            (" /repo ro,", " /repo rw,", "without ro"),
            ("/repo ro,nosuid,", "/repo ro,", "without nosuid"),
            (" /output rw", " /output ro", "without rw"),
            (" / ro,", " / rw,", "root file system"),
            (
                "/cache/checkout /repo ",
                "/other /else ",
                "/repo is not mounted",
            ),
            (" /proc/sys ro", " /proc/sys rw", "/proc/sys"),
            (" /sys ro", " /sys rw", "/sys"),
            ("cgroup ro,", "cgroup rw,", "/sys/fs/cgroup"),
            ("/null /dev/null", "/kvm /dev/kvm", "/dev/kvm"),
            (
                "/userdata/.containerenv /run/.containerenv",
                "/s /run/secrets",
                "/run/secrets",
            ),
            (" - proc proc rw\n184", " - tmpfs none rw\n184", "/proc"),
            (
                "/tmp rw,nosuid,nodev,relatime - tmpfs",
                "/tmp rw - ext4",
                "/tmp",
            ),
            (" - sysfs", " sysfs", "unreadable"),
        ] {
            let text = RECORDED.replace(from, to);
            assert_ne!(text, RECORDED, "{from}");
            let error = check(&text, &expected()).unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
        let above = format!("{RECORDED}204 175 0:9 / /repo rw,relatime - tmpfs none rw\n");
        assert!(check(&above, &expected()).is_err(), "one over another");
    }
}
