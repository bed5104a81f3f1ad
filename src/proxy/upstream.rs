//! Connections to pods: dial, keep, reuse, evict.
//!
//! One [`Pool`] per worker thread: connections are never shared, but what a pod has to do is counted for all threads
//! together. A connection carries one exchange at a time and is kept only after an exchange that ended cleanly (a [`Lease`]
//! that was not given back closes its connection). Idle ones go last in, first out, live shorter than Node's 5 s keep-alive,
//! and all of a pod's are dropped when one fails: its pod has probably gone. So are those to an address that the pod's name
//! does not lead to any more. What is said on a connection is `exchange.rs`.

mod address;
mod places;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;

pub(super) use self::places::Entered;
use super::endpoint::{Connection, Endpoint, Idle};
use super::nursery::Youth;
use super::queue::{Place, Precedence, Queues};
use super::reach::Reach;
use super::socket::Connected;
use super::upkeep::every_second;
use super::{Commons, socket};
use crate::backends::{Backends, InFlight, Load};
use crate::config::UpstreamConfig;
use crate::core::address::HostPort;
use crate::core::decision::{Failure, Stage};
use crate::dns::{Dns, DnsError};
use crate::metrics::{Held, Met, Metrics};

/// An endpoint that nobody has asked for so long is forgotten: where pods go by their addresses, old ones pile up.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// After a failed dial, others to the same pod fail alike for this long instead of dialling too.
const DIAL_PAUSE: Duration = Duration::from_millis(20);

/// The connections of one worker thread, by pod.
#[derive(Debug)]
pub(super) struct Pool {
    config: UpstreamConfig,
    dns: Dns,
    queues: Queues,
    reach: Reach,
    backends: Arc<Backends>,
    metrics: Arc<Metrics>,
    /// By pod name, or `host:port` of a default backend: bounded by the pods and backends there are, and by
    /// how long one that only a client's `sid` named is [remembered](FORGOTTEN).
    endpoints: RefCell<HashMap<Arc<str>, Rc<Endpoint>>>,
}

/// A connection while it carries an exchange.
#[derive(Debug)]
pub(super) struct Lease {
    busy: Busy,
    connection: Connection,
    reused: bool,
    since: Instant,
}

/// How a pod is dialled, where no kept connection leads there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial<'a> {
    /// The longest that it may take.
    pub(super) timeout: Duration,
    /// That of the client's connection, in whose task it is.
    pub(super) youth: &'a Youth,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoLease {
    /// What happened.
    pub(super) failure: Failure,
    /// Whether it happened to this request, as against another's dial a moment ago.
    pub(super) own: bool,
}

/// A request at a pod, or a tunnel's beginning: counted as in flight, and holding its place, until dropped.
#[derive(Debug)]
struct Busy {
    endpoint: Rc<Endpoint>,
    place: Option<Place>,
    load: InFlight,
    load_at_address: Option<InFlight>,
    _counted: Held,
}

/// What a tunnel keeps of its lease, for its drop.
#[derive(Debug)]
pub(super) struct PodShare {
    _open: Held,
    part: Option<Part>,
}

/// A part of the pod: of its load, by name and by address, and of its places.
#[derive(Debug)]
struct Part {
    _load: (InFlight, Option<InFlight>),
    _place: Option<Place>,
}

// === impl Pool ===

impl Pool {
    /// An empty pool, for the thread whose runtime this is called on.
    pub(super) fn open(config: UpstreamConfig, commons: Commons) -> Rc<Self> {
        let pool = Self::new(config, commons);
        every_second(&pool, Self::sweep);
        pool
    }

    fn new(config: UpstreamConfig, commons: Commons) -> Rc<Self> {
        let Commons { dns, queues, reach, backends, metrics, .. } = commons;
        Rc::new(Self { config, dns, queues, reach, backends, metrics, endpoints: RefCell::default() })
    }

    /// The pod with this name, made at first sight.
    pub(super) fn pod(&self, name: &str, address: impl FnOnce() -> HostPort) -> Rc<Endpoint> {
        let endpoint = self.endpoint(name, address, self.config.pod_networks.is_some(), false);
        self.introduce(&endpoint);
        endpoint
    }

    /// What a backend lists under this name. A Service's address is of another range than its pods'.
    pub(super) fn listed(&self, name: &str, address: &HostPort) -> Rc<Endpoint> {
        self.endpoint(name, || address.clone(), false, false)
    }

