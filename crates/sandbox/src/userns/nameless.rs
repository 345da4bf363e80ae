//! Files that have no name any more, and that a process of a job holds open: they take space that no walk finds.
//!
//! What a process has open can be seen by whoever has the capabilities of the namespace that the process' own was made
//! from: the helper for its jobs, and for others a process that joins theirs.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bryo_process::Program;
use nix::sched::{CloneFlags, setns};

use super::files::Effort;
use super::measure::BLOCK;
use super::roles::Role;
use crate::SandboxError;

const PATIENCE: Duration = Duration::from_secs(20);

/// Their bytes. Files in memory count as memory, unless the job's directories are in memory too: on these devices. `None` when
/// looking takes more than this effort: a job can have many threads, each with a table of many files.
pub(super) fn nameless(processes: &[u32], devices: &[u64], effort: &mut Effort) -> Option<u64> {
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    for pid in processes {
        // Each thread can have a table of its own, and the first one may have ended.
        let threads = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten();
        let tables = threads.flatten().map(|thread| thread.path().join("fd"));
        for fd in tables
            .filter_map(|table| fs::read_dir(table).ok())
            .flatten()
            .flatten()
        {
            if !effort.allows(1) {
                return None;
            }
            let Ok(meta) = fs::metadata(fd.path()) else {
                continue;
            };
            if meta.is_file()
                && meta.nlink() == 0
                && (devices.contains(&meta.dev()) || !in_memory(&fd.path()))
                && seen.insert((meta.dev(), meta.ino()))
            {
                bytes += meta.blocks() * BLOCK;
            }
        }
    }
    Some(bytes)
}

fn in_memory(path: &Path) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    const HUGETLBFS: u64 = 0x9584_58f6;
    rustix::fs::statfs(path).is_ok_and(|s| matches!(u64::try_from(s.f_type), Ok(TMPFS | HUGETLBFS)))
}

/// The same, of processes whose user namespace was made from this one.
pub(crate) async fn nameless_in(
    namespace: &Path,
    processes: &[u32],
    dirs: &[PathBuf],
) -> Result<u64, SandboxError> {
    let failed = SandboxError::program("measure the job's open files");
    let told = Program::new("/proc/self/exe")
        .arg(Role::Nameless.name())
        .arg(namespace)
        .arg(join(&devices(dirs)))
        .args(processes.iter().map(ToString::to_string))
        .finish(b"", 64, PATIENCE)
        .await
        .and_then(bryo_process::Finished::success)
        .map_err(failed)?;
    let text = String::from_utf8_lossy(&told.stdout);
    text.trim()
        .parse()
        .map_err(|_| SandboxError::Helper(format!("it measured {text:?}")))
}

/// The devices that these directories are on.
pub(super) fn devices(dirs: &[PathBuf]) -> Vec<u64> {
    let meta = |dir: &PathBuf| fs::metadata(dir).ok();
    dirs.iter()
        .filter_map(meta)
        .map(|meta| meta.dev())
        .collect()
}

fn join(numbers: &[u64]) -> String {
    let texts: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// `USER-NAMESPACE DEVICE,... PROCESS...`: joins it and prints the bytes.
pub(super) fn nameless_main(args: &[OsString]) -> Result<(), String> {
    let [namespace, devices, processes @ ..] = args else {
        return Err("usage: USER-NAMESPACE DEVICE,... PROCESS...".to_owned());
    };
    let devices = devices.to_string_lossy();
    let devices: Vec<u64> = devices.split(',').filter_map(|n| n.parse().ok()).collect();
    let text = |e: &dyn std::fmt::Display| format!("could not join the job's namespace: {e}");
    let file = File::open(namespace).map_err(|e| text(&e))?;
    setns(&file, CloneFlags::CLONE_NEWUSER).map_err(|e| text(&e))?;
    let processes: Vec<u32> = processes
        .iter()
        .filter_map(|pid| pid.to_str()?.parse().ok())
        .collect();
    let bytes = nameless(&processes, &devices, &mut { Effort::ALL }).unwrap_or(u64::MAX);
    super::helper::say(format!("{bytes}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(processes: &[u32], devices: &[u64]) -> u64 {
        nameless(processes, devices, &mut { Effort::ALL }).unwrap()
    }

    #[test]
    fn many_open_files_are_more_than_a_little_effort() {
        let _open: Vec<File> = (0..400).map(|_| File::open("/dev/null").unwrap()).collect();
        let own = [std::process::id()];
        assert_eq!(nameless(&own, &[], &mut Effort::little()), None);
    }

    #[test]
    fn a_file_without_a_name_is_found_and_one_with_a_name_is_not() {
        // It may be in memory: its device is named, as those of a job's directories are.
        let dir = tempfile::tempdir().unwrap();
        let on = devices(&[dir.path().to_owned()]);
        let path = dir.path().join("x");
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        let own = [std::process::id()];
        let held = File::open(&path).unwrap();
        let before = all(&own, &on);
        fs::remove_file(&path).unwrap();
        assert!(all(&own, &on) >= before + (1 << 20));
        drop(held);
        assert!(all(&own, &on) < before + (1 << 20));
    }
}
