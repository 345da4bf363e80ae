//! Where an S3 bucket is and how it is used.

use std::path::PathBuf;

use bryo_model::Secret;

/// One bucket of one S3 server.
#[derive(Clone, Debug)]
pub struct S3Settings {
    /// Address of the server's API, `http://` or `https://`.
    pub endpoint: String,
    /// The region that signatures name.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// Whether the bucket stands in the path instead of the host's name.
    pub path_style: bool,
    /// Who we are there.
    pub credentials: S3Credentials,
    /// Certificates to trust beside the system's, as one PEM file.
    pub ca_bundle: Option<PathBuf>,
    /// How many requests are on their way at one time; at least one.
    pub parallel: usize,
}

/// Keys of an S3 server.
#[derive(Clone, Debug)]
pub struct S3Credentials {
    /// Names the key.
    pub access_key: String,
    /// Signs requests.
    pub secret_key: Secret,
    /// Of temporary keys.
    pub session_token: Option<Secret>,
}
