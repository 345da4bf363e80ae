//! SELinux: a job's processes and files have labels of their own, which the host's policy keeps apart from the host's
//! and from those of other jobs.
//!
//! | what | label |
//! |---|---|
//! | every process of a job | `process` of lxc_contexts(5), or the type that the host's owner chose, with two categories |
//! | its root, `/output`, file systems in memory, the pipes of its output | `file`, with the same two |
//! | what all jobs may read: checkouts, files for `/etc` | `ro_file`, without categories |
//!
//! Types are the policy's and never ours. A policy without levels has no categories, and jobs are then only kept apart
//! from the host. Where there is no SELinux one look at a file is all that is done.
//!
//! It refuses a job that would run without a label where SELinux is enforced. The runtimes set the labels, so what they
//! did is read back before the job's first instruction.

mod categories;
mod context;
mod files;
mod output;
mod policy;

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use bryo_model::RuntimeKind;
use bryo_process::find_program;

use crate::{Access, Missing, SandboxError, SandboxSpec};
use categories::Categories;
pub(crate) use context::Context;
pub(crate) use output::{label_output, label_output_main, label_own_output};
use policy::{Mode, Policy};

/// What the host's owner wants of SELinux.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selinux {
    /// Jobs have the labels that the policy has for containers, where there is a policy.
    #[default]
    Auto,
    /// Jobs run in Bryo's own domain.
    Off,
    /// Processes of jobs have this type, and there must be a policy.
    Type(SelinuxType),
}

/// The name of a type in a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelinuxType(String);

/// The longest name that is taken for one.
const LONGEST: usize = 255;

impl FromStr for Selinux {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            name if (1..=LONGEST).contains(&name.len()) && name.chars().all(known) => {
                Ok(Self::Type(SelinuxType(name.to_owned())))
            }
            _ => Err("say auto, off, or the type of a process, for example container_t".to_owned()),
        }
    }
}

impl fmt::Display for Selinux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Type(SelinuxType(name)) => name,
        })
    }
}

/// The labels of one job. No other job has its categories as long as this lives.
#[derive(Debug)]
pub(crate) struct Labels {
    process: Context,
    file: Context,
    shared: Context,
    /// Whether the pipes of its output get the label of its files.
    pipes: bool,
    _categories: Option<Categories>,
}

impl Labels {
    /// Of every process.
    pub(crate) const fn process(&self) -> &Context {
        &self.process
    }

    /// Of what the job may write.
    pub(crate) const fn file(&self) -> &Context {
        &self.file
    }

    /// Of what all jobs may read.
    pub(crate) const fn shared(&self) -> &Context {
        &self.shared
    }

    /// The label that the pipes of its output must be given.
    pub(crate) fn pipes(&self) -> Option<&Context> {
        self.pipes.then_some(&self.file)
    }

    /// Labels what the job sees of the host. A directory that it may write to is fresh and empty.
    pub(crate) fn give(&self, spec: &SandboxSpec) -> Result<(), SandboxError> {
        spec.mounts.iter().try_for_each(|mount| match mount.access {
            Access::ReadOnly => self.share(&mount.host),
            Access::ReadWrite => files::set(&mount.host, &self.file),
        })
    }

    /// Labels a file or tree that all jobs may read, unless it is already.
    pub(crate) fn share(&self, path: &Path) -> Result<(), SandboxError> {
        files::share(path, &self.shared)
    }
}

/// What this host does with jobs.
#[derive(Debug)]
pub(crate) enum Labelling {
    /// There is no SELinux, or the host's owner wants none of it.
    None,
    /// The policy is not enforced, and has no labels for jobs: why.
    Cannot(String),
    /// Jobs get labels.
    Labels(Box<Labels>),
}

/// The labels of a job on this host. `state` is the agent's directory for runtime state.
///
/// # Errors
///
/// [`SandboxError::Host`] when SELinux is enforced and a job could not have them; it says what to do.
pub(crate) fn labels(
    wanted: &Selinux,
    runtime: RuntimeKind,
    state: &Path,
) -> Result<Labelling, SandboxError> {
    labels_by(&Policy::of_this_host(), wanted, runtime, state)
}

fn labels_by(
    policy: &Policy,
    wanted: &Selinux,
    runtime: RuntimeKind,
    state: &Path,
) -> Result<Labelling, SandboxError> {
    let mode = policy.mode();
    let refuse = |missing: Missing| Err(SandboxError::Host(vec![missing]));
    match (mode, wanted) {
        (None, Selinux::Type(SelinuxType(name))) => refuse(Missing::new(
            format!("this host has no SELinux, so no job can have the type {name:?}"),
            "boot with SELinux and a policy, or run with --selinux auto",
        )),
        (None, Selinux::Auto | Selinux::Off) | (Some(_), Selinux::Off) => Ok(Labelling::None),
        (Some(mode), Selinux::Auto | Selinux::Type(_)) => {
            let found = match find(policy, wanted, state)? {
                Ok(labels) if mode == Mode::Enforcing => {
                    check(policy, &labels, runtime).map(|pipes| Labels { pipes, ..labels })
                }
                found => found,
            };
            match found {
                Ok(labels) => Ok(Labelling::Labels(Box::new(labels))),
                Err(missing) if mode == Mode::Enforcing => refuse(missing),
                Err(missing) => Ok(Labelling::Cannot(missing.to_string())),
            }
        }
    }
}

const OFF: &str = "or run jobs in your own domain by --selinux off";

