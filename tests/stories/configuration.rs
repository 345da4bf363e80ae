//! What files, variables and options say, told to the program itself.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use bryo_stories::{Runtime, Told, World};
use nix::sys::signal::Signal;
use serde_json::Value;

const AGENT: &str = "[agent]\nslots = 3\n[feed.docs]\ntype = 'doc-thor'\nserver = 'http://127.0.0.1:1'\n\
                     token = 'hidden-token'\n[s3]\nendpoint = 'http://127.0.0.1:1'\nbucket = 'docs'\naccess-key = 'GK'\n\
                     secret-key = 'hidden-key'\n";

/// Writes a file below the story's configuration home, for its owner alone.
fn write(world: &World, name: &str, text: &str) -> PathBuf {
    let file = world.path().join("config/bryo").join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// The program with this story's configuration home and state.
fn bryo(world: &World, args: &[&str]) -> Command {
    let mut command = world.command();
    command
        .args(args)
        .env("XDG_CONFIG_HOME", world.path().join("config"))
        .env("XDG_STATE_HOME", world.path().join("state"));
    command
}

fn told(world: &World, command: &mut Command) -> Told {
    world.start_command(command).end()
}

/// What `bryo config show --json` says about a key: its value and where it was said.
fn shown(world: &World, command: &mut Command) -> impl Fn(&str) -> (Value, String) + use<> {
    let told = told(world, command);
    assert_eq!(told.code, 0, "{}", told.err());
    let json: Value = serde_json::from_slice(&told.stdout).unwrap();
    move |key| {
        (
            json[key]["value"].clone(),
            json[key]["origin"].as_str().unwrap_or("nowhere").to_owned(),
        )
    }
}

#[test]
fn later_sources_win_and_each_value_tells_its_origin() {
    let Some(world) = World::new(Runtime::Crun) else {
        return;
    };
    let first = write(&world, "bryo.toml", AGENT);
    write(
        &world,
        "conf.d/20-more.toml",
        "[agent]\nslots = 5\ndrain = '1m'\n",
    );
    let second = write(
        &world,
        "conf.d/10-more.toml",
        "[agent]\nslots = 4\nhistory = '1h'\n",
    );
    write(&world, "conf.d/30-not.toml.bak", "nonsense");
    let mut command = bryo(&world, &["config", "show", "--json"]);
    let key = shown(
        &world,
        command
            .env("BRYO_DRAIN", "2m")
            .env("STORAGE_BUCKET", "others"),
    );
    assert_eq!(key("agent.slots").0, 5);
    assert_eq!(
        key("agent.history"),
        ("1h".into(), format!("{}:3", second.display()))
    );
    assert_eq!(
        key("agent.drain"),
        ("2m".into(), "variable BRYO_DRAIN".to_owned())
    );
    assert_eq!(
        key("s3.bucket"),
        ("others".into(), "variable STORAGE_BUCKET".to_owned())
    );
    assert_eq!(key("feed.docs.server").1, format!("{}:5", first.display()));
    assert_eq!(key("s3.region"), ("us-east-1".into(), "default".to_owned()));

    let alone = world.path().join("alone.toml");
    std::fs::write(&alone, "[agent]\nslots = 9\n").unwrap();
    let mut command = bryo(
        &world,
        &["config", "show", "--json", "--config", "alone.toml"],
    );
    let key = shown(&world, &mut command);
    assert_eq!(
        key("agent.slots"),
        (9.into(), format!("{}:2", alone.display()))
    );
    assert_eq!(key("feed.docs.server").1, "nowhere");
}

#[test]
fn everything_that_is_wrong_is_told_at_once_and_no_secret() {
    let Some(world) = World::new(Runtime::Crun) else {
        return;
    };
    let file = write(
        &world,
        "bryo.toml",
        &AGENT.replace("slots = 3", "slot = 3\ndrain = 'soon'"),
    );
    let check = || {
        told(
            &world,
            bryo(&world, &["config", "check"])
                .env("POLL_INTERVAL", "often")
                .env("BUILDER_TOKEN", "x"),
        )
    };
    let wrong = check();
    assert_eq!(wrong.code, 2);
    for line in [
        format!(
            "bryo: {}:2: unknown key agent.slot; did you mean slots?\n",
            file.display()
        ),
        format!(
            "bryo: {}:3: agent.drain: \"soon\" is not a length of time",
            file.display()
        ),
        "bryo: variable POLL_INTERVAL: \"often\" is not a length of time".to_owned(),
    ] {
        assert!(wrong.err().contains(&line), "{line}: {}", wrong.err());
    }
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(
        check()
            .err()
            .contains(&format!("chmod 600 {}", file.display())),
        "{}",
        check().err()
    );

    write(&world, "bryo.toml", AGENT);
    let right = told(&world, &mut bryo(&world, &["config", "check"]));
    assert_eq!(
        (right.code, right.out()),
        (0, format!("read {}\nnothing is wrong\n", file.display()))
    );
    let show = told(&world, &mut bryo(&world, &["config", "show"]));
    assert!(show.out().contains("token = \"***\"  # "), "{}", show.out());
    for said in [wrong, right, show] {
        assert!(!said.out().contains("hidden-") && !said.err().contains("hidden-"));
    }
}

#[test]
fn the_defaults_that_are_printed_are_a_configuration() {
    let Some(world) = World::new(Runtime::Crun) else {
        return;
    };
    let printed = told(&world, &mut bryo(&world, &["config", "show", "--defaults"]));
    assert_eq!(printed.code, 0);
    write(&world, "bryo.toml", &printed.out());
    let check = told(&world, &mut bryo(&world, &["config", "check"]));
    assert_eq!(check.code, 0, "{}", check.err());
    assert!(
        check.err().contains("nothing is said about an agent"),
        "{}",
        check.err()
    );
}

#[test]
fn an_agent_without_a_feed_says_what_to_write_where() {
    let Some(world) = World::new(Runtime::Crun) else {
        return;
    };
    let nothing = told(&world, &mut bryo(&world, &["agent"]));
    assert_eq!(nothing.code, 2);
    let file = world.path().join("config/bryo/bryo.toml");
    for words in [
        "there is no feed",
        "[feed.NAME]",
        file.to_str().unwrap(),
        "SERVER_URL and BUILDER_TOKEN",
        "s3.endpoint is missing",
    ] {
        assert!(nothing.err().contains(words), "{words}: {}", nothing.err());
    }
    assert!(!world.path().join("state").exists());
}

#[test]
fn an_agent_reads_its_configuration_again_and_ends_when_it_is_told() {
    let Some(world) = World::new(Runtime::Crun) else {
        return;
    };
    let file = write(&world, "bryo.toml", AGENT);
    let mut agent = world.start_command(&mut bryo(&world, &["agent"]));
    agent.until("the agent begins");
    write(&world, "bryo.toml", &AGENT.replace("slots", "slot"));
    agent.signal(Signal::SIGHUP);
    agent.until(&format!("{}:2: unknown key agent.slot", file.display()));
    agent.signal(Signal::SIGTERM);
    let ended = agent.end();
    assert_eq!(ended.code, 0, "{}", ended.err());
    assert!(!ended.err().contains("hidden-"), "{}", ended.err());
}

#[test]
fn an_agent_of_doc_thors_variables_has_nothing_to_do() {
    let Some(world) = World::new(Runtime::Crun) else {
        return;
    };
    let mut command = bryo(&world, &["agent", "--once", "--max-wait", "200ms"]);
    command
        .env("SERVER_URL", "http://127.0.0.1:1")
        .env("BUILDER_TOKEN", "hidden-token")
        .env("STORAGE_ENDPOINT", "http://127.0.0.1:1")
        .env("STORAGE_ACCESS_KEY", "GK")
        .env("STORAGE_SECRET_KEY", "hidden-key")
        .env("POLL_INTERVAL", "1  # seconds")
        .env("WORKSPACE_DIR", world.path().join("work"));
    let ended = told(&world, &mut command);
    assert_eq!(ended.code, 4, "{}", ended.err());
    assert!(!ended.err().contains("hidden-"), "{}", ended.err());
}

#[test]
fn nobody_answers_where_no_agent_is() {
    let Some(world) = World::new(Runtime::Crun) else {
        return;
    };
    for verb in ["pause", "resume", "drain", "status", "jobs"] {
        let asked = told(&world, &mut bryo(&world, &["agent", verb, "--json"]));
        assert_eq!(asked.code, 3, "{}", asked.err());
        let socket = world.path().join("state/bryo/control.sock");
        assert!(
            asked.err().contains(socket.to_str().unwrap()),
            "{}",
            asked.err()
        );
        assert!(asked.stdout.is_empty());
    }
}

#[test]
fn a_run_takes_what_the_host_says_and_an_option_wins() {
    let Some(world) = World::new(Runtime::Crun) else {
        return;
    };
    let file = write(
        &world,
        "bryo.toml",
        "[agent]\nslots = 3\n[host]\nruntime = 'podman'\nown-ids = true\n[host.at-most]\ntimeout = '2s'\n",
    );
    let repository = world.repository("never-ends");
    let image = world.image("busybox.tar");
    let mut args = vec![
        "run",
        repository.path().to_str().unwrap(),
        "--json",
        "--network",
        "none",
        "--image",
        &image,
    ];
    args.extend([
        "--output",
        "site",
        "--runtime",
        "crun",
        "--own-ids=false",
        "--",
        "sh",
        "/repo/build.sh",
    ]);
    let report = told(&world, &mut bryo(&world, &args)).ended(1, "timed_out");
    assert_eq!(report["limit_reached"], "timeout");
    assert_ne!(report["runtime"], "podman");

    write(
        &world,
        "bryo.toml",
        "[host]\nca-bundle = 'nowhere.pem'\nclose = ['10.0.0.0/8']\n",
    );
    let refused = told(&world, &mut bryo(&world, &args));
    assert_eq!(refused.code, 2);
    for line in [
        format!(
            "{}:2: host.ca-bundle: {}",
            file.display(),
            file.with_file_name("nowhere.pem").display()
        ),
        format!(
            "{}:3: unknown key host.close; did you mean closed?",
            file.display()
        ),
    ] {
        assert!(refused.err().contains(&line), "{line}: {}", refused.err());
    }
}
