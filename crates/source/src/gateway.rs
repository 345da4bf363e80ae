//! The only way out for git and Git LFS over https and http: a SOCKS5 proxy (RFC 1928, 1929) of our own, for one fetch.
//!
//! Git hands it the name of the host and not its address, so whoever resolves is whoever checks and whoever connects: there
//! is no moment between the check and the connection, and a redirect comes here too. It listens on loopback and serves
//! only who knows the fetch's own password. It counts what arrives, and ends the connection that brings too much.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bryo_model::Secret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::SourceError;
use crate::activity::Activity;
use crate::budget::Budget;
use crate::limits::ReachedLimit;
use crate::policy::{NoAddress, Refusal, SourcePolicy};

/// Nothing of the other side's takes longer until the connection stands.
const CONNECTING: Duration = Duration::from_secs(30);

/// What is on its way in one direction.
const PIECE: usize = 64 << 10;

/// Name of the only user.
const USER: &str = "bryo";

const VERSION: u8 = 5;
const PASSWORD_VERSION: u8 = 1;

/// Answers to a request.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Reply {
    Done = 0,
    NotAllowed = 2,
    HostUnreachable = 4,
    Refused = 5,
    NotSupported = 7,
}

/// Why a connection was not made, or was ended.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    Refused(Refusal),
    Reached(ReachedLimit),
    /// Nobody answers there, in words.
    Unreachable(String),
}

impl Trouble {
    /// What it is for the caller.
    pub(crate) fn told(self, location: String) -> SourceError {
        match self {
            Self::Refused(why) => SourceError::Refused { location, why },
            Self::Reached(limit) => SourceError::Limit { location, limit },
            Self::Unreachable(detail) => SourceError::Unreachable { location, detail },
        }
    }
}

/// A gateway that serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Gateway {
    address: SocketAddr,
    password: Secret,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    policy: Arc<SourcePolicy>,
    activity: Arc<Activity>,
    budget: Arc<Budget>,
    trouble: Mutex<Option<Trouble>>,
}

impl Gateway {
    /// Opens one. Everything that is connected through it ends with it.
    pub(crate) async fn open(
        policy: &Arc<SourcePolicy>,
        budget: &Arc<Budget>,
        activity: &Arc<Activity>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let password = random()?;
        let shared = Arc::new(Shared {
            policy: Arc::clone(policy),
            activity: Arc::clone(activity),
            budget: Arc::clone(budget),
            trouble: Mutex::new(None),
        });
        let serving = serve(listener, password.clone(), Arc::clone(&shared));
        Ok(Self {
            address,
            password,
            shared,
            task: tokio::spawn(serving).abort_handle(),
        })
    }

    /// Its address as curl takes it, with the password.
    pub(crate) fn proxy(&self) -> Secret {
        Secret::new(format!(
            "socks5h://{USER}:{}@{}",
            self.password.expose(),
            self.address
        ))
    }

    /// What went wrong here, if anything did. What was refused comes before what did not work.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.shared
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// 128 bits that nobody guesses.
fn random() -> io::Result<Secret> {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Secret::new(
        bytes.iter().map(|b| format!("{b:02x}")).collect(),
    ))
}

async fn serve(listener: TcpListener, password: Secret, shared: Arc<Shared>) {
    // Dropped with this future, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let (password, shared) = (password.clone(), Arc::clone(&shared));
                    connections.spawn(async move {
                        // What breaks off here, git tells as what it is for it: a connection that ended.
                        let _ = connection(client, &password, &shared).await;
                    });
                }
                // Too many open files, for instance: the connections there are go on.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(mut client: TcpStream, password: &Secret, shared: &Shared) -> io::Result<()> {
    let asked = tokio::time::timeout(CONNECTING, greet(&mut client, password))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    let Some((host, port)) = asked else {
        return reply(&mut client, Reply::NotSupported).await;
    };
    let server = match shared.connect(&host, port).await {
        Ok(server) => server,
        Err(answer) => return reply(&mut client, answer).await,
    };
    reply(&mut client, Reply::Done).await?;
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = pump(from_client, to_server, |_| true);
    let down = pump(from_server, to_client, |n| shared.arrived(n));
    // The client's end of sending is passed on; the server's end is the end.
    let up = async {
        up.await?;
        std::future::pending::<io::Result<()>>().await
    };
    tokio::select! {
        ended = down => ended,
        broken = up => broken,
    }
}

