//! What is measured: each measure with its baseline, in turn.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bryo_engine::Control;
use bryo_model::{ContainerName, Event, Verdict};
use tokio::task::LocalSet;

use crate::Outcome;
use crate::agent::{Agent, Way};
use crate::bare::Bare;

/// The job whose own time is next to nothing.
const NO_OP: &str = "echo hello > /output/index.html";

/// Handles no signal and says when it runs.
const ENDLESS: &str = "echo started; while :; do sleep 1000; done";

/// So often is a job's cgroup looked at whose end is waited for.
const LOOK: Duration = Duration::from_micros(50);

/// Rounds that are not counted.
const WARM_UP: u32 = 3;

/// The agent and the same by hand.
pub(crate) struct Bench {
    work: PathBuf,
    agent: Rc<Agent>,
    /// Has its directories beside the bench's own, and not where the user's caches are.
    on_disk: Agent,
    bare: Bare,
}

impl Bench {
    /// Makes the bundles, and has the agent run its first jobs, which fill its caches.
    pub(crate) async fn prepare(work: PathBuf) -> Outcome<Self> {
        let bench = Self {
            agent: Rc::new(Agent::new(&work, cache()?)?),
            on_disk: Agent::new(&work, work.join("agent"))?,
            bare: Bare::new(&work)?,
            work,
        };
        bench.bare.bundle("crun", NO_OP)?;
        for way in [Way::CRUN, Way::ISOLATED, Way::PODMAN] {
            bench.agent.succeed(way, NO_OP, "first-output").await?;
        }
        bench
            .on_disk
            .succeed(Way::CRUN, NO_OP, "first-output")
            .await?;
        Ok(bench)
    }

    /// `warm:ROUNDS`, `podman:ROUNDS`, `parallel:LANES:JOBS:ROUNDS`, `output:MIB:ROUNDS`, `cancel-crun:ROUNDS` or
    /// `cancel-podman:ROUNDS`.
    pub(crate) async fn take(&self, measure: &str) -> Outcome<()> {
        let mut words = measure.split(':');
        let name = words.next().unwrap_or_default();
        let numbers: Vec<u32> = words.map(str::parse).collect::<Result<_, _>>()?;
        match (name, numbers[..].as_ref()) {
            ("warm", [rounds]) => self.warm(*rounds).await,
            ("podman", [rounds]) => self.podman(*rounds).await,
            ("parallel", [lanes, jobs, rounds]) => self.parallel(*lanes, *jobs, *rounds).await,
            ("output", [mib, rounds]) => self.output(*mib, *rounds).await,
            ("cancel-crun", [rounds]) => self.cancel(Way::CRUN, *rounds).await,
            ("cancel-podman", [rounds]) => self.cancel(Way::PODMAN, *rounds).await,
            _ => Err(format!("there is no measure {measure:?}").into()),
        }
    }

    /// Nothing may be left of all the attempts.
    pub(crate) async fn end(&self) -> Outcome<()> {
        for agent in [&*self.agent, &self.on_disk] {
            agent.close().await?;
            let left = agent.left()?;
            if !left.is_empty() {
                return Err(format!("the attempts left {left:?}").into());
            }
        }
        Ok(())
    }

    async fn warm(&self, rounds: u32) -> Outcome<()> {
        for round in 0..rounds + WARM_UP {
            let counted = round >= WARM_UP;
            let since = Since::now()?;
            self.bare.crun("crun", Stdio::null())?;
            self.note("warm-bare-crun", counted, &since)?;
            for (name, way, agent) in [
                ("warm-crun", Way::CRUN, &*self.agent),
                ("warm-crun-isolated", Way::ISOLATED, &*self.agent),
                ("warm-crun-on-disk", Way::CRUN, &self.on_disk),
            ] {
                let since = Since::now()?;
                let report = agent.succeed(way, NO_OP, "warm-output").await?;
                self.note(name, counted, &since)?;
                if counted {
                    let text = serde_json::to_string(&report)?;
                    fs::write(self.result(&format!("{name}.{round}.json")), text)?;
                }
            }
        }
        Ok(())
    }

