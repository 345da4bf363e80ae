//! What this host's SELinux policy says: which labels containers have, and what may be done with them.
//!
//! ```text
//! /sys/fs/selinux/enforce                     whether the policy is enforced; not there: no SELinux
//! /sys/fs/selinux/{context,create,access}     questions to the policy that the kernel has loaded
//! /sys/fs/selinux/class/<class>/              numbers of classes and permissions, for these questions
//! /etc/selinux/config                         the name of the policy
//! /etc/selinux/<name>/contexts/lxc_contexts   the labels of containers, lxc_contexts(5)
//! ```

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::Context;
use super::files;

/// The kernel answers within one page.
const ANSWER: usize = 4096;

/// What a policy has for containers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContainerLabels {
    /// Of processes.
    pub(super) process: Context,
    /// Of what a container may write.
    pub(super) file: Context,
    /// Of what all containers may read.
    pub(super) shared: Context,
}

/// Where a policy is found.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) kernel: PathBuf,
    pub(super) etc: PathBuf,
    /// `/proc/self/attr`.
    pub(super) own: PathBuf,
}

/// What the kernel does with what a policy does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It forbids it.
    Enforcing,
    /// It writes it down.
    Permissive,
}

impl Policy {
    pub(super) fn of_this_host() -> Self {
        Self {
            kernel: PathBuf::from("/sys/fs/selinux"),
            etc: PathBuf::from("/etc/selinux"),
            own: PathBuf::from("/proc/self/attr"),
        }
    }

    /// `None` where there is no SELinux.
    pub(super) fn mode(&self) -> Option<Mode> {
        match fs::read(self.kernel.join("enforce")) {
            Ok(text) if text.starts_with(b"0") => Some(Mode::Permissive),
            Ok(_) => Some(Mode::Enforcing),
            // One that we may not read is there all the same.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Some(Mode::Enforcing),
            Err(_) => None,
        }
    }

    /// Our own label.
    pub(super) fn own(&self) -> Result<Context, String> {
        let path = self.own.join("current");
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        text.parse()
            .map_err(|()| format!("Bryo's own label is {text:?}, which is none of SELinux"))
    }

    /// The labels of containers.
    pub(super) fn containers(&self) -> Result<ContainerLabels, String> {
        let read =
            |path: &Path| fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
        let config = read(&self.etc.join("config"))?;
        let name = value(&config, "SELINUXTYPE").ok_or("/etc/selinux/config names no policy")?;
        let path = self.etc.join(name).join("contexts/lxc_contexts");
        let text = read(&path)?;
        let label = |key: &str| -> Result<Context, String> {
            let found = value(&text, key).and_then(|label| label.parse().ok());
            found.ok_or_else(|| format!("{} has no {key}", path.display()))
        };
        let file = label("file")?;
        Ok(ContainerLabels {
            process: label("process")?,
            // Policies before 2017 have none.
            shared: label("ro_file").unwrap_or_else(|_| file.clone()),
            file,
        })
    }

