//! Limits as files of the kernel: what is written, and what must be read back.
//!
//! See <https://docs.kernel.org/admin-guide/cgroup-v2.html>.

use std::fs;
use std::path::Path;

use bryo_model::{ByteSize, Cpus, LimitPolicy, Limits, LimitsInForce, Weight};
use nix::unistd::{SysconfVar, sysconf};

use super::disks::Disk;
use crate::SandboxError;

/// The period of `cpu.max`, in microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// The limits that can be enforced here.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) memory: Option<u64>,
    pub(super) memory_high: Option<u64>,
    pub(super) pids: Option<u32>,
    pub(super) cpu: Option<Cpus>,
    pub(super) cpu_weight: Option<Weight>,
    pub(super) io_read: Option<ByteSize>,
    pub(super) io_write: Option<ByteSize>,
    disks: Vec<Disk>,
    unlimited: Vec<String>,
    /// Whether the kernel ends everything in the cgroup when it is out of memory.
    whole: bool,
}

/// One line of one file.
struct Setting {
    limit: &'static str,
    file: &'static str,
    write: String,
    read: String,
}

impl Wanted {
    /// # Errors
    ///
    /// When a limit cannot be enforced and the policy does not allow to go without it. `has` tells which controllers there
    /// are, `at` is a directory on each file system that the job writes to.
    pub(super) fn new(
        limits: &Limits,
        policy: LimitPolicy,
        has: impl Fn(&str) -> bool,
        at: &[&Path],
    ) -> Result<Self, SandboxError> {
        let mut wanted = Self {
            // The kernel counts memory in pages; what it would round must not look like a refusal.
            memory: limits.memory.map(whole_pages),
            memory_high: limits.memory_high.map(whole_pages),
            pids: limits.pids,
            cpu: limits.cpus,
            cpu_weight: limits.cpu_weight,
            io_read: limits.io_read,
            io_write: limits.io_write,
            whole: true,
            ..Self::default()
        };
        for controller in ["memory", "pids", "cpu", "io"] {
            let names = wanted.asked_of(controller);
            if names.is_empty() {
                continue;
            }
            let refusal = match (controller, has(controller)) {
                (_, false) => Some((
                    format!("the cgroup controller {controller} is not delegated to this user"),
                    "delegate it: sudo systemctl edit user@.service, add [Service] \
                     Delegate=cpu cpuset io memory pids, then log in again"
                        .to_owned(),
                )),
                ("io", true) => match at.iter().map(|dir| Disk::under(dir)).collect() {
                    Ok(disks) => {
                        wanted.disks = disks;
                        wanted.disks.sort_unstable();
                        wanted.disks.dedup();
                        None
                    }
                    Err(why) => Some((why, "choose a --work-dir on a disk".to_owned())),
                },
                (_, true) => None,
            };
            let Some((why, fix)) = refusal else { continue };
            if policy == LimitPolicy::Enforce {
                return Err(SandboxError::Limit {
                    limit: names[0],
                    why,
                    fix,
                });
            }
            wanted
                .unlimited
                .extend(names.into_iter().map(str::to_owned));
            wanted.give_up(controller);
        }
        Ok(wanted)
    }

    /// What was asked for and is not here.
    pub(super) fn without(&self) -> LimitsInForce {
        LimitsInForce {
            unlimited: self.unlimited.clone(),
            ..LimitsInForce::default()
        }
    }

    /// Writes them to a cgroup of ours.
    pub(super) fn write(&self, dir: &Path) -> Result<(), SandboxError> {
        for setting in self.settings(dir) {
            let path = dir.join(setting.file);
            fs::write(&path, &setting.write).map_err(SandboxError::file("write", path))?;
        }
        Ok(())
    }

    /// The limits of a cgroup in which podman's conmon is too: the kernel must not end it with the job, so that is left to
    /// the container's own cgroup.
    pub(super) fn with_conmon(self) -> Self {
        Self {
            whole: false,
            ..self
        }
    }

    /// Writes those that systemd names by a path; it leaves the file alone.
    pub(super) fn write_beside_systemd(&self, dir: &Path) -> Result<(), SandboxError> {
        for setting in self.settings(dir) {
            if setting.file == "io.max" {
                let path = dir.join(setting.file);
                fs::write(&path, &setting.write).map_err(SandboxError::file("write", path))?;
            }
        }
        Ok(())
    }

    /// Compares what the kernel shows with what was written; only that is reported.
    pub(super) fn read_back(&self, dir: &Path) -> Result<LimitsInForce, SandboxError> {
        for setting in self.settings(dir) {
            let path = dir.join(setting.file);
            let read = fs::read_to_string(&path).map_err(SandboxError::file("read", path))?;
            if !read.lines().any(|line| line.trim() == setting.read) {
                return Err(SandboxError::ReadBack {
                    limit: setting.limit,
                    wrote: setting.read,
                    read: read.trim().to_owned(),
                });
            }
        }
        Ok(LimitsInForce {
            memory: self.memory.map(ByteSize::new),
            swap: self
                .memory
                .filter(|_| has_swap(dir))
                .map(|_| ByteSize::new(0)),
            memory_high: self.memory_high.map(ByteSize::new),
            cpus: self.cpu,
            cpu_weight: self.cpu_weight,
            pids: self.pids,
            io_read: self.io_read,
            io_write: self.io_write,
            ..self.without()
        })
    }

