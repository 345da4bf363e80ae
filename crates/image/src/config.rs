//! The configuration of an image: how it wants to be run.
//!
//! - *Why own types for the JSON?* Tools write `null` and leave out fields that the specification requires; what Bryo
//!   does not use must not make an image unusable.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::platform;

/// How an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) user: String,
    pub(crate) working_dir: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) stop_signal: Option<String>,
}

impl ImageConfig {
    /// The program that runs, with its first arguments; may be empty.
    #[must_use]
    pub fn entrypoint(&self) -> &[String] {
        &self.entrypoint
    }

    /// The arguments after the entrypoint, unless the job has its own; may be empty.
    #[must_use]
    pub fn cmd(&self) -> &[String] {
        &self.cmd
    }

    /// The environment, as `NAME=value`.
    #[must_use]
    pub fn env(&self) -> &[String] {
        &self.env
    }

    /// Who it runs as, in a form that [`Layers::user`](crate::Layers::user) understands; may be empty.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Where it starts; may be empty.
    #[must_use]
    pub fn working_dir(&self) -> &str {
        &self.working_dir
    }

    /// What the image says about itself.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// The signal that asks it to stop, if not `SIGTERM`.
    #[must_use]
    pub fn stop_signal(&self) -> Option<&str> {
        self.stop_signal.as_deref()
    }
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    config: Option<WireRun>,
    rootfs: WireRootfs,
}

#[derive(Deserialize)]
struct WireRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WireRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
}

/// The configuration and the `diff_id` of every layer, lowest first. Refuses an image for another kind of host.
pub(crate) fn parse(bytes: &[u8]) -> Result<(ImageConfig, Vec<Digest>), ImageError> {
    let wire: Wire = serde_json::from_slice(bytes)
        .map_err(|e| ImageError::unusable(format!("its configuration is malformed: {e}")))?;
    platform::check(
        wire.os.as_deref().unwrap_or_default(),
        wire.architecture.as_deref().unwrap_or_default(),
    )?;
    let diff_ids = wire
        .rootfs
        .diff_ids
        .unwrap_or_default()
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()
        .map_err(|e| ImageError::unusable(format!("its configuration is malformed: {e}")))?;
    let run = wire.config.unwrap_or_default();
    let config = ImageConfig {
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        env: run.env.unwrap_or_default(),
        user: run.user.unwrap_or_default(),
        working_dir: run.working_dir.unwrap_or_default(),
        labels: run.labels.unwrap_or_default(),
        stop_signal: run.stop_signal.filter(|s| !s.is_empty()),
    };
    Ok((config, diff_ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_missing_fields_are_empty() {
        let (config, diff_ids) = parse(
            br#"{"created":"x","config":{"Cmd":null,"Entrypoint":["/e"],"Volumes":{}},"rootfs":{"type":"layers"}}"#,
        )
        .unwrap();
        assert_eq!(config.entrypoint(), ["/e"]);
        assert!(config.cmd().is_empty() && config.user().is_empty() && diff_ids.is_empty());
        parse(br#"{"rootfs":{"diff_ids":null},"config":null}"#).unwrap();
    }

    #[test]
    fn another_architecture_is_refused() {
        let error = parse(br#"{"os":"linux","architecture":"mips","rootfs":{}}"#).unwrap_err();
        assert!(
            error.to_string().contains("it is for linux/mips"),
            "{error}"
        );
        assert!(parse(br#"{"os":"windows","rootfs":{}}"#).is_err());
    }

    #[test]
    fn a_diff_id_is_a_digest() {
        assert!(parse(br#"{"rootfs":{"diff_ids":["../../x"]}}"#).is_err());
    }
}
