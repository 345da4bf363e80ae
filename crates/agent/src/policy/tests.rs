use std::collections::BTreeMap;

use bryo_model::{ByteSize, Egress, LimitPolicy, NetworkMode, StageLimit};

use super::*;

fn policy() -> JobPolicy {
    JobPolicy {
        limits: Limits::default(),
        limit_policy: LimitPolicy::Enforce,
        network: NetworkMode::Isolated,
        egress: Egress::default(),
        read_only_root: false,
        env: Vec::new(),
        secrets: Vec::new(),
        images: BTreeMap::from([(
            "mkdocs".to_owned(),
            "oci-archive:/srv/mkdocs.tar".parse().unwrap(),
        )]),
        default_image: None,
        default_registry: None,
        allowed_images: Vec::new(),
        allowed_hosts: Vec::new(),
        local_sources: false,
        log: ByteSize::new(1 << 20),
    }
}

fn wishes() -> Wishes {
    Wishes {
        project_slug: "docs".to_owned(),
        version: "1.0".to_owned(),
        source_url: "https://git.example.org/org/docs.git".to_owned(),
        reference: String::new(),
        docker_image: "registry.example/mkdocs:9".to_owned(),
    }
}

fn grant(policy: &JobPolicy, wishes: &Wishes) -> Result<Accepted, Refusal> {
    let attempt = JobId::from_parts(1, 1);
    Granting { policy, attempt }.of_doc_thor(wishes)
}

#[track_caller]
fn refuse(policy: &JobPolicy, wishes: &Wishes, stage: Stage, word: &str) {
    let refusal = grant(policy, wishes).unwrap_err();
    assert_eq!(refusal.stage, stage, "{}", refusal.why);
    assert!(refusal.why.contains(word), "{word:?}: {}", refusal.why);
}

#[test]
fn a_usual_build_is_granted() {
    let accepted = grant(&policy(), &wishes()).unwrap();
    assert_eq!(accepted.spec.image.to_string(), "registry.example/mkdocs:9");
    assert_eq!(accepted.spec.source.reference, None);
    assert_eq!(accepted.spec.limits.log, Some(ByteSize::new(1 << 20)));
    let tagged = Wishes {
        reference: "v1.2".to_owned(),
        version: "release/2.0".to_owned(),
        docker_image: "mkdocs".to_owned(),
        ..wishes()
    };
    let accepted = grant(&policy(), &tagged).unwrap();
    assert_eq!(
        accepted.spec.image.to_string(),
        "oci-archive:/srv/mkdocs.tar"
    );
}

#[test]
fn sources_on_this_host_are_refused() {
    for url in [
        "https://localhost/x",
        "https://a.localhost/x",
        "http://127.0.0.1:8080/x",
        "http://127.1/x",
        "http://2130706433/x",
        "http://0x7f.0.0.1/x",
        "http://0/x",
        "ssh://git@[::1]/x",
        "http://[::ffff:127.0.0.1]/x",
        "http://[fe80::1]/x",
        "http://169.254.169.254/latest",
        "git@localhost:x",
    ] {
        let wishes = Wishes {
            source_url: url.to_owned(),
            ..wishes()
        };
        refuse(&policy(), &wishes, Stage::Fetch, "jobs.allowed-hosts");
        let allowed = JobPolicy {
            allowed_hosts: vec!["*".parse().unwrap()],
            ..policy()
        };
        assert!(grant(&allowed, &wishes).is_ok(), "{url}");
    }
    let file = Wishes {
        source_url: "file:///srv/git/x".to_owned(),
        ..wishes()
    };
    refuse(&policy(), &file, Stage::Fetch, "jobs.local-sources");
    let path = Wishes {
        source_url: "/srv/git/x".to_owned(),
        ..wishes()
    };
    refuse(&policy(), &path, Stage::Fetch, "not a supported source");
}

