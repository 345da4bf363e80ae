//! What a job leaves in `/output`, and what of it is published.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::stories;

stories! {
    fn writes_as_other_user(world) {
        world.build("writes-as-other-user", &[]).ended(0, "succeeded");
        let page = world.site().join("private/page.html");
        assert_eq!(fs::read_to_string(&page).unwrap(), "secret\n");
        let index = fs::metadata(world.site().join("index.html")).unwrap();
        assert_eq!(index.uid(), nix::unistd::Uid::effective().as_raw());
        assert_eq!(index.permissions().mode() & 0o7777, 0o644);
    }

    fn symlink_to_host(world) {
        let told = world.build("symlink-to-host", &[]);
        let report = told.ended(0, "succeeded");
        assert_eq!(report["resources"]["output_files"], 1);
        let names: Vec<_> = fs::read_dir(world.site()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["index.html"]);
        assert!(told.err().contains("4 symbolic links"), "{}", told.err());
    }

    fn nests_deep(world) {
        let told = world.build("nests-deep", &[]);
        told.ended(1, "failed");
        told.because("64");
        let report = world.build("nests-deep", &["--disk", "1g"]).ended(1, "disk_limit");
        assert!(report["resources"]["disk_peak_bytes"].as_u64().unwrap() < 1 << 30, "{report:#}");
    }

    fn fifo_and_device(world) {
        let told = world.build("fifo-and-device", &[]);
        let report = told.ended(0, "succeeded");
        assert_eq!(report["resources"]["output_files"], 1);
        assert!(told.err().contains("left out"), "{}", told.err());
    }

    fn fifty_thousand_files(world) {
        let report = world.build("fifty-thousand-files", &[]).ended(0, "succeeded");
        assert_eq!(report["resources"]["output_files"], 50_000);
        assert_eq!(fs::read_to_string(world.site().join("50/1000")).unwrap(), "50 1000\n");
    }

    fn leaves_nothing(world) {
        let told = world.build("leaves-nothing", &[]);
        let report = told.ended(1, "failed");
        assert_eq!(report["exit_code"], 0);
        told.because("no regular file in /output");
        assert!(!world.site().exists());
    }

    fn an_earlier_site_stays_until_a_job_succeeds(world) {
        world.build("succeeds", &[]).ended(0, "succeeded");
        let first = fs::metadata(world.site()).unwrap().ino();
        world.build("exits-3", &[]).ended(1, "failed");
        world.build("leaves-nothing", &[]).ended(1, "failed");
        world.build("never-ends", &["--timeout", "1s"]).ended(1, "timed_out");
        assert_eq!(fs::metadata(world.site()).unwrap().ino(), first);
        world.build("symlink-to-host", &[]).ended(0, "succeeded");
        assert_ne!(fs::metadata(world.site()).unwrap().ino(), first);
        assert_eq!(fs::read_to_string(world.site().join("index.html")).unwrap(), "page\n");
    }

    fn fills_the_disk(world) {
        let Some(small) = std::env::var_os("BRYO_TEST_SMALL_FS") else {
            eprintln!("SKIPPED: no small file system (BRYO_TEST_SMALL_FS) on this host");
            return;
        };
        let small = std::path::PathBuf::from(small).join(world.runtime().word());
        let work = small.join("work");
        world.set_work(work.clone());
        let told = world.build("fills-the-disk", &[]);
        told.ended(1, "failed");
        assert!(told.err().contains("No space left on device"), "{}", told.err());
        fs::remove_dir_all(&work).unwrap();
        // When the cache itself is full, that is no fault of the job.
        let repository = world.repository("succeeds");
        fs::write(repository.path().join("large"), vec![7; 32 << 20]).unwrap();
        repository.commit("more than fits");
        let image = world.image("busybox.tar");
        let mut command = world.command();
        command
            .args(["run", repository.path().to_str().unwrap(), "--json", "--network", "none"])
            .args(["--runtime", world.runtime().word(), "--image", &image, "--output"])
            .arg(world.site())
            .args(["--", "sh", "/repo/build.sh"])
            .env("BRYO_CACHE_DIR", small.join("cache"));
        let told = world.start_command(&mut command).end();
        told.ended(3, "infrastructure");
        told.because("no space left");
        fs::remove_dir_all(&small).unwrap();
    }
}
