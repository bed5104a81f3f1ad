//! The WebSocket part of the load test: a pod that echoes, and the clients that talk to it.
//!
//! HTTP load comes from wrk and h2load; neither speaks WebSocket. Written on bare sockets, because what is measured is
//! the proxy between the two and they share a core with Redis and the other pods: frames are small, constant, and
//! recognised rather than parsed. One line of JSON on standard output is the result.
//!
//! ```text
//! load echo ADDRESS...                                     the pods
//! load handshakes ADDRESS ROOMS CLIENTS SECONDS            handshake, one message, close, and again
//! load messages ADDRESS ROOMS TUNNELS SECONDS              each tunnel sends its next message when the last is back
//! load idle ADDRESS ROOMS TUNNELS                          opens them, says so, waits for the end of standard input
//! ```

#![expect(clippy::print_stdout, reason = "the result goes there")]

use std::cell::Cell;
use std::error::Error;
use std::io::Read;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// RFC 6455's own example: the pod's answer to this key is a constant.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The payload of a message.
const MESSAGE: &[u8; 32] = b"42[\"message\",{\"text\":\"hello\"}]  ";

/// A frame header of the client's, and its mask of zeros, which leaves the payload as it is.
const CLIENT_HEADER: [u8; 6] = [0x82, 0x80 | MESSAGE.len() as u8, 0, 0, 0, 0];

/// A frame header of the pod's.
const POD_HEADER: [u8; 2] = [0x82, MESSAGE.len() as u8];

const CLIENT_FRAME: usize = CLIENT_HEADER.len() + MESSAGE.len();
const POD_FRAME: usize = POD_HEADER.len() + MESSAGE.len();

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    match words[..] {
        ["echo", ref addresses @ ..] => runtime.block_on(echo(addresses)),
        ["handshakes", address, rooms, clients, seconds] => {
            runtime.block_on(repeat(address, rooms.parse()?, clients.parse()?, seconds.parse()?, handshakes))
        }
        ["messages", address, rooms, tunnels, seconds] => {
            runtime.block_on(repeat(address, rooms.parse()?, tunnels.parse()?, seconds.parse()?, messages))
        }
        ["idle", address, rooms, tunnels] => runtime.block_on(idle(address, rooms.parse()?, tunnels.parse()?)),
        _ => Err("see the first lines of benches/load.rs".into()),
    }
}

/// Serves WebSocket echo on every address.
async fn echo(addresses: &[&str]) -> Outcome<()> {
    let mut servers = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await?;
        servers.push(tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that goes away is no news here.
                tokio::task::spawn_local(async move { drop(echo_one(stream).await) });
            }
        }));
    }
    for server in servers {
        server.await?;
    }
    Ok(())
}

async fn echo_one(mut stream: TcpStream) -> Outcome<()> {
    stream.set_nodelay(true)?;
    read_head(&mut stream).await?;
    let port = stream.local_addr()?.port();
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\nX-Pod: {port}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut frame = [0; CLIENT_FRAME];
    loop {
        stream.read_exact(&mut frame).await?;
        let mut reply = [0; POD_FRAME];
        reply[..2].copy_from_slice(&POD_HEADER);
        reply[2..].copy_from_slice(&frame[CLIENT_HEADER.len()..]);
        stream.write_all(&reply).await?;
    }
}

/// Reads a head, and whatever comes with it: neither side here speaks before the other has answered.
async fn read_head(stream: &mut TcpStream) -> Outcome<String> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Err("closed within the head".into());
        }
    }
    Ok(String::from_utf8(head)?)
}

async fn connect(address: &str, room: usize) -> Outcome<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /socket.io/?EIO=4&transport=websocket&roomId=room_ws{room} HTTP/1.1\r\nHost: bench\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let head = read_head(&mut stream).await?;
    if head.starts_with("HTTP/1.1 101") { Ok(stream) } else { Err(head.lines().next().unwrap_or_default().into()) }
}

async fn exchange(stream: &mut TcpStream) -> Outcome<()> {
    let mut frame = [0; CLIENT_FRAME];
    frame[..CLIENT_HEADER.len()].copy_from_slice(&CLIENT_HEADER);
    frame[CLIENT_HEADER.len()..].copy_from_slice(MESSAGE);
    stream.write_all(&frame).await?;
    let mut reply = [0; POD_FRAME];
    stream.read_exact(&mut reply).await?;
    if &reply[2..] == MESSAGE { Ok(()) } else { Err("another message came back".into()) }
}

/// What the clients have done so far.
#[derive(Default)]
struct Tally {
    done: Cell<u64>,
    failed: Cell<u64>,
    over: Cell<bool>,
}

/// Runs `client` so often at once, for that long, and says how much was done.
async fn repeat<C, F>(address: &str, rooms: usize, clients: usize, seconds: f64, client: C) -> Outcome<()>
where
    C: Fn(String, usize, Rc<Tally>) -> F,
    F: Future<Output = Outcome<()>> + 'static,
{
    let tally = Rc::new(Tally::default());
    let started = Instant::now();
    let running: Vec<_> = (0..clients)
        .map(|index| {
            let (work, tally) = (client(address.to_owned(), index % rooms, Rc::clone(&tally)), Rc::clone(&tally));
            tokio::task::spawn_local(async move {
                if work.await.is_err() {
                    tally.failed.set(tally.failed.get() + 1);
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    tally.over.set(true);
    for task in running {
        task.await?;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(r#"{{"done":{},"failed":{},"seconds":{seconds}}}"#, tally.done.get(), tally.failed.get());
    Ok(())
}

async fn handshakes(address: String, room: usize, tally: Rc<Tally>) -> Outcome<()> {
    while !tally.over.get() {
        let stream = connect(&address, room).await?;
        drop(stream);
        tally.done.set(tally.done.get() + 1);
    }
    Ok(())
}

/// Counts each message twice: it is relayed to the pod, and back.
async fn messages(address: String, room: usize, tally: Rc<Tally>) -> Outcome<()> {
    let mut stream = connect(&address, room).await?;
    while !tally.over.get() {
        exchange(&mut stream).await?;
        tally.done.set(tally.done.get() + 2);
    }
    Ok(())
}

async fn idle(address: &str, rooms: usize, tunnels: usize) -> Outcome<()> {
    let mut open = Vec::with_capacity(tunnels);
    for index in 0..tunnels {
        let mut stream = connect(address, index % rooms).await?;
        exchange(&mut stream).await?;
        open.push(stream);
    }
    println!(r#"{{"done":{tunnels},"failed":0}}"#);
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}
