//! What a job can reach, and what it is given for that.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use bryo_stories::{Told, World};
use nix::sys::socket::SockaddrIn;

use crate::stories;

/// What a listener sends to whoever says something.
const GREETING: &[u8] = b"greetings\n";

/// Accepts until the program ends, and says this often.
pub(crate) fn listener(address: &str, times: usize) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 64]);
            // A job may hang up before it has heard everything.
            let _ = (0..times).try_for_each(|_| connection.write_all(GREETING));
        }
    });
    port
}

/// The IPv4 addresses of this host that are not loopback. Without one there is no outside, and the story is skipped.
pub(crate) fn host_addresses() -> Vec<String> {
    let addresses = nix::ifaddrs::getifaddrs().unwrap();
    let v4 = addresses.filter_map(|a| a.address?.as_sockaddr_in().map(SockaddrIn::ip));
    let all: Vec<_> = v4.filter(|a| !a.is_loopback()).collect();
    if all.is_empty() {
        eprintln!("SKIPPED: this host has no address but loopback");
    }
    all.iter().map(ToString::to_string).collect()
}

/// A fixture's `build.sh` in busybox, with these options and variables.
fn run(world: &World, fixture: &str, options: &[&str], env: &[&str]) -> Told {
    let repository = world.repository(fixture);
    let image = world.image("busybox.tar");
    let mut args = vec!["--image", &image];
    args.extend(options);
    args.extend(env.iter().flat_map(|var| ["--env", var]));
    args.extend(["--", "sh", "/repo/build.sh"]);
    world.run(repository.path().to_str().unwrap(), &args)
}

/// Which of the targets `NAME=ADDRESS:PORT` a job with these options reaches.
#[track_caller]
fn reaches(world: &World, options: &[&str], targets: &[String], wanted: &[&str]) {
    let env = format!("TARGETS={}", targets.join(" "));
    run(world, "connects", options, &[&env]).ended(0, "succeeded");
    let reached = fs::read_to_string(world.site().join("reached")).unwrap();
    assert_eq!(reached.lines().collect::<Vec<_>>(), wanted, "{options:?}");
}

/// The four neighbours of a job: its own loopback, the gateway that stands for the host's loopback, the host's own
/// address, and a metadata service.
fn neighbours(host: &str) -> [String; 4] {
    let (loopback, any) = (listener("127.0.0.1", 1), listener("0.0.0.0", 1));
    [
        format!("own-loopback=127.0.0.1:{loopback}"),
        format!("gateway=10.0.2.2:{loopback}"),
        format!("host={host}:{any}"),
        "metadata=169.254.169.254:80".to_owned(),
    ]
}

fn read(world: &World, file: &str) -> String {
    fs::read_to_string(world.site().join(file)).unwrap()
}

