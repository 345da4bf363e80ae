//! The repository inside a checkout: enough for `git log`, `git describe` and `git status`, and nothing more.
//!
//! It is a real `.git` directory whose `objects` is empty: the mirror's is mounted over it, read-only. It names no
//! remote, no address and no credential. Its index is written so that a git that runs as any user, in any mount, finds
//! every file unchanged without reading it.
//!
//! A submodule has the same below `.git/modules/<number>`, where git itself puts it under the submodule's name, which
//! is the repository's to choose; `.git` in its directory is a file that leads there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bryo_model::CommitId;

use crate::{SourceError, mirror};

/// `checkStat = minimal` and `trustctime = false`: inode, owner and device are different inside a user namespace.
/// `active = .`: git would learn which submodules are there from their addresses, and these are not named.
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
[submodule]
\tactive = .
";

/// Where the repository of one part of a tree is, from the tree's top.
pub(crate) fn place(number: usize) -> PathBuf {
    match number {
        0 => PathBuf::from(".git"),
        module => PathBuf::from(format!(".git/modules/{module}")),
    }
}

/// Writes all of it but the index, which comes with the files. `path` is where the part's files are in the tree.
pub(crate) fn write(
    tree: &Path,
    number: usize,
    path: &str,
    commit: &CommitId,
    mirror: &Path,
) -> Result<(), SourceError> {
    let git = tree.join(place(number));
    for dir in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
        let dir = git.join(dir);
        fs::create_dir_all(&dir).map_err(SourceError::io(&dir))?;
    }
    put(&git.join("HEAD"), format!("{commit}\n").as_bytes())?;
    let mut config = CONFIG.to_owned();
    if number > 0 {
        config.push_str(&format!(
            "[core]\n\tworktree = {}\n",
            quoted(&format!("../../../{path}"))
        ));
        let up = "../".repeat(path.split('/').count());
        let leads = format!("gitdir: {up}{}\n", place(number).display());
        put(&tree.join(path).join(".git"), leads.as_bytes())?;
    }
    put(&git.join("config"), config.as_bytes())?;
    copy(&mirror::refs_file(mirror), &git.join("packed-refs"))?;
    let shallow = mirror.join("shallow");
    if shallow.exists() {
        copy(&shallow, &git.join("shallow"))?;
    }
    Ok(())
}

/// A value of git's configuration. Paths with control characters do not come this far.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Has a repository read objects from elsewhere beside its own.
pub(crate) fn borrow_objects(git: &Path, objects: &Path) -> Result<(), SourceError> {
    let mut line = objects.as_os_str().as_encoded_bytes().to_vec();
    line.push(b'\n');
    put(&git.join("objects/info/alternates"), &line)
}

/// Dates the index after every file. Git distrusts what is not older than its index and reads it again; nothing in this
/// tree changes any more, so there is nothing to distrust. (A writable copy of a tree needs an index of its own: with
/// this one, a change of the same length in the second of the checkout would not be seen.)
pub(crate) fn settle_index(index: &Path) -> Result<(), SourceError> {
    let after = SystemTime::now() + Duration::from_secs(2);
    fs::File::options()
        .write(true)
        .open(index)
        .and_then(|file| file.set_modified(after))
        .map_err(SourceError::io(index))
}

fn copy(from: &Path, to: &Path) -> Result<(), SourceError> {
    let content = fs::read(from).map_err(SourceError::io(from))?;
    put(to, &content)
}

fn put(path: &Path, content: &[u8]) -> Result<(), SourceError> {
    fs::write(path, content).map_err(SourceError::io(path))
}
