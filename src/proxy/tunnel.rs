//! The relay after a 101: bytes both ways, frames never looked at.
//!
//! In the task of its connection, working on the two raw sockets. It holds no buffer while nothing moves: it waits until a socket
//! is readable, borrows the worker's one large buffer, reads, writes at once, and keeps a copy only of what the other
//! side did not take (then it stops reading: that is the backpressure). A FIN is passed on as a FIN, and the other half
//! may linger only so long (tokio's `copy_bidirectional` would wait for ever: tokio issue 4556).

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, Ready};
use tokio::net::TcpStream;

use super::direct::Direct;
use super::nursery::{Nursery, Young};
use super::socket::{keep_alive, limit_buffers, poll_past, read_past, with_buffer};
use crate::drain::{Member, Phase};
use crate::metrics::Metrics;
use crate::timer::Timer;

/// From this many bytes at once on, a tunnel is taken to carry more than messages. The kernel's receive buffer has not grown
/// by then.
const LARGE: usize = 16 * 1024;

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides said they were done.
    Closed,
    /// One side was done and the other did not follow in time.
    Lingered,
    /// Nothing moved for `--tunnel-idle`.
    Idle,
    /// The client took nothing for `--write-stall`.
    SlowReader,
    /// The pod took nothing for `--write-stall`.
    PodStalled,
    /// The router is shutting down.
    Drained,
    /// So it is, and `--drain-timeout` was over before this tunnel had ended.
    Cut,
    /// The client's connection broke.
    ClientReset,
    /// The pod's connection broke.
    PodReset,
}

/// What all tunnels of a thread have in common.
#[derive(Debug)]
pub(super) struct Common {
    /// `pod_router_tunnel_bytes_total`.
    pub(super) metrics: Arc<Metrics>,
    /// `--tunnel-idle`.
    pub(super) idle: Option<Duration>,
    /// `--write-stall`.
    pub(super) stall: Duration,
    /// `--tunnel-linger`: for the second half after the first has ended.
    pub(super) linger: Duration,
    /// When draining, tunnels end at random moments within this.
    pub(super) drain: Duration,
    /// Those that have just begun.
    pub(super) nursery: Rc<Nursery>,
}

/// The two sides and what is under way between them. Thousands of them idle, and every byte of it counts. Where each message
/// is another tunnel's, so does every line of the processor's caches: this fits three, which a message needs and nothing else
/// of a tunnel. What few have at a time is on the heap.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Tunnel {
    client: TcpStream,
    pod: TcpStream,
    /// From the client to the pod.
    pub(super) up: Direction,
    /// From the pod to the client.
    pub(super) down: Direction,
    member: Member,
    /// As long as the kernel does not [probe](keep_alive) the pod.
    young: Option<Young>,
    common: Rc<Common>,
    ending: Option<Box<Ending>>,
    active: Instant,
    timer: Timer,
}

const _: () = assert!(size_of::<Tunnel>() <= 3 * 64, "three lines");

/// That a tunnel will end before long.
#[derive(Debug, Default)]
struct Ending {
    /// Since when one direction is over and the other is not.
    half_closed: Option<Instant>,
    /// When it ends because the router does.
    drain_at: Option<Instant>,
}

/// One direction of a tunnel.
#[derive(Debug)]
pub(super) struct Direction {
    pending: Option<Box<Pending>>,
    /// Whether there may be something to be read of which the runtime will not tell: see [`poll_past`].
    looked_past: bool,
    to_pod: bool,
    /// Whether the pod's connection has been given limits.
    limited: bool,
    state: State,
    /// Bytes passed on.
    pub(super) bytes: u64,
}

/// What has been read, and not yet been taken by the other side. Nothing is read meanwhile.
#[derive(Debug)]
struct Pending {
    bytes: Vec<u8>,
    /// So many of them have been.
    taken: usize,
    /// So many of them are the 101, which does not count among the tunnel's.
    head: usize,
    /// Since when nothing of it is taken.
    stuck: Instant,
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
    /// From the client since `now`, with bytes read together with its request, and perhaps more that has been
    /// [looked past](poll_past).
    pub(super) fn to_pod(early: Vec<u8>, looked_past: bool, now: Instant) -> Self {
        Self { looked_past, to_pod: true, ..Self::to_client(early, 0, now) }
    }

