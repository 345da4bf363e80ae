//! `bryo run`: a feed of one job.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bryo_depot::Target;
use bryo_engine::{Control, Engine, NetworkSettings, Settings, run_attempt};
use bryo_image::PullOptions;
use bryo_model::{
    Egress, EnvVar, ImageRef, JobId, JobSpec, LimitPolicy, Limits, Report, SourceLocation,
    SourceSpec, Verdict,
};
use bryo_sandbox::RuntimePlaces;
use tokio::sync::mpsc;

use crate::args::RunArgs;
use crate::exit_code::Exit;
use crate::terminal::Screen;
use crate::{directories, signals, terminal};

/// Events in flight between the engine and the screen: pieces of output of at most 64 KiB each.
const EVENTS: usize = 64;

/// How long a task of ours that nobody waits for may hold up the end of the program.
const STRAGGLERS: Duration = Duration::from_millis(200);

/// How long a screen that takes nothing may hold up the end of an attempt that was stopped.
const STUCK_SCREEN: Duration = Duration::from_secs(2);

/// A shorter secret could not be hidden: it is in too many innocent words.
const SHORTEST_SECRET: usize = 4;

/// Runs the job and says how the program ends.
pub(crate) fn main(args: RunArgs) -> Exit {
    let (json, timestamps) = (args.json, args.timestamps);
    let (job, target, settings) = match prepare(args) {
        Ok(prepared) => prepared,
        Err(error) => {
            terminal::complain(&format!("{error:#}"));
            return Exit::Usage;
        }
    };
    let (verdict, report) = match attempt(&job, target, settings, Screen::new(json, timestamps)) {
        Ok(ended) => ended,
        Err(error) => {
            terminal::complain(&format!("{error:#}"));
            return Exit::OurFailure;
        }
    };
    terminal::verdict_line(&report);
    if json && let Err(error) = print_report(&report) {
        terminal::complain(&format!("could not print the report: {error}"));
        return Exit::OurFailure;
    }
    Exit::of(&verdict)
}

fn attempt(
    job: &JobSpec,
    target: Target,
    settings: Settings,
    screen: Screen,
) -> Result<(Verdict, Report)> {
    // One thread is enough for one job, and costs the least to start; what blocks has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start")?;
    let (sender, receiver) = mpsc::channel(EVENTS);
    let screen = std::thread::spawn(move || screen.show(receiver));
    let ended = runtime.block_on(async {
        let control = Control::new();
        signals::listen(&control).context("could not listen for signals")?;
        let engine = Engine::new(settings);
        anyhow::Ok(Box::pin(run_attempt(job, target, &engine, &control, sender)).await)
    });
    runtime.shutdown_timeout(STRAGGLERS);
    // The screen ends when it has shown everything. Only who gave up waiting for it may lose what is on its way.
    let given_up = matches!(
        &ended,
        Ok((Verdict::Cancelled(_) | Verdict::TimedOut(..), _)) | Err(_)
    );
    let since = Instant::now();
    while given_up && !screen.is_finished() && since.elapsed() < STUCK_SCREEN {
        std::thread::sleep(Duration::from_millis(1));
    }
    if !given_up || screen.is_finished() {
        let _ = screen.join();
    }
    ended
}

