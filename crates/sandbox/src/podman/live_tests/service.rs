//! The service itself: several containers at a time, images, and its end.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Init, PodmanClient, lab};
use crate::Exit;

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
        let mut container = lab
            .client
            .create(&job.spec, &job.placement, None)
            .await
            .unwrap();
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
