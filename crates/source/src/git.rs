//! The git program, always started the same way.
//!
//! The environment is empty but for what is named here: no system, user or repository configuration that could start a
//! program (hooks, filters, credential helpers, `uploadpack.packObjectsHook`), no prompt, one language, one transport.
//! What it may reach, as whom, and how much it may take is the policy's to say; [`crate::session`] makes it so.
//!
//! Why no `transfer.fsckObjects`? It refuses old but honest repositories (zero-padded modes, broken time zones), and
//! protects readers that we are not: the only reader on the host is libgit2, which checks every path itself when it
//! writes a tree.
//!
//! Why `fetch.unpackLimit=1`? Loose objects arrive one by one, a commit before its trees; git that is killed in between
//! leaves a commit that looks as if it were there. A pack becomes visible whole or not at all.
//!
//! Why `prlimit`? A bound that the kernel keeps holds from git's first instruction on and for everything that git starts;
//! setting one between fork and exec would need `unsafe`.

use std::path::Path;
use std::time::Duration;

use bryo_model::Amount;
use bryo_process::{ProcessError, Program, find_program};
use nix::sys::resource::{Resource, getrlimit};

use crate::limits::{ReachedLimit, SourceLimits};
use crate::origin::Origin;
use crate::session::Session;
use crate::{Paths, Progress, SourceError};

/// What comes from this host has no bound but this. The bound that matters is the caller's, who drops the future.
pub(crate) const LONGEST_FETCH: Duration = Duration::from_secs(24 * 3600);

/// `git fetch` writes nothing to standard output.
const MOST_OUTPUT: usize = 1 << 20;

pub(crate) const FIXED: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.unpackLimit", "1"),
    ("fetch.writeCommitGraph", "false"),
    ("protocol.version", "2"),
    ("http.followRedirects", "initial"),
    // What is larger goes through memory piece by piece.
    ("core.bigFileThreshold", "32m"),
];

/// How to verify servers: the same for whoever asks.
const INHERITED: &[&str] = &[
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
];

/// The recipe for git in one repository of ours, talking to one origin.
fn program(mirror: &Path, origin: &Origin, session: &Session) -> Program {
    let mut git = match origin.limits() {
        Some(limits) => bounded(&limits),
        None => Program::new("git"),
    };
    git = git.dir(mirror);
    for (name, value) in FIXED {
        git = git.arg("-c").arg(format!("{name}={value}"));
    }
    for name in INHERITED {
        git = git.inherit(name);
    }
    git = git
        .arg("--git-dir=.")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", &session.config)
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ALLOW_PROTOCOL", origin.protocols)
        .env("LC_ALL", "C");
    for (name, value) in &session.env {
        git = git.env(name, value);
    }
    git
}

/// Git with bounds that the kernel keeps: no file is larger than what may be received, no process needs more memory.
fn bounded(limits: &SourceLimits) -> Program {
    // Without it the program that is missing would be the other one's to tell.
    let Some(git) = find_program("git") else {
        return Program::new("git");
    };
    // What is lower already cannot be raised, and is bound enough.
    let lower = |resource, wanted: u64| match getrlimit(resource) {
        Ok((_, hard)) => wanted.min(hard),
        Err(_) => wanted,
    };
    let bytes = lower(Resource::RLIMIT_FSIZE, limits.bytes);
    let memory = lower(Resource::RLIMIT_DATA, limits.memory);
    Program::new("prlimit")
        .arg(format!("--fsize={bytes}"))
        .arg(format!("--data={memory}"))
        .arg("--core=0")
        .arg("--")
        .arg(git)
}

/// What a fetch brings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct What<'a> {
    pub(crate) refspecs: &'a [String],
    pub(crate) tags: Tags,
}

/// Which tags a fetch brings beside that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tags {
    /// Those that a refspec names.
    Named,
    /// Those of commits that come along: what `git describe` asks for.
    Followed,
}

