//! The helper's own main function: makes the outer namespaces, then does what it is asked until its input ends.

use std::io::Write;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::input::Input;
use super::server::Server;

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
    let mut input = Input::standard().map_err(|e| format!("could not listen: {e}"))?;
    if input.line().as_deref() != Some(b"mapped") {
        return Ok(());
    }
    let base =
        choose(keep).ok_or("none of /mnt, /media, /srv, /opt can be used as a mount point")?;
    settle(&base).map_err(|e| format!("could not set up {}: {e}", base.display()))?;
    say(format!("{}\n", base.display()).as_bytes())?;
    raise_open_files();
    Server::new(base)?.serve(input)
}

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
    for dir in ["ns", "box"] {
        nix::unistd::mkdir(
            &base.join(dir),
            nix::sys::stat::Mode::from_bits_truncate(0o755),
        )?;
    }
    Ok(())
}
