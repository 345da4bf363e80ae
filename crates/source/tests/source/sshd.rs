//! An ssh server on loopback: OpenSSH's own, one for each connection, as whoever runs the stories.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::bed::skipped;

const SSHD: &str = "/usr/sbin/sshd";

pub(crate) struct Sshd {
    dir: tempfile::TempDir,
    port: u16,
    user: String,
    /// The next so many connections are closed without a word.
    closes: Arc<AtomicUsize>,
}

impl Sshd {
    /// One that lets in who has its `key`; none where there is no sshd that this user can run.
    pub(crate) fn start() -> Option<Self> {
        let root = nix::unistd::geteuid().is_root();
        if !Path::new(SSHD).exists() {
            skipped("ssh: no openssh-server");
            return None;
        }
        if root && !Path::new("/run/sshd").exists() {
            skipped("ssh: as root sshd wants /run/sshd; the stories run as an ordinary user too");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["host", "key", "other"] {
            keygen(&path(name));
        }
        fs::copy(path("key.pub"), path("authorized_keys")).unwrap();
        let config = format!(
            "HostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\nUsePAM no\nStrictModes no\nPidFile none\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nAcceptEnv GIT_PROTOCOL\nLogLevel ERROR\n\
             SetEnv PATH={0}/bin:/usr/local/bin:/usr/bin:/bin\n",
            dir.path().display()
        );
        fs::write(path("sshd_config"), config).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = path("sshd_config");
        let closes = Arc::new(AtomicUsize::new(0));
        let to_close = Arc::clone(&closes);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let one_less = |left: usize| left.checked_sub(1);
                let order = Ordering::SeqCst;
                if to_close.fetch_update(order, order, one_less).is_ok() {
                    continue;
                }
                let stream = OwnedFd::from(stream.unwrap());
                let sshd = Command::new(SSHD)
                    .args(["-i", "-e", "-f"])
                    .arg(&config)
                    .stdin(Stdio::from(stream.try_clone().unwrap()))
                    .stdout(Stdio::from(stream))
                    .stderr(Stdio::null())
                    .spawn();
                thread::spawn(move || sshd.unwrap().wait());
            }
        });
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
        let server = Self {
            dir,
            port,
            user: user.unwrap().unwrap().name,
            closes,
        };
        server.know("known_hosts", "host.pub");
        server.know("known_wrongly", "other.pub");
        Some(server)
    }

    /// Closes the next so many connections, as a server with too many of them does.
    pub(crate) fn close(&self, connections: usize) {
        self.closes.store(connections, Ordering::SeqCst);
    }

    /// How many of them are left.
    pub(crate) fn left_to_close(&self) -> usize {
        self.closes.load(Ordering::SeqCst)
    }

    /// Writes a file by which the server's key would be this one.
    fn know(&self, file: &str, key: &str) {
        let key = fs::read_to_string(self.file(key)).unwrap();
        let line = format!("[127.0.0.1]:{} {key}", self.port);
        fs::write(self.file(file), line).unwrap();
    }

    /// `key`, `other`, `known_hosts` or `known_wrongly`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn url(&self, path: &Path) -> String {
        format!(
            "ssh://{}@127.0.0.1:{}{}",
            self.user,
            self.port,
            path.display()
        )
    }

    /// What `git-lfs-authenticate` answers there, if it is asked for just this.
    pub(crate) fn authenticate(&self, answer: &str, asked: &str) {
        let bin = self.file("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(self.file("answer"), answer).unwrap();
        fs::write(self.file("asked"), asked).unwrap();
        let dir = self.dir.path().display();
        let script = format!(
            "#!/bin/sh\nif [ ! -s {dir}/asked ] || [ \"$*\" = \"$(cat {dir}/asked)\" ]; then cat {dir}/answer; \
             else echo \"asked for $*\" >&2; exit 1; fi\n"
        );
        let program = bin.join("git-lfs-authenticate");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn prefix(&self) -> String {
        format!("ssh://127.0.0.1:{}", self.port)
    }
}

fn keygen(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(path)
        .status();
    assert!(made.unwrap().success());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// An ssh agent with one key.
pub(crate) struct Agent {
    process: std::process::Child,
    pub(crate) socket: PathBuf,
}

impl Agent {
    pub(crate) fn start(dir: &Path, key: &Path) -> Self {
        let socket = dir.join("agent.socket");
        let process = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn();
        let agent = Self {
            process: process.unwrap(),
            socket,
        };
        let since = std::time::Instant::now();
        while !agent.socket.exists() {
            assert!(since.elapsed() < crate::bed::SOON, "there is no ssh agent");
            thread::yield_now();
        }
        let added = Command::new("ssh-add")
            .arg("-q")
            .arg(key)
            .env("SSH_AUTH_SOCK", &agent.socket)
            .status();
        assert!(added.unwrap().success());
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
