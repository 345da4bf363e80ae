//! The recipe as libpod's `SpecGenerator`: our own structs with exactly the fields that are used.
//!
//! libpod drops what it does not know, so a misspelt field is a hole and not an error: the golden test shows the whole
//! JSON, and the live tests look for the effect of each field. Limits are not here: they are on the cgroup above.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bryo_model::IdSlot;
use oci_spec::runtime::LinuxSeccomp;
use serde::Serialize;

use super::info::PodmanInfo;
use super::network::{Options, network};
use super::proof::{Expected, ExpectedLabels, Wanted, capability_bits, host_ids};
use crate::privileges::{OPEN_FILES, SCRATCH, SCRATCH_OPTIONS, UMASK};
use crate::selinux::Labels;
use crate::{Access, CAPABILITIES, Missing, Root, SandboxError, SandboxSpec, Selinux};

/// The label by which a container is known to be ours; its value is the sandbox's name.
pub(super) const LABEL: &str = "org.bryo.job";

/// The label with the directory in which the job's attempt has its own: who may remove the container is decided there.
pub(super) const WORK_LABEL: &str = "org.bryo.work";

/// The job's host name.
const HOSTNAME: &str = "bryo";

/// Where a container goes in the cgroup hierarchy, and whose ids it has. Without a place there rootless podman drops
/// limits silently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// What podman takes: the absolute name of a cgroup with `cgroupfs`, the name of a slice with `systemd`.
    pub(crate) cgroup_parent: String,
    /// The directory of that cgroup.
    pub(crate) cgroup_dir: PathBuf,
    /// Which of the user's subordinate ids are the job's.
    pub(crate) slot: IdSlot,
}

