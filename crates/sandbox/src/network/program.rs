//! The program that connects a job's network namespace with the outside.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bryo_process::{Program, Running, Stdio, find_program};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;

use super::DNS;
use crate::userns::{Nested, UserNamespace};
use crate::{Missing, SandboxError};

/// Both programs are ready within milliseconds.
const START: Duration = Duration::from_secs(20);

/// Which one this host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NetworkProgram {
    /// slirp4netns(1): ready in milliseconds, hence the first choice.
    Slirp4netns(PathBuf),
    /// pasta(1).
    Pasta(PathBuf),
}

impl NetworkProgram {
    /// Looks for one.
    pub(crate) fn find() -> Result<Self, Missing> {
        find_program("slirp4netns")
            .map(Self::Slirp4netns)
            .or_else(|| find_program("pasta").map(Self::Pasta))
            .ok_or_else(|| {
                Missing::new(
                    "neither slirp4netns nor pasta is installed",
                    "install one (apt install slirp4netns), or run the job with --network none",
                )
            })
    }

    /// Starts it on the network namespace of an attempt and waits until the network is up.
    pub(crate) async fn start(
        &self,
        userns: &UserNamespace,
        nested: &Nested,
    ) -> Result<NetworkHelper, SandboxError> {
        let net = nested.net();
        let start = async {
            match self {
                Self::Slirp4netns(path) => slirp4netns(&userns.inside().arg(path), net).await,
                Self::Pasta(path) => pasta(&userns.inside_bound(net).arg(path), nested).await,
            }
        };
        tokio::time::timeout(START, start)
            .await
            .unwrap_or_else(|_| {
                Err(SandboxError::Helper(
                    "the network program did not start in time".to_owned(),
                ))
            })
    }
}

/// A network program that runs. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct NetworkHelper {
    running: Running,
    // slirp4netns ends when this closes, even if Bryo is killed.
    _stdin: Option<ChildStdin>,
}

impl NetworkHelper {
    /// Tells it to end, and does not wait: the kernel takes its time to take a network device away, and meanwhile there
    /// is other work.
    pub(crate) fn end(&self) {
        self.running.signal(Signal::SIGKILL);
    }

    /// Whether it still carries packets.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.running.is_alive()
    }
}

impl From<NetworkHelper> for Running {
    fn from(helper: NetworkHelper) -> Self {
        helper.running
    }
}

/// It runs inside the helper's namespace, where it can shut itself into a mount namespace without files and drop its
/// capabilities.
async fn slirp4netns(inside: &Program, net: &Path) -> Result<NetworkHelper, SandboxError> {
    let mut running = inside
        .clone()
        .args([
            "--configure",
            "--mtu=65520",
            "--disable-host-loopback",
            "--enable-sandbox",
            "--enable-seccomp",
            // Standard input and output are the pipes that it watches and reports on.
            "--exit-fd=0",
            "--ready-fd=1",
            "--netns-type=path",
        ])
        .arg(net)
        .arg("tap0")
        .start(Stdio::Piped)
        .map_err(SandboxError::program("start slirp4netns"))?;
    let (stdin, stdout, stderr) = running.take_pipes();
    let mut ready = [0];
    let up = match stdout {
        Some(mut stdout) => stdout.read_exact(&mut ready).await.is_ok(),
        None => false,
    };
    if !up {
        let mut said = String::new();
        if let Some(mut stderr) = stderr {
            let _ = stderr.read_to_string(&mut said).await;
        }
        let last = said.trim().lines().last().unwrap_or_default();
        return Err(SandboxError::Helper(format!("slirp4netns: {last}")));
    }
    drain(stderr);
    Ok(NetworkHelper {
        running,
        _stdin: stdin,
    })
}

/// It runs inside the helper's namespace too, and has the job's network namespace as its standard input: before it opens that
/// it drops the capability with which it could look at the helper.
async fn pasta(inside: &Program, nested: &Nested) -> Result<NetworkHelper, SandboxError> {
    // In the foreground it stays our child; that it is up is told by the file of its process id, which is made first and
    // filled when the network is there.
    let pid_file = nested.pid_file();
    let seen = nested.on_host(pid_file);
    let mut running = inside
        .clone()
        .args(["--foreground", "--config-net", "--no-map-gw"])
        .args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"])
        .args(["--dns-forward", &DNS.to_string(), "--quiet", "--pid"])
        .arg(pid_file)
        // A namespace without a name of its own has none that could go.
        .args(["--no-netns-quit", "--netns-only", "--netns", "/proc/self/fd/0"])
        .start(Stdio::OutputPiped)
        .map_err(SandboxError::program("start pasta"))?;
    let (_, _, stderr) = running.take_pipes();
    let appear = async {
        while !std::fs::read(&seen).is_ok_and(|text| text.ends_with(b"\n")) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = appear => {}
        _ = running.wait() => {
            let mut said = String::new();
            if let Some(mut stderr) = stderr {
                let _ = stderr.read_to_string(&mut said).await;
            }
            return Err(SandboxError::Helper(format!("pasta: {}", said.trim())));
        }
    }
    drain(stderr);
    Ok(NetworkHelper {
        running,
        _stdin: None,
    })
}

/// A full pipe would stop the program, and with it the job's network.
fn drain(pipe: Option<tokio::process::ChildStderr>) {
    if let Some(mut pipe) = pipe {
        tokio::spawn(async move {
            let mut sink = tokio::io::sink();
            let _ = tokio::io::copy(&mut pipe, &mut sink).await;
            let _ = sink.shutdown().await;
        });
    }
}
