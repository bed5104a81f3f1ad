//! Connections to pods: dial, keep, reuse, evict.
//!
//! One [`Pool`] per worker thread, so nothing here is locked or shared. A connection carries one exchange at a time and
//! is kept only after an exchange that ended cleanly (a [`Lease`] that was not given back closes its connection). Idle
//! ones go last in, first out, live shorter than Node's 5 s keep-alive, and all of a pod's are dropped when one fails:
//! its pod has probably gone.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;

use super::body::{RequestBody, Upload};
use super::dns::Dns;
use super::socket::PodSocket;
use crate::config::UpstreamConfig;
use crate::core::address::HostPort;
use crate::core::decision::{Failure, Stage};
use crate::metrics::{Held, Metrics, PodMetrics};

/// The longest response head, and with it the read buffer of a connection.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// How often idle connections past their time are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// After a failed dial, others to the same pod fail alike for this long instead of dialling too.
const DIAL_PAUSE: Duration = Duration::from_millis(20);

/// The connections of one worker thread, by pod.
#[derive(Debug)]
pub(super) struct Pool {
    config: UpstreamConfig,
    dns: Dns,
    metrics: Arc<Metrics>,
    /// By pod name, or `host:port` of a default backend: bounded by the pods and backends there are.
    endpoints: RefCell<HashMap<Arc<str>, Rc<Endpoint>>>,
}

/// A pod or a default-backend address, and the connections to it.
#[derive(Debug)]
pub(super) struct Endpoint {
    name: Arc<str>,
    address: HostPort,
    metrics: PodMetrics,
    /// The oldest first.
    idle: RefCell<Vec<Idle>>,
    last_failure: Cell<Option<(Instant, Failure)>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<RequestBody>,
    socket: PodSocket,
}

/// A connection while it carries an exchange.
#[derive(Debug)]
pub(super) struct Lease {
    endpoint: Rc<Endpoint>,
    connection: Connection,
    idle_timeout: Duration,
    reused: bool,
}

/// A failed attempt, and the request where nothing of it was sent.
#[derive(Debug)]
pub(super) struct Unanswered {
    /// What happened.
    pub(super) failure: Failure,
    /// The request, to be sent again.
    pub(super) request: Option<Request<RequestBody>>,
}

// === impl Pool ===

impl Pool {
    /// An empty pool.
    pub(super) fn new(config: UpstreamConfig, dns: Dns, metrics: Arc<Metrics>) -> Rc<Self> {
        Rc::new(Self { config, dns, metrics, endpoints: RefCell::default() })
    }

    /// The endpoint with this name, made at first sight.
    pub(super) fn endpoint(&self, name: &str, address: impl FnOnce() -> HostPort) -> Rc<Endpoint> {
        if let Some(known) = self.endpoints.borrow().get(name) {
            return Rc::clone(known);
        }
        let made = Rc::new(Endpoint {
            name: name.into(),
            address: address(),
            metrics: self.metrics.pod(name),
            idle: RefCell::default(),
            last_failure: Cell::new(None),
        });
        self.endpoints.borrow_mut().insert(Arc::clone(&made.name), Rc::clone(&made));
        made
    }

    /// A connection to the endpoint: a kept one that is still good, else a new one.
    ///
    /// # Errors
    ///
    /// [`Stage::Resolve`] or [`Stage::Connect`]; nothing was sent.
    pub(super) async fn lease(&self, endpoint: &Rc<Endpoint>) -> Result<Lease, Failure> {
        let idle_timeout = self.config.idle;
        if let Some(connection) = endpoint.take_idle(Instant::now(), idle_timeout) {
            return Ok(Lease { endpoint: Rc::clone(endpoint), connection, idle_timeout, reused: true });
        }
        let connection = self.dial(endpoint).await?;
        Ok(Lease { endpoint: Rc::clone(endpoint), connection, idle_timeout, reused: false })
    }

    async fn dial(&self, endpoint: &Rc<Endpoint>) -> Result<Connection, Failure> {
        if let Some((at, failure)) = endpoint.last_failure.get().filter(|(at, _)| at.elapsed() < DIAL_PAUSE) {
            tracing::trace!(pod = &*endpoint.name, since = ?at.elapsed(), "not dialled again so soon");
            return Err(failure);
        }
        let dialled = self.try_dial(endpoint).await;
        if let Err(failure) = dialled {
            endpoint.last_failure.set(Some((Instant::now(), failure)));
            endpoint.metrics.connect_failures.inc();
            self.evict(endpoint);
        }
        dialled
    }

