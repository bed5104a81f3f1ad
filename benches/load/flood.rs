//! A flood: as many requests as the other side takes, of a kind that nobody can have prepared for.
//!
//! Pipelined, so that the flood costs this side less than the other. Heads are made before it begins; rooms are new each.

use std::cell::Cell;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;

/// Requests that are on their way at once on one connection.
const PIPELINED: usize = 50;

/// In every request. Loopback is a trusted proxy, so this is who floods, as far as limits per client go.
const COMMON: &str = "Host: bench\r\nX-Forwarded-For: 203.0.113.7\r\n";

/// Different heads.
const HEADS: usize = 20_000;

/// What a flood consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Requests for rooms that nobody has heard of.
    Rooms,
    /// Heads of every length and with fields of every name, to one room.
    Heads,
}

/// Answers so far, and how many of them were 429.
#[derive(Debug, Default)]
struct Answers {
    all: Cell<u64>,
    limited: Cell<u64>,
}

/// Prints how many requests were answered, and how many of them with 429.
pub(crate) async fn flood(kind: Kind, address: &str, clients: usize, seconds: f64) -> Outcome<()> {
    let answers = Rc::new(Answers::default());
    let heads: Rc<[String]> = match kind {
        Kind::Rooms => Rc::default(),
        Kind::Heads => (0..HEADS).map(head).collect(),
    };
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let (address, heads, answers) = (address.to_owned(), Rc::clone(&heads), Rc::clone(&answers));
            tokio::task::spawn_local(async move { client(&address, &heads, &answers, end).await })
        })
        .collect();
    for one in clients {
        one.await??;
    }
    println!(r#"{{"done":{},"limited":{}}}"#, answers.all.get(), answers.limited.get());
    Ok(())
}

async fn client(address: &str, heads: &[String], answers: &Answers, end: Instant) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let (mut requests, mut buffer, mut unread) = (String::new(), vec![0; 64 * 1024], Vec::new());
    while Instant::now() < end {
        requests.clear();
        for _ in 0..PIPELINED {
            match fastrand::choice(heads) {
                Some(head) => requests.push_str(head),
                None => {
                    let (room, id) = ("GET /api/room/room_", fastrand::u128(..));
                    write!(requests, "{room}{id:032x}/state HTTP/1.1\r\n{COMMON}\r\n").expect("memory");
                }
            }
        }
        stream.write_all(requests.as_bytes()).await?;
        let mut missing = PIPELINED;
        while missing > 0 {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            unread.extend_from_slice(&buffer[..count]);
            while let Some(status) = next_status(&mut unread) {
                missing -= 1;
                answers.all.set(answers.all.get() + 1);
                answers.limited.set(answers.limited.get() + u64::from(status == *b"429"));
            }
        }
    }
    Ok(())
}

/// The status of the next answer, everything up to it taken away. No field or body has the text of a status line in it;
/// one that has come in part is left for later.
fn next_status(unread: &mut Vec<u8>) -> Option<[u8; 3]> {
    const START: &[u8] = b"HTTP/1.1 ";
    let whole = START.len() + 3;
    let Some(at) = unread.windows(whole).position(|window| window.starts_with(START)) else {
        unread.drain(..unread.len().saturating_sub(whole - 1));
        return None;
    };
    let status = [unread[at + whole - 3], unread[at + whole - 2], unread[at + whole - 1]];
    unread.drain(..at + whole);
    Some(status)
}

/// A valid head, unlike the others: any number of fields with names and values of any length.
fn head(number: usize) -> String {
    let mut head = format!("GET /api/room/room_1/state?{number} HTTP/1.1\r\n{COMMON}");
    for field in 0..fastrand::usize(..40) {
        let word = |length: usize| (0..length).map(|_| fastrand::alphanumeric()).collect::<String>();
        let (name, value) = (word(fastrand::usize(..40)), word(fastrand::usize(..300)));
        write!(head, "X-{field}-{name}: {value}\r\n").expect("memory");
    }
    head + "\r\n"
}
