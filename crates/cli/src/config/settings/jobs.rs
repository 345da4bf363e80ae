//! `[jobs]`: what jobs of feeds get, and what of a feed's wishes is granted.

use std::collections::BTreeMap;

use bryo_agent::JobPolicy;
use bryo_model::{
    ByteSize, Egress, EnvVar, ImageRef, LimitPolicy, Limits, NetworkMode, Stage, StageLimit,
};

use super::super::fragment::{Entry, Origin, Problem};
use super::super::keys::{self, STAGES};
use super::super::kind::Value;
use super::reader::Reader;

impl Reader<'_> {
    /// Everything has a default here, so there is always a policy.
    pub(super) fn jobs(&mut self) -> JobPolicy {
        let env = self.env();
        let secrets = self.secrets_of_jobs();
        for secret in &secrets {
            let twice = self.merged.said(&keys::JOB_ENV, secret.name()).cloned();
            if let Some(entry) = twice {
                self.wrong(&entry, "it is among jobs.secrets too; keep one of them");
            }
        }
        JobPolicy {
            limits: self.limits(),
            limit_policy: if self.flag(&keys::ALLOW_UNLIMITED) {
                LimitPolicy::AllowUnlimited
            } else {
                LimitPolicy::Enforce
            },
            network: self
                .value(&keys::NETWORK, "")
                .unwrap_or(NetworkMode::Isolated),
            egress: Egress {
                allow: self.list(&keys::ALLOW),
                deny: self.list(&keys::DENY),
            },
            read_only_root: self.flag(&keys::READ_ONLY),
            env,
            secrets,
            images: self.images(),
            default_image: self.value(&keys::DEFAULT_IMAGE, ""),
            default_registry: self.text(&keys::DEFAULT_REGISTRY, ""),
            allowed_images: self.list(&keys::ALLOWED_IMAGES),
            allowed_hosts: self.list(&keys::ALLOWED_HOSTS),
            local_sources: self.flag(&keys::LOCAL_SOURCES),
            log: self
                .value(&keys::REPORTED_LOG, "")
                .unwrap_or(ByteSize::new(1 << 20)),
        }
    }

    fn names(&self, table: &str) -> Vec<String> {
        self.merged
            .names(table)
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    fn env(&mut self) -> Vec<EnvVar> {
        let mut env = Vec::new();
        for name in self.names("jobs.env") {
            let Some(entry) = self.entry(&keys::JOB_ENV, &name) else {
                continue;
            };
            let Value::Text(value) = &entry.value else {
                continue;
            };
            match EnvVar::new(&name, value) {
                Ok(var) => env.push(var),
                Err(why) => self.wrong(&entry, why.to_string()),
            }
        }
        env
    }

    fn secrets_of_jobs(&mut self) -> Vec<EnvVar> {
        let names = self.names("jobs.secrets");
        let secret = |name: String| EnvVar::new(&name, &self.secret_of_jobs(&name)?).ok();
        names.into_iter().filter_map(secret).collect()
    }

    fn images(&mut self) -> BTreeMap<String, ImageRef> {
        let names = self.names("jobs.images");
        let image = |name: String| Some((name.clone(), self.value(&keys::JOB_IMAGES, &name)?));
        names.into_iter().filter_map(image).collect()
    }

    fn limits(&mut self) -> Limits {
        self.container_timeout();
        let usual = Limits::default();
        let mut timeout = self.time(&keys::TIMEOUT, "").unwrap_or(usual.timeout);
        let made_up = |entry: Entry| entry.origin == Origin::DocThor;
        if self.entry(&keys::TIMEOUT, "").is_some_and(made_up)
            && let Some(most) = self.time(&keys::MOST_TIMEOUT, "")
        {
            timeout = timeout.min(most);
        }
        let mut stages = Vec::new();
        for key in STAGES {
            if let (Some(stage), Some(most)) = (Stage::of(key.word()), self.time(key, "")) {
                stages.push(StageLimit { stage, most });
            }
        }
        Limits {
            memory: self.value(&keys::MEMORY, ""),
            memory_high: self.value(&keys::MEMORY_HIGH, ""),
            cpus: self.value(&keys::CPUS, ""),
            cpu_weight: self.value(&keys::CPU_WEIGHT, ""),
            pids: self.small(&keys::PIDS),
            io_read: self.value(&keys::IO_READ, ""),
            io_write: self.value(&keys::IO_WRITE, ""),
            disk: self.value(&keys::DISK, ""),
            disk_files: self.number(&keys::DISK_FILES, ""),
            output: self.said_value(&keys::OUTPUT),
            output_files: self
                .merged
                .said(&keys::OUTPUT_FILES, "")
                .and(self.number(&keys::OUTPUT_FILES, "")),
            log: self.value(&keys::LOG_KEPT, ""),
            timeout,
            stages,
            silence: self.time(&keys::SILENCE, ""),
            grace: self.time(&keys::GRACE, "").unwrap_or(usual.grace),
            stop_signal: self.value(&keys::STOP_SIGNAL, ""),
        }
    }

    /// doc-thor's variable bounds the run, and a bound on the whole attempt that is shorter would end it before without a word.
    fn container_timeout(&mut self) {
        const NAME: &str = "CONTAINER_TIMEOUT";
        let of_theirs =
            |entry: &&Entry| matches!(&entry.origin, Origin::Variable(name) if name == NAME);
        let Some(said) = self
            .merged
            .said(&keys::STAGE_RUN, "")
            .filter(of_theirs)
            .cloned()
        else {
            return;
        };
        let run = self.time(&keys::STAGE_RUN, "");
        for key in [&keys::TIMEOUT, &keys::MOST_TIMEOUT] {
            let Some(bound) = self.entry(key, "") else {
                continue;
            };
            let most = self.time(key, "");
            if run > most {
                let text = format!(
                    "it is longer than {} ({}, {}), which would end the attempt before",
                    bound.path(),
                    bound.value.text().unwrap_or_default(),
                    bound.origin
                );
                let hint = "raise that one too, or lower this one";
                self.problems
                    .push(Problem::at(&said.origin, text).hint(hint));
            }
        }
    }

    /// The engine has a usual bound of its own, which no ceiling raises; it is only for who says nothing.
    fn said_value(&mut self, key: &'static keys::Key) -> Option<ByteSize> {
        self.merged.said(key, "")?;
        self.value(key, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_defaults_are_those_of_the_engine() {
        let is = |key: &keys::Key| match key.default {
            keys::Usual::Is(text) => text,
            keys::Usual::Found(_) | keys::Usual::Absent => "",
        };
        let usual = Limits::default();
        assert_eq!(is(&keys::OUTPUT).parse(), Ok(Limits::USUAL_OUTPUT));
        assert_eq!(
            is(&keys::OUTPUT_FILES).parse(),
            Ok(Limits::USUAL_OUTPUT_FILES)
        );
        assert_eq!(
            bryo_model::parse_duration(is(&keys::TIMEOUT)),
            Ok(usual.timeout)
        );
        assert_eq!(
            bryo_model::parse_duration(is(&keys::GRACE)),
            Ok(usual.grace)
        );
    }
}
