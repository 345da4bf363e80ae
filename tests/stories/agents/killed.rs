//! Agents that are killed where they stand: nothing lost, nothing doubled, nothing left.
//!
//! One thing cannot be kept: a build that the server gives away to an agent that dies before it has written that down. The
//! protocol cannot take it back. Which builds that may happen to is looked at closely.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use bryo_stories::{
    Agent, Endpoint, Fault, Gate, Recipe, Status, World, let_go, running_jobs,
    until_its_processes_are_gone, wait_until,
};
use nix::sys::signal::Signal;

use super::Scene;
use crate::{crashing::Random, stories};

/// A server that accepts and never answers; whoever speaks to it is stuck.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn kill(world: &World, agent: Agent<'_>) {
    agent.kill();
    until_its_processes_are_gone(world);
}

/// The next agent tells of a build that was cut short, takes a new one, and leaves nothing.
#[track_caller]
fn the_next_one_tells(scene: &Scene, world: &World, recipe: &Recipe<'_>, cut_short: u64) {
    let next = recipe.start();
    let build = scene.server.ended(cut_short);
    assert_eq!(
        (build.status, build.reports.as_slice()),
        (Status::Failed, [200].as_slice()),
        "{build:#?}"
    );
    let error = build.error.unwrap();
    assert!(error.contains("agent") && error.contains(": "), "{error}");
    let id = scene.server.trigger("succeeds", "", "after");
    scene.is_published(world, id);
    next.stop();
}