    async fn podman(&self, rounds: u32) -> Outcome<()> {
        for round in 0..rounds + WARM_UP {
            let counted = round >= WARM_UP;
            let since = Since::now()?;
            self.bare.podman("podman-run", NO_OP)?;
            self.note("warm-bare-podman", counted, &since)?;
            let since = Since::now()?;
            let way = Way::PODMAN;
            self.agent.succeed(way, NO_OP, "warm-output").await?;
            self.note("warm-podman", counted, &since)?;
        }
        Ok(())
    }

    /// So many lanes, in each of them so many jobs one after another; the numbers are milliseconds for a job.
    async fn parallel(&self, lanes: u32, jobs: u32, rounds: u32) -> Outcome<()> {
        for lane in 0..lanes {
            self.bare.bundle(&format!("lane-{lane}"), NO_OP)?;
        }
        let bare = &self.bare;
        let per_job = |number: f64| number / f64::from(lanes * jobs);
        for round in 0..=rounds {
            let since = Since::now()?;
            std::thread::scope(|scope| {
                let lane = |lane: u32| {
                    let name = format!("lane-{lane}");
                    let run = move || bare.crun(&name, Stdio::null()).map_err(|e| e.to_string());
                    scope.spawn(move || (0..jobs).try_for_each(|_| run()))
                };
                let lanes: Vec<_> = (0..lanes).map(lane).collect();
                lanes.into_iter().try_for_each(|lane| {
                    lane.join()
                        .unwrap_or_else(|_| Err("a lane broke".to_owned()))
                })
            })?;
            let (name, counted) = (format!("parallel-{lanes}-bare"), round > 0);
            self.number(&name, counted, per_job(since.ms()))?;
            self.number(&format!("{name}.cpu"), counted, per_job(since.cpu_ms()?))?;
            let since = Since::now()?;
            let set = LocalSet::new();
            let tasks: Vec<_> = (0..lanes)
                .map(|lane| {
                    let agent = Rc::clone(&self.agent);
                    set.spawn_local(async move {
                        for _ in 0..jobs {
                            let to = format!("lane-{lane}-published");
                            let ended = agent.succeed(Way::CRUN, NO_OP, &to).await;
                            ended.map_err(|e| e.to_string())?;
                        }
                        Ok::<_, String>(())
                    })
                })
                .collect();
            set.run_until(async {
                for task in tasks {
                    task.await.map_err(|e| e.to_string())??;
                }
                Ok::<_, String>(())
            })
            .await?;
            let (name, counted) = (format!("parallel-{lanes}-bryo"), round > 0);
            self.number(&name, counted, per_job(since.ms()))?;
            self.number(&format!("{name}.cpu"), counted, per_job(since.cpu_ms()?))?;
        }
        Ok(())
    }

    /// So much output, by hand to a file, and through an agent to a file; and how much memory the agent took for it.
    async fn output(&self, mib: u32, rounds: u32) -> Outcome<()> {
        let bytes = u64::from(mib) << 20;
        let script = format!("yes 'a line of exactly thirty-two by.' | head -c {bytes}; {NO_OP}");
        self.bare.bundle("printing", &script)?;
        let file = self.work.join("printed");
        for round in 0..=rounds {
            let counted = round > 0;
            let since = Since::now()?;
            self.bare.crun("printing", File::create(&file)?.into())?;
            self.note(&format!("output-{mib}-bare"), counted, &since)?;
            same(bytes, fs::metadata(&file)?.len())?;
            self.number(&format!("output-{mib}-before"), counted, forget_peak()?)?;
            let since = Since::now()?;
            let mut to = BufWriter::new(File::create(&file)?);
            let mut failed = None;
            let job = self.agent.job(Way::CRUN.network, &script)?;
            let listen = |event| {
                if let Event::Log(piece) = event {
                    failed = to.write_all(&piece.bytes).err().or(failed.take());
                }
            };
            let goes = (&job, "printing-published");
            let control = Control::new();
            let (verdict, _) = self
                .agent
                .attempt(Way::CRUN, goes, &control, listen)
                .await?;
            to.flush()?;
            self.note(&format!("output-{mib}-bryo"), counted, &since)?;
            if verdict != Verdict::Succeeded || failed.is_some() {
                return Err(format!("{verdict:?}, {failed:?}").into());
            }
            same(bytes, fs::metadata(&file)?.len())?;
            self.number(&format!("output-{mib}-peak"), counted, peak()?)?;
        }
        Ok(())
    }

