//! Stories told to a real file system: what a hostile job leaves, and what a reader sees.

mod hostile;
mod publishing;
mod switching;
mod targets;

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bryo_model::Amount;
use tempfile::TempDir;

use crate::{DepotError, OutputBounds, OutputTree, Published, Target, Watch, publish};

/// Never stops.
pub(crate) struct Patient;

impl Watch for Patient {
    fn stop(&self) -> bool {
        false
    }
    fn progress(&self, _: Amount) {}
}

/// Stops when it was asked so often.
pub(crate) struct StopsAfter(pub(crate) Cell<u64>);

impl Watch for StopsAfter {
    fn stop(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
    fn progress(&self, _: Amount) {}
}

/// An output root and a place to publish to, on one file system unless told otherwise.
pub(crate) struct World {
    pub(crate) work: TempDir,
    pub(crate) place: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::between(&std::env::temp_dir(), &std::env::temp_dir())
    }

    pub(crate) fn between(work: &Path, place: &Path) -> Self {
        let world = Self {
            work: tempfile::tempdir_in(work).unwrap(),
            place: tempfile::tempdir_in(place).unwrap(),
        };
        fs::create_dir(world.output()).unwrap();
        world
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.work.path().join("output")
    }

    pub(crate) fn site(&self) -> PathBuf {
        self.place.path().join("site")
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.output().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn old_site(&self) {
        fs::create_dir(self.site()).unwrap();
        fs::write(self.site().join("index.html"), "old").unwrap();
    }

    pub(crate) fn collect(&self) -> Result<OutputTree, DepotError> {
        OutputTree::collect(&self.output(), &OutputBounds::default(), &Patient)
    }

    pub(crate) fn target(&self) -> Target {
        Target::check(&self.site(), &[]).unwrap()
    }

    pub(crate) fn publish(&self) -> Result<Published, DepotError> {
        publish(self.collect()?, &self.target(), &Patient)
    }

    /// The old site is there whole, and nothing beside it.
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(read(&self.site(), "index.html"), "old");
        assert_eq!(names(&self.site()), ["index.html"]);
        assert_eq!(names(self.place.path()), ["site"]);
    }
}

pub(crate) fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Two directories on two file systems, or a loud skip.
pub(crate) fn two_file_systems() -> Option<(PathBuf, PathBuf)> {
    use std::os::unix::fs::MetadataExt;
    let (one, two) = (std::env::temp_dir(), PathBuf::from("/dev/shm"));
    let device = |p: &Path| fs::metadata(p).map(|m| m.dev()).ok();
    if device(&two).is_some() && device(&one) != device(&two) {
        return Some((one, two));
    }
    skip("needs /dev/shm and the temporary directory on two file systems");
    None
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}
