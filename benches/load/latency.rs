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

/// For how long requests go to one address before it is the next one's turn: what slows the machine for a moment slows all
/// of them alike.
const TURN: Duration = Duration::from_millis(100);

/// Left out at first: connections to pods, caches.
const WARM_UP_TURNS: u32 = 5;

/// Left out at the start of each turn: the processor's caches hold what the others needed.
const SETTLE: Duration = Duration::from_millis(10);

/// The timer's own delay, which is no fault of the proxy's.
const LATE: Duration = Duration::from_millis(1);

/// When whose turn is.
#[derive(Clone, Copy)]
struct Plan {
    start: Instant,
    addresses: u32,
    /// Between two requests of a connection.
    interval: Duration,
    /// Of each address.
    turns: u32,
}

/// Prints for each address the median and the 99th percentile, in microseconds, of `seconds`.
pub(crate) fn measure(addresses: &[&str], path: &str, rate: f64, seconds: f64) -> Outcome<()> {
    let targets = addresses.iter().map(|address| address.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let plan = Plan {
        start: Instant::now(),
        addresses: targets.len().try_into()?,
        interval: Duration::from_secs_f64(f64::from(CONNECTIONS) / rate),
        turns: WARM_UP_TURNS + (seconds / TURN.as_secs_f64()).ceil() as u32,
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
    let at = |address, place| {
        let request = request.clone();
        (0..CONNECTIONS).map(move |number| {
            let request = request.clone();
            let phase = plan.interval * number / CONNECTIONS;
            thread::spawn(move || client(address, &request, plan, place, phase))
        })
    };
    let clients: Vec<Vec<_>> = (0..).zip(targets).map(|(place, address)| at(address, place).collect()).collect();
    let mut accounts = Vec::new();
    for clients in clients {
        let (mut took, mut failed) = (Vec::new(), 0);
        for client in clients {
            match client.join().map_err(|_| "a client died")? {
                Ok(all) => took.extend(all),
                Err(_) => failed += 1,
            }
        }
        took.sort_unstable();
        let at =
            |share: f64| took.get((took.len() as f64 * share) as usize).map_or(0.0, |it| it.as_nanos() as f64 / 1e3);
        let (done, p50, p99) = (took.len(), at(0.5), at(0.99));
        accounts.push(format!(r#"{{"done":{done},"failed":{failed},"p50":{p50},"p99":{p99}}}"#));
    }
    println!("[{}]", accounts.join(","));
    Ok(())
}

/// One connection, of the address with this place: how long each request took.
fn client(address: SocketAddr, request: &str, plan: Plan, place: u32, phase: Duration) -> io::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut took = Vec::new();
    for turn in 0..plan.turns {
        let begins = plan.start + TURN * (turn * plan.addresses + place);
        let mut due = begins + phase;
        while due < begins + TURN {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let now = Instant::now();
            let from = if now.saturating_duration_since(due) > LATE { due } else { now };
            stream.write_all(request.as_bytes())?;
            read_answer(&mut stream)?;
            if turn >= WARM_UP_TURNS && due >= begins + SETTLE {
                took.push(from.elapsed());
            }
            due += plan.interval;
        }
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