impl Shared {
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Reply> {
        let addresses = match self.policy.admit(host, port).await {
            Ok(addresses) => addresses,
            Err(NoAddress::Refused(why)) => {
                self.tell(Trouble::Refused(why));
                return Err(Reply::NotAllowed);
            }
            Err(NoAddress::Unresolved(why)) => {
                self.tell(Trouble::Unreachable(format!(
                    "the name {host} cannot be resolved: {why}"
                )));
                return Err(Reply::HostUnreachable);
            }
        };
        let mut last = String::new();
        for address in addresses {
            match tokio::time::timeout(CONNECTING, TcpStream::connect(address)).await {
                Ok(Ok(server)) => return Ok(server),
                Ok(Err(why)) => last = format!("{address}: {why}"),
                Err(_) => last = format!("{address}: no answer for {} s", CONNECTING.as_secs()),
            }
        }
        self.tell(Trouble::Unreachable(last));
        Err(Reply::Refused)
    }

    /// Counts; `false` when it is too much.
    fn arrived(&self, bytes: u64) -> bool {
        self.activity.seen();
        let room = self.budget.receive(bytes);
        if !room {
            let most = self.budget.limits().bytes;
            self.tell(Trouble::Reached(ReachedLimit::Bytes(most)));
        }
        room
    }

    fn tell(&self, trouble: Trouble) {
        let mut told = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*told, None | Some(Trouble::Unreachable(_))) {
            *told = Some(trouble);
        }
    }
}

/// Copies until the end of the one side, which it passes on to the other; or until somebody has counted enough.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut count: impl FnMut(u64) -> bool,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let n = from.read(&mut piece).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        if !count(n as u64) {
            return Ok(());
        }
        to.write_all(&piece[..n]).await?;
    }
}

/// Greeting, password and request. `None` when something else than a connection is asked for.
async fn greet(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    password: &Secret,
) -> io::Result<Option<(String, u16)>> {
    const BY_PASSWORD: u8 = 2;
    const NONE: u8 = 0xff;
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    if client.read_u8().await? != VERSION {
        return Err(bad());
    }
    let methods = counted(client).await?;
    let method = if methods.contains(&BY_PASSWORD) {
        BY_PASSWORD
    } else {
        NONE
    };
    client.write_all(&[VERSION, method]).await?;
    if method == NONE || client.read_u8().await? != PASSWORD_VERSION {
        return Err(bad());
    }
    let user = counted(client).await?;
    let given = counted(client).await?;
    let known = user == USER.as_bytes() && same(&given, password.expose().as_bytes());
    client
        .write_all(&[PASSWORD_VERSION, u8::from(!known)])
        .await?;
    if !known {
        return Err(bad());
    }
    request(client).await
}

