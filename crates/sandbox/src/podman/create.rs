//! The recipe as libpod's `SpecGenerator`: our own structs with exactly the fields that are used.
//!
//! libpod drops what it does not know, so a misspelt field is a hole and not an error: the golden test shows the whole
//! JSON, and the live tests look for the effect of each field. Limits are not here: they are on the cgroup above.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::info::PodmanInfo;
use super::network::{Options, network};
use crate::privileges::OPEN_FILES;
use crate::subid::JOB_IDS;
use crate::{Access, CAPABILITIES, Mount, Root, SandboxError, SandboxSpec};

/// The label by which a container is known to be ours; its value is the sandbox's name.
pub(super) const LABEL: &str = "org.bryo.job";

/// The label with the directory in which the job's attempt has its own: who may remove the container is decided there.
pub(super) const WORK_LABEL: &str = "org.bryo.work";

/// The job's host name.
const HOSTNAME: &str = "bryo";

/// Where a container goes in the cgroup hierarchy. Without such a place rootless podman drops limits silently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// What podman takes: the absolute name of a cgroup with `cgroupfs`, the name of a slice with `systemd`.
    pub(crate) cgroup_parent: String,
    /// The directory of that cgroup.
    pub(crate) cgroup_dir: PathBuf,
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
    umask: &'static str,
    hostname: &'static str,
    terminal: bool,
    stdin: bool,
    remove: bool,
    init: bool,
    privileged: bool,
    read_only_filesystem: bool,
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
    cap_add: [&'static str; CAPABILITIES.len()],
    no_new_privileges: bool,
    cgroup_parent: &'a str,
    resource_limits: Resources,
    r_limits: [Rlimit; 1],
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
    options: [&'static str; 4],
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
        let ids = [IdMap {
            container_id: 0,
            host_id: 1,
            size: host.info.subordinate_ids.min(JOB_IDS),
        }];
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
            umask: "0022",
            hostname: HOSTNAME,
            terminal: false,
            stdin: false,
            remove: false,
            init: false,
            privileged: false,
            read_only_filesystem: false,
            systemd: "false",
            sdnotify_mode: "ignore",
            healthconfig: Health { test: ["NONE"] },
            log_configuration: Log { driver: "none" },
            restart_policy: "no",
            stop_timeout: 0,
            mounts: mounts(&spec.mounts, host),
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
            cap_add: CAPABILITIES,
            no_new_privileges: true,
            cgroup_parent: &placement.cgroup_parent,
            resource_limits: Resources {
                pids: Pids { limit: 0 },
            },
            r_limits: [Rlimit {
                kind: "nofile",
                soft: open_files,
                hard: open_files,
            }],
        })
    }
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