stories! {
    fn talks_to_nobody_without_network(world) {
        for host in host_addresses().iter().take(1) {
            let all_closed = ["own-loopback closed", "gateway closed", "host closed", "metadata closed"];
            reaches(world, &["--network", "none", "--reach-host"], &neighbours(host), &all_closed);
        }
    }

    fn reaches_the_outside_but_not_the_hosts_loopback(world) {
        for host in host_addresses().iter().take(1) {
            let wanted = ["own-loopback closed", "gateway closed", "host open", "metadata closed"];
            reaches(world, &["--reach-host"], &neighbours(host), &wanted);
        }
    }

    /// All of them: a host that is reached at its second address is reached.
    fn the_hosts_own_addresses_are_closed(world) {
        let port = listener("0.0.0.0", 1);
        let hosts = host_addresses();
        let targets: Vec<_> = hosts.iter().map(|host| format!("{host}={host}:{port}")).collect();
        let wanted: Vec<_> = hosts.iter().map(|host| format!("{host} closed")).collect();
        let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
        for options in [vec![], vec!["--allow", "0.0.0.0/0"]] {
            reaches(world, &options, &targets, &wanted);
        }
    }

    /// Such a socket sends to what it takes for a neighbour, whatever the routes say, unless its packets are led back.
    fn a_socket_bound_to_a_device_knows_no_other_way(world) {
        for host in host_addresses().iter().take(1) {
            let routes = format!("ROUTES=169.254.169.254 {host} 198.51.100.1");
            run(world, "connects", &["--deny", "198.51.100.0/24"], &[&routes]).ended(0, "succeeded");
            let routes = read(world, "routes");
            let led: Vec<_> = routes.lines().map(|line| line.contains("dev lo")).collect();
            assert_eq!(led, [true, true, true], "{routes}");
        }
    }

    fn what_the_hosts_owner_closes_no_job_opens(world) {
        for host in host_addresses().iter().take(1) {
            let (control, other) = (listener("0.0.0.0", 1), listener("0.0.0.0", 1));
            let closed = format!("192.0.2.250,{host}:{control}/tcp");
            reaches(
                world,
                &["--reach-host", "--closed", &closed, "--allow", host, "--allow", &format!("{host}:{control}")],
                &[format!("control={host}:{control}"), format!("other={host}:{other}")],
                &["control closed", "other open"],
            );
        }
    }

    fn what_is_denied_and_allowed_is_denied(world) {
        for host in host_addresses().iter().take(1) {
            let (one, two) = (listener("0.0.0.0", 1), listener("0.0.0.0", 1));
            reaches(
                world,
                &["--reach-host", "--allow", host, "--deny", &format!("{host}:{one}")],
                &[format!("one={host}:{one}"), format!("two={host}:{two}")],
                &["one closed", "two open"],
            );
        }
    }

    fn only_what_is_allowed_is_open(world) {
        for host in host_addresses().iter().take(1) {
            let (one, two) = (listener("0.0.0.0", 1), listener("0.0.0.0", 1));
            let allow = format!("{host}:{one}");
            let options = ["--reach-host", "--allow", &allow];
            let targets = [format!("one={host}:{one}"), format!("two={host}:{two}")];
            reaches(world, &options, &targets, &["one open", "two closed"]);
            run(world, "asks-for-a-name", &options, &[]).ended(0, "succeeded");
            let sent: u64 = read(world, "sent").trim().parse().unwrap();
            assert!(sent > 400, "two questions of more than 200 bytes did not leave the job: {sent}");
        }
    }

    fn a_network_is_counted(world) {
        for host in host_addresses().iter().take(1) {
            let times = 300_000;
            let port = listener("0.0.0.0", times);
            let report = run(world, "downloads", &["--reach-host"], &[&format!("FROM={host} {port}")])
                .ended(0, "succeeded");
            let heard: u64 = read(world, "bytes").trim().parse().unwrap();
            assert_eq!(heard, (times * GREETING.len()) as u64);
            let received = report["resources"]["network_received_bytes"].as_u64().unwrap();
            assert!(received > heard && received < 2 * heard, "{received}");
            let sent = report["resources"]["network_sent_bytes"].as_u64().unwrap();
            assert!(sent > 100 && sent < received, "{sent}");
        }
        let report = world.build("succeeds", &[]).report();
        assert!(report["resources"]["network_received_bytes"].is_null(), "{report:#}");
    }

    fn certificates_and_proxies_are_handed_in(world) {
        let file = world.path().join("own.pem");
        let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(&file, text).unwrap();
        // Nobody but the agent may read it, and the job is somebody else.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let repository = world.repository("shows-its-network");
        let image = world.image("busybox.tar");
        let mut command = world.command();
        command
            .args(["run", repository.path().to_str().unwrap(), "--json", "--image", &image])
            .args(["--runtime", world.runtime().word(), "--output"])
            .arg(world.site())
            .args(["--pass-proxy", "--env", "NO_PROXY=mine", "--env", "PIP_CERT=/mine.pem", "--ca-bundle"])
            .arg(&file)
            .args(["--", "sh", "/repo/build.sh"])
            .env("https_proxy", "http://proxy.example:3128")
            .env("NO_PROXY", "example");
        world.start_command(&mut command).end().ended(0, "succeeded");
        let env = read(world, "env");
        let has = |line: &str| env.lines().any(|l| l == line);
        for line in [
            "https_proxy=http://proxy.example:3128",
            "NO_PROXY=mine",
            "PIP_CERT=/mine.pem",
            "SSL_CERT_FILE=/etc/bryo/ca-bundle.pem",
            "GIT_SSL_CAINFO=/etc/bryo/ca-bundle.pem",
        ] {
            assert!(has(line), "{line}: {env}");
        }
        assert_eq!(read(world, "certificates"), text);
        assert_eq!(read(world, "written"), "it is read-only\n");
        let resolver = read(world, "resolv.conf");
        let servers: Vec<_> = resolver.lines().filter(|l| l.starts_with("nameserver")).collect();
        assert_eq!(servers, ["nameserver 10.0.2.3"], "{resolver}");
    }

    fn a_file_without_certificates_is_refused(world) {
        let file = world.path().join("empty.pem");
        fs::write(&file, "nothing").unwrap();
        let empty = file.to_str().unwrap();
        for (file, words) in [("/nowhere.pem", "/nowhere.pem"), ("/", "regular file"), (empty, "BEGIN CERTIFICATE")] {
            let told = world.build("succeeds", &["--ca-bundle", file]);
            assert_eq!(told.code, 2, "{}", told.err());
            assert!(told.err().contains(words), "{}", told.err());
        }
    }

    fn the_hosts_network_is_given_by_the_host_alone(world) {
        let port = listener("127.0.0.1", 1);
        let target = format!("TARGETS=loopback=127.0.0.1:{port}");
        let told = run(world, "connects", &["--host-network"], &[&target]);
        let report = told.ended(0, "succeeded");
        assert!(told.err().contains("this host's own network"), "{}", told.err());
        assert_eq!(read(world, "reached"), "loopback open\n");
        assert!(report["resources"]["network_received_bytes"].is_null(), "{report:#}");
        // A job that wants none gets none.
        run(world, "connects", &["--host-network", "--network", "none"], &[&target]).ended(0, "succeeded");
        assert_eq!(read(world, "reached"), "loopback closed\n");
        let told = run(world, "connects", &["--network", "host"], &[]);
        assert_eq!(told.code, 2, "{}", told.err());
        assert!(told.err().contains("cannot ask"), "{}", told.err());
    }
}
