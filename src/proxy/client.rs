//! The client's side of the proxy: the connection a request came on, and its socket.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use socket2::SockRef;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::canned::{self, Unheard};
use super::doubt::Doubts;
use super::reject::SLOW_HEAD;
use super::socket::with_buffer;
use super::upgrade::Agreed;
use crate::core::forwarded::Client;
use crate::limits::{Place, Seat};
use crate::metrics::Held;

/// Up to this many bytes, copying the parts of an answer together and one plain send cost less than a vectored write.
const SMALL: usize = 8 * 1024;

/// The downstream connection a request came on.
#[derive(Debug)]
pub struct Downstream {
    /// The peer, and whether it is believed.
    pub client: Client,
    /// Set while a handshake may still be answered with a 101: a graceful shutdown of the connection would turn that
    /// 101's `Connection: upgrade` into `close` (hyper's `enforce_version`).
    pub upgrading: Cell<bool>,
    /// Whether another request may be taken from it.
    pub doubts: Doubts,
    /// Since when nothing is under way; `None` while a request is.
    idle_since: Cell<Option<Instant>>,
    /// The requests so far.
    requests: Cell<u64>,
    /// Those that are not over: one, and a second for a moment after a [`Downstream::hold`].
    under_way: Cell<u32>,
    /// What the connection is to become once hyper is done with it.
    tunnel: RefCell<Option<Box<Agreed>>>,
    socket: Arc<SocketState>,
    /// Counts the connection for as long as it, or the tunnel it became, lives.
    _permit: Permit,
}

/// What is known of a client's socket, which hyper holds. Atomics, because hyper wants it to be `Send`; both ends are on
/// one thread.
#[derive(Debug, Default)]
struct SocketState {
    /// Something has come since the last request ended, or the connection was accepted.
    heard: AtomicBool,
    /// Writes that the client has taken.
    taken: AtomicU64,
    /// Whether it does not take the next one.
    stuck: AtomicBool,
    /// An [`Ending`].
    ending: AtomicU8,
    /// What is owed to the client: one of the three below.
    owed: AtomicU8,
    /// What is said to a client of which no request was understood. Boxed, because most never are.
    unheard: OnceLock<Box<Unheard>>,
}

/// Nothing: what hyper writes now, it says by itself, of a head that it cannot read.
const NOTHING: u8 = 0;
/// The answer to a request.
const ANSWER: u8 = 1;
/// What is left of it in hyper's buffer: the request is over.
const REST: u8 = 2;

/// How a client's connection is ended that has not ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// With a 408: its request head did not come to an end.
    SlowHead = 1,
    /// With a reset: it does not take what there is for it, and the kernel would go on offering it.
    SlowReader = 2,
    /// With an answer, while more of the request is on its way: closing a socket that has something to be read resets
    /// the connection, and the reset may overtake the answer (RFC 9112 section 9.6).
    Unread = 3,
    /// With a reset: its answer has not come to its end, and HTTP/1.0 takes the end of the connection for that.
    CutShort = 4,
}

/// How long what comes after such an answer is read, so that it may arrive.
const LINGER: Duration = Duration::from_secs(5);

/// A place among `--max-connections`, and among those of its client.
#[derive(Debug)]
pub struct Permit {
    _place: Place,
    _counted: Held,
    /// Boxed, because most have none, and an idle tunnel holds its permit.
    _seat: Option<Box<Seat>>,
}

impl Permit {
    /// A permit that is one among all.
    pub fn new(place: Place, counted: Held) -> Self {
        Self { _place: place, _counted: counted, _seat: None }
    }

    /// And one of its client's, where those are counted.
    pub fn seated(self, seat: Option<Seat>) -> Self {
        Self { _seat: seat.map(Box::new), ..self }
    }
}

impl Downstream {
    /// A connection that has just been accepted.
    pub fn new(client: Client, permit: Permit) -> Self {
        Self {
            client,
            upgrading: Cell::new(false),
            doubts: Doubts::default(),
            idle_since: Cell::new(Some(Instant::now())),
            requests: Cell::new(0),
            under_way: Cell::new(0),
            tunnel: RefCell::default(),
            socket: Arc::default(),
            _permit: permit,
        }
    }

    /// Which request's head has begun to come and is not complete, counted from 0. One that came together with the end
    /// of an earlier request is not seen until more of it comes.
    pub fn incomplete_head(&self) -> Option<u64> {
        let waiting = self.idle_since.get().is_some() && self.socket.heard.load(Ordering::Relaxed);
        waiting.then(|| self.requests.get())
    }

