//! Which files are read, and which are refused before they are.
//!
//! ```text
//! /etc/bryo/bryo.toml                   the host's
//! /etc/bryo/conf.d/*.toml               in the order of their names
//! $XDG_CONFIG_HOME/bryo/bryo.toml       the user's
//! $XDG_CONFIG_HOME/bryo/conf.d/*.toml
//! ```
//!
//! A file named by `--config` is read instead of all of them. What is not there is no mistake, unless it was named.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::fragment::{Fragment, Problem};
use super::kind::Kind;
use super::toml_file;

/// No configuration is larger; something that never ends is none.
const MOST: u64 = 1 << 20;

/// What was found in files.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In the order in which they were read.
    pub(crate) fragments: Vec<Fragment>,
    pub(crate) problems: Vec<Problem>,
    /// The files that were read.
    pub(crate) read: Vec<PathBuf>,
    /// Files that this user may not read.
    pub(crate) closed: Vec<PathBuf>,
}

/// Reads one file that must be there.
pub(crate) fn named(file: &Path, home: Option<&Path>) -> Found {
    let mut found = Found::default();
    match open(file) {
        Ok(opened) => found.take(file, opened, home),
        Err(error) => {
            let text = format!("could not be read: {error}");
            found.problems.push(Problem::at(file.display(), text));
        }
    }
    found
}

/// Reads what is there, in these directories.
pub(crate) fn searched(dirs: &[PathBuf], home: Option<&Path>) -> Found {
    let mut found = Found::default();
    for dir in dirs {
        let mut files = vec![dir.join("bryo.toml")];
        match fragments_of(&dir.join("conf.d")) {
            Ok(more) => files.extend(more),
            Err(error) => found.not_read(&dir.join("conf.d"), &error),
        }
        for file in files {
            match open(&file) {
                Ok(opened) => found.take(&file, opened, home),
                Err(error) => found.not_read(&file, &error),
            }
        }
    }
    found
}

fn fragments_of(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|ext| ext == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What is no regular file is not even opened: a pipe would wait for its other end.
fn open(file: &Path) -> std::io::Result<(File, Metadata)> {
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let opened = File::open(file)?;
    let metadata = opened.metadata()?;
    Ok((opened, metadata))
}

impl Found {
    fn not_read(&mut self, path: &Path, error: &std::io::Error) {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {}
            ErrorKind::PermissionDenied => self.closed.push(path.to_owned()),
            _ => {
                let text = format!("could not be read: {error}");
                self.problems.push(Problem::at(path.display(), text));
            }
        }
    }

    fn take(&mut self, path: &Path, (file, metadata): (File, Metadata), home: Option<&Path>) {
        self.read.push(path.to_owned());
        let mut bytes = Vec::new();
        let result = file.take(MOST + 1).read_to_end(&mut bytes);
        let text = match (result, bytes.len() as u64 > MOST, String::from_utf8(bytes)) {
            (Err(error), ..) => Err(format!("could not be read: {error}")),
            (_, true, _) => Err(format!(
                "is larger than {MOST} bytes, so it is no configuration"
            )),
            (.., Err(_)) => Err("is not UTF-8".to_owned()),
            (.., Ok(text)) => Ok(text),
        };
        let text = match text {
            Ok(text) => text,
            Err(why) => return self.problems.push(Problem::at(path.display(), why)),
        };
        let (fragment, problems) = toml_file::parse(path, &text, home);
        self.problems.extend(problems);
        let secret = fragment
            .entries()
            .iter()
            .any(|entry| entry.key.kind == Kind::Secret);
        self.problems.extend(permissions(path, &metadata, secret));
        self.fragments.push(fragment);
    }
}

/// Who else can read or change a file. A file of another user, root for instance, may be open to a group: that is how it
/// is given to us.
pub(crate) fn permissions(path: &Path, metadata: &Metadata, secret: bool) -> Option<Problem> {
    let ours = metadata.uid() == nix::unistd::geteuid().as_raw();
    let readers = if ours { 0o044 } else { 0o004 };
    let mode = metadata.mode();
    let name = path.display();
    if secret && mode & readers != 0 {
        let text = format!(
            "holds a secret and others can read it (mode {:03o})",
            mode & 0o777
        );
        let fix = if ours { "600" } else { "o=" };
        return Some(Problem::at(&name, text).hint(format!("chmod {fix} {name}")));
    }
    if mode & 0o002 != 0 {
        let text = format!("everybody can change it (mode {:03o})", mode & 0o777);
        return Some(Problem::at(&name, text).hint(format!("chmod o-w {name}")));
    }
    None
}
