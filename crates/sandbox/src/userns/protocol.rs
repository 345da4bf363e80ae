//! What the agent and its helper say to each other: one JSON object per line, on two pipes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::measure::OnDisk;

/// A wish of the agent. One with a number is answered, and the answer carries the number.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) number: Option<u64>,
    pub(super) wish: Wish,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Wish {
    /// Make and hold a nested user namespace, in which the ids from `first` on are 0 and up, and a network namespace that it
    /// owns.
    Nest { name: String, first: u32 },
    /// Let go of both.
    Unnest { name: String },
    /// Make a worker, which waits. It has the number of this request and starts this crun.
    Work { crun: PathBuf },
    /// That worker has been told which instructions are its: nobody opens its pipes any more. If its job is handed over, the
    /// job's end goes into this file, which is there.
    Begun { worker: u64, end: PathBuf },
    /// Kill that worker with all that it started, and then everything in this cgroup.
    Kill {
        worker: u64,
        cgroup: Option<PathBuf>,
    },
    /// Give a directory to the root of a job: its id 0, as it is counted here.
    Give { path: PathBuf, root: u32 },
    /// Take a whole tree back: everything becomes the agent's, readable and removable.
    Reclaim { path: PathBuf },
    /// Remove a tree of any owner.
    Remove { path: PathBuf },
    /// Copy a file of any owner into one of the agent's.
    Copy { from: PathBuf, to: PathBuf },
    /// Add up what is in these directories, and what these processes hold open without a name.
    Measure {
        dirs: Vec<PathBuf>,
        processes: Vec<u32>,
        most: OnDisk,
    },
    /// Kill everything in this cgroup if the agent ends before it takes this back.
    Guard { cgroup: PathBuf },
    /// The cgroup is gone.
    Unguard { cgroup: PathBuf },
}

/// What the helper says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    Answer(Answer),
    /// The worker with this number has ended, and how, in words.
    Ended {
        worker: u64,
        how: String,
    },
}

/// The answer to a wish.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) number: u64,
    /// An error is text because its cause lies in another process.
    pub(super) result: Result<Done, String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Done {
    /// What was wished.
    Granted,
    /// The helper's descriptors of the namespaces.
    Nested { user: i32, net: i32 },
    /// What was measured.
    Measured(OnDisk),
    /// The worker's process id, and the helper's descriptors of the other ends of its pipes. These are there until the
    /// worker has begun or ended. If there is one for the job's number, a crun in the foreground that writes it there hands
    /// its job over; it is there until then.
    Working {
        pid: i32,
        instructions: i32,
        stdout: i32,
        stderr: i32,
        pid_file: Option<i32>,
    },
}

/// A longer line could be cut in two by another one: several processes write them (pipe(7), `PIPE_BUF`).
const LONGEST_LINE: usize = 4096;

/// Longer sentences are cut, so that no line gets too long, however its characters are written.
const LONGEST_WHY: usize = 600;

impl Said {
    pub(super) fn answer(number: u64, result: Result<Done, String>) -> Self {
        let result = result.map_err(|why| shortened(&why));
        Self::Answer(Answer { number, result })
    }

    /// As one line, its end included.
    pub(super) fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.truncate(LONGEST_LINE - 1);
        line.push(b'\n');
        line
    }
}

fn shortened(why: &str) -> String {
    match why.char_indices().nth(LONGEST_WHY) {
        Some((end, _)) => format!("{} …", &why[..end]),
        None => why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_sentence_is_a_line_that_is_written_whole() {
        for character in ["a", "\u{1}", "ö", "\u{10ffff}"] {
            let said = Said::answer(u64::MAX, Err(character.repeat(100_000)));
            let line = said.line();
            assert!(line.len() <= LONGEST_LINE, "{character:?}: {}", line.len());
            let read: Said = serde_json::from_slice(&line).unwrap();
            assert!(matches!(read, Said::Answer(Answer { result: Err(_), .. })));
        }
    }
}
