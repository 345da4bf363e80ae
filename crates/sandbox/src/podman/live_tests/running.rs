//! What a job says and how it ends.

use std::time::{Duration, Instant};

use super::{Init, lab, patiently};
use crate::{Access, Exit, Mount, Root};

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
        let mut container = lab
            .client
            .create(&job.spec, &job.placement, None)
            .await
            .unwrap();
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
        .create(&job.spec, &job.placement, None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("image not known"), "{error}");
    std::fs::remove_dir(&job.placement.cgroup_dir).unwrap();
    let mut job = lab.shell("true");
    job.placement.cgroup_parent = "/not/ours".to_owned();
    let mut container = lab
        .client
        .create(&job.spec, &job.placement, None)
        .await
        .unwrap();
    let error = container.init().await.unwrap_err().to_string();
    assert!(error.contains("cgroup"), "{error}");
    lab.close_failed(&mut container, &job).await;
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
