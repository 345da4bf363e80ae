//! The worker: makes the mounts of one job in a mount namespace of its own and becomes `crun`, which makes the container and
//! hands the job over to the helper. Where it cannot be handed over, crun is made by a copy of the worker, and the worker stays
//! as the parent of the job's first process, because only a parent is told how a process ended.
//!
//! It is a copy of the helper, made before there is anything to do, and waits until it is told which instructions are its.
//! If its input ends instead, nobody needs it.
//!
//! ```text
//!  BASE/box/            a tmpfs, only in this mount namespace
//!      root/            overlay: the image's layers below, a fresh upper directory on top
//!      mounts/0, 1, ..  what the job sees of the host, already read-only, nosuid and nodev
//!      etc/             resolv.conf, hosts, hostname
//! ```
//!
//! Its mounts live as long as crun and the last process of the job, and can be left behind by nobody: they are in no other
//! mount namespace. The paths lie beneath the helper's own directory because the job's ids cannot walk the agent's home.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, chown};
use serde::{Deserialize, Serialize};

use super::parent;
use super::sealed::SealedCrun;
use crate::selinux;
use crate::userns::give;

/// The kernel takes mount options of one page, its end included.
const OPTIONS: usize = 4095;

/// What the worker is told, in a file that is named to it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Instructions {
    /// The job's id 0, as the helper's namespace counts.
    pub(super) job_root: u32,
    /// Where the box goes.
    pub(super) place: PathBuf,
    /// Topmost first.
    pub(super) layers: Vec<PathBuf>,
    /// Directory for the job's own changes; `upper` and `work` are made in it.
    pub(super) overlay: PathBuf,
    pub(super) mounts: Vec<HostMount>,
    /// Contents of files in `/etc`.
    pub(super) etc: Vec<(String, String)>,
    /// What crun is started with to make the container; the job runs at once, or waits for its start where it has labels.
    pub(super) crun: Vec<OsString>,
    pub(super) labels: Option<JobLabels>,
    /// Where the job is not handed over.
    pub(super) stays: Option<Stays>,
}

/// What the job's parent needs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stays {
    /// That of the job.
    pub(super) cgroup: PathBuf,
    /// Where crun writes the number of the job's first process.
    pub(super) pid_file: PathBuf,
    /// Where the end of that process goes.
    pub(super) end_file: PathBuf,
}

/// SELinux labels.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JobLabels {
    /// Of the job's processes, as it is compared with what crun has set.
    pub(super) process: String,
    /// Of the job's root.
    pub(super) file: String,
    /// Of what is only read.
    pub(super) shared: String,
    /// What the pipes of the job's output must be given.
    pub(super) pipes: Option<String>,
    /// What lets the job go.
    pub(super) start: Vec<OsString>,
    /// Where the label goes that was read back.
    pub(super) seen: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HostMount {
    pub(super) host: PathBuf,
    pub(super) read_only: bool,
}

/// Where things are inside the box.
pub(super) fn rootfs(place: &Path) -> PathBuf {
    place.join("root")
}

pub(super) fn mount_source(place: &Path, index: usize) -> PathBuf {
    place.join("mounts").join(index.to_string())
}

pub(super) fn etc_file(place: &Path, name: &str) -> PathBuf {
    place.join("etc").join(name)
}

/// What ends the path of a file with instructions: no path has it.
pub(crate) const END_OF_PATH: &[u8] = b"\0";

/// The worker's main function; its exit code. The path of the file with its instructions comes out of `told`.
///
/// It makes its mount namespace before there is anything to do. Where it stays, its mounts are there until it ends.
pub(crate) fn worker(told: &PipeReader, crun: &SealedCrun) -> i32 {
    let is_alone = unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|e| format!("could not make a mount namespace: {e}"));
    let Some(file) = path(told) else {
        return 0;
    };
    let worked = is_alone.and_then(|()| {
        let todo = read(&file)?;
        match &todo.stays {
            None => Err(make(&todo, crun)),
            Some(stays) => parent::watch(&todo, stays, crun, || start(&file, crun)),
        }
    });
    // What goes wrong is told in a file: standard error is the job's.
    if let Err(why) = &worked {
        let _ = fs::write(error_file(&file), why);
    }
    i32::from(worked.is_err())
}

/// The exit code of who has said why it could not become crun. crun has none like it.
const TOLD_WHY: i32 = 214;

/// What a copy of the worker does that leaves the worker as the parent: the same, told by the same file. Its exit code.
fn start(file: &Path, crun: &SealedCrun) -> i32 {
    let why = match read(file) {
        Ok(todo) => make(&todo, crun),
        Err(why) => why,
    };
    let _ = fs::write(error_file(file), why);
    TOLD_WHY
}

/// Makes the mounts, and becomes crun. It returns only with a reason why it could not.
fn make(todo: &Instructions, crun: &SealedCrun) -> String {
    let label = todo
        .labels
        .as_ref()
        .and_then(|labels| labels.pipes.as_ref());
    let made = make_box(todo).and_then(|()| match label {
        Some(label) => selinux::label_own_output(label),
        None => Ok(()),
    });
    match made {
        Ok(()) => parent::become_crun(crun, &todo.crun),
        Err(why) => why,
    }
}

/// A path that is told, if one is.
fn path(told: &PipeReader) -> Option<PathBuf> {
    let mut path = Vec::new();
    BufReader::new(told).read_until(0, &mut path).ok()?;
    (path.pop() == Some(0)).then(|| PathBuf::from(OsString::from_vec(path)))
}

fn read(file: &Path) -> Result<Instructions, String> {
    let text = fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
    serde_json::from_slice(&text).map_err(|e| e.to_string())
}

