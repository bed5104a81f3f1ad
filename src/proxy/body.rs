//! The response bodies that pass through: streamed frame by frame, counted, never collected.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use super::duplex::Duplex;
use super::exchange::{Broken, Exchange};
use super::record::Record;
use super::reject::{BODY_TOO_LARGE, BROKEN_BODY};
use crate::core::wire::Part;

/// A response body on its way to the client. Dropped before its end, when the client has gone, it takes the exchange
/// and the pod's connection with it.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    record: Box<Record>,
    broken: Option<Broken>,
}

#[derive(Debug)]
enum Source {
    /// Bytes at hand: the router's own answer, or nothing.
    Own(Full<Bytes>),
    /// A pod's.
    Pod(Box<Exchange>),
    /// A pod's that has begun before the request has gone.
    Early(Duplex),
}

/// Why a body broke off before its end; the connection to the client is then closed.
#[derive(Debug)]
pub struct BrokenBody(Broken);

impl ResponseBody {
    /// An answer of the router's own.
    pub(super) fn own(bytes: Bytes, record: Box<Record>) -> Self {
        let mut body = Self { source: Source::Own(Full::new(bytes)), record, broken: None };
        body.end_if_over();
        body
    }

    /// A pod's answer. The connection goes back to the pool when the body has ended cleanly.
    pub(super) fn from_pod(exchange: Box<Exchange>, record: Box<Record>) -> Self {
        record.begin_body(exchange.length());
        // What is over at once is finished as it is.
        let early = !exchange.has_sent() && !exchange.is_over();
        let source = if early { Source::Early(Duplex::start(exchange)) } else { Source::Pod(exchange) };
        let mut body = Self { source, record, broken: None };
        body.end_if_over();
        body
    }

    /// Nobody asks again after trailers, or after the last of a known length: the end is noticed where it happens.
    fn end_if_over(&mut self) {
        if !self.is_end_stream() {
            return;
        }
        self.record.complete();
        let exchange = match std::mem::replace(&mut self.source, Source::Own(Full::default())) {
            Source::Own(_) => None,
            Source::Pod(exchange) => Some(exchange),
            Source::Early(duplex) => duplex.into_exchange(),
        };
        if let Some(exchange) = exchange {
            exchange.finish(self.record.downstream());
        }
    }
}

impl ResponseBody {
    /// The body cannot go on. hyper drops what it has not yet written as soon as it hears of it, so it hears of it
    /// at its next turn: what the pod did send reaches the client.
    fn break_off<T>(&mut self, broken: Broken, cx: &mut Context<'_>) -> Poll<T> {
        tracing::debug!(%broken, "a response broke off");
        match broken {
            Broken::Connection(_) | Broken::Body(_) => self.record.broken_by_pod(),
            Broken::Stalled => self.record.cut("pod-stalled"),
            Broken::Limit => self.record.cut(BODY_TOO_LARGE.code),
            Broken::SlowUpload => self.record.cut("slow-body"),
            Broken::Upload(_) => self.record.cut(BROKEN_BODY.code),
            Broken::Gone(_) => {}
        }
        self.broken = Some(broken);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let this = self.get_mut();
        if let Some(broken) = this.broken.take() {
            return Poll::Ready(Some(Err(BrokenBody(broken))));
        }
        let frame = match &mut this.source {
            Source::Own(full) => {
                ready!(Pin::new(full).poll_frame(cx)).map(|frame| frame.map_err(|never| match never {}))
            }
            Source::Pod(exchange) => ready!(exchange.poll_part(cx)).map(|part| part.map(into_frame)),
            Source::Early(duplex) => ready!(duplex.poll_part(cx)).map(|part| part.map(into_frame)),
        };
        let frame = match frame.transpose() {
            Ok(frame) => frame,
            Err(broken) => return this.break_off(broken, cx),
        };
        if let Some(frame) = &frame {
            this.record.sent(frame.data_ref().map_or(0, Bytes::len));
        }
        this.end_if_over();
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(full) => full.is_end_stream(),
            Source::Pod(exchange) => exchange.is_over(),
            Source::Early(duplex) => duplex.exchange().is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let length = match &self.source {
            Source::Own(full) => return full.size_hint(),
            Source::Pod(exchange) => exchange.length(),
            Source::Early(duplex) => duplex.exchange().length(),
        };
        length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn into_frame(part: Part) -> Frame<Bytes> {
    match part {
        Part::Data(data) => Frame::data(data),
        Part::Trailers(fields) => Frame::trailers(fields),
    }
}

impl std::fmt::Display for BrokenBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for BrokenBody {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}