    /// A pod that only a client speaks of, in a `sid`: it gets series of its own once it has been reached, or whoever likes
    /// could use up those there may be.
    pub(super) fn stranger(&self, name: &str, address: &HostPort) -> Rc<Endpoint> {
        self.endpoint(name, || address.clone(), self.config.pod_networks.is_some(), true)
    }

    /// Whether the pod has been reached before, or is known from elsewhere than a `sid`.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.metrics.known_pod(name).is_some()
    }

    fn endpoint(
        &self,
        name: &str,
        address: impl FnOnce() -> HostPort,
        confined: bool,
        is_stranger: bool,
    ) -> Rc<Endpoint> {
        if let Some(known) = self.endpoints.borrow().get(name) {
            return Rc::clone(known);
        }
        let name: Arc<str> = name.into();
        let known = if is_stranger { self.metrics.known_pod(&name) } else { Some(self.metrics.pod(&name)) };
        let is_stranger = known.is_none();
        let address = address();
        let made = Rc::new(Endpoint {
            literal: address.ip().map(|ip| [SocketAddr::new(ip, address.port)].into()),
            reached: RefCell::default(),
            addresses: RefCell::default(),
            address,
            confined,
            metrics: known.unwrap_or_else(|| self.metrics.other_pods()),
            own: OnceCell::new(),
            is_stranger,
            load: self.backends.load(&name),
            responses: Met::default(),
            picks: Met::default(),
            queue: RefCell::new(self.queues.of(&name, &self.config)),
            last_used: Cell::new(Instant::now()),
            name,
            idle: RefCell::default(),
            last_failure: Cell::new(None),
        });
        self.endpoints.borrow_mut().insert(Arc::clone(&made.name), Rc::clone(&made));
        made
    }

    /// From now on it has series of its own.
    fn introduce(&self, endpoint: &Endpoint) {
        if endpoint.is_stranger {
            endpoint.own.get_or_init(|| self.metrics.pod(&endpoint.name));
        }
    }

    /// A connection to the endpoint, where the request has `entered`: a kept one that is still good, else a new one. The
    /// address it leads to may have a queue of its own, of which nobody knew before: `who` waits there for what is `left`.
    ///
    /// # Errors
    ///
    /// [`Stage::Queue`], [`Stage::Resolve`], [`Stage::Confine`], [`Stage::Connect`] or [`Stage::Local`]; nothing was sent.
    pub(super) async fn lease(
        &self,
        endpoint: &Rc<Endpoint>,
        entered: Option<Entered>,
        (now, dial): (Instant, Dial<'_>),
        (who, left): (Precedence, &mut Duration),
    ) -> Result<Lease, NoLease> {
        endpoint.last_used.set(now);
        let (place, queue) = entered.map(|entered| (entered.place, entered.queue)).unzip();
        let mut busy = Busy::new(endpoint, place);
        if let Some(connection) = endpoint.take_idle(now, self.config.idle) {
            busy.count_at_address(&connection);
            return Ok(Lease { busy, connection, reused: true, since: now });
        }
        // Boxed, as everything that is rare on the request path: a request's future is as large as its largest branch.
        let connection = Box::pin(self.dial(endpoint, dial)).await?;
        busy.count_at_address(&connection);
        if let (Some(before), Some(now)) = (queue, endpoint.queue())
            && !Arc::ptr_eq(&before, &now)
        {
            busy.place = None;
            let entered = Box::pin(self.enter_first(std::slice::from_ref(endpoint), who, left)).await;
            let (_, entered) = entered.map_err(|failure| NoLease { failure, own: true })?;
            busy.place = Some(entered.place);
        }
        Ok(Lease { busy, connection, reused: false, since: Instant::now() })
    }

    async fn dial(&self, endpoint: &Rc<Endpoint>, dial: Dial<'_>) -> Result<Connection, NoLease> {
        if let Some((at, failure)) = endpoint.last_failure.get().filter(|(at, _)| at.elapsed() < DIAL_PAUSE) {
            tracing::trace!(pod = &*endpoint.name, since = ?at.elapsed(), "not dialled again so soon");
            return Err(NoLease { failure, own: false });
        }
        let dialled = self.try_dial(endpoint, dial).await;
        match &dialled {
            Ok(_) => drop(self.reach.found(&endpoint.name, &endpoint.address)),
            Err(failure) => {
                endpoint.last_failure.set(Some((Instant::now(), *failure)));
                endpoint.metrics().connect_failures.inc();
                // A name that is not found, or this process's own want, says nothing about the connections there are.
                if !matches!(failure.stage, Stage::Resolve | Stage::Local) {
                    self.evict(endpoint);
                }
            }
        }
        dialled.map_err(|failure| NoLease { failure, own: true })
    }

    async fn try_dial(&self, endpoint: &Rc<Endpoint>, dial: Dial<'_>) -> Result<Connection, Failure> {
        let failed = |failure: Failure, why: &str| {
            // Another thread may have met it since.
            if endpoint.is_counted_together() && !self.knows(&endpoint.name) {
                Reach::never_met(&endpoint.name, &endpoint.address, why);
            } else {
                self.reach.lost(&endpoint.name, &endpoint.address, why);
            }
            failure
        };
        let found = match &endpoint.literal {
            Some(address) => Ok(Arc::clone(address)),
            None => self.dns.resolve(&endpoint.address).await,
        };
        // A name server that is away says nothing of the pod.
        let unresolved = |timed_out| Failure { stage: Stage::Resolve, sent: false, timed_out };
        let mut addresses =
            found.map_err(|error| failed(unresolved(error == DnsError::Unanswered), &error.to_string()))?;
        if endpoint.counts_by_address() {
            endpoint.lead_to(Arc::clone(&addresses));
        }
        if endpoint.confined {
            let inside = self.within(&addresses);
            if inside.is_empty() {
                let why = format!("none of {addresses:?} is within --pod-networks");
                return Err(failed(Failure { stage: Stage::Confine, sent: false, timed_out: false }, &why));
            }
            addresses = inside;
        }
        let Connected { stream, address: reached, timer } = socket::connect(&addresses, dial.timeout, dial.youth)
            .await
            .map_err(|error| failed(Failure::of_connecting(error.kind()), &format!("{addresses:?}: {error}")))?;
        if !socket::is_fresh(&stream) {
            let why = format!("{addresses:?}: the connection was closed at once");
            return Err(failed(Failure::of_connecting(ErrorKind::ConnectionAborted), &why));
        }
        self.introduce(endpoint);
        let at_address = endpoint.counts_by_address().then(|| self.count_by_address(endpoint, reached));
        let open = Held::new(&endpoint.metrics().connections);
        Ok(Connection { stream, peer: reached, timer, limited: false, probed: false, open, at_address })
    }

    /// Those addresses that lie within `--pod-networks`.
    fn within(&self, addresses: &[SocketAddr]) -> Arc<[SocketAddr]> {
        addresses.iter().filter(|address| self.config.may_dial(address.ip())).copied().collect()
    }

    /// Drops everything that is known of the way to this endpoint, after a connection to it failed.
    pub(super) fn evict(&self, endpoint: &Endpoint) {
        endpoint.idle.borrow_mut().clear();
        self.dns.forget(&endpoint.address);
    }

    /// Closes idle connections when their time has come or their pod has closed them, and forgets who is not asked for.
    fn sweep(&self) {
        let now = Instant::now();
        self.endpoints.borrow_mut().retain(|_, endpoint| {
            self.look_where_it_leads(endpoint);
            let mut idle = endpoint.idle.borrow_mut();
            // Of most the runtime knows that nothing has come: no system call for each of thousands.
            let is_good = |stream: &TcpStream| socket::is_fresh(stream) || socket::is_quiet(stream);
            idle.retain(|idle| idle.is_young(now, self.config.idle) && is_good(&idle.connection.stream));
            let recent = now.saturating_duration_since(endpoint.last_used.get()) < FORGOTTEN;
            recent || !idle.is_empty() || Rc::strong_count(endpoint) > 1
        });
    }
}

