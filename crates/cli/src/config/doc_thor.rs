//! The variables of doc-thor's agent, whose file of variables works unchanged.
//!
//! A blank and `#` begin a comment in a value: doc-thor's own example has one, and systemd and `docker run` leave it there.
//!
//! `CONTAINER_TIMEOUT` bounds the run alone. An attempt has a bound of its own here, which must not cut the run: it is an
//! hour more where nobody says it. Where somebody says less, that is a mistake (`settings::jobs`).

use std::time::Duration;

use bryo_model::{Limits, parse_duration};

use super::environment::{Environment, Said};
use super::fragment::{Entry, Fragment, Origin, Problem};
use super::keys::{self, Key};
use super::kind::{Base, Value};

/// The feed of doc-thor's variables where no file has one.
const DOC_THOR: &str = "doc-thor";

/// The longest time that a configuration can say.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// What doc-thor's variables say: first what its agent does where they say nothing, which is the weakest of all.
#[derive(Debug, Default)]
pub(crate) struct DocThor {
    pub(crate) defaults: Fragment,
    pub(crate) fragment: Fragment,
    pub(crate) problems: Vec<Problem>,
}

/// Reads doc-thor's variables. `feeds` are those of files; variables that a file has named itself (`token-env`) are that
/// file's alone.
pub(crate) fn read(
    environment: &Environment,
    base: Base<'_>,
    feeds: &[&str],
    named: &[&str],
) -> DocThor {
    let mut said = Said::new(environment, base);
    let mut defaults = Fragment::default();
    let is_set = |name: &str| {
        !named.contains(&name) && matches!(environment.get(name), Ok(Some(_)) | Err(_))
    };
    let about_feed = ["SERVER_URL", "BUILDER_TOKEN"]
        .into_iter()
        .find(|name| is_set(name));
    let mut default = |key: &'static Key, name: &str, value: &str| {
        let entry = Entry {
            key,
            name: name.to_owned(),
            value: Value::Text(value.to_owned()),
            origin: Origin::DocThor,
        };
        // Each is said once, so there is nothing to be told.
        let _ = defaults.say(entry);
    };
    match (about_feed, feeds) {
        (None, _) => {}
        (Some(variable), [_, _, ..]) => said.problems.push(
            Problem::at(
                Origin::Variable(variable.to_owned()),
                format!("which feed is it about? There are {}", feeds.join(", ")),
            )
            .hint(format!(
                "unset it, or have a feed name it: token-env = {variable:?}"
            )),
        ),
        (Some(_), feeds) => {
            let feed = feeds.first().copied().unwrap_or(DOC_THOR);
            // What fetching and publishing may take, doc-thor's agent does not count.
            if let Ok(Some(run)) = environment.get("CONTAINER_TIMEOUT")
                && let Ok(run) = parse_duration(&without_comment(run))
            {
                let all = (run + Limits::default().timeout).min(LONGEST);
                default(&keys::TIMEOUT, "", &format!("{}s", all.as_secs()));
            }
            if feeds.is_empty() {
                default(&keys::FEED_TYPE, feed, "doc-thor");
                default(&keys::SERVER, feed, "http://localhost:8080");
                default(&keys::STAGE_RUN, "", "300");
                default(&keys::DEFAULT_REGISTRY, "", "docker.io");
            }
            for (name, key) in [
                ("SERVER_URL", &keys::SERVER),
                ("BUILDER_TOKEN", &keys::TOKEN),
                ("POLL_INTERVAL", &keys::POLL),
            ] {
                if !named.contains(&name) {
                    said.one(name, key, feed, without_comment);
                }
            }
            said.one("CONTAINER_TIMEOUT", &keys::STAGE_RUN, "", without_comment);
            said.one("WORKSPACE_DIR", &keys::WORK, "", without_comment);
        }
    }
    let storage = [
        ("STORAGE_ENDPOINT", &keys::S3_ENDPOINT),
        ("STORAGE_REGION", &keys::S3_REGION),
        ("STORAGE_ACCESS_KEY", &keys::S3_ACCESS_KEY),
        ("STORAGE_SECRET_KEY", &keys::S3_SECRET_KEY),
        ("STORAGE_BUCKET", &keys::S3_BUCKET),
    ];
    if is_set("STORAGE_ENDPOINT") {
        default(&keys::S3_BUCKET, "", "doc-thor-docs");
    }
    for (name, key) in storage
        .into_iter()
        .filter(|(name, _)| !named.contains(name))
    {
        said.one(name, key, "", without_comment);
    }
    DocThor {
        defaults,
        fragment: said.fragment,
        problems: said.problems,
    }
}

