//! Requests at a steady rate, evenly spaced, and how long each took.
//!
//! One thread a connection, blocking: a sleep in the kernel is finer than tokio's timer of a millisecond. The
//! connections take turns, so that no two requests are sent at the same moment while answers come in time. A request that is late
//! because the one before it was slow counts from when it was due, so that a slow proxy cannot hide in what was not sent.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;

/// Connections that take turns.
const CONNECTIONS: u32 = 10;

/// Left out at the start: connections to pods, caches.
const WARM_UP: Duration = Duration::from_millis(500);

/// The timer's own delay, which is no fault of the proxy's.
const LATE: Duration = Duration::from_millis(1);

/// Prints the median and the 99th percentile, in microseconds.
pub(crate) fn measure(address: SocketAddr, path: &str, rate: f64, seconds: f64) -> Outcome<()> {
    let interval = Duration::from_secs_f64(f64::from(CONNECTIONS) / rate);
    let start = Instant::now();
    let end = start + WARM_UP + Duration::from_secs_f64(seconds);
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|turn| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
            thread::spawn(move || client(address, &request, start + interval * turn / CONNECTIONS, interval, end))
        })
        .collect();
    let mut took = Vec::new();
    for client in clients {
        let all = client.join().map_err(|_| "a client died")??;
        took.extend(all.into_iter().filter(|(due, _)| *due > start + WARM_UP).map(|(_, took)| took));
    }
    took.sort_unstable();
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).map_or(0.0, |it| it.as_nanos() as f64 / 1e3);
    println!(r#"{{"done":{},"p50":{},"p99":{}}}"#, took.len(), at(0.5), at(0.99));
    Ok(())
}

/// One connection: when each request was due, and how long it took.
fn client(
    address: SocketAddr,
    request: &str,
    first: Instant,
    interval: Duration,
    end: Instant,
) -> io::Result<Vec<(Instant, Duration)>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut took = Vec::new();
    let mut due = first;
    while due < end {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        let from = if now - due > LATE { due } else { now };
        stream.write_all(request.as_bytes())?;
        read_answer(&mut stream)?;
        took.push((due, from.elapsed()));
        due += interval;
    }
    Ok(took)
}

/// Reads one answer, whose body is short.
fn read_answer(stream: &mut TcpStream) -> io::Result<()> {
    let mut answer = Vec::with_capacity(1024);
    let mut buffer = [0; 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        answer.extend_from_slice(&buffer[..count]);
        if !answer.starts_with(b"HTTP/1.1 200") || count == 0 {
            return Err(io::Error::other("not every request was answered 200"));
        }
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        if answer.len() >= end + 4 + body_length(&answer[..end])? {
            return Ok(());
        }
    }
}

fn body_length(head: &[u8]) -> io::Result<usize> {
    let head = std::str::from_utf8(head).map_err(io::Error::other)?;
    let mut lengths = head.lines().filter_map(|line| line.split_once(':'));
    let length = lengths.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.and_then(|(_, value)| value.trim().parse().ok()).ok_or_else(|| io::Error::other("no Content-Length"))
}
