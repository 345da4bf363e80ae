//! The recipe as JSON, whole.

use super::*;
use crate::podman::info::{CgroupManager, NetworkHelper};
use crate::{Mount, Network};
use bryo_model::{ContainerName, IdSlot, JobId, LimitPolicy, Limits, NetworkMode};

fn info(helper: Option<NetworkHelper>) -> PodmanInfo {
    PodmanInfo {
        version: "4.3.1".to_owned(),
        cgroup_manager: CgroupManager::Cgroupfs,
        graph_driver: "overlay".to_owned(),
        graph_root: "/g".into(),
        network_helper: helper,
        subordinate_ids: 100_000,
        uid_map: "1 200000 200000\n".to_owned(),
        gid_map: "1 300000 40000\n40001 400000 160000\n".to_owned(),
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
            user: "0:0".to_owned(),
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
        selinux: Selinux::Auto,
        limits: Limits {
            pids: Some(5),
            ..Limits::default()
        },
        limit_policy: LimitPolicy::Enforce,
        work: "/w".into(),
    }
}

fn placement() -> Placement {
    Placement {
        cgroup_parent: "/agent/job".to_owned(),
        cgroup_dir: "/sys/fs/cgroup/agent/job".into(),
        slot: IdSlot::SHARED,
    }
}

fn host<'a>(info: &'a PodmanInfo, hosts: &'a Path) -> Host<'a> {
    Host {
        info,
        hosts,
        resolver: None,
        labels: None,
        seccomp: Path::new("/w/seccomp.json"),
        open_files: 20_000,
    }
}

fn json(spec: &SandboxSpec, info: &PodmanInfo) -> Result<serde_json::Value, SandboxError> {
    let (placement, hosts) = (placement(), PathBuf::from("/w/hosts"));
    let host = host(info, &hosts);
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
        "work_dir": "/repo", "user": "0:0", "umask": "0022", "mask": ["/sys/devices/virtual/powercap"],
        "hostname": "bryo",
        "terminal": false, "stdin": false, "remove": false, "init": false, "privileged": false,
        "read_only_filesystem": false, "read_write_tmpfs": false,
        "seccomp_profile_path": "/w/seccomp.json", "systemd": "false", "sdnotifyMode": "ignore",
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
        "r_limits": [{"type": "nofile", "soft": 20000, "hard": 20000},
                     {"type": "core", "soft": 0, "hard": 0}]
    }"#;
    let wanted: serde_json::Value = serde_json::from_str(wanted).unwrap();
    assert_eq!(got, wanted);
}

#[test]
fn the_options_for_selinux() {
    let labels = Labels::of_a_test();
    let (auto, off) = (Selinux::Auto, Selinux::Off);
    assert_eq!(selinux_options(&auto, None), Vec::<String>::new());
    assert_eq!(selinux_options(&off, None), ["disable"]);
    let options = selinux_options(&auto, Some(&labels));
    assert_eq!(options, ["type:container_t", "level:s0:c1,c2"]);
}

#[test]
fn a_read_only_root_has_scratch_space_beneath_the_recipes_mounts() {
    let mut spec = recipe(NetworkMode::None);
    spec.read_only_root = true;
    spec.apparmor = Some("bryo-job".to_owned());
    let got = json(&spec, &info(None)).unwrap();
    assert_eq!(got["read_only_filesystem"], true);
    assert_eq!(got["read_write_tmpfs"], true);
    assert_eq!(got["apparmor_profile"], "bryo-job");
    let mounts = got["mounts"].as_array().unwrap();
    let places: Vec<_> = mounts.iter().map(|m| m["destination"].as_str()).collect();
    let wanted = [
        "/tmp",
        "/var/tmp",
        "/run",
        "/etc/hosts",
        "/repo",
        "/repo/out",
    ];
    assert_eq!(places, wanted.map(Some));
    let options = ["nosuid", "nodev", "mode=1777", "size=512m", "notmpcopyup"];
    assert_eq!(mounts[0]["options"], serde_json::json!(options));
}

#[test]
fn an_unprivileged_user_of_the_image_gets_no_capabilities() {
    let mut spec = recipe(NetworkMode::None);
    for (user, root) in [
        ("", true),
        ("root", true),
        ("0:5", true),
        ("ana", false),
        ("1000", false),
    ] {
        spec.root = Root::PodmanImage {
            id: "ab".repeat(32),
            user: user.to_owned(),
        };
        let got = json(&spec, &info(None)).unwrap();
        assert_eq!(
            !got["cap_add"].as_array().unwrap().is_empty(),
            root,
            "{user:?}"
        );
    }
}

#[test]
fn what_a_container_of_the_recipe_is_like() {
    let spec = recipe(NetworkMode::None);
    let (placement, hosts) = (placement(), PathBuf::from("/w/hosts"));
    let info = info(None);
    let host = host(&info, &hosts);
    let expected = Create::new(&spec, &placement, &host).unwrap().expected(
        host.info,
        None,
        LinuxSeccomp::default(),
    );
    assert_eq!(expected.uids, [(200_000, 65_536)]);
    assert_eq!(expected.gids, [(300_000, 40_000), (400_000, 25_536)]);
    assert_eq!((expected.capabilities, expected.open_files), (0xeb, 20_000));
    let guests: Vec<_> = expected
        .mounts
        .iter()
        .map(|m| (m.guest.to_str().unwrap(), m.access))
        .collect();
    assert_eq!(
        guests,
        [
            ("/etc/hosts", Access::ReadOnly),
            ("/repo", Access::ReadOnly),
            ("/repo/out", Access::ReadWrite)
        ]
    );
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

#[test]
fn ids_of_its_own() {
    let (spec, mut info, hosts) = (recipe(NetworkMode::None), info(None), PathBuf::from("/h"));
    let placement = Placement {
        slot: IdSlot::new(2).unwrap(),
        ..placement()
    };
    info.subordinate_ids = 3 * IdSlot::IDS;
    let asked = host(&info, &hosts);
    let create = Create::new(&spec, &placement, &asked).unwrap();
    let expected = create.expected(&info, None, LinuxSeccomp::default());
    assert_eq!(expected.uids, [(331_072, 65_536)]);
    assert_eq!(expected.gids, [(491_072, 65_536)]);
    let got = serde_json::to_value(create).unwrap();
    let map = serde_json::json!([{"container_id": 0, "host_id": 131_073, "size": 65_536}]);
    assert_eq!(got["idmappings"]["UIDMap"], map);
    assert_eq!(got["idmappings"]["GIDMap"], map);
    // One id too few is too few.
    info.subordinate_ids -= 1;
    let asked = host(&info, &hosts);
    let error = Create::new(&spec, &placement, &asked).err().unwrap();
    assert!(
        error.to_string().contains("podman system migrate"),
        "{error}"
    );
}
