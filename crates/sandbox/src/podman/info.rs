//! What kind of Podman answers on the socket.

use std::path::PathBuf;

use bryo_model::IdSlot;
use serde::{Deserialize, Serialize};

use crate::SandboxError;

/// Who makes the containers' cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CgroupManager {
    /// The runtime itself, below a directory.
    Cgroupfs,
    /// The user's systemd, below a slice.
    Systemd,
}

/// How a container gets a network of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NetworkHelper {
    /// slirp4netns is installed.
    Slirp4netns,
    /// pasta is installed, and this podman knows it (4.4 and newer).
    Pasta,
}

/// What a Podman service told about itself.
///
/// It has a JSON form so that a caller can keep it: asking takes a quarter of a second, since podman asks the package
/// manager for the versions of its helpers. See [`super::PodmanClient::connect_known`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodmanInfo {
    /// Its version, as `4.3.1`.
    pub(crate) version: String,
    /// Who makes its cgroups.
    pub(crate) cgroup_manager: CgroupManager,
    /// The storage driver. `vfs` copies the whole image for each container.
    pub(crate) graph_driver: String,
    /// Where it keeps images and the containers' own layers.
    pub(crate) graph_root: PathBuf,
    /// What can connect a container, if anything.
    pub(crate) network_helper: Option<NetworkHelper>,
    /// How many subordinate ids it has, counted from id 1 of its own user namespace without a gap.
    pub(crate) subordinate_ids: u32,
    /// What the user ids of its own user namespace are on the host, as the kernel writes maps.
    pub(crate) uid_map: String,
    /// The same of groups.
    pub(crate) gid_map: String,
}

impl PodmanInfo {
    /// Whether it has all ids of this slot.
    pub(super) const fn has(&self, slot: IdSlot) -> bool {
        self.subordinate_ids >= slot.last()
    }

    /// Reads the answer to `GET info`.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Podman`] when this service cannot run a job: it is rootful, on version 1 of cgroups, too old, or
    /// has no subordinate ids.
    pub(super) fn read(wire: Wire) -> Result<Self, SandboxError> {
        let refuse = |why: &str| Err(SandboxError::Podman(why.to_owned()));
        if !wire.host.security.rootless {
            return refuse(
                "the service on this socket runs as root; use the user's own \
                 (systemctl --user enable --now podman.socket)",
            );
        }
        if wire.host.cgroup_version != "v2" {
            return refuse("the host does not have a unified cgroup hierarchy (cgroup v2)");
        }
        let version = wire.version.version;
        let (major, minor) = numbers(&version);
        if (major, minor) < (4, 3) {
            return refuse(&format!(
                "podman {version} is too old, 4.3 is the oldest that will do"
            ));
        }
        let cgroup_manager = match wire.host.cgroup_manager.as_str() {
            "cgroupfs" => CgroupManager::Cgroupfs,
            "systemd" => CgroupManager::Systemd,
            other => return refuse(&format!("its cgroup manager {other:?} is not known")),
        };
        let maps = wire.host.id_mappings;
        let subordinate_ids = from_one(&maps.uidmap).min(from_one(&maps.gidmap));
        if subordinate_ids == 0 {
            return refuse("the user has no subordinate ids; see /etc/subuid and /etc/subgid");
        }
        let installed =
            |helper: &Option<WireHelper>| helper.as_ref().is_some_and(|h| !h.executable.is_empty());
        let network_helper = if installed(&wire.host.slirp4netns) {
            Some(NetworkHelper::Slirp4netns)
        } else if installed(&wire.host.pasta) && (major, minor) >= (4, 4) {
            Some(NetworkHelper::Pasta)
        } else {
            None
        };
        Ok(Self {
            version,
            cgroup_manager,
            graph_driver: wire.store.graph_driver_name,
            graph_root: wire.store.graph_root,
            network_helper,
            subordinate_ids,
            uid_map: as_text(&maps.uidmap),
            gid_map: as_text(&maps.gidmap),
        })
    }
}

fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// As in `/proc/PID/uid_map`.
fn as_text(maps: &[WireMap]) -> String {
    maps.iter()
        .map(|map| format!("{} {} {}\n", map.container_id, map.host_id, map.size))
        .collect()
}

