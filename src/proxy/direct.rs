//! Reading and writing a socket without glibc's detour.
//!
//! glibc makes each of its calls a point where the thread can be cancelled, which takes two atomic exchanges around the system
//! call in a process of several threads: 1 or 2 % of what a message or a request costs. rustix makes the call itself. When
//! there is something to be read or room to write is tokio's to say, as ever.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::{Errno, writev};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A socket, for one look.
#[derive(Debug)]
pub(super) struct Direct<'a>(pub(super) &'a TcpStream);

impl Direct<'_> {
    /// Reads or writes up to `length` bytes once the socket is ready for it. Less than that was all there is, or all there is
    /// room for: it is known without another call that the next one would wait (tokio's own `poll_read` knows as much).
    fn poll(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        length: usize,
        mut call: impl FnMut() -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(if interest.is_readable() { self.0.poll_read_ready(cx) } else { self.0.poll_write_ready(cx) })?;
            let mut moved = None;
            let tried = self.0.try_io(interest, || {
                let bytes = *moved.insert(call()?);
                if 0 < bytes && bytes < length { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (moved, tried) {
                (Some(bytes), _) => return Poll::Ready(Ok(bytes)),
                (None, Err(error)) if error.kind() != ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                (None, _) => {}
            }
        }
    }

    /// Writes as [`AsyncWrite::poll_write`] does, where the end of the connection follows at once: both go in one packet. Until
    /// then the kernel holds the last packet back (`MSG_MORE`), for 0.2 s or until [`Self::uncork`].
    pub(super) fn poll_write_last(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(cx, Interest::WRITABLE, bytes.len(), || send(self.0, bytes, SendFlags::NOSIGNAL | SendFlags::MORE))
    }

    /// Has go what is held back: the end does not follow yet.
    pub(super) fn uncork(&self) {
        // It is set already: to set it again makes the kernel send what it holds (tcp(7)).
        let _ = self.0.set_nodelay(true);
    }

    /// Whether nothing has come and the peer has not closed, by the kernel's own word.
    pub(super) fn is_quiet(&self) -> bool {
        recv(self.0, &mut [0], RecvFlags::PEEK) == Err(Errno::AGAIN)
    }
}

impl AsyncRead for Direct<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let space = buffer.initialize_unfilled();
        let length = space.len();
        let read = ready!(self.poll(cx, Interest::READABLE, length, || recv(self.0, space, RecvFlags::empty())))?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Direct<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(cx, Interest::WRITABLE, bytes.len(), || send(self.0, bytes, SendFlags::NOSIGNAL))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = parts.iter().map(|part| part.len()).sum();
        self.poll(cx, Interest::WRITABLE, length, || writev(self.0, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Says nothing: that a socket is over is its owner's to say.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::proxy::socket::is_fresh;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let one = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
        (one, listener.accept().await.expect("it has connected").0)
    }

    /// What a look into a buffer of this size finds.
    fn look(stream: &TcpStream, size: usize) -> Poll<io::Result<Vec<u8>>> {
        let mut space = vec![0; size];
        let mut buffer = ReadBuf::new(&mut space);
        let read = Pin::new(&mut Direct(stream)).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
        read.map_ok(|()| buffer.filled().to_vec())
    }

    #[tokio::test]
    async fn what_comes_is_read_and_the_end_as_an_end() {
        let (here, mut there) = pair().await;
        assert!(look(&here, 10).is_pending() && Direct(&here).is_quiet());
        there.write_all(b"abc").await.expect("taken");
        here.readable().await.expect("it came");
        assert!(!Direct(&here).is_quiet());
        assert!(matches!(look(&here, 2), Poll::Ready(Ok(read)) if read == b"ab"));
        assert!(!is_fresh(&here), "a full buffer: there may be more");
        assert!(matches!(look(&here, 2), Poll::Ready(Ok(read)) if read == b"c"));
        assert!(is_fresh(&here), "no call is needed to know that this was all");
        assert!(look(&here, 2).is_pending());
        drop(there);
        here.readable().await.expect("it came");
        for _ in 0..2 {
            assert!(matches!(look(&here, 2), Poll::Ready(Ok(read)) if read.is_empty()));
        }
        assert!(!Direct(&here).is_quiet());
    }

    /// Far more than the kernel takes at once, in one piece and in two by turns.
    #[tokio::test]
    async fn what_is_written_arrives_whole_through_a_full_socket() {
        let (here, mut there) = pair().await;
        let part = [7; 100_000];
        let writing = async move {
            let mut written = 0;
            for _ in 0..100 {
                Direct(&here).write_all(&part).await.expect("somebody is there");
                let parts = [IoSlice::new(&part[..10]), IoSlice::new(&part)];
                written += part.len() + Direct(&here).write_vectored(&parts).await.expect("somebody is there");
            }
            written
        };
        let mut read = Vec::new();
        let (written, end) = tokio::join!(writing, there.read_to_end(&mut read));
        end.expect("an orderly end");
        assert!(read.len() == written && read.iter().all(|byte| *byte == 7), "{} of {written}", read.len());
    }

    #[tokio::test]
    async fn who_has_gone_is_told_of() {
        let (here, there) = pair().await;
        socket2::SockRef::from(&there).set_linger(Some(std::time::Duration::ZERO)).expect("a live socket");
        drop(there);
        let written = std::future::poll_fn(|cx| Pin::new(&mut Direct(&here)).poll_write(cx, b"x"));
        here.readable().await.expect("its end is told of");
        assert_eq!(written.await.expect_err("nobody there").kind(), ErrorKind::ConnectionReset);
    }
}
