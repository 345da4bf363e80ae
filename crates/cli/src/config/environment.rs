//! What environment variables say: Bryo's own, and those of doc-thor's agent, whose file of variables works unchanged.
//!
//! An empty variable is one that is not set. In doc-thor's variables a blank and `#` begin a comment: its own example
//! has one, and systemd and `docker run` leave it in the value.

use std::collections::BTreeMap;
use std::ffi::OsString;

use bryo_model::Ceiling;

use super::fragment::{Entry, Fragment, Origin, Problem};
use super::keys::{self, Key};
use super::kind::{Base, Kind, Value};

/// The environment, read once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// That of this process.
    pub(crate) fn of_this_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// For tests.
    #[cfg(test)]
    pub(crate) fn of(vars: &[(&str, &str)]) -> Self {
        Self(
            vars.iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }

    /// The value, unless it is empty.
    ///
    /// # Errors
    ///
    /// When it is not UTF-8.
    pub(crate) fn get(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self
            .0
            .get(std::ffi::OsStr::new(name))
            .filter(|value| !value.is_empty())
        {
            None => Ok(None),
            Some(value) => match value.to_str() {
                Some(text) => Ok(Some(text)),
                None => Err(Problem::at(
                    Origin::Variable(name.to_owned()),
                    "its value is not UTF-8",
                )),
            },
        }
    }
}

/// What Bryo's own variables say about these keys.
pub(crate) fn own(
    environment: &Environment,
    base: Base<'_>,
    about: impl Fn(&Key) -> bool,
) -> (Fragment, Vec<Problem>) {
    let mut said = Said::new(environment, base);
    for key in keys::ALL.iter().filter(|key| about(key)) {
        if let Some(name) = key.variable {
            said.one(name, key, "", str::to_owned);
        }
    }
    match environment.get(AT_MOST) {
        Ok(_) if !about(&keys::MOST_MEMORY) => {}
        Ok(Some(text)) => said.at_most(text),
        Ok(None) => {}
        Err(problem) => said.problems.push(problem),
    }
    (said.fragment, said.problems)
}

/// The one variable that is a whole table.
const AT_MOST: &str = "BRYO_AT_MOST";

/// The feed of doc-thor's variables where no file has one.
const DOC_THOR: &str = "doc-thor";

/// What doc-thor's variables say: first what its agent does where they say nothing, which is the weakest of all.
#[derive(Debug, Default)]
pub(crate) struct DocThor {
    pub(crate) defaults: Fragment,
    pub(crate) fragment: Fragment,
    pub(crate) problems: Vec<Problem>,
}

/// Reads doc-thor's variables. `feeds` are those of files; variables that a file has named itself (`token-env`) are that
/// file's alone.
pub(crate) fn doc_thor(
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

struct Said<'a> {
    environment: &'a Environment,
    base: Base<'a>,
    fragment: Fragment,
    problems: Vec<Problem>,
}

impl<'a> Said<'a> {
    fn new(environment: &'a Environment, base: Base<'a>) -> Self {
        Self {
            environment,
            base,
            fragment: Fragment::default(),
            problems: Vec::new(),
        }
    }

    fn one(
        &mut self,
        variable: &str,
        key: &'static Key,
        name: &str,
        clean: impl Fn(&str) -> String,
    ) {
        let text = match self.environment.get(variable) {
            Ok(None) => return,
            Ok(Some(text)) => clean(text),
            Err(problem) => return self.problems.push(problem),
        };
        let origin = Origin::Variable(variable.to_owned());
        // A text that was only a comment says nothing.
        if text.is_empty() {
            return;
        }
        match key.kind.text(&text, self.base) {
            Ok(value) => self.say(Entry {
                key,
                name: name.to_owned(),
                value,
                origin,
            }),
            Err(why) => self.problems.push(Problem::at(origin, why)),
        }
    }

    fn at_most(&mut self, text: &str) {
        let (parts, problem) = at_most(text, &Origin::Variable(AT_MOST.to_owned()));
        self.problems.extend(problem);
        parts.into_iter().for_each(|entry| self.say(entry));
    }

    fn say(&mut self, entry: Entry) {
        if let Err(problem) = self.fragment.say(entry) {
            self.problems.push(problem);
        }
    }
}

/// The table `host.at-most` as one text: `NAME=VALUE,...`.
pub(crate) fn at_most(text: &str, origin: &Origin) -> (Vec<Entry>, Option<Problem>) {
    if let Err(error) = text.parse::<Ceiling>() {
        return (Vec::new(), Some(Problem::at(origin, error.to_string())));
    }
    let entry = |part: &str| {
        let (word, value) = part.trim().split_once('=')?;
        let key = keys::ALL
            .iter()
            .find(|key| key.table() == "host.at-most" && key.word() == word)?;
        let value = match key.kind {
            Kind::Count | Kind::Small => Value::Number(value.parse().ok()?),
            _ => Value::Text(value.to_owned()),
        };
        Some(Entry {
            key,
            name: String::new(),
            value,
            origin: origin.clone(),
        })
    };
    (text.split(',').filter_map(entry).collect(), None)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn base() -> Base<'static> {
        Base {
            dir: Path::new("/here"),
            home: None,
        }
    }

    fn shown(fragment: &Fragment) -> Vec<String> {
        fragment
            .entries()
            .iter()
            .map(|entry| {
                let value = match &entry.value {
                    Value::Flag(flag) => flag.to_string(),
                    Value::Number(number) => number.to_string(),
                    Value::Text(text) => text.clone(),
                    Value::List(items) => items.join(","),
                };
                format!("{}={value}", entry.path())
            })
            .collect()
    }

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
        let said = doc_thor(&Environment::of(&THEIRS), base(), &[], &[]);
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
            let said = doc_thor(&Environment::of(&vars), base(), &[], &[]);
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
            let said = doc_thor(&environment, base(), feeds, named);
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

    #[test]
    fn a_table_in_one_variable() {
        let environment = Environment::of(&[
            ("BRYO_AT_MOST", "timeout=2h, pids=10"),
            ("BRYO_OWN_IDS", "maybe"),
            ("BRYO_REACH_HOST", ""),
            ("BRYO_CLOSED", "10.0.0.0/8, 192.0.2.1:443"),
            ("BRYO_SLOTS", "0"),
        ]);
        let (fragment, problems) = own(&environment, base(), |key| key.path.starts_with("host."));
        assert_eq!(
            shown(&fragment),
            [
                "host.closed=10.0.0.0/8,192.0.2.1:443",
                "host.at-most.timeout=2h",
                "host.at-most.pids=10"
            ]
        );
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}
