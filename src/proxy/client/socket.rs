//! A client's socket as hyper's server gets it: it learns what hyper does not tell, and ends as hyper would not.
//!
//! It notes what comes and what the client takes ([`SocketState`]), notices that a client has gone while hyper does not read,
//! says in our words what hyper could not read, and closes so that what was said last arrives, or so that it does not look
//! complete. What it must not do: decide which of these it is to be. That is [`Downstream`]'s, and its callers'.

use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, Ready};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::{Cork, Downstream, Ending, Owed, SocketState};
use crate::proxy::canned::{self, Unheard};
use crate::proxy::direct::Direct;
use crate::proxy::socket::{self, with_buffer};

/// Up to this many bytes, copying the parts of an answer together and one plain send cost less than a vectored write.
const SMALL: usize = 8 * 1024;

/// Into a buffer of this size or less hyper reads heads; it has a larger one where bodies come.
const FEW: usize = 16 * 1024;

/// How long what comes behind the last request, or was left of it, is read, so that the answer may arrive.
const LINGER: Duration = Duration::from_secs(5);

/// So many times the thread's buffer is more than the kernel holds for a connection.
const MOST_PAST: usize = 16;

/// A client's socket as hyper gets it.
#[derive(Debug)]
pub struct ClientSocket {
    /// There until it is taken for a tunnel.
    stream: Option<TcpStream>,
    downstream: Rc<Downstream>,
    /// Whether hyper waits for more to come, and so learns of the client's end.
    is_read: bool,
    /// Whether something may lie unread in the kernel of which the runtime will not tell, because [`Self::poll_gone`] has
    /// looked past it.
    looked_past: bool,
    /// Whether the client's end has been read, or reading has failed: nothing is behind it.
    has_ended: bool,
    /// Runs while the connection lingers.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl ClientSocket {
    /// Wraps the accepted socket of this connection.
    pub fn new(stream: TcpStream, downstream: &Rc<Downstream>) -> Self {
        let downstream = Rc::clone(downstream);
        Self { stream: Some(stream), downstream, is_read: false, looked_past: false, has_ended: false, lingering: None }
    }

    /// The socket, for a tunnel, and whether something may lie there that has been [looked past](socket::poll_past).
    pub(in crate::proxy) fn into_stream(mut self) -> (TcpStream, bool) {
        // A handshake may say `close` as well (jetty's client does): what hyper wrote last is not followed by an end.
        if self.state().cork.get() != Cork::None {
            self.direct().uncork();
        }
        (self.stream.take().expect("it is taken once, and only here"), self.looked_past)
    }

    fn state(&self) -> &SocketState {
        &self.downstream.socket
    }

