//! What podman really does with the recipe, looked at from inside the job and in `/proc`.
//!
//! They need a rootless service that cannot harm anybody: `BRYO_TEST_PODMAN_SOCKET` (its socket),
//! `BRYO_TEST_PODMAN_IMAGE` (a busybox image with the entrypoint `/bin/echo ENTRYPOINT-RAN`, `FROM_IMAGE=1` in its
//! environment and a volume at `/vol`) and `BRYO_TEST_CGROUP` (a cgroup directory of this user).
//! `BRYO_TEST_PODMAN_PID`, if set, is a service that one test may kill.
#![expect(
    clippy::print_stderr,
    reason = "a skipped test must be seen, and times are printed"
)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bryo_model::{ContainerName, JobId, LimitPolicy, Limits, LogStream, NetworkMode};

use super::request::Call;
use super::{Init, Placement, PodmanClient, PodmanContainer};
use crate::{Access, Exit, Mount, Network, Root, SandboxSpec};

/// Long enough for a busy machine, short enough to see a hang.
const PATIENCE: Duration = Duration::from_secs(90);

struct Lab {
    client: PodmanClient,
    image: String,
    cgroups: PathBuf,
    work: PathBuf,
}

/// One job of a test.
struct Job {
    spec: SandboxSpec,
    placement: Placement,
}

struct Ended {
    exit: Exit,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Ended {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

async fn lab() -> Option<Lab> {
    let var = |name: &str| std::env::var(name).ok();
    let Some(socket) = var("BRYO_TEST_PODMAN_SOCKET") else {
        eprintln!("SKIP: no BRYO_TEST_PODMAN_SOCKET, nothing is known about a real podman");
        return None;
    };
    Some(Lab {
        client: PodmanClient::connect(Path::new(&socket)).await.unwrap(),
        image: var("BRYO_TEST_PODMAN_IMAGE").unwrap(),
        cgroups: var("BRYO_TEST_CGROUP").unwrap().into(),
        work: std::env::temp_dir().join(format!("bryo-podman-{}", std::process::id())),
    })
}

impl Lab {
    fn job(&self, args: &[&str]) -> Job {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        let ms = u64::try_from(now.as_millis()).unwrap();
        let random = u128::from(std::process::id()) << 32 | u128::from(number);
        let name = ContainerName::of(JobId::from_parts(ms, random));
        let work = self.work.join(name.as_str());
        std::fs::create_dir_all(&work).unwrap();
        let cgroup_dir = self.cgroups.join(name.as_str());
        std::fs::create_dir(&cgroup_dir).unwrap();
        Job {
            spec: SandboxSpec {
                name,
                root: Root::PodmanImage {
                    id: self.image.clone(),
                    user: String::new(),
                },
                args: args.iter().map(ToString::to_string).collect(),
                env: vec![
                    ("PATH".to_owned(), "/bin".to_owned()),
                    ("HOME".to_owned(), "/tmp".to_owned()),
                ],
                cwd: "/".to_owned(),
                mounts: Vec::new(),
                network: Network::none(),
                read_only_root: false,
                apparmor: None,
                limits: Limits::default(),
                limit_policy: LimitPolicy::AllowUnlimited,
                work,
            },
            placement: Placement {
                cgroup_parent: crate::cgroup::name_of(&cgroup_dir),
                cgroup_dir,
            },
        }
    }

    /// The same recipe for another container.
    fn again(&self, job: Job) -> Job {
        let other = self.job(&[]);
        Job {
            spec: SandboxSpec {
                name: other.spec.name,
                work: other.spec.work,
                ..job.spec
            },
            placement: other.placement,
        }
    }

    fn shell(&self, script: &str) -> Job {
        self.job(&["/bin/sh", "-c", script])
    }

    async fn ready(&self, job: &Job) -> (PodmanContainer, i32) {
        let mut container = self.client.create(&job.spec, &job.placement).await.unwrap();
        match container.init().await.unwrap() {
            Init::Ready { pid } => (container, pid),
            Init::NotStarted(why) => panic!("{why}"),
        }
    }

    /// Runs to the end, and proves that nothing is left.
    async fn run(&self, job: &Job) -> Ended {
        let (mut container, _) = self.ready(job).await;
        let mut logs = container.start().await.unwrap();
        container.verify_running().await.unwrap();
        let mut ended = Ended {
            exit: Exit::Code(-1),
            out: Vec::new(),
            err: Vec::new(),
        };
        while let Some(piece) = logs.next().await {
            let piece = piece.unwrap();
            match piece.stream {
                LogStream::Stdout => ended.out.extend(piece.bytes),
                LogStream::Stderr => ended.err.extend(piece.bytes),
            }
        }
        ended.exit = container.wait().await.unwrap();
        self.close(&mut container, job).await;
        ended
    }

    /// Removes it, and proves that neither container nor cgroup is left.
    async fn close(&self, container: &mut PodmanContainer, job: &Job) {
        container.remove().await.unwrap();
        container.remove().await.unwrap();
        let path = format!("/containers/{}/exists", container.id);
        let gone = self.client.send(Call::get(path)).await.unwrap_err();
        assert!(gone.refusal().unwrap().is_no_such_container());
        container.signal(nix::libc::SIGKILL).await.unwrap();
        assert!(container.wait().await.is_err());
        std::fs::remove_dir(&job.placement.cgroup_dir).unwrap();
    }

    /// The same after an `init` that failed: podman leaves an empty cgroup, which is its parent's owner's to remove.
    async fn close_failed(&self, container: &mut PodmanContainer, job: &Job) {
        for entry in std::fs::read_dir(&job.placement.cgroup_dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                std::fs::remove_dir(entry.path()).unwrap();
            }
        }
        self.close(container, job).await;
    }
}

async fn patiently<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("it hangs")
}

