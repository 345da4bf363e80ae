//! What an agent tells while it works: lines on standard error, or records with fields where that is the journal.
//!
//! Only this module chooses where events go; everybody else only has events.

use std::io::stderr;
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What stands before the names of fields in the journal: `BRYO_JOB=`, `BRYO_FEED=`.
const PREFIX: &str = "BRYO";

/// Begins to tell events of these levels. A second call changes nothing.
pub(crate) fn start(levels: &str) {
    // The text was checked when it was read.
    let levels: Targets = levels.parse().unwrap_or_default();
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    if is_journal(&stream, &stderr())
        && let Ok(journal) = tracing_journald::layer()
    {
        let journal = journal
            .with_field_prefix(Some(PREFIX.to_owned()))
            .with_syslog_identifier("bryo".to_owned());
        let _ = tracing_subscriber::registry()
            .with(levels)
            .with(journal)
            .try_init();
        return;
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .with_target(false);
    let _ = tracing_subscriber::registry()
        .with(levels)
        .with(lines)
        .try_init();
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
