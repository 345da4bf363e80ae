//! The bound on what a job has on disk.
//!
//! A project quota would be exact and free, and needs root to set up; so the job is watched instead. Walking its files
//! costs time in proportion to their number, hence two questions of different price: what the whole file system has in use
//! is one system call, asked often; the job's own files are walked when that has grown by what the job has left, and else
//! rarely, so that the walks take a twentieth of one processor at most. Where others write to the same disk, and so give
//! reasons that are none, it may be half of one: see [`pace`]. Growth between two looks is not prevented: a bound is passed by
//! what the disk writes in that time, and the job is then killed.

mod pace;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bryo_model::{Limits, ResourceLimit};
use nix::sys::statvfs::statvfs;
use tokio::time::Instant;

use self::pace::{Grown, Pace, Reason};
use crate::SandboxError;
use crate::cgroup::processes;
use crate::userns::{OnDisk, UserNamespace, nameless_in};

/// How often the file systems are asked what is in use.
const GLANCE: Duration = Duration::from_millis(50);

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
    glances: Vec<Glance>,
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
        let mut pace = Pace::begin();
        loop {
            tokio::time::sleep(GLANCE).await;
            let reason = self.reason();
            if !pace.is_due(reason) {
                continue;
            }
            let since = Instant::now();
            if let Some(limit) = self.look().await? {
                return Ok(limit);
            }
            pace.walked(since, reason);
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
        has.bytes = has.bytes.saturating_add(self.held_elsewhere().await?);
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

    /// What processes hold open without a name whose user namespace is not made from the helper's. That namespace goes with
    /// the job, and then nothing is held.
    async fn held_elsewhere(&self) -> Result<u64, SandboxError> {
        let Some(namespace) = &self.elsewhere else {
            return Ok(0);
        };
        let living = processes(&self.cgroup);
        if living.is_empty() {
            return Ok(0);
        }
        match nameless_in(namespace, &living, &self.dirs).await {
            Err(_) if !namespace.exists() => Ok(0),
            held => held,
        }
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
    fn reason(&self) -> Reason {
        let left = OnDisk {
            bytes: self.most.bytes.saturating_sub(self.last.bytes),
            files: self.most.files.saturating_sub(self.last.files),
        };
        let now = self.glance();
        let grown = |(now, then): (&Glance, &Glance)| Grown {
            by: OnDisk {
                bytes: now.used.bytes.saturating_sub(then.used.bytes),
                files: now.used.files.saturating_sub(then.used.files),
            },
            free: now.free,
        };
        let all: Vec<_> = now.iter().zip(&self.glances).map(grown).collect();
        Reason::of(&all, left)
    }

    fn glance(&self) -> Vec<Glance> {
        self.volumes.iter().map(|dir| Glance::at(dir)).collect()
    }
}

/// What one file system says of itself.
#[derive(Clone, Copy, Debug, Default)]
struct Glance {
    used: OnDisk,
    /// For an ordinary user.
    free: OnDisk,
}

impl Glance {
    fn at(dir: &Path) -> Self {
        statvfs(dir).map_or(Self::default(), |s| Self {
            used: OnDisk {
                bytes: s.blocks().saturating_sub(s.blocks_free()) * s.fragment_size(),
                files: s.files().saturating_sub(s.files_free()),
            },
            free: OnDisk {
                bytes: s.blocks_available() * s.fragment_size(),
                files: s.files_available(),
            },
        })
    }
}

/// One directory for each file system.
fn volumes(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    // A directory may lie beneath one that belongs to the job's ids; the nearest that can be looked at is on the same disk.
    let near = |dir: &PathBuf| dir.ancestors().find(|dir| dir.is_dir()).map(Path::to_owned);
    dirs.iter()
        .filter_map(near)
        .filter(|dir| fs::metadata(dir).is_ok_and(|meta| seen.insert(meta.dev())))
        .collect()
}