#[tokio::test]
async fn exit_codes_and_streams() {
    let Some(lab) = lab().await else { return };
    for code in [0, 1, 3, 255] {
        let ended = lab
            .run(&lab.shell(&format!("echo out; echo err >&2; exit {code}")))
            .await;
        assert_eq!(ended.exit, Exit::Code(code));
        assert_eq!(
            (&ended.out[..], &ended.err[..]),
            (&b"out\n"[..], &b"err\n"[..])
        );
    }
    let ended = lab.run(&lab.shell("sh -c 'kill -9 $$'; exit $?")).await;
    assert_eq!(ended.exit, Exit::Code(137));
    let ended = lab.run(&lab.shell("printf '\\377\\000\\001x'")).await;
    assert_eq!(ended.out, b"\xff\0\x01x");
    let ended = lab
        .run(&lab.shell("exec >&- 2>&-; sleep 0.5; exit 7"))
        .await;
    assert_eq!(ended.exit, Exit::Code(7), "closed its output early");
}

#[tokio::test]
async fn commands_that_cannot_run_are_the_jobs_fault() {
    let Some(lab) = lab().await else { return };
    let mut jobs = vec![
        lab.job(&["nope"]),
        lab.job(&["/etc"]),
        lab.job(&["/etc/passwd"]),
    ];
    jobs.push(lab.shell("true"));
    jobs[3].spec.cwd = "/no/such".to_owned();
    jobs.push(lab.shell("true"));
    jobs[4].spec.root = Root::PodmanImage {
        id: lab.image.clone(),
        user: "nobodyx".to_owned(),
    };
    for job in jobs {
        let mut container = lab.client.create(&job.spec, &job.placement).await.unwrap();
        let init = container.init().await.unwrap();
        assert!(matches!(init, Init::NotStarted(_)), "{init:?}");
        lab.close_failed(&mut container, &job).await;
    }
    // The kernel refuses this one only after "start": crun's own process tells and ends.
    let mut job = lab.job(&["/x"]);
    let garbage = job.spec.work.join("x");
    std::fs::write(&garbage, "\0garbage").unwrap();
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&garbage, mode).unwrap();
    job.spec.mounts = vec![Mount {
        host: garbage,
        guest: "/x".into(),
        access: Access::ReadOnly,
    }];
    let (mut container, _) = lab.ready(&job).await;
    container.start().await.unwrap();
    assert_eq!(patiently(container.wait()).await.unwrap(), Exit::Code(1));
    lab.close(&mut container, &job).await;
    let mut job = lab.shell("true");
    job.spec.root = Root::PodmanImage {
        id: "ab".repeat(32),
        user: String::new(),
    };
    let error = lab
        .client
        .create(&job.spec, &job.placement)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("image not known"), "{error}");
    std::fs::remove_dir(&job.placement.cgroup_dir).unwrap();
    let mut job = lab.shell("true");
    job.placement.cgroup_parent = "/not/ours".to_owned();
    let mut container = lab.client.create(&job.spec, &job.placement).await.unwrap();
    let error = container.init().await.unwrap_err().to_string();
    assert!(error.contains("cgroup"), "{error}");
    lab.close_failed(&mut container, &job).await;
}

