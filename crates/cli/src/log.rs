//! What an agent tells while it works: lines on standard error, or records with fields where that is the journal.
//!
//! Only this module chooses where events go; everybody else only has events.

use std::io::stderr;
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// What stands before the names of fields in the journal: `BRYO_JOB=`, `BRYO_FEED=`.
const PREFIX: &str = "BRYO";

/// What of the events is told.
#[derive(Clone)]
pub(crate) struct Levels(reload::Handle<Targets, Registry>);

impl Levels {
    /// Tells events of these levels from here on.
    pub(crate) fn change(&self, levels: &str) {
        // It fails when nothing is told any more.
        let _ = self.0.reload(parsed(levels));
    }
}

/// The text was checked when it was read.
fn parsed(levels: &str) -> Targets {
    levels.parse().unwrap_or_default()
}

/// Begins to tell events of these levels. A second call changes nothing.
pub(crate) fn start(levels: &str) -> Levels {
    let (filter, handle) = reload::Layer::new(parsed(levels));
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    if is_journal(&stream, &stderr())
        && let Ok(journal) = tracing_journald::layer()
    {
        let journal = journal
            .with_field_prefix(Some(PREFIX.to_owned()))
            .with_syslog_identifier("bryo".to_owned());
        let _ = tracing_subscriber::registry()
            .with(filter)
            .with(journal)
            .try_init();
        return Levels(handle);
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .with_target(false);
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    Levels(handle)
}

/// sd-daemon(3): `$JOURNAL_STREAM` is the device and the inode of the journal's socket. Who redirects standard error
/// leaves the variable, but not the numbers.
fn is_journal(stream: &str, output: &impl AsFd) -> bool {
    let Some((device, inode)) = stream.split_once(':') else {
        return false;
    };
    fstat(output)
        .is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_journal_is_told_by_device_and_inode() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("x")).unwrap();
        let meta = file.metadata().unwrap();
        let (device, inode) = (meta.dev(), meta.ino());
        assert!(is_journal(&format!("{device}:{inode}"), &file));
        for other in [
            "",
            "1",
            ":",
            &format!("{device}:{}", inode + 1),
            &format!("{}:{inode}", device + 1),
        ] {
            assert!(!is_journal(other, &file), "{other}");
        }
    }
}
