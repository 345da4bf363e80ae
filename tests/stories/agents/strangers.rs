//! A server that is not what it should be: it names what must not be read, written, run or asked.
//!
//! Each build that it describes is reported as failed, with a reason; what cannot even be reported is dropped, and said so.
//! The agent goes on.

use std::net::TcpListener;

use bryo_stories::{
    Bucket, DocThor, Endpoint, Fault, Status, TOKEN, World, let_go, running_jobs, wait_until,
};
use serde_json::{Value, json};

use super::Scene;
use crate::stories;

/// What a hostile text would make if it were understood.
const MARK: &str = "pwned";

/// Builds of one project each end as failed, with a reason in one line.
#[track_caller]
fn all_refused(scene: &Scene, builds: &[(u64, String)]) {
    for (id, what) in builds {
        let build = scene.server.ended(*id);
        let error = build.error.clone().unwrap_or_default();
        assert_eq!(build.status, Status::Failed, "{what:?}: {build:#?}");
        let stages = ["pull: ", "run: ", "collect: ", "upload: "];
        assert!(
            stages
                .iter()
                .any(|s| error.starts_with(s) && error.len() > s.len()),
            "{what:?}: {error:?}"
        );
        assert!(
            error.len() < 20_000 && !error.contains(['\0', '\u{1b}']),
            "{what:?}: {error:?}"
        );
    }
}

/// The log has the shape that the agent gives it, whatever the server says.
#[track_caller]
fn log_is_clean(log: &str) {
    assert!(!log.contains(['\u{1b}', '\0', '\r']), "{log:?}");
    assert!(!log.lines().any(|line| line.starts_with("forged")), "{log}");
}

#[track_caller]
fn nothing_was_done(world: &World, scene: &Scene, before: &[std::ffi::OsString]) {
    assert_eq!(entries(world), before);
    assert!(
        scene
            .bucket
            .puts()
            .iter()
            .all(|key| key.starts_with("succeeds/good/")),
        "{:?}",
        scene.bucket.puts()
    );
    scene.server.look(|history| {
        for exchange in history.exchanges() {
            let target = &exchange.request.target;
            let id = target
                .strip_prefix("/api/v1/builds/")
                .unwrap_or_else(|| panic!("{target}"));
            let id = id.strip_suffix("/result").unwrap_or(id);
            assert!(
                id == "pending" || id.bytes().all(|b| b.is_ascii_digit()),
                "{target}"
            );
        }
    });
}

/// What is in the directory of the story, but for what agents make there when they need it.
fn entries(world: &World) -> Vec<std::ffi::OsString> {
    let entries = std::fs::read_dir(world.path()).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    names.retain(|name| name != "work");
    names.sort();
    names
}