/// Also for text: none of these values has a blank in it.
fn without_comment(text: &str) -> String {
    let end = text
        .match_indices('#')
        .find(|(at, _)| text[..*at].ends_with([' ', '\t']) || *at == 0);
    end.map_or(text, |(at, _)| &text[..at]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::{base, shown};
    use super::*;

    /// The example of doc-thor, as a loader gives it that keeps comments.
    const THEIRS: [(&str, &str); 10] = [
        ("SERVER_URL", "http://localhost:8080"),
        ("BUILDER_TOKEN", "0123456789abcdef"),
        ("STORAGE_ENDPOINT", "http://localhost:3900"),
        ("STORAGE_REGION", "garage"),
        ("STORAGE_ACCESS_KEY", "GK01"),
        ("STORAGE_SECRET_KEY", "beef"),
        ("STORAGE_BUCKET", ""),
        ("POLL_INTERVAL", "5          # seconds"),
        ("CONTAINER_TIMEOUT", "300\t# seconds"),
        ("WORKSPACE_DIR", "/tmp/doc-thor"),
    ];

    #[test]
    fn the_variables_of_doc_thor_work_unchanged() {
        let said = read(&Environment::of(&THEIRS), base(), &[], &[]);
        assert_eq!(said.problems, []);
        assert_eq!(
            shown(&said.fragment),
            [
                "feed.doc-thor.server=http://localhost:8080",
                "feed.doc-thor.token=0123456789abcdef",
                "feed.doc-thor.poll=5",
                "jobs.limits.stages.run=300",
                "host.work=/tmp/doc-thor",
                "s3.endpoint=http://localhost:3900",
                "s3.region=garage",
                "s3.access-key=GK01",
                "s3.secret-key=beef",
            ]
        );
        assert_eq!(
            shown(&said.defaults),
            [
                "jobs.limits.timeout=3900s",
                "feed.doc-thor.type=doc-thor",
                "feed.doc-thor.server=http://localhost:8080",
                "jobs.limits.stages.run=300",
                "jobs.default-registry=docker.io",
                "s3.bucket=doc-thor-docs",
            ]
        );
    }

    #[test]
    fn bad_values_are_mistakes_and_secrets_not_repeated() {
        for (name, bad, why) in [
            (
                "POLL_INTERVAL",
                "often",
                "\"often\" is not a length of time",
            ),
            ("POLL_INTERVAL", "0", "\"0\" is not a length of time"),
            ("POLL_INTERVAL", "5 seconds", "\"5 seconds\" is not"),
            ("CONTAINER_TIMEOUT", "-1", "\"-1\" is not"),
            (
                "SERVER_URL",
                "localhost:8080",
                "\"localhost:8080\" is not an address",
            ),
            ("SERVER_URL", "http://x/api/v1", "without /api/v1"),
            (
                "BUILDER_TOKEN",
                "hunter2\nx",
                "the secret has control characters",
            ),
        ] {
            let mut vars: Vec<_> = THEIRS
                .into_iter()
                .filter(|(other, _)| *other != name)
                .collect();
            vars.push((name, bad));
            let said = read(&Environment::of(&vars), base(), &[], &[]);
            let told: Vec<String> = said.problems.iter().map(ToString::to_string).collect();
            assert_eq!(told.len(), 1, "{name}={bad}: {told:?}");
            assert!(
                told[0].starts_with(&format!("variable {name}: ")) && told[0].contains(why),
                "{told:?}"
            );
            assert!(!told[0].contains("hunter2"));
        }
    }

    #[test]
    fn the_variables_are_about_the_only_feed() {
        let environment = Environment::of(&[("BUILDER_TOKEN", "x1")]);
        let told = |feeds: &[&str], named: &[&str]| {
            let said = read(&environment, base(), feeds, named);
            (shown(&said.fragment), said.problems.len())
        };
        assert_eq!(
            told(&["docs"], &[]),
            (vec!["feed.docs.token=x1".to_owned()], 0)
        );
        assert_eq!(told(&["a", "b"], &[]), (vec![], 1));
        assert_eq!(told(&["a", "b"], &["BUILDER_TOKEN"]), (vec![], 0));
        assert_eq!(told(&[], &["BUILDER_TOKEN"]), (vec![], 0));
    }
}
