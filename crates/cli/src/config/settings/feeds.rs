//! `[feed.NAME]`: where jobs come from.

use std::time::Duration;

use bryo_agent::{DocThorSettings, FeedName, FeedSettings};
use bryo_model::Secret;

use super::super::fragment::Problem;
use super::super::keys;
use super::reader::Reader;
use super::secrets::{Said, TOKEN};

/// A server is not asked more often.
const FASTEST_POLL: Duration = Duration::from_millis(100);

impl Reader<'_> {
    /// The feeds. `file` is where a message says to write.
    pub(super) fn feeds(&mut self, file: &str) -> Vec<FeedSettings> {
        let names: Vec<String> = self
            .merged
            .names("feed")
            .into_iter()
            .map(str::to_owned)
            .collect();
        if names.is_empty() {
            self.problems.push(Problem::missing("there is no feed, so there would never be a job").hint(format!(
                "write [feed.NAME] with type, server and token into {file}, or set SERVER_URL and BUILDER_TOKEN; \
                 `bryo config show --defaults` prints a file with every key"
            )));
        }
        names.iter().filter_map(|name| self.feed(name)).collect()
    }

    fn feed(&mut self, name: &str) -> Option<FeedSettings> {
        let table = format!("[feed.{name}]");
        if self.text(&keys::FEED_TYPE, name).is_none() {
            self.missing(
                &format!("feed.{name}.type"),
                format!("write type = \"doc-thor\" in {table}"),
            );
        }
        let server = self.text(&keys::SERVER, name);
        if server.is_none() {
            self.missing(
                &format!("feed.{name}.server"),
                format!("write server = \"https://...\" in {table}, or set SERVER_URL"),
            );
        }
        let token = match self.secret(TOKEN, name) {
            Said::Value(token) => Some(Secret::new(token)),
            Said::Lost => None,
            Said::Not => {
                self.missing(
                    &format!("feed.{name}.token"),
                    format!("write token, token-file, token-credential or token-env in {table}, or set BUILDER_TOKEN"),
                );
                None
            }
        };
        let ca_bundle = self.certificates(&keys::FEED_CA_BUNDLE, name);
        let poll = self.time(&keys::POLL, name)?;
        if poll < FASTEST_POLL
            && let Some(entry) = self.entry(&keys::POLL, name)
        {
            self.wrong(&entry, "a server is asked every 100ms at most");
        }
        Some(FeedSettings::DocThor(DocThorSettings {
            name: name.parse::<FeedName>().ok()?,
            server: server?,
            token: token?,
            poll,
            slots: self.count(&keys::FEED_SLOTS, name)?,
            ca_bundle,
        }))
    }
}