#[test]
fn hosts_can_be_few() {
    let few = JobPolicy {
        allowed_hosts: vec![
            "*.Example.org".parse().unwrap(),
            "git.example.com:8443".parse().unwrap(),
        ],
        ..policy()
    };
    for (url, good) in [
        ("https://git.example.org/x", true),
        ("https://GIT.EXAMPLE.ORG:444/x", true),
        ("git@git.example.org:x", true),
        ("https://git.example.com:8443/x", true),
        ("https://git.example.com/x", false),
        ("https://example.org/x", false),
        ("https://git.example.org.evil.example/x", false),
    ] {
        let wishes = Wishes {
            source_url: url.to_owned(),
            ..wishes()
        };
        assert_eq!(grant(&few, &wishes).is_ok(), good, "{url}");
    }
}

#[test]
fn images_come_from_registries() {
    for image in [
        "oci-archive:/etc/passwd",
        "oci:/srv",
        "docker-archive:/x.tar",
        "containers-storage:localhost/x",
    ] {
        let wishes = Wishes {
            docker_image: image.to_owned(),
            ..wishes()
        };
        refuse(&policy(), &wishes, Stage::Run, "registries only");
    }
    let none = Wishes {
        docker_image: String::new(),
        ..wishes()
    };
    refuse(&policy(), &none, Stage::Run, "jobs.default-image");
    let short = Wishes {
        docker_image: "python:3.12".to_owned(),
        ..wishes()
    };
    refuse(&policy(), &short, Stage::Run, "name the registry");
    let hub = JobPolicy {
        default_registry: Some("docker.io".to_owned()),
        ..policy()
    };
    for (name, whole) in [
        ("python:3.12", "docker.io/library/python:3.12"),
        ("squidfunk/mkdocs", "docker.io/squidfunk/mkdocs"),
        ("ghcr.io/x/y", "ghcr.io/x/y"),
        ("localhost/y", "localhost/y"),
    ] {
        let wishes = Wishes {
            docker_image: name.to_owned(),
            ..wishes()
        };
        let image = grant(&hub, &wishes).unwrap().spec.image;
        assert_eq!(image.to_string(), whole);
    }
}

#[test]
fn images_can_be_few() {
    let few = JobPolicy {
        allowed_images: vec!["registry.example/docs/*:*".parse().unwrap()],
        ..policy()
    };
    for (image, good) in [
        ("registry.example/docs/mkdocs:9", true),
        ("registry.example/docs/mkdocs", true),
        ("registry.example/other/mkdocs:9", false),
        ("registry.example.evil.example/docs/x:1", false),
        ("mkdocs", true),
    ] {
        let wishes = Wishes {
            docker_image: image.to_owned(),
            ..wishes()
        };
        assert_eq!(grant(&few, &wishes).is_ok(), good, "{image}");
    }
}

#[test]
fn names_that_leave_their_place_are_refused() {
    for (slug, version) in [
        ("", "1"),
        ("..", "1"),
        ("a/b", "1"),
        ("docs", ".."),
        ("docs", "a/../b"),
        ("docs", "a\nb"),
        (".bryo", "1"),
    ] {
        let wishes = Wishes {
            project_slug: slug.to_owned(),
            version: version.to_owned(),
            ..wishes()
        };
        let refusal = grant(&policy(), &wishes).unwrap_err();
        assert_eq!(refusal.stage, Stage::Publish, "{slug:?} {version:?}");
    }
    for bad in ["-x", "--upload-pack=id", "a..b", "a b", "a\nb"] {
        let wishes = Wishes {
            reference: bad.to_owned(),
            ..wishes()
        };
        refuse(&policy(), &wishes, Stage::Fetch, "branch");
    }
}

#[test]
fn the_bound_on_a_run_is_the_shortest() {
    let limits = |stages: &[&str]| Limits {
        stages: stages
            .iter()
            .map(|s| s.parse::<StageLimit>().unwrap())
            .collect(),
        ..Limits::default()
    };
    assert_eq!(run_timeout(&limits(&[])).as_secs(), 3600);
    assert_eq!(run_timeout(&limits(&["run=5m", "fetch=1m"])).as_secs(), 300);
    assert_eq!(run_timeout(&limits(&["run=2h"])).as_secs(), 3600);
}
