//! A TCP connection to a pod, and how it is dialled.
//!
//! The socket is shared between hyper's connection, which reads and writes it, and the pool, which looks at it before
//! reuse: a pod that closed an idle connection has told the kernel before it has told hyper, and a request written
//! into that gap would be lost without anybody knowing whether the pod saw it.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The pod's end of a connection. Shared by reference count; `Arc` because hyper wants upgradable I/O to be `Send`.
#[derive(Clone, Debug)]
pub(super) struct PodSocket(Arc<TcpStream>);

/// Dead peers (a node that vanished without a FIN) are noticed within 30 + 3 × 10 s.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3);

/// Sets what every TCP connection of the router needs: no Nagle delay for small messages, and keep-alive probes for
/// peers that are gone. On a listener, accepted sockets inherit both (tcp(7)).
pub fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)
}

impl PodSocket {
    /// Connects to the first of `addresses` that accepts, all within `timeout`.
    ///
    /// # Errors
    ///
    /// The last address's error, or `TimedOut`.
    pub(super) async fn connect(addresses: &[SocketAddr], timeout: Duration) -> io::Result<Self> {
        let dial = async {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in addresses {
                match TcpStream::connect(address).await {
                    Ok(stream) => {
                        tune(&SockRef::from(&stream))?;
                        return Ok(Self(Arc::new(stream)));
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        tokio::time::timeout(timeout, dial).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether an idle connection can take a request: nothing to read, and not closed. Bytes that nobody asked for
    /// are no response to what comes next (RFC 9112 section 9.2).
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        matches!(SockRef::from(&*self.0).peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The socket itself, for a tunnel.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.0
    }
}

impl AsyncRead for PodSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(drop)),
            }
        }
    }
}

impl AsyncWrite for PodSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write_when_ready(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write_when_ready(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write))
    }
}

impl PodSocket {
    fn write_when_ready(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The pod has closed with some of the request unread, and may have answered first (413): the answer is
                // still to be read, and where there is none, reading says so at once.
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    return Poll::Pending;
                }
                result => return Poll::Ready(result),
            }
        }
    }
}
