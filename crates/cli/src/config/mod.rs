//! The configuration: from files, environment and options to settings that can be used.
//!
//! ```text
//! toml_file ─┐
//! environment ├─> Fragment ──> Merged ──> AgentConfig, bryo_engine::Settings
//! flags ─────┘    one source   all of     usable, nothing missing
//!                              them
//! ```
//!
//! - A [`Fragment`](fragment::Fragment) is what one source may say; [`keys`] is the list of it. Unknown keys and values
//!   that are none are mistakes there, each with its place.
//! - [`Merged`] is what all say together: for each key the last value and its origin.
//! - Settings are made by [`Reader`]: defaults, secrets from their files, and what has to be there.
//!
//! It refuses to stop at the first mistake, to ignore what it does not know, and to repeat a secret.

mod address;
mod doc_thor;
mod effective;
mod environment;
mod files;
mod flags;
mod fragment;
mod keys;
mod kind;
mod merged;
mod settings;
mod show;
#[cfg(test)]
mod tests;
mod toml_file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) use address::Address;
pub(crate) use environment::Environment;
pub(crate) use flags::Flags;
pub(crate) use fragment::Problem;
pub(crate) use keys::Key;
pub(crate) use kind::Value;
pub(crate) use settings::{AgentConfig, Places, Reader, SecretPlaces, hideable};

/// The keys that options say.
pub(crate) use keys::{
    APPARMOR_PROFILE, AUTHFILE, CA_BUNDLE, CACHE, CLOSED, CONTROL, HOST_NETWORK, LISTEN, LOG,
    OWN_IDS, PASS_PROXY, PLAIN_HTTP, REACH_HOST, RUNTIME, SELINUX, SLOTS, SOURCE_ALLOWED_HOSTS,
    SOURCE_CA_BUNDLE, SOURCE_DENIED_HOSTS, SOURCE_DEPTH, SOURCE_LFS, SOURCE_OWN_CREDENTIALS,
    SOURCE_PROTOCOLS, SOURCE_REACH, STATE, WORK,
};

use effective::Effective;
use files::Found;
use kind::Base;
use merged::Merged;

/// Every key, documented, with its default.
pub(crate) const DOCUMENTED: &str = include_str!("../../../../config/etc/bryo/bryo.toml");

/// Who asks: a command reads what it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// `[host]`, `[source]` and `[cache]` alone, and what Bryo's own variables say about it.
    Run,
    /// Everything, doc-thor's variables too.
    Agent,
    /// Where an agent can be spoken to.
    Ask,
}

/// What surrounds the program: read once, at the edge.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) environment: Environment,
    /// The current directory.
    pub(crate) here: PathBuf,
    pub(crate) home: Option<PathBuf>,
    /// The directories with configuration, the host's first.
    pub(crate) config_dirs: Vec<PathBuf>,
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) places: Places,
}

impl Surroundings {
    /// Where a message says to write.
    pub(crate) fn file_to_write(&self, named: Option<&Path>) -> String {
        let usual = || self.config_dirs.last().map(|dir| dir.join("bryo.toml"));
        named
            .map(|file| self.here.join(file))
            .or_else(usual)
            .map_or_else(
                || "/etc/bryo/bryo.toml".to_owned(),
                |file| file.display().to_string(),
            )
    }

    /// Reads settings out of what was said. The mistakes of the sources are its first ones.
    pub(crate) fn reader<'a>(
        &'a self,
        loaded: &'a Loaded,
        secrets: &'a SecretPlaces<'a>,
    ) -> Reader<'a> {
        let effective = Effective {
            merged: &loaded.merged,
            places: &self.places,
        };
        Reader::new(effective, secrets, loaded.problems.clone())
    }

    pub(crate) fn secrets(&self, complete: bool) -> SecretPlaces<'_> {
        SecretPlaces {
            environment: &self.environment,
            credentials: self.credentials.clone(),
            complete,
        }
    }
}

/// What was said, and what was wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) merged: Merged,
    pub(crate) problems: Vec<Problem>,
    /// What is worth telling, and is no mistake.
    pub(crate) notes: Vec<String>,
    /// The files that were read, in their order.
    pub(crate) read: Vec<PathBuf>,
}

