//! The command line: exit code 2, and nothing is touched.

use bryo_stories::{Runtime, World};

#[test]
fn usage_errors_are_2_and_say_what_to_do() {
    let Some(world) = World::new(Runtime::Crun) else {
        return;
    };
    let repository = world.repository("succeeds");
    let source = repository.path().to_str().unwrap();
    let image = world.image("busybox.tar");
    let tracked = repository.path().join("docs");
    std::fs::create_dir(&tracked).unwrap();
    std::fs::write(tracked.join("page.md"), "x").unwrap();
    repository.commit("documents");
    let tracked = tracked.to_str().unwrap();
    let cases: [(&[&str], &str); 7] = [
        (
            &["run", source, "--image", &image, "--output", tracked],
            "--replace",
        ),
        (&["run", source, "--output", "x"], "--image"),
        (
            &["run", source, "--image", "debian", "--output", "x"],
            "name the registry too",
        ),
        (
            &["run", "ext::id", "--image", &image, "--output", "x"],
            "not a supported source",
        ),
        (
            &["run", source, "--image", &image, "--output", source],
            "would remove",
        ),
        (
            &["run", source, "--image", &image, "--output", "/"],
            "root of the file system",
        ),
        (
            &[
                "run", source, "--image", &image, "--output", "x", "--memory", "plenty",
            ],
            "a size",
        ),
    ];
    for (args, words) in cases {
        let mut command = world.command();
        command.args(args);
        let told = world.start_command(&mut command).end();
        assert_eq!(told.code, 2, "{args:?}: {}", told.err());
        assert!(told.err().contains(words), "{args:?}: {}", told.err());
        assert!(told.stdout.is_empty());
    }
    assert!(!world.path().join("work").exists());
}

#[test]
fn auto_takes_crun_where_the_host_can_do_it() {
    let Some(world) = World::new(Runtime::Crun) else {
        return;
    };
    let repository = world.repository("succeeds");
    let image = world.image("busybox.tar");
    let mut command = world.command();
    command
        .args([
            "run",
            repository.path().to_str().unwrap(),
            "--json",
            "--network",
            "none",
        ])
        .args([
            "--image",
            &image,
            "--output",
            "out",
            "--",
            "sh",
            "/repo/build.sh",
        ]);
    let report = world
        .start_command(&mut command)
        .end()
        .ended(0, "succeeded");
    assert_eq!(report["runtime"], "crun");
}

#[test]
fn help_and_version_are_no_errors() {
    let Some(world) = World::new(Runtime::Crun) else {
        return;
    };
    for word in ["--help", "--version"] {
        let mut command = world.command();
        command.arg(word);
        let told = world.start_command(&mut command).end();
        assert_eq!(told.code, 0);
        assert!(told.out().contains("bryo"));
    }
}
