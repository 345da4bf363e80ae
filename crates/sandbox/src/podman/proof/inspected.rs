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
    use super::super::ExpectedLabels;
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
    fn labels() {
        let host_config = &answer("", serde_json::Value::Null).unwrap();
        let confinement = |process_label, mount_label| Confinement {
            host_config,
            process_label,
            mount_label,
        };
        let expected = Expected {
            labels: Some(ExpectedLabels {
                process: "u:r:container_t:s0:c1,c2".to_owned(),
                file: "u:r:container_file_t:s0:c1,c2".to_owned(),
            }),
            ..Expected::default()
        };
        let good = confinement("u:r:container_t:s0:c1,c2", "u:r:container_file_t:s0:c1,c2");
        assert_eq!(good.check(&expected), Ok(()));
        for (process, file) in [
            ("", ""),
            ("u:r:container_t:s0:c1,c3", "u:r:container_file_t:s0:c1,c2"),
            ("u:r:spc_t:s0:c1,c2", "u:r:container_file_t:s0:c1,c2"),
            ("u:r:container_t:s0:c1,c2", "u:r:container_file_t:s0"),
        ] {
            let why = confinement(process, file).check(&expected).unwrap_err();
            assert!(why.contains("containers.conf"), "{why}");
            assert_eq!(
                confinement(process, file).check(&Expected::default()),
                Ok(())
            );
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