    /// From the caller's wish to the moment at which no process of the job is left.
    async fn cancel(&self, way: Way, rounds: u32) -> Outcome<()> {
        for round in 0..rounds + WARM_UP {
            let job = self.agent.job(way.network, ENDLESS)?;
            let name = ContainerName::of(job.id);
            let cgroup = cgroup()?.join(name.as_str()).join("cgroup.events");
            let control = Control::new();
            let mut watcher = None;
            let listen = |event| {
                if let (Event::Log(_), true) = (event, watcher.is_none()) {
                    // From a thread of its own: whoever waits for the end must not keep the agent from bringing it about.
                    let (control, cgroup) = (control.clone(), cgroup.clone());
                    watcher = Some(std::thread::spawn(move || {
                        let since = Instant::now();
                        control.cancel();
                        while populated(&cgroup) {
                            std::thread::sleep(LOOK);
                        }
                        since.elapsed()
                    }));
                }
            };
            let goes = (&job, "cancelled-output");
            let (verdict, _) = self.agent.attempt(way, goes, &control, listen).await?;
            let took = watcher.and_then(|watcher| watcher.join().ok());
            let (Verdict::Cancelled(_), Some(took)) = (&verdict, took) else {
                return Err(format!("a cancelled attempt ended as {verdict:?}").into());
            };
            let ms = took.as_secs_f64() * 1e3;
            self.number(
                &format!("agent-cancel-{}", way.runtime),
                round >= WARM_UP,
                ms,
            )?;
        }
        Ok(())
    }

    fn result(&self, name: &str) -> PathBuf {
        self.work.join("results").join(name)
    }

    fn note(&self, name: &str, counted: bool, since: &Since) -> Outcome<()> {
        self.number(name, counted, since.ms())?;
        self.number(&format!("{name}.cpu"), counted, since.cpu_ms()?)
    }

    fn number(&self, name: &str, counted: bool, number: f64) -> Outcome<()> {
        if !counted {
            return Ok(());
        }
        let file = self.result(name);
        let mut file = OpenOptions::new().create(true).append(true).open(file)?;
        Ok(writeln!(file, "{number:.2}")?)
    }
}

/// When something began, and what all processes of the bench had used of the processors by then.
struct Since {
    time: Instant,
    cpu_us: u64,
}

impl Since {
    fn now() -> Outcome<Self> {
        Ok(Self {
            cpu_us: cpu_us()?,
            time: Instant::now(),
        })
    }

    fn ms(&self) -> f64 {
        self.time.elapsed().as_secs_f64() * 1e3
    }

    /// Exact to the kernel's own accounting; what kernel threads do for a job is not in it.
    fn cpu_ms(&self) -> Outcome<f64> {
        Ok(Duration::from_micros(cpu_us()?.saturating_sub(self.cpu_us)).as_secs_f64() * 1e3)
    }
}

fn cpu_us() -> Outcome<u64> {
    let text = fs::read_to_string(cgroup()?.join("cpu.stat"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("usage_usec "));
    Ok(line.ok_or("the kernel counts no time")?.parse()?)
}

/// Where the user's caches are, as `bryo run` has its own there.
fn cache() -> Outcome<PathBuf> {
    let dir = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let of_home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let dir = dir.or_else(of_home).ok_or("there is no HOME")?;
    Ok(dir.join("bryo-bench"))
}

/// The cgroup that everything of the bench is in.
fn cgroup() -> Outcome<PathBuf> {
    let dir = std::env::var_os("BRYO_TEST_CGROUP").ok_or("BRYO_TEST_CGROUP is not set")?;
    Ok(PathBuf::from(dir))
}

fn populated(events: &Path) -> bool {
    fs::read_to_string(events).is_ok_and(|text| text.contains("populated 1"))
}

fn same(wanted: u64, got: u64) -> Outcome<()> {
    match wanted == got {
        true => Ok(()),
        false => Err(format!("{got} bytes came of {wanted}").into()),
    }
}

/// From here on the kernel counts the peak of this process' memory anew: proc(5), `clear_refs`. Gives what it has now.
fn forget_peak() -> Outcome<f64> {
    fs::write("/proc/self/clear_refs", "5")?;
    peak()
}

/// The peak since then, in MiB.
fn peak() -> Outcome<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib: f64 = line
        .and_then(|l| l.split_whitespace().next())
        .ok_or("the kernel counts no peak")?
        .parse()?;
    Ok(kib / 1024.0)
}
