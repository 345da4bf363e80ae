//! What every sandbox on this host shares: the user namespace helper and a cgroup to divide.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::crun::{Ahead, CrunRuntime, Stamp};
use crate::{Delegation, Leftover, SandboxError, SubordinateIds, UserNamespace};

/// The crun runtime that the last attempt had, with what tells whether it is still the same program.
type LastCrun = Arc<Mutex<Option<(Stamp, Arc<CrunRuntime>)>>>;

/// The host, made ready for sandboxes. Dropping the last clone ends the helper.
#[derive(Clone, Debug)]
pub struct Host {
    // Before the helper in whose namespaces it is: dropped in this order.
    pub(crate) ahead: Arc<Ahead>,
    /// The crun runtime as the last attempt had it.
    pub(crate) crun: LastCrun,
    pub(crate) userns: Arc<UserNamespace>,
    pub(crate) delegation: Delegation,
}

impl Host {
    /// Finds a cgroup and starts the helper. `keep` are directories that must stay reachable by path for whatever prepares a
    /// job: the cache and the work directory.
    ///
    /// # Errors
    ///
    /// When the host lacks something; the error says what and how to get it.
    pub async fn settle(keep: &[PathBuf]) -> Result<Self, SandboxError> {
        let ids = SubordinateIds::of_this_user()?;
        // In this order: the helper's children put jobs into their cgroups, which the kernel allows only from within what is
        // delegated, and this process may be outside of it before.
        let delegation = Delegation::acquire().await?;
        let userns = UserNamespace::start(&ids, keep).await?;
        Ok(Self::with(userns, delegation, 0))
    }

    /// The same cgroup with another helper, because this one has ended.
    ///
    /// # Errors
    ///
    /// As [`Host::settle`].
    pub async fn renew(&self, keep: &[PathBuf]) -> Result<Self, SandboxError> {
        let ids = SubordinateIds::of_this_user()?;
        let userns = UserNamespace::start(&ids, keep).await?;
        Ok(Self::with(
            userns,
            self.delegation.clone(),
            self.ahead.keep(),
        ))
    }

    fn with(userns: UserNamespace, delegation: Delegation, keep: usize) -> Self {
        Self {
            ahead: Arc::new(Ahead::keeping(keep)),
            crun: Arc::default(),
            userns: Arc::new(userns),
            delegation,
        }
    }

    /// The same host, on which so many namespaces, and so many networks, are made before the attempts that need them are
    /// there. The default is none: for who makes one attempt and ends.
    #[must_use]
    pub fn keeping_ready(self, count: usize) -> Self {
        Self {
            ahead: Arc::new(Ahead::keeping(count)),
            crun: Arc::default(),
            ..self
        }
    }

    /// Ends what was made and nobody took, and waits for the end of what goes on beside attempts. What was not gone then is
    /// returned.
    pub async fn close(&self) -> Vec<Leftover> {
        self.ahead.close().await
    }

    /// The user namespace in which files of jobs are given, taken back and unpacked.
    #[must_use]
    pub fn userns(&self) -> &UserNamespace {
        &self.userns
    }
}