#[derive(Debug, Serialize)]
pub(super) struct Create<'a> {
    name: &'a str,
    labels: BTreeMap<&'static str, &'a str>,
    image: &'a str,
    // An empty list, unlike none at all, keeps the image's entrypoint from being put before the command.
    entrypoint: [&'static str; 0],
    command: &'a [String],
    env: BTreeMap<&'a str, &'a str>,
    unsetenvall: bool,
    httpproxy: bool,
    work_dir: &'a str,
    user: &'a str,
    umask: String,
    hostname: &'static str,
    terminal: bool,
    stdin: bool,
    remove: bool,
    init: bool,
    privileged: bool,
    read_only_filesystem: bool,
    // Without it podman since 4.6 makes all of /dev read-only too. It adds file systems in memory only where there is
    // none of ours.
    read_write_tmpfs: bool,
    // What older podmans do not hide by themselves.
    mask: [&'static str; 1],
    seccomp_profile_path: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    apparmor_profile: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    selinux_opts: Vec<String>,
    systemd: &'static str,
    #[serde(rename = "sdnotifyMode")]
    sdnotify_mode: &'static str,
    healthconfig: Health,
    log_configuration: Log,
    restart_policy: &'static str,
    stop_timeout: u32,
    mounts: Vec<WireMount<'a>>,
    image_volume_mode: &'static str,
    use_image_hosts: bool,
    userns: Namespace,
    idmappings: IdMappings,
    pidns: Namespace,
    ipcns: Namespace,
    utsns: Namespace,
    cgroupns: Namespace,
    netns: Namespace,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    network_options: Options,
    cap_drop: [&'static str; 1],
    cap_add: &'static [&'static str],
    no_new_privileges: bool,
    cgroup_parent: &'a str,
    resource_limits: Resources,
    r_limits: [Rlimit; 2],
}

#[derive(Debug, Serialize)]
struct Namespace {
    nsmode: &'static str,
}

const PRIVATE: Namespace = Namespace { nsmode: "private" };

#[derive(Debug, Serialize)]
struct IdMappings {
    #[serde(rename = "UIDMap")]
    uids: [IdMap; 1],
    #[serde(rename = "GIDMap")]
    gids: [IdMap; 1],
}

/// `host_id` counts in podman's own user namespace, where 0 is the agent's uid: it must not be in a map.
#[derive(Clone, Copy, Debug, Serialize)]
struct IdMap {
    container_id: u32,
    host_id: u32,
    size: u32,
}

#[derive(Debug, Serialize)]
struct WireMount<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    source: &'a Path,
    destination: &'a Path,
    options: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Health {
    #[serde(rename = "Test")]
    test: [&'static str; 1],
}

#[derive(Debug, Serialize)]
struct Log {
    driver: &'static str,
}

#[derive(Debug, Serialize)]
struct Resources {
    pids: Pids,
}

/// 0: podman must not bring a bound of its own, for which crun fails where there is no pids controller (-1 does too).
#[derive(Debug, Serialize)]
struct Pids {
    limit: i64,
}

/// libpod writes `RLIMIT_` before the type by itself.
#[derive(Debug, Serialize)]
struct Rlimit {
    #[serde(rename = "type")]
    kind: &'static str,
    soft: u64,
    hard: u64,
}

/// What of the host goes into the recipe.
pub(super) struct Host<'a> {
    pub(super) info: &'a PodmanInfo,
    /// Our own `/etc/hosts` for the job.
    pub(super) hosts: &'a Path,
    /// The job's SELinux labels.
    pub(super) labels: Option<&'a Labels>,
    /// Our own system-call filter.
    pub(super) seccomp: &'a Path,
    /// Our own `/etc/resolv.conf` for it, where we know who answers; else podman's.
    pub(super) resolver: Option<&'a Path>,
    /// The most open files that may be asked for.
    pub(super) open_files: u64,
}

impl<'a> Create<'a> {
    /// # Errors
    ///
    /// When the recipe is not for podman, or the host has nothing that could connect a network namespace.
    pub(super) fn new(
        spec: &'a SandboxSpec,
        placement: &'a Placement,
        host: &'a Host<'a>,
    ) -> Result<Self, SandboxError> {
        let Root::PodmanImage { id, user } = &spec.root else {
            return Err(SandboxError::Podman(
                "the recipe's root is not an image of the podman store".to_owned(),
            ));
        };
        let (netns, network_options) = network(spec.network.mode, host.info)?;
        let ids = [ids(placement.slot, host.info)?];
        let open_files = OPEN_FILES.min(host.open_files);
        Ok(Self {
            name: spec.name.as_str(),
            labels: BTreeMap::from([(LABEL, spec.name.as_str()), (WORK_LABEL, work_root(spec))]),
            image: id,
            entrypoint: [],
            command: &spec.args,
            env: spec
                .env
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect(),
            unsetenvall: true,
            httpproxy: false,
            work_dir: &spec.cwd,
            user,
            umask: format!("{UMASK:04o}"),
            hostname: HOSTNAME,
            terminal: false,
            stdin: false,
            remove: false,
            init: false,
            privileged: false,
            read_only_filesystem: spec.read_only_root,
            read_write_tmpfs: spec.read_only_root,
            mask: ["/sys/devices/virtual/powercap"],
            seccomp_profile_path: host.seccomp,
            apparmor_profile: spec.apparmor.as_deref(),
            selinux_opts: selinux_options(&spec.selinux, host.labels),
            systemd: "false",
            sdnotify_mode: "ignore",
            healthconfig: Health { test: ["NONE"] },
            log_configuration: Log { driver: "none" },
            restart_policy: "no",
            stop_timeout: 0,
            mounts: mounts(spec, host),
            image_volume_mode: "ignore",
            use_image_hosts: true,
            userns: PRIVATE,
            idmappings: IdMappings {
                uids: ids,
                gids: ids,
            },
            pidns: PRIVATE,
            ipcns: PRIVATE,
            utsns: PRIVATE,
            cgroupns: PRIVATE,
            netns: Namespace { nsmode: netns },
            network_options,
            cap_drop: ["ALL"],
            // podman makes what is added ambient for an unprivileged user, who is to have none.
            cap_add: if is_root(user) { &CAPABILITIES } else { &[] },
            no_new_privileges: true,
            cgroup_parent: &placement.cgroup_parent,
            resource_limits: Resources {
                pids: Pids { limit: 0 },
            },
            r_limits: [rlimit("nofile", open_files), rlimit("core", 0)],
        })
    }

    /// What a container of this recipe is like.
    pub(super) fn expected(
        &self,
        info: &PodmanInfo,
        labels: Option<&Labels>,
        filter: LinuxSeccomp,
    ) -> Expected {
        let (ids, open_files) = (self.idmappings.uids[0], &self.r_limits[0]);
        let binds = self.mounts.iter().filter(|mount| mount.kind == "bind");
        Expected {
            uids: on_host(&info.uid_map, ids),
            gids: on_host(&info.gid_map, ids),
            mounts: binds
                .map(|mount| Wanted {
                    host: mount.source.to_owned(),
                    guest: mount.destination.to_owned(),
                    access: match mount.options.contains(&"ro") {
                        true => Access::ReadOnly,
                        false => Access::ReadWrite,
                    },
                })
                .collect(),
            read_only_root: self.read_only_filesystem,
            network_mode: self.netns.nsmode,
            filter,
            capabilities: if self.cap_add.is_empty() {
                0
            } else {
                capability_bits()
            },
            open_files: open_files.hard,
            labels: labels.map(|labels| ExpectedLabels {
                process: labels.process().to_string(),
                file: labels.file().to_string(),
            }),
        }
    }
}

/// Ids of its own are had whole or not at all; of the shared ones podman may have fewer.
fn ids(slot: IdSlot, info: &PodmanInfo) -> Result<IdMap, SandboxError> {
    if slot.is_own() && !info.has(slot) {
        return Err(SandboxError::Host(vec![Missing::new(
            format!(
                "podman has {} of the user's subordinate ids, and this job is to have those up to number {}",
                info.subordinate_ids,
                slot.last()
            ),
            "run podman system migrate while no container runs, and start podman's service again",
        )]));
    }
    Ok(IdMap {
        container_id: 0,
        host_id: slot.first(),
        size: info.subordinate_ids.min(IdSlot::IDS),
    })
}

/// Podman takes the rest of a label from the same file of the policy as we do.
fn selinux_options(wanted: &Selinux, labels: Option<&Labels>) -> Vec<String> {
    let Some(labels) = labels else {
        let off = *wanted == Selinux::Off;
        return off.then(|| "disable".to_owned()).into_iter().collect();
    };
    let level = labels.process().level();
    let level = level.map(|level| format!("level:{level}"));
    let kind = format!("type:{}", labels.process().kind());
    std::iter::once(kind).chain(level).collect()
}

/// What a container's ids are on the host.
fn on_host(podmans: &str, ids: IdMap) -> Vec<(u64, u64)> {
    host_ids(podmans, ids.host_id, ids.size).unwrap_or_default()
}

/// The directory that the attempt's own one is in.
fn work_root(spec: &SandboxSpec) -> &str {
    let root = spec.work.parent().unwrap_or(&spec.work);
    root.to_str().unwrap_or_default()
}

/// Our `/etc/hosts`: podman's own would tell the job the names and addresses of the host.
pub(super) fn hosts_file() -> String {
    format!("127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost {HOSTNAME}\n")
}

/// The `User` of an image, as podman reads it.
fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), None | Some("" | "0" | "root"))
}

