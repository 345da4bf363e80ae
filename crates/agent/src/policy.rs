//! From what a feed wishes to what is done: nothing that a stranger said goes further unchecked.
//!
//! Refused here: sources on this host and on its loopback, images that are files of this host, names that leave their
//! place in the bucket, everything that the host's owner did not allow.

use std::net::{IpAddr, Ipv6Addr};

use bryo_depot::Prefix;
use bryo_model::{
    GitRef, GitUrl, ImageRef, JobId, JobSpec, Limits, SourceLocation, SourceSpec, Stage, StageLimit,
};

use crate::JobPolicy;
use crate::doc_thor::{Wishes, one_line};

/// A job that may be run.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) spec: JobSpec,
    /// Where its output goes.
    pub(crate) prefix: Prefix,
}

/// Why a job may not be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The stage that would have failed.
    pub(crate) stage: Stage,
    pub(crate) why: String,
}

fn refused(stage: Stage, why: &impl ToString) -> Refusal {
    Refusal {
        stage,
        why: why.to_string(),
    }
}

/// What the host's owner grants to one attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granting<'a> {
    pub(crate) policy: &'a JobPolicy,
    pub(crate) attempt: JobId,
}

impl Granting<'_> {
    /// The job that a doc-thor server describes.
    pub(crate) fn of_doc_thor(&self, wishes: &Wishes) -> Result<Accepted, Refusal> {
        let policy = self.policy;
        let prefix = Prefix::of(&wishes.project_slug, &wishes.version)
            .map_err(|e| refused(Stage::Publish, &e))?;
        let source = SourceSpec {
            location: source(policy, &wishes.source_url)?,
            reference: reference(&wishes.reference)?,
            subdir: None,
        };
        let image = image(policy, &wishes.docker_image)?;
        Ok(Accepted {
            spec: JobSpec {
                id: self.attempt,
                source,
                image,
                command: Vec::new(),
                env: policy.env.clone(),
                secrets: policy.secrets.clone(),
                network: policy.network,
                egress: policy.egress.clone(),
                read_only_root: policy.read_only_root,
                limits: Limits {
                    log: Some(
                        policy
                            .limits
                            .log
                            .map_or(policy.log, |log| log.min(policy.log)),
                    ),
                    ..policy.limits.clone()
                },
                limit_policy: policy.limit_policy,
            },
            prefix,
        })
    }
}

/// The bound that ends a job that runs for too long, for messages.
pub(crate) fn run_timeout(limits: &Limits) -> std::time::Duration {
    let of_run = |limit: &&StageLimit| limit.stage == Stage::Run;
    let stage = limits.stages.iter().filter(of_run).map(|l| l.most).min();
    stage.map_or(limits.timeout, |most| most.min(limits.timeout))
}

fn reference(text: &str) -> Result<Option<GitRef>, Refusal> {
    match text {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|e| refused(Stage::Fetch, &one_line(&format!("{e}")))),
    }
}

fn source(policy: &JobPolicy, text: &str) -> Result<SourceLocation, Refusal> {
    let no = |why: String| refused(Stage::Fetch, &one_line(&why));
    let url: GitUrl = text.parse().map_err(|e| no(format!("{e}")))?;
    let Some(authority) = url.authority() else {
        return if policy.local_sources {
            Ok(SourceLocation::Remote(url))
        } else {
            Err(no(format!(
                "{url} is on the agent's own host; its owner has not allowed that (jobs.local-sources)"
            )))
        };
    };
    let (host, port) = host_and_port(authority);
    let allowed = &policy.allowed_hosts;
    if allowed.is_empty() {
        if is_this_host(&host) {
            return Err(no(format!(
                "{host} is the agent's own host or beside it; its owner has not allowed that (jobs.allowed-hosts)"
            )));
        }
    } else {
        let whole = port.map(|port| format!("{host}:{port}"));
        let names = [Some(host.clone()), whole];
        if !names
            .iter()
            .flatten()
            .any(|name| allowed.iter().any(|p| p.matches(name)))
        {
            return Err(no(format!(
                "{host} is not among the hosts that the agent's owner allows (jobs.allowed-hosts)"
            )));
        }
    }
    Ok(SourceLocation::Remote(url))
}

/// Host in lower case, without brackets, and port.
fn host_and_port(authority: &str) -> (String, Option<u16>) {
    let lower = authority.to_ascii_lowercase();
    // The URL standard knows all the ways to write an address that resolvers know.
    let url = reqwest::Url::parse(&format!("http://{lower}/")).ok();
    let host = url.as_ref().and_then(|url| url.host_str());
    let host = host.unwrap_or(&lower).trim_matches(['[', ']']).to_owned();
    let port = lower
        .rsplit_once(':')
        .filter(|(_, port)| !port.ends_with(']'))
        .and_then(|(_, port)| port.parse().ok());
    (host, port)
}

/// Loopback, link-local and unspecified addresses, by name or number. What a name resolves to is looked at by whoever
/// connects.
fn is_this_host(host: &str) -> bool {
    if host == "localhost" || host.ends_with(".localhost") {
        return true;
    }
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        Ok(IpAddr::V6(v6)) => {
            let mapped = v6.to_ipv4_mapped();
            mapped.is_some_and(|v4| v4.is_loopback() || v4.is_link_local() || v4.is_unspecified())
                || v6.is_loopback()
                || v6.is_unspecified()
                || is_link_local(v6)
        }
        Err(_) => false,
    }
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

fn image(policy: &JobPolicy, text: &str) -> Result<ImageRef, Refusal> {
    let no = |why: String| refused(Stage::Run, &one_line(&why));
    if let Some(image) = policy.images.get(text) {
        return Ok(image.clone());
    }
    if text.is_empty() {
        return policy.default_image.clone().ok_or_else(|| {
            no(
                "the project names no image, and the agent has no default one (jobs.default-image)"
                    .to_owned(),
            )
        });
    }
    let image = with_registry(text, policy.default_registry.as_deref())
        .parse()
        .map_err(|e| no(format!("{e}")))?;
    let ImageRef::Registry(reference) = &image else {
        return Err(no(format!(
            "{text:?} is a file or a store of the agent's host; a project can name images in registries only"
        )));
    };
    let name = with_tag(reference.as_str());
    let allowed = &policy.allowed_images;
    if !allowed.is_empty() && !allowed.iter().any(|p| p.matches(&name)) {
        return Err(no(format!(
            "{name} is not among the images that the agent's owner allows (jobs.allowed-images)"
        )));
    }
    Ok(image)
}

/// A name without a registry gets the default one; Docker Hub keeps names without a slash below `library/`.
fn with_registry(text: &str, registry: Option<&str>) -> String {
    let Some(registry) = registry else {
        return text.to_owned();
    };
    match text.split_once('/') {
        None if registry == "docker.io" => format!("docker.io/library/{text}"),
        None => format!("{registry}/{text}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => text.to_owned(),
        Some(_) => format!("{registry}/{text}"),
    }
}

fn with_tag(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or_default();
    if name.contains([':', '@']) {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    }
}

#[cfg(test)]
mod tests;
