//! The helper's own main function: makes the outer namespaces, then does what it is asked until its input ends.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::measure::{OnDisk, measure};
use super::protocol::{Answer, Request, Wish};
use super::{files, nested};

/// Directories that every Linux system has and that hold nothing a job needs. One of them is covered, in the helper's
/// own mount namespace only, by a small tmpfs: paths beneath it can be walked by the job's ids, unlike the agent's home.
const CANDIDATES: [&str; 5] = ["/mnt", "/media", "/srv", "/opt", "/boot"];

/// The helper: `keep` are directories that must stay visible.
pub(super) fn main(keep: &[PathBuf]) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(|e| {
        format!(
            "could not make a user namespace: {e}; the host must allow unprivileged user namespaces \
             (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces, \
             kernel.apparmor_restrict_unprivileged_userns)"
        )
    })?;
    say(b"unshared\n")?;
    let mut lines = std::io::stdin().lock().lines();
    match lines.next() {
        Some(Ok(line)) if line == "mapped" => {}
        _ => return Ok(()),
    }
    let base =
        choose(keep).ok_or("none of /mnt, /media, /srv, /opt can be used as a mount point")?;
    settle(&base).map_err(|e| format!("could not set up {}: {e}", base.display()))?;
    say(format!("{}\n", base.display()).as_bytes())?;
    raise_open_files();
    let guarded = Guarded::default();
    let out = Arc::new(Mutex::new(std::io::stdout()));
    for line in lines {
        let Ok(line) = line else { break };
        // What cannot be read ends the helper, and with it, below, the jobs that it guards.
        let Ok(request) = serde_json::from_str::<Request>(&line) else {
            break;
        };
        let quick = matches!(request.wish, Wish::Guard { .. } | Wish::Unguard { .. });
        let (base, out, guarded) = (base.clone(), Arc::clone(&out), Arc::clone(&guarded));
        // A wish may take long (removing a large tree) and must not hold up another attempt.
        let work = move || {
            let result = fulfil(&base, &guarded, request.wish);
            let answer = Answer {
                number: request.number,
                on_disk: result.as_ref().ok().copied().flatten(),
                error: result.err(),
            };
            if let (Ok(text), Ok(mut out)) = (serde_json::to_string(&answer), out.lock()) {
                let _ = writeln!(out, "{text}").and_then(|()| out.flush());
            }
        };
        if quick {
            work();
        } else if std::thread::Builder::new().spawn(work).is_err() {
            // Without a thread there is no answer; whoever waits for one must not wait for ever.
            break;
        }
    }
    // The agent is gone. Its jobs must not go on without anybody who knows their bounds.
    if let Ok(guarded) = guarded.lock() {
        for cgroup in guarded.iter() {
            let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
        }
    }
    Ok(())
}

/// Cgroups of jobs that run.
type Guarded = Arc<Mutex<BTreeSet<PathBuf>>>;

/// A tree is walked with one open directory for each level of it.
fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

pub(super) fn say(text: &[u8]) -> Result<(), String> {
    let mut out = std::io::stdout();
    out.write_all(text)
        .and_then(|()| out.flush())
        .map_err(|e| format!("the agent went away: {e}"))
}

fn fulfil(base: &Path, guarded: &Guarded, wish: Wish) -> Result<Option<OnDisk>, String> {
    match wish {
        Wish::Measure {
            dirs,
            processes,
            most,
        } => return measure(&dirs, &processes, most).map(Some),
        Wish::Nest {
            name,
            first,
            network,
        } => nested::make(base, &name, first, network),
        Wish::Unnest { name } => nested::unmake(base, &name),
        Wish::Give { path, root } => files::give(&path, root),
        Wish::Reclaim { path } => files::reclaim(&path),
        Wish::Remove { path } => files::remove(&path),
        Wish::Guard { cgroup } => keep(guarded, |all| all.insert(cgroup)),
        Wish::Unguard { cgroup } => keep(guarded, |all| all.remove(&cgroup)),
    }
    .map(|()| None)
}

fn keep(
    guarded: &Guarded,
    change: impl FnOnce(&mut BTreeSet<PathBuf>) -> bool,
) -> Result<(), String> {
    let mut all = guarded.lock().map_err(|_| "the list of jobs is lost")?;
    change(&mut all);
    Ok(())
}

fn choose(keep: &[PathBuf]) -> Option<PathBuf> {
    CANDIDATES
        .iter()
        .map(PathBuf::from)
        .find(|c| c.is_dir() && !c.is_symlink() && !keep.iter().any(|k| k.starts_with(c)))
}

fn settle(base: &Path) -> nix::Result<()> {
    // Slave: what the host unmounts goes away here too, and nothing made here is ever seen there.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )?;
    mount(
        Some("bryo"),
        base,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=755,size=1m"),
    )?;
    // Namespaces can be pinned only on a mount that propagates to nowhere.
    mount(
        None::<&str>,
        base,
        None::<&str>,
        MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    for dir in ["ns", "box"] {
        nix::unistd::mkdir(
            &base.join(dir),
            nix::sys::stat::Mode::from_bits_truncate(0o755),
        )?;
    }
    Ok(())
}
