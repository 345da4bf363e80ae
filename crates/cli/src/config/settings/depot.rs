//! `[s3]`: where output goes.

use bryo_depot::{S3Credentials, S3Settings};
use bryo_model::Secret;

use super::super::keys;
use super::reader::Reader;
use super::secrets::{ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, Said, Ways};

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