/// Where the worker says why it failed.
pub(super) fn error_file(instructions: &Path) -> PathBuf {
    instructions.with_extension("error")
}

fn make_box(todo: &Instructions) -> Result<(), String> {
    let place = &todo.place;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    do_mount(
        Path::new("bryo"),
        place,
        Some("tmpfs"),
        flags,
        Some(&with_context(
            "mode=755,size=1m",
            todo.labels.as_ref().map(|labels| labels.shared.as_str()),
        )),
    )?;
    for dir in ["root", "mounts", "etc"] {
        make_dir(&place.join(dir))?;
    }
    for (name, text) in &todo.etc {
        let path = etc_file(place, name);
        fs::write(&path, text).map_err(|e| format!("could not write {}: {e}", path.display()))?;
    }
    for (index, entry) in todo.mounts.iter().enumerate() {
        bind(entry, &mount_source(place, index), todo.job_root)?;
    }
    overlay(todo)
}

fn overlay(todo: &Instructions) -> Result<(), String> {
    let (upper, work) = (todo.overlay.join("upper"), todo.overlay.join("work"));
    make_dir(&upper)?;
    make_dir(&work)?;
    // The attributes of the upper directory are those of the job's `/`.
    let (uid, gid) = (Uid::from_raw(todo.job_root), Gid::from_raw(todo.job_root));
    chown(&upper, Some(uid), Some(gid))
        .map_err(|e| format!("could not give {} to the job: {e}", upper.display()))?;
    // volatile: the upper directory dies with the job, so nothing of it needs to reach the disk.
    let mut options = with_context(
        "userxattr,volatile",
        todo.labels.as_ref().map(|labels| labels.file.as_str()),
    );
    options.push(",lowerdir=");
    let shared = shared_directory(&todo.layers);
    if let Some(dir) = shared {
        std::env::set_current_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    for (index, layer) in todo.layers.iter().enumerate() {
        if index > 0 {
            options.push(":");
        }
        let name = shared.and_then(|dir| layer.strip_prefix(dir).ok());
        options.push(escaped(name.unwrap_or(layer)));
    }
    options.push(",upperdir=");
    options.push(escaped(&upper));
    options.push(",workdir=");
    options.push(escaped(&work));
    if options.len() > OPTIONS {
        return Err(format!(
            "the image has too many layers ({}) for one overlay mount; squash it",
            todo.layers.len()
        ));
    }
    let root = rootfs(&todo.place);
    do_mount(
        Path::new("overlay"),
        &root,
        Some("overlay"),
        MsFlags::MS_NODEV,
        Some(&options),
    )
    .map_err(|e| {
        format!("{e}; the host's kernel must allow overlay mounts in user namespaces (5.11 or newer), and the work directory must not be on an overlay itself")
    })
}

/// Options of a mount, all of whose files have this SELinux label. The commas of its level are in quotes.
fn with_context(options: &str, label: Option<&str>) -> OsString {
    OsString::from(match label {
        Some(label) => format!("{options},context=\"{label}\""),
        None => options.to_owned(),
    })
}

/// The directory that the layers' own directories are in: named relative to it, many fit into one page of options.
fn shared_directory(layers: &[PathBuf]) -> Option<&Path> {
    let dir = layers.first()?.parent()?.parent()?;
    layers
        .iter()
        .all(|layer| layer.starts_with(dir))
        .then_some(dir)
}

/// `:` separates layers and `,` options; both can stand in a user's path.
fn escaped(path: &Path) -> OsString {
    let mut out = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    OsString::from(OsStr::from_bytes(&out))
}

fn bind(entry: &HostMount, at: &Path, job_root: u32) -> Result<(), String> {
    if !entry.read_only {
        give(&entry.host, job_root)?;
    }
    if entry.host.is_dir() {
        make_dir(at)?;
    } else {
        fs::write(at, "").map_err(|e| format!("could not make {}: {e}", at.display()))?;
    }
    do_mount(&entry.host, at, None, MsFlags::MS_BIND, None)?;
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if entry.read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    // A mount that the host made noexec or noatime keeps that: the kernel locks such flags in a user namespace.
    let kept = nix::sys::statvfs::statvfs(at)
        .map(|s| s.flags())
        .map_err(|e| format!("could not look at {}: {e}", at.display()))?;
    for (flag, keep) in [
        (nix::sys::statvfs::FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (nix::sys::statvfs::FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (
            nix::sys::statvfs::FsFlags::ST_NODIRATIME,
            MsFlags::MS_NODIRATIME,
        ),
        (
            nix::sys::statvfs::FsFlags::ST_RELATIME,
            MsFlags::MS_RELATIME,
        ),
        (nix::sys::statvfs::FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
    ] {
        if kept.contains(flag) {
            flags |= keep;
        }
    }
    do_mount(&entry.host, at, None, flags, None)
}

fn make_dir(path: &Path) -> Result<(), String> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|e| format!("could not make {}: {e}", path.display())),
    }
}

fn do_mount(
    source: &Path,
    at: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&OsStr>,
) -> Result<(), String> {
    mount(Some(source), at, kind, flags, options).map_err(|e| {
        format!(
            "could not mount {} at {}: {e}",
            kind.unwrap_or("bind"),
            at.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_one_option() {
        assert_eq!(with_context("a,b", None), "a,b");
        let labelled = with_context("a", Some("u:r:t:s0:c1,c2"));
        assert_eq!(labelled, "a,context=\"u:r:t:s0:c1,c2\"");
    }

    #[test]
    fn separators_in_paths_are_escaped() {
        assert_eq!(escaped(Path::new("/a:b,c\\d")), "/a\\:b\\,c\\\\d");
    }
}
