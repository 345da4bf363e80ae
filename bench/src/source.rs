//! What a source costs: a mirror brought up to date and a tree of many files, beside git doing the same.
//!
//! Each round has a new commit that changes a few files. Every way begins with a mirror that has all commits but the new
//! one, and ends with the whole tree of the new one; the last row is the same commit again. The order turns around from
//! round to round: whoever comes first reads the new objects for the others too.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bryo_model::{CachedKind, SourceLocation, SourceSpec};
use bryo_source::{Checkout, Fetched, SourceCache};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::Outcome;

/// So many files a new commit changes.
const CHANGED: usize = 10;

/// Rounds that are not counted.
const WARM_UP: u32 = 1;

/// So often memory is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Everything of this bench, below one directory.
struct Place {
    dir: PathBuf,
    results: PathBuf,
}

/// `rounds` rounds with a tree of `files` files.
pub(crate) async fn update(work: &Path, files: usize, rounds: u32) -> Outcome<()> {
    let place = Place::new(work, "update")?;
    let origin = place.repository(files)?;
    let cache = SourceCache::open(&place.dir.join("cache"))?;
    let alone = SourceCache::open(&place.dir.join("alone"))?;
    let mirror = place.dir.join("by-hand.git");
    let (from, to) = (text(&origin)?, text(&mirror)?);
    git(
        &place.dir,
        &["clone", "--quiet", "--bare", "--no-local", from, to],
    )?;
    drop(build(&cache, &origin).await?);
    drop(build(&alone, &origin).await?);
    for round in 0..rounds + WARM_UP {
        place.change(&origin, files, usize::try_from(round)?)?;
        // What an earlier round left is not part of anybody's work; here it is the base, there nothing may be one.
        keep_newest(&cache)?;
        forget_trees(&alone)?;
        let counted = round >= WARM_UP;
        let mut ways = [
            "source-linked",
            "source-written",
            "source-worktree",
            "source-clone",
        ];
        let turn = usize::try_from(round)? % ways.len();
        ways.rotate_left(turn);
        for way in ways {
            let since = Since::now()?;
            match way {
                "source-linked" => {
                    let held = build(&cache, &origin).await?;
                    place.note(way, counted, &since)?;
                    check(held.1.tree(), files)?;
                    drop(held);
                    let since = Since::now()?;
                    let again = build(&cache, &origin).await?;
                    place.note("source-again", counted, &since)?;
                    drop(again);
                }
                "source-written" => {
                    let held = build(&alone, &origin).await?;
                    place.note(way, counted, &since)?;
                    check(held.1.tree(), files)?;
                }
                "source-worktree" => {
                    let tree = place.dir.join("tree");
                    let all = "+refs/heads/*:refs/heads/*";
                    git(&mirror, &["fetch", "--quiet", from, all])?;
                    let workers = "checkout.workers=0";
                    let minimum = "checkout.thresholdForParallelism=1";
                    let add = [
                        "worktree",
                        "add",
                        "--quiet",
                        "--detach",
                        text(&tree)?,
                        "main",
                    ];
                    git(
                        &mirror,
                        &[&["-c", workers, "-c", minimum][..], &add].concat(),
                    )?;
                    place.note(way, counted, &since)?;
                    check(&tree, files)?;
                    git(&mirror, &["worktree", "remove", "--force", text(&tree)?])?;
                }
                _ => {
                    let tree = place.dir.join("cloned");
                    let url = format!("file://{from}");
                    git(
                        &place.dir,
                        &["clone", "--quiet", "--depth", "1", &url, text(&tree)?],
                    )?;
                    place.note(way, counted, &since)?;
                    check(&tree, files)?;
                    fs::remove_dir_all(&tree)?;
                }
            }
        }
    }
    Ok(fs::remove_dir_all(&place.dir)?)
}

/// The peak of this process while it fetches and checks out a tree of so many files, for the first time.
pub(crate) async fn memory(work: &Path, files: usize) -> Outcome<()> {
    let place = Place::new(work, "memory")?;
    let origin = place.repository(files)?;
    let cache = SourceCache::open(&place.dir.join("cache"))?;
    let over = Arc::new(AtomicBool::new(false));
    let before = own_kib()?;
    let watch = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(own_kib().unwrap_or(0));
                std::thread::sleep(LOOK);
            }
            most
        })
    };
    let held = build(&cache, &origin).await?;
    over.store(true, Ordering::Relaxed);
    let most = watch.join().map_err(|_| "the watcher broke")?;
    check(held.1.tree(), files)?;
    #[expect(clippy::cast_precision_loss, reason = "KiB of one process")]
    let mib = most.saturating_sub(before) as f64 / 1024.0;
    place.number(&format!("source-memory-{files}"), true, mib)?;
    Ok(fs::remove_dir_all(&place.dir)?)
}

async fn build(cache: &SourceCache, origin: &Path) -> Outcome<(Fetched, Checkout)> {
    let spec = SourceSpec {
        location: SourceLocation::Local(origin.to_owned()),
        reference: None,
        subdir: None,
    };
    let fetched = cache.fetch(&spec, Arc::new(|_| {})).await?;
    let checkout = cache.checkout(&fetched, Arc::new(|_| {})).await?;
    Ok((fetched, checkout))
}

