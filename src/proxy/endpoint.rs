//! One pod as a worker thread knows it: its address, its series, and the connections to it that wait for a request.
//!
//! It dials nothing and times nothing out by itself: that is the [`Pool`](super::upstream::Pool)'s, which makes it.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::net::TcpStream;

use super::queue::Queue;
use super::socket;
use crate::backends::Load;
use crate::core::address::HostPort;
use crate::core::decision::Failure;
use crate::core::session::AffinitySource;
use crate::limits::{Files, Places};
use crate::metrics::{Held, Met, PodMetrics, code_label};
use crate::timer::Timer;

/// A pod or a default-backend address, and the connections to it.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) name: Arc<str>,
    pub(super) address: HostPort,
    /// Whether it has to lie within `--pod-networks`.
    pub(super) confined: bool,
    /// Its series; those of all others together for a stranger.
    pub(super) metrics: PodMetrics,
    /// The series that a stranger has of its own from its first connection on.
    pub(super) own: OnceCell<PodMetrics>,
    pub(super) is_stranger: bool,
    pub(super) load: Load,
    /// Its address as the socket takes it, where that is no name: there is nothing to be looked up.
    pub(super) literal: Option<Arc<[SocketAddr]>>,
    /// The address that a name led to last, and what that has to do.
    pub(super) reached: RefCell<Option<(SocketAddr, Load)>>,
    /// Where the name led when it was looked up last; empty until then, and for what needs no looking up.
    pub(super) addresses: RefCell<Arc<[SocketAddr]>>,
    /// By the label of their code: few, whatever a pod says.
    pub(super) responses: Met<&'static str>,
    pub(super) picks: Met<AffinitySource>,
    /// That of the address reached last, else of the name.
    pub(super) queue: RefCell<Option<Arc<Queue>>>,
    pub(super) last_used: Cell<Instant>,
    /// Of all endpoints of the thread.
    pub(super) shelf: Rc<Shelf>,
    /// The oldest first.
    pub(super) idle: RefCell<Vec<Idle>>,
    /// How often it has been dialled with success.
    pub(super) times_reached: Cell<u64>,
    /// That of the last dial, if it failed.
    pub(super) last_failure: Cell<Option<(Instant, Failure)>>,
}

/// How many idle connections a thread has, and may have: they take open files, which clients and their requests need first.
#[derive(Debug)]
pub(super) struct Shelf {
    files: Files,
    clients: Arc<Places>,
    /// Held once more by each of them.
    kept: Rc<()>,
}

/// A connection on the shelf, until dropped.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) connection: Connection,
    pub(super) since: Instant,
    _on_shelf: Rc<()>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// One for the dial and all exchanges, of those that had to be timed.
    pub(super) timer: Timer,
    /// Whether it has been given [limits](socket::limit_buffers).
    pub(super) limited: bool,
    /// Whether the kernel [probes](socket::keep_alive) it.
    pub(super) probed: bool,
    pub(super) open: Held,
    /// What the address it leads to has to do, where that is another pod to the backends.
    pub(super) at_address: Option<Load>,
}

// === impl Shelf ===

impl Shelf {
    /// An empty one, for as many of the `files` as the `clients` leave.
    pub(super) fn new(files: Files, clients: Arc<Places>) -> Self {
        Self { files, clients, kept: Rc::default() }
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        self.kept() < self.most()
    }

    /// How many there are beyond what there is room for.
    pub(super) fn surplus(&self) -> usize {
        self.kept().saturating_sub(self.most())
    }

    fn kept(&self) -> usize {
        Rc::strong_count(&self.kept) - 1
    }

    fn most(&self) -> usize {
        self.files.most_kept(self.clients.taken())
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// The pod's name, or the default backend's address.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether its connections count at the address they reach as well: it goes by another name there.
    pub(super) fn counts_by_address(&self) -> bool {
        self.literal.is_none()
    }

    /// What is counted for it.
    pub(super) fn metrics(&self) -> &PodMetrics {
        self.own.get().unwrap_or(&self.metrics)
    }

    /// Where a request waits for a place, if there is a limit.
    pub(super) fn queue(&self) -> Option<Arc<Queue>> {
        self.queue.borrow().clone()
    }

    /// The one where it waits by now, if that is another.
    pub(super) fn queue_other_than(&self, queue: &Arc<Queue>) -> Option<Arc<Queue>> {
        self.queue().filter(|now| !Arc::ptr_eq(now, queue))
    }

    /// Whether it is counted together with others: then its counters are not its own for good.
    pub(super) fn is_counted_together(&self) -> bool {
        self.is_stranger && self.own.get().is_none()
    }

    /// Counts a response.
    pub(super) fn count(&self, status: StatusCode) {
        let code = code_label(status.as_u16());
        self.responses.inc(code, || self.metrics().requests(code));
    }

    /// Counts a choice of this pod.
    pub(super) fn count_pick(&self, source: AffinitySource) {
        if self.is_counted_together() {
            return self.metrics.picks(source.as_str()).inc();
        }
        self.picks.inc(source, || self.metrics().picks(source.as_str()));
    }

    /// Counts a request that got none.
    pub(super) fn count_unanswered(&self) {
        self.metrics().requests("none").inc();
    }

    /// The name leads here now: connections to any other address carry no further request.
    pub(super) fn lead_to(&self, addresses: Arc<[SocketAddr]>) {
        self.addresses.replace(addresses);
        self.idle.borrow_mut().retain(|idle| !self.has_left(&idle.connection));
    }

    /// Whether the name leads elsewhere by now.
    pub(super) fn has_left(&self, connection: &Connection) -> bool {
        let addresses = self.addresses.borrow();
        !addresses.is_empty() && !addresses.contains(&connection.peer)
    }

    /// Keeps a connection that carries nothing, where it leads to where the name does and there is room for it.
    pub(super) fn keep_if_good(&self, connection: Connection) {
        if !self.has_left(&connection) && self.shelf.has_room() {
            self.keep(connection, Instant::now());
        }
    }

    pub(super) fn keep(&self, connection: Connection, since: Instant) {
        self.idle.borrow_mut().push(Idle { connection, since, _on_shelf: Rc::clone(&self.shelf.kept) });
    }

    /// The youngest idle connection that is still good; the others are older, so at the first that is too old all go.
    pub(super) fn take_idle(&self, now: Instant, timeout: Duration) -> Option<Connection> {
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
    pub(super) fn is_young(&self, now: Instant, timeout: Duration) -> bool {
        now.saturating_duration_since(self.since) < timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::upstream::tests::pool;

    #[test]
    fn a_pod_that_answers_with_any_code_there_is_has_few_counters() {
        let pool = pool();
        let endpoint = pool.listed("pod", &"127.0.0.1:1".parse().expect("an address"));
        for status in 100..1000 {
            endpoint.count(StatusCode::from_u16(status).expect("three digits"));
        }
        assert!(endpoint.responses.len() < 50, "{} of them", endpoint.responses.len());
        assert_eq!(endpoint.metrics().requests("2xx").get(), 95);
        assert_eq!(endpoint.metrics().requests("200").get(), 1);
    }
}
