//! A stand-in for a server of Git LFS: the batch API and the objects, beside the repositories that [`crate::http`] serves.
//!
//! It is a stand-in and not a server that people use. That it speaks their language is shown by the real git-lfs, which
//! pushes to it and pulls from it in [`crate::lfs_servers`]. Objects are in the directory of the repository that is asked.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::{Value, json};

/// How it behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lfs {
    Honest,
    /// The objects are at this address, which wants what a repository wants there, and nothing of this answer's.
    Elsewhere(String),
    /// Who asks where objects are is sent to the same path there.
    BatchRedirects(String),
    /// Who asks for an object is sent there.
    ObjectRedirects(String),
    /// Other bytes, as many.
    WrongBytes,
    /// More bytes than there are, and the length says so.
    Longer,
    /// Bytes without end, and no length.
    Endless,
    Shorter,
    /// It has no object.
    Lacks,
    /// Has the first object, and of the others it says what that one may be had with.
    Repeats,
    /// Says this to who asks where objects are.
    Says(&'static str, &'static str),
    /// Says this to who asks for an object.
    ObjectSays(&'static str),
    /// The first so many requests find it broken.
    Busy(usize),
    /// The first request is to come again after so many seconds.
    Later(u32),
    /// Stops in the middle of an object, and keeps the connection.
    Hangs,
    /// Closes the first so many connections in the middle of an object.
    Cuts(usize),
    /// The first grant does not hold.
    Expired,
    /// Answers with an endless list.
    Huge,
    /// Wants this header to be sent.
    Wants(&'static str, &'static str),
}

/// What becomes of the connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum After {
    NotMine,
    Close,
    /// Until the client goes away.
    Hang,
}

pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// The value of the header.
    pub(crate) who: &'a str,
    /// As `Basic` has it; empty where nobody need say who they are.
    pub(crate) known: String,
    pub(crate) body: &'a [u8],
}

#[derive(Debug)]
pub(crate) struct StandIn {
    root: PathBuf,
    address: String,
    manner: Mutex<Option<Lfs>>,
    asked: Mutex<Vec<String>>,
    batches: Mutex<Vec<usize>>,
    grants: Mutex<usize>,
    troubles: Mutex<usize>,
}

impl StandIn {
    pub(crate) fn new(root: &Path, address: &str) -> Self {
        Self {
            root: root.to_owned(),
            address: address.to_owned(),
            manner: Mutex::default(),
            asked: Mutex::default(),
            batches: Mutex::default(),
            grants: Mutex::default(),
            troubles: Mutex::default(),
        }
    }

    pub(crate) fn behave(&self, manner: Lfs) {
        *self.troubles.lock().unwrap() = 0;
        *self.grants.lock().unwrap() = 0;
        self.asked.lock().unwrap().clear();
        self.batches.lock().unwrap().clear();
        *self.manner.lock().unwrap() = Some(manner);
    }

    /// Method and path of each request since it behaves as it does.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// How many objects each batch was for since then.
    pub(crate) fn batches(&self) -> Vec<usize> {
        self.batches.lock().unwrap().clone()
    }

    /// Answers what is about Git LFS, if it was told how.
    pub(crate) fn answer(&self, request: &Request<'_>, wire: &mut impl Write) -> After {
        let Some(manner) = self.manner.lock().unwrap().clone() else {
            return After::NotMine;
        };
        let Some((repo, rest)) = request.path.split_once("/info/lfs/") else {
            return After::NotMine;
        };
        let asked = format!("{} {}", request.method, request.path);
        self.asked.lock().unwrap().push(asked);
        let repo = &repo.trim_start_matches('/').replace("%20", " ");
        let after = match (request.method, rest) {
            ("POST", "objects/batch") => self.batch(&manner, repo, request, wire),
            ("GET", rest) => self.give(&manner, repo, rest, request, wire),
            ("PUT", rest) => {
                let place = self.place(repo, rest.rsplit('/').next().unwrap());
                fs::create_dir_all(place.parent().unwrap()).unwrap();
                fs::write(place, request.body).unwrap();
                say(wire, "200 OK", "", b"")
            }
            // Locks, for instance.
            _ => say(
                wire,
                "404 Not Found",
                "",
                b"{\"message\":\"no such thing\"}",
            ),
        };
        // A client that has seen enough goes away.
        after.unwrap_or(After::Close)
    }

    fn place(&self, repo: &str, oid: &str) -> PathBuf {
        let dir = self.root.join(repo).join("lfs/objects");
        dir.join(&oid[..2]).join(&oid[2..4]).join(oid)
    }

    /// Whether this request is one of the first so many.
    fn trouble(&self, most: usize) -> bool {
        let mut troubles = self.troubles.lock().unwrap();
        *troubles += 1;
        *troubles <= most
    }

