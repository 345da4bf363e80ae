//! How an agent is asked to stop, to pause, and to read its settings anew.

use std::time::{Duration, Instant};

use bryo_stories::{Endpoint, Fault, Gate, Status, let_go, running_jobs, wait_until};
use nix::sys::signal::Signal;

use super::Scene;
use crate::stories;

stories! {
    fn sigterm_lets_builds_end_and_takes_none(world) {
        let scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let running = scene.server.trigger("ends-when-let-go", "", "v1");
        let mut agent = scene.agent(world).set("agent.slots", "2").start();
        wait_until("it runs", || running_jobs() == 1);
        agent.signal(Signal::SIGTERM);
        agent.until_notified("STOPPING=1");
        let waiting = scene.server.trigger("ends-when-let-go", "", "v2");
        let_go();
        let (status, log) = agent.ended();
        assert_eq!(status.code(), Some(0), "{log}");
        world.nothing_is_left();
        scene.is_published(world, running);
        let build = scene.server.build(waiting);
        assert_eq!((build.status, build.claims), (Status::Pending, 0));
    }

    fn a_drain_has_a_bound(world) {
        let scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let id = scene.server.trigger("ends-when-let-go", "", "v1");
        let agent = scene.agent(world).text("agent.drain", "500ms").start();
        wait_until("it runs", || running_jobs() == 1);
        agent.stop();
        let build = scene.server.build(id);
        assert_eq!(build.status, Status::Failed);
        assert!(build.error.as_deref().is_some_and(|e| e.starts_with("run: ") && e.contains("agent")), "{build:#?}");
    }

    fn sigint_cancels_politely(world) {
        let scene = Scene::new();
        scene.project(world, "catches-sigterm");
        let id = scene.server.trigger("catches-sigterm", "", "v1");
        let agent = scene.agent(world).text("jobs.limits.grace", "60s").start();
        wait_until("it would notice", a_build_handles_sigterm);
        agent.signal(Signal::SIGINT);
        agent.ended();
        world.nothing_is_left();
        let build = scene.server.build(id);
        assert_eq!(build.status, Status::Failed, "{build:#?}");
        assert!(build.logs.as_deref().is_some_and(|logs| logs.contains("asked to end")), "{build:#?}");
    }

    fn a_second_sigint_waits_for_nothing(world) {
        let scene = Scene::new();
        scene.project(world, "ignores-sigterm");
        let id = scene.server.trigger("ignores-sigterm", "", "v1");
        let agent = scene.agent(world).text("jobs.limits.grace", "1h").start();
        wait_until("it runs", || running_jobs() == 1);
        agent.signal(Signal::SIGINT);
        agent.until_status("it is stopping", |status| status.to_string().contains("stopping") || status.to_string().contains("drain"));
        agent.signal(Signal::SIGINT);
        agent.ended();
        world.nothing_is_left();
        assert_eq!(scene.server.build(id).status, Status::Failed);
    }

    /// A request that may have given a build away is waited for, however often somebody says to hurry.
    fn no_sigint_loses_a_build_that_is_given_away(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        let gate = Gate::new();
        scene.server.fault(Endpoint::Claim, Fault::Hangs(gate.clone()), 1);
        let id = scene.server.trigger("succeeds", "", "v1");
        let agent = scene.agent(world).start();
        wait_until("the build is given away", || gate.waiting() == 1);
        agent.signal(Signal::SIGINT);
        agent.until("those that run are cancelled");
        agent.signal(Signal::SIGINT);
        agent.until("ended by force");
        // Each further one may come before the last one was obeyed.
        wait_until("it says what it waits for", || {
            agent.signal(Signal::SIGINT);
            std::thread::sleep(Duration::from_millis(20));
            agent.log().contains("on its way from its feed")
        });
        gate.open();
        let (status, log) = agent.ended();
        assert_eq!(status.code(), Some(0), "{log}");
        world.nothing_is_left();
        let build = scene.server.build(id);
        assert_eq!((build.status, build.reports.len()), (Status::Failed, 1), "{build:#?}");
    }

    fn pause_and_resume(world) {
        let scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let running = scene.server.trigger("ends-when-let-go", "", "v1");
        let recipe = scene.agent(world).set("agent.slots", "2");
        let agent = recipe.start();
        wait_until("it runs", || running_jobs() == 1);
        let told = recipe.ask(&["agent", "pause"]);
        assert_eq!(told.code, 0, "{}", told.err());
        agent.until_status("it pauses", |status| status.to_string().contains("paused"));
        let asked = scene.server.look(|history| history.of(Endpoint::Claim).count());
        let waiting = scene.server.trigger("ends-when-let-go", "", "v2");
        // What runs goes on, and is told.
        let_go();
        scene.is_published(world, running);
        let since = scene.server.look(|history| history.of(Endpoint::Claim).count());
        assert!(since <= asked + 1 && scene.server.build(waiting).claims == 0);
        let told = recipe.ask(&["agent", "resume"]);
        assert_eq!(told.code, 0, "{}", told.err());
        wait_until("the next runs", || running_jobs() == 1);
        let_go();
        scene.is_published(world, waiting);
        agent.stop();
        scene.server.each_once_as(Status::Success);
    }

    fn drain_by_command(world) {
        let scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let running = scene.server.trigger("ends-when-let-go", "", "v1");
        let recipe = scene.agent(world);
        let agent = recipe.start();
        wait_until("it runs", || running_jobs() == 1);
        let told = recipe.ask(&["agent", "drain"]);
        assert_eq!(told.code, 0, "{}", told.err());
        let_go();
        let (status, log) = agent.ended();
        assert_eq!(status.code(), Some(0), "{log}");
        world.nothing_is_left();
        scene.is_published(world, running);
        // Nobody answers any more, which is said.
        let told = recipe.ask(&["agent", "status"]);
        assert!(told.code != 0 && !told.err().is_empty());
    }

    fn sighup_reads_the_settings_anew(world) {
        let scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let wrong = scene.agent(world).text("feed.docs.token", "0123456789abcdef0123456789abcdef");
        let agent = wrong.start();
        scene.server.wait("it is refused", |history| {
            history.of(Endpoint::Claim).any(|exchange| exchange.status == Some(401))
        });
        let right = scene.agent(world).set("agent.slots", "2");
        right.write();
        agent.signal(Signal::SIGHUP);
        for tag in ["v1", "v2"] {
            scene.server.trigger("ends-when-let-go", "", tag);
        }
        wait_until("two run", || running_jobs() == 2);
        // Settings that cannot be used change nothing.
        right.clone().text("agent.slots", "many").write();
        agent.signal(Signal::SIGHUP);
        agent.until("agent.slots");
        let_go();
        scene.server.all_ended();
        agent.stop();
        scene.server.each_once_as(Status::Success);
    }

    fn one_job_and_its_exit_code(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        scene.project(world, "exits-3");
        let recipe = scene.agent(world);
        for (slug, code, status) in [("succeeds", 0, Status::Success), ("exits-3", 1, Status::Failed)] {
            let id = scene.server.trigger(slug, "", "v1");
            let other = scene.server.trigger(slug, "", "v2");
            let (ended, log) = recipe.once().ended();
            world.nothing_is_left();
            assert_eq!(ended.code(), Some(code), "{log}");
            // It ends when the server knows, and takes one only.
            assert_eq!(scene.server.build(id).status, status);
            assert_eq!(scene.server.build(other).claims, 0);
            let (ended, _) = recipe.once().ended();
            assert_eq!((ended.code(), scene.server.build(other).status), (Some(code), status));
        }
    }

    /// What its server is to know is kept, and nobody who is in a hurry waits for it.
    fn one_job_whose_server_goes_away(world) {
        let mut scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let id = scene.server.trigger("ends-when-let-go", "", "v1");
        let recipe = scene.agent(world);
        let agent = recipe.once();
        wait_until("it runs", || running_jobs() == 1);
        scene.server.away();
        let_go();
        // All that it still does is to tell the result: it answers nobody.
        agent.until("ended: succeeded");
        wait_until("it is at its end", || recipe.ask(&["agent", "status"]).code != 0);
        let since = Instant::now();
        agent.signal(Signal::SIGINT);
        agent.until("are kept for the next start");
        agent.signal(Signal::SIGINT);
        let (status, log) = agent.ended();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(since.elapsed() < Duration::from_secs(10), "{log}");
        scene.server.back();
        let agent = recipe.start();
        scene.is_published(world, id);
        agent.stop();
        scene.server.each_once_as(Status::Success);
    }

    /// Who starts an agent for one job wants to know that it cannot have one.
    fn one_job_on_a_host_that_is_not_fit(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        let right = scene.agent(world);
        let id = scene.server.trigger("succeeds", "", "v1");
        let wrong = right.clone().text("s3.access-key", "GKsomebodyelse00");
        for words in [&["agent", "--once"][..], &["agent", "--once", "--max-wait", "1s"]] {
            let (ended, log) = wrong.launch(words).ended();
            assert_eq!(ended.code(), Some(3), "{log}");
            assert!(log.contains("no jobs are taken: the keys may not"), "{log}");
        }
        assert_eq!(scene.server.build(id).claims, 0);
        // One that fails for reasons of the host ends it too.
        scene.bucket.deny("PUT", "succeeds/");
        let (ended, log) = right.once().ended();
        assert_eq!(ended.code(), Some(3), "{log}");
        assert_eq!(scene.server.build(id).status, Status::Failed);
        world.nothing_is_left();
    }

    fn only_one_agent_has_a_state(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        let recipe = scene.agent(world);
        let agent = recipe.start();
        let since = Instant::now();
        let (status, log) = recipe.launch(&["agent"]).ended();
        assert!(!status.success() && log.contains("state"), "{log}");
        assert!(since.elapsed() < Duration::from_secs(10));
        let id = scene.server.trigger("succeeds", "", "v1");
        scene.is_published(world, id);
        agent.stop();
    }
}

/// Whether a job's script has set its trap (proc(5), `SigCgt`).
fn a_build_handles_sigterm() -> bool {
    let handles = |dir: &std::path::Path| {
        let read = |name| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        let status = read("status");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        read("cmdline").contains("build.sh") && caught.is_some_and(|mask| mask & (1 << 14) != 0)
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.map(|entry| entry.path()).any(|dir| handles(&dir))
}
