//! TCP sockets: how they are tuned, how a pod is dialled, and the buffer that all reads of a thread share.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;

use super::direct::Direct;
use super::nursery::Youth;
use crate::timer::Timer;

/// The size of a thread's read buffer: large reads are what makes large messages cheap.
pub(super) const BUFFER: usize = 64 * 1024;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// Dead peers (a node that vanished without a FIN) are noticed within 30 + 3 × 10 s.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3);

/// The most that lies in a socket without having been sent. The kernel's default, no limit but that of the send buffer, is
/// up to 4 MB for each client that reads slowly, which no connection limit was meant to cost. What is on its way is not
/// limited by it, so a fast connection is not slowed down.
const UNSENT: u32 = 128 * 1024;

/// The receive buffer of a pod's connection, which the kernel would let grow to 6 MB for a response whose client reads slowly.
/// Linux doubles it, for what a segment costs beside its bytes (socket(7)): 200 KiB of memory, of which at least half is
/// window. Pods are near: within a millisecond that is 100 MB a second.
const RECEIVED: usize = 100 * 1024;

/// The receive buffer of a client's connection, for an upload that its pod takes slowly: doubled as well, and more than a
/// pod's, for clients that are far away (1.6 MB a second at 100 ms). No larger, because of loopback's segments of 64 KiB: the
/// kernel would open with a window that it then takes back bit by bit, with each message, and a packet whose window is not
/// that of the last goes the long way through the peer's receiver (tcp_rcv_established), which was 1 % of a relayed message.
const SENT_AHEAD: usize = 160 * 1024;

/// For how many seconds a client may be silent before its connection is accepted all the same. The least there is: the kernel
/// counts by how often it repeats its part of TCP's handshake, and does so first after a second.
const SILENT: i32 = 1;

/// The longest that a client is held back for, with some time for the kernel's timer to be late.
pub const HELD: Duration = Duration::from_millis(1200);

sockopt_impl!(
    /// A listener's connections are accepted with their first bytes, or after so many seconds without any; at 0 at once (tcp(7)).
    DeferAccept,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    i32
);

/// Sets what a listener's connections need; accepted sockets inherit all of it (tcp(7)). A peer that acknowledges nothing for
/// `stall` has lost its connection: the kernel sees to it where nobody else does, of an answer that was still in its buffer
/// when the connection was closed. (Of an idle peer it ends the probing, in place of their number.)
pub fn tune_listener(socket: &Socket, stall: Duration) -> io::Result<()> {
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_recv_buffer_size(SENT_AHEAD)?;
    socket.set_tcp_user_timeout(Some(stall))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)
}

/// Has a listener accept a connection when there is something to read. Else it would be looked at in vain and waited for once
/// more, which is a fifth of what it costs with its one request. The price: the kernel takes a silence before the first bytes for
/// the way's length, so that of an answer to them that is lost it thinks up to three times as long, or three seconds.
pub fn await_first_bytes(listener: &impl AsFd) {
    // A kernel that has no such option (some only look like Linux) accepts at once: dearer, and as good.
    let _ = setsockopt(listener, DeferAccept, &SILENT);
}

/// Has it accept the silent as well; those that are silent already, once their second is over. What the kernel has not handed
/// over when the listener is closed, it forgets, and such a client is not told of the end: so this comes [`HELD`] before.
pub fn accept_the_silent(listener: &impl AsFd) {
    let _ = setsockopt(listener, DeferAccept, &0);
}

/// Has the kernel probe a pod that says nothing: a node that vanished sends no FIN. Four system calls, so not at the dial,
/// where `--response-timeout` watches over the connection, but once it has carried an answer, or a tunnel for a while.
pub(super) fn keep_alive(pod: &TcpStream) {
    // A socket that does not take it any more has failed, as the next read or write will tell.
    let _ = SockRef::from(pod).set_tcp_keepalive(&KEEPALIVE);
}

/// Limits what waits in the kernel on a pod's connection, in both directions. Done when much is about to come or to go, and
/// before the kernel's own buffers have grown: most connections never need it, and at each dial it would be two system calls.
pub(super) fn limit_buffers(pod: &TcpStream) {
    let socket = SockRef::from(pod);
    // A socket that does not take them any more has failed, as the next read or write will tell.
    let _ = socket.set_tcp_notsent_lowat(UNSENT);
    let _ = socket.set_recv_buffer_size(RECEIVED);
}

/// A pod that has been dialled.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) stream: TcpStream,
    /// The one that accepted.
    pub(super) address: SocketAddr,
    /// What the dial was timed by, where it had to be, for what comes next on the connection: deadlines are later there.
    pub(super) timer: Timer,
}

