//! The place of a socket in a file system.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Removes what a process that is gone has left there. Nothing but a socket: a path that was mistyped may be that of
/// somebody's work.
pub(crate) fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "what is there is no socket, and is left alone: name another path, or move it away",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::error::chain;
    use crate::{Listen, control, http};

    #[tokio::test]
    async fn nothing_but_a_socket_is_removed_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let dead = dir.path().join("dead");
        drop(UnixListener::bind(&dead).unwrap());
        control::bind(&dead).unwrap();
        http::bind(&Listen::Socket(dead)).await.unwrap();

        let notes = dir.path().join("notes.txt");
        fs::write(&notes, "mine").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&notes, &link).unwrap();
        for path in [&notes, &link, &dir.path().to_owned()] {
            let of_control = control::bind(path).unwrap_err();
            let of_http = http::bind(&Listen::Socket(path.clone())).await.unwrap_err();
            for error in [of_control, of_http] {
                let text = chain(&error);
                assert!(text.contains("name another path"), "{text}");
            }
        }
        assert_eq!(fs::read(&notes).unwrap(), b"mine");
        assert!(link.is_symlink());
    }
}
