//! Where Bryo keeps things: read from the environment here, at the edge, and passed in as values.
//!
//! The rules are those of the XDG Base Directory Specification.

use std::env;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bryo_model::{EnvVar, ImageRef};
use nix::unistd::{Uid, User};

use crate::config::{Environment, Places, Surroundings};

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
fn cache() -> Option<PathBuf> {
    from_env("XDG_CACHE_HOME")
        .or_else(|| home().map(|home| home.join(".cache")))
        .map(|dir| dir.join("bryo"))
}

/// For what must not be lost: the directory that a systemd unit has made for it (`StateDirectory=`, the first of several),
/// or else `$XDG_STATE_HOME/bryo`.
fn state() -> Option<PathBuf> {
    let of_unit = env::var_os("STATE_DIRECTORY").and_then(|dirs| env::split_paths(&dirs).next());
    of_unit.filter(|dir| dir.is_absolute()).or_else(|| {
        from_env("XDG_STATE_HOME")
            .or_else(|| home().map(|home| home.join(".local/state")))
            .map(|dir| dir.join("bryo"))
    })
}

/// Where configuration is looked for, the host's first.
fn config() -> Vec<PathBuf> {
    let user = from_env("XDG_CONFIG_HOME").or_else(|| home().map(|home| home.join(".config")));
    let user = user.map(|dir| dir.join("bryo"));
    [PathBuf::from("/etc/bryo")]
        .into_iter()
        .chain(user)
        .collect()
}

/// Everything that a configuration can depend on.
///
/// # Errors
///
/// When the current directory is gone.
pub(crate) fn surroundings() -> Result<Surroundings> {
    Ok(Surroundings {
        environment: Environment::of_this_process(),
        here: env::current_dir().context("the current directory is gone")?,
        home: home(),
        config_dirs: config(),
        credentials: from_env("CREDENTIALS_DIRECTORY"),
        places: Places {
            cache: cache(),
            state: state(),
            runtime: runtime(),
            container_host: env::var("CONTAINER_HOST").ok().filter(|h| !h.is_empty()),
            proxy: proxy(),
        },
    })
}

/// The variables by which programs find their proxy, as they are set here.
fn proxy() -> Vec<EnvVar> {
    [
        "http_proxy",
        "https_proxy",
        "ftp_proxy",
        "all_proxy",
        "no_proxy",
    ]
    .into_iter()
    .flat_map(|name| [name.to_owned(), name.to_ascii_uppercase()])
    .filter_map(|name| EnvVar::new(&name, &env::var(&name).ok()?).ok())
    .collect()
}

/// Paths in an image's name start from where it was named.
pub(crate) fn absolute_image(image: ImageRef, dir: &Path) -> ImageRef {
    let join = |path: PathBuf| dir.join(path);
    match image {
        ImageRef::OciLayout { dir, tag } => ImageRef::OciLayout {
            dir: join(dir),
            tag,
        },
        ImageRef::OciArchive(file) => ImageRef::OciArchive(join(file)),
        ImageRef::DockerArchive(file) => ImageRef::DockerArchive(join(file)),
        other @ (ImageRef::ContainersStorage(_) | ImageRef::Registry(_)) => other,
    }
}

/// `$XDG_RUNTIME_DIR`, which goes when the user logs out.
fn runtime() -> Option<PathBuf> {
    // Owned by the user, and nobody else may write to it. Another one is treated as if there were none.
    from_env("XDG_RUNTIME_DIR").filter(|dir| {
        dir.metadata().is_ok_and(|m| {
            m.is_dir() && m.uid() == Uid::effective().as_raw() && m.mode() & 0o022 == 0
        })
    })
}