    /// From the pod since `now`, with its 101, a `head` of so many bytes, and whatever was glued to that.
    pub(super) fn to_client(early: Vec<u8>, head: usize, now: Instant) -> Self {
        let pending = Pending::of(early, head, now);
        Self { pending, looked_past: false, to_pod: false, limited: false, state: State::Open, bytes: 0 }
    }

    /// Moves what can be moved. Ready when this direction is over; `moved` grows by the bytes that went. Where it is the
    /// `is_last` one, both sockets are about to be closed, which says as much as a FIN.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        sink: &mut TcpStream,
        moved: &mut u64,
        is_last: bool,
    ) -> Poll<Result<(), Broken>> {
        loop {
            match self.flush(cx, sink, moved) {
                Poll::Ready(flushed) => flushed.map_err(|_| Broken::Sink)?,
                // Nothing is read meanwhile, but a source that breaks off is noticed.
                Poll::Pending if self.state == State::Open => {
                    let broken = poll_past(source, cx, &mut self.looked_past, Ready::is_error);
                    return broken.map(|()| Err(Broken::Source));
                }
                Poll::Pending => return Poll::Pending,
            }
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::SourceDone => {
                    if !is_last {
                        // The sink may have gone meanwhile; then there is nobody to tell.
                        let _ = SockRef::from(&*sink).shutdown(Shutdown::Write);
                    }
                    self.state = State::Done;
                }
                State::Open => ready!(self.read_and_write(cx, source, sink, moved))?,
            }
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>, sink: &mut TcpStream, moved: &mut u64) -> Poll<io::Result<()>> {
        while let Some(pending) = &mut self.pending {
            let before = pending.taken.max(pending.head);
            pending.taken += ready!(Pin::new(&mut Direct(sink)).poll_write(cx, &pending.bytes[pending.taken..]))?;
            let passed_on = pending.taken.saturating_sub(before);
            if pending.taken == pending.bytes.len() {
                self.pending = None;
            } else {
                pending.stuck = Instant::now();
            }
            self.count(passed_on, moved);
        }
        Poll::Ready(Ok(()))
    }

    /// One read into the thread's buffer and one write out of it. A read that does not fill the buffer is known to have
    /// emptied the socket: no second one is needed to find that out (tokio's `poll_read` keeps account of it).
    fn read_and_write(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        sink: &mut TcpStream,
        moved: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        with_buffer(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            let past = self.looked_past
                && read_past(source, &mut buffer, &mut self.looked_past).map_err(|_| Broken::Source)?;
            if !past {
                ready!(Pin::new(&mut Direct(source)).poll_read(cx, &mut buffer)).map_err(|_| Broken::Source)?;
            }
            let read = buffer.filled();
            if read.is_empty() {
                self.state = State::SourceDone;
                return Poll::Ready(Ok(()));
            }
            if read.len() >= LARGE && !self.limited {
                self.limited = true;
                limit_buffers(if self.to_pod { sink } else { source });
            }
            let written = match Pin::new(&mut Direct(sink)).poll_write(cx, read) {
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Sink)),
                Poll::Pending => 0,
            };
            self.count(written, moved);
            if written < read.len() {
                self.pending = Pending::of(read[written..].to_vec(), 0, Instant::now());
            }
            Poll::Ready(Ok(()))
        })
    }

    /// When the sink will have taken nothing for so long, if anything is pending.
    fn stalled_at(&self, stall: Duration) -> Option<Instant> {
        self.pending.as_ref().map(|pending| pending.stuck + stall)
    }

    fn count(&mut self, bytes: usize, moved: &mut u64) {
        self.bytes += bytes as u64;
        *moved += bytes as u64;
    }
}

// === impl Pending ===

impl Pending {
    fn of(bytes: Vec<u8>, head: usize, now: Instant) -> Option<Box<Self>> {
        (!bytes.is_empty()).then(|| Box::new(Self { bytes, taken: 0, head, stuck: now }))
    }
}

// === impl Tunnel ===

impl Tunnel {
    /// A tunnel between two sockets, each with what goes from it, since `now`.
    pub(super) fn new(
        (client, up): (TcpStream, Direction),
        (pod, down): (TcpStream, Direction),
        common: Rc<Common>,
        member: Member,
        now: Instant,
    ) -> Self {
        Self {
            client,
            pod,
            up,
            down,
            young: Some(common.nursery.admit(&member)),
            common,
            member,
            active: now,
            ending: None,
            timer: Timer::default(),
        }
    }

    /// Whether the pod has ended its side. It may have gone altogether, and be back as another.
    pub(super) fn pod_is_done(&self) -> bool {
        self.down.state != State::Open
    }

