//! The data listener of one worker thread: accepts and limits. What becomes of a connection is `server/connection.rs`.
//!
//! Every thread has a listener of its own on the same address (`SO_REUSEPORT`), so that a connection, its requests and
//! its connections to pods stay on one core. This file knows of HTTP only what hyper's server needs to be told, and the answers
//! to those for whom there is no place.

mod announced;
mod connection;
mod patience;

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1::Builder;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{unconstrained, yield_now};

use crate::config::{DownstreamConfig, DrainConfig};
use crate::core::forwarded::Client;
use crate::core::prefix::Prefix;
use crate::directory::Directory;
use crate::drain::{Member, Phase, Roster, Watch};
use crate::limits::{Places, Seats};
use crate::metrics::{Held, Metrics};
use crate::proxy::{
    Answer, HELD, Permit, Proxy, TOO_MANY_CONNECTIONS, TOO_MANY_OF_CLIENT, Unheard, accept_the_silent,
    await_first_bytes, tune_listener,
};
use crate::telemetry::Warned;

/// Connections the kernel holds for a thread that is busy, and as many that have said nothing yet. Of more of those it keeps
/// none, but knows them by a cookie when they speak (`tcp_syncookies`, on by default).
const BACKLOG: i32 = 4096;

/// The pause after a failed accept: running out of open files passes, and must not be answered by spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections over the limit that a thread tells so at one time; more are closed without a word.
pub(crate) const MAX_REFUSALS: usize = 64;

/// How long such a connection may take to read that it was refused.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// hyper's default for a head's fields, for which it has space on the stack; for any other number it allocates each time.
const HYPERS_MAX_HEADERS: usize = 100;

/// The buffer of a connection is at least this large; it bounds what is read ahead of a slow pod.
const MIN_BUFFER: usize = 64 * 1024;

/// A listening socket. With `shared`, others may listen on the same address in this process. The kernel ends its connections
/// when nothing is acknowledged for `stall`.
///
/// # Errors
///
/// The address is in use or cannot be had.
pub fn listen(address: SocketAddr, shared: bool, stall: Duration) -> io::Result<std::net::TcpListener> {
    if shared && address.port() != 0 {
        // `SO_REUSEPORT` alone would let a second router take the port unnoticed. Sockets of this process that share it
        // already are told apart by whoever calls this: see [`listen_again`].
        bind(address, false, stall)?;
    }
    listen_again(address, shared, stall)
}