    /// Which write the client does not take, counted from 0.
    pub fn stuck_write(&self) -> Option<u64> {
        self.socket.stuck.load(Ordering::Relaxed).then(|| self.socket.taken.load(Ordering::Relaxed))
    }

    /// Says how the connection is to be ended when it is dropped.
    pub fn end_with(&self, ending: Ending) {
        self.socket.ending.store(ending as u8, Ordering::Relaxed);
    }

    /// The head that has begun to come does not end in time: writes the access line, and has the connection end by saying so.
    pub fn end_with_slow_head(&self) {
        self.socket.unheard.get_or_init(|| Unheard::new(&SLOW_HEAD).into()).log(self.client.ip);
        self.end_with(Ending::SlowHead);
    }

    /// What the client has been told, where no request was understood.
    pub fn unheard(&self) -> Option<&Unheard> {
        self.socket.unheard.get().map(|unheard| &**unheard)
    }

    /// Takes back what was said of the connection's end.
    pub(super) fn end_as_usual(&self) {
        self.socket.ending.store(0, Ordering::Relaxed);
    }

    /// Why the router ends the connection amid a request, if it does.
    pub(super) fn cut(&self) -> Option<&'static str> {
        (self.socket.ending.load(Ordering::Relaxed) == Ending::SlowReader as u8).then_some("slow-reader")
    }

    /// Since when the connection has been waiting for a request, if it is.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get()
    }

    /// The connection is to become this tunnel's.
    pub(super) fn agree(&self, tunnel: Agreed) {
        *self.tunnel.borrow_mut() = Some(Box::new(tunnel));
    }

    /// The tunnel that it is to become, if it is.
    pub fn tunnel(&self) -> Option<Box<Agreed>> {
        self.tunnel.take()
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.socket.owed.store(ANSWER, Ordering::Relaxed);
        self.resume();
    }

    fn resume(&self) {
        self.idle_since.set(None);
        self.under_way.set(self.under_way.get() + 1);
    }

    /// It has ended.
    pub(super) fn end(&self, now: Instant) {
        self.socket.owed.store(REST, Ordering::Relaxed);
        self.release(now);
    }

    fn release(&self, now: Instant) {
        self.under_way.set(self.under_way.get() - 1);
        if self.under_way.get() == 0 {
            self.idle_since.set(Some(now));
            self.socket.heard.store(false, Ordering::Relaxed);
        }
    }

    /// Keeps the connection from being idle after its response, until this is dropped: the rest of the request's body is
    /// still to come, and no head.
    pub(super) fn hold(self: &Rc<Self>) -> Hold {
        self.resume();
        Hold(Rc::clone(self))
    }
}

/// See [`Downstream::hold`].
#[derive(Debug)]
pub(super) struct Hold(Rc<Downstream>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.release(Instant::now());
    }
}

/// A client's socket as hyper gets it.
#[derive(Debug)]
pub struct ClientSocket {
    /// There until it is taken for a tunnel.
    stream: Option<TcpStream>,
    state: Arc<SocketState>,
    /// Whether hyper waits for more to come, and so learns of the client's end.
    is_read: bool,
    /// Whether something may lie unread in the kernel of which the runtime will not tell, because [`Self::poll_gone`] has
    /// looked past it.
    looked_past: bool,
    /// Runs while the connection lingers.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl ClientSocket {
    /// Wraps the accepted socket of this connection.
    pub fn new(stream: TcpStream, downstream: &Downstream) -> Self {
        let state = Arc::clone(&downstream.socket);
        Self { stream: Some(stream), state, is_read: false, looked_past: false, lingering: None }
    }

