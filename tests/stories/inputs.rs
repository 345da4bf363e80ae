//! Where a job comes from and what it runs in.

use std::fs;

use crate::stories;

stories! {
    fn a_real_site_with_mkdocs(world) {
        let repository = world.repository("mkdocs-site");
        let image = world.image("mkdocs.tar");
        let source = repository.path().to_str().unwrap();
        let told = world.run(source, &["--image", &image, "--network", "none"]);
        let report = told.ended(0, "succeeded");
        assert!(report["resources"]["output_files"].as_u64().unwrap() > 10, "{report:#}");
        let page = fs::read_to_string(world.site().join("index.html")).unwrap();
        assert!(page.contains("<title>A small site</title>") && page.contains("mkdocs-material"), "{page}");
    }

    fn the_reference_decides_what_is_built(world) {
        let repository = world.repository("succeeds");
        let source = repository.path().to_str().unwrap().to_owned();
        let first = repository.git(&["rev-parse", "HEAD"]).trim().to_owned();
        repository.git(&["tag", "v1.2"]);
        repository.git(&["checkout", "--quiet", "-b", "topic"]);
        fs::write(repository.path().join("build.sh"), "echo topic > /output/index.html\n").unwrap();
        let topic = repository.commit("on a branch");
        let built = |options: &[&str]| {
            let report = world.start_script(&source, options).end().ended(0, "succeeded");
            report["commit"].as_str().unwrap().to_owned()
        };
        assert_eq!(built(&[]), topic, "HEAD");
        assert_eq!(built(&["--ref", "main"]), first, "a branch");
        assert_eq!(built(&["--ref", "v1.2"]), first, "a tag");
        assert_eq!(built(&["--ref", &topic]), topic, "a commit");
        let url = format!("file://{source}");
        let report = world.start_script(&url, &["--ref", "main"]).end().ended(0, "succeeded");
        assert_eq!(report["commit"].as_str().unwrap(), first, "an address");
    }

    fn uncommitted_changes_are_told_and_not_built(world) {
        let repository = world.repository("succeeds");
        fs::write(repository.path().join("build.sh"), "exit 9\n").unwrap();
        let told = world.start_script(repository.path().to_str().unwrap(), &[]).end();
        told.ended(0, "succeeded");
        assert!(told.err().contains("not committed"), "{}", told.err());
    }

    fn starts_in_the_subdirectory(world) {
        let repository = world.repository("succeeds");
        fs::create_dir_all(repository.path().join("a/b")).unwrap();
        fs::write(repository.path().join("a/b/where"), "x").unwrap();
        repository.commit("a sub-directory");
        let image = world.image("busybox.tar");
        let source = repository.path().to_str().unwrap();
        let arguments = ["--subdir", "a/b", "--image", &image, "--network", "none", "--", "sh", "-c", "pwd > /output/pwd; ls >> /output/pwd"];
        world.run(source, &arguments).ended(0, "succeeded");
        assert_eq!(fs::read_to_string(world.site().join("pwd")).unwrap(), "/repo/a/b\nwhere\n");
        let told = world.run(source, &["--subdir", "a/c", "--image", &image, "--", "true"]);
        told.ended(1, "failed");
        told.because("a/c");
    }

    fn image_missing(world) {
        let repository = world.repository("succeeds");
        let source = repository.path().to_str().unwrap();
        for image in ["oci-archive:/no/such/image.tar", "oci:/no/such/layout", "docker-archive:/no/such.tar", "containers-storage:localhost/no/such:1"] {
            let told = world.run(source, &["--image", image, "--network", "none"]);
            told.ended(1, "failed");
            told.because("image");
        }
    }

    fn reference_missing(world) {
        let repository = world.repository("succeeds");
        let source = repository.path().to_str().unwrap();
        for reference in ["no-such-branch", "0123456789012345678901234567890123456789"] {
            let told = world.start_script(source, &["--ref", reference]).end();
            told.ended(1, "failed");
            told.because("has no");
        }
        world.start_script(source, &["--ref", "nope"]).end().because("main");
    }

    fn repository_missing(world) {
        let nowhere = world.path().join("nowhere");
        let nowhere = nowhere.to_str().unwrap();
        for source in [nowhere.to_owned(), format!("file://{nowhere}")] {
            let told = world.start_script(&source, &[]).end();
            told.ended(1, "failed");
            told.because("nowhere");
        }
    }

    fn every_form_of_an_image(world) {
        let archive = world.image("busybox.tar");
        let dir = world.path().to_str().unwrap();
        let forms = [format!("oci:{dir}/layout:tag"), format!("docker-archive:{dir}/docker.tar:localhost/busybox:1"), "containers-storage:localhost/busybox:story".to_owned()];
        for form in &forms {
            let out = std::process::Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--quiet", &archive, form])
                .output()
                .unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        }
        let repository = world.repository("succeeds");
        let source = repository.path().to_str().unwrap();
        let given = [forms[0].clone(), format!("docker-archive:{dir}/docker.tar"), forms[2].clone()];
        for image in &given {
            let arguments = ["--image", image, "--network", "none", "--", "sh", "/repo/build.sh"];
            world.run(source, &arguments).ended(0, "succeeded");
        }
    }
}