    async fn try_dial(&self, endpoint: &Rc<Endpoint>) -> Result<Connection, Failure> {
        let failed = |stage, error: &dyn std::error::Error, timed_out| {
            tracing::debug!(pod = &*endpoint.name, address = %endpoint.address, %error, ?stage, "pod not reached");
            Failure { stage, sent: false, timed_out }
        };
        let addresses =
            self.dns.resolve(&endpoint.address).await.map_err(|error| failed(Stage::Resolve, &error, false))?;
        let socket = PodSocket::connect(&addresses, self.config.connect_timeout)
            .await
            .map_err(|error| failed(Stage::Connect, &error, error.kind() == std::io::ErrorKind::TimedOut))?;
        let (sender, connection) = Builder::new()
            .max_header_size(MAX_RESPONSE_HEAD) // hyper's default: none
            .max_buf_size(MAX_RESPONSE_HEAD) // hyper's default: about 400 KiB
            .max_headers(100) // hyper's default
            .writev(true) // hyper's default: decided by the socket
            .handshake(TokioIo::new(socket.clone()))
            .await
            .map_err(|error| failed(Stage::Connect, &error, false))?;
        let held = Held::new(&endpoint.metrics.connections);
        let weak = Rc::downgrade(endpoint);
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a pod ended");
            }
            drop(held);
            // What is closed holds a file descriptor for as long as it is kept.
            weak.upgrade().into_iter().for_each(|endpoint| endpoint.drop_closed());
        });
        Ok(Connection { sender, socket })
    }

    /// Drops everything that is known of the way to this endpoint, after a connection to it failed.
    pub(super) fn evict(&self, endpoint: &Endpoint) {
        endpoint.idle.borrow_mut().clear();
        self.dns.forget(&endpoint.address);
    }

    /// Closes idle connections when their time has come, for as long as the pool lives.
    pub(super) fn sweep_forever(self: &Rc<Self>) -> impl Future<Output = ()> + use<> {
        let pool: Weak<Self> = Rc::downgrade(self);
        async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(pool) = pool.upgrade() else {
                    return;
                };
                let now = Instant::now();
                for endpoint in pool.endpoints.borrow().values() {
                    endpoint.idle.borrow_mut().retain(|idle| idle.is_young(now, pool.config.idle));
                }
            }
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// The pod's name, or the default backend's address.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What is counted for it.
    pub(super) fn metrics(&self) -> &PodMetrics {
        &self.metrics
    }

    /// The youngest idle connection that is still good; the others are older, so at the first that is too old all go.
    fn take_idle(&self, now: Instant, timeout: Duration) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(candidate) = idle.pop() {
            if !candidate.is_young(now, timeout) {
                idle.clear();
                return None;
            }
            if candidate.connection.sender.is_ready() && candidate.connection.socket.is_quiet() {
                return Some(candidate.connection);
            }
        }
        None
    }

    fn drop_closed(&self) {
        self.idle.borrow_mut().retain(|idle| !idle.connection.sender.is_closed());
    }
}

impl Idle {
    fn is_young(&self, now: Instant, timeout: Duration) -> bool {
        now.saturating_duration_since(self.since) < timeout
    }
}

// === impl Lease ===

impl Lease {
    /// The endpoint this connection leads to.
    pub(super) fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }

    /// Sends the request and waits for the response head. The response timeout runs from the last movement of the
    /// request body: a long upload is no silence of the pod's.
    ///
    /// # Errors
    ///
    /// What happened, and the request back where nothing of it left this process.
    pub(super) async fn exchange(
        mut self,
        request: Request<RequestBody>,
        upload: &Upload,
        response_timeout: Duration,
    ) -> Result<(Response<Incoming>, Self), Unanswered> {
        upload.moved.set(Instant::now());
        let mut answer = std::pin::pin!(self.connection.sender.try_send_request(request));
        let result = loop {
            let deadline = upload.moved.get() + response_timeout;
            match tokio::time::timeout_at(deadline.into(), &mut answer).await {
                Ok(result) => break result,
                Err(_) if upload.moved.get() + response_timeout > Instant::now() => {}
                Err(_) => {
                    let failure = Failure { stage: Stage::Head, sent: true, timed_out: true };
                    return Err(Unanswered { failure, request: None });
                }
            }
        };
        result.map(|response| (response, self)).map_err(|mut error| {
            let request = error.take_message();
            tracing::debug!(error = %error.error(), unsent = request.is_some(), "no answer from the pod");
            let stage = if request.is_some() { Stage::Send } else { Stage::Head };
            Unanswered { failure: Failure { stage, sent: request.is_none(), timed_out: false }, request }
        })
    }

    /// Whether the connection had carried an exchange before.
    pub(super) fn was_reused(&self) -> bool {
        self.reused
    }

    /// Keeps the connection for the next request, once it is ready for one. Called when an exchange has ended cleanly.
    pub(super) fn give_back(self) {
        if self.connection.sender.is_closed() {
            return;
        }
        if self.connection.sender.is_ready() {
            return self.keep();
        }
        // The response has ended before the request body has, or hyper has not been polled since.
        tokio::task::spawn_local(async move {
            let mut lease = self;
            let ready = tokio::time::timeout(lease.idle_timeout, lease.connection.sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                lease.keep();
            }
        });
    }

    fn keep(self) {
        let idle = Idle { connection: self.connection, since: Instant::now() };
        self.endpoint.idle.borrow_mut().push(idle);
    }
}
