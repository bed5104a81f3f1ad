//! A request on its way to a pod: its head, then its body frame by frame, never collected.

use std::cell::Cell;
use std::error::Error;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes};
use hyper::body::{Body, Incoming};
use tokio::io::AsyncWrite;

use super::doubt::Doubt;
use crate::core::assignment::Assignment;
use crate::core::room::RoomId;
use crate::core::wire::request::{self, Framing};

/// What is still to be sent of a request.
#[derive(Debug)]
pub(super) struct Upload {
    /// The head, the line before a chunk, or one behind the other; and how much of it has gone.
    lead: (Vec<u8>, usize),
    /// Where the room's lines begin in the head.
    room_at: usize,
    data: Bytes,
    /// What ends the chunk, or the body.
    tail: &'static [u8],
    body: Option<Incoming>,
    /// What the body may still have, where that is limited.
    left: Option<u64>,
    chunked: bool,
    /// Whether the client sends the body only once it has been asked for it.
    on_demand: bool,
    sent: bool,
    abandoned: bool,
    /// Whether it was abandoned while its client had more of the body to send.
    untaken: bool,
    progress: Option<Rc<Progress>>,
    /// Whether it has ended where the client says, where that is not certain.
    doubt: Option<Doubt>,
}

/// How far a request body has come; the access record reads it too.
#[derive(Debug)]
pub(super) struct Progress {
    /// When it last moved.
    moved: Cell<Instant>,
    /// Whether it is the client that is waited for.
    awaited: Cell<bool>,
    /// Bytes of body handed to the pod's socket.
    pub(super) bytes: Cell<u64>,
}

/// Why a request could not be sent on.
#[derive(Debug)]
pub(super) enum SendError {
    /// The pod's connection broke.
    Pod(io::Error),
    /// The client's body is malformed.
    Client(hyper::Error),
    /// The client's connection ended within it.
    Gone(hyper::Error),
    /// It is longer than `--max-body`.
    TooLarge,
}

impl SendError {
    /// hyper has one error for both, and what it was in words of its own beneath: data that is wrong, or the socket's end
    /// (a FIN, a reset, a timeout of the kernel's).
    fn of_body(error: hyper::Error) -> Self {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
        match cause {
            Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => Self::Client(error),
            _ => Self::Gone(error),
        }
    }
}

impl Upload {
    /// A request with this head ([`request::head`]) and a body that is no longer than `longest`, to be sent to a pod by
    /// [`Self::address`] first.
    pub(super) fn new(head: Vec<u8>, body: Incoming, framing: Framing, longest: Option<u64>, now: Instant) -> Self {
        let room_at = head.len();
        let body = (framing != Framing::None).then_some(body);
        let progress = body
            .is_some()
            .then(|| Rc::new(Progress { moved: Cell::new(now), awaited: Cell::new(false), bytes: Cell::new(0) }));
        let chunked = framing == Framing::Chunked;
        Self {
            lead: (head, 0),
            room_at,
            data: Bytes::new(),
            tail: b"",
            body,
            left: longest,
            chunked,
            on_demand: false,
            sent: false,
            abandoned: false,
            untaken: false,
            progress,
            doubt: None,
        }
    }

    /// Its end is in doubt.
    pub(super) fn doubt(&mut self, doubt: Doubt) {
        self.doubt = Some(doubt);
    }

    /// Whether the body's length is not known before its end.
    pub(super) fn is_chunked(&self) -> bool {
        self.chunked
    }

    /// The same, of a client that waits to be asked for the body, or not (RFC 9110 section 10.1.1). It is asked once a pod has
    /// taken the head.
    pub(super) fn on_demand(self, on_demand: bool) -> Self {
        Self { on_demand, ..self }
    }

    /// Where to follow the body's progress, if there is one.
    pub(super) fn progress(&self) -> Option<Rc<Progress>> {
        self.progress.clone()
    }

