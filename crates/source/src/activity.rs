//! Signs of life of a fetch: what comes from the other side, and git's own work once nothing more has to come.
//!
//! When a pack is there, git looks whether anything is missing. In a large repository that takes minutes and git tells
//! nothing: from then on silence is a stall only if git's processes use no processor time either.

use std::fs;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Is told of every sign of life.
#[derive(Debug)]
pub(crate) struct Activity {
    last: Mutex<Instant>,
    complete: AtomicBool,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            last: Mutex::new(Instant::now()),
            complete: AtomicBool::new(false),
        }
    }

    /// A sign of life.
    pub(crate) fn seen(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// A pack has arrived.
    pub(crate) fn complete(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    /// Ends when there was none for so long. `group` is git's process group, whose work counts once a pack has arrived.
    pub(crate) async fn silent_for(&self, most: Duration, group: Option<i32>) {
        let mut worked = None;
        loop {
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let mut until = last + most;
            if Instant::now() >= until {
                let work = self.complete.load(Ordering::Relaxed).then(|| ticks(group));
                if work.is_none() || work == worked {
                    return;
                }
                worked = work;
                until = Instant::now() + most;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// The processor time of a process group, in the kernel's ticks. What cannot be read counts nothing.
fn ticks(group: Option<i32>) -> u64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let texts = processes.filter_map(|process| {
        let name = process.file_name();
        let is_process = name.to_str()?.bytes().all(|b| b.is_ascii_digit());
        fs::read_to_string(process.path().join("stat"))
            .ok()
            .filter(|_| is_process)
    });
    texts.filter_map(|text| of_group(&text, group?)).sum()
}

/// From `/proc/PID/stat`, see proc_pid_stat(5): its own time and that of the children that it waited for.
fn of_group(stat: &str, group: i32) -> Option<u64> {
    // The second field is the program's name in brackets, which may have anything in it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.get(2)?.parse() != Ok(group) {
        return None;
    }
    let times = fields.get(11..15)?;
    times.iter().map(|time| time.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use bryo_process::{Program, Stdio};
    use tokio::time::timeout;

    use super::*;

    /// On a busy machine too, whoever works gets a tick in it.
    const STALL: Duration = Duration::from_secs(1);
    const STALLS: u32 = 4;
    const SOON: Duration = Duration::from_secs(60);

    async fn silent(activity: &Activity, script: &str) -> Duration {
        let running = Program::new("sh").args(["-c", script]).start(Stdio::Piped);
        let running = running.unwrap();
        let since = Instant::now();
        let silence = activity.silent_for(STALL, running.id());
        // As long as nothing ends it, a few stalls are as good as for ever.
        let _ = timeout(STALLS * STALL, silence).await;
        since.elapsed()
    }

    #[tokio::test]
    async fn work_counts_once_everything_has_arrived() {
        let busy = "while :; do :; done";
        let activity = Activity::new();
        assert!(silent(&activity, busy).await < STALLS * STALL);
        activity.complete();
        // That of a child counts too, and of nobody else.
        let child = "sh -c 'while :; do :; done' & wait";
        let (own, its) = tokio::join!(silent(&activity, busy), silent(&activity, child));
        assert!(own >= STALLS * STALL && its >= STALLS * STALL);
        activity.seen();
        let idle = Instant::now();
        let waiting = Program::new("sleep").arg("1000").start(Stdio::Piped);
        let running = waiting.unwrap();
        let silence = activity.silent_for(STALL, running.id());
        timeout(SOON, silence).await.expect("silence has no end");
        assert!(idle.elapsed() >= STALL);
    }

    #[test]
    fn times_are_read_whatever_a_program_is_called() {
        let stat = "7 (a b) c) S 1 5 5 0 -1 4194560 0 0 0 0 11 22 33 44 20 0 1 0";
        assert_eq!(of_group(stat, 5), Some(110));
        assert_eq!(of_group(stat, 7), None);
        assert_eq!(of_group("", 5), None);
    }
}