fn print_report(report: &Report) -> Result<()> {
    let mut text = serde_json::to_string(report)?;
    text.push('\n');
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// From what was said to what is meant. Everything is checked before anything is changed.
fn prepare(args: RunArgs) -> Result<(JobSpec, Target, Settings)> {
    let here = std::env::current_dir().context("the current directory is gone")?;
    let cache = args
        .cache_dir
        .or_else(directories::cache)
        .context("there is neither HOME nor XDG_CACHE_HOME; give --cache-dir")?;
    let cache = here.join(cache);
    let work = args
        .work_dir
        .map_or_else(|| cache.join("work"), |dir| here.join(dir));
    let runtime_dir = directories::runtime();
    let state = runtime_dir
        .as_ref()
        .map_or_else(|| cache.join("runtime"), |dir| dir.join("bryo"));
    for dir in [&cache, &work, &state] {
        if dir.to_str().is_none() {
            anyhow::bail!(
                "the directory {dir:?} is not UTF-8; choose another with --cache-dir or --work-dir"
            );
        }
    }
    let location = match args.source {
        SourceLocation::Local(path) => SourceLocation::Local(here.join(path)),
        remote @ SourceLocation::Remote(_) => remote,
    };
    let mut protected = vec![here.clone(), cache.clone(), work.clone()];
    protected.extend(directories::home());
    if let SourceLocation::Local(path) = &location {
        protected.push(path.clone());
    }
    let target = Target::check(&args.output, &protected)?;
    let tracked = bryo_source::tracked_files(&target.path());
    if tracked > 0 && !args.replace {
        anyhow::bail!(
            "git tracks {tracked} files in {}, which publishing there would remove; name another directory, or say --replace",
            target.path().display()
        );
    }
    let settings = Settings {
        pull: PullOptions {
            authfile: args.authfile.map(|file| here.join(file)),
            plain_http: args.plain_http,
        },
        runtime: args.runtime.wanted(),
        places: RuntimePlaces {
            state,
            container_host: std::env::var("CONTAINER_HOST")
                .ok()
                .filter(|h| !h.is_empty()),
            runtime_dir,
        },
        cache,
        work,
        ceiling: args.at_most,
        network: NetworkSettings {
            host: args.host_network,
            reach_host: args.reach_host,
            closed: args.closed,
            ca_bundle: args
                .ca_bundle
                .map(|file| ca_bundle(&here.join(file)))
                .transpose()?,
            proxy: if args.pass_proxy { proxy() } else { Vec::new() },
        },
        own_ids: args.own_ids,
        apparmor: args.apparmor_profile,
        selinux: args.selinux,
    };
    let job = JobSpec {
        id: new_id()?,
        source: SourceSpec {
            location,
            reference: args.reference,
            subdir: args.subdir,
        },
        image: absolute(args.image, &here),
        command: args.command,
        env: args.env,
        secrets: args
            .secrets
            .iter()
            .map(|text| secret(text, &here))
            .collect::<Result<_>>()?,
        network: args.network,
        egress: Egress {
            allow: args.allow,
            deny: args.deny,
        },
        read_only_root: args.read_only,
        limits: Limits {
            memory: args.memory,
            memory_high: args.memory_high,
            cpus: args.cpus,
            cpu_weight: args.cpu_weight,
            pids: args.pids,
            io_read: args.io_read,
            io_write: args.io_write,
            disk: args.disk,
            disk_files: args.disk_files,
            output: args.max_output,
            output_files: args.max_output_files,
            log: args.max_log,
            timeout: args.timeout,
            stages: args.stage_timeouts,
            silence: args.silence,
            grace: args.grace,
            stop_signal: args.stop_signal,
        },
        limit_policy: if args.allow_unlimited {
            LimitPolicy::AllowUnlimited
        } else {
            LimitPolicy::Enforce
        },
    };
    Ok((job, target, settings))
}

/// The value comes from our own environment or from a file, so that it stands in no command line.
fn secret(text: &str, here: &Path) -> Result<EnvVar> {
    let (name, file) = match text.split_once('=') {
        None => (text, None),
        Some((name, file)) => {
            let file = file.strip_prefix('@').with_context(|| {
                format!("--secret {name}=… would show its value to everybody on this host; say --secret {name} and set it in the environment, or {name}=@FILE")
            })?;
            (name, Some(here.join(file)))
        }
    };
    let value = match file {
        Some(file) => {
            let text = std::fs::read_to_string(&file).with_context(|| {
                format!("could not read the secret {name} from {}", file.display())
            })?;
            text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)
        }
        None => std::env::var(name).with_context(|| {
            format!("--secret {name}: there is no such variable in the environment")
        })?,
    };
    let pieces = value.lines().map(str::trim);
    if pieces.map(str::len).max().unwrap_or(0) < SHORTEST_SECRET {
        anyhow::bail!(
            "--secret {name}: its value has no line of at least {SHORTEST_SECRET} bytes; hiding it would hide half of the job's output, so take a longer one"
        );
    }
    EnvVar::new(name, &value).with_context(|| format!("--secret {name}"))
}

/// A file of certificates is looked at before anything is begun: a job that trusts nobody fails late and obscurely.
fn ca_bundle(file: &Path) -> Result<PathBuf> {
    let name = || format!("--ca-bundle {}", file.display());
    let real = file.canonicalize().with_context(name)?;
    if !real.is_file() {
        anyhow::bail!("{}: not a regular file", name());
    }
    let text = std::fs::read(&real).with_context(name)?;
    let begin = b"-----BEGIN CERTIFICATE-----";
    if !text.windows(begin.len()).any(|piece| piece == begin) {
        anyhow::bail!(
            "{}: there is no certificate in PEM form in it (-----BEGIN CERTIFICATE-----)",
            name()
        );
    }
    Ok(real)
}

/// The variables by which programs find their proxy, as they are set here.
fn proxy() -> Vec<EnvVar> {
    [
        "http_proxy",
        "https_proxy",
        "ftp_proxy",
        "all_proxy",
        "no_proxy",
    ]
    .into_iter()
    .flat_map(|name| [name.to_owned(), name.to_ascii_uppercase()])
    .filter_map(|name| EnvVar::new(&name, &std::env::var(&name).ok()?).ok())
    .collect()
}

/// Paths in the image's name mean what they mean where the command was given.
fn absolute(image: ImageRef, here: &Path) -> ImageRef {
    let join = |path: PathBuf| here.join(path);
    match image {
        ImageRef::OciLayout { dir, tag } => ImageRef::OciLayout {
            dir: join(dir),
            tag,
        },
        ImageRef::OciArchive(file) => ImageRef::OciArchive(join(file)),
        ImageRef::DockerArchive(file) => ImageRef::DockerArchive(join(file)),
        other @ (ImageRef::ContainersStorage(_) | ImageRef::Registry(_)) => other,
    }
}

fn new_id() -> Result<JobId> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock stands before 1970")?;
    let mut random = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut random)
        .context("could not read /dev/urandom")?;
    let ms = u64::try_from(now.as_millis()).context("the clock is far in the future")?;
    Ok(JobId::from_parts(ms, u128::from_le_bytes(random)))
}
