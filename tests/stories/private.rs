//! Sources that not everybody may read: the credential opens the server, and shows nowhere. Sources that nobody may: what is
//! on this host.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::{Value, json};

use crate::stories;

const TOKEN: &str = "hunter2-7f3a9c";

/// `git:` and the token, as a client says it.
const PROOF: &str = "Basic Z2l0Omh1bnRlcjItN2YzYTlj";

/// What the server wants to be told by who asks for an object in Git LFS.
const GRANT: &str = "hunter2-7f3a9c-for-one-object";

/// Git and Git LFS over http for who knows the token, on the returned port.
fn locked(root: &Path) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let root = root.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let root = root.clone();
            thread::spawn(move || answer(&mut BufReader::new(stream.unwrap()), &root));
        }
    });
    port
}

fn answer(stream: &mut BufReader<std::net::TcpStream>, root: &Path) {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let found = lines.iter().filter_map(|line| line.split_once(": "));
        let mut found = found.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found
            .next()
            .map(|(_, value)| value.to_owned())
            .unwrap_or_default()
    };
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    let _ = stream.read_exact(&mut body);
    let mut said =
        b"Status: 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\r\n".to_vec();
    let target = lines[0].split(' ').nth(1).unwrap_or_default();
    if let Some((repo, what)) = target.split_once("/info/lfs/") {
        let repo = root.join(repo.trim_start_matches('/'));
        let base = format!("http://{}{}", header("host"), target.replace(what, ""));
        match what.strip_prefix("objects/batch") {
            Some(_) if header("authorization") == PROOF => said = batch(&body, &base),
            Some(_) => {}
            None => said = object(&repo, what, &header("x-grant")),
        }
    } else if header("authorization") == PROOF {
        let mut words = lines[0].split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut backend = Command::new("git")
            .arg("http-backend")
            .envs([
                ("GIT_HTTP_EXPORT_ALL", "1"),
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ])
            .env("GIT_PROJECT_ROOT", root)
            .envs([
                ("REQUEST_METHOD", method),
                ("PATH_INFO", path),
                ("QUERY_STRING", query),
            ])
            .envs([
                ("CONTENT_TYPE", header("content-type")),
                ("GIT_PROTOCOL", header("git-protocol")),
            ])
            .envs([
                ("CONTENT_LENGTH", header("content-length")),
                ("HTTP_CONTENT_ENCODING", header("content-encoding")),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        backend.stdin.take().unwrap().write_all(&body).unwrap();
        said = backend.wait_with_output().unwrap().stdout;
    }
    let text = String::from_utf8_lossy(&said);
    let status = text
        .strip_prefix("Status: ")
        .and_then(|text| text.lines().next())
        .unwrap_or("200 OK");
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    let _ = stream
        .get_mut()
        .write_all(head.as_bytes())
        .and_then(|()| stream.get_mut().write_all(&said));
    let _ = stream.get_mut().shutdown(std::net::Shutdown::Both);
}

/// Where the objects of Git LFS are that somebody asks for, who is to say so there.
fn batch(body: &[u8], base: &str) -> Vec<u8> {
    let asked: Value = serde_json::from_slice(body).unwrap();
    let of = |object: &Value| {
        let oid = object["oid"].as_str().unwrap();
        let download = json!({"href": format!("{base}{oid}"), "header": {"X-Grant": GRANT}});
        json!({"oid": oid, "size": object["size"], "actions": {"download": download}})
    };
    let objects: Vec<Value> = asked["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(of)
        .collect();
    format!("\r\n{}", json!({ "objects": objects })).into_bytes()
}

fn object(repo: &Path, oid: &str, grant: &str) -> Vec<u8> {
    assert_eq!(grant, GRANT);
    let place = repo.join("lfs/objects").join(&oid[..2]).join(&oid[2..4]);
    let mut said = b"\r\n".to_vec();
    said.extend(std::fs::read(place.join(oid)).unwrap());
    said
}

fn written(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// Files below a directory that contain the token.
fn with_token(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut rest) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = rest.pop() {
        // What belongs to a subordinate id is of an image.
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                rest.push(path);
            } else if kind.is_file() {
                let bytes = std::fs::read(&path).unwrap_or_default();
                if bytes
                    .windows(TOKEN.len())
                    .any(|piece| piece == TOKEN.as_bytes())
                {
                    found.push(path);
                }
            }
        }
    }
    found
}

