//! Connections to pods: dial, keep, reuse, evict.
//!
//! One [`Pool`] per worker thread, so nothing here is locked or shared. A connection carries one exchange at a time and
//! is kept only after an exchange that ended cleanly (a [`Lease`] that was not given back closes its connection). Idle
//! ones go last in, first out, live shorter than Node's 5 s keep-alive, and all of a pod's are dropped when one fails:
//! its pod has probably gone. What is said on a connection is `exchange.rs`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::dns::Dns;
use super::socket;
use crate::config::UpstreamConfig;
use crate::core::address::HostPort;
use crate::core::decision::{Failure, Stage};
use crate::metrics::{Held, Met, Metrics, PodMetrics};

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
    /// Whether it has to lie within `--pod-networks`.
    confined: bool,
    metrics: PodMetrics,
    responses: Met<u16>,
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
    stream: TcpStream,
    /// One timer for all exchanges: it is set again only when it fires too early, not for every request.
    timer: Option<Pin<Box<Sleep>>>,
    open: Held,
}

/// A connection while it carries an exchange.
#[derive(Debug)]
pub(super) struct Lease {
    endpoint: Rc<Endpoint>,
    connection: Connection,
    idle_timeout: Duration,
    reused: bool,
}

// === impl Pool ===

impl Pool {
    /// An empty pool.
    pub(super) fn new(config: UpstreamConfig, dns: Dns, metrics: Arc<Metrics>) -> Rc<Self> {
        Rc::new(Self { config, dns, metrics, endpoints: RefCell::default() })
    }

    /// The pod with this name, made at first sight.
    pub(super) fn pod(&self, name: &str, address: impl FnOnce() -> HostPort) -> Rc<Endpoint> {
        self.endpoint(name, address, self.config.pod_networks.is_some())
    }

    /// The default backend at this address. A Service's address is of another range than its pods'.
    pub(super) fn default_backend(&self, address: &HostPort) -> Rc<Endpoint> {
        self.endpoint(&address.to_string(), || address.clone(), false)
    }

    fn endpoint(&self, name: &str, address: impl FnOnce() -> HostPort, confined: bool) -> Rc<Endpoint> {
        if let Some(known) = self.endpoints.borrow().get(name) {
            return Rc::clone(known);
        }
        let made = Rc::new(Endpoint {
            name: name.into(),
            address: address(),
            confined,
            metrics: self.metrics.pod(name),
            responses: Met::default(),
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
    /// [`Stage::Resolve`], [`Stage::Confine`] or [`Stage::Connect`]; nothing was sent.
    pub(super) async fn lease(&self, endpoint: &Rc<Endpoint>, now: Instant) -> Result<Lease, Failure> {
        let idle_timeout = self.config.idle;
        if let Some(connection) = endpoint.take_idle(now, idle_timeout) {
            return Ok(Lease { endpoint: Rc::clone(endpoint), connection, idle_timeout, reused: true });
        }
        // Boxed, as everything that is rare on the request path: a request's future is as large as its largest branch.
        let connection = Box::pin(self.dial(endpoint)).await?;
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
        let mut addresses =
            self.dns.resolve(&endpoint.address).await.map_err(|error| failed(Stage::Resolve, &error, false))?;
        if endpoint.confined {
            addresses = self.within(&addresses);
            if addresses.is_empty() {
                tracing::warn!(pod = &*endpoint.name, address = %endpoint.address, "resolves to nothing within --pod-networks");
                return Err(failed(Stage::Confine, &std::io::Error::from(std::io::ErrorKind::PermissionDenied), false));
            }
        }
        let stream = socket::connect(&addresses, self.config.connect_timeout)
            .await
            .map_err(|error| failed(Stage::Connect, &error, error.kind() == std::io::ErrorKind::TimedOut))?;
        if !socket::is_quiet(&stream) {
            // Accepted and closed at once: a pod that is going down.
            return Err(failed(Stage::Connect, &std::io::Error::from(std::io::ErrorKind::ConnectionReset), false));
        }
        Ok(Connection { stream, timer: None, open: Held::new(&endpoint.metrics.connections) })
    }

    /// Those addresses that lie within `--pod-networks`.
    fn within(&self, addresses: &[SocketAddr]) -> Arc<[SocketAddr]> {
        let networks = self.config.pod_networks.as_deref().unwrap_or_default();
        let inside =
            |address: &&SocketAddr| networks.iter().any(|network| network.contains(&address.ip().to_canonical()));
        addresses.iter().filter(inside).copied().collect()
    }

    /// Drops everything that is known of the way to this endpoint, after a connection to it failed.
    pub(super) fn evict(&self, endpoint: &Endpoint) {
        endpoint.idle.borrow_mut().clear();
        self.dns.forget(&endpoint.address);
    }

    /// Closes idle connections when their time has come or their pod has closed them, for as long as the pool lives.
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
                    endpoint.idle.borrow_mut().retain(|idle| {
                        idle.is_young(now, pool.config.idle) && socket::is_quiet(&idle.connection.stream)
                    });
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

    /// Counts a response.
    pub(super) fn count(&self, status: StatusCode) {
        self.responses.inc(status.as_u16(), || self.metrics.requests(status.as_str()));
    }

    /// Counts a request that got none.
    pub(super) fn count_unanswered(&self) {
        self.metrics.requests("none").inc();
    }

    /// The youngest idle connection that is still good; the others are older, so at the first that is too old all go.
    fn take_idle(&self, now: Instant, timeout: Duration) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(candidate) = idle.pop() {
            if !candidate.is_young(now, timeout) {
                idle.clear();
                return None;
            }
            if socket::is_quiet(&candidate.connection.stream) {
                return Some(candidate.connection);
            }
        }
        None
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

    /// The connection.
    pub(super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.connection.stream
    }

    /// Whether the connection had carried an exchange before.
    pub(super) fn was_reused(&self) -> bool {
        self.reused
    }

    /// How long the connection may idle.
    pub(super) fn idle_timeout(&self) -> Duration {
        self.idle_timeout
    }

    /// Ready when `deadline` has passed.
    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let timer = self.connection.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        loop {
            if timer.deadline() > deadline.into() || timer.is_elapsed() {
                timer.as_mut().reset(deadline.into());
            }
            ready!(timer.as_mut().poll(cx));
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
        }
    }

    /// Keeps the connection for the next request. Called when an exchange has ended cleanly.
    pub(super) fn give_back(self) {
        let idle = Idle { connection: self.connection, since: Instant::now() };
        self.endpoint.idle.borrow_mut().push(idle);
    }

    /// The connection for good, for a tunnel, and what counts it among the open ones.
    pub(super) fn into_stream(self) -> (TcpStream, Held) {
        (self.connection.stream, self.connection.open)
    }
}