// === impl Busy ===

impl Busy {
    fn new(endpoint: &Rc<Endpoint>, place: Option<Place>) -> Self {
        let load = endpoint.load.begin();
        let counted = Held::new(&endpoint.metrics().in_flight);
        Self { endpoint: Rc::clone(endpoint), place, load, load_at_address: None, _counted: counted }
    }

    fn count_at_address(&mut self, connection: &Connection) {
        self.load_at_address = connection.at_address.as_ref().map(Load::begin);
    }
}

// === impl Lease ===

impl Lease {
    /// The endpoint this connection leads to.
    pub(super) fn endpoint(&self) -> &Rc<Endpoint> {
        &self.busy.endpoint
    }

    /// The connection.
    pub(super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.connection.stream
    }

    /// Much is about to come or to go: limits what waits in the kernel of it.
    pub(super) fn limit_buffers(&mut self) {
        if !std::mem::replace(&mut self.connection.limited, true) {
            socket::limit_buffers(&self.connection.stream);
        }
    }

    /// It has carried an answer, whose end may be far: from now on the kernel sees to it that there is a pod.
    pub(super) fn keep_alive(&mut self) {
        if !std::mem::replace(&mut self.connection.probed, true) {
            socket::keep_alive(&self.connection.stream);
        }
    }

