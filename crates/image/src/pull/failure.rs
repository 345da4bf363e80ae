//! What skopeo's words mean.
//!
//! skopeo ends with 1 whatever happened, so that its words are all there is to tell a typing mistake of the user from a
//! registry that is down. What matches nothing here counts as ours.

use crate::error::ImageError;

/// The network or the host failed. Asked first: such messages may quote anything else.
const UNREACHABLE: [&str; 13] = [
    "connection refused",
    "connection reset",
    "no such host",
    "i/o timeout",
    "timeout",
    "network is unreachable",
    "no route to host",
    "server misbehaving",
    "x509:",
    "tls:",
    "server gave HTTP response to HTTPS client",
    "toomanyrequests",
    "unexpected EOF",
];
const OURS: [&str; 4] = [
    "no space left on device",
    "disk quota exceeded",
    "permission denied",
    "policy.json",
];
const MISSING: [&str; 13] = [
    "manifest unknown",
    "name unknown",
    "repository name not known",
    "unauthorized",
    "authentication required",
    "access to the resource is denied",
    "denied:",
    "invalid username/password",
    "StatusCode: 404",
    "StatusCode: 403",
    "does not resolve to an image ID",
    "identifier is not an image",
    "invalid reference format",
];
const UNUSABLE: [&str; 2] = [
    "no image found in manifest list",
    "no image found in image index",
];

/// The error that skopeo's standard error stands for.
pub(super) fn classify(image: &str, stderr: &str) -> ImageError {
    let detail = message(stderr);
    // The image's own name is no word of skopeo's, whatever it is.
    let name = image.strip_prefix("containers-storage:").unwrap_or(image);
    let words = detail.replace(name, "");
    let says = |some: &[&str]| some.iter().any(|w| words.contains(w));
    let image = image.to_owned();
    if says(&OURS) {
        ImageError::Skopeo { image, detail }
    } else if says(&UNREACHABLE) || has_server_error(&words) {
        ImageError::Unreachable { image, detail }
    } else if says(&MISSING) {
        ImageError::Missing { image, detail }
    } else if says(&UNUSABLE) {
        ImageError::unusable(detail)
    } else {
        ImageError::Skopeo { image, detail }
    }
}

fn has_server_error(words: &str) -> bool {
    [
        "StatusCode: 5",
        "status code 5",
        "received unexpected HTTP status: 5",
    ]
    .iter()
    .any(|w| words.contains(w))
}

/// The last `msg="…"` of logrus, without its quoting, or all there is.
fn message(stderr: &str) -> String {
    let last = stderr.trim().lines().last().unwrap_or_default();
    match last.split_once("msg=\"") {
        Some((_, text)) => text.trim_end().trim_end_matches('"').replace("\\\"", "\""),
        None => last.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;

    #[test]
    fn a_name_is_not_taken_for_a_word() {
        let words = r#"msg="reading manifest 1 in r.example/timeout: manifest unknown""#;
        let error = classify(
            "r.example/timeout:1",
            &words.replace("r.example/timeout", "r.example/timeout:1"),
        );
        assert_eq!(error.fault(), Fault::Missing, "{error}");
    }

    /// Recorded from skopeo 1.9.3.
    #[test]
    fn recorded_words_have_their_meaning() {
        for (words, fault, unreachable) in [
            (
                r#"time="x" level=fatal msg="Error parsing image name \"docker://127.0.0.1:9/x\": pinging container registry 127.0.0.1:9: Get \"https://127.0.0.1:9/v2/\": dial tcp 127.0.0.1:9: connect: connection refused""#,
                Fault::Infrastructure,
                true,
            ),
            (
                r#"time="x" level=fatal msg="Error parsing image name \"docker://no.such.host.invalid/x\": pinging container registry no.such.host.invalid: Get \"https://no.such.host.invalid/v2/\": dial tcp: lookup no.such.host.invalid on 10.255.255.53:53: no such host""#,
                Fault::Infrastructure,
                true,
            ),
            (
                r#"time="x" level=fatal msg="Error parsing image name \"containers-storage:localhost/nosuch\": reference \"[overlay@/var/lib/containers/storage+/run/containers/storage]localhost/nosuch:latest\" does not resolve to an image ID: identifier is not an image""#,
                Fault::Missing,
                false,
            ),
            (
                r#"time="x" level=fatal msg="writing blob: write /t/1: no space left on device""#,
                Fault::Infrastructure,
                false,
            ),
            ("panic: something else", Fault::Infrastructure, false),
        ] {
            let error = classify("x", words);
            assert_eq!(error.fault(), fault, "{error}");
            assert_eq!(
                matches!(error, ImageError::Unreachable { .. }),
                unreachable,
                "{error}"
            );
        }
    }
}
