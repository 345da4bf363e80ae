//! Usable settings, made of what all sources say.

mod depot;
mod feeds;
mod host;
mod jobs;
mod reader;
mod secrets;
mod source;

use std::path::PathBuf;

use bryo_agent::{AgentSettings, CacheBudget, FeedSettings, Recovery, Watermarks};
use bryo_engine::Settings;

pub(crate) use host::Places;
pub(crate) use reader::Reader;
pub(crate) use secrets::{SecretPlaces, hideable};

use super::About;
use super::address::Address;
use super::fragment::Problem;
use super::keys;
use super::kind;

/// The longest path of a unix socket: `sun_path` of unix(7) with its NUL.
const LONGEST_SOCKET: usize = 107;

/// Everything that an agent needs.
#[derive(Clone, Debug)]
pub(crate) struct AgentConfig {
    pub(crate) agent: AgentSettings,
    pub(crate) engine: Settings,
    /// Servers that jobs must not reach.
    pub(crate) control_plane: Vec<Address>,
}

impl Reader<'_> {
    /// What an agent needs, if nothing is missing and nothing is wrong. `file` is where a message says to write.
    pub(crate) fn agent(&mut self, places: &Places, file: &str) -> Option<AgentConfig> {
        let engine = self.host(places, About::Agent);
        let slots = self.count(&keys::SLOTS, "").unwrap_or(1);
        let feeds = self.feeds(file);
        let depot = self.s3();
        let depot_tuning = self.s3_tuning();
        let jobs = self.jobs();
        let state = self.state(places);
        let control = self.control();
        let listen = self.converted(&keys::LISTEN, "", |text| {
            kind::listen(text).ok_or_else(|| "no such place".to_owned())
        });
        let watermarks = Watermarks {
            free_bytes: self.value(&keys::FREE_BYTES, "")?,
            free_inodes: self.number(&keys::FREE_INODES, "")?,
        };
        let cache = self.cache();
        let recovery = match self.text(&keys::RECOVERY, "").as_deref() {
            Some("retry-once") => Recovery::RetryOnce,
            _ => Recovery::Report,
        };
        let (drain, history) = (self.time(&keys::DRAIN, "")?, self.time(&keys::HISTORY, "")?);
        if !self.problems.is_empty() {
            return None;
        }
        let agent = AgentSettings {
            state: state?,
            control: control?,
            feeds,
            slots,
            depot: depot?,
            depot_tuning,
            jobs,
            recovery,
            drain,
            watermarks,
            cache,
            listen,
            history,
        };
        let control_plane = if self.flag(&keys::CLOSE_CONTROL_PLANE) {
            control_plane(&agent)
        } else {
            Vec::new()
        };
        Some(AgentConfig {
            agent,
            engine: engine?,
            control_plane,
        })
    }

    /// What of the cache is kept.
    pub(crate) fn cache(&mut self) -> CacheBudget {
        CacheBudget {
            bytes: self.value(&keys::CACHE_BYTES, ""),
            unused_for: self.time(&keys::CACHE_UNUSED, ""),
        }
    }

    fn state(&mut self, places: &Places) -> Option<PathBuf> {
        let state = self.path(&keys::STATE, "");
        if state.is_none() {
            self.no_directory(
                places.state.as_deref(),
                "XDG_STATE_HOME",
                "give --state-dir, or write state = \"/DIR\" in [agent]",
            );
        }
        state
    }

    /// Where the agent can be spoken to. All that a command for a running agent needs.
    pub(crate) fn control(&mut self) -> Option<PathBuf> {
        let control = self.path(&keys::CONTROL, "")?;
        if control.as_os_str().len() > LONGEST_SOCKET {
            let text = format!(
                "the path of the control socket is too long: {}",
                control.display()
            );
            let hint = format!("at most {LONGEST_SOCKET} bytes; choose another with --control");
            self.problems.push(Problem::missing(text).hint(hint));
        }
        Some(control)
    }

    /// What is logged.
    pub(crate) fn log(&self) -> String {
        self.text(&keys::LOG, "").unwrap_or_default()
    }
}

fn control_plane(agent: &AgentSettings) -> Vec<Address> {
    let servers = agent.feeds.iter().map(|feed| match feed {
        FeedSettings::DocThor(settings) => settings.server.as_str(),
    });
    let all = servers.chain([agent.depot.endpoint.as_str()]);
    all.filter_map(|text| Address::parse(text).ok()).collect()
}
