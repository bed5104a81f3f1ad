//! The client's side of the proxy: the connection a request came on, and its socket.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::socket::with_buffer;
use crate::core::forwarded::Client;
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
    /// Since when nothing is under way; `None` while a request is.
    idle_since: Cell<Option<Instant>>,
    /// Counts the connection for as long as it, or the tunnel it became, lives.
    _permit: Permit,
}

/// A place among `--max-connections`.
pub type Permit = Held;

impl Downstream {
    /// A connection that has just been accepted.
    pub fn new(client: Client, permit: Permit) -> Self {
        Self { client, upgrading: Cell::new(false), idle_since: Cell::new(Some(Instant::now())), _permit: permit }
    }

    /// Since when the connection has been waiting for a request, if it is.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get()
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        self.idle_since.set(None);
    }

    /// It has ended.
    pub(super) fn end(&self, now: Instant) {
        self.idle_since.set(Some(now));
    }
}

/// A client's socket as hyper gets it.
#[derive(Debug)]
pub struct ClientSocket(TcpStream);

impl ClientSocket {
    /// Wraps an accepted socket.
    pub fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// The socket, for a tunnel.
    pub(super) fn into_stream(self) -> TcpStream {
        self.0
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.0);
        match parts {
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
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// hyper shuts a connection down right before it drops it, and closing says the same.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
