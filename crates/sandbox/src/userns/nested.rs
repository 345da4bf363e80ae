//! Inside the helper: a nested user namespace for one attempt, pinned by mounts.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use bryo_model::IdSlot;
use bryo_process::{Fork, fork};

/// What the maker says when its namespaces are there. Anything else is a sentence.
const MADE: &[u8] = b"1";

/// Where the namespaces of attempt `name` are pinned, beneath the helper's own directory.
pub(super) fn pins(base: &Path, name: &str) -> (PathBuf, PathBuf) {
    let dir = base.join("ns");
    (
        dir.join(format!("{name}.user")),
        dir.join(format!("{name}.net")),
    )
}

/// Makes the namespaces and pins them; `first` is the job's id 0. The process that makes them is gone afterwards.
pub(super) fn make(base: &Path, name: &str, first: u32) -> Result<(), String> {
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
    let result = map_and_pin(said, maker, base, name, first);
    // The end of its input ends it, whatever happened.
    drop(go);
    let _ = waitpid(maker, None);
    if result.is_err() {
        let _ = unmake(base, name);
    }
    result
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

fn map_and_pin(
    mut said: io::PipeReader,
    maker: Pid,
    base: &Path,
    name: &str,
    first: u32,
) -> Result<(), String> {
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
    let (user, net) = pins(base, name);
    pin(&proc.join("ns/user"), &user)?;
    pin(&proc.join("ns/net"), &net)
}

fn pin(namespace: &Path, at: &Path) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| format!("could not pin {}: {e}", at.display());
    File::create(at).map_err(|e| text(&e))?;
    mount(
        Some(namespace),
        at,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|e| text(&e))
}

/// Makes a mount namespace of its own for this process, in which of all that is pinned only the namespaces of this name are:
/// the others must not live as long as it does.
pub(super) fn see_only(base: &Path, name: Option<&str>) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|e| format!("could not make a mount namespace: {e}"))?;
    let dir = base.join("ns");
    let own = name.map(|name| pins(base, name));
    let pinned = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for at in pinned.flatten().map(|entry| entry.path()) {
        let is_own = own
            .as_ref()
            .is_some_and(|(user, net)| at == *user || at == *net);
        if !is_own {
            // What is no mount, or not any more, is in nobody's way.
            let _ = umount2(&at, MntFlags::MNT_DETACH);
        }
    }
    Ok(())
}

/// Lets go of the namespaces; what is gone already is no error.
pub(super) fn unmake(base: &Path, name: &str) -> Result<(), String> {
    let (user, net) = pins(base, name);
    for at in [user.with_extension("pid"), user, net] {
        if at.exists() {
            let _ = umount2(&at, MntFlags::MNT_DETACH);
            std::fs::remove_file(&at)
                .map_err(|e| format!("could not remove {}: {e}", at.display()))?;
        }
    }
    Ok(())
}
