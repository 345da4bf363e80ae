//! The network of a podman container: how libpod is asked for it, and who answers DNS in it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bryo_model::NetworkMode;

use super::info::{NetworkHelper, PodmanInfo};
use crate::network::{DNS, resolver};
use crate::{Missing, SandboxError};

/// Where pasta is told to answer DNS.
const PASTA_DNS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Where the network's program answers DNS.
pub(super) fn dns(info: &PodmanInfo) -> Ipv4Addr {
    match info.network_helper {
        Some(NetworkHelper::Pasta) => PASTA_DNS,
        Some(NetworkHelper::Slirp4netns) | None => DNS,
    }
}

/// Our `/etc/resolv.conf`, if the job's name server is known: podman's own would name those of the host too.
pub(super) fn resolver_file(mode: NetworkMode, info: &PodmanInfo) -> Option<String> {
    match (mode, info.network_helper) {
        (NetworkMode::None, _) => Some(String::new()),
        (NetworkMode::Isolated, Some(NetworkHelper::Slirp4netns)) => {
            Some(resolver(&DNS.to_string()))
        }
        (NetworkMode::Isolated, Some(NetworkHelper::Pasta)) => {
            Some(resolver(&PASTA_DNS.to_string()))
        }
        (NetworkMode::Isolated, None) | (NetworkMode::Host, _) => None,
    }
}

/// Options of a network, by the program that makes it.
pub(super) type Options = BTreeMap<&'static str, &'static [&'static str]>;

/// How podman connects a container, and with which options.
pub(super) fn network(
    mode: NetworkMode,
    info: &PodmanInfo,
) -> Result<(&'static str, Options), SandboxError> {
    match (mode, info.network_helper) {
        (NetworkMode::None, _) => Ok(("none", Options::new())),
        (NetworkMode::Host, _) => Ok(("host", Options::new())),
        (NetworkMode::Isolated, Some(NetworkHelper::Slirp4netns)) => {
            let options: &[_] = &[
                "allow_host_loopback=false",
                "enable_ipv6=false",
                "mtu=65520",
            ];
            Ok(("slirp4netns", BTreeMap::from([("slirp4netns", options)])))
        }
        // podman itself adds --no-map-gw and closes all forwarded ports unless it is told otherwise. Its own choice of the
        // name server's address has changed between its versions.
        (NetworkMode::Isolated, Some(NetworkHelper::Pasta)) => {
            let options: &[_] = &["--dns-forward", "169.254.1.1"];
            Ok(("pasta", BTreeMap::from([("pasta", options)])))
        }
        (NetworkMode::Isolated, None) => Err(SandboxError::Host(vec![Missing::new(
            format!(
                "podman {} has no slirp4netns or pasta for --network isolated",
                info.version
            ),
            "sudo apt install slirp4netns, or run with --network none",
        )])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podman::info::CgroupManager;

    #[test]
    fn who_answers_dns() {
        let mut info = PodmanInfo {
            graph_root: "/g".into(),
            version: "5.4.2".to_owned(),
            cgroup_manager: CgroupManager::Cgroupfs,
            graph_driver: "overlay".to_owned(),
            network_helper: Some(NetworkHelper::Slirp4netns),
            subordinate_ids: 65_536,
            uid_map: "1 100000 65536\n".to_owned(),
            gid_map: "1 100000 65536\n".to_owned(),
        };
        let file = |mode, info: &PodmanInfo| resolver_file(mode, info);
        let own = file(NetworkMode::Isolated, &info).unwrap();
        assert!(own.starts_with("nameserver 10.0.2.3\n"), "{own}");
        assert_eq!(file(NetworkMode::None, &info).as_deref(), Some(""));
        assert_eq!(file(NetworkMode::Host, &info), None);
        info.network_helper = Some(NetworkHelper::Pasta);
        let own = file(NetworkMode::Isolated, &info).unwrap();
        assert!(own.starts_with("nameserver 169.254.1.1\n"), "{own}");
        let (_, options) = network(NetworkMode::Isolated, &info).unwrap();
        assert_eq!(options["pasta"], ["--dns-forward", "169.254.1.1"]);
        assert_eq!(dns(&info), PASTA_DNS);
    }
}
