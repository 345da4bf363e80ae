//! What every sandbox on this host shares: the user namespace helper and a cgroup to divide.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{Delegation, SandboxError, SubordinateIds, UserNamespace};

/// The host, made ready for sandboxes. Dropping the last clone ends the helper.
#[derive(Clone, Debug)]
pub struct Host {
    pub(crate) userns: Arc<UserNamespace>,
    pub(crate) delegation: Delegation,
}

impl Host {
    /// Starts the helper and finds a cgroup, both at once. `keep` are directories that must stay reachable by path for
    /// whatever prepares a job: the cache and the work directory.
    ///
    /// # Errors
    ///
    /// When the host lacks something; the error says what and how to get it.
    pub async fn settle(keep: &[PathBuf]) -> Result<Self, SandboxError> {
        let ids = SubordinateIds::of_this_user()?;
        let (userns, delegation) =
            tokio::join!(UserNamespace::start(&ids, keep), Delegation::acquire());
        Ok(Self {
            userns: Arc::new(userns?),
            delegation: delegation?,
        })
    }

    /// The same cgroup with another helper, because this one has ended.
    ///
    /// # Errors
    ///
    /// As [`Host::settle`].
    pub async fn renew(&self, keep: &[PathBuf]) -> Result<Self, SandboxError> {
        let ids = SubordinateIds::of_this_user()?;
        Ok(Self {
            userns: Arc::new(UserNamespace::start(&ids, keep).await?),
            delegation: self.delegation.clone(),
        })
    }

    /// The user namespace in which files of jobs are given, taken back and unpacked.
    #[must_use]
    pub fn userns(&self) -> &UserNamespace {
        &self.userns
    }
}
