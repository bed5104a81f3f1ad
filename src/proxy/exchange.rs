//! One request and its response on a connection to a pod.
//!
//! Driven by whoever serves the client, in the same task: sending goes on while the response is waited for (and after
//! that in `duplex.rs`: a pod may answer early), and reading borrows the thread's buffer, so that an exchange which waits, as a long poll
//! does, holds none. Dropped before its end, an exchange takes the connection with it: that is how the pod learns of an
//! abort (Engine.IO depends on it), and why half a response can never reach another request.

mod resetting;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use tokio::net::TcpStream;

use self::resetting::Resetting;
use super::client::{Downstream, Ending};
use super::direct::Direct;
use super::nursery::Youth;
use super::reject;
use super::socket::{self, BUFFER};
use super::upload::{SendError, Upload};
use super::upstream::{Lease, PodShare};
use crate::core::decision::{Failure, Stage};
use crate::core::wire::response::{self, HeadError};
use crate::core::wire::{BodyError, Decoder, Head, Part};

/// The longest response head.
const MAX_HEAD: usize = 64 * 1024;

/// What is read at once while a head is awaited. What comes with it of the body is copied once.
const HEAD_READ: usize = 16 * 1024;

/// From this many bytes on that are certain to come, they are read into a buffer of their own.
const LARGE: u64 = 16 * 1024;

/// An exchange. Boxed, because it moves from the attempt to the response's body.
#[derive(Debug)]
pub(super) struct Exchange {
    lease: Resetting,
    upload: Upload,
    /// Received, and not yet handed on.
    received: Bytes,
    body: Decoder,
    keep_alive: bool,
    patience: Patience,
    /// Since when more of the response is waited for, if it is. Kept where there is a limit to that: `--response-body-idle`, or,
    /// while the request has not gone, `--response-timeout`.
    awaited: Option<Instant>,
}

/// How long may pass without anything happening.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// `--response-timeout`: until the response head. Where that has come early, until the pod takes more of the request or
    /// sends more of its answer.
    pub(super) response: Duration,
    /// `--request-body-idle`: until more of the request's body comes.
    pub(super) request_body: Duration,
    /// `--response-body-idle`: until more of the response's body comes.
    pub(super) response_body: Option<Duration>,
}

/// Why a response body broke off.
#[derive(Debug)]
pub(super) enum Broken {
    /// The pod's connection failed.
    Connection(io::Error),
    /// The pod's framing is wrong, or the connection closed too early.
    Body(BodyError),
    /// Nothing more came for `--response-body-idle`; or for `--response-timeout`, and nothing more of the request went.
    Stalled,
    /// The client's request body is malformed, as was found while the response was under way.
    Upload(hyper::Error),
    /// The client has gone.
    Gone(hyper::Error),
    /// It turned out longer than `--max-body`.
    Limit,
    /// Nothing more of it came for `--request-body-idle`.
    SlowUpload,
}

/// Why no usable head came.
#[derive(Debug)]
enum NoHead {
    /// The pod's connection failed, before or after something was sent.
    Connection(io::Error),
    /// What came is no response.
    Head(HeadError),
    /// More than [`MAX_HEAD`].
    TooLong,
    /// `--response-timeout` is over.
    Timeout,
    /// The client's body is malformed.
    Upload(hyper::Error),
    /// The client has gone.
    Gone(hyper::Error),
    /// `--request-body-idle` is over.
    SlowUpload,
    /// The client's body is longer than `--max-body`.
    Limit,
}

impl Exchange {
    /// An exchange that has not begun.
    pub(super) fn new(lease: Lease, upload: Upload, patience: Patience) -> Box<Self> {
        let (lease, received, body) = (Resetting::new(lease), Bytes::new(), Decoder::EMPTY);
        Box::new(Self { lease, upload, received, body, keep_alive: false, patience, awaited: None })
    }