const fn rlimit(kind: &'static str, most: u64) -> Rlimit {
    Rlimit {
        kind,
        soft: most,
        hard: most,
    }
}

/// In the given order, since one may lie beneath another; ours first, so that the recipe can have its own.
fn mounts<'a>(spec: &'a SandboxSpec, host: &Host<'a>) -> Vec<WireMount<'a>> {
    let mounts = &spec.mounts;
    let scratch = SCRATCH.iter().filter(|_| spec.read_only_root);
    let own = [
        ("/etc/hosts", Some(host.hosts)),
        ("/etc/resolv.conf", host.resolver),
    ];
    let own = own.into_iter().filter_map(|(at, file)| {
        let at = Path::new(at);
        let free = !mounts.iter().any(|mount| mount.guest == at);
        file.filter(|_| free)
            .map(|file| bind(file, at, Access::ReadOnly))
    });
    let given = mounts
        .iter()
        .map(|mount| bind(&mount.host, &mount.guest, mount.access));
    scratch
        .map(|at| scratch_mount(Path::new(at)))
        .chain(own)
        .chain(given)
        .collect()
}

fn bind<'a>(source: &'a Path, destination: &'a Path, access: Access) -> WireMount<'a> {
    let access = match access {
        Access::ReadOnly => "ro",
        Access::ReadWrite => "rw",
    };
    WireMount {
        kind: "bind",
        source,
        destination,
        options: vec![access, "nosuid", "nodev", "rprivate"],
    }
}

/// Empty, as with crun: podman would else copy what the image has there.
fn scratch_mount(at: &Path) -> WireMount<'_> {
    WireMount {
        kind: "tmpfs",
        source: Path::new("tmpfs"),
        destination: at,
        options: SCRATCH_OPTIONS.into_iter().chain(["notmpcopyup"]).collect(),
    }
}

#[cfg(test)]
mod tests;