#[tokio::test]
async fn it_is_as_confined_as_the_recipe_says() {
    let Some(lab) = lab().await else { return };
    let script = "cat /proc/self/status; cat /proc/self/uid_map /proc/self/gid_map; echo umask $(umask); \
                  grep 'open files' /proc/self/limits; echo host $(hostname); cat /etc/hosts; cat /proc/self/cgroup; \
                  ls -d /vol /run/secrets; touch /proc/sys/kernel/x; cat /proc/kcore | wc -c; ip link | grep -c mtu; \
                  for n in ipc uts pid net mnt user cgroup; do readlink /proc/self/ns/$n; done; \
                  ls /proc | grep -c '^[0-9]'; grep ' /sys/fs/cgroup ' /proc/mounts; \
                  unshare -r true || echo no nesting; grep core /proc/self/limits";
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
        .create(&job.spec, &job.placement)
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

#[tokio::test]
async fn output_is_lossless_whatever_its_shape() {
    let Some(lab) = lab().await else { return };
    // 100 MiB of which every byte is checked, read slowly at first: it must wait, not be lost.
    let job =
        lab.shell("i=0; while [ $i -lt 100 ]; do head -c 1048576 /dev/zero; i=$((i+1)); done");
    let (mut container, _) = lab.ready(&job).await;
    let before = resident();
    let mut logs = container.start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut bytes, mut most, began) = (0_usize, 0, Instant::now());
    while let Some(piece) = logs.next().await {
        let piece = piece.unwrap();
        assert!(piece.bytes.len() <= 64 << 10 && piece.bytes.iter().all(|b| *b == 0));
        bytes += piece.bytes.len();
        most = most.max(resident());
    }
    eprintln!(
        "100 MiB in {:?}, {} KiB more memory",
        began.elapsed(),
        (most - before.min(most)) >> 10
    );
    assert_eq!(bytes, 100 << 20);
    assert_eq!(container.wait().await.unwrap(), Exit::Code(0));
    lab.close(&mut container, &job).await;
    let line = lab
        .run(&lab.shell("head -c 20971520 /dev/zero | tr '\\0' x"))
        .await;
    assert_eq!(line.out.len(), 20 << 20);
    assert!(line.out.iter().all(|b| *b == b'x'));
}

fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn signals_and_kills() {
    let Some(lab) = lab().await else { return };
    let job = lab.shell("trap 'echo got; exit 9' TERM; echo up; while :; do sleep 0.05; done");
    let (mut container, _) = lab.ready(&job).await;
    let mut logs = container.start().await.unwrap();
    assert_eq!(logs.next().await.unwrap().unwrap().bytes, b"up\n");
    container.signal(15).await.unwrap();
    assert_eq!(patiently(container.wait()).await.unwrap(), Exit::Code(9));
    assert_eq!(logs.next().await.unwrap().unwrap().bytes, b"got\n");
    assert!(logs.next().await.is_none());
    lab.close(&mut container, &job).await;

    let job = lab.shell("trap '' TERM; (setsid sleep 1000 &); echo up; sleep 1000");
    let (mut container, _) = lab.ready(&job).await;
    let mut logs = container.start().await.unwrap();
    assert_eq!(logs.next().await.unwrap().unwrap().bytes, b"up\n");
    // `wait` may be dropped and asked again.
    assert!(
        tokio::time::timeout(Duration::from_millis(50), container.wait())
            .await
            .is_err()
    );
    container.signal(nix::libc::SIGKILL).await.unwrap();
    assert_eq!(patiently(container.wait()).await.unwrap(), Exit::Code(137));
    assert!(logs.next().await.is_none());
    container.signal(nix::libc::SIGKILL).await.unwrap();
    lab.close(&mut container, &job).await;

    let job = lab.shell("sleep 1000");
    let (mut container, _) = lab.ready(&job).await;
    drop(container.start().await.unwrap());
    std::fs::write(job.placement.cgroup_dir.join("cgroup.kill"), "1").unwrap();
    assert_eq!(patiently(container.wait()).await.unwrap(), Exit::Code(137));
    lab.close(&mut container, &job).await;

    let job = lab.shell("sleep 1000");
    let (mut container, _) = lab.ready(&job).await;
    drop(container.start().await.unwrap());
    lab.close(&mut container, &job).await;
    let job = lab.shell("true");
    let (mut container, _) = lab.ready(&job).await;
    lab.close(&mut container, &job).await;
}

