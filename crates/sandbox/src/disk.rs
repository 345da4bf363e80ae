//! The bound on what a job has on disk.
//!
//! A project quota would be exact and free, and needs root to set up; so the job is watched instead. Walking its files
//! costs time in proportion to their number, hence two questions of different price: what the whole file system has in use
//! is one system call, asked often; the job's own files are walked when that has grown by what the job has left, and else
//! rarely, so that the walks take a twentieth of one processor at most. Growth between two looks is not prevented: a bound
//! is passed by what the disk writes in that time, and the job is then killed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bryo_model::{Limits, ResourceLimit};
use nix::sys::statvfs::statvfs;
use tokio::time::Instant;

use crate::SandboxError;
use crate::cgroup::processes;
use crate::userns::{OnDisk, UserNamespace, nameless_in};

/// How often the file systems are asked what is in use.
const GLANCE: Duration = Duration::from_millis(50);

/// How often the job's files are walked at most, without a reason.
const WALK: Duration = Duration::from_secs(2);

/// So much longer than a walk took, nothing is walked without a reason.
const REST: u32 = 20;

/// Watches what one job has on disk.
#[derive(Debug)]
pub struct DiskWatch {
    userns: Arc<UserNamespace>,
    dirs: Vec<PathBuf>,
    most: OnDisk,
    /// What the directories held before the job.
    before: OnDisk,
    peak: OnDisk,
    last: OnDisk,
    cgroup: PathBuf,
    /// The user namespace that the job's is made from, where that is not the helper's.
    elsewhere: Option<PathBuf>,
    volumes: Vec<PathBuf>,
    glances: Vec<u64>,
}

impl DiskWatch {
    /// A watch over directories in which nothing is the job's yet.
    pub(crate) async fn begin(
        userns: Arc<UserNamespace>,
        dirs: Vec<PathBuf>,
        cgroup: PathBuf,
        elsewhere: Option<PathBuf>,
        limits: &Limits,
    ) -> Result<Self, SandboxError> {
        let before = userns.measure(&dirs, &[], OnDisk::UNCOUNTABLE).await?;
        let most = OnDisk {
            bytes: limits
                .disk
                .map_or(u64::MAX, |d| d.bytes().saturating_add(before.bytes)),
            files: limits
                .disk_files
                .map_or(u64::MAX, |n| n.saturating_add(before.files)),
        };
        let mut watch = Self {
            userns,
            glances: Vec::new(),
            volumes: volumes(&dirs),
            cgroup,
            elsewhere,
            dirs,
            most,
            before,
            peak: before,
            last: before,
        };
        watch.glances = watch.glance();
        Ok(watch)
    }

    /// Waits until the job has more than it may. Safe to drop.
    ///
    /// # Errors
    ///
    /// When its files cannot be measured.
    pub async fn over(&mut self) -> Result<ResourceLimit, SandboxError> {
        let mut walked = Instant::now();
        let mut rest = WALK;
        loop {
            tokio::time::sleep(GLANCE).await;
            if !self.may_be_over() && walked.elapsed() < rest {
                continue;
            }
            let since = Instant::now();
            if let Some(limit) = self.look().await? {
                return Ok(limit);
            }
            walked = Instant::now();
            rest = (since.elapsed() * REST).max(WALK);
        }
    }

    /// Walks the job's files. Says which bound they are over, if they are.
    ///
    /// # Errors
    ///
    /// When they cannot be measured.
    pub async fn look(&mut self) -> Result<Option<ResourceLimit>, SandboxError> {
        let glances = self.glance();
        let own = match self.elsewhere {
            None => processes(&self.cgroup),
            Some(_) => Vec::new(),
        };
        let mut has = self.userns.measure(&self.dirs, &own, self.most).await?;
        if let Some(namespace) = &self.elsewhere {
            let held = nameless_in(namespace, &processes(&self.cgroup), &self.dirs).await?;
            has.bytes = has.bytes.saturating_add(held);
        }
        self.last = has;
        self.glances = glances;
        if has != OnDisk::UNCOUNTABLE {
            self.peak.bytes = self.peak.bytes.max(has.bytes);
            self.peak.files = self.peak.files.max(has.files);
        }
        Ok(match has {
            has if has.bytes > self.most.bytes => Some(ResourceLimit::Disk),
            has if has.files > self.most.files => Some(ResourceLimit::DiskFiles),
            _ => None,
        })
    }

    /// The most bytes and files that the job was seen to have.
    #[must_use]
    pub fn peak(&self) -> (u64, u64) {
        let of_job = |peak: u64, before: u64| peak.saturating_sub(before);
        (
            of_job(self.peak.bytes, self.before.bytes),
            of_job(self.peak.files, self.before.files),
        )
    }

    /// Whether the file systems have grown by what the job had left when its files were walked last.
    fn may_be_over(&self) -> bool {
        let left = self.most.bytes.saturating_sub(self.last.bytes);
        let grown: u64 = self
            .glance()
            .iter()
            .zip(&self.glances)
            .map(|(now, then)| now.saturating_sub(*then))
            .sum();
        grown > left
    }

    /// Bytes in use on each of the file systems.
    fn glance(&self) -> Vec<u64> {
        self.volumes.iter().map(|dir| in_use(dir)).collect()
    }
}

/// One directory for each file system.
fn volumes(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    dirs.iter()
        .filter(|dir| fs::metadata(dir).is_ok_and(|meta| seen.insert(meta.dev())))
        .cloned()
        .collect()
}

fn in_use(dir: &Path) -> u64 {
    statvfs(dir).map_or(0, |s| {
        s.blocks().saturating_sub(s.blocks_free()) * s.fragment_size()
    })
}
