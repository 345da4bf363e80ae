//! What a job prints: all of it, as it was, in order.

use crate::stories;

/// Standard error without what Bryo itself says: with `--json` the job's streams are there.
fn of_the_job(told: &bryo_stories::Told) -> Vec<u8> {
    let mut all = Vec::new();
    for line in told.stderr.split_inclusive(|b| *b == b'\n') {
        if !line.starts_with(b"bryo: ") {
            all.extend_from_slice(line);
        }
    }
    all
}

stories! {
    fn prints_100_mb(world) {
        let told = world.build("prints-100-mb", &[]);
        let report = told.ended(0, "succeeded");
        assert_eq!(report["resources"]["log_bytes"], 104_857_600);
        let line = b"a line of exactly thirty-two by.\n";
        let got = of_the_job(&told);
        assert!(got.len().abs_diff(104_857_600) <= line.len(), "{}", got.len());
        assert!(got.chunks(line.len()).take(3_000_000).all(|c| line.starts_with(c)));
    }

    fn prints_a_20_mb_line(world) {
        let told = world.build("prints-a-20-mb-line", &[]);
        let report = told.ended(0, "succeeded");
        assert_eq!(report["resources"]["log_bytes"], 20 << 20);
        assert_eq!(of_the_job(&told).iter().filter(|b| **b == b'x').count(), 20 << 20);
    }

    fn prints_non_utf8(world) {
        let told = world.build("prints-non-utf8", &[]);
        told.ended(0, "succeeded");
        assert_eq!(of_the_job(&told), b"caf\xe9 \xff\xfe \0 end\n");
    }

    fn streams_go_where_they_belong(world) {
        let repository = world.repository("succeeds");
        let image = world.image("busybox.tar");
        let mut command = world.command();
        command
            .args(["run", ".", "--network", "none", "--runtime", world.runtime().word(), "--image", &image])
            .arg("--output").arg(world.site())
            .args(["--", "sh", "/repo/build.sh"])
            .current_dir(repository.path());
        let told = world.start_command(&mut command).end();
        assert_eq!(told.code, 0, "{}", told.err());
        assert_eq!(told.out(), "to standard output\n");
        assert!(told.err().contains("to standard error\n"));
        assert!(told.err().lines().last().unwrap().starts_with("bryo: succeeded after"));
    }
}
