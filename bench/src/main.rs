//! What an attempt costs in a process that keeps running: one engine, its helper there, checkout and image cached.
//!
//! `bryo-bench WORK MEASURE...` is called by `scripts/bench-rounds.sh`, which makes in WORK what is measured: `source`, a
//! git repository; `bundle`, a bundle for bare crun; `results`, where each way gets a file with one number per line. It
//! refuses to judge: a number that is too large is a number.
//!
//! Invariants: each way does the same work and is looked at whether it did; ways that are compared take turns within one
//! run; the attempts run on one thread, as an agent's do.

/// One engine, and attempts of it.
mod agent;
/// The same work by hand: crun and podman as they are.
mod bare;
/// What is measured.
mod measures;
/// Hidden roles that the program plays for itself inside namespaces.
mod roles;
/// What a source costs, beside git.
mod source;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use measures::Bench;

/// What went wrong; the bench ends with it.
type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    if let Some(code) = roles::play() {
        return code;
    }
    bryo_sandbox::give_up_capabilities();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bryo-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Outcome<()> {
    let mut args = std::env::args_os().skip(1);
    let work = args.next().ok_or("usage: WORK MEASURE...")?;
    let work = PathBuf::from(work).canonicalize()?;
    // As in an agent: programs are bound to the thread that starts them, so it must be one that lasts.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let all: Vec<String> = args.map(|a| a.to_string_lossy().into_owned()).collect();
        let (source, rest): (Vec<_>, Vec<_>) = all.iter().partition(|m| m.starts_with("source-"));
        for measure in source {
            let words: Vec<&str> = measure.split(':').collect();
            match words[..] {
                ["source-update", files, rounds] => {
                    source::update(&work, files.parse()?, rounds.parse()?).await?;
                }
                ["source-memory", files] => source::memory(&work, files.parse()?).await?,
                _ => return Err(format!("there is no measure {measure:?}").into()),
            }
        }
        if rest.is_empty() {
            return Ok(());
        }
        let bench = Bench::prepare(work).await?;
        for measure in rest {
            bench.take(measure).await?;
        }
        bench.end().await
    })
}