stories! {
    fn ids_and_shapes(world) {
        let scene = Scene::new();
        let path = scene.project(world, "succeeds");
        let source = format!("file://{}", path.display());
        let whole = |id: Value| {
            json!({"id": id, "project_slug": "succeeds", "version": "v1", "source_url": source, "ref": "", "docker_image": "busybox"})
        };
        let long = "9".repeat(5000);
        let ids = [
            json!("../../projects"), json!("1/../../projects/succeeds"), json!("-1"), json!("+1"), json!(""), json!(" 1"), json!("1e3"),
            json!("007"), json!("0x10"), json!("1\r\nX-Forged: 1"), json!("1\nforged"), json!("\u{1b}[31mforged"), json!("%2e%2e"), json!("1?x=1"),
            json!("1#x"), json!("99999999999999999999999999"), json!(long), json!("١"), json!(7), json!(null), json!(true), json!([]), json!({}),
        ];
        let mut odd: Vec<Value> = ids.into_iter().map(whole).collect();
        odd.extend([json!([]), json!("text"), json!(null), json!({}), json!({"project_slug": "succeeds"})]);
        // Nested deeper than a parser's stack should be, and members twice.
        let mut nested = json!(1);
        for _ in 0..100 {
            nested = json!([nested]);
        }
        odd.push(json!({"id": nested}));
        let asked = odd.len();
        for claim in odd {
            scene.server.hand_out(claim);
        }
        let agent = scene.agent(world).start();
        scene.hurry(&agent, "all were handed out", |history| history.of(Endpoint::Claim).count() > asked);
        let before = entries(world);
        let id = scene.server.trigger("succeeds", "", "good");
        scene.is_published(world, id);
        nothing_was_done(world, &scene, &before);
        let log = agent.stop();
        log_is_clean(&log);
        assert_eq!(scene.server.build(id).reports, [200]);
    }

    fn the_same_build_twice(world) {
        let scene = Scene::new();
        let path = scene.project(world, "ends-when-let-go");
        let id = scene.server.trigger("ends-when-let-go", "", "v1");
        let agent = scene.agent(world).set("agent.slots", "3").start();
        wait_until("it runs", || running_jobs() == 1);
        let source = format!("file://{}", path.display());
        scene.server.hand_out(json!({"id": id.to_string(), "project_slug": "ends-when-let-go", "version": "v1",
            "source_url": source, "ref": "", "docker_image": "busybox"}));
        let asked = scene.server.look(|history| history.of(Endpoint::Claim).count());
        scene.server.wait("it was handed out again", |history| history.of(Endpoint::Claim).count() > asked + 2);
        assert_eq!(running_jobs(), 1);
        let_go();
        scene.is_published(world, id);
        agent.stop();
        assert_eq!(scene.server.build(id).reports, [200]);
    }

    fn slugs_and_versions(world) {
        let scene = Scene::new();
        let path = scene.project(world, "succeeds");
        let source = format!("file://{}", path.display());
        let long = "a".repeat(2000);
        let slugs = [
            "..", ".", ".bryo", "../up", "a/b", "/etc", "a/../b", "a\\..\\b", "x\u{0}y", "x\nforged", "\u{1b}[2Jx", &long,
        ];
        let versions = [
            "..", ".", "../v1", "v1/..", "v1/../../other/v1", "/v1", "v1/", "a//b", "a/./b", "x\u{0}", "v1\nforged", "\u{1b}]0;x", "v\\..\\w", &long,
        ];
        let mut builds = Vec::new();
        for slug in slugs {
            scene.server.project(slug, &source, "busybox");
            builds.push((scene.server.trigger(slug, "", "v1"), slug.to_owned()));
        }
        for version in versions {
            builds.push((scene.server.trigger("succeeds", "", version), version.to_owned()));
        }
        let agent = scene.agent(world).set("agent.slots", "2").start();
        let before = entries(world);
        all_refused(&scene, &builds);
        let id = scene.server.trigger("succeeds", "", "good");
        scene.is_published(world, id);
        nothing_was_done(world, &scene, &before);
        // What is only unusual lands exactly where it says.
        let unusual = [("x y", "v1?x"), ("-x", "v1#x"), ("x%2f..%2fy", "a b"), ("ü", "%2e%2e"), ("a&<b>", "1+1"), ("A", "v=~*'()")];
        for (slug, version) in unusual {
            scene.server.project(slug, &source, "busybox");
            let id = scene.server.trigger(slug, "", version);
            let build = scene.server.ended(id);
            assert_eq!(build.status, Status::Success, "{build:#?}");
            let there = scene.bucket.below(&format!("{slug}/{version}/"));
            assert!(there.contains_key("index.html"), "{slug}/{version}: {:?}", scene.bucket.puts());
        }
        assert_eq!(scene.bucket.puts().len(), unusual.len() + 1);
        log_is_clean(&agent.stop());
    }

    fn references_and_images(world) {
        let scene = Scene::new();
        let path = scene.project(world, "succeeds");
        let source = format!("file://{}", path.display());
        let touch = world.path().join(MARK).display().to_string();
        let references = [
            format!("--upload-pack=touch {touch}"), "-".to_owned(), "--".to_owned(), "-x".to_owned(), "..".to_owned(), "a..b".to_owned(),
            "a b".to_owned(), "main\nforged".to_owned(), "@{-1}".to_owned(), format!("$(touch {touch})"), "main^{/x}".to_owned(),
            "main:build.sh".to_owned(), "+refs/heads/*:refs/heads/*".to_owned(), "\u{1b}[31m".to_owned(), "x".repeat(3000),
        ];
        let mut builds = Vec::new();
        for reference in references {
            builds.push((scene.server.trigger("succeeds", &reference, "v1"), reference));
        }
        let images = [
            "oci-archive:/etc/passwd".to_owned(), world.image("busybox.tar"), "oci:/tmp".to_owned(), "docker-archive:/x".to_owned(),
            "containers-storage:x".to_owned(), "dir:/etc".to_owned(), "docker-daemon:x:1".to_owned(), "--privileged".to_owned(), "-v".to_owned(),
            "../x".to_owned(), "a b".to_owned(), "127.0.0.1:1/x:1\nforged".to_owned(), "http://127.0.0.1:1/x".to_owned(),
            "127.0.0.1:1/../x:1".to_owned(), format!("127.0.0.1:1/{}", "x/".repeat(2000)), "BUSYBOX".to_owned(),
        ];
        for (n, image) in images.into_iter().enumerate() {
            let slug = format!("image-{n}");
            scene.server.project(&slug, &source, &image);
            builds.push((scene.server.trigger(&slug, "", "v1"), image));
        }
        let agent = scene.agent(world).set("agent.slots", "2").start();
        let before = entries(world);
        all_refused(&scene, &builds);
        let id = scene.server.trigger("succeeds", "", "good");
        scene.is_published(world, id);
        nothing_was_done(world, &scene, &before);
        log_is_clean(&agent.stop());
    }

    fn sources(world) {
        let scene = Scene::new();
        let path = scene.project(world, "succeeds");
        let inside = TcpListener::bind("127.0.0.1:0").unwrap();
        inside.set_nonblocking(true).unwrap();
        let port = inside.local_addr().unwrap().port();
        let touch = world.path().join(MARK).display().to_string();
        let sources = [
            format!("ext::sh -c touch% {touch}"), format!("file://{}", path.display()), path.display().to_string(), "../succeeds".to_owned(),
            "file:///etc".to_owned(), "/etc".to_owned(), format!("-oProxyCommand=touch {touch}"), format!("ssh://-oProxyCommand=touch%20{touch}/x"),
            format!("git@-oProxyCommand=touch {touch}:x"), "fd::7".to_owned(), format!("http://127.0.0.1:{port}/x.git"),
            format!("http://localhost:{port}/x.git"), format!("http://[::ffff:127.0.0.1]:{port}/x.git"), format!("http://2130706433:{port}/x.git"),
            format!("http://0x7f.1:{port}/x.git"), format!("http://0.0.0.0:{port}/x.git"), "http://[::1]/x.git".to_owned(),
            "http://169.254.169.254/latest".to_owned(), "http://[fe80::1]/x".to_owned(), "ftp://127.0.0.1/x".to_owned(), "gopher://x/y".to_owned(),
            "https://".to_owned(), "://".to_owned(), String::new(), "https://x\r\nforged/y".to_owned(), "\u{1b}[31m".to_owned(),
            format!("https://x.invalid/{}", "y".repeat(5000)),
        ];
        let mut builds = Vec::new();
        for (n, source) in sources.into_iter().enumerate() {
            let slug = format!("source-{n}");
            scene.server.project(&slug, &source, "busybox");
            builds.push((scene.server.trigger(&slug, "", "v1"), source));
        }
        let agent = scene.agent(world).set("agent.slots", "2").set("jobs.local-sources", "false").start();
        let before = entries(world);
        all_refused(&scene, &builds);
        nothing_was_done(world, &scene, &before);
        let connected = inside.accept();
        assert!(connected.is_err(), "{connected:?}");
        log_is_clean(&agent.stop());
    }

    fn only_what_is_allowed(world) {
        let scene = Scene::new();
        let path = scene.project(world, "succeeds");
        let source = format!("file://{}", path.display());
        scene.server.project("other-image", &source, "127.0.0.1:1/other/image:1");
        scene.server.project("other-host", "http://other.invalid/x.git", "busybox");
        let recipe = scene.agent(world).set("jobs.allowed-images", "[\"127.0.0.1:1/good/*\"]").set("jobs.allowed-hosts", "[\"git.invalid\"]");
        let agent = recipe.start();
        let builds = ["other-image", "other-host"].map(|slug| (scene.server.trigger(slug, "", "v1"), slug.to_owned()));
        all_refused(&scene, &builds);
        for (id, _) in builds {
            let error = scene.server.build(id).error.unwrap();
            assert!(error.contains("jobs.allowed-"), "{error}");
        }
        agent.stop();
    }

    fn redirects_are_not_followed(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        let elsewhere = DocThor::start();
        let to = |path: &str| format!("{}/api/v1/builds/{path}", elsewhere.url());
        for status in [301, 302, 303, 307, 308] {
            scene.server.fault(Endpoint::Claim, Fault::Redirect(status, to("pending")), 1);
        }
        for status in [302, 307, 308] {
            scene.server.fault(Endpoint::Result, Fault::Redirect(status, to("1/result")), 1);
        }
        let id = scene.server.trigger("succeeds", "", "good");
        let agent = scene.agent(world).start();
        scene.is_published(world, id);
        let log = agent.stop();
        assert_eq!(elsewhere.look(bryo_stories::History::accepted), 0);
        assert!(log.contains("redirect"), "{log}");
        scene.server.each_once_as(Status::Success);
    }

    fn secrets_are_seen_nowhere(world) {
        let scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        scene.project(world, "shows-itself");
        // In its environment, where the programs that it starts could inherit them.
        let recipe = scene
            .agent(world)
            .without("feed.docs.token")
            .text("feed.docs.token-env", "A_TOKEN")
            .without("s3.secret-key")
            .text("s3.secret-key-env", "A_KEY")
            .text("agent.log", "trace")
            .env("A_TOKEN", TOKEN)
            .env("A_KEY", Bucket::SECRET_KEY);
        let agent = recipe.set("agent.slots", "2").start();
        let shown = scene.server.trigger("shows-itself", "", "v1");
        assert_eq!(scene.server.ended(shown).status, Status::Success);
        let running = scene.server.trigger("ends-when-let-go", "", "v1");
        wait_until("it runs", || running_jobs() == 1);
        scene.server.revoke();
        scene.server.wait("the token is refused", |history| {
            history.of(Endpoint::Claim).any(|exchange| exchange.status == Some(401))
        });
        scene.server.restore();
        for secret in [TOKEN, Bucket::SECRET_KEY] {
            assert_eq!(agent.shows(secret), Vec::<String>::new());
            for (key, object) in scene.bucket.objects() {
                assert!(!String::from_utf8_lossy(&object.bytes).contains(secret), "{key}");
            }
        }
        let_go();
        scene.is_published(world, running);
        let log = agent.stop();
        assert!(!log.contains(TOKEN) && !log.contains(Bucket::SECRET_KEY));
        scene.server.look(|history| {
            for exchange in history.exchanges() {
                let body = String::from_utf8_lossy(&exchange.request.body);
                assert!(!body.contains(TOKEN) && !body.contains(Bucket::SECRET_KEY), "{body}");
            }
        });
    }
}
