//! The git program, always started the same way.
//!
//! The environment is empty but for what is named here: no system, user or repository configuration that could start a
//! program (hooks, filters, credential helpers, `uploadpack.packObjectsHook`), no prompt, one language, one transport.
//! What the user's environment contributes is how to get out (proxies, certificate authorities) and how to prove who
//! they are (ssh agent, `~/.ssh`, `~/.netrc`, `GIT_ASKPASS`).
//!
//! Why no `transfer.fsckObjects`? It refuses old but honest repositories (zero-padded modes, broken time zones), and
//! protects readers that we are not: the only reader on the host is libgit2, which checks every path itself when it
//! writes a tree.
//!
//! Why `fetch.unpackLimit=1`? Loose objects arrive one by one, a commit before its trees; git that is killed in between
//! leaves a commit that looks as if it were there. A pack becomes visible whole or not at all.

use std::path::Path;
use std::time::Duration;

use bryo_model::Amount;
use bryo_process::Program;

use crate::Progress;
use crate::SourceError;
use crate::origin::{Origin, Ownership};

/// Git fetches without any bound but this. The bound that matters is the caller's, who drops the future.
const LONGEST_FETCH: Duration = Duration::from_secs(24 * 3600);

/// `git fetch` writes nothing to standard output.
const MOST_OUTPUT: usize = 1 << 20;

/// Below 1000 bytes per second for this long, a transfer over http is given up.
const LOW_SPEED: &str = "60";

const FIXED: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("credential.helper", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.unpackLimit", "1"),
    ("fetch.writeCommitGraph", "false"),
    ("protocol.version", "2"),
    ("http.followRedirects", "initial"),
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", LOW_SPEED),
];

/// The connection is given up when it cannot be made in half a minute or answers nothing for a minute.
const SSH: &str =
    "ssh -oBatchMode=yes -oConnectTimeout=30 -oServerAliveInterval=15 -oServerAliveCountMax=4";

const INHERITED: &[&str] = &[
    "HOME",
    "SSH_AUTH_SOCK",
    "GIT_ASKPASS",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
];

/// The recipe for git in one repository of ours, talking to one origin.
fn program(mirror: &Path, origin: &Origin, global_config: &Path) -> Program {
    let mut git = Program::new("git").dir(mirror);
    for (name, value) in FIXED {
        git = git.arg("-c").arg(format!("{name}={value}"));
    }
    for name in INHERITED {
        git = git.inherit(name);
    }
    git.arg("--git-dir=.")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", global_config)
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ALLOW_PROTOCOL", origin.protocols)
        .env("GIT_SSH_COMMAND", SSH)
        .env("LC_ALL", "C")
}

/// Fetches refspecs into a mirror that the caller has locked.
///
/// # Errors
///
/// What git meant when it failed; see [`crate::git_failure`].
pub(crate) async fn fetch(
    mirror: &Path,
    origin: &Origin,
    refspecs: &[String],
    progress: &Progress,
) -> Result<(), SourceError> {
    let safe = mirror.join("bryo-safe-directory");
    let global_config = match origin.ownership {
        Ownership::Checked => Path::new("/dev/null"),
        Ownership::DeclaredSafe => {
            // Read by this git and by the upload-pack that it starts, which touch nothing but this one source.
            std::fs::write(&safe, "[safe]\n\tdirectory = *\n").map_err(SourceError::io(&safe))?;
            &safe
        }
    };
    let git = program(mirror, origin, global_config)
        .args([
            "fetch",
            "--progress",
            "--prune",
            "--no-tags",
            "--no-auto-maintenance",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
            "--update-shallow",
            "--",
        ])
        .arg(&origin.address)
        .args(refspecs);
    let mut meter = Meter::new(progress);
    let done = git
        .finish_watched(b"", MOST_OUTPUT, LONGEST_FETCH, |piece| meter.feed(piece))
        .await
        .map_err(SourceError::Program)?;
    if done.status.success() {
        Ok(())
    } else {
        Err(origin.failure(&done.stderr))
    }
}

/// Finds how far git is in what it writes for people.
struct Meter<'a> {
    progress: &'a Progress,
    line: Vec<u8>,
}

/// No line of progress is longer; what is, is something else and need not be kept.
const LONGEST_LINE: usize = 512;

impl<'a> Meter<'a> {
    fn new(progress: &'a Progress) -> Self {
        Self {
            progress,
            line: Vec::new(),
        }
    }

    fn feed(&mut self, piece: &[u8]) {
        for &byte in piece {
            if byte == b'\r' || byte == b'\n' {
                if let Some(amount) = received(&self.line) {
                    (self.progress)(amount);
                }
                self.line.clear();
            } else if self.line.len() < LONGEST_LINE {
                self.line.push(byte);
            }
        }
    }
}

/// `Receiving objects:  42% (n/m)`, perhaps with more after it.
fn received(line: &[u8]) -> Option<Amount> {
    let line = str::from_utf8(line).ok()?;
    let numbers = line.strip_prefix("Receiving objects:")?.split_once('(')?.1;
    let (done, total) = numbers.split_once(')')?.0.split_once('/')?;
    Some(Amount::Items {
        done: done.parse().ok()?,
        total: total.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn progress_is_read_from_pieces_of_any_size() {
        let stderr = b"remote: Counting objects: 100% (9/9), done.\r\nReceiving objects:   0% (0/9)\rReceiving objects:  55% (5/9), 1.00 MiB | 2.00 MiB/s\rReceiving objects: 100% (9/9), done.\nResolving deltas: 100% (1/1), done.\n\xff\n";
        for size in [1, 7, 1000] {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let sink = Arc::clone(&seen);
            let progress: Progress = Arc::new(move |amount| sink.lock().unwrap().push(amount));
            let mut meter = Meter::new(&progress);
            for piece in stderr.chunks(size) {
                meter.feed(piece);
            }
            let items = |done| Amount::Items { done, total: 9 };
            assert_eq!(*seen.lock().unwrap(), [items(0), items(5), items(9)]);
        }
    }

    #[test]
    fn the_environment_cannot_bring_configuration_along() {
        let origin = Origin::remote(&"https://h/x".parse().unwrap());
        let shown = format!(
            "{:?}",
            program(Path::new("/m"), &origin, Path::new("/dev/null"))
        );
        for needed in [
            "GIT_CONFIG_NOSYSTEM=",
            "GIT_CONFIG_GLOBAL=",
            "GIT_TERMINAL_PROMPT=",
            "GIT_ALLOW_PROTOCOL=",
            "LC_ALL=",
            "core.hooksPath=/dev/null",
            "gc.auto=0",
        ] {
            assert!(shown.contains(needed), "{needed} in {shown}");
        }
        assert!(!shown.contains("XDG_CONFIG_HOME"));
    }
}