/// How many ids are mapped from 1 on without a gap.
fn from_one(maps: &[WireMap]) -> u32 {
    let mut maps: Vec<_> = maps.iter().filter(|map| map.container_id > 0).collect();
    maps.sort_by_key(|map| map.container_id);
    let mut next = 1;
    for map in maps {
        if map.container_id != next {
            break;
        }
        next = next.saturating_add(map.size);
    }
    next - 1
}

/// The answer to `GET info`, as far as it is used.
#[derive(Debug, Deserialize)]
pub(super) struct Wire {
    host: WireHost,
    store: WireStore,
    version: WireVersion,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireHost {
    cgroup_manager: String,
    cgroup_version: String,
    security: WireSecurity,
    id_mappings: WireMaps,
    slirp4netns: Option<WireHelper>,
    pasta: Option<WireHelper>,
}

#[derive(Debug, Deserialize)]
struct WireSecurity {
    rootless: bool,
}

#[derive(Debug, Deserialize)]
struct WireHelper {
    #[serde(default)]
    executable: String,
}

#[derive(Debug, Default, Deserialize)]
struct WireMaps {
    #[serde(default)]
    uidmap: Vec<WireMap>,
    #[serde(default)]
    gidmap: Vec<WireMap>,
}

#[derive(Debug, Deserialize)]
struct WireMap {
    container_id: u32,
    host_id: u32,
    size: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireStore {
    graph_driver_name: String,
    graph_root: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireVersion {
    version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of podman 4.3.1 on Debian 12, cut to a few fields, with one thing changed.
    fn answer(change: &str, to: &serde_json::Value) -> Result<PodmanInfo, SandboxError> {
        let mut value = serde_json::json!({
            "host": {
                "cgroupManager": "cgroupfs", "cgroupVersion": "v2",
                "security": {"rootless": true},
                "idMappings": {
                    "gidmap": [{"container_id": 0, "host_id": 1501, "size": 1},
                               {"container_id": 1, "host_id": 100_000, "size": 65_536}],
                    "uidmap": [{"container_id": 0, "host_id": 1501, "size": 1},
                               {"container_id": 1, "host_id": 100_000, "size": 65_536}]},
                "slirp4netns": {"executable": "/usr/bin/slirp4netns", "version": "1.2.0"}},
            "store": {"graphDriverName": "overlay", "graphRoot": "/g"},
            "version": {"Version": "4.3.1", "APIVersion": "4.3.1"}
        });
        if !change.is_empty() {
            *value.pointer_mut(change).unwrap() = to.clone();
        }
        PodmanInfo::read(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_usable_service() {
        let info = answer("", &serde_json::Value::Null).unwrap();
        assert_eq!(
            info,
            PodmanInfo {
                version: "4.3.1".to_owned(),
                cgroup_manager: CgroupManager::Cgroupfs,
                graph_driver: "overlay".to_owned(),
                graph_root: "/g".into(),
                network_helper: Some(NetworkHelper::Slirp4netns),
                subordinate_ids: 65_536,
                uid_map: "0 1501 1\n1 100000 65536\n".to_owned(),
                gid_map: "0 1501 1\n1 100000 65536\n".to_owned(),
            }
        );
    }

    #[test]
    fn services_that_will_not_do() {
        for (change, to, why) in [
            (
                "/host/security/rootless",
                serde_json::json!(false),
                "as root",
            ),
            ("/host/cgroupVersion", serde_json::json!("v1"), "cgroup v2"),
            ("/version/Version", serde_json::json!("3.4.4"), "too old"),
            ("/host/idMappings", serde_json::json!({}), "subordinate ids"),
            ("/host/cgroupManager", serde_json::json!("x"), "manager"),
        ] {
            let error = answer(change, &to).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn ids_are_counted_up_to_the_first_gap() {
        let map = |container_id, size| WireMap {
            container_id,
            host_id: 100_000,
            size,
        };
        assert_eq!(from_one(&[map(0, 1), map(11, 5), map(1, 10)]), 15);
        assert_eq!(from_one(&[map(1, 10), map(12, 5)]), 10);
        assert_eq!(from_one(&[map(0, 65_536)]), 0);
    }
}
