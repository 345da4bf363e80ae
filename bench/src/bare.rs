//! The same work by hand: crun and podman as they are, started by system calls, with nothing in between that would cost them
//! time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::Outcome;

/// Bundles for bare crun, one for each lane, and podman's image.
pub(crate) struct Bare {
    work: PathBuf,
    state: PathBuf,
    image: String,
}

impl Bare {
    pub(crate) fn new(work: &Path) -> Outcome<Self> {
        let runtime_dir =
            std::env::var_os("XDG_RUNTIME_DIR").ok_or("XDG_RUNTIME_DIR is not set")?;
        let image = fs::read_to_string(work.join("podman-image"))?;
        Ok(Self {
            work: work.to_owned(),
            state: PathBuf::from(runtime_dir).join("bench"),
            image: image.trim().to_owned(),
        })
    }

    /// A bundle that runs this script and writes to the directory `NAME-output`.
    pub(crate) fn bundle(&self, name: &str, script: &str) -> Outcome<()> {
        let made = self.work.join("bundle");
        let text = fs::read(made.join("config.json"))?;
        let mut config: Value = serde_json::from_slice(&text)?;
        let output = self.output(name);
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        config["root"]["path"] = json!(made.join("rootfs"));
        for mount in config["mounts"].as_array_mut().into_iter().flatten() {
            if mount["destination"] == "/output" {
                mount["source"] = json!(output);
            }
        }
        let above = config["linux"]["cgroupsPath"].as_str().unwrap_or_default();
        config["linux"]["cgroupsPath"] = json!(format!("{above}-{name}"));
        let dir = self.work.join(format!("bundle-{name}"));
        for dir in [&dir, &output] {
            fs::create_dir_all(dir)?;
        }
        Ok(fs::write(dir.join("config.json"), config.to_string())?)
    }

    fn output(&self, name: &str) -> PathBuf {
        self.work.join(format!("{name}-output"))
    }

    /// Runs a bundle; what it prints goes to `to`.
    pub(crate) fn crun(&self, name: &str, to: Stdio) -> Outcome<()> {
        let mut command = Command::new("crun");
        command
            .arg("--root")
            .arg(&self.state)
            .args(["--cgroup-manager=cgroupfs", "run", "--bundle"])
            .arg(self.work.join(format!("bundle-{name}")))
            .arg(format!("bench-{name}"));
        self.run(command, name, to)
    }

    /// Runs a script in podman.
    pub(crate) fn podman(&self, name: &str, script: &str) -> Outcome<()> {
        let (source, output) = (self.work.join("source"), self.output(name));
        fs::create_dir_all(&output)?;
        let mut command = Command::new("podman");
        command
            .args(["run", "--rm", "--network=none", "--volume"])
            .arg(format!("{}:/repo:ro", source.display()))
            .arg("--volume")
            .arg(format!("{}:/output", output.display()))
            .args([&self.image, "sh", "-c", script]);
        self.run(command, name, Stdio::null())
    }

    fn run(&self, mut command: Command, name: &str, to: Stdio) -> Outcome<()> {
        let page = self.output(name).join("index.html");
        let _ = fs::remove_file(&page);
        let complaints = self.work.join(format!("{name}.stderr"));
        let status = command
            .stdin(Stdio::null())
            .stdout(to)
            .stderr(File::create(&complaints)?)
            .status()?;
        if status.success() && page.exists() {
            return Ok(());
        }
        let said = fs::read_to_string(complaints)?;
        Err(format!("{name} by hand: {status}: {said}").into())
    }
}