stories! {
    fn while_a_build_is_given_to_it(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        let gate = Gate::new();
        scene.server.fault(Endpoint::Claim, Fault::Hangs(gate.clone()), 1);
        let lost = scene.server.trigger("succeeds", "", "v1");
        let recipe = scene.agent(world);
        let agent = recipe.start();
        wait_until("the build is given away", || gate.waiting() == 1);
        kill(world, agent);
        gate.open();
        let id = scene.server.trigger("succeeds", "", "v2");
        let agent = recipe.start();
        scene.is_published(world, id);
        agent.stop();
        // The server believes that somebody builds it. Nobody ever heard of it.
        let build = scene.server.build(lost);
        assert_eq!((build.claims, build.status), (1, Status::Running));
    }

    fn in_fetch(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        let (git, address) = silent();
        scene.server.project("stuck", &format!("http://{address}/repository.git"), "busybox");
        let id = scene.server.trigger("stuck", "", "v1");
        let recipe = scene.agent(world).set("jobs.allowed-hosts", &format!("[\"{address}\"]"))
            .set("source.protocols", "[\"http\", \"file\"]").set("source.reach", &format!("[\"{address}\"]"));
        let agent = recipe.start();
        let connection = git.accept().unwrap();
        kill(world, agent);
        drop((git, connection));
        the_next_one_tells(&scene, world, &recipe, id);
    }

    fn in_prepare(world) {
        let scene = Scene::new();
        let path = scene.project(world, "succeeds");
        let (registry, address) = silent();
        let source = format!("file://{}", path.display());
        scene.server.project("stuck", &source, &format!("{address}/some/image:1"));
        let id = scene.server.trigger("stuck", "", "v1");
        let recipe = scene.agent(world);
        let agent = recipe.start();
        let connection = registry.accept().unwrap();
        kill(world, agent);
        drop((registry, connection));
        the_next_one_tells(&scene, world, &recipe, id);
    }

    fn in_run(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        scene.project(world, "ends-when-let-go");
        let id = scene.server.trigger("ends-when-let-go", "", "v1");
        let recipe = scene.agent(world);
        let agent = recipe.start();
        wait_until("the job runs", || running_jobs() == 1);
        kill(world, agent);
        the_next_one_tells(&scene, world, &recipe, id);
        assert!(scene.bucket.below("ends-when-let-go/").is_empty());
    }

    fn in_run_and_it_may_run_again(world) {
        let scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let twice = scene.server.trigger("ends-when-let-go", "", "v1");
        let recipe = scene.agent(world).text("agent.recovery", "retry-once");
        for _ in 0..2 {
            let agent = recipe.start();
            wait_until("the job runs", || running_jobs() == 1);
            kill(world, agent);
        }
        // Killed twice is enough.
        let agent = recipe.start();
        assert_eq!(scene.server.ended(twice).status, Status::Failed);
        let once = scene.server.trigger("ends-when-let-go", "", "v2");
        wait_until("the job runs", || running_jobs() == 1);
        kill(world, agent);
        let agent = recipe.start();
        wait_until("the job runs again", || running_jobs() == 1);
        let_go();
        scene.is_published(world, once);
        agent.stop();
        assert_eq!(scene.server.build(once).claims, 1);
    }

    fn in_collect(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        scene.project(world, "fifty-thousand-files");
        let id = scene.server.trigger("fifty-thousand-files", "", "v1");
        let recipe = scene.agent(world);
        let agent = recipe.start();
        agent.until("stage=collect");
        kill(world, agent);
        the_next_one_tells(&scene, world, &recipe, id);
        assert!(scene.bucket.below("fifty-thousand-files/").is_empty());
    }

    fn half_way_through_publishing(world) {
        let scene = Scene::new();
        let path = scene.project(world, "makes-a-site");
        scene.project(world, "succeeds");
        let recipe = scene.agent(world);
        let agent = recipe.start();
        let first = scene.server.trigger("makes-a-site", "", "v1");
        assert_eq!(scene.server.ended(first).status, Status::Success);
        let old = scene.bucket.below("makes-a-site/v1/");
        for name in ["index.html", "style.css", "app.js", "LICENSE"] {
            std::fs::write(path.join("site").join(name), "new").unwrap();
        }
        std::fs::remove_file(path.join("site/data.json")).unwrap();
        bryo_stories::Repository::open(path).commit("new");
        let gate = Gate::new();
        scene.bucket.hold_after(2, &gate);
        let id = scene.server.trigger("makes-a-site", "", "v1");
        wait_until("it is half-way", || gate.waiting() == 1);
        kill(world, agent);
        gate.open();
        the_next_one_tells(&scene, world, &recipe, id);
        // Nothing of the old was removed, and pages come after what they need.
        let half = scene.bucket.below("makes-a-site/v1/");
        assert_eq!(half.keys().collect::<Vec<_>>(), old.keys().collect::<Vec<_>>());
        // Not even what the dead one had left on the wire is as it should be; the next build repairs it.
        let again = scene.server.trigger("makes-a-site", "", "v1");
        let agent = recipe.start();
        assert_eq!(scene.server.ended(again).status, Status::Success);
        agent.stop();
        let there = scene.bucket.below("makes-a-site/v1/");
        assert!(!there.contains_key("data.json"), "{:?}", there.keys());
        for name in ["index.html", "style.css", "app.js", "LICENSE"] {
            assert_eq!(there[name].bytes, b"new", "{name}");
        }
    }

    fn while_it_tells(world) {
        for took_effect in [true, false] {
            let scene = Scene::new();
            scene.project(world, "succeeds");
            let gate = Gate::new();
            let hangs = Fault::Hangs(gate.clone());
            scene.server.fault(Endpoint::Result, if took_effect { hangs } else { Fault::LostBefore }, if took_effect { 1 } else { 1000 });
            let id = scene.server.trigger("succeeds", "", "v1");
            let recipe = world.agent(&format!("agent-{took_effect}"), &scene.server, &scene.bucket);
            let agent = recipe.start();
            scene.server.wait("it tells", |history| history.of(Endpoint::Result).next().is_some());
            kill(world, agent);
            gate.open();
            scene.server.no_faults();
            let agent = recipe.start();
            scene.server.wait("it tells again", |history| {
                history.build(id).reports.last() == Some(if took_effect { &409 } else { &200 })
            });
            agent.until_status("nothing waits to be told", |status| status["outbox"] == 0);
            agent.stop();
            scene.is_published(world, id);
            let build = scene.server.build(id);
            let reports: &[u16] = if took_effect { &[200, 409] } else { &[200] };
            assert_eq!((build.claims, build.reports.as_slice()), (1, reports), "{build:#?}");
        }
    }

    fn at_random_moments(world) {
        const KILLS: usize = 15;
        let scene = Scene::new();
        scene.project(world, "succeeds");
        let recipe = scene.agent(world).set("agent.slots", "2").text("agent.recovery", "retry-once");
        // How long an agent takes from its start to the end of two builds.
        let since = Instant::now();
        let agent = recipe.start();
        for tag in ["a", "b"] {
            scene.server.trigger("succeeds", "", tag);
        }
        scene.server.all_ended();
        let whole = since.elapsed().as_nanos() * 5 / 4;
        agent.stop();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut given_at_kill = Vec::new();
        for round in 0..KILLS {
            for n in 0..2 {
                scene.server.trigger("succeeds", "", &format!("{round}-{n}"));
            }
            let agent = recipe.launch(&["agent"]);
            // The moment is the test: nothing is waited for.
            let moment = (u128::from(random.next()) * whole) >> 64;
            std::thread::sleep(Duration::from_nanos(u64::try_from(moment).unwrap()));
            agent.kill();
            // The last one that was given away may have been on its way.
            given_at_kill.push(scene.server.look(|history| {
                history.builds().iter().rev().find(|build| build.claims > 0).map(|build| build.id)
            }));
        }
        let agent = recipe.start();
        scene.server.wait("what was not lost on its way has ended", |history| {
            history.builds().iter().all(|build| build.status.is_final() || given_at_kill.contains(&Some(build.id)))
        });
        agent.until_status("nothing goes on", |status| status["outbox"] == 0 && status["slots_used"] == 0);
        agent.signal(Signal::SIGTERM);
        agent.ended();
        until_its_processes_are_gone(world);
        let (mut lost, mut cut_short) = (0, 0);
        let builds = scene.server.look(|history| history.builds().to_vec());
        for build in &builds {
            assert_eq!(build.claims, 1, "{build:#?}");
            // Once in effect: what comes after is told that it is known.
            let effects = build.reports.iter().filter(|status| **status == 200).count();
            match build.status {
                Status::Success => {
                    assert_eq!(effects, 1, "{build:#?}");
                    scene.is_published(world, build.id);
                }
                Status::Failed => {
                    assert_eq!(effects, 1, "{build:#?}");
                    assert!(build.error.as_ref().is_some_and(|e| e.contains("agent")), "{build:#?}");
                    cut_short += 1;
                }
                Status::Running => lost += 1,
                Status::Pending => panic!("{build:#?}"),
            }
        }
        eprintln!("{} builds, {KILLS} kills: {cut_short} cut short twice, {lost} lost on the wire", builds.len());
        world.nothing_is_left();
    }
}