    /// Sends the request and waits for the response head, from the beginning of the lease or the last movement of the
    /// request's body on. The head's fields go into `map`. The `youth` is that of the connection in whose task this is.
    ///
    /// # Errors
    ///
    /// What happened; the request is put back into `unsent` where nothing of it left this process.
    pub(super) async fn begin(
        mut self: Box<Self>,
        method: &Method,
        map: &mut HeaderMap,
        unsent: &mut Option<Upload>,
        youth: &Youth,
    ) -> Result<(Head, Box<Self>), Failure> {
        let now = self.lease.since();
        self.upload.set_off(now);
        if !self.upload.is_head_only() {
            self.lease.limit_buffers();
        }
        let head = poll_fn(|cx| {
            let head = self.poll_head(method, map, cx);
            if head.is_pending() && !youth.spares([self.patience.response, self.patience.request_body]) {
                return self.poll_overdue(now, cx).map(Err);
            }
            head
        });
        match head.await {
            Ok(head) => Ok((head, self)),
            Err(error) => Err(self.unanswered(&error, unsent)),
        }
    }

    /// Ready when nothing has happened since `now` for too long. Whoever is waited for is the one who is slow.
    fn poll_overdue(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<NoHead> {
        let moved = self.upload.moved().unwrap_or(now);
        let (deadline, overdue) = match self.upload.awaits_client() {
            true => (moved + self.patience.request_body, NoHead::SlowUpload),
            false => (moved.max(now) + self.patience.response, NoHead::Timeout),
        };
        self.lease.poll_deadline(cx, deadline).map(|()| overdue)
    }

    fn unanswered(self, error: &NoHead, unsent: &mut Option<Upload>) -> Failure {
        let sent = self.upload.was_begun();
        tracing::debug!(%error, sent, "no answer from the pod");
        let (timed_out, stage) = match error {
            NoHead::Upload(_) => (false, Stage::Upload),
            NoHead::Gone(_) => (false, Stage::Gone),
            NoHead::SlowUpload => (true, Stage::Upload),
            NoHead::Limit => (false, Stage::Limit),
            NoHead::Timeout => (true, Stage::Head),
            NoHead::Connection(_) if !sent => (false, Stage::Send),
            NoHead::Connection(_) => (false, Stage::Head),
            NoHead::Head(_) | NoHead::TooLong => (false, Stage::Malformed),
        };
        if stage == Stage::Malformed {
            // Nobody sees it on the wire but us, and only the pod's owner can mend it.
            tracing::warn!(pod = &**self.lease.endpoint().name(), %error, "the pod's answer cannot be used");
        }
        *unsent = (stage == Stage::Send).then_some(self.upload);
        Failure { stage, sent, timed_out }
    }

    /// Sends more of the request.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let sent = self.upload.poll_send(&mut Direct(self.lease.stream()), cx);
        if sent.is_pending() && self.upload.was_begun() {
            self.lease.resets = true;
        }
        sent
    }