    /// Whether the policy has this label.
    pub(super) fn knows(&self, label: &Context) -> io::Result<bool> {
        match self.ask("context", &label.to_string()) {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(nix::libc::EINVAL) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// What a process is when one with the label `from` starts this program.
    pub(super) fn after_exec(&self, from: &Context, program: &Path) -> io::Result<Context> {
        let Some(file) = files::label_of(program)? else {
            return Ok(from.clone());
        };
        let class = self.class("process")?;
        let answer = self.ask("create", &format!("{from} {file} {class}"))?;
        answer.parse().map_err(|()| unreadable(&answer))
    }

    /// Which of these permissions the policy does not give to `from` over what is `to`.
    pub(super) fn refused<'a>(
        &self,
        from: &Context,
        to: &Context,
        class: &str,
        permissions: &[&'a str],
    ) -> io::Result<Vec<&'a str>> {
        let question = format!("{from} {to} {} ffffffff", self.class(class)?);
        let answer = self.ask("access", &question)?;
        let allowed = answer.split_whitespace().next();
        let allowed = allowed.and_then(|bits| u32::from_str_radix(bits, 16).ok());
        let allowed = allowed.ok_or_else(|| unreadable(&answer))?;
        let mut refused = Vec::new();
        for permission in permissions {
            let number = self.number(&format!("class/{class}/perms/{permission}"))?;
            let bit = number.checked_sub(1).and_then(|n| 1_u32.checked_shl(n));
            if bit.is_none_or(|bit| allowed & bit == 0) {
                refused.push(*permission);
            }
        }
        Ok(refused)
    }

    fn class(&self, name: &str) -> io::Result<u32> {
        self.number(&format!("class/{name}/index"))
    }

    fn number(&self, file: &str) -> io::Result<u32> {
        let text = fs::read_to_string(self.kernel.join(file))?;
        text.trim().parse().map_err(|_| unreadable(&text))
    }

    /// One question is one write, its answer one read of the same open file.
    fn ask(&self, file: &str, question: &str) -> io::Result<String> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.kernel.join(file))?;
        file.write_all(question.as_bytes())?;
        let mut answer = vec![0; ANSWER];
        let length = file.read(&mut answer)?;
        answer.truncate(length);
        String::from_utf8(answer).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

fn unreadable(answer: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("SELinux answered {answer:?}"),
    )
}

/// The value of a line `key = "value"` or `key=value`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LXC_CONTEXTS: &str = "process = \"system_u:system_r:container_t:s0\"\n\
        content = \"system_u:object_r:virt_var_lib_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n\
        ro_file=\"system_u:object_r:container_ro_file_t:s0\"\n";

    fn policy(lxc_contexts: &str) -> (tempfile::TempDir, Policy) {
        let dir = tempfile::tempdir().unwrap();
        let contexts = dir.path().join("etc/default/contexts");
        fs::create_dir_all(&contexts).unwrap();
        let config = "# SELINUXTYPE=mls\nSELINUX=enforcing\nSELINUXTYPE=default\n";
        fs::write(dir.path().join("etc/config"), config).unwrap();
        fs::write(contexts.join("lxc_contexts"), lxc_contexts).unwrap();
        let policy = Policy {
            kernel: dir.path().join("kernel"),
            etc: dir.path().join("etc"),
            own: dir.path().join("own"),
        };
        (dir, policy)
    }

    #[test]
    fn the_labels_of_containers() {
        let (_dir, host) = policy(LXC_CONTEXTS);
        let labels = host.containers().unwrap();
        assert_eq!(labels.process.kind(), "container_t");
        assert_eq!(labels.file.kind(), "container_file_t");
        assert_eq!(labels.shared.kind(), "container_ro_file_t");
        let (_dir, old) = policy(&LXC_CONTEXTS.replace("ro_file", "other"));
        assert_eq!(old.containers().unwrap().shared.kind(), "container_file_t");
        for (lacks, why) in [("process", "has no process"), ("file =", "has no file")] {
            let (_dir, host) = policy(&LXC_CONTEXTS.replace(lacks, "other"));
            let error = host.containers().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn modes() {
        let (_dir, host) = policy("");
        assert_eq!(host.mode(), None);
        fs::create_dir(&host.kernel).unwrap();
        for (text, mode) in [("1", Mode::Enforcing), ("0", Mode::Permissive)] {
            fs::write(host.kernel.join("enforce"), text).unwrap();
            assert_eq!(host.mode(), Some(mode));
        }
    }

    #[test]
    fn our_own_label() {
        let (_dir, host) = policy("");
        fs::create_dir(&host.own).unwrap();
        let current = host.own.join("current");
        fs::write(&current, "u:r:unconfined_t:s0\0").unwrap();
        assert_eq!(host.own().unwrap().kind(), "unconfined_t");
        fs::write(&current, "kernel\0").unwrap();
        assert!(host.own().unwrap_err().contains("none of SELinux"));
    }
}