    /// Dropping the connection resets it now, and so tells the pod at once, instead of closing it behind what is still to be
    /// sent.
    pub(super) fn reset_on_drop(&self) {
        // A socket that does not take it any more has failed.
        let _ = SockRef::from(&self.connection.stream).set_linger(Some(Duration::ZERO));
    }

    /// Whether the connection had carried an exchange before.
    pub(super) fn was_reused(&self) -> bool {
        self.reused
    }

    /// Since when it could be used: from then on it is the pod that is waited for.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Ready when `deadline` has passed.
    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.connection.timer.poll(cx, deadline)
    }

    /// Keeps the connection for the next request. Called when an exchange has ended cleanly.
    pub(super) fn give_back(self) {
        if self.busy.endpoint.has_left(&self.connection) {
            return;
        }
        let idle = Idle { connection: self.connection, since: Instant::now() };
        self.busy.endpoint.idle.borrow_mut().push(idle);
    }

    /// The connection for good, for a tunnel, and what the tunnel keeps with it.
    pub(super) fn into_stream(self) -> (TcpStream, PodShare) {
        let Busy { load, load_at_address, place, .. } = self.busy;
        let part = Part { _load: (load, load_at_address), _place: place };
        (self.connection.stream, PodShare { _open: self.connection.open, part: Some(part) })
    }
}

// === impl PodShare ===

impl PodShare {
    /// Gives back its part of the pod: that has ended its side of the tunnel, and may have room for others.
    pub(super) fn leave(&mut self) {
        self.part = None;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::backends::Backends;
    use crate::config::{Command, parse};

    /// A pool with the default settings.
    pub(in crate::proxy) fn pool() -> Rc<Pool> {
        let Ok(Command::Serve(config)) = parse(["pod-router".into()], [], false) else { panic!("no settings will do") };
        let (config, metrics): (Arc<crate::config::Config>, _) = (Arc::from(config), Arc::new(Metrics::new()));
        let commons = Commons {
            dns: Dns::default(),
            backends: Arc::new(Backends::new(Arc::clone(&config), Arc::clone(&metrics))),
            queues: Queues::default(),
            reach: Reach::default(),
            limits: crate::limits::Limits::default(),
            metrics,
        };
        Pool::new(config.upstream.clone(), commons)
    }

    /// A connection for a request that needs no place.
    pub(in crate::proxy) async fn lease(pool: &Pool, endpoint: &Rc<Endpoint>) -> Result<Lease, NoLease> {
        let mut left = Duration::ZERO;
        let dial = Dial { timeout: Duration::from_secs(20), youth: &Youth::over() };
        pool.lease(endpoint, None, (Instant::now(), dial), (Precedence::Other, &mut left)).await
    }

    /// Whoever is told of another's failed dial has none of its own.
    #[tokio::test]
    async fn a_dial_fails_once() {
        let pool = pool();
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr());
        let endpoint = pool.listed("gone", &free.expect("loopback has a free port").to_string().parse().expect("one"));
        let mut failures = [0, 0];
        for _ in 0..1000 {
            let failed = lease(&pool, &endpoint).await.expect_err("nobody there");
            assert_eq!((failed.failure.stage, failed.failure.sent), (Stage::Connect, false));
            failures[usize::from(failed.own)] += 1;
        }
        assert_eq!(endpoint.metrics().connect_failures.get(), failures[1]);
        assert!(failures[0] > 0, "each was dialled");
    }
}
