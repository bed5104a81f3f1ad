//! The load that wrk does not make: WebSocket clients, the pods that echo to them, and requests at a steady rate.
//!
//! wrk speaks no WebSocket, and h2load's fixed rate comes in bursts of all its clients at once, so that it measures how long
//! the last one queued. Written on bare sockets, because what is measured is the proxy in between: this program shares
//! its core with Redis and the other pods. The last line on standard output is the result, in JSON; `messages` and `idle` say
//! before when their tunnels are open.
//! SIGINT ends handshakes and messages before their time.
//!
//! ```text
//! load echo ADDRESS...                                     the pods
//! load handshakes ADDRESS ROOMS CLIENTS SECONDS            handshake, close, and again
//! load messages ADDRESS ROOMS TUNNELS IN-FLIGHT SECONDS    that many messages are on their way, on tunnels in turn
//! load idle ADDRESS ROOMS TUNNELS                          opens them, says so, waits for the end of standard input
//! load latency PATH RATE SECONDS ADDRESS...                so many requests a second, evenly spaced, to each by turns
//! load flood rooms|heads ADDRESS CLIENTS SECONDS           as many as are answered: unknown rooms, or heads of all kinds
//! ```

#![expect(clippy::print_stdout, reason = "the result goes there")]

mod echo;
mod flood;
mod latency;
mod tunnels;
mod websocket;

use std::error::Error;

use tokio::runtime::{Builder, LocalOptions};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    // A client and its tunnel's far end take one open file each.
    rlimit::increase_nofile_limit(u64::MAX)?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    match words[..] {
        ["echo", ref addresses @ ..] => runtime.block_on(echo::serve(addresses)),
        ["handshakes", address, rooms, clients, seconds] => {
            let to = tunnels::Target { address, rooms: rooms.parse()? };
            runtime.block_on(tunnels::handshakes(to, clients.parse()?, seconds.parse()?))
        }
        ["messages", address, rooms, tunnels, in_flight, seconds] => {
            let to = tunnels::Target { address, rooms: rooms.parse()? };
            runtime.block_on(tunnels::messages(to, tunnels.parse()?, in_flight.parse()?, seconds.parse()?))
        }
        ["idle", address, rooms, tunnels] => {
            let to = tunnels::Target { address, rooms: rooms.parse()? };
            runtime.block_on(tunnels::idle(to, tunnels.parse()?))
        }
        ["latency", path, rate, seconds, ref addresses @ ..] => {
            latency::measure(addresses, path, rate.parse()?, seconds.parse()?)
        }
        ["flood", what @ ("rooms" | "heads"), address, clients, seconds] => {
            let kind = if what == "rooms" { flood::Kind::Rooms } else { flood::Kind::Heads };
            runtime.block_on(flood::flood(kind, address, clients.parse()?, seconds.parse()?))
        }
        _ => Err("see the first lines of benches/load/main.rs".into()),
    }
}