/// Another listening socket on an address that this process already has.
///
/// # Errors
///
/// As [`listen`].
pub fn listen_again(address: SocketAddr, shared: bool, stall: Duration) -> io::Result<std::net::TcpListener> {
    let socket = bind(address, shared, stall)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind(address: SocketAddr, shared: bool, stall: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    tune_listener(&socket, stall)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// One worker thread's listener and what its connections share.
#[derive(Debug)]
pub struct Server<D> {
    proxy: Rc<Proxy<D>>,
    roster: Rc<Roster>,
    http: Builder,
    /// `--max-connections`.
    clients: Arc<Places>,
    /// `--max-connections-per-client`.
    seats: Option<Arc<Seats>>,
    limits: patience::Limits,
    /// `--proxy-protocol`.
    announced: bool,
    metrics: Arc<Metrics>,
    /// Held once more by each refusal under way.
    refusals: Rc<()>,
    accept_warned: Warned,
    header_warned: Warned,
}

impl<D: Directory> Server<D> {
    /// A server for this thread.
    pub fn new(
        proxy: Rc<Proxy<D>>,
        roster: Rc<Roster>,
        config: &DownstreamConfig,
        clients: Arc<Places>,
        seats: Option<Arc<Seats>>,
        metrics: Arc<Metrics>,
    ) -> Rc<Self> {
        let mut http = Builder::new();
        http.header_read_timeout(None) // hyper's default: 30 s, with a timer for each request. See `patience`.
            .max_header_size(config.max_header_bytes) // hyper's default: none
            .max_buf_size(config.max_header_bytes.max(MIN_BUFFER)) // hyper's default: about 400 KiB
            // hyper's default: false. It would read ahead while it waits, into 8 KiB for each request, to learn whether the
            // client has gone: the socket learns that without (`ClientSocket`).
            .half_close(true)
            .keep_alive(true) // hyper's default
            .auto_date_header(true); // hyper's default: RFC 9110 section 6.6.1
        let limits = patience::Limits { idle: config.idle, head: config.header_timeout, write: config.write_stall };
        if config.max_headers != HYPERS_MAX_HEADERS {
            http.max_headers(config.max_headers);
        }
        let announced = config.proxy_protocol;
        Rc::new(Self {
            proxy,
            roster,
            http,
            clients,
            seats,
            limits,
            announced,
            metrics,
            refusals: Rc::default(),
            accept_warned: Warned::default(),
            header_warned: Warned::default(),
        })
    }

    /// Accepts until the drain begins, then waits until the last connection and tunnel has ended, but no longer than
    /// `--drain-timeout`.
    pub async fn run(self: Rc<Self>, listener: TcpListener, watch: Watch, drain: &DrainConfig) {
        // A shorter lame duck would leave no time to accept who is held back when it begins.
        if drain.lame_duck > HELD {
            await_first_bytes(&listener);
        }
        self.accept_until_drain(&listener, watch).await;
        drop(listener);
        if tokio::time::timeout(drain.timeout, self.roster.emptied()).await.is_err() {
            tracing::warn!(left = self.roster.len(), "--drain-timeout is over; cutting what is left");
            self.roster.cut();
        }
    }

    async fn accept_until_drain(self: &Rc<Self>, listener: &TcpListener, mut watch: Watch) {
        let mut draining = pin!(async {
            // Whoever would send the phase being gone means the same as its last.
            let _ = watch.wait_for(|phase| *phase != Phase::Serving).await;
            accept_the_silent(listener);
            self.roster.follow(watch).await;
        });
        loop {
            tokio::select! {
                biased;
                () = &mut draining => break,
                accepted = listener.accept() => self.accepted(accepted).await,
            }
        }
        // Closing the listener resets what the kernel has accepted for it. The turn lets the runtime hear of that.
        yield_now().await;
        for _ in 0..BACKLOG {
            let next = unconstrained(poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))));
            let Poll::Ready(accepted) = next.await else { break };
            if accepted.as_ref().is_err_and(|error| !ended_before(error)) {
                break;
            }
            self.accepted(accepted).await;
        }
    }

    async fn accepted(self: &Rc<Self>, accepted: io::Result<(TcpStream, SocketAddr)>) {
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = self.clients.take() else {
                    return self.refuse(stream, peer.ip(), &TOO_MANY_CONNECTIONS);
                };
                let permit = Permit::new(place, Held::new(&self.metrics.downstream_connections));
                // It counts from here: an empty roster ends the drain.
                let member = self.roster.join();
                let client = self.proxy.client(peer.ip());
                if self.announced && client.trusted {
                    tokio::task::spawn_local(Rc::clone(self).serve_announced((stream, peer), client, permit, member));
                } else {
                    // A load balancer carries many, also where it does not say whom.
                    let is_one = !client.trusted;
                    self.serve((stream, peer), (client, is_one), permit, member);
                }
            }
            Err(error) if ended_before(&error) => {
                tracing::debug!(%error, "a connection ended before it was accepted");
            }
            Err(error) => {
                self.metrics.accept_errors.inc();
                if self.accept_warned.is_due() {
                    tracing::warn!(%error, "a connection could not be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Serves a connection on which a load balancer says first whom it is for.
    async fn serve_announced(
        self: Rc<Self>,
        (mut stream, peer): (TcpStream, SocketAddr),
        balancer: Client,
        permit: Permit,
        member: Member,
    ) {
        let Ok(source) = self.announcement(&mut stream, peer).await else { return };
        let (client, is_one) = match source {
            Some(ip) => {
                let named = self.proxy.client(ip);
                let is_one = !named.trusted;
                (named, is_one)
            }
            None => (balancer.unbelieved(), false),
        };
        self.serve((stream, peer), (client, is_one), permit, member);
    }

    /// Has a connection served, unless its client has as many as it may. `is_one`: it is one client's, and no load balancer's.
    fn serve(
        self: &Rc<Self>,
        (stream, peer): (TcpStream, SocketAddr),
        (client, is_one): (Client, bool),
        permit: Permit,
        member: Member,
    ) {
        let seat = match &self.seats {
            Some(seats) if is_one => match seats.take(Prefix::of(client.ip)) {
                None => return self.refuse(stream, client.ip, &TOO_MANY_OF_CLIENT),
                seat => seat,
            },
            _ => None,
        };
        self.attend((stream, peer), client, permit.seated(seat), member);
    }

    /// Whom a connection from a trusted peer is for, by its PROXY header, if that names anyone. Where there is no header, it
    /// is an error, and the connection is to be closed without a word: what that peer was told to speak first is not HTTP,
    /// and to guess which it speaks is what the specification forbids (section 5), because then a client could write a
    /// header of its own.
    async fn announcement(&self, stream: &mut TcpStream, peer: SocketAddr) -> io::Result<Option<IpAddr>> {
        let read = tokio::time::timeout(self.limits.head, announced::source(stream)).await;
        read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).inspect_err(|error| {
            self.metrics.rejected.with_label_values(&["bad-proxy-header"]).inc();
            if self.header_warned.is_due() {
                tracing::warn!(%peer, %error, "a trusted peer sent no PROXY header that can be read, which --proxy-protocol asks of it");
            }
        })
    }

    /// Tells a connection over a limit that it is, where that costs little.
    fn refuse(&self, mut stream: TcpStream, client: IpAddr, answer: &'static Answer) {
        self.metrics.rejected.with_label_values(&[answer.code]).inc();
        let refusal = Rc::clone(&self.refusals);
        if Rc::strong_count(&refusal) > MAX_REFUSALS + 1 {
            return;
        }
        let unheard = Unheard::new(answer);
        unheard.log(client);
        tokio::task::spawn_local(async move {
            // A new socket's send buffer takes this; where it does not, nobody is owed more.
            let _ = stream.try_write(&unheard.bytes(b""));
            let _ = SockRef::from(&stream).shutdown(std::net::Shutdown::Write);
            // Closing with the request unread would reset the connection before the answer is read.
            let mut rest = [0; 1024];
            let read_out = async { while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
            let _ = tokio::time::timeout(REFUSAL_TIME, read_out).await;
            drop(refusal);
        });
    }
}

/// Whether a connection ended before it was accepted (accept(2) passes that on): the next one may be fine.
fn ended_before(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
}