    fn direct(&self) -> Direct<'_> {
        Direct(self.stream.as_ref().expect("hyper has it until it is taken"))
    }

    /// Receives as [`Direct`] does. Into the thread's buffer first, because hyper's is not initialised, and what is more than
    /// heads, into hyper's at once.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() > FEW {
            return Pin::new(self.stream.as_mut().expect("hyper has it until it is taken")).poll_read(cx, buffer);
        }
        with_buffer(|shared| {
            let mut received = ReadBuf::new(&mut shared[..buffer.remaining()]);
            ready!(Pin::new(&mut self.direct()).poll_read(cx, &mut received))?;
            buffer.put_slice(received.filled());
            Poll::Ready(Ok(()))
        })
    }

    /// Writes an answer, or a part of it. Its last part on a connection that ends with it goes together with the end: one packet
    /// less, and the client is woken once.
    fn poll_answer(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.state().client_closes.get() || self.state().owed.get() != Owed::Rest {
            return Pin::new(&mut self.direct()).poll_write(cx, bytes);
        }
        let written = self.direct().poll_write_last(cx, bytes);
        // Where nothing was taken, nothing is held back: to wake for it would be to go round in circles.
        if matches!(written, Poll::Ready(Ok(_))) {
            self.state().cork.set(Cork::ForTheEnd);
        }
        written
    }

    /// An error when a client has gone that is owed an answer. hyper does not look, and may have bytes that it cannot use yet
    /// (a request sent ahead, a stray line end after a body), or a body that its pod does not take: not one of them may hide
    /// a client's end.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match &self.stream {
            Some(stream) if !self.is_read && self.state().owed.get() == Owed::Answer => {
                let gone = socket::poll_past(stream, cx, &mut self.looked_past, Ready::is_read_closed);
                gone.map(|()| ErrorKind::ConnectionAborted.into())
            }
            _ => Poll::Pending,
        }
    }

    fn read_past(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<bool> {
        let stream = self.stream.as_ref().expect("hyper has it until it is taken");
        socket::read_past(stream, buffer, &mut self.looked_past)
    }

    /// Whether the client has sent something behind its last request. The kernel is asked only where it may be, by the
    /// runtime's account: that is not exact where a read has just filled its buffer.
    fn has_unread(&self) -> bool {
        let may_have = !self.has_ended && (self.looked_past || !socket::is_fresh(self.direct().0));
        may_have && !self.direct().is_quiet()
    }

    /// Says that nothing more comes, and reads what still does, for a while.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(());
        };
        let timer = self.lingering.get_or_insert_with(|| {
            self.downstream.socket.cork.set(Cork::None);
            say_the_end(stream);
            Box::pin(tokio::time::sleep(LINGER))
        });
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let looked_past = &mut self.looked_past;
        with_buffer(|buffer| {
            // The runtime does not tell of it, nor when a turn is over: whoever sends on is not to have all of the thread's.
            for _ in 0..MOST_PAST {
                let mut buffer = ReadBuf::new(buffer);
                if !*looked_past {
                    break;
                }
                let read = socket::read_past(stream, &mut buffer, looked_past);
                if read.is_err() || read.is_ok_and(|read| read) && buffer.filled().is_empty() {
                    return Poll::Ready(());
                }
            }
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
        if self.state().owed.get() != Owed::Nothing {
            return None;
        }
        let hypers: &[u8] = parts.iter().find(|part| !part.is_empty())?;
        let answer = canned::instead_of(hypers)?;
        let bytes = self.state().unheard.get_or_init(|| Unheard::new(answer).into()).bytes(hypers);
        let written = Pin::new(&mut self.direct()).poll_write(cx, &bytes);
        if written.is_ready() {
            // No head is under way any more, and more of what was none may come.
            self.state().heard.set(false);
            self.state().ending.set(Some(Ending::Unread));
        }
        let all = parts.iter().map(|part| part.len()).sum();
        Some(self.note_write(written.map_ok(|_| all)))
    }

    /// The outcome of a write; who takes nothing may have gone.
    fn poll_written(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match self.note_write(written) {
            Poll::Pending => self.poll_gone(cx).map(Err),
            written => written,
        }
    }

    fn note_write(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.state().stuck.set(written.is_pending());
        if written.is_ready() {
            self.state().taken.set(self.state().taken.get() + 1);
        }
        written
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        let Some(stream) = &self.stream else {
            return;
        };
        // Whoever does not take these either is owed no more.
        match self.state().ending.get() {
            Some(Ending::SlowHead) => {
                drop(self.state().unheard.get().map(|unheard| stream.try_write(&unheard.bytes(b""))));
            }
            Some(Ending::SlowReader | Ending::CutShort) => {
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
                return;
            }
            Some(Ending::Unread) | None => {}
        }
        if self.state().cork.get() != Cork::None {
            // What is held back would not go where something is unread: to close is to reset then, and drops it.
            say_the_end(stream);
        }
    }
}

/// Has all go that was written, and the end. Where the client has gone already there is nobody to be told.
fn say_the_end(stream: &TcpStream) {
    let _ = SockRef::from(stream).shutdown(Shutdown::Write);
}

impl AsyncRead for ClientSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match self.looked_past && self.read_past(buffer)? {
            true => Poll::Ready(Ok(())),
            false => self.poll_receive(cx, buffer),
        };
        self.is_read = read.is_pending();
        if self.is_read {
            // What comes from here on, the runtime has to look at sockets for.
            self.state().own_answer.set(false);
        }
        if buffer.filled().len() > before {
            self.state().heard.set(true);
        } else if !self.is_read {
            self.has_ended = true;
        }
        read
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(written) = self.poll_answer_unreadable(cx, &[IoSlice::new(bytes)]) {
            return written;
        }
        let written = self.poll_answer(cx, bytes);
        self.poll_written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(written) = self.poll_answer_unreadable(cx, parts) {
            return written;
        }
        let written = match parts {
            [only] => self.poll_answer(cx, only),
            _ if parts.iter().map(|part| part.len()).sum::<usize>() > SMALL => {
                Pin::new(&mut self.direct()).poll_write_vectored(cx, parts)
            }
            _ => with_buffer(|buffer| {
                let mut length = 0;
                for part in parts {
                    buffer[length..length + part.len()].copy_from_slice(part);
                    length += part.len();
                }
                self.poll_answer(cx, &buffer[..length])
            }),
        };
        self.poll_written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper comes here at the end of every turn in which nothing is left to be written, also where nothing was.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state().owed.get() == Owed::Rest {
            self.state().owed.set(Owed::Nothing);
        }
        if self.state().cork.get() == Cork::TooLong {
            self.state().cork.set(Cork::None);
            self.direct().uncork();
        }
        match self.poll_gone(cx) {
            Poll::Ready(gone) => Poll::Ready(Err(gone)),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    /// hyper shuts a connection down right before it drops it, and closing says the same, but where something is unread.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_some() || self.state().ending.get() == Some(Ending::Unread) || self.has_unread() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