    /// Relays. Ready at the end; the sockets are then to be dropped.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let end = ready!(self.poll_relay(cx));
        let broken: &[&TcpStream] = match end {
            End::ClientReset => &[&self.pod],
            End::PodReset => &[&self.client],
            // The kernel would go on offering what is left.
            End::SlowReader | End::PodStalled => &[&self.client, &self.pod],
            End::Closed | End::Lingered | End::Idle | End::Drained | End::Cut => &[],
        };
        broken.iter().for_each(|socket| reset_on_drop(socket));
        if let End::SlowReader | End::PodStalled = end {
            self.common.metrics.rejected.with_label_values(&[end.as_str()]).inc();
        }
        Poll::Ready(end)
    }

    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.member.phase(cx.waker()) == Phase::Draining {
            let window = self.common.drain;
            self.ending.get_or_insert_default().drain_at.get_or_insert_with(|| {
                let now = Instant::now();
                let since = self.member.draining_since().unwrap_or(now);
                drain_moment(since, window, now, fastrand::f64())
            });
        }
        if self.young.take_if(|young| self.common.nursery.has_grown_up(*young)).is_some() {
            keep_alive(&self.pod);
        }
        let (mut moved_up, mut moved_down) = (0, 0);
        let is_done = |direction: &Direction| direction.state == State::Done;
        let up = self.up.poll(cx, &mut self.client, &mut self.pod, &mut moved_up, is_done(&self.down));
        let down = self.down.poll(cx, &mut self.pod, &mut self.client, &mut moved_down, is_done(&self.up));
        self.count(moved_up, moved_down);
        let up = match up {
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(End::ClientReset),
            Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(End::PodReset),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        let down = match down {
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(End::PodReset),
            Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(End::ClientReset),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if up && down {
            return Poll::Ready(End::Closed);
        }
        if up || down {
            self.ending.get_or_insert_default().half_closed.get_or_insert_with(Instant::now);
        }
        self.poll_deadline(cx)
    }

    fn count(&mut self, up: u64, down: u64) {
        let bytes = &self.common.metrics.tunnel_bytes;
        if up > 0 {
            bytes.upstream.inc_by(up);
        }
        if down > 0 {
            bytes.downstream.inc_by(down);
        }
        if up + down > 0 && self.common.idle.is_some() {
            self.active = Instant::now();
        }
    }

    /// Ready when a deadline has passed; else the timer is set for the nearest one, if there is any. The young need none, for
    /// they are polled once more before any that begins with them; a drain may have begun long before.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Common { linger, stall, idle, .. } = *self.common;
        let (half_closed, drain_at) = self.ending.as_ref().map_or((None, None), |e| (e.half_closed, e.drain_at));
        if self.young.is_some()
            && drain_at.is_none()
            && Nursery::is_outlasted_by([linger, stall].into_iter().chain(idle))
        {
            return Poll::Pending;
        }
        let deadlines = [
            half_closed.map(|at| (at + linger, End::Lingered)),
            idle.map(|idle| (self.active + idle, End::Idle)),
            drain_at.map(|at| (at, End::Drained)),
            self.down.stalled_at(stall).map(|at| (at, End::SlowReader)),
            self.up.stalled_at(stall).map(|at| (at, End::PodStalled)),
        ];
        match deadlines.into_iter().flatten().min_by_key(|(at, _)| *at) {
            Some((at, end)) => self.timer.poll(cx, at).map(|()| end),
            None => Poll::Pending,
        }
    }
}

/// A reset is passed on as one: a FIN would make a message that was cut off look complete.
pub(super) fn reset_on_drop(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// When a tunnel ends that is there at `now`, in a drain that began at `since`; `roll` is 0 to 1. Not at the very end of
/// the window: at the deadline what is left is cut. A tunnel that begins late has only what is left.
fn drain_moment(since: Instant, window: Duration, now: Instant, roll: f64) -> Instant {
    let left = (since + window.mul_f64(0.9)).saturating_duration_since(now);
    now + left.mul_f64(roll)
}

impl End {
    /// The reason as a log field.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Lingered => "half-closed",
            Self::Idle => "idle",
            Self::SlowReader => "slow-reader",
            Self::PodStalled => "pod-stalled",
            Self::Drained => "drained",
            Self::Cut => "drain-timeout",
            Self::ClientReset => "client-reset",
            Self::PodReset => "pod-reset",
        }
    }
}

#[cfg(test)]
mod tests;
