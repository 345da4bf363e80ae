//! The repository inside a checkout: enough for `git log`, `git describe` and `git status`, and nothing more.
//!
//! It is a real `.git` directory whose `objects` is empty: the mirror's is mounted over it, read-only. It names no
//! remote, no address and no credential. Its index is written so that a git that runs as any user, in any mount, finds
//! every file unchanged without reading it.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bryo_model::CommitId;

use crate::{SourceError, mirror};

/// `checkStat = minimal` and `trustctime = false`: inode, owner and device are different inside a user namespace.
const CONFIG: &str = "\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = false
\tcheckStat = minimal
\ttrustctime = false
[gc]
\tauto = 0
[maintenance]
\tauto = false
";

/// Writes all of it but the index, which the checkout itself makes.
pub(crate) fn write(tree: &Path, commit: &CommitId, mirror: &Path) -> Result<(), SourceError> {
    let git = tree.join(".git");
    for dir in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
        let dir = git.join(dir);
        fs::create_dir_all(&dir).map_err(SourceError::io(&dir))?;
    }
    let head = git.join("HEAD");
    fs::write(&head, format!("{commit}\n")).map_err(SourceError::io(&head))?;
    let config = git.join("config");
    fs::write(&config, CONFIG).map_err(SourceError::io(&config))?;
    copy(&mirror::refs_file(mirror), &git.join("packed-refs"))?;
    let shallow = mirror.join("shallow");
    if shallow.exists() {
        copy(&shallow, &git.join("shallow"))?;
    }
    Ok(())
}

/// Dates the index after every file. Git distrusts what is not older than its index and reads it again; nothing in this
/// tree changes any more, so there is nothing to distrust. (A writable copy of a tree needs an index of its own: with
/// this one, a change of the same length in the second of the checkout would not be seen.)
pub(crate) fn settle_index(tree: &Path) -> Result<(), SourceError> {
    let index = tree.join(".git/index");
    let after = SystemTime::now() + Duration::from_secs(2);
    fs::File::options()
        .write(true)
        .open(&index)
        .and_then(|file| file.set_modified(after))
        .map_err(SourceError::io(&index))
}

fn copy(from: &Path, to: &Path) -> Result<(), SourceError> {
    let content = fs::read(from).map_err(SourceError::io(from))?;
    fs::write(to, content).map_err(SourceError::io(to))
}
