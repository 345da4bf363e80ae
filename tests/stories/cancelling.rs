//! Ctrl-C in each stage: nothing published, nothing left, 130.

use std::net::TcpListener;

use nix::sys::signal::Signal;

use crate::stories;

/// A server that accepts and never answers; the attempt is stuck in whatever stage speaks to it.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

stories! {
    fn in_fetch(world) {
        let (server, address) = silent();
        let going = world.start_script(
            &format!("http://{address}/repository.git"),
            &["--source-protocols", "http", "--source-reach", "127.0.0.1"],
        );
        let connection = server.accept().unwrap();
        going.signal(Signal::SIGINT);
        let told = going.end();
        told.ended(130, "cancelled");
        told.because("stage fetch");
        drop(connection);
    }

    fn in_prepare(world) {
        let (server, address) = silent();
        let repository = world.repository("succeeds");
        let image = format!("{address}/some/image:1");
        let mut going = world.start(repository.path().to_str().unwrap(), &["--image", &image, "--plain-http", "--network", "none"]);
        let connection = server.accept().unwrap();
        going.until("fetch ");
        going.signal(Signal::SIGINT);
        let told = going.end();
        told.ended(130, "cancelled");
        told.because("stage prepare");
        drop(connection);
    }

    fn in_run_politely(world) {
        let mut going = world.start_build("catches-sigterm", &["--grace", "60s"]);
        going.until("started");
        going.signal(Signal::SIGINT);
        let told = going.end();
        told.ended(130, "cancelled");
        assert!(told.err().contains("asked to end"), "{}", told.err());
        assert!(!world.site().exists());
    }

    fn in_run_by_sigterm(world) {
        let mut going = world.start_build("never-ends", &[]);
        going.until("started");
        going.signal(Signal::SIGTERM);
        going.end().ended(130, "cancelled");
    }

    fn twice_kills_at_once(world) {
        let mut going = world.start_build("ignores-sigterm", &["--grace", "1h"]);
        going.until("started");
        going.signal(Signal::SIGINT);
        going.until("ignored");
        going.signal(Signal::SIGINT);
        let told = going.end();
        told.ended(130, "cancelled");
        told.because("stage run");
    }

    fn in_collect(world) {
        let mut going = world.start_build("fifty-thousand-files", &[]);
        going.until("exit code 0");
        going.signal(Signal::SIGINT);
        let told = going.end();
        told.ended(130, "cancelled");
        told.because("stage collect");
        assert!(!world.site().exists());
    }

    fn in_publish(world) {
        let mut going = world.start_build("fifty-thousand-files", &[]);
        going.until("50000 files");
        going.signal(Signal::SIGINT);
        let told = going.end();
        told.ended(130, "cancelled");
        told.because("stage publish");
        assert!(!world.site().exists());
        let beside: Vec<_> = std::fs::read_dir(world.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(beside.iter().all(|n| !n.contains(".bryo")), "{beside:?}");
    }
}
