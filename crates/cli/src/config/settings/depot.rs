//! `[s3]`: where output goes.

use bryo_depot::{CacheRule, S3Credentials, S3Settings, S3Tuning};
use bryo_model::{ByteSize, Secret};

use super::super::keys;
use super::super::kind::{self, Value};
use super::reader::Reader;
use super::secrets::{ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, Said, Ways};

/// Of all parts but the last one.
const SMALLEST_PART: u64 = 5 << 20;

impl Reader<'_> {
    /// The bucket, if everything that it needs was said.
    pub(super) fn s3(&mut self) -> Option<S3Settings> {
        let endpoint = self.text(&keys::S3_ENDPOINT, "");
        if endpoint.is_none() {
            self.missing(
                "s3.endpoint",
                "write endpoint = \"https://...\" in [s3], or set STORAGE_ENDPOINT",
            );
        }
        let bucket = self.text(&keys::S3_BUCKET, "");
        if bucket.is_none() {
            self.missing(
                "s3.bucket",
                "write bucket = \"...\" in [s3], or set STORAGE_BUCKET",
            );
        }
        let access_key = self.s3_key("access-key", ACCESS_KEY, "STORAGE_ACCESS_KEY");
        let secret_key = self.s3_key("secret-key", SECRET_KEY, "STORAGE_SECRET_KEY");
        let session_token = match self.secret(SESSION_TOKEN, "") {
            Said::Value(token) => Some(Secret::new(token)),
            Said::Not | Said::Lost => None,
        };
        let ca_bundle = self.certificates(&keys::S3_CA_BUNDLE, "");
        Some(S3Settings {
            endpoint: endpoint?,
            region: self.text(&keys::S3_REGION, "")?,
            bucket: bucket?,
            path_style: self.flag(&keys::S3_PATH_STYLE),
            credentials: S3Credentials {
                access_key: access_key?,
                secret_key: Secret::new(secret_key?),
                session_token,
            },
            ca_bundle,
            parallel: self.count(&keys::S3_PARALLEL, "")?,
        })
    }

    /// How files are put there.
    pub(super) fn s3_tuning(&mut self) -> S3Tuning {
        let usual = S3Tuning::default();
        let part_size = self
            .value::<ByteSize>(&keys::S3_PART_SIZE, "")
            .map_or(usual.part_size, ByteSize::bytes);
        if part_size < SMALLEST_PART
            && let Some(entry) = self.entry(&keys::S3_PART_SIZE, "")
        {
            self.wrong(&entry, "a store takes no parts smaller than 5m");
        }
        S3Tuning {
            part_size,
            cache_rules: self.cache_rules(),
            ..usual
        }
    }

    fn cache_rules(&mut self) -> Vec<CacheRule> {
        let Some(Value::List(rules)) = self
            .entry(&keys::S3_CACHE_CONTROL, "")
            .map(|entry| entry.value)
        else {
            return Vec::new();
        };
        // Each was checked when it was read.
        rules
            .iter()
            .filter_map(|rule| kind::cache_rule(rule).ok())
            .collect()
    }

    fn s3_key(&mut self, word: &str, ways: Ways, variable: &str) -> Option<String> {
        match self.secret(ways, "") {
            Said::Value(value) => Some(value),
            Said::Lost => None,
            Said::Not => {
                self.missing(
                    &format!("s3.{word}"),
                    format!("write {word}, {word}-file, {word}-credential or {word}-env in [s3], or set {variable}"),
                );
                None
            }
        }
    }
}