    fn poll_head(&mut self, method: &Method, map: &mut HeaderMap, cx: &mut Context<'_>) -> Poll<Result<Head, NoHead>> {
        match self.poll_send(cx) {
            Poll::Ready(Err(SendError::Client(error))) => return Poll::Ready(Err(NoHead::Upload(error))),
            Poll::Ready(Err(SendError::Gone(error))) => return Poll::Ready(Err(NoHead::Gone(error))),
            Poll::Ready(Err(SendError::TooLarge)) => return Poll::Ready(Err(NoHead::Limit)),
            Poll::Ready(Err(SendError::Pod(error))) if !self.upload.was_begun() => {
                return Poll::Ready(Err(NoHead::Connection(error)));
            }
            // The pod has closed with some of the request unread, and may have answered first (413): its answer is
            // still to be read.
            Poll::Ready(Err(SendError::Pod(_))) => self.upload.abandon(),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        loop {
            let more = ready!(socket::poll_receive(self.lease.stream(), cx, HEAD_READ)).map_err(NoHead::Connection)?;
            if more.is_empty() {
                return Poll::Ready(Err(NoHead::Connection(io::ErrorKind::UnexpectedEof.into())));
            }
            // Between two ends of a line there is nothing new to be understood.
            let worth_a_look = more.contains(&b'\n');
            self.received = append(std::mem::take(&mut self.received), more);
            if worth_a_look && let Some(mut head) = final_head(&mut self.received, method, map).map_err(NoHead::Head)? {
                if !reject::is_switch(head.status) {
                    self.lease.keep_alive();
                }
                self.body = std::mem::replace(&mut head.body, Decoder::EMPTY);
                self.keep_alive = head.keep_alive;
                return Poll::Ready(Ok(head));
            }
            if self.received.len() >= MAX_HEAD {
                return Poll::Ready(Err(NoHead::TooLong));
            }
        }
    }

    /// The connection it takes place on.
    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whether the request has gone, or been given up.
    pub(super) fn has_sent(&self) -> bool {
        self.upload.is_complete()
    }

    /// Whether the pod has answered and takes no more of the request, of which the client has more to send.
    pub(super) fn turns_the_rest_away(&self) -> bool {
        (!self.keep_alive || self.upload.was_abandoned()) && self.upload.has_untaken()
    }

    /// Sends more of the request while the response is under way. Ready when it has gone, or the pod wants no more of it.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match ready!(self.poll_send(cx)) {
            Ok(()) => {}
            Err(SendError::Client(error)) => return Poll::Ready(Err(Broken::Upload(error))),
            Err(SendError::Gone(error)) => return Poll::Ready(Err(Broken::Gone(error))),
            Err(SendError::TooLarge) => return Poll::Ready(Err(Broken::Limit)),
            Err(SendError::Pod(_)) => self.upload.abandon(),
        }
        Poll::Ready(Ok(()))
    }

    /// When the request will have waited for too long while the response is under way, and for whom, as things are `now`.
    ///
    /// The pod is the one who is slow where it neither takes nor sends anything. While nobody asks for more of its answer, it
    /// may wait for its client in turn, which has a limit of its own (`--write-stall`); from then on it has all of its time.
    pub(super) fn upload_deadline(&self, now: Instant) -> (Instant, Broken) {
        let moved = self.upload.moved().unwrap_or(now);
        match self.upload.awaits_client() {
            true => (moved + self.patience.request_body, Broken::SlowUpload),
            false => (self.awaited.unwrap_or(now).max(moved) + self.patience.response, Broken::Stalled),
        }
    }

    /// The next piece of the response body; `None` at its end. Sends nothing: where the request has not gone, `duplex.rs`
    /// sees to it.
    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, Broken>>> {
        loop {
            if let Some(part) = self.body.decode(&mut self.received).map_err(Broken::Body).transpose() {
                return Poll::Ready(Some(part));
            }
            if self.body.is_done() {
                return Poll::Ready(None);
            }
            self.received = match self.poll_receive(cx) {
                Poll::Ready(received) => received.map_err(Broken::Connection)?,
                Poll::Pending => return self.poll_stalled(cx).map(|()| Some(Err(Broken::Stalled))),
            };
            self.awaited = None;
            if self.received.is_empty() {
                self.body.close().map_err(Broken::Body)?;
            }
        }
    }

    /// Ready when nothing more has come of the response for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let patience = self.patience.response_body;
        if patience.is_none() && self.upload.is_complete() {
            return Poll::Pending;
        }
        let since = *self.awaited.get_or_insert_with(Instant::now);
        // Amid the request there is a limit without that, which who sends it sees to (`duplex.rs`).
        patience.map_or(Poll::Pending, |patience| self.lease.poll_deadline(cx, since + patience))
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        self.lease.limit_buffers();
        let certain = self.body.certain();
        if certain >= LARGE {
            let length = usize::try_from(certain).unwrap_or(BUFFER);
            return socket::poll_receive_large(self.lease.stream(), cx, length);
        }
        socket::poll_receive(self.lease.stream(), cx, BUFFER)
    }

    /// Whether the response body is over.
    pub(super) fn is_over(&self) -> bool {
        self.body.is_done()
    }

    /// How long the response body still is, where that was announced.
    pub(super) fn length(&self) -> Option<u64> {
        self.body.length()
    }

    /// The response is over: the connection goes back to the pool, unless it ends with this exchange or carries
    /// something that nobody asked for.
    pub(super) fn finish(mut self: Box<Self>, downstream: &Rc<Downstream>) {
        if self.upload.is_complete() {
            self.lease.resets = false;
        }
        if !self.keep_alive || self.upload.was_abandoned() || !self.received.is_empty() {
            return self.leave(downstream);
        }
        if self.upload.is_complete() {
            return self.lease.into_lease().give_back();
        }
        // The pod has answered without waiting for the rest of the request, and may still want it. But a pod that says
        // something more after that would say it to the next request: the connection carries no other.
        let hold = downstream.hold();
        let downstream = Rc::clone(downstream);
        let now = Instant::now();
        tokio::task::spawn_local(async move {
            let sent = poll_fn(|cx| match self.poll_send(cx) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => self.poll_overdue(now, cx).map(|_| ()),
            });
            sent.await; // however it ends, so does the connection
            self.lease.resets = !self.upload.is_complete();
            self.leave(&downstream);
            drop(hold);
        });
    }

    /// Closes the connection. The client has its answer, and where not all of its request has been taken, it may be sending
    /// on: hyper ends its connection as soon as the body is dropped.
    fn leave(self: Box<Self>, downstream: &Downstream) {
        if self.upload.has_untaken() {
            downstream.end_with(Ending::Unread);
        }
    }

    /// The raw connection after a switch of protocols, what came of the new one already, and what counts it.
    pub(super) fn into_tunnel(self: Box<Self>) -> (TcpStream, Bytes, PodShare) {
        let Self { lease, received, .. } = *self;
        let (stream, kept) = lease.into_lease().into_stream();
        (stream, received, kept)
    }
}

