//! Container images in: resolved, verified, unpacked into a content-addressed store.
//!
//! [`ImageStore::resolve`] turns what a job calls its image into an [`Image`] whose every byte is in the store and was
//! checked against a digest; [`ImageStore::unpack`] turns that into [`Layers`], directories to be stacked by an overlay
//! mount. Both find what is already there without touching the network or reading an archive again.
//!
//! It refuses to unpack into its own process: layers are hostile input and their files belong to subordinate ids, so a
//! [`Program`](bryo_process::Program) from the caller does that inside a user namespace. What runs there is
//! [`unpack_layer_main`].
//!
//! Invariants:
//! - nothing has a name in the store before it was verified: everything is made in `tmp/` and renamed last;
//! - every blob is checked against digest and size when it comes in, every layer against its `diff_id` when unpacked;
//! - unpacking cannot leave its root, whatever a layer's names and links say;
//! - no credential is ever an argument of a program.
//!
//! Where to look: `paths` draws the store; `pull` brings images in, one module per form; `unpack` is the caller's side
//! of unpacking and `layer` the side in the namespace; `inventory` lists
//! what is there and removes what nobody uses.

mod blobs;
mod blocking;
mod config;
mod digest;
mod error;
mod export;
mod image;
mod import;
mod inventory;
mod layer;
mod lock;
mod manifest;
mod paths;
mod platform;
mod pull;
mod record;
mod scratch;
mod store;
mod unpack;
mod user;

#[cfg(test)]
mod tests;

pub use config::ImageConfig;
pub use digest::{Digest, InvalidDigest};
pub use error::{Fault, ImageError};
pub use image::{Compression, Image, LayerRef};
pub use layer::unpack_layer_main;
pub use store::{ImageStore, Progress, PullOptions};
pub use unpack::{Layers, MAX_LAYERS};
pub use user::{ContainerUser, MAX_CONTAINER_ID};
