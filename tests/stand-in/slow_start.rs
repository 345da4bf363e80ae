//! A crun that takes its time between looking for a container and letting it go, which the real one does without a pause.
//!
//! `start` opens the container's `exec.fifo` for writing without another look, as the real one does, and so waits for ever
//! when nobody has it open for reading any more. All else the real crun does.
//!
//! It stands in a directory of its own and says beside that directory that it starts something: in the file `starting`,
//! which is gone when it has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Whoever wants to end the job meanwhile does it in less, and gives a start more.
const PAUSE: Duration = Duration::from_millis(500);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "start") {
        let error = Command::new("/usr/bin/crun").args(&args).exec();
        panic!("/usr/bin/crun: {error}");
    }
    let program = std::env::current_exe().unwrap();
    let beside = program.parent().unwrap().parent().unwrap();
    let mark = beside.join("starting");
    std::fs::write(&mark, "").unwrap();
    std::thread::sleep(PAUSE);
    let root = args
        .iter()
        .find_map(|arg| arg.strip_prefix("--root=").map(PathBuf::from));
    let root = root.unwrap_or_else(|| {
        let runtime = std::env::var("XDG_RUNTIME_DIR").unwrap();
        PathBuf::from(runtime).join("crun")
    });
    let fifo = root.join(args.last().unwrap()).join("exec.fifo");
    let mut file = std::fs::File::options().write(true).open(&fifo).unwrap();
    std::fs::remove_file(&fifo).unwrap();
    file.write_all(&[0]).unwrap();
    std::fs::remove_file(&mark).unwrap();
}
