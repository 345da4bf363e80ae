//! What Bryo's own environment variables say. An empty variable is one that is not set.

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

/// Variables that become one fragment.
pub(super) struct Said<'a> {
    environment: &'a Environment,
    base: Base<'a>,
    pub(super) fragment: Fragment,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Said<'a> {
    pub(super) fn new(environment: &'a Environment, base: Base<'a>) -> Self {
        Self {
            environment,
            base,
            fragment: Fragment::default(),
            problems: Vec::new(),
        }
    }

    /// This variable says this about that key, once `clean` has been over it.
    pub(super) fn one(
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
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    pub(in super::super) fn base() -> Base<'static> {
        Base {
            dir: Path::new("/here"),
            home: None,
        }
    }

    /// Each value with its key.
    pub(in super::super) fn shown(fragment: &Fragment) -> Vec<String> {
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
