//! How a job names the image it runs in.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The text does not name an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} does not name an image: {why}")]
pub struct InvalidImageRef {
    text: String,
    why: &'static str,
}

/// A reference to a registry: `host[:port]/path[:tag][@sha256:digest]`.
///
/// A host is required: a short name means a different image on every machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryRef(String);

impl RegistryRef {
    /// The reference, without a transport in front.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The registry: host and, if given, port.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

impl fmt::Display for RegistryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An image, in one of the forms that `containers-transports(5)` defines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageRef {
    /// `oci:DIR[:tag]`: an OCI image layout in a directory.
    OciLayout {
        /// The directory.
        dir: PathBuf,
        /// The `org.opencontainers.image.ref.name` to pick, where the layout holds several.
        tag: Option<String>,
    },
    /// `oci-archive:FILE`: an OCI image layout in a tar file.
    OciArchive(PathBuf),
    /// `docker-archive:FILE`: what `docker save` writes.
    DockerArchive(PathBuf),
    /// `containers-storage:REF`: the user's own Podman and Buildah store.
    ContainersStorage(String),
    /// Everything else: a registry.
    Registry(RegistryRef),
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OciLayout { dir, tag: None } => write!(f, "oci:{}", dir.display()),
            Self::OciLayout {
                dir,
                tag: Some(tag),
            } => write!(f, "oci:{}:{tag}", dir.display()),
            Self::OciArchive(file) => write!(f, "oci-archive:{}", file.display()),
            Self::DockerArchive(file) => write!(f, "docker-archive:{}", file.display()),
            Self::ContainersStorage(name) => write!(f, "containers-storage:{name}"),
            Self::Registry(reference) => reference.fmt(f),
        }
    }
}

impl FromStr for ImageRef {
    type Err = InvalidImageRef;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |why| InvalidImageRef {
            text: text.to_owned(),
            why,
        };
        if text.chars().any(char::is_control) {
            return Err(bad("it contains control characters"));
        }
        let path = |rest: &str| {
            if rest.is_empty() {
                Err(bad("the path is missing"))
            } else {
                Ok(PathBuf::from(rest))
            }
        };
        if let Some(rest) = text.strip_prefix("oci:") {
            let (dir, tag) = rest
                .rsplit_once(':')
                .filter(|(_, tag)| !tag.contains('/'))
                .map_or((rest, None), |(dir, tag)| (dir, Some(tag.to_owned())));
            return Ok(Self::OciLayout {
                dir: path(dir)?,
                tag: tag.filter(|t| !t.is_empty()),
            });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            return path(rest).map(Self::OciArchive);
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            return path(rest).map(Self::DockerArchive);
        }
        if let Some(rest) = text.strip_prefix("containers-storage:") {
            if rest.is_empty() || rest.starts_with('-') || rest.contains(char::is_whitespace) {
                return Err(bad("the image name is missing"));
            }
            return Ok(Self::ContainersStorage(rest.to_owned()));
        }
        registry(text.strip_prefix("docker://").unwrap_or(text))
            .map(Self::Registry)
            .map_err(bad)
    }
}

fn registry(text: &str) -> Result<RegistryRef, &'static str> {
    let (host, path) = text.split_once('/').unwrap_or(("", text));
    let named = host.contains(['.', ':']) || host == "localhost";
    if !named {
        return Err(
            "name the registry too (for example docker.io/library/debian:12), or use \
                    oci:, oci-archive:, docker-archive: or containers-storage:",
        );
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@+".contains(&b);
    let host_ok = !host.starts_with(['-', '.']) && !host.contains('@');
    let path_ok = !path.is_empty()
        && path.bytes().all(allowed)
        && path
            .split('/')
            .all(|p| !p.is_empty() && p != "." && p != "..");
    if host_ok && host.bytes().all(allowed) && path_ok {
        Ok(RegistryRef(text.to_owned()))
    } else {
        Err("a registry reference is host/path[:tag][@sha256:digest]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_survives_its_text() {
        for good in [
            "oci:images/base",
            "oci:images/base:v1",
            "oci-archive:images/mkdocs.tar",
            "docker-archive:/tmp/x.tar",
            "containers-storage:localhost/docs:9",
            "registry.example/docs/mkdocs:9",
            "localhost:5000/x",
            "registry.example/docs@sha256:00",
        ] {
            assert_eq!(good.parse::<ImageRef>().unwrap().to_string(), good);
        }
        let tagged: ImageRef = "docker://registry.example/x:1".parse().unwrap();
        assert_eq!(tagged.to_string(), "registry.example/x:1");
    }

    #[test]
    fn what_names_no_image_is_refused() {
        for bad in [
            "",
            "debian",
            "debian:12",
            "library/debian",
            "oci:",
            "oci-archive:",
            "docker-archive:",
            "containers-storage:",
            "containers-storage:--root=/x",
            "-x.example/a",
            "registry.example/../x",
            "registry.example/a b",
            "registry.example/",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad:?}");
        }
    }
}