#[tokio::test]
async fn four_at_a_time_and_how_long_each_step_takes() {
    let Some(lab) = lab().await else { return };
    let jobs: Vec<_> = (0..4)
        .map(|n| lab.shell(&format!("echo {n}; exit {n}")))
        .collect();
    let (a, b, c, d) = tokio::join!(
        lab.run(&jobs[0]),
        lab.run(&jobs[1]),
        lab.run(&jobs[2]),
        lab.run(&jobs[3])
    );
    for (n, ended) in [a, b, c, d].iter().enumerate() {
        assert_eq!(ended.exit, Exit::Code(i32::try_from(n).unwrap()));
        assert_eq!(ended.out, format!("{n}\n").as_bytes());
    }
    let mut steps: [Vec<Duration>; 6] = Default::default();
    for _ in 0..20 {
        let job = lab.job(&["/bin/true"]);
        let mut at = Instant::now();
        let mut took = |n: usize| {
            steps[n].push(at.elapsed());
            at = Instant::now();
        };
        let mut container = lab.client.create(&job.spec, &job.placement).await.unwrap();
        took(0);
        assert!(matches!(
            container.init().await.unwrap(),
            Init::Ready { .. }
        ));
        took(1);
        let mut logs = container.start().await.unwrap();
        took(2);
        while logs.next().await.is_some() {}
        took(3);
        container.wait().await.unwrap();
        took(4);
        container.remove().await.unwrap();
        took(5);
        lab.close(&mut container, &job).await;
        // podman's own clean-up process of this one must not count against the next.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let names = ["create", "init", "start", "output", "wait", "remove"];
    for (name, times) in names.iter().zip(&mut steps) {
        times.sort_unstable();
        eprintln!(
            "{name:8} best {:?} median {:?} worst {:?}",
            times[0], times[10], times[19]
        );
    }
}

#[tokio::test]
async fn a_known_service_is_not_asked_again() {
    let Some(lab) = lab().await else { return };
    let mut known = lab.client.info().clone();
    let socket = std::env::var("BRYO_TEST_PODMAN_SOCKET").unwrap();
    let began = Instant::now();
    let client = PodmanClient::connect_known(Path::new(&socket), known.clone())
        .await
        .unwrap();
    eprintln!("connected to a known service in {:?}", began.elapsed());
    assert_eq!(client.info(), &known);
    known.version = "0.0.1".to_owned();
    let client = PodmanClient::connect_known(Path::new(&socket), known)
        .await
        .unwrap();
    assert_eq!(client.info(), lab.client.info());
}

#[tokio::test]
async fn images_are_loaded_as_they_are_read() {
    let Some(lab) = lab().await else { return };
    assert!(lab.client.image_exists(&lab.image).await.unwrap());
    assert!(!lab.client.image_exists("localhost/no/such").await.unwrap());
    let error = lab
        .client
        .load_image(&b"garbage"[..])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("does not match any"), "{error}");
    let Ok(archive) = std::env::var("BRYO_TEST_PODMAN_ARCHIVE") else {
        eprintln!("SKIP: no BRYO_TEST_PODMAN_ARCHIVE to load");
        return;
    };
    let file = tokio::fs::File::open(archive).await.unwrap();
    let names = lab.client.load_image(file).await.unwrap();
    eprintln!("loaded {names:?}");
    assert_eq!(names.len(), 1);
    assert!(lab.client.image_exists(&names[0]).await.unwrap());
}

/// Alone and last: it kills the service.
#[tokio::test]
#[ignore = "kills the service BRYO_TEST_PODMAN_PID"]
async fn a_service_that_dies_is_told_quickly() {
    let Some(lab) = lab().await else { return };
    let Ok(pid) = std::env::var("BRYO_TEST_PODMAN_PID") else {
        return;
    };
    let job = lab.shell("echo up; sleep 1000");
    let (mut container, _) = lab.ready(&job).await;
    let mut logs = container.start().await.unwrap();
    logs.next().await.unwrap().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
    let killer = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
        Instant::now()
    };
    let (waited, killed) = tokio::join!(container.wait(), killer);
    let error = waited.unwrap_err().to_string();
    eprintln!("told after {:?}: {error}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(2), "{error}");
    assert!(container.remove().await.is_err());
    std::fs::write(job.placement.cgroup_dir.join("cgroup.kill"), "1").unwrap();
}
