//! What of a job's output is shown: no secret, not more than the bound, with its times.

use std::fs;

use bryo_stories::{Told, World};
use nix::sys::signal::Signal;

use crate::stories;

/// 34 bytes, which is no power of two with its line feed either.
const TOKEN: &str = "ghs_7Qx/first+half:\"second\"! f=9Zk";

/// Runs a fixture with the secret in the environment of `bryo`.
fn with_secret(world: &World, fixture: &str) -> Told {
    let mut command = world.command();
    command
        .args(["run", world.repository(fixture).path().to_str().unwrap()])
        .args(["--json", "--network", "none", "--secret", "TOKEN"])
        .args(["--runtime", world.runtime().word()])
        .args(["--image", &world.image("busybox.tar"), "--output"])
        .arg(world.site())
        .args(["--", "sh", "/repo/build.sh"])
        .env("TOKEN", TOKEN);
    world.start_command(&mut command).end()
}

/// Not the secret, and no larger part of it either.
#[track_caller]
fn hides(text: &str) {
    let (first, second) = TOKEN.split_at(17);
    for part in [TOKEN, first, second, "Z2hzXzdReC9"] {
        assert!(!text.contains(part), "{part} shows");
    }
}

/// Command lines of all processes of this host that can be seen.
fn command_lines() -> String {
    let of = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).ok();
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(of);
    all.map(|line| String::from_utf8_lossy(&line).replace('\0', " ") + "\n")
        .collect()
}

stories! {
    fn prints_its_secret(world) {
        let told = with_secret(world, "prints-its-secret");
        told.ended(0, "succeeded");
        assert_eq!(fs::read_to_string(world.site().join("seen")).unwrap(), TOKEN);
        hides(&told.err());
        hides(&told.out());
        for line in ["whole: ***\n", "to standard error: ***\n", "in two writes: ***\n", "base64: ***\n", "path: ***\n", "component: ***\n", "form: ***\n", "{\"token\":\"***\"}\n", "at the end: ***"] {
            assert!(told.err().contains(line), "{line}");
        }
        assert_eq!(told.err().matches("***").count(), 40_009);
    }

    fn a_reason_hides_the_secret_too(world) {
        let repository = world.repository("succeeds");
        let mut command = world.command();
        command
            .args(["run", repository.path().to_str().unwrap(), "--json", "--network", "none"])
            .args(["--runtime", world.runtime().word(), "--secret", "TOKEN", "--image", &world.image("busybox.tar")])
            .args(["--output", "site", "--", &format!("/no/such/{TOKEN}")])
            .env("TOKEN", TOKEN);
        let told = world.start_command(&mut command).end();
        told.ended(1, "failed");
        told.because("/no/such/***");
        hides(&told.err());
        hides(&told.out());
    }

    fn no_command_line_has_the_secret(world) {
        let file = world.path().join("token");
        fs::write(&file, format!("{TOKEN}\n")).unwrap();
        let secret = format!("TOKEN=@{}", file.display());
        let mut going = world.start_build("never-ends", &["--secret", &secret]);
        going.until("started");
        let all = command_lines();
        assert!(all.contains(&secret), "the run itself is among them");
        hides(&all);
        going.signal(Signal::SIGINT);
        going.end().ended(130, "cancelled");
    }

    fn prints_100_mb_of_which_one_is_kept(world) {
        let told = world.build("prints-100-mb", &["--max-log", "1m"]);
        let report = told.ended(0, "succeeded");
        assert_eq!(report["resources"]["log_bytes"], 104_857_600);
        assert_eq!(report["resources"]["log_bytes_left_out"], 104_857_600 - (1 << 20));
        assert_eq!(report["limits"]["log"], 1 << 20);
        let err = told.err();
        let (head, rest) = err.split_once("\nbryo: note     103809024 bytes of output left out here (limit 1.0 MiB)\n").unwrap();
        let (_, head) = head.split_once("bryo: run      ...\n").unwrap();
        let tail = rest.split("\nbryo: ").next().unwrap();
        assert_eq!((head.len(), tail.len()), (1 << 19, 1 << 19));
        let line = "a line of exactly thirty-two by.";
        assert!(head.lines().rev().skip(1).all(|l| l == line));
        assert!(tail.lines().skip(1).all(|l| line.starts_with(l)));
        assert!(!err.contains("not all of the job's output"), "{err}");
    }

    fn the_end_of_a_stopped_job_is_kept(world) {
        let told = world.build("catches-sigterm", &["--silence", "2s", "--grace", "60s", "--max-log", "16"]);
        told.ended(1, "timed_out");
        assert!(told.err().contains("started\n") && told.err().contains("to end\n"), "{}", told.err());
        assert!(told.err().contains("5 bytes of output left out here"), "{}", told.err());
    }

    fn the_end_of_a_killed_job_is_kept(world) {
        let told = world.build("ignores-sigterm", &["--silence", "2s", "--grace", "1s", "--max-log", "14"]);
        told.ended(1, "timed_out");
        assert!(told.err().contains("gnored\n"), "{}", told.err());
        assert!(told.err().contains("2 bytes of output left out here"), "{}", told.err());
    }

    fn each_stream_keeps_its_order(world) {
        // Between the streams the order is that in which they were taken, which need not be that of the writes.
        let told = world.build("alternates-streams", &[]);
        told.ended(0, "succeeded");
        let err = told.err();
        for stream in ["out", "err"] {
            let lines: Vec<&str> = err.lines().filter(|l| l.starts_with(stream)).collect();
            let wanted: Vec<String> = (1..=300).map(|n| format!("{stream} {n}")).collect();
            assert_eq!(lines, wanted);
        }
    }

    fn lines_have_times(world) {
        let repository = world.repository("succeeds");
        let mut command = world.command();
        command
            .args(["run", ".", "--timestamps", "--network", "none", "--runtime", world.runtime().word()])
            .args(["--image", &world.image("busybox.tar"), "--output"]).arg(world.site())
            .args(["--", "sh", "/repo/build.sh"])
            .current_dir(repository.path());
        let told = world.start_command(&mut command).end();
        assert_eq!(told.code, 0, "{}", told.err());
        let err = told.err();
        let on_err = err.lines().find(|l| l.ends_with("to standard error")).unwrap();
        for (line, text) in [(told.out().trim_end(), "to standard output"), (on_err, "to standard error")] {
            let (time, rest) = line.split_once(' ').unwrap();
            assert_eq!(rest, text);
            assert_eq!((time.len(), &time[10..11], &time[23..]), (24, "T", "Z"), "{line}");
        }
    }

    fn secrets_that_cannot_be_kept_are_refused(world) {
        let source = world.repository("succeeds");
        for (secret, value, words) in [
            ("TOKEN=value-itself", "", "would show its value"),
            ("TOKEN", "abc", "at least 4 bytes"),
            ("TOKEN", "", "at least 4 bytes"),
            ("TOKEN", "   \n  }", "at least 4 bytes"),
            ("NOT_SET", "value", "no such variable"),
        ] {
            let mut command = world.command();
            command
                .args(["run", source.path().to_str().unwrap(), "--image", &world.image("busybox.tar")])
                .args(["--output", "site", "--secret", secret])
                .env("TOKEN", value);
            let told = world.start_command(&mut command).end();
            assert_eq!(told.code, 2, "{secret}: {}", told.err());
            assert!(told.err().contains(words), "{secret}: {}", told.err());
            assert!(!told.err().contains("value-itself"), "{}", told.err());
        }
    }
}
