//! Where the user's Podman listens.

use std::path::{Path, PathBuf};

use crate::Missing;

const START_IT: &str = "start it: systemctl --user enable --now podman.socket";

/// The socket: `container_host` (the value of `CONTAINER_HOST`) if it is given, else the user's own.
///
/// Only a local socket will do: mounts are directories of this host, and a container's cgroup and `/proc` are looked at.
///
/// # Errors
///
/// What is missing, when there is no such socket or the address is not a local one.
pub(crate) fn socket_path(
    container_host: Option<&str>,
    runtime_dir: Option<&Path>,
) -> Result<PathBuf, Missing> {
    let path = match container_host.filter(|host| !host.is_empty()) {
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => PathBuf::from(path),
            _ => {
                return Err(Missing::new(
                    format!("CONTAINER_HOST is {host:?}, which is not a socket of this host"),
                    "set it to unix:///run/user/UID/podman/podman.sock or unset it",
                ));
            }
        },
        None => runtime_dir
            .ok_or_else(|| {
                Missing::new(
                    "XDG_RUNTIME_DIR is not set, so there is no podman socket to find",
                    "log in through a session, or set CONTAINER_HOST=unix:///PATH",
                )
            })?
            .join("podman/podman.sock"),
    };
    if path.exists() {
        Ok(path)
    } else {
        Err(Missing::new(
            format!("there is no podman socket at {}", path.display()),
            START_IT,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_sockets_that_exist() {
        let here = std::env::current_exe().unwrap();
        let url = format!("unix://{}", here.display());
        assert_eq!(socket_path(Some(&url), None), Ok(here));
        for host in [
            "ssh://a/run/x",
            "tcp://1.2.3.4:1",
            "unix:x",
            "/run/x",
            "unix://x",
        ] {
            let missing = socket_path(Some(host), Some(Path::new("/"))).unwrap_err();
            assert!(missing.what.contains(host), "{missing}");
        }
        assert!(socket_path(None, None).is_err());
        let missing = socket_path(Some(""), Some(Path::new("/nowhere"))).unwrap_err();
        assert!(missing.what.contains("/nowhere/podman/podman.sock"));
        assert_eq!(missing.fix, START_IT);
    }
}
