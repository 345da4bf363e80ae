//! Output to an object store that speaks S3.
//!
//! A publication is not one rename here but many requests: `publish` tells what is promised all the same. From the outside
//! in: `depot` is what callers have, `publish` one publication, `files` what is put, `plan` in which order and what
//! is deleted, `ours` what may be, `record` what is remembered of it, `hold` how no two of one version mix, `verify` the last look, `upload` one
//! file, `api` what a store is asked, `client` one request, `fault` what a refusal means.

mod api;
mod client;
mod depot;
mod fault;
mod fence;
mod files;
mod headers;
mod hold;
mod loops;
mod others;
mod ours;
mod parts;
mod plan;
mod prefix;
mod probe;
mod publish;
mod record;
mod settings;
mod tag;
mod upload;
mod verify;
mod visible;

pub use depot::{S3Depot, S3Target};
pub use fault::{StoreAnswer, StoreFault};
pub use headers::{CacheRule, InvalidCacheRule};
pub use prefix::{BadKey, InvalidPrefix, Prefix};
pub use publish::Uploaded;
pub use settings::{Retry, S3Credentials, S3Settings, S3Tuning};
pub use visible::Visible;