    /// Completes the head for this attempt. Nothing may have been sent yet.
    pub(super) fn address(&mut self, room: Option<(&RoomId<'_>, &Assignment)>) {
        debug_assert!(!self.sent);
        let head = &mut self.lead.0;
        head.truncate(self.room_at);
        if let Some((room, assignment)) = room {
            request::name_room(head, room, assignment);
        }
        head.extend_from_slice(request::END);
        self.announce_chunk();
    }

    /// There is a connection for it now: the time until then was not its body's.
    pub(super) fn set_off(&self, now: Instant) {
        self.progress.iter().for_each(|progress| progress.moved.set(now));
    }

    /// Whether it has no body.
    pub(super) fn is_head_only(&self) -> bool {
        self.progress.is_none()
    }

    /// Whether the pod may have seen anything of it.
    pub(super) fn was_begun(&self) -> bool {
        self.sent
    }

    /// Whether all of it has gone.
    pub(super) fn is_complete(&self) -> bool {
        self.body.is_none() && !self.has_unsent()
    }

    /// Sends no more of it: the pod has stopped reading. The connection can carry nothing else.
    pub(super) fn abandon(&mut self) {
        (self.abandoned, self.untaken) = (true, self.has_untaken());
        self.lead = (Vec::new(), 0);
        (self.data, self.tail, self.body) = (Bytes::new(), b"", None);
        self.doubt = None;
        self.progress.iter().for_each(|progress| progress.awaited.set(false));
    }

    /// Whether the pod stopped reading before all of it had gone.
    pub(super) fn was_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Whether there is more of its body than has been taken from the client.
    pub(super) fn has_untaken(&self) -> bool {
        self.untaken || self.body.is_some()
    }

    /// When the body last moved, if there is one: a long upload is no silence of the pod's.
    pub(super) fn moved(&self) -> Option<Instant> {
        self.progress.as_ref().map(|progress| progress.moved.get())
    }

    /// Whether more of the body is wanted than the client has sent.
    pub(super) fn awaits_client(&self) -> bool {
        self.progress.as_ref().is_some_and(|progress| progress.awaited.get())
    }

    /// Sends what can be sent. Ready when all of it has gone.
    pub(super) fn poll_send<S>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<Result<(), SendError>>
    where
        S: AsyncWrite + Unpin,
    {
        if !self.sent && !self.on_demand && self.is_only_head() {
            // What came of the body together with the head goes together with it.
            let _ = self.poll_body(cx)?; // where nothing has come, the head goes alone
        }
        loop {
            while self.has_unsent() {
                let written = ready!(self.poll_write(stream, cx)).map_err(SendError::Pod)?;
                if written == 0 {
                    return Poll::Ready(Err(SendError::Pod(io::ErrorKind::WriteZero.into())));
                }
                self.sent = true;
                self.advance(written);
            }
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            }
            let more = self.poll_body(cx);
            self.progress.iter().for_each(|progress| progress.note(more.is_pending()));
            ready!(more)?;
        }
    }

    /// Takes the next piece of the body, or its end, where that has come.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(Ok(()));
        };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose().map_err(SendError::of_body)?;
        // A body of known length is over with its last byte: hyper tells so only at its next turn.
        let over = body.is_end_stream() && !self.chunked;
        match frame.map(hyper::body::Frame::into_data) {
            Some(Ok(data)) if data.is_empty() => {}
            Some(Ok(data)) => {
                if let Some(left) = &mut self.left {
                    *left = left.checked_sub(data.len() as u64).ok_or(SendError::TooLarge)?;
                }
                self.send(data);
            }
            // Trailers stop here: a field that was checked in the head could come back in them (RFC 9110 section
            // 6.5.1; traefik pull request 13822). They end the body.
            Some(Err(_)) => self.end(),
            None => {
                self.doubt.take().into_iter().for_each(Doubt::dispel);
                self.end();
            }
        }
        if over {
            self.body = None;
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self) {
        (self.body, self.doubt) = (None, None);
        self.tail = if self.chunked { request::LAST_CHUNK } else { b"" };
    }

    fn send(&mut self, data: Bytes) {
        self.data = data;
        self.tail = if self.chunked { request::END } else { b"" };
        self.announce_chunk();
    }

    /// Writes the line that stands before the data, in a chunk.
    fn announce_chunk(&mut self) {
        if self.chunked && !self.data.is_empty() {
            request::chunk_start(&mut self.lead.0, self.data.len());
        }
    }

    /// Whether nothing of the body waits to be sent.
    fn is_only_head(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty()
    }

    fn has_unsent(&self) -> bool {
        self.lead.1 < self.lead.0.len() || !self.data.is_empty() || !self.tail.is_empty()
    }

    fn poll_write<S>(&self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>>
    where
        S: AsyncWrite + Unpin,
    {
        let lead = &self.lead.0[self.lead.1..];
        if self.is_only_head() {
            return Pin::new(stream).poll_write(cx, lead);
        }
        let parts = [IoSlice::new(lead), IoSlice::new(&self.data), IoSlice::new(self.tail)];
        Pin::new(stream).poll_write_vectored(cx, &parts)
    }

    fn advance(&mut self, written: usize) {
        let of_lead = written.min(self.lead.0.len() - self.lead.1);
        self.lead.1 += of_lead;
        if self.lead.1 == self.lead.0.len() {
            // A pod may be silent for as long as a long poll is.
            self.lead = (Vec::new(), 0);
        }
        let of_data = (written - of_lead).min(self.data.len());
        self.data.advance(of_data);
        self.tail = &self.tail[written - of_lead - of_data..];
        if let Some(progress) = &self.progress {
            progress.bytes.set(progress.bytes.get() + of_data as u64);
            progress.moved.set(Instant::now());
        }
        if self.data.is_empty() {
            // An emptied `Bytes` would hold on to its allocation while the client is slow.
            self.data = Bytes::new();
        }
    }
}

impl Progress {
    /// The client was asked for more. Its silence counts from when it was first asked.
    fn note(&self, pending: bool) {
        let before = self.awaited.replace(pending);
        if !(before && pending) {
            self.moved.set(Instant::now());
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