/// Connects to the first of `addresses` that accepts; all within `timeout`: each has an equal share of what is left, so that
/// one which swallows packets leaves the others theirs. The `youth` is that of the connection in whose task this is.
///
/// # Errors
///
/// The last address's error, or `TimedOut`.
pub(super) async fn connect(addresses: &[SocketAddr], timeout: Duration, youth: &Youth) -> io::Result<Connected> {
    let mut now = Instant::now();
    let (deadline, mut timer, mut last) = (now + timeout, Timer::default(), None);
    for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let share = deadline.saturating_duration_since(now).div_f64(left as f64);
        let connected = match begin_to_connect(*address) {
            Ok(stream) => {
                let connected = poll_fn(|cx| match poll_connected(&stream, cx) {
                    Poll::Pending if youth.spares([share]) => Poll::Pending,
                    Poll::Pending => timer.poll(cx, now + share).map(|()| Err(io::ErrorKind::TimedOut.into())),
                    connected => connected,
                });
                connected.await.map(|()| stream)
            }
            Err(error) => Err(error),
        };
        match connected {
            Ok(stream) => return Ok(Connected { stream, address: *address, timer }),
            Err(error) => last = Some(error),
        }
        now = Instant::now();
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

/// A connection that is being made.
fn begin_to_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    set_tcp_nodelay(&socket, true)?; // Small messages are not to wait for others.
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => TcpStream::from_std(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// Ready when the connection has been made, or has failed. The kernel is asked why only where the runtime has been told of an
/// error: tokio's own `connect` asks it for each connection whether there was one.
fn poll_connected(stream: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    ready!(stream.poll_write_ready(cx))?;
    let is_broken = stream.try_io(Interest::ERROR, || Ok(())).is_ok();
    let error = if is_broken { stream.take_error()? } else { None };
    Poll::Ready(error.map_or(Ok(()), Err))
}

/// Whether a connection that carries nothing can take a request: nothing to read, and not closed. A pod that closed it
/// has told the kernel before it has told the event loop, and a request written into that gap would be lost without
/// anybody knowing whether the pod saw it. Bytes that nobody asked for are no response to what comes next (RFC 9112
/// section 9.2).
pub(super) fn is_quiet(stream: &TcpStream) -> bool {
    Direct(stream).is_quiet()
}

/// The same as far as the runtime knows. Of a connection that has just been made it knows all: the kernel has told it no longer
/// ago.
pub(super) fn is_fresh(stream: &TcpStream) -> bool {
    stream.try_io(Interest::READABLE, || Ok(())).is_err()
}

/// Ready when the peer has `gone`, though what it has sent before is left unread, and so would hide that: the runtime tells of
/// something new only once what there was is out of the way. From then on `looked_past` is set, and [`read_past`] comes first.
pub(super) fn poll_past(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    looked_past: &mut bool,
    gone: impl Fn(Ready) -> bool,
) -> Poll<()> {
    loop {
        if ready!(stream.poll_read_ready(cx)).is_err() {
            return Poll::Ready(());
        }
        let interest = Interest::READABLE | Interest::ERROR;
        let ready = pin!(stream.ready(interest)).poll(&mut Context::from_waker(Waker::noop()));
        match ready {
            Poll::Ready(Ok(ready)) if gone(ready) => return Poll::Ready(()),
            // An end of the stream cannot be put out of the way, so that nothing after it would be told either.
            Poll::Ready(Ok(ready)) if ready.is_read_closed() => return Poll::Pending,
            Poll::Ready(_) | Poll::Pending => {}
        }
        let _ = stream.try_io(Interest::READABLE, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
        *looked_past = true;
    }
}

/// Reads what has been looked past, without asking the runtime whether there is anything. Whether there was.
pub(super) fn read_past(stream: &TcpStream, buffer: &mut ReadBuf<'_>, looked_past: &mut bool) -> io::Result<bool> {
    let space = buffer.initialize_unfilled();
    let most = space.len();
    match (&*SockRef::from(stream)).read(space) {
        Ok(read) => {
            // Less than there is space for was all.
            *looked_past = read == most;
            buffer.advance(read);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            *looked_past = false;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Lends the thread's buffer for the time of one call.
pub(super) fn with_buffer<T>(borrow: impl FnOnce(&mut [u8]) -> T) -> T {
    SHARED.with_borrow_mut(|buffer| borrow(buffer))
}

/// Receives up to `limit` bytes: read into the thread's buffer, so that a connection which waits holds none, and copied
/// out at their real length. Empty when the peer has closed.
pub(super) fn poll_receive(stream: &mut TcpStream, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<Bytes>> {
    with_buffer(|buffer| {
        let mut buffer = ReadBuf::new(&mut buffer[..limit.min(BUFFER)]);
        ready!(Pin::new(&mut Direct(stream)).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
    })
}

/// Receives up to `length` bytes of which it is known that they will come, without the copy. The buffer is made once there
/// is something to be read, not for every look.
pub(super) fn poll_receive_large(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    length: usize,
) -> Poll<io::Result<Bytes>> {
    ready!(stream.poll_read_ready(cx))?;
    let mut buffer = BytesMut::with_capacity(length.min(BUFFER));
    let received = ready!(std::pin::pin!(stream.read_buf(&mut buffer)).poll(cx));
    Poll::Ready(received.map(|_| buffer.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Roster;
    use crate::proxy::Nursery;
    use socket2::{Domain, Socket, Type};
    use std::io::Write;
    use std::rc::Rc;

    /// A listener whose queue is full swallows what comes: nobody refuses, nobody answers.
    async fn silent() -> (SocketAddr, Socket, TcpStream) {
        let silent = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has a free port");
        silent.listen(0).expect("a bound socket");
        let address = silent.local_addr().expect("a bound socket").as_socket().expect("an IP address");
        let first = TcpStream::connect(address).await.expect("the queue has one place");
        (address, silent, first)
    }

    #[test]
    fn a_connection_is_accepted_once_it_has_said_something() {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        await_first_bytes(&listener);
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has a free port");
        listener.listen(8).expect("a bound socket");
        let address = listener.local_addr().expect("a bound socket").as_socket().expect("an IP address");
        let connect = || std::net::TcpStream::connect(address).expect("the queue has eight places");
        // Several, for a thread may be kept from running for the second after which it is accepted as it is.
        let clients: Vec<_> = std::iter::repeat_with(|| (connect(), listener.accept().is_err())).take(4).collect();
        let (client, _) = clients.iter().find(|(_, is_awaited)| *is_awaited).expect("the kernel waits for its request");
        (&mut &*client).write_all(b"GET").expect("it is connected");
        listener.accept().expect("loopback delivers at once");

        accept_the_silent(&listener);
        let _silent = connect();
        listener.accept().expect("so does a connection");
    }

    #[tokio::test]
    async fn an_address_that_says_nothing_leaves_time_for_the_next() {
        let (silent_at, _silent, _first) = silent().await;
        let good = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let good_at = good.local_addr().expect("a bound socket");

        let (timeout, over) = (Duration::from_secs(1), Youth::over());
        let alone = connect(&[silent_at], timeout, &over).await;
        assert_eq!(alone.expect_err("it says nothing").kind(), io::ErrorKind::TimedOut);
        let connected = connect(&[silent_at, good_at], timeout, &over).await.expect("the second accepts");
        assert_eq!((connected.stream.peer_addr().expect("connected"), connected.address), (good_at, good_at));
        assert!(connected.timer.is_running(), "for what comes next");
        connect(&[], timeout, &over).await.expect_err("there is nobody");
    }

    #[tokio::test]
    async fn a_dial_that_began_in_youth_is_timed_once_that_is_over() {
        let (silent_at, _silent, _first) = silent().await;
        let (roster, timeout, since) = (Roster::new(), Duration::from_millis(1500), Instant::now());
        let (nursery, member) = (Rc::new(Nursery::new(Rc::clone(&roster))), roster.join());
        let (youth, addresses) = (nursery.youth(&member), [silent_at]);
        let mut dial = Box::pin(connect(&addresses, timeout, &youth));
        let young = tokio::time::timeout(Duration::from_millis(100), &mut dial).await;
        assert!(young.is_err());
        nursery.grow();
        assert_eq!(dial.await.expect_err("it says nothing").kind(), io::ErrorKind::TimedOut);
        assert!(since.elapsed() >= timeout, "its time began when it did, and is not over before");
    }

    #[test]
    fn accepted_sockets_are_tuned_as_their_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        tune_listener(&SockRef::from(&listener), Duration::from_secs(7)).expect("a live socket");
        let address = listener.local_addr().expect("a bound socket");
        let _client = std::net::TcpStream::connect(address).expect("it listens");
        let (accepted, _) = listener.accept().expect("somebody has connected");
        let accepted = SockRef::from(&accepted);
        assert_eq!(accepted.tcp_notsent_lowat().expect("a live socket"), UNSENT);
        assert_eq!(accepted.tcp_user_timeout().expect("a live socket"), Some(Duration::from_secs(7)));
        assert_eq!(accepted.recv_buffer_size().expect("a live socket"), 2 * SENT_AHEAD);
        assert!(accepted.tcp_nodelay().expect("a live socket") && accepted.keepalive().expect("a live socket"));
    }
}