    /// The socket, for a tunnel.
    ///
    /// # Errors
    ///
    /// The runtime could not watch it anew.
    pub(super) fn into_stream(mut self) -> io::Result<TcpStream> {
        let stream = self.stream.take().expect("it is taken once, and only here");
        // Registered anew, the runtime tells of what lies there.
        if self.looked_past { TcpStream::from_std(stream.into_std()?) } else { Ok(stream) }
    }

    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().expect("hyper has it until it is taken"))
    }

    /// Ready when the client has gone, though hyper does not read: it has bytes that it cannot use yet (a request sent ahead,
    /// a stray line end after a body), or a body that its pod does not take. Without this, one byte too many would hide a
    /// client's end until the pod says something.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &self.stream else {
            return Poll::Pending;
        };
        loop {
            if ready!(stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let is_ready = pin!(stream.ready(Interest::READABLE)).poll(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(Ok(ready)) = is_ready
                && ready.is_read_closed()
            {
                return Poll::Ready(());
            }
            // Something is to be read. What comes after it wakes this task only if that is out of the way.
            let _ = stream.try_io(Interest::READABLE, || io::Result::<()>::Err(ErrorKind::WouldBlock.into()));
            self.looked_past = true;
        }
    }

    /// Reads what has been looked past, without asking the runtime whether there is anything. Whether there was.
    fn read_looked_past(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<bool> {
        let stream = self.stream.as_ref().expect("hyper has it until it is taken");
        let space = buffer.initialize_unfilled();
        let most = space.len();
        match (&*SockRef::from(stream)).read(space) {
            Ok(read) => {
                // Less than there is space for was all.
                self.looked_past = read == most;
                buffer.advance(read);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.looked_past = false;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Says that nothing more comes, and reads what still does, for a while.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(());
        };
        let timer = self.lingering.get_or_insert_with(|| {
            // Where the client has gone already there is nobody to be told.
            let _ = SockRef::from(&*stream).shutdown(Shutdown::Write);
            Box::pin(tokio::time::sleep(LINGER))
        });
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        with_buffer(|buffer| {
            loop {
                let mut buffer = ReadBuf::new(buffer);
                let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
                if read.is_err() || buffer.filled().is_empty() {
                    return Poll::Ready(());
                }
            }
        })
    }

    /// Answers what hyper could not read, in place of hyper's empty answer `parts`; `None` where it is none. What of it the
    /// client does not take at once it is not owed.
    fn poll_answer_unreadable(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Option<Poll<io::Result<usize>>> {
        let hypers: &[u8] = parts.iter().find(|part| !part.is_empty())?;
        let answer = canned::instead_of(hypers)?;
        let bytes = self.state.unheard.get_or_init(|| Unheard::new(answer).into()).bytes(hypers);
        let written = self.stream().poll_write(cx, &bytes);
        if written.is_ready() {
            // No head is under way any more, and more of what was none may come.
            self.state.heard.store(false, Ordering::Relaxed);
            self.state.ending.store(Ending::Unread as u8, Ordering::Relaxed);
        }
        let all = parts.iter().map(|part| part.len()).sum();
        Some(self.note_write(written.map_ok(|_| all)))
    }

    fn note_write(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.state.stuck.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            self.state.taken.fetch_add(1, Ordering::Relaxed);
        }
        written
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        let (Some(stream), ending) = (&self.stream, self.state.ending.load(Ordering::Relaxed)) else {
            return;
        };
        // Whoever does not take these either is owed no more.
        if ending == Ending::SlowHead as u8 {
            let _ = self.state.unheard.get().map(|unheard| stream.try_write(&unheard.bytes(b"")));
        } else if ending == Ending::SlowReader as u8 || ending == Ending::CutShort as u8 {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match self.looked_past && self.read_looked_past(buffer)? {
            true => Poll::Ready(Ok(())),
            false => self.stream().poll_read(cx, buffer),
        };
        self.is_read = read.is_pending();
        if buffer.filled().len() > before {
            self.state.heard.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.state.owed.load(Ordering::Relaxed) == NOTHING
            && let Some(answered) = self.poll_answer_unreadable(cx, &[IoSlice::new(bytes)])
        {
            return answered;
        }
        let written = self.stream().poll_write(cx, bytes);
        self.note_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.state.owed.load(Ordering::Relaxed) == NOTHING
            && let Some(answered) = self.poll_answer_unreadable(cx, parts)
        {
            return answered;
        }
        let stream = self.stream();
        let written = match parts {
            [only] => stream.poll_write(cx, only),
            _ if parts.iter().map(|part| part.len()).sum::<usize>() > SMALL => stream.poll_write_vectored(cx, parts),
            _ => with_buffer(|buffer| {
                let mut length = 0;
                for part in parts {
                    buffer[length..length + part.len()].copy_from_slice(part);
                    length += part.len();
                }
                stream.poll_write(cx, &buffer[..length])
            }),
        };
        self.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper comes here at the end of every turn in which it has written everything.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.state.owed.load(Ordering::Relaxed) {
            REST => self.state.owed.store(NOTHING, Ordering::Relaxed),
            ANSWER if !self.is_read && self.poll_gone(cx).is_ready() => {
                return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
            }
            _ => {}
        }
        Poll::Ready(Ok(()))
    }

    /// hyper shuts a connection down right before it drops it, and closing says the same, but where something is unread.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.ending.load(Ordering::Relaxed) == Ending::Unread as u8 {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
