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

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use bryo_model::Amount;
use bryo_process::{Finished, ProcessError, Program, Stdio, find_program};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;

use crate::budget::Turn;
use crate::limits::ReachedLimit;
use crate::origin::Origin;
use crate::session::Session;
use crate::{Paths, Progress, SourceError, git_failure};
use git_failure::GitFailure;

/// What comes from this host has no bound but this. The bound that matters is the caller's, who drops the future.
pub(crate) const LONGEST_FETCH: Duration = Duration::from_secs(24 * 3600);

/// Work on a mirror alone takes no longer than this.
const LONGEST_LOOK: Duration = Duration::from_secs(600);

/// What a server lists of its tags; `git fetch` writes nothing to standard output.
const MOST_OUTPUT: usize = 64 << 20;

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
fn program(mirror: &Path, origin: &Origin, session: &Session, turn: Option<&Turn<'_>>) -> Program {
    let mut git = match turn {
        Some(turn) => bounded(turn),
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
fn bounded(turn: &Turn<'_>) -> Program {
    // Without it the program that is missing would be the other one's to tell.
    let Some(git) = find_program("git") else {
        return Program::new("git");
    };
    // What is lower already cannot be raised, and is bound enough.
    let lower = |resource, wanted: u64| match getrlimit(resource) {
        Ok((_, hard)) => wanted.min(hard),
        Err(_) => wanted,
    };
    let bytes = lower(Resource::RLIMIT_FSIZE, turn.bytes);
    let memory = lower(Resource::RLIMIT_DATA, turn.limits().memory);
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

/// What became of a fetch that nothing kept from its end.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Brought,
    /// A reference has no room beside one that is there, in git's words. Objects may have come.
    NoRoom(String),
}

/// The recipe for git in a mirror, talking to nobody.
pub(crate) fn alone(mirror: &Path) -> Program {
    fixed(Program::new("git"), mirror)
}

fn fixed(git: Program, mirror: &Path) -> Program {
    let mut git = git.dir(mirror);
    for (name, value) in FIXED {
        git = git.arg("-c").arg(format!("{name}={value}"));
    }
    git.env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("LC_ALL", "C")
}

/// Whether git finds that something is missing of what a mirror's references lead to, or cannot be read. The look is within
/// the bounds of the job, for which a server may have made it long.
pub(crate) async fn is_damaged(mirror: &Path, origin: &Origin) -> bool {
    let turn = origin.budget().map(|budget| budget.begin());
    let git = turn.as_ref().map_or_else(|| Program::new("git"), bounded);
    let longest = turn.as_ref().map_or(LONGEST_LOOK, |turn| turn.time);
    let look = fixed(git, mirror)
        .args(["--git-dir=.", "fsck", "--connectivity-only"])
        .args(["--no-dangling", "--no-progress"])
        .finish(b"", MOST_OUTPUT, longest.min(LONGEST_LOOK))
        .await;
    // What was not seen is not proved.
    look.is_ok_and(|done| {
        let said = done.stderr.to_lowercase();
        let lacked_memory = ["out of memory", "cannot allocate memory"];
        !done.status.success() && !lacked_memory.iter().any(|words| said.contains(words))
    })
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
) -> Result<Outcome, SourceError> {
    let mut args: Vec<OsString> = [
        "fetch",
        "--progress",
        "--prune",
        "--no-auto-maintenance",
        "--no-recurse-submodules",
        "--no-write-fetch-head",
        "--update-shallow",
    ]
    .map(OsString::from)
    .into();
    if let Some(depth) = origin.depth() {
        args.push(format!("--depth={depth}").into());
    }
    if what.tags == Tags::Named {
        args.push("--no-tags".into());
    }
    args.extend(["--".into(), origin.address.clone()]);
    args.extend(what.refspecs.iter().map(OsString::from));
    match talk(mirror, origin, paths, args, progress).await? {
        Ended::Done(_) => Ok(Outcome::Brought),
        Ended::Failed(said) => match git_failure::classify(&said) {
            GitFailure::NoRoom => Ok(Outcome::NoRoom(git_failure::detail(&said))),
            _ => Err(failure(mirror, origin, &said)),
        },
    }
}

/// What git's failure is for the caller.
fn failure(mirror: &Path, origin: &Origin, said: &str) -> SourceError {
    // Whose disk is full ssh does not tell: it passes on what the server's programs write.
    let full = matches!(git_failure::classify(said), GitFailure::DiskFull);
    if full && has_no_room(mirror) {
        return SourceError::DiskFull {
            path: mirror.to_owned(),
        };
    }
    origin.failure(said)
}

/// Whether hardly anything can be written there.
fn has_no_room(mirror: &Path) -> bool {
    const HARDLY_ANYTHING: u64 = 1 << 20;
    statvfs(mirror).is_ok_and(|fs| {
        fs.blocks_available().saturating_mul(fs.fragment_size()) < HARDLY_ANYTHING
            || fs.files() > 0 && fs.files_available() == 0
    })
}

/// The tags that an origin has, each with the object that it names itself.
///
/// # Errors
///
/// As [`fetch`].
pub(crate) async fn tags(
    mirror: &Path,
    origin: &Origin,
    paths: &Paths,
    progress: &Progress,
) -> Result<HashMap<Vec<u8>, String>, SourceError> {
    let mut args: Vec<OsString> = ["ls-remote", "--tags", "--refs", "--"]
        .map(OsString::from)
        .into();
    args.push(origin.address.clone());
    let listed = match talk(mirror, origin, paths, args, progress).await? {
        Ended::Done(listed) => listed,
        Ended::Failed(said) => return Err(failure(mirror, origin, &said)),
    };
    let lines = listed.split(|byte| *byte == b'\n');
    let pair = |line: &[u8]| {
        let tab = line.iter().position(|byte| *byte == b'\t')?;
        let id = str::from_utf8(&line[..tab]).ok()?;
        Some((line[tab + 1..].to_vec(), id.to_owned()))
    };
    Ok(lines.filter_map(pair).collect())
}

/// Takes references from a mirror that the caller has locked, all or none.
///
/// # Errors
///
/// When git cannot.
pub(crate) async fn forget(mirror: &Path, references: &[Vec<u8>]) -> Result<(), SourceError> {
    let mut input = Vec::new();
    for reference in references {
        input.extend_from_slice(b"delete ");
        input.extend_from_slice(reference);
        input.push(b'\n');
    }
    alone(mirror)
        .args(["--git-dir=.", "update-ref", "--stdin"])
        .finish(&input, MOST_OUTPUT, LONGEST_LOOK)
        .await
        .and_then(Finished::success)
        .map(drop)
        .map_err(SourceError::Program)
}

/// How a run of git ended.
enum Ended {
    /// With this on standard output.
    Done(Vec<u8>),
    /// With this on standard error, without secrets.
    Failed(String),
}

/// Runs git against an origin, within the bounds.
async fn talk(
    mirror: &Path,
    origin: &Origin,
    paths: &Paths,
    args: Vec<OsString>,
    progress: &Progress,
) -> Result<Ended, SourceError> {
    let reached = |limit| SourceError::Limit {
        location: origin.location.clone(),
        limit,
    };
    let session = Session::open(mirror, origin, paths).await?;
    let turn = origin.budget().map(|budget| budget.begin());
    if let Some(turn) = turn.as_ref().filter(|turn| turn.bytes == 0) {
        return Err(reached(ReachedLimit::Bytes(turn.limits().bytes)));
    }
    let before = pack_bytes(mirror);
    let git = program(mirror, origin, &session, turn.as_ref()).args(args);
    let mut meter = Meter::new(progress);
    let longest = turn.as_ref().map_or(LONGEST_FETCH, |turn| turn.time);
    let activity = &session.activity;
    let running = git.start(Stdio::Piped).map_err(SourceError::Program)?;
    let group = running.id();
    let running = running.finish_watched(b"", MOST_OUTPUT, longest, |piece| {
        activity.seen();
        if meter.feed(piece) {
            activity.complete();
        }
    });
    let silent = async {
        match &turn {
            Some(turn) => {
                let stall = turn.limits().stall;
                activity.silent_for(stall, group).await;
                stall
            }
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        biased;
        ended = running => ended,
        stall = silent => return Err(reached(ReachedLimit::Stall(stall))),
    };
    if let Some(turn) = turn.as_ref().filter(|_| !session.counts())
        && !turn.received(pack_bytes(mirror).saturating_sub(before))
    {
        return Err(reached(ReachedLimit::Bytes(turn.limits().bytes)));
    }
    match ended {
        Ok(done) if done.status.success() => Ok(Ended::Done(done.stdout)),
        Ok(done) => match (session.trouble(origin), &turn) {
            (Some(ours), _) => Err(ours),
            (None, Some(turn)) if is_full(mirror, turn.bytes) => {
                Err(reached(ReachedLimit::Bytes(turn.limits().bytes)))
            }
            (None, _) => Ok(Ended::Failed(session.masked(&done.stderr))),
        },
        Err(ProcessError::Deadline { after, .. }) => {
            let most = turn.map_or(after, |turn| turn.limits().timeout);
            Err(reached(ReachedLimit::Timeout(most)))
        }
        // How much there is to be said is the server's.
        Err(error @ ProcessError::TooMuchOutput { .. }) => Err(SourceError::Git {
            location: origin.location.clone(),
            detail: error.to_string(),
        }),
        Err(other) => Err(SourceError::Program(other)),
    }
}

/// Bytes of all packs that a mirror has.
fn pack_bytes(mirror: &Path) -> u64 {
    let files = std::fs::read_dir(mirror.join("objects/pack"));
    let packs = files
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "pack"));
    packs
        .filter_map(|entry| entry.metadata().ok())
        .map(|meta| meta.len())
        .sum()
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

    /// `true` when a pack has arrived.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> bool {
        let mut complete = false;
        for &byte in piece {
            if byte == b'\r' || byte == b'\n' {
                if let Some(amount) = received(&self.line) {
                    (self.progress)(amount);
                    complete |= matches!(amount, Amount::Items { done, total } if done == total);
                }
                self.line.clear();
            } else if self.line.len() < LONGEST_LINE {
                self.line.push(byte);
            }
        }
        complete
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
    use crate::SourceLimits;
    use crate::budget::Budget;

    #[test]
    fn progress_is_read_from_pieces_of_any_size() {
        let stderr = b"remote: Counting objects: 100% (9/9), done.\r\nReceiving objects:   0% (0/9)\rReceiving objects:  55% (5/9), 1.00 MiB | 2.00 MiB/s\rReceiving objects: 100% (9/9), done.\nResolving deltas: 100% (1/1), done.\n\xff\n";
        for size in [1, 7, 1000] {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let sink = Arc::clone(&seen);
            let progress: Progress = Arc::new(move |amount| sink.lock().unwrap().push(amount));
            let mut meter = Meter::new(&progress);
            let complete = stderr.chunks(size).filter(|piece| meter.feed(piece));
            assert_eq!(complete.count(), 1);
            let items = |done| Amount::Items { done, total: 9 };
            assert_eq!(*seen.lock().unwrap(), [items(0), items(5), items(9)]);
        }
    }

    #[tokio::test]
    async fn the_environment_cannot_bring_configuration_along() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().to_owned());
        let budget = Budget::new(SourceLimits::default());
        let url = "https://h/x".parse().unwrap();
        let origin = Origin::remote(&url, &Arc::default(), &budget);
        let turn = budget.begin();
        let session = Session::open(dir.path(), &origin, &paths).await.unwrap();
        let shown = format!(
            "{:?}",
            program(Path::new("/m"), &origin, &session, Some(&turn))
        );
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
