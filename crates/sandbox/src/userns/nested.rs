//! Inside the helper: a nested user namespace for one attempt and a network namespace that it owns, held by descriptors.
//!
//! Whoever may look at the helper opens them through `/proc`. They are not pinned by mounts: each mount namespace that is
//! made has a copy of all mounts, and the kernel waits for all processors when one is taken away.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use bryo_model::IdSlot;
use bryo_process::{Fork, fork};

/// What the maker says when its namespaces are there. Anything else is a sentence.
const MADE: &[u8] = b"1";

/// Those of all attempts, by name.
#[derive(Default)]
pub(super) struct Namespaces {
    held: HashMap<String, [File; 2]>,
}

impl Namespaces {
    /// Makes them; `first` is the job's id 0. The process that makes them is gone afterwards. Gives the descriptors of the
    /// user and the network namespace.
    pub(super) fn make(&mut self, name: String, first: u32) -> Result<[RawFd; 2], String> {
        let text = |e: io::Error| format!("could not start the namespace maker: {e}");
        let (said, say) = io::pipe().map_err(text)?;
        let (wait, go) = io::pipe().map_err(text)?;
        let maker = match fork().map_err(text)? {
            Fork::Child => {
                drop((said, go));
                be_maker(say, wait);
            }
            Fork::Parent(maker) => maker,
        };
        drop((say, wait));
        let made = map_and_open(said, maker, first);
        // The end of its input ends it, whatever happened.
        drop(go);
        let _ = waitpid(maker, None);
        let made = made?;
        let descriptors = [made[0].as_raw_fd(), made[1].as_raw_fd()];
        self.held.insert(name, made);
        Ok(descriptors)
    }

    /// Lets go of them; what is gone already is no error.
    pub(super) fn let_go(&mut self, base: &Path, name: &str) -> Result<(), String> {
        self.held.remove(name);
        let pid_file = pid_file(base, name);
        match std::fs::remove_file(&pid_file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(format!("could not remove {}: {e}", pid_file.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Where a program of these namespaces can write its process id, beneath the helper's own directory.
pub(super) fn pid_file(base: &Path, name: &str) -> PathBuf {
    base.join("ns").join(format!("{name}.pid"))
}

/// The namespace maker: makes them, says so, and waits until it is no longer needed.
fn be_maker(mut say: io::PipeWriter, mut wait: io::PipeReader) -> ! {
    match unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET) {
        Ok(()) => {
            let _ = say.write_all(MADE);
            let _ = wait.read(&mut [0]);
        }
        Err(e) => {
            let why = format!("could not make the job's namespaces: {e}");
            let _ = say.write_all(why.as_bytes());
        }
    }
    std::process::exit(0)
}

fn map_and_open(mut said: io::PipeReader, maker: Pid, first: u32) -> Result<[File; 2], String> {
    let mut answer = [0; 512];
    let read = said
        .read(&mut answer)
        .map_err(|e| format!("the namespace maker did not answer: {e}"))?;
    match &answer[..read] {
        MADE => {}
        [] => return Err("the namespace maker died".to_owned()),
        why => return Err(String::from_utf8_lossy(why).into_owned()),
    }
    let proc = PathBuf::from(format!("/proc/{maker}"));
    let map = format!("0 {first} {}\n", IdSlot::IDS);
    for file in ["uid_map", "gid_map"] {
        let path = proc.join(file);
        // One write call: the kernel takes a map once, whole.
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut f| f.write_all(map.as_bytes()))
            .map_err(|e| format!("could not write {}: {e}", path.display()))?;
    }
    let open = |kind: &str| {
        let path = proc.join("ns").join(kind);
        File::open(&path).map_err(|e| format!("could not open {}: {e}", path.display()))
    };
    Ok([open("user")?, open("net")?])
}
