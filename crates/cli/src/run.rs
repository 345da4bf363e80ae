//! `bryo run`: a feed of one job.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bryo_depot::{Depot, Target};
use bryo_engine::{Control, Engine, Settings, run_attempt};
use bryo_model::{
    Egress, EnvVar, JobId, JobSpec, LimitPolicy, Limits, Report, SourceLocation, SourceSpec,
    Verdict,
};
use tokio::sync::mpsc;

use crate::args::RunArgs;
use crate::config::{self, About, Problem, Surroundings};
use crate::exit_code::Exit;
use crate::terminal::Screen;
use crate::{directories, signals, terminal};

/// Events in flight between the engine and the screen: pieces of output of at most 64 KiB each.
const EVENTS: usize = 64;

/// How long a task of ours that nobody waits for may hold up the end of the program.
const STRAGGLERS: Duration = Duration::from_millis(200);

/// How long a screen that takes nothing may hold up the end of an attempt that was stopped.
const STUCK_SCREEN: Duration = Duration::from_secs(2);

/// Runs the job and says how the program ends.
pub(crate) fn main(args: RunArgs) -> Exit {
    let (json, timestamps) = (args.json, args.timestamps);
    let (job, target, settings) = match prepare(args) {
        Ok(prepared) => prepared,
        Err(refused) => {
            refused.tell();
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
        anyhow::Ok(
            Box::pin(run_attempt(
                job,
                Depot::Directory(target),
                &engine,
                &control,
                sender,
            ))
            .await,
        )
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
fn prepare(args: RunArgs) -> Result<(JobSpec, Target, Settings), Refused> {
    let around = directories::surroundings()?;
    let settings = settings(&args, &around)?;
    let here = around.here;
    Ok(job(args, &here, settings)?)
}

/// What the files, the variables and the options say of this host.
fn settings(args: &RunArgs, around: &Surroundings) -> Result<Settings, Refused> {
    let loaded = config::load(
        About::Run,
        around,
        args.config.as_deref(),
        args.host.flags(),
    );
    for note in &loaded.notes {
        terminal::complain(note);
    }
    let places = around.secrets(true);
    let mut reader = around.reader(&loaded, &places);
    let settings = reader.host(&around.places, About::Run);
    let problems = reader.problems;
    match settings {
        Some(settings) if problems.is_empty() => Ok(settings),
        _ => Err(Refused::Problems(problems)),
    }
}

/// Why there is no attempt.
enum Refused {
    Problems(Vec<Problem>),
    Error(anyhow::Error),
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        Self::Error(error)
    }
}

impl Refused {
    fn tell(&self) {
        match self {
            Self::Problems(problems) => problems
                .iter()
                .for_each(|p| terminal::complain(&p.to_string())),
            Self::Error(error) => terminal::complain(&format!("{error:#}")),
        }
    }
}

fn job(args: RunArgs, here: &Path, settings: Settings) -> Result<(JobSpec, Target, Settings)> {
    let (cache, work) = (&settings.cache, &settings.work);
    let location = match args.source {
        SourceLocation::Local(path) => SourceLocation::Local(here.join(path)),
        remote @ SourceLocation::Remote(_) => remote,
    };
    let mut protected = vec![here.to_owned(), cache.clone(), work.clone()];
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
    let job = JobSpec {
        id: new_id()?,
        source: SourceSpec {
            location,
            reference: args.reference,
            subdir: args.subdir,
        },
        image: directories::absolute_image(args.image, here),
        command: args.command,
        env: args.env,
        secrets: args
            .secrets
            .iter()
            .map(|text| secret(text, here))
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
    config::hideable(&value).map_err(|why| anyhow::anyhow!("--secret {name}: {why}"))?;
    EnvVar::new(name, &value).with_context(|| format!("--secret {name}"))
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
