//! `bryo cache` and `bryo gc`: what is kept for later jobs, and what of it goes.

use std::io::Write;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use bryo_agent::CacheBudget;
use bryo_engine::{Collect, Collected, Engine, Settings};
use bryo_model::{ByteSize, Cached};
use serde_json::{Value, json};

use crate::args::{CacheArgs, GcArgs, Place};
use crate::config::{self, About};
use crate::directories;
use crate::exit_code::Exit;
use crate::stamps::rfc3339;
use crate::terminal::{self, printable};

/// How long a task of ours that nobody waits for may hold up the end of the program.
const STRAGGLERS: Duration = Duration::from_millis(200);

/// Lists.
pub(crate) fn list(args: &CacheArgs) -> Exit {
    let Some((settings, _)) = settings(&args.place) else {
        return Exit::Usage;
    };
    let listed = wait_for(async {
        let all = Engine::new(settings).cached().await?;
        anyhow::Ok(all)
    });
    let all = match listed {
        Ok(all) => all,
        Err(error) => return failed(&error),
    };
    let text = if args.json {
        let things: Vec<Value> = all.iter().map(as_json).collect();
        format!("{}\n", json!({"bytes": bytes(&all), "cached": things}))
    } else {
        let total = format!("{} in {} things\n", ByteSize::new(bytes(&all)), all.len());
        table(&all, SystemTime::now()) + &total
    };
    print(&text)
}

/// Removes.
pub(crate) fn collect(args: &GcArgs) -> Exit {
    let Some((settings, budget)) = settings(&args.place) else {
        return Exit::Usage;
    };
    let wish = wish(args, budget);
    let collected = wait_for(async {
        let done = Engine::new(settings).collect(wish).await?;
        anyhow::Ok(done)
    });
    let done = match collected {
        Ok(done) => done,
        Err(error) => return failed(&error),
    };
    for (what, why) in &done.failed {
        terminal::complain(&format!(
            "{} {} is still there: {why}",
            what.kind, what.name
        ));
    }
    let text = if args.json {
        format!("{}\n", done_as_json(&done, args.dry_run))
    } else {
        let did = if args.dry_run {
            "would remove"
        } else {
            "removed"
        };
        let total = format!(
            "{did} {} in {} things; {} in {} things stay\n",
            ByteSize::new(done.bytes()),
            done.removed.len(),
            ByteSize::new(bytes(&done.left)),
            done.left.len()
        );
        table(&done.removed, SystemTime::now()) + &total
    };
    match print(&text) {
        Exit::Succeeded if !done.failed.is_empty() => Exit::OurFailure,
        exit => exit,
    }
}

/// What the options say; the configuration's bounds hold where they name none.
fn wish(args: &GcArgs, budget: CacheBudget) -> Collect {
    let both = args.source == args.images;
    let wish = Collect {
        source: args.source || both,
        images: args.images || both,
        dry_run: args.dry_run,
        ..Collect::default()
    };
    let (unused_for, keep) = if args.all {
        (Some(Duration::ZERO), None)
    } else if args.older_than.is_some() || args.keep.is_some() {
        (args.older_than, args.keep)
    } else {
        (budget.unused_for, budget.bytes)
    };
    Collect {
        unused_for,
        keep,
        ..wish
    }
}

/// What the configuration says of this host and its cache; what is wrong with it is told here.
fn settings(place: &Place) -> Option<(Settings, CacheBudget)> {
    let around = directories::surroundings()
        .inspect_err(|error| terminal::complain(&format!("{error:#}")))
        .ok()?;
    let named = place.config.as_deref();
    let loaded = config::load(About::Run, &around, named, place.flags());
    for note in &loaded.notes {
        terminal::complain(note);
    }
    let secrets = around.secrets(true);
    let mut reader = around.reader(&loaded, &secrets);
    let (settings, budget) = (reader.host(&around.places, About::Run), reader.cache());
    for problem in &reader.problems {
        terminal::complain(&problem.to_string());
    }
    settings
        .filter(|_| reader.problems.is_empty())
        .map(|settings| (settings, budget))
}

fn wait_for<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start")?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(STRAGGLERS);
    done
}

fn failed(error: &anyhow::Error) -> Exit {
    terminal::complain(&format!("{error:#}"));
    Exit::OurFailure
}

fn bytes(all: &[Cached]) -> u64 {
    all.iter().map(|one| one.bytes).sum()
}

fn as_json(one: &Cached) -> Value {
    json!({
        "kind": one.kind,
        "name": one.name,
        "called": one.called,
        "bytes": one.bytes,
        "files": one.files,
        "last_used": rfc3339(one.last_used),
        "in_use": one.in_use,
        "worthless": one.worthless,
    })
}

fn done_as_json(done: &Collected, dry_run: bool) -> Value {
    let removed: Vec<Value> = done.removed.iter().map(as_json).collect();
    let failed = done.failed.iter().map(|(what, why)| {
        let mut value = as_json(what);
        value["why"] = json!(why);
        value
    });
    json!({
        "dry_run": dry_run,
        "bytes": done.bytes(),
        "left_bytes": bytes(&done.left),
        "removed": removed,
        "failed": failed.collect::<Vec<_>>(),
    })
}

/// A line for each.
fn table(all: &[Cached], now: SystemTime) -> String {
    let line = |one: &Cached| {
        let state = match (one.in_use, one.worthless) {
            (true, _) => "in use",
            (false, true) => "worthless",
            (false, false) => "",
        };
        let name = match &one.called {
            Some(called) => format!("{}  {}", one.name, printable(called)),
            None => one.name.clone(),
        };
        format!(
            "{:8}  {:>10}  {:>8}  {:9}  {name}\n",
            one.kind.to_string(),
            ByteSize::new(one.bytes).to_string(),
            idle(one.idle(now)),
            state
        )
    };
    all.iter().map(line).collect()
}

/// Roughly how long something was not used.
fn idle(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn print(text: &str) -> Exit {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Succeeded,
        Err(error) => {
            terminal::complain(&format!("could not print: {error}"));
            Exit::OurFailure
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn wish_of(line: &str) -> Collect {
        let budget = CacheBudget {
            bytes: Some(ByteSize::new(5)),
            unused_for: Some(Duration::from_secs(7)),
        };
        match Args::try_parse_from(line.split(' ')).unwrap().command {
            Command::Gc(args) => wish(&args, budget),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_take_the_place_of_the_configuration() {
        let both = Collect {
            source: true,
            images: true,
            ..Collect::default()
        };
        let configured = Collect {
            keep: Some(ByteSize::new(5)),
            unused_for: Some(Duration::from_secs(7)),
            ..both
        };
        assert_eq!(wish_of("bryo gc"), configured);
        assert_eq!(
            wish_of("bryo gc --source --images --dry-run"),
            Collect {
                dry_run: true,
                ..configured
            }
        );
        assert_eq!(
            wish_of("bryo gc --source"),
            Collect {
                images: false,
                ..configured
            }
        );
        assert_eq!(
            wish_of("bryo gc --images --keep 1k"),
            Collect {
                source: false,
                keep: Some(ByteSize::new(1024)),
                ..both
            }
        );
        assert_eq!(
            wish_of("bryo gc --all"),
            Collect {
                unused_for: Some(Duration::ZERO),
                ..both
            }
        );
    }

    #[test]
    fn idle_times_are_rough() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min"),
            (7200, "2 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(idle(Duration::from_secs(seconds)), text);
        }
    }
}