async fn request(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(String, u16)>> {
    const CONNECT: u8 = 1;
    let mut head = [0; 4];
    client.read_exact(&mut head).await?;
    let [version, command, _, kind] = head;
    let host = match kind {
        1 => Ipv4Addr::from(client.read_u32().await?).to_string(),
        // Some clients write an address of IPv6 as it stands in a URL.
        3 => String::from_utf8(counted(client).await?)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?
            .trim_matches(['[', ']'])
            .to_owned(),
        4 => Ipv6Addr::from(client.read_u128().await?).to_string(),
        _ => return Ok(None),
    };
    let port = client.read_u16().await?;
    Ok((version == VERSION && command == CONNECT).then_some((host, port)))
}

/// Bytes after their number.
async fn counted(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; client.read_u8().await?.into()];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Takes the same time wherever the difference is.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

async fn reply(client: &mut (impl AsyncWrite + Unpin), answer: Reply) -> io::Result<()> {
    // The address that we are bound to is nobody's business: all zero, which clients must take.
    client
        .write_all(&[VERSION, answer as u8, 0, 1, 0, 0, 0, 0, 0, 0])
        .await?;
    client.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SourceLimits;

    const SOON: Duration = Duration::from_secs(20);

    fn hello(password: &str, host: &str, port: u16) -> Vec<u8> {
        let mut bytes = vec![5, 1, 2, 1, 4];
        bytes.extend_from_slice(USER.as_bytes());
        bytes.push(u8::try_from(password.len()).unwrap());
        bytes.extend_from_slice(password.as_bytes());
        bytes.extend_from_slice(&[5, 1, 0, 3, u8::try_from(host.len()).unwrap()]);
        bytes.extend_from_slice(host.as_bytes());
        bytes.extend_from_slice(&port.to_be_bytes());
        bytes
    }

    /// What comes back until the gateway closes.
    async fn answer(gateway: &Gateway, bytes: &[u8]) -> Vec<u8> {
        let mut client = TcpStream::connect(gateway.address).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let mut out = Vec::new();
        // A reset is an end as well.
        let _ = tokio::time::timeout(SOON, client.read_to_end(&mut out))
            .await
            .expect("the gateway closes");
        out
    }

    async fn server(says: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(says).await;
            }
        });
        port
    }

    async fn open(reach: &[&str], bytes: u64) -> Gateway {
        let policy = SourcePolicy {
            reach: reach.iter().map(|d| d.parse().unwrap()).collect(),
            ..SourcePolicy::default()
        };
        let budget = Budget::new(SourceLimits {
            bytes,
            ..policy.limits
        });
        let activity = Arc::new(Activity::new());
        Gateway::open(&Arc::new(policy), &budget, &activity)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn it_relays_for_who_knows_the_password_and_counts() {
        let port = server(b"0123456789").await;
        let gateway = open(&["127.0.0.1"], 10).await;
        let password = gateway.password.expose().to_owned();
        let got = answer(&gateway, &hello(&password, "127.0.0.1", port)).await;
        assert_eq!(
            got,
            b"\x05\x02\x01\x00\x05\x00\x00\x01\0\0\0\0\0\x000123456789"
        );
        assert!(gateway.trouble().is_none());

        let got = answer(&gateway, &hello("wrong", "127.0.0.1", port)).await;
        assert_eq!(got, b"\x05\x02\x01\x01");
        let got = answer(&gateway, b"\x05\x01\x00").await;
        assert_eq!(got, b"\x05\xff");
        answer(&gateway, b"GET / HTTP/1.1\r\n\r\n").await;

        // The second ten bytes are too many.
        let got = answer(&gateway, &hello(&password, "127.0.0.1", port)).await;
        assert!(!got.ends_with(b"9"), "{got:?}");
        assert!(matches!(
            gateway.trouble(),
            Some(Trouble::Reached(ReachedLimit::Bytes(10)))
        ));
    }

    #[tokio::test]
    async fn closed_addresses_are_refused_by_name_and_by_number() {
        let port = server(b"secret").await;
        for host in ["127.0.0.1", "localhost", "::1", "::ffff:127.0.0.1"] {
            let gateway = open(&[], 100).await;
            let password = gateway.password.expose().to_owned();
            let got = answer(&gateway, &hello(&password, host, port)).await;
            assert_eq!(got.get(4..6), Some(&b"\x05\x02"[..]), "{host}: {got:?}");
            assert!(
                matches!(
                    gateway.trouble(),
                    Some(Trouble::Refused(Refusal::Closed { .. }))
                ),
                "{host}"
            );
        }
    }

    #[tokio::test]
    async fn nobody_there_is_no_refusal() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let gateway = open(&["127.0.0.1"], 100).await;
        let password = gateway.password.expose().to_owned();
        let got = answer(&gateway, &hello(&password, "127.0.0.1", port)).await;
        assert_eq!(got.get(4..6), Some(&b"\x05\x05"[..]));
        assert!(matches!(gateway.trouble(), Some(Trouble::Unreachable(_))));
        let got = answer(&gateway, &hello(&password, "no-such-host.invalid", 1)).await;
        assert_eq!(got.get(4..6), Some(&b"\x05\x04"[..]));
    }
}
