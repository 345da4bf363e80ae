//! Jobs that run, as the kernel sees them.
//!
//! A job of the fixture `ends-when-let-go` runs until the story says so: so a story has jobs that certainly run, for exactly
//! as long as it needs them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::look;

/// How many jobs run their `build.sh` at this moment.
#[must_use]
pub fn running_jobs() -> usize {
    let job = |pid: nix::unistd::Pid| {
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let mut parts = cgroup.split('/').map(|part| part.replace('_', "-"));
        parts.find(|part| part.starts_with(look::PREFIX))
    };
    // A shell that is about to start a program has its parent's command line for a moment.
    let all = look::processes_that(|_, command| command.trim_end().ends_with("/repo/build.sh"));
    let jobs: BTreeSet<_> = all.into_iter().filter_map(job).collect();
    jobs.len()
}

/// Lets those jobs go that run now.
pub fn let_go() {
    for mut stack in look::cgroups_of_jobs().into_iter().map(|dir| vec![dir]) {
        while let Some(dir) = stack.pop() {
            // One that ends at this moment needs no leave.
            let _ = fs::write(dir.join("cgroup.max.descendants"), "7");
            stack.extend(below(&dir));
        }
    }
}

fn below(dir: &PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.is_dir()).collect()
}
