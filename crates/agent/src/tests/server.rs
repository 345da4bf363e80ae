//! A server at the wire that answers as a test says: it stands for a doc-thor server where time is virtual, which the real
//! program's stories cannot have.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) body: String,
}

/// The answer to a report that is taken: the build, by its number.
pub(crate) fn known(asked: &Asked) -> (u16, String) {
    let id = asked.path.split('/').nth(4).unwrap_or_default();
    (200, format!("{{\"id\":{id},\"status\":\"success\"}}"))
}

/// What is answered: a status and a body.
pub(crate) type Answering = Box<dyn Fn(&Asked) -> (u16, String) + Send + Sync>;

/// A server; gone when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(at: SocketAddr, answering: Answering) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let address = listener.local_addr().unwrap();
        let (seen, answering) = (Arc::clone(&asked), Arc::new(answering));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, answering) = (Arc::clone(&seen), Arc::clone(&answering));
                tokio::spawn(async move {
                    let _ = converse(stream, &seen, &answering).await;
                });
            }
        });
        Self {
            address,
            asked,
            task,
        }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Asked>>,
    answering: &Answering,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |n| n.trim().parse::<usize>().unwrap());
    while bytes.len() < head_end + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    let asked = Asked {
        path: head.split(' ').nth(1).unwrap().to_owned(),
        body: String::from_utf8(bytes[head_end..].to_vec()).unwrap(),
    };
    seen.lock().unwrap().push(asked.clone());
    let (status, body) = answering(&asked);
    let answer = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