/// In the given order, since one may lie beneath another; ours first, so that the recipe can have its own.
fn mounts<'a>(mounts: &'a [Mount], host: &Host<'a>) -> Vec<WireMount<'a>> {
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
    own.chain(given).collect()
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
        options: [access, "nosuid", "nodev", "rprivate"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Network;
    use crate::podman::info::{CgroupManager, NetworkHelper};
    use bryo_model::{ContainerName, JobId, LimitPolicy, Limits, NetworkMode};

    fn info(helper: Option<NetworkHelper>) -> PodmanInfo {
        PodmanInfo {
            version: "4.3.1".to_owned(),
            cgroup_manager: CgroupManager::Cgroupfs,
            graph_driver: "overlay".to_owned(),
            graph_root: "/g".into(),
            network_helper: helper,
            subordinate_ids: 100_000,
        }
    }

    fn recipe(network: NetworkMode) -> SandboxSpec {
        let mount = |host: &str, guest: &str, access| Mount {
            host: host.into(),
            guest: guest.into(),
            access,
        };
        SandboxSpec {
            name: ContainerName::of(JobId::from_parts(0, 0)),
            root: Root::PodmanImage {
                id: "ab".repeat(32),
                user: "1000:1000".to_owned(),
            },
            args: vec!["sh".to_owned(), "-c".to_owned(), "true".to_owned()],
            env: vec![
                ("B".to_owned(), "2".to_owned()),
                ("A".to_owned(), "x=y".to_owned()),
            ],
            cwd: "/repo".to_owned(),
            mounts: vec![
                mount("/h/repo", "/repo", Access::ReadOnly),
                mount("/h/out", "/repo/out", Access::ReadWrite),
            ],
            network: Network {
                mode: network,
                ..Network::none()
            },
            read_only_root: false,
            apparmor: None,
            limits: Limits {
                pids: Some(5),
                ..Limits::default()
            },
            limit_policy: LimitPolicy::Enforce,
            work: "/w".into(),
        }
    }

    fn json(spec: &SandboxSpec, info: &PodmanInfo) -> Result<serde_json::Value, SandboxError> {
        let placement = Placement {
            cgroup_parent: "/agent/job".to_owned(),
            cgroup_dir: "/sys/fs/cgroup/agent/job".into(),
        };
        let hosts = PathBuf::from("/w/hosts");
        let host = Host {
            info,
            hosts: &hosts,
            resolver: None,
            open_files: 20_000,
        };
        Create::new(spec, &placement, &host).map(|c| serde_json::to_value(c).unwrap())
    }

    #[test]
    fn the_whole_recipe() {
        let got = json(&recipe(NetworkMode::None), &info(None)).unwrap();
        let wanted = r#"{
            "name": "bryo-00000000000000000000000000",
            "labels": {"org.bryo.job": "bryo-00000000000000000000000000", "org.bryo.work": "/"},
            "image": "abababababababababababababababababababababababababababababababab",
            "entrypoint": [], "command": ["sh", "-c", "true"],
            "env": {"A": "x=y", "B": "2"}, "unsetenvall": true, "httpproxy": false,
            "work_dir": "/repo", "user": "1000:1000", "umask": "0022", "hostname": "bryo",
            "terminal": false, "stdin": false, "remove": false, "init": false, "privileged": false,
            "read_only_filesystem": false, "systemd": "false", "sdnotifyMode": "ignore",
            "healthconfig": {"Test": ["NONE"]}, "log_configuration": {"driver": "none"},
            "restart_policy": "no", "stop_timeout": 0,
            "mounts": [
                {"type": "bind", "source": "/w/hosts", "destination": "/etc/hosts",
                 "options": ["ro", "nosuid", "nodev", "rprivate"]},
                {"type": "bind", "source": "/h/repo", "destination": "/repo",
                 "options": ["ro", "nosuid", "nodev", "rprivate"]},
                {"type": "bind", "source": "/h/out", "destination": "/repo/out",
                 "options": ["rw", "nosuid", "nodev", "rprivate"]}],
            "image_volume_mode": "ignore", "use_image_hosts": true,
            "userns": {"nsmode": "private"},
            "idmappings": {"UIDMap": [{"container_id": 0, "host_id": 1, "size": 65536}],
                           "GIDMap": [{"container_id": 0, "host_id": 1, "size": 65536}]},
            "pidns": {"nsmode": "private"}, "ipcns": {"nsmode": "private"},
            "utsns": {"nsmode": "private"}, "cgroupns": {"nsmode": "private"},
            "netns": {"nsmode": "none"},
            "cap_drop": ["ALL"],
            "cap_add": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"],
            "no_new_privileges": true, "cgroup_parent": "/agent/job",
            "resource_limits": {"pids": {"limit": 0}},
            "r_limits": [{"type": "nofile", "soft": 20000, "hard": 20000}]
        }"#;
        let wanted: serde_json::Value = serde_json::from_str(wanted).unwrap();
        assert_eq!(got, wanted);
    }

    #[test]
    fn networks() {
        let isolated = recipe(NetworkMode::Isolated);
        let slirp = json(&isolated, &info(Some(NetworkHelper::Slirp4netns))).unwrap();
        assert_eq!(slirp["netns"]["nsmode"], "slirp4netns");
        let options = slirp["network_options"]["slirp4netns"].as_array().unwrap();
        assert!(options.contains(&"allow_host_loopback=false".into()));
        let pasta = json(&isolated, &info(Some(NetworkHelper::Pasta))).unwrap();
        assert_eq!(pasta["netns"]["nsmode"], "pasta");
        assert!(json(&isolated, &info(None)).is_err());
    }

    #[test]
    fn a_recipe_may_bring_its_own_hosts_file_and_must_be_for_podman() {
        let mut spec = recipe(NetworkMode::None);
        spec.mounts[0].guest = "/etc/hosts".into();
        let got = json(&spec, &info(None)).unwrap();
        assert_eq!(got["mounts"].as_array().unwrap().len(), 2);
        spec.root = Root::Layers {
            dirs: Vec::new(),
            user: crate::UserIds {
                uid: 0,
                gid: 0,
                groups: Vec::new(),
            },
        };
        assert!(json(&spec, &info(None)).is_err());
    }
}
