//! The recipe as an OCI bundle: `config.json` of the OCI runtime specification, version 1.0.2.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxResourcesBuilder, LinuxSeccomp, Mount, MountBuilder, PosixRlimitBuilder, PosixRlimitType,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use nix::sys::resource::{Resource, getrlimit};

use super::filter;
use bryo_model::{IdSlot, NetworkMode};

use crate::privileges::{
    CAPABILITIES, MASKED_PATHS, OPEN_FILES, READONLY_PATHS, SCRATCH, SCRATCH_OPTIONS, UMASK,
};
use crate::selinux::Labels;
use crate::spec::{Access, SandboxSpec, UserIds};

/// What the bundle says beyond the recipe: where the worker puts things.
pub(super) struct Placement<'a> {
    /// The root file system, as the worker mounts it.
    pub(super) rootfs: &'a Path,
    /// Sources of the recipe's mounts, in their order, as the worker mounts them.
    pub(super) sources: &'a [PathBuf],
    /// Files that stand for `/etc/resolv.conf` and its kind: host path and name in `/etc`.
    pub(super) etc: &'a [(PathBuf, &'static str)],
    /// Whose ids the job has.
    pub(super) slot: IdSlot,
    /// The user namespace that is there; without it the container makes one with these ids.
    pub(super) user_namespace: Option<&'a Path>,
    /// The network namespace that is there; without it the container makes an empty one.
    pub(super) network_namespace: Option<&'a Path>,
    /// The container's own cgroup.
    pub(super) cgroup: &'a str,
    /// The SELinux labels of the job.
    pub(super) labels: Option<&'a Labels>,
    /// The filter as crun compiled it before.
    pub(super) compiled_filter: Option<&'a str>,
}

/// Writes the recipe as the specification has it.
pub(super) fn config(
    spec: &SandboxSpec,
    user: &UserIds,
    seccomp: LinuxSeccomp,
    place: &Placement<'_>,
) -> Result<Spec, OciSpecError> {
    let user = UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .umask(UMASK)
        .additional_gids(user.groups.clone())
        .build()?;
    // Nobody may raise a hard limit, so a host with a lower one keeps it.
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(OPEN_FILES, |(_, hard)| hard);
    let open_files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(OPEN_FILES.min(most))
        .hard(OPEN_FILES.min(most))
        .build()?;
    let core = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitCore)
        .soft(0_u64)
        .hard(0_u64)
        .build()?;
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .user(user)
        .args(spec.args.clone())
        .env(
            spec.env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>(),
        )
        .cwd(&spec.cwd)
        .capabilities(capabilities()?)
        .rlimits(vec![open_files, core])
        .no_new_privileges(true)
        .build()?;
    process.set_apparmor_profile(spec.apparmor.clone());
    process.set_selinux_label(place.labels.map(|labels| labels.process().to_string()));
    let linux = LinuxBuilder::default()
        .cgroups_path(place.cgroup)
        .resources(LinuxResourcesBuilder::default().build()?)
        .namespaces(namespaces(spec.network.mode, place)?)
        .seccomp(seccomp)
        .masked_paths(MASKED_PATHS.map(str::to_owned).to_vec())
        .readonly_paths(READONLY_PATHS.map(str::to_owned).to_vec())
        .build()?;
    let mut config = SpecBuilder::default()
        .version("1.0.2")
        .process(process)
        .root(
            RootBuilder::default()
                .path(place.rootfs)
                .readonly(spec.read_only_root)
                .build()?,
        )
        .hostname("bryo")
        .mounts(mounts(spec, place)?)
        .linux(linux)
        .build()?;
    if let Some(linux) = config.linux_mut() {
        // None with a namespace that is joined: the builder's defaults would contradict it.
        let ids = match place.user_namespace {
            Some(_) => None,
            None => Some(vec![ids(place.slot)?]),
        };
        linux.set_uid_mappings(ids.clone()).set_gid_mappings(ids);
        linux.set_mount_label(place.labels.map(|labels| labels.file().to_string()));
    }
    if let Some(program) = place.compiled_filter {
        let annotation = (filter::ANNOTATION.to_owned(), program.to_owned());
        config.set_annotations(Some(HashMap::from([annotation])));
    }
    Ok(config)
}