/// Reads all sources: the file that was named, or else the usual ones; the environment; the options.
pub(crate) fn load(
    about: About,
    around: &Surroundings,
    named: Option<&Path>,
    flags: Flags,
) -> Loaded {
    let mut loaded = Loaded::default();
    let named = match (named, around.environment.get("BRYO_CONFIG")) {
        (Some(file), _) => Some(around.here.join(file)),
        (None, Ok(file)) => file.map(|file| around.here.join(file)),
        (None, Err(problem)) => {
            loaded.problems.push(problem);
            None
        }
    };
    let home = around.home.as_deref();
    let found = match &named {
        Some(file) => files::named(file, home),
        None => files::searched(&around.config_dirs, home),
    };
    loaded.closed(about, &found);
    loaded.problems.extend(found.problems);
    loaded.read = found.read;
    let base = Base {
        dir: &around.here,
        home,
    };
    let theirs = match about {
        About::Run | About::Ask => doc_thor::DocThor::default(),
        About::Agent => {
            let said = || found.fragments.iter().flat_map(fragment::Fragment::entries);
            let mut feeds: Vec<&str> = said()
                .filter(|e| e.key.table() == "feed.*")
                .map(|e| e.name.as_str())
                .collect();
            feeds.sort_unstable();
            feeds.dedup();
            let named = said().filter(|e| e.key.kind == kind::Kind::Variable);
            let named: Vec<&str> = named.filter_map(|e| e.value.text()).collect();
            doc_thor::read(&around.environment, base, &feeds, &named)
        }
    };
    let (own, problems) = environment::own(&around.environment, base, |key| about.reads(key));
    loaded.problems.extend(theirs.problems);
    loaded.problems.extend(problems);
    let (flags, problems) = flags.read(base);
    loaded.problems.extend(problems);
    loaded.merged.take(theirs.defaults);
    for fragment in found.fragments {
        loaded.merged.take(fragment);
    }
    for fragment in [theirs.fragment, own, flags] {
        loaded.merged.take(fragment);
    }
    loaded
}

impl About {
    /// Whether this command uses what Bryo's own variables say about this key.
    fn reads(self, key: &Key) -> bool {
        match self {
            Self::Run => {
                let tables = ["host.", "source.", "cache."];
                tables.iter().any(|table| key.path.starts_with(table))
            }
            Self::Agent => true,
            Self::Ask => key.path.starts_with("agent."),
        }
    }
}

impl Loaded {
    /// An agent must not run with half of what its owner wrote. `bryo run` may: a file with the agent's secrets is not
    /// made for everybody.
    fn closed(&mut self, about: About, found: &Found) {
        for path in &found.closed {
            let text = "may not be read by this user";
            match about {
                About::Run | About::Ask => self.notes.push(format!(
                    "{}: {text}; what it says of this host does not hold here",
                    path.display()
                )),
                About::Agent => self.problems.push(Problem::at(path.display(), text).hint(
                    "give the file to this user or its group, or name another with --config",
                )),
            }
        }
    }

    /// Whether anybody said anything that is not about the host alone.
    pub(crate) fn has_agent(&self) -> bool {
        self.merged.any(|key| !About::Run.reads(key))
    }

    /// What holds below `[host]` and `[source]`: the path of each key and its value.
    pub(crate) fn of_the_host(&self, places: &Places) -> BTreeMap<String, Value> {
        let effective = Effective {
            merged: &self.merged,
            places,
        };
        let of_the_host = |entry: &fragment::Entry| {
            let tables = ["host.", "source."];
            tables.iter().any(|table| entry.key.path.starts_with(table))
        };
        let all = effective.all().into_iter().filter(of_the_host);
        all.map(|entry| (entry.path(), entry.value)).collect()
    }

    /// All that holds, as TOML with the origin of each value.
    pub(crate) fn show(&self, places: &Places) -> String {
        show::toml(Effective {
            merged: &self.merged,
            places,
        })
    }

    /// The same for programs.
    pub(crate) fn show_json(&self, places: &Places) -> serde_json::Value {
        show::json(Effective {
            merged: &self.merged,
            places,
        })
    }
}
