//! What options say, in the words of the configuration.

use std::path::Path;

use super::environment::at_most;
use super::fragment::{Entry, Fragment, Origin, Problem};
use super::keys::Key;
use super::kind::Base;

/// Options that were given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    said: Vec<(&'static Key, &'static str, String)>,
    at_most: Option<String>,
    problems: Vec<Problem>,
}

impl Flags {
    /// This option says this about that key, if it was given.
    pub(crate) fn say(
        mut self,
        key: &'static Key,
        option: &'static str,
        value: Option<impl ToString>,
    ) -> Self {
        self.said
            .extend(value.map(|value| (key, option, value.to_string())));
        self
    }

    /// The same for a path.
    pub(crate) fn path(
        mut self,
        key: &'static Key,
        option: &'static str,
        value: Option<&Path>,
    ) -> Self {
        match value.map(Path::to_str) {
            Some(None) => {
                self.problems.push(Problem::at(
                    Origin::Flag(option),
                    "the path is not UTF-8; choose another",
                ));
                self
            }
            text => self.say(key, option, text.flatten()),
        }
    }

    /// The table `host.at-most`.
    pub(crate) fn at_most(mut self, value: Option<String>) -> Self {
        self.at_most = value;
        self
    }

    pub(super) fn read(self, base: Base<'_>) -> (Fragment, Vec<Problem>) {
        let mut fragment = Fragment::default();
        let mut problems = self.problems;
        let mut entries = Vec::new();
        for (key, option, text) in self.said {
            let origin = Origin::Flag(option);
            match key.kind.text(&text, base) {
                Ok(value) => entries.push(Entry {
                    key,
                    name: String::new(),
                    value,
                    origin,
                }),
                Err(why) => problems.push(Problem::at(origin, why)),
            }
        }
        if let Some(text) = self.at_most {
            let (parts, problem) = at_most(&text, &Origin::Flag("--at-most"));
            entries.extend(parts);
            problems.extend(problem);
        }
        problems.extend(
            entries
                .into_iter()
                .filter_map(|entry| fragment.say(entry).err()),
        );
        (fragment, problems)
    }
}