/// The ids of the job, counted in the helper's namespace.
fn ids(slot: IdSlot) -> Result<LinuxIdMapping, OciSpecError> {
    LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(slot.first())
        .size(IdSlot::IDS)
        .build()
}

fn capabilities() -> Result<LinuxCapabilities, OciSpecError> {
    let mut set = HashSet::new();
    for name in CAPABILITIES {
        let capability = name
            .parse::<Capability>()
            .map_err(|e| OciSpecError::Other(format!("{name}: {e}")))?;
        set.insert(capability);
    }
    let mut capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .build()?;
    // Inheritable and ambient capabilities would pass to an unprivileged user of the image.
    capabilities
        .set_inheritable(Some(HashSet::new()))
        .set_ambient(Some(HashSet::new()));
    Ok(capabilities)
}

fn namespaces(
    network: NetworkMode,
    place: &Placement<'_>,
) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    use LinuxNamespaceType as Type;
    let new = |typ| LinuxNamespaceBuilder::default().typ(typ).build();
    let join = |typ, path: &Path| LinuxNamespaceBuilder::default().typ(typ).path(path).build();
    let mut all = vec![match place.user_namespace {
        Some(path) => join(Type::User, path)?,
        None => new(Type::User)?,
    }];
    for typ in [Type::Pid, Type::Ipc, Type::Uts, Type::Mount, Type::Cgroup] {
        all.push(new(typ)?);
    }
    match (network, place.network_namespace) {
        (NetworkMode::Host, _) => {}
        (_, Some(path)) => all.push(join(Type::Network, path)?),
        (_, None) => all.push(new(Type::Network)?),
    }
    Ok(all)
}

fn mounts(spec: &SandboxSpec, place: &Placement<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let kernel = |to: &str, typ: &str, options: &[&str]| {
        MountBuilder::default()
            .destination(to)
            .typ(typ)
            .source(typ)
            .options(options.iter().map(ToString::to_string).collect::<Vec<_>>())
            .build()
    };
    let bind = |from: &Path, to: &Path, access: Access| {
        let access = match access {
            Access::ReadOnly => "ro",
            Access::ReadWrite => "rw",
        };
        MountBuilder::default()
            .destination(to)
            .typ("bind")
            .source(from)
            .options(
                ["bind", access, "nosuid", "nodev", "private"]
                    .map(str::to_owned)
                    .to_vec(),
            )
            .build()
    };
    let read_only = ["nosuid", "noexec", "nodev", "ro"];
    let sys = match spec.network.mode {
        // The kernel mounts a sysfs only for who owns the network namespace that it shows.
        NetworkMode::Host => MountBuilder::default()
            .destination("/sys")
            .typ("bind")
            .source("/sys")
            .options(
                ["rbind", "rslave"]
                    .iter()
                    .chain(&read_only)
                    .map(ToString::to_string)
                    .collect::<Vec<_>>(),
            )
            .build()?,
        NetworkMode::None | NetworkMode::Isolated => kernel("/sys", "sysfs", &read_only)?,
    };
    let mut all = vec![
        kernel("/proc", "proc", &["nosuid", "noexec", "nodev"])?,
        kernel(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=64k"],
        )?,
        kernel(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
            ],
        )?,
        kernel(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=64m"],
        )?,
        kernel("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        sys,
        kernel("/sys/fs/cgroup", "cgroup", &read_only)?,
    ];
    // Before the recipe's, one of which may lie beneath.
    for at in SCRATCH.iter().filter(|_| spec.read_only_root) {
        all.push(kernel(at, "tmpfs", &SCRATCH_OPTIONS)?);
    }
    for (file, name) in place.etc {
        all.push(bind(file, &Path::new("/etc").join(name), Access::ReadOnly)?);
    }
    for (mount, source) in spec.mounts.iter().zip(place.sources) {
        all.push(bind(source, &mount.guest, mount.access)?);
    }
    Ok(all)
}
