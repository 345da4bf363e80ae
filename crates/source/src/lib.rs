//! Git in: bare mirrors and read-only checkouts.
//!
//! A source goes through two stages. [`SourceCache::fetch`] brings the wanted commit into a bare *mirror* of the
//! repository, with the `git` program, because only that program speaks every transport; [`SourceCache::checkout`]
//! makes a *checkout* of it from objects that libgit2 reads, which starts no program, runs no hook and applies no filter. A
//! checkout is made once, marked ready last, never changed again, and shared by everyone who needs that commit. Submodules
//! go the same way, each through its own mirror, into the same checkout.
//!
//! Where to look:
//! - [`Paths`] draws the cache on disk;
//! - `mirror` and `git` are the way in, `git_failure` is where git's words become a cause;
//! - `policy` says what may be fetched from, as whom and how much; `session` makes one fetch obey it, with `gateway` (https),
//!   `ssh`, `credentials`, `private` and `limits`; `budget` is what the fetches of a job share; `reach` knows which addresses are closed;
//! - `lfs` brings what a repository keeps in Git LFS, for who asks for it;
//! - `modules` finds submodules and brings them into the cache;
//! - `inventory` lists what is there and removes what nobody uses; `repack` makes one pack of many;
//! - `checkout`, `tree` and `dot_git` are the files, writing them, and the repository that `git log` finds with them;
//! - `worktree` is the writable kind, for one owner;
//! - [`SourceError`] is every cause that a caller can do something about.
//!
//! Invariants:
//! - nothing of the repository executes: no hook, filter, transport helper or configuration of it or of the user;
//! - no address, credential or remote is written into a mirror's configuration or into a checkout;
//! - a process that is killed at any moment leaves a cache that the next one uses or repairs.
//!
//! It refuses names and links of a tree that lead elsewhere, trees without end, submodules that lead from a server to this
//! host, and SHA-256 repositories. Without a word in the policy it does not fetch LFS objects, and tells so as a notice;
//! with it, an object that is not what its pointer promises ends the checkout.

mod activity;
mod budget;
mod cache;
mod checkout;
mod credentials;
mod dot_git;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gateway;
mod git;
mod git_failure;
mod inventory;
mod lfs;
mod limits;
mod local;
mod lock;
mod mirror;
mod modules;
mod objects;
mod origin;
mod paths;
mod policy;
mod private;
mod proxy;
mod reach;
mod refs;
mod repack;
mod session;
mod ssh;
mod status;
mod tracked;
mod tree;
mod worktree;

pub use cache::{Fetched, Progress, SourceCache};
pub use checkout::{Checkout, Submodule};
pub use credentials::{Credential, CredentialRule, SecretRef, UrlPrefix};
pub use error::{Absence, SourceError};
pub use limits::{ReachedLimit, SourceLimits};
pub use paths::{Paths, RepositoryKey};
pub use policy::{HostRule, Refusal, SourcePolicy};
pub use reach::Closed;
pub use status::uncommitted_changes;
pub use tracked::tracked_files;
pub use worktree::Worktree;
