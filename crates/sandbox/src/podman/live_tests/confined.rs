//! Effects of the recipe: each is looked for from inside the job.

use bryo_model::NetworkMode;

use super::lab;
use crate::{Access, Mount, Root};

#[tokio::test]
async fn it_is_as_confined_as_the_recipe_says() {
    let Some(lab) = lab().await else { return };
    let script = "cat /proc/self/status; cat /proc/self/uid_map /proc/self/gid_map; echo umask $(umask); \
                  grep 'open files' /proc/self/limits; echo host $(hostname); cat /etc/hosts; cat /proc/self/cgroup; \
                  ls -d /vol /run/secrets; touch /proc/sys/kernel/x; cat /proc/kcore | wc -c; ip link | grep -c mtu; \
                  for n in ipc uts pid net mnt user cgroup; do readlink /proc/self/ns/$n; done; \
                  ls /proc | grep -c '^[0-9]'; grep ' /sys/fs/cgroup ' /proc/mounts; \
                  unshare -U true || echo no nesting; grep core /proc/self/limits";
    let ended = lab.run(&lab.shell(script)).await;
    let text = ended.text();
    for line in [
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000000000eb",
        "CapEff:\t00000000000000eb",
        "CapBnd:\t00000000000000eb",
        "CapAmb:\t0000000000000000",
        "Groups:\t ",
        "umask 0022",
        "host bryo",
        "127.0.0.1\tlocalhost bryo",
        "0::/",
        "no nesting",
        "Max core file size        0                    0                    bytes",
    ] {
        assert!(
            text.lines().any(|l| l.trim_end() == line.trim_end()),
            "{line:?} is not in {text}"
        );
    }
    let uid = nix::unistd::getuid().as_raw();
    assert!(
        !text.contains(&format!(" {uid} ")) && !text.contains("host.containers"),
        "{text}"
    );
    for kind in ["ipc", "uts", "pid", "net", "mnt", "user", "cgroup"] {
        let ours = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert!(!text.contains(ours.to_str().unwrap()), "shares {kind}");
    }
    assert!(
        text.lines()
            .any(|l| l.starts_with("cgroup2") && l.contains(" ro,")),
        "{text}"
    );
    let err = String::from_utf8_lossy(&ended.err).into_owned();
    assert!(
        err.contains("/vol: No such") && err.contains("/run/secrets: No such"),
        "{err}"
    );
}

#[tokio::test]
async fn the_environment_and_the_command_are_the_recipes() {
    let Some(lab) = lab().await else { return };
    let mut job = lab.job(&["/bin/cat", "/proc/self/environ"]);
    job.spec.env.push(("A".to_owned(), "x=y z\n".to_owned()));
    let ended = lab.run(&job).await;
    let mut got: Vec<_> = ended
        .out
        .split(|b| *b == 0)
        .filter(|v| !v.is_empty())
        .collect();
    got.sort_unstable();
    // podman always adds the host name; nothing else.
    let wanted: [&[u8]; 4] = [b"A=x=y z\n", b"HOME=/tmp", b"HOSTNAME=bryo", b"PATH=/bin"];
    assert_eq!(got, wanted, "{}", ended.text());
    let ended = lab.run(&lab.job(&["/bin/echo", "mine"])).await;
    assert_eq!(ended.out, b"mine\n");
    let mut job = lab.shell("id -u; id -g; pwd");
    job.spec.root = Root::PodmanImage {
        id: lab.image.clone(),
        user: "build".to_owned(),
    };
    job.spec.cwd = "/tmp".to_owned();
    assert_eq!(lab.run(&job).await.out, b"1000\n1000\n/tmp\n");
    job.spec.args[2] = "grep Cap /proc/self/status | cut -f 2 | sort -u".to_owned();
    assert_eq!(lab.run(&lab.again(job)).await.text(), "0000000000000000\n");
}

#[tokio::test]
async fn mounts() {
    let Some(lab) = lab().await else { return };
    let mut job = lab.shell(
        "cat /repo/f; touch /repo/x; echo y > /repo/out/y && echo wrote; mknod /repo/out/n c 1 3; \
         grep ' /repo' /proc/mounts",
    );
    let repo = job.spec.work.join("repo");
    let out = job.spec.work.join("out");
    std::fs::create_dir_all(repo.join("out")).unwrap();
    std::fs::create_dir(&out).unwrap();
    std::fs::write(repo.join("f"), "content\n").unwrap();
    let all = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
    std::fs::set_permissions(&out, all).unwrap();
    job.spec.mounts = vec![
        Mount {
            host: repo.clone(),
            guest: "/repo".into(),
            access: Access::ReadOnly,
        },
        Mount {
            host: out.clone(),
            guest: "/repo/out".into(),
            access: Access::ReadWrite,
        },
    ];
    let ended = lab.run(&job).await;
    let (text, err) = (
        ended.text(),
        String::from_utf8_lossy(&ended.err).into_owned(),
    );
    assert!(text.starts_with("content\nwrote\n"), "{text} {err}");
    assert!(
        err.contains("Read-only file system") && err.contains("mknod"),
        "{err}"
    );
    assert!(text.contains(" ro,nosuid,nodev"), "{text}");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(out.join("y")).unwrap());
    assert_ne!(owner, nix::unistd::getuid().as_raw());
    let mut job = lab.shell("true");
    job.spec.mounts = vec![Mount {
        host: "/no/such".into(),
        guest: "/x".into(),
        access: Access::ReadOnly,
    }];
    let error = lab
        .client
        .create(&job.spec, &job.placement, None)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("/no/such"), "{error}");
    std::fs::remove_dir(&job.placement.cgroup_dir).unwrap();
}

#[tokio::test]
async fn networks_cannot_reach_the_host() {
    let Some(lab) = lab().await else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "ip link | grep -c mtu; for h in 127.0.0.1 10.0.2.2; do \
         nc -w 2 $h {port} </dev/null >/dev/null 2>&1 && echo OPEN $h; done; ip route; true"
    );
    let none = lab.run(&lab.shell(&script)).await.text();
    assert_eq!(none, "1\n", "loopback alone, and no route");
    let mut job = lab.shell(&script);
    job.spec.network.mode = NetworkMode::Isolated;
    let isolated = lab.run(&job).await.text();
    assert!(isolated.starts_with("2\ndefault via"), "{isolated}");
}
