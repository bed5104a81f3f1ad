//! What is known of one request, written down once: the metrics and the access line, when the record is dropped.
//!
//! Dropping is the one thing that happens to every request, however it ends, so nothing can be forgotten. What must
//! not be written is left out here: no query string and no path parameter (they carry `sid`s and tokens), no header value
//! but the request id.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode, Uri, Version};

use super::client::{Downstream, Ending};
use super::upload::Progress;
use crate::core::path;
use crate::core::room::RoomId;
use crate::drain::Roster;
use crate::metrics::{Met, Metrics, code_label, seconds};

/// Counted for a request whose client went away before there was an answer; nginx's number for it.
const CLIENT_GONE: u16 = 499;

/// Counted for a request that the router itself cut off before there was an answer; nginx's number for a connection that
/// it closes without one.
pub(super) const CUT_OFF: u16 = 444;

/// What kind of exchange a request became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
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

/// Where the records of one thread are counted.
#[derive(Debug)]
pub(super) struct Ledger {
    metrics: Arc<Metrics>,
    /// Knows when what is left is cut off.
    roster: Rc<Roster>,
    requests: Met<(RequestKind, RouteSource, &'static str)>,
    /// `--log-sample`.
    log_sample: f64,
}

/// One request's record. Boxed, because it accompanies the request from its head to the end of the response's body.
#[derive(Debug)]
pub(super) struct Record {
    ledger: Rc<Ledger>,
    started: Instant,
    /// When it was known where the request goes, where that had to be waited for.
    routed: Option<Instant>,
    /// When the response head was ready.
    answered: Option<(Instant, StatusCode)>,
    downstream: Rc<Downstream>,
    /// Its address, as far as the peer is to be believed.
    client: IpAddr,
    version: Version,
    method: Method,
    target: Uri,
    request_id: HeaderValue,
    /// The kind of exchange.
    pub(super) exchange: RequestKind,
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
    pub(super) fn open(
        ledger: &Rc<Ledger>,
        started: Instant,
        downstream: &Rc<Downstream>,
        client: IpAddr,
        head: &http::request::Parts,
        request_id: HeaderValue,
    ) -> Box<Self> {
        downstream.begin();
        Box::new(Self {
            ledger: Rc::clone(ledger),
            started,
            routed: None,
            answered: None,
            downstream: Rc::clone(downstream),
            client,
            version: head.version,
            method: head.method.clone(),
            target: head.uri.clone(),
            request_id,
            exchange: RequestKind::Http,
            source: RouteSource::None,
            room: None,
            pod: None,
            error: None,
            upload: None,
            bytes_out: 0,
            complete: false,
        })
    }

    /// When the request's head had been read.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Where the request goes is known only now.
    pub(super) fn route_awaited(&mut self) {
        self.routed = Some(Instant::now());
    }

    /// When it was known where the request goes.
    pub(super) fn routed(&self) -> Instant {
        self.routed.unwrap_or(self.started)
    }

    /// The client's address, as far as the peer is to be believed.
    pub(super) fn client(&self) -> IpAddr {
        self.client
    }

    /// The query of the request.
    pub(super) fn query(&self) -> &str {
        self.target.query().unwrap_or_default()
    }

    /// The connection it came on.
    pub(super) fn downstream(&self) -> &Rc<Downstream> {
        &self.downstream
    }

    /// The version that the client speaks.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// The request's id.
    pub(super) fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    /// The connection ends with this request, and more of it may be on its way.
    pub(super) fn linger(&self) {
        self.downstream.end_with(Ending::Unread);
    }

    /// The response head is ready.
    pub(super) fn answer(&mut self, status: StatusCode) {
        let now = Instant::now();
        self.answered = Some((now, status));
        self.ledger.metrics.request_duration.observe(seconds(now - self.started));
    }

    /// When it was, or else the request had been read.
    pub(super) fn answered(&self) -> Instant {
        self.answered.map_or(self.started, |(at, _)| at)
    }

    /// Bytes of the response body were handed on.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// A response body begins. To HTTP/1.0 one of no known length is over when the connection is (RFC 9112 section 6.3):
    /// until it is complete, that must not be an orderly end.
    pub(super) fn begin_body(&self, length: Option<u64>) {
        if self.version < Version::HTTP_11 && length.is_none() {
            self.downstream.end_with(Ending::CutShort);
        }
    }

    /// The response body has ended as it should.
    pub(super) fn complete(&mut self) {
        self.complete = true;
        if self.version < Version::HTTP_11 {
            self.downstream.is_not_cut_short();
        }
    }

    /// The exchange is cut off, for this reason.
    pub(super) fn cut(&mut self, reason: &'static str) {
        self.error = Some(reason);
        self.ledger.metrics.rejected.with_label_values(&[reason]).inc();
    }

    /// The pod broke its response off.
    pub(super) fn broken_by_pod(&mut self) {
        self.error = Some("pod-broke-off");
    }
}

impl Ledger {
    /// A thread's ledger.
    pub(super) fn new(metrics: Arc<Metrics>, roster: Rc<Roster>, log_sample: f64) -> Rc<Self> {
        Rc::new(Self { metrics, roster, requests: Met::default(), log_sample })
    }

    fn count(&self, exchange: RequestKind, source: RouteSource, code: u16) {
        let code = code_label(code);
        self.requests.inc((exchange, source, code), || {
            let labels = [exchange.as_str(), code, source.as_str()];
            self.metrics.requests.with_label_values(&labels)
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = Instant::now();
        self.downstream.end(now);
        let cut = self.downstream.cut().or(self.ledger.roster.is_cut().then_some("drain-timeout"));
        let unanswered = if cut.is_some() { CUT_OFF } else { CLIENT_GONE };
        let status = self.answered.map_or(unanswered, |(_, status)| status.as_u16());
        self.ledger.count(self.exchange, self.source, status);
        let broken = (!self.complete).then(|| cut.unwrap_or("client-gone"));
        let error = self.error.or(broken);
        let failed = error.is_some() || status >= 400;
        if !failed && self.ledger.log_sample < 1.0 && fastrand::f64() >= self.ledger.log_sample {
            return;
        }
        tracing::info!(
            target: "pod_router::access",
            request_id = self.request_id.to_str().unwrap_or_default(),
            kind = self.exchange.as_str(),
            method = self.method.as_str(),
            path = &*path::loggable(self.target.path()),
            status,
            room = self.room.as_ref().map(RoomId::as_str),
            pod = self.pod.as_deref(),
            source = self.source.as_str(),
            error,
            head_ms = self.answered.map(|(at, _)| millis(at - self.started)),
            duration_ms = millis(now - self.started),
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

impl RequestKind {
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