stories! {
    fn a_token_opens_the_repository_and_shows_nowhere(world) {
        let cache = world.own_cache().to_owned();
        let repository = world.repository("succeeds");
        let root = repository.path().parent().unwrap();
        let port = locked(root);
        let name = repository.path().file_name().unwrap().to_str().unwrap();
        let url = format!("http://127.0.0.1:{port}/{name}/.git");
        let token = written(&world.path().join("token"), TOKEN);
        let rules = format!(
            "[source]\nprotocols = ['http']\nreach = ['127.0.0.1:{port}']\n[source.credentials.forge]\n\
             url = 'http://127.0.0.1:{port}'\ntoken-file = '{token}'\n"
        );
        let config = written(&world.path().join("bryo.toml"), &rules);
        let image = world.image("busybox.tar");
        let script = "env; cat /proc/*/environ /proc/*/cmdline /repo/.git/config; find /repo/.git -type f | xargs cat; \
                      echo good > /output/index.html";
        let options = ["--image", &image, "--network", "none", "--config", &config, "--", "sh", "-c", script];
        let told = world.run(&url, &options);
        told.ended(0, "succeeded");
        let all = format!("{} {}", told.out(), told.err());
        assert!(all.contains("repositoryformatversion"), "{all}");
        assert!(!all.contains(TOKEN) && !all.contains(PROOF), "{all}");
        assert_eq!(with_token(&cache), [""; 0].map(PathBuf::from));
        assert_eq!(with_token(&world.site()), [""; 0].map(PathBuf::from));
        assert_eq!(with_token(world.path()), [PathBuf::from(&token)]);

        written(&world.path().join("token"), "hunter2-wrong");
        std::fs::write(repository.path().join("more"), "x").unwrap();
        repository.commit("more");
        let told = world.run(&url, &options);
        told.ended(1, "failed");
        told.because("access to the repository was denied");
        let all = format!("{} {}", told.out(), told.err());
        assert!(!all.contains("hunter2"), "{all}");
    }

    fn files_in_git_lfs_come_from_the_server_on_request(world) {
        let cache = world.own_cache().to_owned();
        let repository = world.repository("succeeds");
        repository.git(&["lfs", "install", "--local"]);
        repository.git(&["lfs", "track", "*.bin"]);
        std::fs::write(repository.path().join("film.bin"), "a film\n").unwrap();
        repository.commit("a film");
        let port = locked(repository.path().parent().unwrap());
        let name = repository.path().file_name().unwrap().to_str().unwrap();
        let url = format!("http://127.0.0.1:{port}/{name}/.git");
        let token = written(&world.path().join("token"), TOKEN);
        let rules = format!(
            "[source]\nprotocols = ['http']\nreach = ['127.0.0.1:{port}']\n[source.credentials.forge]\n\
             url = 'http://127.0.0.1:{port}'\ntoken-file = '{token}'\n"
        );
        let config = written(&world.path().join("bryo.toml"), &rules);
        let image = world.image("busybox.tar");
        let script = "cp /repo/film.bin /output/index.html";
        for (lfs, starts) in [("--lfs=false", "version https://git-lfs"), ("--lfs", "a film\n")] {
            let options = ["--image", &image, "--network", "none", "--config", &config, lfs, "--", "sh", "-c", script];
            let told = world.run(&url, &options);
            told.ended(0, "succeeded");
            let film = std::fs::read_to_string(world.site().join("index.html")).unwrap();
            assert!(film.starts_with(starts), "{lfs}: {film}");
            assert_eq!(told.err().contains("Git LFS"), lfs == "--lfs=false", "{}", told.err());
        }
        assert_eq!(with_token(&cache), [""; 0].map(PathBuf::from));
    }

    fn what_is_on_this_host_is_closed(world) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        for (url, key) in [
            (format!("https://127.0.0.1:{port}/x"), "source.reach"),
            (format!("https://localhost:{port}/x"), "source.reach"),
            (format!("https://[::ffff:7f00:1]:{port}/x"), "source.reach"),
            (format!("ssh://git@127.0.0.1:{port}/x"), "source.reach"),
            ("https://169.254.169.254/x".to_owned(), "source.reach"),
            (format!("http://git.example.org:{port}/x"), "source.protocols"),
        ] {
            let told = world.start_script(&url, &[]).end();
            told.ended(1, "failed");
            told.because(key);
        }
        assert!(listener.accept().is_err());
    }

    fn a_proxy_of_the_environment_is_used(world) {
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", proxy.local_addr().unwrap());
        let asked = thread::spawn(move || {
            let mut stream = BufReader::new(proxy.accept().unwrap().0);
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            let _ = stream.get_mut().write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            line
        });
        let image = world.image("busybox.tar");
        let mut command = world.command();
        command
            .args(["run", "http://git.invalid/x", "--json", "--runtime", world.runtime().word(), "--image", &image])
            .args(["--source-protocols", "http", "--source-allowed-hosts", "git.invalid", "--network", "none"])
            .arg("--output")
            .arg(world.site())
            .env("http_proxy", address);
        let told = world.start_command(&mut command).end();
        told.ended(1, "failed");
        assert!(asked.join().unwrap().starts_with("GET http://git.invalid/x/info/refs"));
    }
}