/// Removes all checkouts but the one that was used last.
fn keep_newest(cache: &SourceCache) -> Outcome<()> {
    let mut all = cache.list()?;
    all.retain(|one| one.kind == CachedKind::Checkout);
    all.sort_by_key(|one| one.last_used);
    all.pop();
    for one in all {
        cache.remove(&one)?;
    }
    Ok(())
}

fn forget_trees(cache: &SourceCache) -> Outcome<()> {
    for one in cache.list()? {
        if one.kind == CachedKind::Checkout {
            cache.remove(&one)?;
        }
    }
    Ok(())
}

/// Whether a tree has as many files as it should.
fn check(tree: &Path, files: usize) -> Outcome<()> {
    let mut found = 0;
    let mut rest = vec![tree.to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true if entry.file_name() == ".git" => {}
                true => rest.push(entry.path()),
                false => found += usize::from(entry.file_name() != ".git"),
            }
        }
    }
    match found == files {
        true => Ok(()),
        false => Err(format!("{} has {found} files and not {files}", tree.display()).into()),
    }
}

fn text(path: &Path) -> Outcome<&str> {
    Ok(path.to_str().ok_or("a path is not UTF-8")?)
}

fn git(dir: &Path, args: &[&str]) -> Outcome<()> {
    let mut git = Command::new("git");
    git.current_dir(dir)
        .args(args)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{who}_NAME"), "bench");
        git.env(format!("GIT_{who}_EMAIL"), "bench@localhost");
    }
    let output = git.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("git {args:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

impl Place {
    fn new(work: &Path, name: &str) -> Outcome<Self> {
        let place = Self {
            dir: work.join(format!("source-{name}")),
            results: work.join("results"),
        };
        fs::create_dir_all(&place.dir)?;
        fs::create_dir_all(&place.results)?;
        Ok(place)
    }

    /// A packed repository with so many files of two to five KiB that look like source text.
    fn repository(&self, files: usize) -> Outcome<PathBuf> {
        let origin = self.dir.join("origin");
        fs::create_dir_all(&origin)?;
        git(&origin, &["init", "--quiet", "--initial-branch=main"])?;
        for number in 0..files {
            write(&origin, number, 0)?;
        }
        self.commit(&origin)?;
        git(&origin, &["repack", "-adq"])?;
        Ok(origin)
    }

    fn change(&self, origin: &Path, files: usize, round: usize) -> Outcome<()> {
        for n in 0..CHANGED {
            write(origin, (round * 97 + n * 1009) % files, round + 1)?;
        }
        self.commit(origin)
    }

    fn commit(&self, origin: &Path) -> Outcome<()> {
        git(origin, &["add", "--all"])?;
        git(origin, &["commit", "--quiet", "--message", "a change"])
    }

    fn note(&self, name: &str, counted: bool, since: &Since) -> Outcome<()> {
        let (wall, cpu) = since.ms()?;
        self.number(name, counted, wall)?;
        self.number(&format!("{name}.cpu"), counted, cpu)
    }

    fn number(&self, name: &str, counted: bool, number: f64) -> Outcome<()> {
        if !counted {
            return Ok(());
        }
        let file = self.results.join(name);
        let mut file = OpenOptions::new().create(true).append(true).open(file)?;
        Ok(writeln!(file, "{number:.2}")?)
    }
}

fn write(origin: &Path, number: usize, round: usize) -> Outcome<()> {
    let dir = origin.join(format!("d{}/e{}", number / 1000, number / 50));
    fs::create_dir_all(&dir)?;
    let mut body = String::new();
    for line in 0..40 + number % 60 {
        // Not the same in any two files, or a pack of them would be smaller than any real one.
        let word = (number * 2_654_435_761 + line * 40_503 + round) % 1_000_003;
        body.push_str(&format!(
            "    let value_{word} = compute({number}, {line});\n"
        ));
    }
    Ok(fs::write(dir.join(format!("f{number}.rs")), body)?)
}

/// When something began, and the processor time of this process and of the programs that it waited for.
struct Since {
    time: Instant,
    cpu: f64,
}

impl Since {
    fn now() -> Outcome<Self> {
        Ok(Self {
            cpu: cpu_ms()?,
            time: Instant::now(),
        })
    }

    fn ms(&self) -> Outcome<(f64, f64)> {
        let wall = self.time.elapsed().as_secs_f64() * 1e3;
        Ok((wall, cpu_ms()? - self.cpu))
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of one run")]
fn cpu_ms() -> Outcome<f64> {
    let mut sum = 0.0;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let used = getrusage(who)?;
        for time in [used.user_time(), used.system_time()] {
            sum += time.num_microseconds() as f64 / 1e3;
        }
    }
    Ok(sum)
}

/// What this process has in memory for itself, in KiB; what it mapped of files is the kernel's, which takes it back.
fn own_kib() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib = line.and_then(|l| l.split_whitespace().next());
    Ok(kib.ok_or("the kernel does not count memory")?.parse()?)
}
