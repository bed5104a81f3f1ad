//! The response bodies that pass through: streamed frame by frame, counted, never collected.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use super::exchange::{Broken, Exchange};
use super::record::Record;
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
        let mut body = Self { source: Source::Pod(exchange), record, broken: None };
        body.end_if_over();
        body
    }

    /// Nobody asks again after trailers, or after the last of a known length: the end is noticed where it happens.
    fn end_if_over(&mut self) {
        if !self.is_end_stream() {
            return;
        }
        self.record.complete();
        if let Source::Pod(exchange) = std::mem::replace(&mut self.source, Source::Own(Full::default())) {
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
            Broken::Upload(_) => {}
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
            Source::Pod(exchange) => match ready!(exchange.poll_part(cx)) {
                Some(Ok(Part::Data(data))) => Some(Ok(Frame::data(data))),
                Some(Ok(Part::Trailers(fields))) => Some(Ok(Frame::trailers(fields))),
                Some(Err(error)) => return this.break_off(error, cx),
                None => None,
            },
        };
        if let Some(Ok(frame)) = &frame {
            this.record.sent(frame.data_ref().map_or(0, Bytes::len));
        }
        this.end_if_over();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(full) => full.is_end_stream(),
            Source::Pod(exchange) => exchange.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(full) => full.size_hint(),
            Source::Pod(exchange) => exchange.length().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
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
