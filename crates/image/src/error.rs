//! What can go wrong with an image, by who can do something about it.

use std::io;
use std::path::{Path, PathBuf};

use bryo_process::ProcessError;

/// Whose an error is. The first two are the user's, the last is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no such image, or it may not be read.
    Missing,
    /// There is one, but it cannot be used.
    Unusable,
    /// The network, the disk, a program or the host.
    Infrastructure,
}

/// An image could not be had, or not be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no such image, or it may not be read.
    #[error("the image {image} does not exist or may not be read{}", tail(detail))]
    Missing {
        /// As the job names it.
        image: String,
        /// What was said about it.
        detail: String,
    },
    /// The image is broken, hostile, or not for this host.
    #[error("the image cannot be used: {why}")]
    Unusable {
        /// What is wrong with it.
        why: String,
    },
    /// The registry did not answer.
    #[error("the registry of {image} could not be reached{}", tail(detail))]
    Unreachable {
        /// As the job names it.
        image: String,
        /// What was said about it.
        detail: String,
    },
    /// There is no skopeo.
    #[error("skopeo, which fetches images, is not installed (apt install skopeo)")]
    NoSkopeo,
    /// skopeo failed for a reason that is not the image's.
    #[error("skopeo could not fetch {image}{}", tail(detail))]
    Skopeo {
        /// As the job names it.
        image: String,
        /// The end of what it wrote to standard error.
        detail: String,
    },
    /// A program could not be run at all.
    #[error("could not run a program that images need")]
    Program(#[source] ProcessError),
    /// The program that unpacks layers failed for a reason that is not the layer's.
    #[error("the unpacker of layers failed{}", tail(detail))]
    Unpacker {
        /// How it ended and the end of what it wrote to standard error.
        detail: String,
    },
    /// The file system refused.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Arguments that nobody but Bryo gives are wrong.
    #[error("the arguments of the unpacker are wrong: {0}")]
    Arguments(&'static str),
    /// The work was given up because nobody waits for it, or its thread died.
    #[error("the work was given up")]
    GivenUp,
}

impl ImageError {
    /// Whose error it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Missing { .. } => Fault::Missing,
            Self::Unusable { .. } => Fault::Unusable,
            Self::Unreachable { .. }
            | Self::NoSkopeo
            | Self::Skopeo { .. }
            | Self::Program(_)
            | Self::Unpacker { .. }
            | Self::Io { .. }
            | Self::Arguments(_)
            | Self::GivenUp => Fault::Infrastructure,
        }
    }

    pub(crate) fn unusable(why: impl Into<String>) -> Self {
        Self::Unusable { why: why.into() }
    }
}

/// Puts an action and a path on a system error.
pub(crate) fn io<E: Into<io::Error>>(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> ImageError {
    move |error| ImageError::Io {
        action,
        path: path.to_owned(),
        source: error.into(),
    }
}

/// An error while reading data that came from outside: the kernel's errors are ours, all others mean that the data is
/// damaged.
pub(crate) fn reading<'a>(
    what: &'a str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> ImageError + 'a {
    move |error| {
        if error.raw_os_error().is_some() {
            io("read", path)(error)
        } else {
            ImageError::unusable(format!("{what} is damaged: {error}"))
        }
    }
}

fn tail(text: &str) -> String {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        String::new()
    } else {
        format!(": {trimmed}")
    }
}