    fn settings(&self, dir: &Path) -> Vec<Setting> {
        let mut all = Vec::new();
        let mut set = |limit, file, value: String| {
            all.push(Setting {
                limit,
                file,
                read: value.clone(),
                write: value,
            });
        };
        if let Some(bytes) = self.memory {
            set("memory", "memory.max", bytes.to_string());
            // A kernel without swap accounting has no such file, and then no swap to bound by job.
            if has_swap(dir) {
                set("swap", "memory.swap.max", "0".to_owned());
            }
            if self.whole {
                // Half a build is no build: the kernel ends all of it or none.
                set("memory", "memory.oom.group", "1".to_owned());
            }
        }
        if let Some(bytes) = self.memory_high {
            set("memory high", "memory.high", bytes.to_string());
        }
        if let Some(most) = self.pids {
            set("pids", "pids.max", most.to_string());
        }
        if let Some(cpus) = self.cpu {
            set("cpu", "cpu.max", cpu_max(cpus));
        }
        if let Some(weight) = self.cpu_weight {
            set("cpu weight", "cpu.weight", weight.get().to_string());
        }
        let rate =
            |size: Option<ByteSize>| size.map_or("max".to_owned(), |s| s.bytes().to_string());
        for disk in &self.disks {
            let line = format!(
                "{disk} rbps={} wbps={}",
                rate(self.io_read),
                rate(self.io_write)
            );
            all.push(Setting {
                limit: "io",
                file: "io.max",
                read: format!("{line} riops=max wiops=max"),
                write: line,
            });
        }
        all
    }

    /// The limits of this controller that are wanted, by the names they have for people.
    fn asked_of(&self, controller: &str) -> Vec<&'static str> {
        let all = match controller {
            "memory" => vec![
                ("memory", self.memory.is_some()),
                ("memory high", self.memory_high.is_some()),
            ],
            "pids" => vec![("pids", self.pids.is_some())],
            "cpu" => vec![
                ("cpus", self.cpu.is_some()),
                ("cpu weight", self.cpu_weight.is_some()),
            ],
            _ => vec![
                ("io read", self.io_read.is_some()),
                ("io write", self.io_write.is_some()),
            ],
        };
        all.into_iter()
            .filter_map(|(name, asked)| asked.then_some(name))
            .collect()
    }

    fn give_up(&mut self, controller: &str) {
        match controller {
            "memory" => (self.memory, self.memory_high) = (None, None),
            "pids" => self.pids = None,
            "cpu" => (self.cpu, self.cpu_weight) = (None, None),
            _ => {
                (self.io_read, self.io_write) = (None, None);
                self.disks.clear();
            }
        }
    }
}

fn has_swap(dir: &Path) -> bool {
    dir.join("memory.swap.max").exists()
}

fn whole_pages(size: ByteSize) -> u64 {
    let page = sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|n| u64::try_from(n).ok())
        .unwrap_or(4096);
    (size.bytes() / page).max(1) * page
}

fn cpu_max(cpus: Cpus) -> String {
    format!(
        "{} {CPU_PERIOD}",
        u64::from(cpus.millis()) * CPU_PERIOD / 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            memory: Some(ByteSize::new((64 << 20) + 1)),
            memory_high: Some(ByteSize::new(32 << 20)),
            pids: Some(50),
            cpus: Some("0.5".parse().unwrap()),
            cpu_weight: Some("20".parse().unwrap()),
            ..Limits::default()
        }
    }

    /// A directory that answers like a cgroup whose files take everything.
    fn files(dir: &Path) {
        fs::write(dir.join("memory.swap.max"), "max").unwrap();
    }

    #[test]
    fn what_is_written_is_what_is_read_back_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        files(dir.path());
        let wanted = Wanted::new(&limits(), LimitPolicy::Enforce, |_| true, &[]).unwrap();
        wanted.write(dir.path()).unwrap();
        let text = |file| fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!(text("memory.max"), (64 << 20).to_string());
        assert_eq!(text("memory.swap.max"), "0");
        assert_eq!(text("memory.high"), (32 << 20).to_string());
        assert_eq!(text("memory.oom.group"), "1");
        assert_eq!(text("pids.max"), "50");
        assert_eq!(text("cpu.max"), "50000 100000");
        assert_eq!(text("cpu.weight"), "20");
        let force = wanted.read_back(dir.path()).unwrap();
        assert_eq!(force.memory, Some(ByteSize::new(64 << 20)));
        assert_eq!(force.swap, Some(ByteSize::new(0)));
        assert_eq!((force.pids, force.unlimited.len()), (Some(50), 0));
    }

    #[test]
    fn a_kernel_that_shows_something_else_is_an_error_for_each_file() {
        let files_of = [
            "memory.max",
            "memory.swap.max",
            "memory.high",
            "pids.max",
            "cpu.max",
            "cpu.weight",
        ];
        for file in files_of {
            let dir = tempfile::tempdir().unwrap();
            files(dir.path());
            let wanted = Wanted::new(&limits(), LimitPolicy::Enforce, |_| true, &[]).unwrap();
            wanted.write(dir.path()).unwrap();
            fs::write(dir.path().join(file), "max").unwrap();
            let error = wanted.read_back(dir.path()).unwrap_err();
            assert!(
                matches!(error, SandboxError::ReadBack { .. }),
                "{file}: {error}"
            );
        }
    }

    #[test]
    fn a_missing_controller_is_refused_by_name_or_left_out_by_choice() {
        for (missing, names) in [
            ("memory", &["memory", "memory high"][..]),
            ("pids", &["pids"]),
            ("cpu", &["cpus", "cpu weight"]),
        ] {
            let has = |controller: &str| controller != missing;
            let error = Wanted::new(&limits(), LimitPolicy::Enforce, has, &[]).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains(names[0]) && text.contains("Delegate="),
                "{text}"
            );
            let left = Wanted::new(&limits(), LimitPolicy::AllowUnlimited, has, &[]).unwrap();
            assert_eq!(left.without().unlimited, names);
        }
    }
}
