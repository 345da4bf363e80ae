//! `[source]`: where sources may come from, as whom, and how much of them.

use std::path::PathBuf;

use bryo_model::{ByteSize, Scheme};
use bryo_source::{Credential, CredentialRule, SourceLimits, SourcePolicy};

use super::super::About;
use super::super::fragment::Problem;
use super::super::keys::{self, Key};
use super::host::Places;
use super::reader::Reader;
use super::secrets::{GIT_SSH_KEY, GIT_TOKEN};

impl Reader<'_> {
    /// Everything has a default here, so there is always a policy.
    pub(super) fn source(&mut self, places: &Places, about: About) -> SourcePolicy {
        let usual = SourceLimits::default();
        // Who types a command is there, and so are their keys. An agent works for strangers.
        let own_credentials = match self.merged.said(&keys::SOURCE_OWN_CREDENTIALS, "") {
            Some(_) => self.flag(&keys::SOURCE_OWN_CREDENTIALS),
            None => about == About::Run,
        };
        let mut size = |key: &'static Key, usual| {
            let said = self.value::<ByteSize>(key, "");
            said.map_or(usual, ByteSize::bytes)
        };
        let bytes = size(&keys::SOURCE_BYTES, usual.bytes);
        let memory = size(&keys::SOURCE_MEMORY, usual.memory);
        let limits = SourceLimits {
            timeout: self
                .time(&keys::SOURCE_TIMEOUT, "")
                .unwrap_or(usual.timeout),
            stall: self.time(&keys::SOURCE_STALL, "").unwrap_or(usual.stall),
            bytes,
            memory,
        };
        let names = self.merged.names("source.credentials");
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let credentials = names
            .iter()
            .filter_map(|name| self.credential(name, about))
            .collect();
        SourcePolicy {
            protocols: self.list(&keys::SOURCE_PROTOCOLS).into_iter().collect(),
            allowed_hosts: self.list(&keys::SOURCE_ALLOWED_HOSTS),
            denied_hosts: self.list(&keys::SOURCE_DENIED_HOSTS),
            reach: self.list(&keys::SOURCE_REACH),
            credentials,
            own_credentials,
            submodule_credentials: self.list(&keys::SOURCE_SUBMODULE_CREDENTIALS),
            ca_bundle: self.certificates(&keys::SOURCE_CA_BUNDLE, ""),
            limits,
            depth: self.small(&keys::SOURCE_DEPTH),
            lfs: self.flag(&keys::SOURCE_LFS),
            private: places.runtime.as_ref().map(|dir| dir.join("bryo/source")),
        }
    }

    fn credential(&mut self, name: &str, about: About) -> Option<CredentialRule> {
        let place = format!("source.credentials.{name}");
        if self.merged.said(&keys::CREDENTIAL_URL, name).is_none() {
            let hint =
                "write the beginning of the addresses that it is for, url = \"https://HOST/PATH\"";
            self.missing(&format!("{place}.url"), hint);
        }
        let url = self.value(&keys::CREDENTIAL_URL, name);
        let token = self.secret_of_sources(GIT_TOKEN, name, about);
        let key = self.secret_of_sources(GIT_SSH_KEY, name, about);
        let socket = self.path(&keys::CREDENTIAL_SSH_AGENT, name);
        let known_hosts = self.path(&keys::CREDENTIAL_KNOWN_HOSTS, name);
        let url: bryo_source::UrlPrefix = url?;
        let ssh = url.scheme() == Scheme::Ssh;
        let bad = |text: &str, hint: &str| {
            let text = format!("{place}: {text}");
            Problem::missing(text).hint(hint.to_owned())
        };
        let mut known = || {
            known_hosts
                .clone()
                .filter(|file| self.is_known_hosts(name, file))
        };
        let credential = match (ssh, token, key, socket) {
            (false, Some(password), None, None) => {
                let user = self.text(&keys::CREDENTIAL_USER, name)?;
                Credential::Password { user, password }
            }
            (true, None, Some(key), None) if known_hosts.is_some() => Credential::SshKey {
                key,
                known_hosts: known()?,
            },
            (true, None, None, Some(socket)) if known_hosts.is_some() => Credential::SshAgent {
                socket,
                known_hosts: known()?,
            },
            (true, None, Some(_), None) | (true, None, None, Some(_)) => {
                let hint = "write known-hosts = \"FILE\"; `ssh-keyscan HOST` prints its lines, to be compared with what the server's owner says";
                self.problems
                    .push(bad("nothing says which keys the server has", hint));
                return None;
            }
            (false, ..) => {
                let hint = "an address of https or http takes one of token-file, token-credential and token-env";
                self.problems.push(bad("it is not one token", hint));
                return None;
            }
            (true, ..) => {
                let hint = "an address of ssh takes one of ssh-key-file, ssh-key-credential, ssh-key-env and ssh-agent";
                self.problems
                    .push(bad("it is not one ssh key or agent", hint));
                return None;
            }
        };
        Some(CredentialRule {
            name: name.to_owned(),
            url,
            credential,
        })
    }

    /// Whether the file can be read, told where it was said.
    fn is_known_hosts(&mut self, name: &str, file: &PathBuf) -> bool {
        let Err(why) = std::fs::File::open(file) else {
            return true;
        };
        if let Some(entry) = self.entry(&keys::CREDENTIAL_KNOWN_HOSTS, name) {
            self.wrong(&entry, format!("{}: {why}", file.display()));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_defaults_are_those_of_the_sources() {
        let is = |key: &Key| match key.default {
            keys::Usual::Is(text) => text,
            keys::Usual::Found(_) | keys::Usual::Absent => "",
        };
        let usual = SourcePolicy::default();
        let size = |key: &Key| is(key).parse::<ByteSize>().unwrap().bytes();
        let time = |key: &Key| bryo_model::parse_duration(is(key)).unwrap();
        assert_eq!(size(&keys::SOURCE_BYTES), usual.limits.bytes);
        assert_eq!(size(&keys::SOURCE_MEMORY), usual.limits.memory);
        assert_eq!(time(&keys::SOURCE_TIMEOUT), usual.limits.timeout);
        assert_eq!(time(&keys::SOURCE_STALL), usual.limits.stall);
        let protocols = is(&keys::SOURCE_PROTOCOLS).split(',');
        let protocols: std::collections::BTreeSet<Scheme> =
            protocols.map(|word| word.parse().unwrap()).collect();
        assert_eq!(protocols, usual.protocols);
        assert_eq!(is(&keys::CREDENTIAL_USER), "git");
    }
}
