//! Connections to pods: dial, keep, reuse, evict.
//!
//! One [`Pool`] per worker thread: connections are never shared, but what a pod has to do is counted for all threads
//! together. A connection carries one exchange at a time and is kept only after an exchange that ended cleanly (a [`Lease`]
//! that was not given back closes its connection). Idle ones go last in, first out, live shorter than Node's 5 s keep-alive,
//! and all of a pod's are dropped when one fails: its pod has probably gone. So are those to an address that the pod's name
//! does not lead to any more, and those whose open files clients have need of. What is said on a connection is `exchange.rs`.

mod address;
mod dial;
mod places;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;

pub(super) use self::dial::Dial;
pub(super) use self::places::LOOK;
use super::endpoint::{Connection, Endpoint, Shelf};
use super::queue::{Place, Queues};
use super::reach::Reach;
use super::upkeep::every_second;
use super::{Commons, socket};
use crate::backends::{Backends, InFlight, Load};
use crate::config::UpstreamConfig;
use crate::core::address::HostPort;
use crate::core::decision::Failure;
use crate::dns::Dns;
use crate::metrics::{Held, Met, Metrics};

/// An endpoint that nobody has asked for so long is forgotten: where pods go by their addresses, old ones pile up.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// The connections of one worker thread, by pod.
#[derive(Debug)]
pub(super) struct Pool {
    config: UpstreamConfig,
    /// What limits the idle connections.
    shelf: Rc<Shelf>,
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
        let Commons { dns, queues, reach, backends, clients, files, metrics, .. } = commons;
        let shelf = Rc::new(Shelf::new(files, clients));
        Rc::new(Self { config, shelf, dns, queues, reach, backends, metrics, endpoints: RefCell::default() })
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
            shelf: Rc::clone(&self.shelf),
            idle: RefCell::default(),
            times_reached: Cell::default(),
            last_failure: Cell::default(),
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

    /// A connection to the endpoint, for a request that has a `place` there, where places are limited: a kept one that is still
    /// good, else a new one. `None` where the endpoint has another line by now, as it may have once its address is reached, and
    /// no place free in that: the request has to enter once more. A connection that was made meanwhile is kept, for whoever is
    /// next.
    ///
    /// # Errors
    ///
    /// Its [stage](crate::core::decision::Stage) is `Resolve`, `Confine`, `Connect` or `Local`; nothing was sent.
    pub(super) async fn lease(
        &self,
        endpoint: &Rc<Endpoint>,
        place: Option<Place>,
        (now, dial): (Instant, Dial<'_>),
    ) -> Result<Option<Lease>, NoLease> {
        endpoint.last_used.set(now);
        let mut busy = Busy::new(endpoint, place);
        if !busy.has_place() {
            return Ok(None);
        }
        let (connection, reused, since) = match endpoint.take_idle(now, self.config.idle) {
            Some(kept) => (kept, true, now),
            None => {
                self.clear_shelf();
                // Boxed, as everything that is rare on the request path: a request's future is as large as its largest branch.
                (Box::pin(self.dial(endpoint, dial)).await?, false, Instant::now())
            }
        };
        if !busy.has_place() {
            endpoint.keep_if_good(connection);
            return Ok(None);
        }
        busy.count_at_address(&connection);
        Ok(Some(Lease { busy, connection, reused, since }))
    }

    /// Drops everything that is known of the way to this endpoint, after a connection to it failed.
    pub(super) fn evict(&self, endpoint: &Endpoint) {
        endpoint.idle.borrow_mut().clear();
        self.dns.forget(&endpoint.address);
    }

    /// Closes idle connections where there are too many for as many clients as there are by now.
    fn clear_shelf(&self) {
        for endpoint in self.endpoints.borrow().values() {
            let surplus = self.shelf.surplus();
            if surplus == 0 {
                return;
            }
            let mut idle = endpoint.idle.borrow_mut();
            let oldest = surplus.min(idle.len());
            idle.drain(..oldest);
        }
    }

    /// Closes idle connections when their time has come or their pod has closed them, and forgets who is not asked for.
    fn sweep(&self) {
        self.clear_shelf();
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

    /// Whether it has a place in the line that the endpoint has by now, if one is needed: its own, or one that is free there.
    fn has_place(&mut self) -> bool {
        let Some(other) = self.place.as_ref().and_then(|place| self.endpoint.queue_other_than(place.queue())) else {
            return true;
        };
        self.place = other.try_enter();
        self.place.is_some()
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

    /// Keeps the connection for the next request, if there is room for it. Called when an exchange has ended cleanly.
    pub(super) fn give_back(self) {
        self.busy.endpoint.keep_if_good(self.connection);
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
pub(super) mod tests;
