//! Servers that are not there, or not well; disks without room.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use bryo_stories::{DocThor, Endpoint, Fault, Gate, Status, let_go, running_jobs, wait_until};

use nix::sys::signal::Signal;

use super::Scene;
use crate::stories;

/// Bytes that an agent may hold on to, whatever a server sends.
const MOST_MEMORY: u64 = 128 << 20;

/// The most memory that a process had, in bytes.
fn peak(pid: nix::unistd::Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse::<u64>().unwrap() << 10
}

/// Fills a file system to its last byte.
fn fill(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("filler");
    let mut file = std::fs::File::create(&path).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    path
}

stories! {
    fn a_server_that_comes_late(world) {
        let mut scene = Scene::new();
        scene.project(world, "succeeds");
        let id = scene.server.trigger("succeeds", "", "v1");
        scene.server.away();
        let agent = scene.agent(world).start();
        agent.until("refused");
        scene.server.back();
        scene.is_published(world, id);
        agent.stop();
        scene.server.each_once_as(Status::Success);
    }

    fn a_server_that_goes_while_builds_run(world) {
        let mut scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let builds = ["v1", "v2"].map(|tag| scene.server.trigger("ends-when-let-go", "", tag));
        let recipe = scene.agent(world).set("agent.slots", "2");
        let agent = recipe.start();
        wait_until("both run", || running_jobs() == 2);
        scene.server.away();
        let_go();
        agent.until_status("both results wait", |status| status["outbox"] == 2);
        // What waits survives the agent.
        agent.stop();
        let agent = recipe.start();
        agent.until_status("both results wait", |status| status["outbox"] == 2);
        scene.server.back();
        for id in builds {
            scene.is_published(world, id);
        }
        agent.until_status("nothing waits to be told", |status| status["outbox"] == 0);
        agent.stop();
        scene.server.each_once_as(Status::Success);
    }

    fn a_claim_that_hangs_holds_nothing_up(world) {
        for after_headers in [false, true] {
            let scene = Scene::new();
            scene.project(world, "ends-when-let-go");
            let id = scene.server.trigger("ends-when-let-go", "", "v1");
            let recipe = world.agent(&format!("agent-{after_headers}"), &scene.server, &scene.bucket);
            let agent = recipe.set("agent.slots", "2").start();
            wait_until("it runs", || running_jobs() == 1);
            let gate = Gate::new();
            let fault = if after_headers { Fault::HangsAfterHeaders } else { Fault::Hangs };
            scene.server.fault(Endpoint::Claim, fault(gate.clone()), 1);
            let second = scene.server.trigger("ends-when-let-go", "", "v2");
            wait_until("the claim hangs", || gate.waiting() == 1);
            let_go();
            scene.is_published(world, id);
            gate.open();
            wait_until("the second runs", || running_jobs() == 1);
            let_go();
            scene.is_published(world, second);
            agent.stop();
            scene.server.each_once_as(Status::Success);
        }
    }

    fn a_server_that_takes_connections_and_says_nothing(world) {
        let scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let id = scene.server.trigger("ends-when-let-go", "", "v1");
        let agent = scene.agent(world).start();
        wait_until("it runs", || running_jobs() == 1);
        let gate = Gate::new();
        scene.server.mute(&gate);
        let_go();
        wait_until("the report hangs", || gate.waiting() > 0);
        gate.open();
        scene.is_published(world, id);
        agent.stop();
        scene.server.each_once_as(Status::Success);
    }

    fn answers_that_are_cut_slow_or_lost(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        // The id stands before the cut: that build can be reported.
        scene.server.fault(Endpoint::Claim, Fault::CutInBody, 1);
        let cut = scene.server.trigger("succeeds", "", "v1");
        let agent = scene.agent(world).start();
        let build = scene.server.ended(cut);
        assert_eq!(build.status, Status::Failed, "{build:#?}");
        // Nobody can know which builds these were.
        let lost = ["v2", "v2b"].map(|tag| {
            scene.server.fault(Endpoint::Claim, Fault::Lost, 1);
            let lost = scene.server.trigger("succeeds", "", tag);
            scene.server.wait("it is given away", |history| history.build(lost).claims == 1);
            lost
        });
        scene.server.fault(Endpoint::Claim, Fault::Trickles(Duration::from_millis(5)), 1);
        let slow = scene.server.trigger("succeeds", "", "v3");
        scene.is_published(world, slow);
        scene.server.fault(Endpoint::Result, Fault::Trickles(Duration::from_millis(5)), 1);
        let slow = scene.server.trigger("succeeds", "", "v4");
        scene.is_published(world, slow);
        for fault in [Fault::Lost, Fault::CutInBody, Fault::LostBefore, Fault::Garbage] {
            scene.server.fault(Endpoint::Result, fault, 1);
        }
        let told = scene.server.trigger("succeeds", "", "v5");
        scene.is_published(world, told);
        agent.until_status("nothing waits to be told", |status| status["outbox"] == 0);
        let alarms = agent.status()["alarms"].to_string();
        assert!(alarms.contains("lost claim docs") && alarms.contains("number 2"), "{alarms}");
        let log = agent.stop();
        assert!(lost.iter().all(|id| scene.server.build(*id).status == Status::Running));
        for number in ["number 1", "number 2"] {
            let told = log.lines().any(|line| line.contains("WARN") && line.contains(number));
            assert!(told, "{number}: {log}");
        }
        scene.server.look(|history| {
            assert!(history.builds().iter().all(|build| build.claims == 1));
        });
    }

    fn answers_that_make_no_sense(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        for (endpoint, fault) in [
            (Endpoint::Claim, Fault::Garbage),
            (Endpoint::Claim, Fault::Says(200, "<html>".to_owned())),
            (Endpoint::Claim, Fault::Says(200, String::new())),
            (Endpoint::Claim, Fault::Says(418, "{}".to_owned())),
            (Endpoint::Claim, Fault::Says(302, String::new())),
            (Endpoint::Claim, Fault::Says(500, "{\"error\":\"database error\"}".to_owned())),
            (Endpoint::Result, Fault::Says(500, "{\"error\":\"database error\"}".to_owned())),
            (Endpoint::Result, Fault::Says(503, "<html>".to_owned())),
            (Endpoint::Result, Fault::Says(404, "<html>no such page</html>".to_owned())),
            (Endpoint::Result, Fault::Says(429, String::new())),
        ] {
            scene.server.fault(endpoint, fault, 1);
        }
        let id = scene.server.trigger("succeeds", "", "v1");
        let agent = scene.agent(world).start();
        scene.hurry(&agent, "it has ended", |history| history.build(id).status.is_final());
        scene.is_published(world, id);
        agent.stop();
        scene.server.each_once_as(Status::Success);
    }

    fn an_answer_without_end(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        scene.server.fault(Endpoint::Claim, Fault::Huge(200), 1);
        scene.server.fault(Endpoint::Result, Fault::Huge(500), 1);
        let id = scene.server.trigger("succeeds", "", "v1");
        let agent = scene.agent(world).start();
        scene.is_published(world, id);
        scene.server.wait("both were cut off", |history| history.exchanges().len() > 3);
        assert!(scene.server.look(bryo_stories::History::huge) < 200 << 20);
        let peak = peak(agent.id());
        assert!(peak < MOST_MEMORY, "{peak}");
        agent.stop();
    }

    fn a_token_that_is_revoked_for_a_while(world) {
        let scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let id = scene.server.trigger("ends-when-let-go", "", "v1");
        let agent = scene.agent(world).start();
        wait_until("it runs", || running_jobs() == 1);
        scene.server.revoke();
        let_go();
        scene.server.wait("the report is refused", |history| {
            history.of(Endpoint::Result).any(|exchange| exchange.status == Some(401))
        });
        agent.until("token");
        agent.until_status("the result is kept", |status| status["outbox"] == 1);
        assert_eq!(scene.server.build(id).status, Status::Running);
        scene.server.restore();
        scene.is_published(world, id);
        let next = scene.server.trigger("ends-when-let-go", "", "v2");
        wait_until("the next runs", || running_jobs() == 1);
        let_go();
        scene.is_published(world, next);
        agent.stop();
        scene.server.each_once_as(Status::Success);
    }

    fn a_project_that_is_deleted_meanwhile(world) {
        let scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        scene.project(world, "succeeds");
        scene.server.trigger("ends-when-let-go", "", "v1");
        let agent = scene.agent(world).start();
        wait_until("it runs", || running_jobs() == 1);
        scene.server.delete_project("ends-when-let-go");
        let_go();
        scene.server.wait("it is told that there is no such build", |history| {
            history.of(Endpoint::Result).any(|exchange| exchange.status == Some(404))
        });
        agent.until_status("nothing waits to be told", |status| status["outbox"] == 0);
        let id = scene.server.trigger("succeeds", "", "v1");
        scene.is_published(world, id);
        agent.stop();
    }

    fn a_bucket_in_a_storm(world) {
        let scene = Scene::new();
        scene.project(world, "makes-a-site");
        let agent = scene.agent(world).start();
        for (tag, trouble) in [("v1", "storm"), ("v2", "cut"), ("v3", "both")] {
            if trouble != "cut" {
                scene.bucket.storm(4);
            }
            if trouble != "storm" {
                scene.bucket.cut_after(1);
                scene.bucket.cut_after(3);
            }
            let id = scene.server.trigger("makes-a-site", "", tag);
            let build = scene.server.ended(id);
            assert_eq!(build.status, Status::Success, "{trouble}: {build:#?}");
            assert_eq!(scene.bucket.below(&format!("makes-a-site/{tag}/")).len(), 11, "{trouble}");
        }
        agent.stop();
        assert_eq!(scene.bucket.below("makes-a-site/v1/"), scene.bucket.below("makes-a-site/v3/"));
    }

    fn a_bucket_that_is_away(world) {
        let mut scene = Scene::new();
        let path = scene.project(world, "makes-a-site");
        let agent = scene.agent(world).text("jobs.limits.stages.publish", "2s").start();
        let first = scene.server.trigger("makes-a-site", "", "v1");
        assert_eq!(scene.server.ended(first).status, Status::Success);
        let old = scene.bucket.objects();
        std::fs::remove_file(path.join("site/data.json")).unwrap();
        std::fs::write(path.join("site/index.html"), "new").unwrap();
        bryo_stories::Repository::open(path).commit("new");
        scene.bucket.away();
        let id = scene.server.trigger("makes-a-site", "", "v1");
        let build = scene.server.ended(id);
        let error = build.error.as_deref().unwrap_or_default();
        assert!(build.status == Status::Failed && error.starts_with("upload: "), "{build:#?}");
        scene.bucket.back();
        assert_eq!(scene.bucket.objects(), old);
        agent.signal(Signal::SIGHUP);
        let again = scene.server.trigger("makes-a-site", "", "v1");
        assert_eq!(scene.server.ended(again).status, Status::Success);
        agent.stop();
        let there = scene.bucket.below("makes-a-site/v1/");
        assert!(there["index.html"].bytes == b"new" && !there.contains_key("data.json"));
    }

    fn a_bucket_that_refuses_the_keys(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        let right = scene.agent(world);
        let agent = right.clone().text("s3.access-key", "GKsomebodyelse00").start();
        // No build is burnt for that.
        let id = scene.server.trigger("succeeds", "", "v1");
        agent.until_status("it says so", |status| status["alarms"].to_string().contains("keys"));
        assert_eq!(scene.server.look(|history| history.of(Endpoint::Claim).count()), 0);
        right.write();
        agent.signal(Signal::SIGHUP);
        scene.is_published(world, id);
        agent.stop();
    }

    /// Each right is missed before a job is taken, and named.
    fn a_bucket_that_may_be_listed_and_no_more(world) {
        for (method, right) in [("PUT", "s3:PutObject"), ("GET", "s3:GetObject"), ("DELETE", "s3:DeleteObject")] {
            let scene = Scene::new();
            scene.project(world, "succeeds");
            scene.bucket.deny(method, ".bryo/");
            let recipe = world.agent(&format!("agent-{method}"), &scene.server, &scene.bucket);
            let agent = recipe.start();
            let id = scene.server.trigger("succeeds", "", "v1");
            agent.until_status("it says which right is missing", |status| status["alarms"].to_string().contains(right));
            assert_eq!(scene.server.look(|history| history.of(Endpoint::Claim).count()), 0);
            scene.bucket.calm();
            agent.signal(Signal::SIGHUP);
            scene.is_published(world, id);
            agent.stop();
            assert!(scene.bucket.below(".bryo/probe-").is_empty(), "{method}");
        }
    }

    /// What no look can find out closes the gate after a few builds, however many wait.
    fn a_bucket_that_takes_no_site(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        scene.bucket.deny("PUT", "succeeds/");
        let builds: Vec<_> = (0..6).map(|n| scene.server.trigger("succeeds", "", &format!("v{n}"))).collect();
        let agent = scene.agent(world).start();
        let failed = |history: &bryo_stories::History| history.count(Status::Failed);
        for burnt in 1..3 {
            scene.hurry(&agent, "a build is burnt", |history| failed(history) >= burnt);
        }
        agent.until_status("no more are taken", |status| {
            let alarms = status["alarms"].to_string();
            alarms.contains("failures") && alarms.contains("one is tried in") && status["host_ready"] == false
        });
        // It tells its server of the last one a moment later.
        scene.server.wait("the last one that was burnt is told", |history| failed(history) >= 3);
        assert_eq!(scene.server.look(failed), 3);
        scene.bucket.calm();
        for id in &builds[3..] {
            scene.hurry(&agent, "it is built", |history| history.build(*id).status.is_final());
            scene.is_published(world, *id);
        }
        assert!(!agent.status()["alarms"].to_string().contains("failures"));
        agent.stop();
        assert_eq!(scene.server.look(|history| history.count(Status::Success)), 3);
    }

    /// Whoever names a registry that is away stops nobody else's builds.
    fn a_registry_that_is_away(world) {
        let scene = Scene::new();
        let repository = scene.project(world, "succeeds");
        let source = format!("file://{}", repository.display());
        scene.server.project("away", &source, "127.0.0.1:1/no/image:1");
        let agent = scene.agent(world).start();
        for n in 0..5 {
            let id = scene.server.trigger("away", "", &format!("v{n}"));
            let build = scene.server.ended(id);
            assert!(build.error.as_deref().unwrap_or_default().contains("registry"), "{build:#?}");
        }
        let status = agent.status();
        assert!(status["host_ready"] == true && !status["alarms"].to_string().contains("failures"), "{status}");
        let id = scene.server.trigger("succeeds", "", "v1");
        scene.is_published(world, id);
        agent.stop();
    }

    /// A bound that no disk of this host could keep is found before a job is.
    fn a_bound_that_this_host_cannot_keep(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        // In the bed's memory there is no disk.
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let right = scene.agent(world);
        let wrong = right.clone()
            .text("jobs.limits.io-write", "1m")
            .text("host.work", &memory.path().display().to_string());
        let agent = wrong.start();
        let id = scene.server.trigger("succeeds", "", "v1");
        agent.until_status("it says which", |status| {
            let alarms = status["alarms"].to_string();
            alarms.contains("no jobs are taken") && alarms.contains("io write")
        });
        assert_eq!(scene.server.look(|history| history.of(Endpoint::Claim).count()), 0);
        right.text("host.work", &memory.path().display().to_string()).write();
        agent.signal(Signal::SIGHUP);
        scene.is_published(world, id);
        agent.stop();
    }

    fn a_disk_that_is_full_at_the_start(world) {
        let Some(small) = std::env::var_os("BRYO_TEST_SMALL_FS") else {
            eprintln!("SKIPPED: this bed has no small file system");
            return;
        };
        let small = Path::new(&small);
        let scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let state = small.join("state-at-start");
        let recipe = scene.agent(world).text("agent.state", &state.display().to_string());
        let recipe = recipe.text("agent.control", &world.path().join("control").display().to_string());
        let cut_short = scene.server.trigger("ends-when-let-go", "", "v1");
        let agent = recipe.start();
        wait_until("it runs", || running_jobs() == 1);
        agent.kill();
        bryo_stories::until_its_processes_are_gone(world);
        let filler = fill(small);
        // It begins all the same, and says what is wrong.
        let agent = recipe.start();
        agent.until_status("it says so", |status| status["alarms"].as_array().is_some_and(|alarms| !alarms.is_empty()));
        std::fs::remove_file(filler).unwrap();
        let build = scene.server.ended(cut_short);
        assert_eq!(build.status, Status::Failed, "{build:#?}");
        agent.until_status("it is recorded", |status| status["outbox"] == 0);
        agent.stop();
        std::fs::remove_dir_all(&state).unwrap();
    }

    /// What an agent leaves at its end is whole, so its state is read with no room at all.
    fn a_disk_that_is_full_when_an_agent_is_started_again(world) {
        let Some(small) = std::env::var_os("BRYO_TEST_SMALL_FS") else {
            eprintln!("SKIPPED: this bed has no small file system");
            return;
        };
        let small = Path::new(&small);
        let mut scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let state = small.join("state-again");
        let recipe = scene.agent(world).text("agent.state", &state.display().to_string());
        let recipe = recipe.text("agent.control", &world.path().join("control").display().to_string());
        let waits = scene.server.trigger("ends-when-let-go", "", "v1");
        let agent = recipe.start();
        wait_until("it runs", || running_jobs() == 1);
        scene.server.away();
        let_go();
        agent.until_status("its result waits", |status| status["outbox"] == 1);
        agent.stop();
        let filler = fill(small);
        let agent = recipe.start();
        scene.server.back();
        // What was recorded is told without a byte.
        scene.is_published(world, waits);
        agent.until_status("it says so", |status| status["alarms"].to_string().contains("full"));
        std::fs::remove_file(filler).unwrap();
        agent.until_status("it is recorded", |status| status["outbox"] == 0);
        agent.stop();
        std::fs::remove_dir_all(&state).unwrap();
        scene.server.each_once_as(Status::Success);
    }

    /// A disk that is full of what can be made again has room for a new state.
    fn a_disk_that_is_full_of_cache_when_an_agent_is_started(world) {
        let Some(small) = std::env::var_os("BRYO_TEST_SMALL_FS") else {
            eprintln!("SKIPPED: this bed has no small file system");
            return;
        };
        let small = Path::new(&small);
        let scene = Scene::new();
        scene.project(world, "succeeds");
        let cache = small.join("cache");
        let control = world.path().join("control").display().to_string();
        let state = |name| small.join(name).display().to_string();
        let cache = cache.to_str().unwrap();
        let recipe = scene.agent(world).text("agent.control", &control).env("BRYO_CACHE_DIR", cache);
        let agent = recipe.clone().text("agent.state", &state("state-one")).start();
        let id = scene.server.trigger("succeeds", "", "v1");
        scene.is_published(world, id);
        agent.stop();
        let filler = fill(small);
        let agent = recipe.text("agent.state", &state("state-two")).start();
        agent.until("removed from the cache");
        let id = scene.server.trigger("succeeds", "", "v2");
        std::fs::remove_file(filler).unwrap();
        scene.is_published(world, id);
        agent.stop();
        let mut command = world.command();
        command.args(["gc", "--all", "--cache-dir", cache]);
        assert_eq!(world.start_command(&mut command).end().code, 0);
        for name in ["cache", "state-one", "state-two"] {
            std::fs::remove_dir_all(state(name)).unwrap();
        }
    }

    fn a_full_disk(world) {
        let Some(small) = std::env::var_os("BRYO_TEST_SMALL_FS") else {
            eprintln!("SKIPPED: this bed has no small file system");
            return;
        };
        let small = Path::new(&small);
        let scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let state = small.join("state");
        let recipe = scene.agent(world).text("agent.state", &state.display().to_string());
        let recipe = recipe.text("agent.control", &world.path().join("control").display().to_string());
        let running = scene.server.trigger("ends-when-let-go", "", "v1");
        let agent = recipe.start();
        wait_until("it runs", || running_jobs() == 1);
        let filler = fill(small);
        let_go();
        // The result is kept until it can be written down.
        wait_until("it has ended", || running_jobs() == 0);
        let waiting = scene.server.trigger("ends-when-let-go", "", "v2");
        agent.until_status("it says so", |status| status["alarms"].as_array().is_some_and(|alarms| !alarms.is_empty()));
        assert_eq!(scene.server.build(waiting).claims, 0);
        std::fs::remove_file(filler).unwrap();
        scene.is_published(world, running);
        wait_until("the next runs", || running_jobs() == 1);
        let_go();
        scene.is_published(world, waiting);
        agent.stop();
        std::fs::remove_dir_all(&state).unwrap();
        // What could not be written down was told from memory, and perhaps once more afterwards.
        scene.server.look(|history| {
            assert!(history.builds().iter().all(|build| build.claims == 1 && build.reports[0] == 200));
        });
    }

    fn two_servers_and_one_of_them_is_away(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        let mut other = DocThor::start();
        other.away();
        let recipe = scene
            .agent(world)
            .text("feed.other.type", "doc-thor")
            .text("feed.other.server", &other.url())
            .text("feed.other.token", bryo_stories::TOKEN)
            .text("feed.other.poll", "100ms");
        let agent = recipe.start();
        let id = scene.server.trigger("succeeds", "", "v1");
        scene.is_published(world, id);
        other.back();
        let source = format!("file://{}", world.path().join("succeeds").display());
        other.project("elsewhere", &source, "busybox");
        let id = other.trigger("elsewhere", "", "v1");
        assert_eq!(other.ended(id).status, Status::Success);
        agent.stop();
        scene.server.each_once_as(Status::Success);
        other.each_once_as(Status::Success);
    }
}