/// What the policy has; errors are those of our own files.
fn find(
    policy: &Policy,
    wanted: &Selinux,
    state: &Path,
) -> Result<Result<Labels, Missing>, SandboxError> {
    let containers = match policy.containers() {
        Ok(containers) => containers,
        Err(why) => {
            return Ok(Err(Missing::new(
                format!("the SELinux policy has no labels for containers ({why})"),
                format!(
                    "install one that has: selinux-policy-default of Debian 13, container-selinux of Fedora, {OFF}"
                ),
            )));
        }
    };
    let own = match policy.own() {
        Ok(own) => own,
        Err(why) => return Ok(Err(Missing::new(why, OFF))),
    };
    let process = match wanted {
        Selinux::Type(SelinuxType(name)) => containers.process.with_kind(name),
        Selinux::Auto | Selinux::Off => containers.process,
    };
    if process.kind() == own.kind() {
        return Ok(Err(Missing::new(
            format!("{} is the domain of Bryo itself", process.kind()),
            format!("give the type of a container, {OFF}"),
        )));
    }
    let mut labels = Labels {
        process,
        file: containers.file,
        shared: containers.shared,
        pipes: false,
        _categories: None,
    };
    if labels.process.level().is_some() {
        let Some(drawn) = Categories::draw(&state.join("selinux"), &own.categories())? else {
            return Ok(Err(Missing::new(
                format!("Bryo's own label {own} has no two categories left that a job could have"),
                format!(
                    "give your login a range of them (semanage login --modify --range s0-s0:c0.c1023 USER), {OFF}"
                ),
            )));
        };
        labels.process = labels.process.with_categories(drawn.pair());
        labels.file = labels.file.with_categories(drawn.pair());
        labels._categories = Some(drawn);
    }
    Ok(Ok(labels))
}

/// Whether the policy lets a job with these labels be started from here. Otherwise it would end with a refusal of which
/// nobody could say whose it was, or run without output.
///
/// Gives whether the pipes of its output need the label of its files: others have it from who made them.
fn check(policy: &Policy, labels: &Labels, runtime: RuntimeKind) -> Result<bool, Missing> {
    let (job, file) = (&labels.process, &labels.file);
    for label in [job, file, &labels.shared] {
        // Who may not ask learns it from the runtime.
        if matches!(policy.knows(label), Ok(false)) {
            return Err(Missing::new(
                format!("the SELinux policy of this host has no label {label}"),
                format!("give a type that seinfo --type shows, {OFF}"),
            ));
        }
    }
    let Ok(own) = policy.own() else {
        return Ok(true);
    };
    let start = |from: &Context, program: &str| {
        let then = find_program(program).and_then(|path| policy.after_exec(from, &path).ok());
        then.unwrap_or_else(|| from.clone())
    };
    let piper = match runtime {
        RuntimeKind::Crun => own,
        RuntimeKind::Podman => start(&start(&own, "podman"), "conmon"),
    };
    let crun = start(&piper, "crun");
    let pipe = ["getattr", "read", "write"];
    let as_they_are = policy.refused(job, &piper, "fifo_file", &pipe);
    let relabel = !as_they_are.is_ok_and(|refused| refused.is_empty());
    let mut needed = vec![
        (&crun, job, "process", &["transition"][..]),
        (
            &crun,
            job,
            "process2",
            &["nnp_transition", "nosuid_transition"],
        ),
        (job, &piper, "fd", &["use"]),
        (job, file, "file", &["entrypoint", "execute", "read"]),
        (job, &labels.shared, "file", &["read", "open"]),
    ];
    if relabel {
        needed.push((&piper, &piper, "fifo_file", &["relabelfrom"]));
        needed.push((&piper, file, "fifo_file", &["relabelto"]));
        needed.push((job, file, "fifo_file", &pipe));
    }
    for (from, to, class, permissions) in needed {
        let refused = policy.refused(from, to, class, permissions);
        if let Ok(refused) = refused
            && !refused.is_empty()
        {
            return Err(Missing::new(
                format!(
                    "the SELinux policy does not allow {} {}:{class} {{ {} }}",
                    from.kind(),
                    to.kind(),
                    refused.join(" ")
                ),
                format!("load Bryo's policy module (semodule --install bryo.cil), {OFF}"),
            ));
        }
    }
    Ok(relabel)
}

/// Labels a tree that will be shared by all jobs, so that what is made in it has the label from the beginning.
///
/// # Errors
///
/// When the kernel refuses.
pub(crate) fn share(wanted: &Selinux, tree: &Path) -> Result<(), SandboxError> {
    let policy = Policy::of_this_host();
    if policy.mode().is_none() || *wanted == Selinux::Off {
        return Ok(());
    }
    // A policy without such labels is told of when there is a job.
    match policy.containers() {
        Ok(containers) => files::share(tree, &containers.shared),
        Err(_) => Ok(()),
    }
}

/// Checks the label that the kernel has for a process: `exec` before the program of the job is started, `current` after.
///
/// # Errors
///
/// A sentence that says what it is instead.
pub(crate) fn read_back(pid: i32, attribute: &str, wanted: &str) -> Result<(), String> {
    let path = format!("/proc/{pid}/attr/{attribute}");
    let text = fs::read_to_string(&path).map_err(|e| format!("could not read {path}: {e}"))?;
    compare(text.trim_end_matches(['\0', '\n']), wanted)
}

fn compare(is: &str, wanted: &str) -> Result<(), String> {
    if is == wanted {
        return Ok(());
    }
    let is = if is.is_empty() { "none" } else { is };
    Err(format!("its SELinux label is {is} instead of {wanted}"))
}

#[cfg(test)]
mod tests;
