//! The bodies that pass through: streamed frame by frame, counted, never collected.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::record::Record;
use super::upstream::Lease;

/// A response body on its way to the client.
///
/// Dropped before its end, when the client has gone, it takes the pod's connection with it: that is how the pod learns
/// of the abort (Engine.IO depends on it), and why a half-read response can never reach another request.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    record: Record,
}

#[derive(Debug)]
enum Source {
    /// The router's own answer.
    Own(Full<Bytes>),
    /// A pod's, and the connection it comes on.
    Pod { incoming: Incoming, lease: Option<Lease> },
}

/// A request body on its way to the pod.
#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: Incoming,
    upload: Rc<Upload>,
}

/// How far a request body has come; read by whoever waits for the response.
#[derive(Debug)]
pub(super) struct Upload {
    /// When it last moved.
    pub(super) moved: Cell<Instant>,
    /// Bytes handed on.
    pub(super) bytes: Cell<u64>,
}

// === impl ResponseBody ===

impl ResponseBody {
    /// An answer of the router's own.
    pub(super) fn own(bytes: Bytes, record: Record) -> Self {
        let mut body = Self { source: Source::Own(Full::new(bytes)), record };
        if body.is_end_stream() {
            body.end();
        }
        body
    }

    /// A pod's answer. The connection goes back to the pool when the body has ended cleanly.
    pub(super) fn from_pod(incoming: Incoming, lease: Lease, record: Record) -> Self {
        let mut body = Self { source: Source::Pod { incoming, lease: Some(lease) }, record };
        if body.is_end_stream() {
            body.end();
        }
        body
    }

    /// The body has ended as it should.
    fn end(&mut self) {
        self.record.complete();
        if let Source::Pod { lease, .. } = &mut self.source {
            lease.take().into_iter().for_each(Lease::give_back);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.source {
            Source::Own(full) => {
                ready!(Pin::new(full).poll_frame(cx)).map(|frame| frame.map_err(|never| match never {}))
            }
            Source::Pod { incoming, .. } => ready!(Pin::new(incoming).poll_frame(cx)),
        };
        match &frame {
            Some(Ok(frame)) => this.record.sent(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => this.record.broken_by_pod(),
            None => {}
        }
        // Nobody asks again after trailers, or after the last of a known length.
        let over = frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
        if over || this.is_end_stream() {
            this.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(full) => full.is_end_stream(),
            Source::Pod { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(full) => full.size_hint(),
            Source::Pod { incoming, .. } => incoming.size_hint(),
        }
    }
}

// === impl RequestBody ===

impl RequestBody {
    /// Wraps a request body and gives the handle to watch it by.
    pub(super) fn new(incoming: Incoming, now: Instant) -> (Self, Rc<Upload>) {
        let upload = Rc::new(Upload { moved: Cell::new(now), bytes: Cell::new(0) });
        (Self { incoming, upload: Rc::clone(&upload) }, upload)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.incoming).poll_frame(cx));
        this.upload.moved.set(Instant::now());
        match frame {
            Some(Ok(frame)) if frame.is_data() => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                this.upload.bytes.set(this.upload.bytes.get() + length);
                Poll::Ready(Some(Ok(frame)))
            }
            // Trailers stop here: a field that was checked in the head could come back in them (RFC 9110 section
            // 6.5.1; traefik pull request 13822).
            Some(Ok(_)) | None => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
