//! The floors of the house: what `cargo metadata` says is compared with the drawing in ARCHITECTURE.md.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Each crate with its floor. Siblings on a floor never meet.
const FLOORS: [(&str, u8); 10] = [
    ("bryo-model", 0),
    ("bryo-process", 0),
    ("bryo-http", 0),
    ("bryo-source", 1),
    ("bryo-sandbox", 1),
    ("bryo-image", 1),
    ("bryo-depot", 1),
    ("bryo-engine", 2),
    ("bryo-agent", 3),
    ("bryo", 4),
];

/// Heavy dependencies, and the only crates that may name them.
const CONTAINED: [(&str, &[&str]); 16] = [
    ("git2", &["bryo-source"]),
    ("hyper", &["bryo-sandbox", "bryo-agent", "bryo-test-s3"]),
    (
        "hyper-util",
        &["bryo-sandbox", "bryo-agent", "bryo-test-s3"],
    ),
    ("rusqlite", &["bryo-agent"]),
    ("zbus", &["bryo-sandbox"]),
    ("caps", &["bryo-sandbox"]),
    ("oci-spec", &["bryo-sandbox", "bryo-image"]),
    ("tar", &["bryo-image"]),
    ("rust-s3", &["bryo-depot", "bryo-test-s3"]),
    (
        "reqwest",
        &["bryo-http", "bryo-source", "bryo-depot", "bryo-agent"],
    ),
    ("rustls-native-certs", &["bryo-http"]),
    ("clap", &["bryo"]),
    ("anyhow", &["bryo"]),
    ("toml", &["bryo"]),
    ("tracing-subscriber", &["bryo"]),
    ("tracing-journald", &["bryo"]),
];

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let out = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args([
            "metadata",
            "--format-version=1",
            "--no-deps",
            "--offline",
            "--manifest-path",
        ])
        .arg(manifest)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let package = |p: &Value| {
        let normal = |d: &&Value| d["kind"].is_null();
        let names = p["dependencies"].as_array().unwrap().iter().filter(normal);
        let names = names
            .map(|d| d["name"].as_str().unwrap().to_owned())
            .collect();
        (p["name"].as_str().unwrap().to_owned(), names)
    };
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(package)
        .collect()
}

#[test]
fn a_crate_uses_only_floors_below_it() {
    let floors: BTreeMap<_, _> = FLOORS.into_iter().collect();
    for (name, dependencies) in dependencies() {
        if [
            "bryo-stories",
            "bryo-test-s3",
            "bryo-bench-publish",
            "bryo-bench",
        ]
        .contains(&&*name)
        {
            continue;
        }
        let Some(floor) = floors.get(&*name) else {
            panic!("{name} has no floor: draw it in ARCHITECTURE.md and name it here");
        };
        for other in dependencies {
            if let Some(below) = floors.get(&*other) {
                assert!(
                    below < floor,
                    "{name} (floor {floor}) uses {other} (floor {below})"
                );
            }
        }
    }
}

#[test]
fn a_heavy_dependency_stays_in_its_crate() {
    let dependencies = dependencies();
    for (heavy, allowed) in CONTAINED {
        for (name, uses) in &dependencies {
            let names_it = uses.iter().any(|d| d == heavy);
            assert!(
                !names_it || allowed.contains(&&**name),
                "{name} uses {heavy}"
            );
        }
    }
}
