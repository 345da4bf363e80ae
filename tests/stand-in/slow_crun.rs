//! A crun whose process that makes the container never comes to its end. As with the real one it has a session of its own,
//! where no signal to the group of whoever started it reaches it.
//!
//! A program and not a script: Bryo starts crun from a sealed copy of its file.
//!
//! It stands in a directory of its own, first on the `PATH`, and says beside that directory that it is at work: in the file
//! `making`, whose content is what the process that does not end is found by.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::Path;
use std::process::Command;

fn main() {
    let path = std::env::var("PATH").unwrap();
    let beside = Path::new(path.split(':').next().unwrap()).parent().unwrap();
    let seconds = 1_000_000 + std::process::id();
    let mut making = Command::new("setsid")
        .args(["sleep", &seconds.to_string()])
        .spawn()
        .unwrap();
    // Not before it has its session.
    let command = format!("/proc/{}/cmdline", making.id());
    while !std::fs::read(&command).is_ok_and(|words| words.starts_with(b"sleep\0")) {
        std::thread::yield_now();
    }
    std::fs::write(beside.join("making.new"), seconds.to_string()).unwrap();
    std::fs::rename(beside.join("making.new"), beside.join("making")).unwrap();
    making.wait().unwrap();
}
