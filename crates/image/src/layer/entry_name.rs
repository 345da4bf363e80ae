//! The name of an entry, taken apart, and what whiteouts say with it.
//!
//! <https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts>

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::ImageError;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names that begin so are book-keeping of aufs.
const META: &[u8] = b".wh..wh.";

/// What an entry is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// The root of the layer.
    Root,
    /// The file with this name.
    File(&'a OsStr),
    /// No file with this name: lower layers are not to be seen here.
    Without(&'a OsStr),
    /// Nothing of lower layers is to be seen in this directory.
    Opaque,
    /// Nothing.
    Ignored,
}

/// A name in a layer as a path without `.`, `..`, empty and leading parts.
pub(super) fn parse(name: &[u8]) -> Result<PathBuf, ImageError> {
    let refused = |why| {
        let name = String::from_utf8_lossy(name);
        ImageError::unusable(format!("its layer has an entry {name:?} that {why}"))
    };
    if name.contains(&0) {
        return Err(refused("has no possible name"));
    }
    let mut path = PathBuf::new();
    for part in name.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refused("leaves the root")),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}

/// The directory of an entry, and what is said about it.
pub(super) fn meaning(path: &Path) -> Result<(&Path, Meaning<'_>), ImageError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok((path, Meaning::Root));
    };
    let bytes = name.as_bytes();
    let meaning = if bytes == OPAQUE {
        Meaning::Opaque
    } else if bytes.starts_with(META) {
        Meaning::Ignored
    } else if let Some(gone) = bytes.strip_prefix(WHITEOUT) {
        match gone {
            b"" | b"." | b".." => {
                let name = name.to_string_lossy();
                return Err(ImageError::unusable(format!(
                    "its layer has an entry {name:?} that removes nothing possible"
                )));
            }
            gone => Meaning::Without(OsStr::from_bytes(gone)),
        }
    } else {
        Meaning::File(name)
    };
    Ok((parent, meaning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_beneath_the_root() {
        for (name, path) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/etc/passwd", "etc/passwd"),
            ("./", ""),
            ("...", "..."),
        ] {
            assert_eq!(parse(name.as_bytes()).unwrap(), Path::new(path), "{name}");
        }
        for name in ["..", "../a", "a/../../b", "a/..", "/../x"] {
            assert!(parse(name.as_bytes()).is_err(), "{name}");
        }
        assert!(parse(b"a\0b").is_err());
        assert_eq!(parse(b"\xff").unwrap().as_os_str().as_bytes(), b"\xff");
    }

    #[test]
    fn whiteouts_have_their_meaning() {
        let name = |n: &'static str| OsStr::new(n);
        for (path, parent, expected) in [
            ("a/b", "a", Meaning::File(name("b"))),
            ("a/.wh.b", "a", Meaning::Without(name("b"))),
            (".wh.b", "", Meaning::Without(name("b"))),
            ("a/.wh..wh..opq", "a", Meaning::Opaque),
            ("a/.wh..wh.plnk", "a", Meaning::Ignored),
            ("", "", Meaning::Root),
        ] {
            assert_eq!(
                meaning(Path::new(path)).unwrap(),
                (Path::new(parent), expected),
                "{path}"
            );
        }
        for path in [".wh.", "a/.wh...", ".wh.."] {
            assert!(meaning(Path::new(path)).is_err(), "{path}");
        }
    }
}
