//! `[host]`: what this host gives to jobs, for `bryo run` and the agent alike.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bryo_engine::{NetworkSettings, Settings};
use bryo_image::PullOptions;
use bryo_model::{Ceiling, EnvVar, RuntimeKind};
use bryo_sandbox::RuntimePlaces;

use super::super::About;
use super::super::fragment::Problem;
use super::super::keys::{self, Key};
use super::reader::Reader;

/// What the environment says about this host where the configuration says nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// The usual cache directory.
    pub(crate) cache: Option<PathBuf>,
    /// The usual state directory of an agent.
    pub(crate) state: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub(crate) runtime: Option<PathBuf>,
    /// `CONTAINER_HOST`.
    pub(crate) container_host: Option<String>,
    /// Proxy variables of this process.
    pub(crate) proxy: Vec<EnvVar>,
}

impl Reader<'_> {
    /// The engine's settings; without a cache directory there are none.
    pub(crate) fn host(&mut self, places: &Places, about: About) -> Option<Settings> {
        let ca_bundle = self.certificates(&keys::CA_BUNDLE, "");
        let network = NetworkSettings {
            host: self.flag(&keys::HOST_NETWORK),
            reach_host: self.flag(&keys::REACH_HOST),
            closed: self.list(&keys::CLOSED),
            ca_bundle,
            proxy: if self.flag(&keys::PASS_PROXY) {
                places.proxy.clone()
            } else {
                Vec::new()
            },
        };
        let runtime = match self.text(&keys::RUNTIME, "").as_deref() {
            Some("crun") => Some(RuntimeKind::Crun),
            Some("podman") => Some(RuntimeKind::Podman),
            _ => None,
        };
        let ceiling = self.ceiling();
        let source = self.source(places, about);
        let (Some(cache), Some(work)) = (self.path(&keys::CACHE, ""), self.path(&keys::WORK, ""))
        else {
            self.no_directory(
                places.cache.as_deref(),
                "XDG_CACHE_HOME",
                "give --cache-dir, or write cache = \"/DIR\" in [host]",
            );
            return None;
        };
        let runtime_dir = places.runtime.clone();
        let state = runtime_dir
            .as_ref()
            .map_or_else(|| cache.join("runtime"), |dir| dir.join("bryo"));
        if state.to_str().is_none() {
            self.no_directory(Some(&state), "XDG_RUNTIME_DIR", "choose another");
        }
        Some(Settings {
            pull: PullOptions {
                authfile: self.path(&keys::AUTHFILE, ""),
                plain_http: self.flag(&keys::PLAIN_HTTP),
            },
            runtime,
            places: RuntimePlaces {
                state,
                container_host: places.container_host.clone(),
                runtime_dir,
            },
            cache,
            work,
            ceiling,
            network,
            own_ids: self.flag(&keys::OWN_IDS),
            apparmor: self.text(&keys::APPARMOR_PROFILE, ""),
            selinux: self.value(&keys::SELINUX, "").unwrap_or_default(),
            source: Arc::new(source),
        })
    }

    /// What the environment has instead of a directory.
    pub(super) fn no_directory(&mut self, found: Option<&Path>, variable: &str, hint: &str) {
        let text = match found {
            Some(dir) => format!("the directory {dir:?} is not UTF-8"),
            None => format!("there is neither HOME nor {variable}"),
        };
        self.problems.push(Problem::missing(text).hint(hint));
    }

    fn ceiling(&mut self) -> Ceiling {
        let size = |reader: &mut Self, key: &'static Key| reader.value(key, "");
        Ceiling {
            memory: size(self, &keys::MOST_MEMORY),
            cpus: self.value(&keys::MOST_CPUS, ""),
            pids: self.small(&keys::MOST_PIDS),
            disk: size(self, &keys::MOST_DISK),
            disk_files: self.number(&keys::MOST_DISK_FILES, ""),
            output: size(self, &keys::MOST_OUTPUT),
            output_files: self.number(&keys::MOST_OUTPUT_FILES, ""),
            log: size(self, &keys::MOST_LOG),
            timeout: self.time(&keys::MOST_TIMEOUT, ""),
            silence: self.time(&keys::MOST_SILENCE, ""),
            grace: self.time(&keys::MOST_GRACE, ""),
        }
    }
}
