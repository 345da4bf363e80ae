//! What podman itself says about a container that it has made.

use serde::Deserialize;

use super::Expected;

/// The part of `GET containers/{id}/json` that says how it is confined. A field that is not there is an error: then
/// nothing is known.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::podman) struct HostConfig {
    privileged: bool,
    readonly_rootfs: bool,
    pid_mode: String,
    ipc_mode: String,
    #[serde(rename = "UTSMode")]
    uts_mode: String,
    userns_mode: String,
    cgroup_mode: String,
    network_mode: String,
    security_opt: Option<Vec<String>>,
    devices: Option<Vec<serde_json::Value>>,
}

impl HostConfig {
    pub(super) fn check(&self, expected: &Expected) -> Result<(), String> {
        if self.privileged {
            return Err("podman made the container privileged".to_owned());
        }
        if self.readonly_rootfs != expected.read_only_root {
            return Err(format!(
                "podman made the container with a read-only root: {}",
                self.readonly_rootfs
            ));
        }
        for (name, mode) in [
            ("process", &self.pid_mode),
            ("IPC", &self.ipc_mode),
            ("UTS", &self.uts_mode),
            ("user", &self.userns_mode),
            ("cgroup", &self.cgroup_mode),
            ("network", &self.network_mode),
        ] {
            let meant = name == "network" && expected.host_network;
            if is_shared(mode) && !meant {
                return Err(format!(
                    "podman made the container with a {name} namespace of others: {mode:?}"
                ));
            }
        }
        if let Some(device) = self.devices.iter().flatten().next() {
            return Err(format!("podman gave the container a device: {device}"));
        }
        let mut options = self.security_opt.iter().flatten();
        let weaker = |option: &str| option.ends_with("=unconfined") || option.starts_with("unmask");
        match options.find(|option| weaker(option)) {
            Some(option) => Err(format!("podman made the container with {option}")),
            None => Ok(()),
        }
    }
}

fn is_shared(mode: &str) -> bool {
    mode == "host"
        || ["container:", "ns:"]
            .iter()
            .any(|other| mode.starts_with(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of podman 4.3.1, without what is not asked about.
    fn answer(change: &str, to: serde_json::Value) -> serde_json::Result<HostConfig> {
        let mut value = serde_json::json!({
            "NetworkMode": "slirp4netns", "AutoRemove": false, "CapAdd": [], "CgroupMode": "private", "Cgroup": "",
            "IpcMode": "shareable", "PidMode": "private", "Privileged": false, "ReadonlyRootfs": false,
            "SecurityOpt": ["no-new-privileges"], "UTSMode": "private", "UsernsMode": "private", "Devices": []
        });
        if !change.is_empty() {
            value[change] = to;
        }
        serde_json::from_value(value)
    }

    #[test]
    fn a_private_container() {
        let private = answer("", serde_json::Value::Null).unwrap();
        assert_eq!(private.check(&Expected::default()), Ok(()));
        let host = answer("NetworkMode", "host".into()).unwrap();
        let expected = Expected {
            host_network: true,
            ..Expected::default()
        };
        assert_eq!(host.check(&expected), Ok(()));
    }

    #[test]
    fn others_are_refused() {
        for (change, to) in [
            ("Privileged", true.into()),
            ("ReadonlyRootfs", true.into()),
            ("PidMode", "host".into()),
            ("IpcMode", "container:x".into()),
            ("UTSMode", "host".into()),
            ("UsernsMode", "host".into()),
            ("CgroupMode", "host".into()),
            ("NetworkMode", "ns:/run/x".into()),
            ("NetworkMode", "host".into()),
            ("SecurityOpt", serde_json::json!(["seccomp=unconfined"])),
            ("SecurityOpt", serde_json::json!(["unmask=all"])),
            ("Devices", serde_json::json!([{"PathOnHost": "/dev/kvm"}])),
        ] {
            let config = answer(change, to).unwrap();
            assert!(config.check(&Expected::default()).is_err(), "{change}");
        }
        assert!(answer("Privileged", serde_json::Value::Null).is_err());
    }
}
