//! The relay after a 101: bytes both ways, frames never looked at.
//!
//! One task a tunnel, working on the two raw sockets. It holds no buffer while nothing moves: it waits until a socket
//! is readable, borrows the worker's one large buffer, reads, writes at once, and keeps a copy only of what the other
//! side did not take (then it stops reading: that is the backpressure). A FIN is passed on as a FIN, and the other half
//! may linger only so long (tokio's `copy_bidirectional` would wait for ever: tokio issue 4556).

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use prometheus::IntCounter;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::socket::with_buffer;
use crate::drain::{Member, Phase};

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides said they were done.
    Closed,
    /// One side was done and the other did not follow in time.
    Lingered,
    /// Nothing moved for `--tunnel-idle`.
    Idle,
    /// The router is shutting down.
    Drained,
    /// The client's connection broke.
    ClientReset,
    /// The pod's connection broke.
    PodReset,
}

/// How long a tunnel may do what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// `--tunnel-idle`.
    pub(super) idle: Option<Duration>,
    /// `--tunnel-linger`: for the second half after the first has ended.
    pub(super) linger: Duration,
    /// When draining, tunnels end at random moments within this.
    pub(super) drain: Duration,
}

/// The two sides and what is under way between them.
#[derive(Debug)]
pub(super) struct Tunnel<'a> {
    client: &'a TcpStream,
    pod: &'a TcpStream,
    /// From the client to the pod.
    pub(super) up: Direction,
    /// From the pod to the client.
    pub(super) down: Direction,
    limits: Limits,
    member: Member,
    active: Instant,
    half_closed: Option<Instant>,
    drain_at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// One direction of a tunnel.
#[derive(Debug)]
pub(super) struct Direction {
    /// Read, and not yet taken by the other side.
    pending: Bytes,
    state: State,
    /// Bytes passed on.
    pub(super) bytes: u64,
    counter: IntCounter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The source has sent its FIN; what is pending still goes.
    SourceDone,
    /// The FIN has been passed on.
    Done,
}

/// Which side an error came from.
enum Broken {
    Source,
    Sink,
}

// === impl Direction ===

impl Direction {
    /// A direction that starts with bytes read too early: with the request, or glued to the 101.
    pub(super) fn new(early: Bytes, counter: IntCounter) -> Self {
        Self { pending: early, state: State::Open, bytes: 0, counter }
    }

    /// Moves what can be moved. Ready when this direction is over; `moved` tells whether any byte went.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &TcpStream,
        sink: &TcpStream,
        moved: &mut bool,
    ) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.flush(cx, sink, moved)).map_err(|_| Broken::Sink)?;
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::SourceDone => {
                    // The sink may have gone meanwhile; then there is nobody to tell.
                    let _ = SockRef::from(sink).shutdown(Shutdown::Write);
                    self.state = State::Done;
                }
                State::Open => {
                    ready!(source.poll_read_ready(cx)).map_err(|_| Broken::Source)?;
                    self.read_and_write(source, sink, moved)?;
                }
            }
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>, sink: &TcpStream, moved: &mut bool) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            ready!(sink.poll_write_ready(cx))?;
            match sink.try_write(&self.pending) {
                Ok(written) => {
                    self.pending.advance(written);
                    self.count(written, moved);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // An emptied `Bytes` would hold on to its allocation for as long as the tunnel idles.
        self.pending = Bytes::new();
        Poll::Ready(Ok(()))
    }

    fn read_and_write(&mut self, source: &TcpStream, sink: &TcpStream, moved: &mut bool) -> Result<(), Broken> {
        with_buffer(|buffer| {
            let read = match source.try_read(buffer) {
                Ok(0) => {
                    self.state = State::SourceDone;
                    return Ok(());
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Broken::Source),
            };
            let written = match sink.try_write(&buffer[..read]) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return Err(Broken::Sink),
            };
            self.count(written, moved);
            if written < read {
                self.pending = Bytes::copy_from_slice(&buffer[written..read]);
            }
            Ok(())
        })
    }

    fn count(&mut self, bytes: usize, moved: &mut bool) {
        self.bytes += bytes as u64;
        self.counter.inc_by(bytes as u64);
        *moved |= bytes > 0;
    }
}

// === impl Tunnel ===

impl<'a> Tunnel<'a> {
    /// A tunnel between two sockets that have nothing buffered any more but what the directions start with.
    pub(super) fn new(
        client: &'a TcpStream,
        pod: &'a TcpStream,
        (up, down): (Direction, Direction),
        limits: Limits,
        member: Member,
    ) -> Self {
        Self {
            client,
            pod,
            up,
            down,
            limits,
            member,
            active: Instant::now(),
            half_closed: None,
            drain_at: None,
            timer: None,
        }
    }

    /// Relays until the end. Afterwards the sockets are to be dropped.
    pub(super) async fn relay(&mut self) -> End {
        let end = std::future::poll_fn(|cx| self.poll(cx)).await;
        let broken = match end {
            End::ClientReset => Some(self.pod),
            End::PodReset => Some(self.client),
            End::Closed | End::Lingered | End::Idle | End::Drained => None,
        };
        if let Some(socket) = broken {
            // A reset is passed on as one: a FIN would make a message that was cut off look complete.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.member.phase(cx.waker()) == Phase::Draining && self.drain_at.is_none() {
            // Not to the very end: at the deadline what is left is cut.
            let share = self.limits.drain.mul_f64(0.9 * fastrand::f64());
            self.drain_at = Some(Instant::now() + share);
        }
        let mut moved = false;
        let up = match self.up.poll(cx, self.client, self.pod, &mut moved) {
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(End::ClientReset),
            Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(End::PodReset),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        let down = match self.down.poll(cx, self.pod, self.client, &mut moved) {
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(End::PodReset),
            Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(End::ClientReset),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if up && down {
            return Poll::Ready(End::Closed);
        }
        if (up || down) && self.half_closed.is_none() {
            self.half_closed = Some(Instant::now());
        }
        if moved && self.limits.idle.is_some() {
            self.active = Instant::now();
        }
        self.poll_deadline(cx)
    }

    /// Ready when a deadline has passed; else the timer is set for the nearest one, if there is any.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let deadlines = [
                self.half_closed.map(|at| (at + self.limits.linger, End::Lingered)),
                self.limits.idle.map(|idle| (self.active + idle, End::Idle)),
                self.drain_at.map(|at| (at, End::Drained)),
            ];
            let Some((at, end)) = deadlines.into_iter().flatten().min_by_key(|(at, _)| *at) else {
                return Poll::Pending;
            };
            if at <= Instant::now() {
                return Poll::Ready(end);
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
            // Activity only moves the idle deadline away: a timer that is early is set anew when it fires.
            if timer.deadline() > at.into() || timer.is_elapsed() {
                timer.as_mut().reset(at.into());
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}

impl End {
    /// The reason as a log field.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Lingered => "half-closed",
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::ClientReset => "client-reset",
            Self::PodReset => "pod-reset",
        }
    }
}