/// Fetches into a mirror that the caller has locked.
///
/// # Errors
///
/// What the policy refuses, which bound was reached, and else what git meant when it failed; see [`crate::git_failure`].
pub(crate) async fn fetch(
    mirror: &Path,
    origin: &Origin,
    paths: &Paths,
    what: What<'_>,
    progress: &Progress,
) -> Result<(), SourceError> {
    let session = Session::open(mirror, origin, paths).await?;
    let mut git = program(mirror, origin, &session).args([
        "fetch",
        "--progress",
        "--prune",
        "--no-auto-maintenance",
        "--no-recurse-submodules",
        "--no-write-fetch-head",
        "--update-shallow",
    ]);
    if let Some(depth) = origin.depth() {
        git = git.arg(format!("--depth={depth}"));
    }
    if what.tags == Tags::Named {
        git = git.arg("--no-tags");
    }
    let git = git.arg("--").arg(&origin.address).args(what.refspecs);
    let mut meter = Meter::new(progress);
    let limits = origin.limits();
    let longest = limits.map_or(LONGEST_FETCH, |limits| limits.timeout);
    let activity = &session.activity;
    let running = git.finish_watched(b"", MOST_OUTPUT, longest, |piece| {
        activity.seen();
        meter.feed(piece);
    });
    let silent = async {
        match limits {
            Some(limits) => activity.silent_for(limits.stall).await,
            None => std::future::pending().await,
        }
    };
    let reached = |limit| SourceError::Limit {
        location: origin.location.clone(),
        limit,
    };
    let ended = tokio::select! {
        biased;
        ended = running => ended,
        () = silent => {
            let stall = limits.map_or(LONGEST_FETCH, |limits| limits.stall);
            return Err(reached(ReachedLimit::Stall(stall)));
        }
    };
    match ended {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(match (session.trouble(origin), limits) {
            (Some(ours), _) => ours,
            (None, Some(limits)) if is_full(mirror, limits.bytes) => {
                reached(ReachedLimit::Bytes(limits.bytes))
            }
            (None, _) => origin.failure(&session.masked(&done.stderr)),
        }),
        Err(ProcessError::Deadline { after, .. }) => Err(reached(ReachedLimit::Timeout(after))),
        Err(other) => Err(SourceError::Program(other)),
    }
}

/// Whether a pack that was being written has reached the bound. Git does not say so: the kernel ends who writes it, and its
/// parent tells no more than that there was no answer.
fn is_full(mirror: &Path, most: u64) -> bool {
    let packs = std::fs::read_dir(mirror.join("objects/pack"));
    packs.into_iter().flatten().flatten().any(|entry| {
        entry.file_name().to_string_lossy().starts_with("tmp_")
            && entry.metadata().is_ok_and(|file| file.len() >= most)
    })
}

/// Finds how far git is in what it writes for people.
pub(crate) struct Meter<'a> {
    progress: &'a Progress,
    line: Vec<u8>,
}

/// No line of progress is longer; what is, is something else and need not be kept.
const LONGEST_LINE: usize = 512;

impl<'a> Meter<'a> {
    pub(crate) fn new(progress: &'a Progress) -> Self {
        Self {
            progress,
            line: Vec::new(),
        }
    }

    pub(crate) fn feed(&mut self, piece: &[u8]) {
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

    #[tokio::test]
    async fn the_environment_cannot_bring_configuration_along() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().to_owned());
        let origin = Origin::remote(&"https://h/x".parse().unwrap(), &Arc::default());
        let session = Session::open(dir.path(), &origin, &paths).await.unwrap();
        let shown = format!("{:?}", program(Path::new("/m"), &origin, &session));
        for needed in [
            "GIT_CONFIG_NOSYSTEM=",
            "GIT_CONFIG_GLOBAL=",
            "GIT_TERMINAL_PROMPT=",
            "GIT_ALLOW_PROTOCOL=",
            "LC_ALL=",
            "core.hooksPath=/dev/null",
            "gc.auto=0",
            "--fsize=",
            "--data=",
        ] {
            assert!(shown.contains(needed), "{needed} in {shown}");
        }
        for kept_out in ["XDG_CONFIG_HOME", "SSH_AUTH_SOCK", "GIT_ASKPASS", "socks5h"] {
            assert!(!shown.contains(kept_out), "{kept_out} in {shown}");
        }
    }
}
