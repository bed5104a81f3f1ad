//! Clients that open tunnels: over and over, to talk, or to be silent.

use std::cell::Cell;
use std::io::Read;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::{Outcome, websocket};

/// How many handshakes are under way at once while tunnels are opened.
const OPENING: usize = 16;

/// The proxy, and how many rooms the clients are spread over.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) address: &'a str,
    pub(crate) rooms: usize,
}

/// What all clients have done so far.
#[derive(Default)]
struct Tally {
    done: Cell<u64>,
    failed: Cell<u64>,
    over: Cell<bool>,
}

/// What has not been answered so long after the end is lost, and its client has failed.
const ANSWERED: Duration = Duration::from_secs(10);

impl Tally {
    /// Lets the clients run for so long, or until SIGINT, and prints what they have done.
    async fn report(&self, clients: Vec<JoinHandle<()>>, seconds: f64) -> Outcome<()> {
        let started = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => {}
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
        self.over.set(true);
        let latest = tokio::time::Instant::now() + ANSWERED;
        for client in clients {
            match tokio::time::timeout_at(latest, client).await {
                Ok(ended) => ended?,
                Err(_) => self.failed.set(self.failed.get() + 1),
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        println!(r#"{{"done":{},"failed":{},"seconds":{seconds}}}"#, self.done.get(), self.failed.get());
        Ok(())
    }

    /// Starts a client; it fails at most once.
    fn client(self: &Rc<Self>, work: impl Future<Output = Outcome<()>> + 'static) -> JoinHandle<()> {
        let tally = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if work.await.is_err() {
                tally.failed.set(tally.failed.get() + 1);
            }
        })
    }
}

/// Each client connects, does the handshake, closes, and begins again.
pub(crate) async fn handshakes(to: Target<'_>, clients: usize, seconds: f64) -> Outcome<()> {
    let tally = Rc::new(Tally::default());
    let clients = (0..clients).map(|index| {
        let (address, room, counted) = (to.address.to_owned(), index % to.rooms, Rc::clone(&tally));
        tally.client(async move {
            while !counted.over.get() {
                drop(websocket::connect(&address, room).await?);
                counted.done.set(counted.done.get() + 1);
            }
            Ok(())
        })
    });
    let clients = clients.collect();
    tally.report(clients, seconds).await
}

/// Opens the tunnels, waits for a line on standard input, and then keeps so many messages on their way. A message
/// counts twice: it is relayed to the pod, and back.
pub(crate) async fn messages(to: Target<'_>, tunnels: usize, in_flight: usize, seconds: f64) -> Outcome<()> {
    let open = open(to, tunnels).await?;
    println!(r#"{{"open":{tunnels}}}"#);
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    let tally = Rc::new(Tally::default());
    // A fair queue: whoever has sent goes to its end, so that every tunnel has its turn.
    let turns = Rc::new(Semaphore::new(in_flight));
    let clients = open.into_iter().map(|mut tunnel| {
        let (counted, turns) = (Rc::clone(&tally), Rc::clone(&turns));
        tally.client(async move {
            while !counted.over.get() {
                let _turn = turns.acquire().await?;
                websocket::exchange(&mut tunnel).await?;
                counted.done.set(counted.done.get() + 2);
            }
            Ok(())
        })
    });
    let clients = clients.collect();
    tally.report(clients, seconds).await
}

/// Opens the tunnels, sends one message on each, and keeps them until standard input ends.
pub(crate) async fn idle(to: Target<'_>, tunnels: usize) -> Outcome<()> {
    let open = open(to, tunnels).await?;
    println!(r#"{{"open":{}}}"#, open.len());
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

async fn open(to: Target<'_>, tunnels: usize) -> Outcome<Vec<tokio::net::TcpStream>> {
    let openers: Vec<_> = (0..OPENING)
        .map(|opener| {
            let address = to.address.to_owned();
            tokio::task::spawn_local(async move {
                let mut open = Vec::new();
                for index in (opener..tunnels).step_by(OPENING) {
                    let Ok(mut tunnel) = websocket::connect(&address, index % to.rooms).await else { break };
                    if websocket::exchange(&mut tunnel).await.is_err() {
                        break;
                    }
                    open.push(tunnel);
                }
                open
            })
        })
        .collect();
    let mut open = Vec::with_capacity(tunnels);
    for opener in openers {
        open.append(&mut opener.await?);
    }
    if open.len() == tunnels { Ok(open) } else { Err(format!("{} of {tunnels} tunnels opened", open.len()).into()) }
}