    fn batch(
        &self,
        manner: &Lfs,
        repo: &str,
        request: &Request<'_>,
        wire: &mut impl Write,
    ) -> std::io::Result<After> {
        if !request.known.is_empty() && request.who != request.known {
            let text = format!("{{\"message\":\"who is {}?\"}}", request.who);
            return say(wire, "401 Unauthorized", "", text.as_bytes());
        }
        let mut base = self.address.clone();
        match manner {
            Lfs::BatchRedirects(to) => {
                let to = format!("Location: {to}{}\r\n", request.path);
                return say(wire, "307 Temporary Redirect", &to, b"");
            }
            Lfs::Says(status, body) => return say(wire, status, "", body.as_bytes()),
            Lfs::Busy(most) if self.trouble(*most) => {
                return say(wire, "503 Service Unavailable", "Retry-After: 0\r\n", b"");
            }
            Lfs::Later(seconds) if self.trouble(1) => {
                let after = format!("Retry-After: {seconds}\r\n");
                return say(wire, "429 Too Many Requests", &after, b"");
            }
            Lfs::Huge => {
                wire.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"objects\":[")?;
                loop {
                    wire.write_all(b"{\"oid\":\"x\"},")?;
                }
            }
            Lfs::Elsewhere(to) => base.clone_from(to),
            _ => {}
        }
        let asked: Value = serde_json::from_slice(request.body).unwrap();
        let operation = asked["operation"].as_str().unwrap();
        let objects = asked["objects"].as_array().unwrap();
        assert!(objects.len() <= 100, "{}", objects.len());
        self.batches.lock().unwrap().push(objects.len());
        let mut grants = self.grants.lock().unwrap();
        *grants += 1;
        let grant = format!("Bearer {}", grant(*grants));
        let free = matches!(manner, Lfs::Elsewhere(_));
        let of = |object: &Value| {
            let (oid, size) = (object["oid"].as_str().unwrap(), &object["size"]);
            if operation == "download" && (*manner == Lfs::Lacks || !self.place(repo, oid).exists())
            {
                let error = json!({"code": 404, "message": "Object does not exist"});
                return json!({"oid": oid, "size": size, "error": error});
            }
            if *manner == Lfs::Repeats && *object != objects[0] {
                return json!({"oid": oid, "error": {"code": 422, "message": grant}});
            }
            let header = match manner {
                Lfs::Elsewhere(_) => json!({}),
                Lfs::Wants(name, value) => json!({ *name: value }),
                _ => json!({"Authorization": grant}),
            };
            let at = repo.replace(' ', "%20");
            let href = format!("{base}/{at}/info/lfs/storage/{oid}?signature=story");
            let action = json!({"href": href, "header": header, "expires_in": 600});
            json!({"oid": oid, "size": size, "authenticated": !free, "actions": {operation: action}})
        };
        let objects: Vec<Value> = objects.iter().map(of).collect();
        let answer = json!({"transfer": "basic", "objects": objects, "hash_algo": "sha256"});
        say(wire, "200 OK", "", answer.to_string().as_bytes())
    }

    fn give(
        &self,
        manner: &Lfs,
        repo: &str,
        rest: &str,
        request: &Request<'_>,
        wire: &mut impl Write,
    ) -> std::io::Result<After> {
        let free = matches!(manner, Lfs::Elsewhere(_) | Lfs::Wants(..));
        if !free && !self.address_is_shared() && !request.who.starts_with("Bearer grant-") {
            return say(wire, "401 Unauthorized", "", b"");
        }
        if free && !request.known.is_empty() && request.who != request.known {
            return say(wire, "401 Unauthorized", "", b"");
        }
        match manner {
            Lfs::ObjectRedirects(to) => {
                let to = format!("Location: {to}\r\n");
                return say(wire, "302 Found", &to, b"");
            }
            Lfs::ObjectSays(status) => {
                let body = json!({"message": request.who}).to_string();
                return say(wire, status, "", body.as_bytes());
            }
            Lfs::Busy(most) if self.trouble(*most) => {
                return say(wire, "500 Internal Server Error", "", b"");
            }
            Lfs::Expired if request.who == format!("Bearer {}", grant(1)) => {
                return say(wire, "403 Forbidden", "", b"");
            }
            _ => {}
        }
        let mut object = fs::File::open(self.place(repo, rest.rsplit('/').next().unwrap()))?;
        let size = object.metadata()?.len();
        let length = match manner {
            Lfs::Longer => size + 5,
            Lfs::Shorter => size - 1,
            _ => size,
        };
        let mut head = "HTTP/1.1 200 OK\r\nConnection: close\r\n".to_owned();
        if *manner == Lfs::Endless {
            wire.write_all(format!("{head}\r\n").as_bytes())?;
            std::io::copy(&mut object, wire)?;
            loop {
                wire.write_all(&[0x55; 4096])?;
            }
        }
        let _ = write!(head, "Content-Length: {length}\r\n\r\n");
        wire.write_all(head.as_bytes())?;
        match manner {
            Lfs::WrongBytes => {
                let mut bytes = Vec::new();
                object.read_to_end(&mut bytes)?;
                bytes.reverse();
                wire.write_all(&bytes)?;
            }
            Lfs::Hangs => {
                std::io::copy(&mut object.take(size / 2), wire)?;
                wire.flush()?;
                return Ok(After::Hang);
            }
            Lfs::Cuts(most) if self.trouble(*most) => {
                std::io::copy(&mut object.take(size / 2), wire)?;
            }
            _ => {
                std::io::copy(&mut object.take(length), wire)?;
            }
        }
        Ok(After::Close)
    }

    /// Whether it gives objects that another one was asked for.
    fn address_is_shared(&self) -> bool {
        *self.grants.lock().unwrap() == 0
    }
}

fn grant(number: usize) -> String {
    format!("grant-{number}-7f3a9c")
}

fn say(wire: &mut impl Write, status: &str, more: &str, body: &[u8]) -> std::io::Result<After> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/vnd.git-lfs+json\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n"
    );
    wire.write_all(head.as_bytes())?;
    wire.write_all(body)?;
    Ok(After::Close)
}
