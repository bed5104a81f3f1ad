//! What is known of one request, written down once: the metrics and the access line, when the record is dropped.
//!
//! Dropping is the one thing that happens to every request, however it ends, so nothing can be forgotten. What must
//! not be written is left out here: no query string (it carries `sid`s and tokens), no header value but the request id.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode, Uri};

use super::upload::Progress;
use crate::core::room::RoomId;
use crate::metrics::{Metrics, seconds};

/// Counted for a request whose client went away before there was an answer; nginx's number for it.
const CLIENT_GONE: &str = "499";

/// What kind of exchange a request became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    /// Request and response.
    Http,
    /// A WebSocket handshake, whatever came of it.
    WebSocket,
    /// A page load that was redirected.
    Redirect,
}

/// What decided where a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RouteSource {
    /// Its room.
    Room,
    /// The default backend.
    Default,
    /// Nothing: it was answered before that.
    None,
}

/// One request's record.
#[derive(Debug)]
pub(super) struct Record {
    metrics: Arc<Metrics>,
    started: Instant,
    /// When the response head was ready.
    answered: Option<(Instant, StatusCode)>,
    client: IpAddr,
    method: Method,
    target: Uri,
    request_id: HeaderValue,
    /// The kind of exchange.
    pub(super) exchange: Exchange,
    /// What decided the route.
    pub(super) source: RouteSource,
    /// The room, if one was named.
    pub(super) room: Option<RoomId<'static>>,
    /// The pod or default-backend address that was chosen last.
    pub(super) pod: Option<Arc<str>>,
    /// The code of the router's own answer, or of what cut the exchange short.
    pub(super) error: Option<&'static str>,
    /// The request body's progress, if there is a body.
    pub(super) upload: Option<Rc<Progress>>,
    bytes_out: u64,
    complete: bool,
}

impl Record {
    /// Opens the record of a request.
    pub(super) fn new(
        metrics: Arc<Metrics>,
        started: Instant,
        client: IpAddr,
        head: &http::request::Parts,
        request_id: HeaderValue,
    ) -> Self {
        Self {
            metrics,
            started,
            answered: None,
            client,
            method: head.method.clone(),
            target: head.uri.clone(),
            request_id,
            exchange: Exchange::Http,
            source: RouteSource::None,
            room: None,
            pod: None,
            error: None,
            upload: None,
            bytes_out: 0,
            complete: false,
        }
    }

    /// The request's id.
    pub(super) fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    /// The response head is ready.
    pub(super) fn answer(&mut self, status: StatusCode) {
        let now = Instant::now();
        self.answered = Some((now, status));
        self.metrics.request_duration.observe(seconds(now - self.started));
    }

    /// Bytes of the response body were handed on.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// The response body has ended as it should.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// The pod broke its response off.
    pub(super) fn broken_by_pod(&mut self) {
        self.error = Some("pod-broke-off");
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let code = self.answered.as_ref().map_or(CLIENT_GONE, |(_, status)| status.as_str());
        let labels = [self.exchange.as_str(), code, self.source.as_str()];
        self.metrics.requests.with_label_values(&labels).inc();
        let client_gone = (!self.complete).then_some("client-gone");
        tracing::info!(
            target: "pod_router::access",
            request_id = self.request_id.to_str().unwrap_or_default(),
            kind = self.exchange.as_str(),
            method = self.method.as_str(),
            path = self.target.path(),
            status = self.answered.map_or(499, |(_, status)| status.as_u16()),
            room = self.room.as_ref().map(RoomId::as_str),
            pod = self.pod.as_deref(),
            source = self.source.as_str(),
            error = self.error.or(client_gone),
            head_ms = self.answered.map(|(at, _)| millis(at - self.started)),
            duration_ms = millis(self.started.elapsed()),
            bytes_in = self.upload.as_ref().map_or(0, |upload| upload.bytes.get()),
            bytes_out = self.bytes_out,
            client = %self.client,
            "request"
        );
    }
}

/// Milliseconds with microseconds behind the point, for log fields.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

impl Exchange {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::WebSocket => "websocket",
            Self::Redirect => "redirect",
        }
    }
}

impl RouteSource {
    fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Default => "default",
            Self::None => "none",
        }
    }
}