/// Both in one piece. What has been received grows in place, so that a head in many pieces is not copied for each.
fn append(received: Bytes, more: Bytes) -> Bytes {
    if received.is_empty() {
        return more;
    }
    let mut grown = received.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    grown.extend_from_slice(&more);
    grown.freeze()
}

/// The first head in `received` that is an answer, taken out of it. Interim ones are not passed on: hyper's server
/// cannot send them (crate documentation, deviations).
fn final_head(received: &mut Bytes, method: &Method, map: &mut HeaderMap) -> Result<Option<Head>, HeadError> {
    while let Some((head, length)) = response::parse(received, method, map)? {
        *received = received.split_off(length);
        if !head.status.is_informational() || reject::is_switch(head.status) {
            return Ok(Some(head));
        }
        map.clear();
    }
    Ok(None)
}

impl fmt::Display for NoHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) => write!(f, "the connection failed: {error}"),
            Self::Head(HeadError::Malformed) => f.write_str("the response head is malformed"),
            Self::Head(HeadError::TooManyFields) => f.write_str("the response has more than 100 header fields"),
            Self::Head(HeadError::Framing) => f.write_str("the response is framed ambiguously"),
            Self::TooLong => f.write_str("the response head is longer than 64 KiB"),
            Self::Timeout => f.write_str("--response-timeout is over"),
            Self::Upload(error) => write!(f, "the client's body is malformed: {error}"),
            Self::Gone(error) => write!(f, "the client has gone: {error}"),
            Self::SlowUpload => f.write_str("--request-body-idle is over"),
            Self::Limit => f.write_str("the client's body is longer than --max-body"),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) => write!(f, "the pod's connection failed: {error}"),
            Self::Body(BodyError::CutOff) => f.write_str("the pod closed the connection within its response"),
            Self::Body(BodyError::Chunk) => f.write_str("the pod's chunked coding is broken"),
            Self::Body(BodyError::TooLarge) => f.write_str("the pod's chunk extensions or trailers are too large"),
            Self::Stalled => f.write_str("--response-body-idle, or --response-timeout amid the request, is over"),
            Self::Limit => f.write_str("the client's body is longer than --max-body"),
            Self::Upload(error) => write!(f, "the client's body is malformed: {error}"),
            Self::Gone(error) => write!(f, "the client has gone: {error}"),
            Self::SlowUpload => f.write_str("--request-body-idle is over"),
        }
    }
}

impl std::error::Error for Broken {}

#[cfg(test)]
mod tests;
