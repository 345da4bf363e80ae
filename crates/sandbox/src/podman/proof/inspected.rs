//! What podman itself says about a container that it has made.

use serde::Deserialize;

use super::Expected;

/// What podman says of how a container is confined.
#[derive(Clone, Copy, Debug)]
pub(in crate::podman) struct Confinement<'a> {
    pub(in crate::podman) host_config: &'a HostConfig,
    /// SELinux labels; empty where podman sets none.
    pub(in crate::podman) process_label: &'a str,
    pub(in crate::podman) mount_label: &'a str,
}

impl Confinement<'_> {
    pub(super) fn check(self, expected: &Expected) -> Result<(), String> {
        self.host_config.check(expected)?;
        let Some(labels) = &expected.labels else {
            return Ok(());
        };
        for (what, is, wanted) in [
            ("processes", self.process_label, &labels.process),
            ("files", self.mount_label, &labels.file),
        ] {
            if is != wanted {
                return Err(format!(
                    "podman made the container with the SELinux label {is:?} for its {what} instead of {wanted:?}; \
                     look at label and label_users in containers.conf"
                ));
            }
        }
        Ok(())
    }
}

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
    log_config: LogConfig,
    restart_policy: RestartPolicy,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LogConfig {
    r#type: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RestartPolicy {
    name: String,
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
            let meant = name == "network" && expected.has_hosts_network();
            if is_shared(mode) && !meant {
                return Err(format!(
                    "podman made the container with a {name} namespace of others: {mode:?}"
                ));
            }
        }
        let asked = expected.network_mode;
        // With options of its own the mode has them behind a colon.
        let is = self.network_mode.split(':').next().unwrap_or_default();
        if is != asked {
            return Err(format!(
                "podman made the container with the network {is:?} instead of {asked:?}"
            ));
        }
        // What a job prints is the attempt's alone, bounded and without secrets.
        if self.log_config.r#type != "none" {
            return Err(format!(
                "podman keeps what the container prints, with the driver {:?}",
                self.log_config.r#type
            ));
        }
        if !["", "no"].contains(&self.restart_policy.name.as_str()) {
            return Err(format!(
                "podman would start the container again ({})",
                self.restart_policy.name
            ));
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
    use super::super::ExpectedLabels;
    use super::*;

    fn expected() -> Expected {
        Expected {
            network_mode: "slirp4netns",
            ..Expected::default()
        }
    }

    /// Of podman 4.3.1, without what is not asked about.
    fn answer(change: &str, to: serde_json::Value) -> serde_json::Result<HostConfig> {
        let mut value = serde_json::json!({
            "LogConfig": {"Type": "none", "Config": null, "Path": "", "Tag": "", "Size": "0B"},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
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
        assert_eq!(private.check(&expected()), Ok(()));
        let host = answer("NetworkMode", "host".into()).unwrap();
        let of_host = Expected {
            network_mode: "host",
            ..expected()
        };
        assert_eq!(host.check(&of_host), Ok(()));
    }

    #[test]
    fn labels() {
        let host_config = &answer("", serde_json::Value::Null).unwrap();
        let confinement = |process_label, mount_label| Confinement {
            host_config,
            process_label,
            mount_label,
        };
        let labelled = Expected {
            labels: Some(ExpectedLabels {
                process: "u:r:container_t:s0:c1,c2".to_owned(),
                file: "u:r:container_file_t:s0:c1,c2".to_owned(),
            }),
            ..expected()
        };
        let good = confinement("u:r:container_t:s0:c1,c2", "u:r:container_file_t:s0:c1,c2");
        assert_eq!(good.check(&labelled), Ok(()));
        for (process, file) in [
            ("", ""),
            ("u:r:container_t:s0:c1,c3", "u:r:container_file_t:s0:c1,c2"),
            ("u:r:spc_t:s0:c1,c2", "u:r:container_file_t:s0:c1,c2"),
            ("u:r:container_t:s0:c1,c2", "u:r:container_file_t:s0"),
        ] {
            let why = confinement(process, file).check(&labelled).unwrap_err();
            assert!(why.contains("containers.conf"), "{why}");
            assert_eq!(confinement(process, file).check(&expected()), Ok(()));
        }
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
            ("NetworkMode", "none".into()),
            ("NetworkMode", "bridge".into()),
            ("LogConfig", serde_json::json!({"Type": "k8s-file"})),
            ("RestartPolicy", serde_json::json!({"Name": "always"})),
            ("SecurityOpt", serde_json::json!(["seccomp=unconfined"])),
            ("SecurityOpt", serde_json::json!(["unmask=all"])),
            ("Devices", serde_json::json!([{"PathOnHost": "/dev/kvm"}])),
        ] {
            let config = answer(change, to).unwrap();
            assert!(config.check(&expected()).is_err(), "{change}");
        }
        for unknown in ["Privileged", "LogConfig", "RestartPolicy"] {
            assert!(answer(unknown, serde_json::Value::Null).is_err());
        }
        let with_options = answer("NetworkMode", "slirp4netns:mtu=1".into()).unwrap();
        assert_eq!(with_options.check(&expected()), Ok(()));
    }
}
