//! Invariants of what reads a server's words, for any bytes.

use std::collections::BTreeMap;

use bryo_model::{ByteSize, Egress, JobId, LimitPolicy, Limits, NetworkMode, SourceLocation};

use crate::JobPolicy;
use crate::doc_thor::{BuildId, BuildResult, Claim, ResultText, salvage};
use crate::policy::Granting;

/// A claim is read, or its id is, or neither; what is granted of it stays where it belongs, and what is refused of it can
/// stand in a log.
///
/// # Panics
///
/// When an invariant is broken.
pub fn claims(data: &[u8]) {
    match Claim::parse(data) {
        Ok(claim) => {
            let id = claim.id.to_string();
            assert_eq!(
                Claim::from_record(&id, &claim.to_json()),
                Some(claim.clone())
            );
            assert!(printable(&claim.wishes.title()));
            for policy in [strict(), open()] {
                granted(&policy, &claim);
            }
        }
        Err(fault) => {
            assert_eq!(fault.id, fault.id.and(salvage(data)));
            assert!(fault.id.is_none_or(|id| id.to_string().parse() == Ok(id)));
        }
    }
    results(&String::from_utf8_lossy(data));
}

fn granted(policy: &JobPolicy, claim: &Claim) {
    let attempt = JobId::from_parts(1, 1);
    match (Granting { policy, attempt }).of_doc_thor(&claim.wishes) {
        Ok(accepted) => {
            let prefix = accepted.prefix.to_string();
            assert!(prefix.starts_with(&claim.wishes.project_slug));
            assert!(!prefix.split('/').any(|part| matches!(part, "." | "..")));
            assert!(!prefix.starts_with(['.', '/']) && printable(&prefix));
            assert!(accepted.spec.command.is_empty());
            let SourceLocation::Remote(url) = &accepted.spec.source.location else {
                unreachable!("a source on this host");
            };
            assert!(url.authority().is_some() || policy.local_sources);
            assert!(!url.as_str().starts_with('-'));
            if let Some(reference) = &accepted.spec.source.reference {
                assert!(!reference.to_string().starts_with('-'));
            }
        }
        Err(refusal) => assert!(printable(&refusal.why), "{:?}", refusal.why),
    }
}

/// A result is JSON that says the same when it is read, and shrinks until there is no log in it.
fn results(text: &str) {
    let id: BuildId = "7".parse().unwrap_or_default();
    let result =
        BuildResult::new(id, false, Some(ResultText(text.to_owned()))).with_logs(text.repeat(3));
    let mut body = result.to_body();
    assert_eq!(
        serde_json::from_str::<BuildResult>(&body).ok(),
        Some(result)
    );
    while let Some(less) = BuildResult::with_less_log(&body) {
        assert!(less.len() < body.len());
        body = less;
    }
    assert!(!body.contains("\"logs\":"));
}

fn printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

fn strict() -> JobPolicy {
    JobPolicy {
        limits: Limits::default(),
        limit_policy: LimitPolicy::Enforce,
        network: NetworkMode::None,
        egress: Egress::default(),
        read_only_root: false,
        env: Vec::new(),
        secrets: Vec::new(),
        images: BTreeMap::new(),
        default_image: None,
        default_registry: None,
        allowed_images: "registry.example/*".parse().into_iter().collect(),
        allowed_hosts: Vec::new(),
        local_sources: false,
        log: ByteSize::new(1 << 20),
    }
}

fn open() -> JobPolicy {
    JobPolicy {
        default_registry: Some("docker.io".to_owned()),
        allowed_images: Vec::new(),
        allowed_hosts: "*".parse().into_iter().collect(),
        local_sources: true,
        ..strict()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn claims_for_any_input() {
        bryo_model::fuzzing::check_many("claims", super::claims);
    }
}
