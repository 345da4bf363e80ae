use super::*;

use policy::Mode;

const OWN: &str = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\0";
const LXC_CONTEXTS: &str = "process = \"system_u:system_r:container_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n\
    ro_file = \"system_u:object_r:container_ro_file_t:s0\"\n";

impl Labels {
    pub(crate) fn of_a_test() -> Self {
        let parse = |text: &str| text.parse().unwrap();
        Self {
            process: parse("system_u:system_r:container_t:s0:c1,c2"),
            file: parse("system_u:object_r:container_file_t:s0:c1,c2"),
            shared: parse("system_u:object_r:container_ro_file_t:s0"),
            pipes: true,
            _categories: None,
        }
    }
}

/// A host as files; the questions that the kernel answers are not there, as for one who may not ask.
struct Host {
    dir: tempfile::TempDir,
    policy: Policy,
}

fn host(mode: Option<Mode>, own: &str, lxc_contexts: Option<&str>) -> Host {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let policy = Policy {
        kernel: at("kernel"),
        etc: at("etc"),
        own: at("own"),
    };
    for sub in ["kernel", "etc/default/contexts", "own"] {
        fs::create_dir_all(at(sub)).unwrap();
    }
    fs::write(at("own/current"), own).unwrap();
    fs::write(at("etc/config"), "SELINUXTYPE=default\n").unwrap();
    if let Some(text) = lxc_contexts {
        fs::write(at("etc/default/contexts/lxc_contexts"), text).unwrap();
    }
    let enforce = match mode {
        Some(Mode::Enforcing) => "1",
        Some(Mode::Permissive) => "0",
        None => return Host { dir, policy },
    };
    fs::write(at("kernel/enforce"), enforce).unwrap();
    Host { dir, policy }
}

impl Host {
    fn labels(&self, wanted: &str) -> Result<Labelling, String> {
        let state = self.dir.path().join("state");
        labels_by(
            &self.policy,
            &wanted.parse().unwrap(),
            RuntimeKind::Crun,
            &state,
        )
        .map_err(|e| e.to_string())
    }
}

fn some(labelling: Result<Labelling, String>) -> Labels {
    match labelling {
        Ok(Labelling::Labels(labels)) => *labels,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_can_be_wanted() {
    for text in ["auto", "off", "container_t", "svirt.lxc_net_t"] {
        assert_eq!(text.parse::<Selinux>().unwrap().to_string(), text);
    }
    let long = "x".repeat(256);
    for bad in ["", "a b", "a:b", "u:r:t:s0", "ä", &long] {
        let why = bad.parse::<Selinux>().unwrap_err();
        assert!(why.contains("container_t"), "{why}");
    }
}

#[test]
fn two_jobs_have_the_types_of_the_policy_and_categories_of_their_own() {
    for mode in [Mode::Enforcing, Mode::Permissive] {
        let host = host(Some(mode), OWN, Some(LXC_CONTEXTS));
        let (one, other) = (some(host.labels("auto")), some(host.labels("auto")));
        assert_ne!(one.process(), other.process());
        assert_ne!(one.file(), other.file());
        assert_eq!(one.shared(), other.shared());
        assert_eq!(one.process().level(), one.file().level());
        assert_eq!(one.process().categories().len(), 2);
        assert_eq!(
            one.shared().to_string(),
            "system_u:object_r:container_ro_file_t:s0"
        );
        let start = "system_u:system_r:container_t:s0:c";
        assert!(one.process().to_string().starts_with(start), "{one:?}");
    }
}

#[test]
fn a_type_of_the_owners_choice() {
    let host = host(Some(Mode::Enforcing), OWN, Some(LXC_CONTEXTS));
    let labels = some(host.labels("own_container_t"));
    assert_eq!(labels.process().kind(), "own_container_t");
    assert_eq!(labels.file().kind(), "container_file_t");
}

#[test]
fn a_policy_without_levels() {
    let without = LXC_CONTEXTS.replace(":s0\"", "\"");
    let host = host(Some(Mode::Enforcing), "u:r:user_t\0", Some(&without));
    let labels = some(host.labels("auto"));
    assert_eq!(
        labels.process().to_string(),
        "system_u:system_r:container_t"
    );
}

#[test]
fn nothing_without_selinux_or_by_choice() {
    let none = host(None, "", None);
    for wanted in ["auto", "off"] {
        assert!(matches!(none.labels(wanted), Ok(Labelling::None)));
    }
    assert!(!none.dir.path().join("state").exists());
    let off = host(Some(Mode::Enforcing), OWN, Some(LXC_CONTEXTS));
    assert!(matches!(off.labels("off"), Ok(Labelling::None)));
}

#[test]
fn what_is_refused_says_what_to_do() {
    let why = host(None, "", None).labels("container_t").unwrap_err();
    assert!(why.contains("--selinux auto"), "{why}");
    let narrow = "user_u:user_r:user_t:s0\0";
    for (own, contexts, wanted, what) in [
        (OWN, None, "auto", "container-selinux"),
        (OWN, Some(""), "auto", "container-selinux"),
        ("kernel\0", Some(LXC_CONTEXTS), "auto", "none of SELinux"),
        (narrow, Some(LXC_CONTEXTS), "auto", "semanage login"),
        (OWN, Some(LXC_CONTEXTS), "unconfined_t", "Bryo itself"),
    ] {
        let why = host(Some(Mode::Enforcing), own, contexts).labels(wanted);
        let why = why.unwrap_err();
        assert!(why.contains(what) && why.contains("--selinux off"), "{why}");
        // Where nothing is enforced a job runs, and the reason is told.
        let told = host(Some(Mode::Permissive), own, contexts).labels(wanted);
        assert!(matches!(told, Ok(Labelling::Cannot(why)) if why.contains(what)));
    }
}

#[test]
fn a_label_that_is_another_one() {
    let label = "system_u:system_r:container_t:s0:c1,c2";
    assert_eq!(compare(label, label), Ok(()));
    for other in ["", "system_u:system_r:container_t:s0:c1,c3", "kernel"] {
        assert!(compare(other, label).unwrap_err().contains("instead of"));
    }
}
