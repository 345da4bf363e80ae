//! A bucket as a place for output, shared by all attempts of an agent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bryo_model::Amount;
use tokio_util::task::AbortOnDropHandle;

use super::client::Client;
use super::headers::Rules;
use super::loops::{Loops, Threads};
use super::prefix::Prefix;
use super::publish::{Publication, Uploaded};
use super::settings::{S3Settings, S3Tuning};
use super::upload::Memory;
use crate::{DepotError, OutputTree};

/// A bucket, its connections and the bounds on what is under way. Cheap to clone; all clones share them.
#[derive(Clone)]
pub struct S3Depot {
    inner: Arc<Inner>,
    threads: Arc<Threads>,
}

pub(crate) struct Inner {
    pub(crate) client: Arc<Client>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) parallel: usize,
    pub(crate) part_size: u64,
    pub(crate) lease: Duration,
    /// For messages.
    place: String,
}

impl S3Depot {
    /// A depot with these settings and what is usual. Nothing is asked of the store yet.
    ///
    /// # Errors
    ///
    /// As [`S3Depot::tuned`].
    pub fn new(settings: S3Settings) -> Result<Self, DepotError> {
        Self::tuned(settings, S3Tuning::default())
    }

    /// A depot with these settings. Nothing is asked of the store yet.
    ///
    /// # Errors
    ///
    /// [`DepotError::Settings`] with what to change, or what reading the certificates answered.
    #[expect(clippy::needless_pass_by_value, reason = "credentials are handed over")]
    pub fn tuned(settings: S3Settings, tuning: S3Tuning) -> Result<Self, DepotError> {
        let client = Client::new(&settings, &tuning)?;
        let endpoint = settings.endpoint.trim_end_matches('/');
        Ok(Self {
            inner: Arc::new(Inner {
                client: Arc::new(client),
                memory: Arc::new(Memory::new(tuning.memory, tuning.part_size)),
                parallel: settings.parallel.max(1),
                part_size: tuning.part_size,
                lease: tuning.lease,
                place: format!("{endpoint}/{}/", settings.bucket),
                rules: Arc::new(Rules::new(tuning.cache_rules)),
            }),
            threads: Arc::new(Threads::new(tuning.threads)),
        })
    }

    /// The place of one version.
    #[must_use]
    pub fn target(&self, prefix: Prefix) -> S3Target {
        S3Target {
            depot: self.clone(),
            prefix,
        }
    }

    /// Whether the bucket is there and the keys may do what a publication needs, which is tried with a small object: for a
    /// start, and before a job whose result could not be published.
    ///
    /// # Errors
    ///
    /// [`DepotError::Right`] with the right that is missing, [`DepotError::Store`] for anything else.
    pub async fn check(&self) -> Result<(), DepotError> {
        let inner = Arc::clone(&self.inner);
        self.on_threads(|_| async move { inner.client.probe().await })
            .await
    }

    async fn on_threads<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Arc<Loops>) -> F,
    ) -> Result<T, DepotError>
    where
        F: Future<Output = Result<T, DepotError>> + Send + 'static,
    {
        let loops = self.threads.get();
        let loops = loops.map_err(|e| DepotError::io("start the threads of", "bryo-s3", e))?;
        let task = loops.next().spawn(work(Arc::clone(&loops)));
        let done = AbortOnDropHandle::new(task).await;
        loops.keep();
        done.map_err(|_| DepotError::Lost)?
    }
}

impl fmt::Debug for S3Depot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3Depot").field(&self.inner.place).finish()
    }
}

/// Where one version of one project is published.
#[derive(Clone, Debug)]
pub struct S3Target {
    depot: S3Depot,
    prefix: Prefix,
}

impl S3Target {
    /// The place, for a message: endpoint, bucket and prefix.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}{}", self.depot.inner.place, self.prefix)
    }

    /// Below which prefix.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Makes `tree` what lies below the prefix. When `stop` ends first, what is under way is given up; a caller that drops
    /// the future gives it up as well, and leaves uploads in parts to the next publication. `progress` is called on a
    /// thread of the depot's.
    ///
    /// # Errors
    ///
    /// [`DepotError::Key`] and [`DepotError::Overlap`] before anything is changed; [`DepotError::Stopped`],
    /// [`DepotError::Changed`], [`DepotError::Overtaken`], [`DepotError::Disturbed`], [`DepotError::Store`] and what the file system answered at any
    /// time, inside [`DepotError::Unfinished`] if readers may see something else than before.
    pub async fn publish(
        &self,
        tree: OutputTree,
        progress: Arc<dyn Fn(Amount) + Send + Sync>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Uploaded, DepotError> {
        let publication = |loops| Publication {
            inner: Arc::clone(&self.depot.inner),
            loops,
            prefix: self.prefix.clone(),
            tree: Arc::new(tree),
            progress,
        };
        self.depot
            .on_threads(|loops| publication(loops).run(stop))
            .await
    }
}
