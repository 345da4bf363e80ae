//! Where Bryo keeps things: read from the environment here, at the edge, and passed in as values.
//!
//! The rules are those of the XDG Base Directory Specification.

use std::env;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::unistd::{Uid, User};

/// A directory from the environment; a relative one is invalid by the specification and ignored.
fn from_env(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// The user's home.
pub(crate) fn home() -> Option<PathBuf> {
    from_env("HOME").or_else(|| {
        User::from_uid(Uid::effective())
            .ok()
            .flatten()
            .map(|user| user.dir)
    })
}

/// For what can be made again: `$XDG_CACHE_HOME/bryo`.
pub(crate) fn cache() -> Option<PathBuf> {
    from_env("XDG_CACHE_HOME")
        .or_else(|| home().map(|home| home.join(".cache")))
        .map(|dir| dir.join("bryo"))
}

/// `$XDG_RUNTIME_DIR`, which goes when the user logs out.
pub(crate) fn runtime() -> Option<PathBuf> {
    // Owned by the user, and nobody else may write to it. Another one is treated as if there were none.
    from_env("XDG_RUNTIME_DIR").filter(|dir| {
        dir.metadata().is_ok_and(|m| {
            m.is_dir() && m.uid() == Uid::effective().as_raw() && m.mode() & 0o022 == 0
        })
    })
}
