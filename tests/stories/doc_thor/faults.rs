//! Answers that go wrong.

use std::io::{Result, Write};
use std::net::TcpStream;
use std::time::Duration;

pub use super::routes::Endpoint;
use crate::Gate;
use crate::http::{Answer, GoesOn};

/// An endless answer ends here all the same.
const HUGE: u64 = 1 << 30;

/// What goes wrong with one answer. Where the variant does not say otherwise, the request took effect.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status and this body. The request took no effect.
    Says(u16, String),
    /// Nothing until the gate is open, then the answer.
    Hangs(Gate),
    /// The headers; the body when the gate is open.
    HangsAfterHeaders(Gate),
    /// The connection is closed instead.
    Lost,
    /// The same, and the request took no effect.
    LostBefore,
    /// Closed in the middle of the body.
    CutInBody,
    /// A piece of the answer after each of these times.
    Trickles(Duration),
    /// Bytes that are no HTTP. The request took no effect.
    Garbage,
    /// This status and one GiB of the beginning of a JSON object. The request took no effect.
    Huge(u16),
    /// To this address. The request took no effect.
    Redirect(u16, String),
}

impl Fault {
    /// Whether the request takes no effect.
    pub(super) const fn is_before_the_rules(&self) -> bool {
        matches!(
            self,
            Self::Says(..) | Self::LostBefore | Self::Garbage | Self::Huge(_) | Self::Redirect(..)
        )
    }

    /// Answers so. Also says how many bytes of an endless answer were taken.
    pub(super) fn happen(
        &self,
        answer: Option<&Answer>,
        connection: &mut TcpStream,
    ) -> (Result<GoesOn>, u64) {
        let mut taken = 0;
        let done = self.write(answer, connection, &mut taken);
        (done, taken)
    }

    fn write(
        &self,
        answer: Option<&Answer>,
        connection: &mut TcpStream,
        taken: &mut u64,
    ) -> Result<GoesOn> {
        let empty = Answer::empty(500);
        let answer = answer.unwrap_or(&empty);
        let (head, body) = (answer.head(), &answer.body);
        match self {
            Self::Says(status, text) => {
                let mut answer = Answer::empty(*status);
                answer.body = text.clone().into_bytes();
                answer.write(connection)?;
                Ok(true)
            }
            Self::Hangs(gate) => {
                gate.pass();
                answer.write(connection)?;
                Ok(true)
            }
            Self::HangsAfterHeaders(gate) => {
                connection.write_all(&head)?;
                gate.pass();
                connection.write_all(body)?;
                Ok(true)
            }
            Self::Lost | Self::LostBefore => Ok(false),
            Self::CutInBody => {
                connection.write_all(&head)?;
                connection.write_all(&body[..body.len() / 2])?;
                Ok(false)
            }
            Self::Trickles(each) => {
                for piece in [head, body.clone()].concat().chunks(16) {
                    connection.write_all(piece)?;
                    std::thread::sleep(*each);
                }
                Ok(true)
            }
            Self::Garbage => {
                connection.write_all(b"\x16\x03\x01\x00\xff HELO \0\0\r\n\r\n")?;
                Ok(false)
            }
            Self::Huge(status) => {
                let head = format!(
                    "HTTP/1.1 {status} Story\r\nContent-Type: application/json\r\nContent-Length: {HUGE}\r\n\r\n{{\"id\":\""
                );
                connection.write_all(head.as_bytes())?;
                let piece = vec![b'7'; 1 << 20];
                while *taken < HUGE {
                    connection.write_all(&piece)?;
                    *taken += piece.len() as u64;
                }
                Ok(false)
            }
            Self::Redirect(status, to) => {
                let mut answer = Answer::empty(*status);
                answer.headers = vec![("Location", to.clone())];
                answer.write(connection)?;
                Ok(true)
            }
        }
    }
}

/// Takes the fault that is next for this endpoint.
pub(super) fn next(
    faults: &mut Vec<(Endpoint, Fault, usize)>,
    endpoint: Endpoint,
) -> Option<Fault> {
    let at = faults.iter().position(|(of, ..)| *of == endpoint)?;
    let (_, fault, left) = &mut faults[at];
    let fault = fault.clone();
    *left -= 1;
    if *left == 0 {
        faults.remove(at);
    }
    Some(fault)
}
