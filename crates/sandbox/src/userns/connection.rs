//! The agent's end of the two pipes: wishes go out in order, answers and ends of workers come back.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot, watch};

use super::protocol::{Done, Request, Said, Wish};
use crate::SandboxError;

/// How a worker ended, once it has.
pub(super) type End = Option<String>;

/// What the helper says to a wish.
type Answer = oneshot::Receiver<Result<Done, String>>;

/// A connection with the helper, for as long as that lives.
#[derive(Debug)]
pub(super) struct Connection {
    state: Mutex<State>,
    ended: watch::Receiver<Option<String>>,
}

#[derive(Debug)]
struct State {
    next: u64,
    // Unbounded: what is sent is little, and whoever sends must not wait for a helper that was stopped.
    lines: mpsc::UnboundedSender<Vec<u8>>,
    answers: HashMap<u64, oneshot::Sender<Result<Done, String>>>,
    workers: HashMap<u64, watch::Sender<End>>,
    ended: Option<String>,
}

impl Connection {
    /// Begins to talk and to listen.
    pub(super) fn begin(
        to: ChildStdin,
        from: BufReader<ChildStdout>,
        stderr: ChildStderr,
    ) -> Arc<Self> {
        let (end, ended) = watch::channel(None);
        let (lines, to_send) = mpsc::unbounded_channel();
        let connection = Arc::new(Self {
            state: Mutex::new(State {
                next: 0,
                lines,
                answers: HashMap::new(),
                workers: HashMap::new(),
                ended: None,
            }),
            ended,
        });
        tokio::spawn(send(to, to_send));
        tokio::spawn(listen(from, stderr, Arc::clone(&connection), end));
        connection
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_alive(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Waits until the helper has ended, and says why.
    pub(super) async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        let why = ended.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    /// Sends a wish. It is sent whether or not anybody waits for the answer.
    pub(super) async fn ask(&self, wish: Wish) -> Result<Done, SandboxError> {
        let (_, answer) = self.lock().ask(wish)?;
        answered(answer).await
    }

    /// Sends a wish whose answer nobody needs. With a helper that has ended, what is wished has happened.
    pub(super) fn tell(&self, wish: Wish) {
        let _ = self.lock().send(None, wish);
    }

    /// Asks for a worker.
    pub(super) fn ask_for_worker(&self, crun: &Path) -> Result<Asked, SandboxError> {
        // In one go: it may end at once.
        let mut state = self.lock();
        let (number, answer) = state.ask(Wish::Work {
            crun: crun.to_owned(),
        })?;
        let (sender, receiver) = watch::channel(None);
        state.workers.insert(number, sender);
        Ok(Asked {
            number,
            end: receiver,
            answer,
        })
    }

    /// Nobody asks for the end of this one any more.
    pub(super) fn forget(&self, worker: u64) {
        self.lock().workers.remove(&worker);
    }
}

/// A worker that was asked for.
pub(super) struct Asked {
    pub(super) number: u64,
    /// How it will end.
    pub(super) end: watch::Receiver<End>,
    answer: Answer,
}

impl Asked {
    /// What the helper says to it.
    pub(super) async fn answer(self) -> Result<Done, SandboxError> {
        answered(self.answer).await
    }
}

impl State {
    fn send(&self, number: Option<u64>, wish: Wish) -> Result<(), SandboxError> {
        if let Some(why) = &self.ended {
            return Err(lost(why));
        }
        let mut line =
            serde_json::to_vec(&Request { number, wish }).map_err(|e| lost(&e.to_string()))?;
        line.push(b'\n');
        // Who does not take it any more has ended, which is told to everybody who waits.
        let _ = self.lines.send(line);
        Ok(())
    }

    fn ask(&mut self, wish: Wish) -> Result<(u64, Answer), SandboxError> {
        self.next += 1;
        let number = self.next;
        self.send(Some(number), wish)?;
        let (sender, receiver) = oneshot::channel();
        self.answers.insert(number, sender);
        Ok((number, receiver))
    }
}

async fn answered(answer: Answer) -> Result<Done, SandboxError> {
    match answer.await {
        Ok(result) => result.map_err(SandboxError::Helper),
        Err(_) => Err(lost("it ended")),
    }
}

/// Each line whole: half a one would spoil the next.
async fn send(mut to: ChildStdin, mut lines: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(line) = lines.recv().await {
        if write(&mut to, &line).await.is_err() {
            return;
        }
    }
}

/// Hands everything that is said to the one whom it concerns; when the helper ends, everybody learns it.
async fn listen(
    mut from: BufReader<ChildStdout>,
    mut stderr: ChildStderr,
    connection: Arc<Connection>,
    end: watch::Sender<Option<String>>,
) {
    let mut line = String::new();
    loop {
        line.clear();
        match from.read_line(&mut line).await {
            Ok(n) if n > 0 => {}
            _ => break,
        }
        match serde_json::from_str(&line) {
            Ok(Said::Answer(answer)) => {
                let sender = connection.lock().answers.remove(&answer.number);
                if let Some(sender) = sender {
                    // Whoever asked may have been cancelled.
                    let _ = sender.send(answer.result);
                }
            }
            Ok(Said::Ended { worker, how }) => {
                if let Some(sender) = connection.lock().workers.get(&worker) {
                    let _ = sender.send(Some(how));
                }
            }
            Err(_) => {}
        }
    }
    let mut said = String::new();
    let _ = stderr.read_to_string(&mut said).await;
    let why = match said.trim() {
        "" => "it was killed".to_owned(),
        said => format!("it ended: {said}"),
    };
    let mut state = connection.lock();
    state.ended = Some(why.clone());
    state.answers.clear();
    for worker in std::mem::take(&mut state.workers).into_values() {
        let _ = worker.send(Some(format!("the helper, and {why}")));
    }
    let _ = end.send(Some(why));
}

pub(super) async fn write(to: &mut ChildStdin, bytes: &[u8]) -> Result<(), SandboxError> {
    let result = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    result
        .await
        .map_err(|e| lost(&format!("it does not listen: {e}")))
}

/// The next line, or what the helper complained about.
pub(super) async fn expect(
    from: &mut BufReader<ChildStdout>,
    stderr: &mut ChildStderr,
) -> Result<String, SandboxError> {
    let mut line = String::new();
    if matches!(from.read_line(&mut line).await, Ok(n) if n > 0) {
        return Ok(line.trim_end().to_owned());
    }
    let mut said = String::new();
    let _ = stderr.read_to_string(&mut said).await;
    Err(lost(said.trim()))
}

/// The helper is not what it should be.
pub(super) fn lost(why: &str) -> SandboxError {
    SandboxError::Helper(why.to_owned())
}
