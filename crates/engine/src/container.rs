//! The container contract: how a job, an image and a checkout become the recipe of a sandbox.
//!
//! - the source is read-only at `/repo`, with a `.git` in which `git log` works;
//! - `/output` is writable;
//! - the image's entrypoint and command run, or the job's command instead of both;
//! - it starts in the sub-directory of the job, else in the image's working directory, else in `/repo`.

use std::iter::once;
use std::path::{Path, PathBuf};
use std::{fs, io};

use bryo_image::{Image, ImageConfig};
use bryo_model::{ContainerName, Failure, JobSpec};
use bryo_sandbox::{Access, Mount, Network, Root, SandboxSpec, Selinux};
use bryo_source::{Checkout, Submodule};

use crate::outside;
use crate::settings::NetworkSettings;

/// Where the job finds its source.
const REPO: &str = "/repo";
/// Where the job leaves its result.
const OUTPUT: &str = "/output";
/// For images that name none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the recipe is made from.
pub(crate) struct Parts<'a> {
    pub(crate) job: &'a JobSpec,
    pub(crate) network: Network,
    pub(crate) outside: &'a NetworkSettings,
    pub(crate) apparmor: Option<String>,
    pub(crate) selinux: Selinux,
    pub(crate) checkout: &'a Checkout,
    pub(crate) image: &'a Image,
    pub(crate) root: Root,
    pub(crate) home: Option<&'a str>,
    pub(crate) output: PathBuf,
    pub(crate) work: &'a Path,
}

/// Gives the attempt a name of its own for the branches and tags of its checkout.
///
/// Another attempt's fetch may replace the mirror's file at any moment, and the kernel mounts no file whose last name is gone.
pub(crate) fn keep_refs(checkout: &Checkout, work: &Path) -> io::Result<()> {
    let (from, to) = (checkout.refs(), refs(work));
    // A copy where the cache is on another file system.
    fs::hard_link(from, &to).or_else(|_| fs::copy(from, &to).map(drop))
}

fn refs(work: &Path) -> PathBuf {
    work.join("refs")
}

/// The recipe. [`keep_refs`] comes first.
pub(crate) fn recipe(parts: Parts<'_>) -> Result<SandboxSpec, Failure> {
    let config = parts.image.config();
    Ok(SandboxSpec {
        name: ContainerName::of(parts.job.id),
        args: args(parts.job, config)?,
        env: env(
            parts.job,
            config,
            parts.outside,
            parts.home,
            parts.checkout.submodules(),
        ),
        cwd: cwd(parts.job, config),
        mounts: mounts(&parts),
        network: parts.network,
        read_only_root: parts.job.read_only_root,
        apparmor: parts.apparmor,
        selinux: parts.selinux,
        limits: parts.job.limits.clone(),
        limit_policy: parts.job.limit_policy,
        work: parts.work.to_owned(),
        root: parts.root,
    })
}

fn args(job: &JobSpec, config: &ImageConfig) -> Result<Vec<String>, Failure> {
    let args = if job.command.is_empty() {
        [config.entrypoint(), config.cmd()].concat()
    } else {
        job.command.clone()
    };
    if args.is_empty() {
        return Err(Failure::ImageUnusable(
            "the image has neither an entrypoint nor a command; give one after --".to_owned(),
        ));
    }
    Ok(args)
}

fn env(
    job: &JobSpec,
    config: &ImageConfig,
    outside: &NetworkSettings,
    home: Option<&str>,
    modules: &[Submodule],
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set =
        |name: &str, value: &str, replace: bool| match env.iter_mut().find(|(n, _)| n == name) {
            Some(entry) if replace => value.clone_into(&mut entry.1),
            Some(_) => {}
            None => env.push((name.to_owned(), value.to_owned())),
        };
    for line in config.env() {
        if let Some((name, value)) = line.split_once('=') {
            set(name, value, true);
        }
    }
    // What an image says about proxies is about the place where it was made.
    let given = outside.proxy.iter().chain(&job.env).chain(&job.secrets);
    for var in given {
        set(var.name(), var.value(), true);
    }
    for name in outside::certificate_variables(outside) {
        set(name, outside::CERTIFICATES, false);
    }
    set("PATH", PATH, false);
    if let Some(home) = home {
        set("HOME", home, false);
    }
    // The source belongs to an id that the job does not have; git asks to be told that this is meant.
    // Respected from the environment since git 2.31; safe.directory(5) since 2.35.2.
    // A file of the image would do the same for libgit2, but there is none that is not the image's own.
    if !env.iter().any(|(name, _)| name == "GIT_CONFIG_COUNT") {
        let below = |module: &Submodule| format!("{REPO}/{}", module.path());
        let safe: Vec<String> = once(REPO.to_owned())
            .chain(modules.iter().map(below))
            .collect();
        env.push(("GIT_CONFIG_COUNT".to_owned(), safe.len().to_string()));
        for (number, place) in safe.into_iter().enumerate() {
            env.push((
                format!("GIT_CONFIG_KEY_{number}"),
                "safe.directory".to_owned(),
            ));
            env.push((format!("GIT_CONFIG_VALUE_{number}"), place));
        }
    }
    env
}

fn cwd(job: &JobSpec, config: &ImageConfig) -> String {
    match &job.source.subdir {
        Some(subdir) => format!("{REPO}/{subdir}"),
        None if config.working_dir().starts_with('/') => config.working_dir().to_owned(),
        None => REPO.to_owned(),
    }
}

fn mounts(parts: &Parts<'_>) -> Vec<Mount> {
    let checkout = parts.checkout;
    let read = |host: &Path, guest: String| Mount {
        host: host.to_owned(),
        guest: PathBuf::from(guest),
        access: Access::ReadOnly,
    };
    let mut mounts = vec![
        read(checkout.tree(), REPO.to_owned()),
        read(checkout.objects(), format!("{REPO}/.git/objects")),
        read(&refs(parts.work), format!("{REPO}/.git/packed-refs")),
    ];
    for module in checkout.submodules() {
        let git = module.git_dir().display();
        mounts.push(read(module.objects(), format!("{REPO}/{git}/objects")));
    }
    mounts.push(Mount {
        host: parts.output.clone(),
        guest: PathBuf::from(OUTPUT),
        access: Access::ReadWrite,
    });
    mounts.extend(outside::certificates(parts.outside, parts.work));
    mounts
}
