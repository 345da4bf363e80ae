//! The disk under a directory, as the `io` controller names it.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{major, minor};

/// A whole disk: `io.max` takes no partitions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Disk(String);

impl Disk {
    /// The one that this directory is on, or why there is none that could be limited.
    pub(super) fn under(dir: &Path) -> Result<Self, String> {
        let device = fs::metadata(dir)
            .map_err(|e| format!("could not look at {}: {e}", dir.display()))?
            .dev();
        let number = format!("{}:{}", major(device), minor(device));
        let node = fs::canonicalize(format!("/sys/dev/block/{number}")).map_err(|_| {
            format!(
                "{} is not on a disk but on a file system of another kind (in memory, overlay, btrfs, network)",
                dir.display()
            )
        })?;
        if !node.join("partition").exists() {
            return Ok(Self(number));
        }
        node.parent()
            .and_then(|disk| fs::read_to_string(disk.join("dev")).ok())
            .map(|number| Self(number.trim().to_owned()))
            .ok_or_else(|| format!("the disk of partition {number} is not known"))
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_on_a_disk_is_told() {
        let why = Disk::under(Path::new("/proc")).unwrap_err();
        assert!(why.contains("/proc is not on a disk"), "{why}");
    }
}
