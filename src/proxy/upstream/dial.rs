//! How a pod is dialled: its name is looked up, its addresses are judged and tried, and what went wrong is told once.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{NoLease, Pool};
use crate::core::decision::{DialLimits, Failure, Stage};
use crate::dns::DnsError;
use crate::metrics::Held;
use crate::proxy::endpoint::{Connection, Endpoint};
use crate::proxy::nursery::Youth;
use crate::proxy::reach::Reach;
use crate::proxy::socket::{self, Connected};

/// After a failed dial, others to the same pod fail alike for this long instead of dialling too.
const DIAL_PAUSE: Duration = Duration::from_millis(20);

/// How a pod is dialled, where no kept connection leads there.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Dial<'a> {
    /// How long it may take.
    pub(in crate::proxy) limits: DialLimits,
    /// That of the client's connection, in whose task it is.
    pub(in crate::proxy) youth: &'a Youth,
}

/// Why there is no connection, for the request and for the log.
struct Undialled {
    failure: Failure,
    why: String,
}

impl Pool {
    /// A new connection, unless the last dial has only just failed.
    pub(super) async fn dial(&self, endpoint: &Rc<Endpoint>, dial: Dial<'_>) -> Result<Connection, NoLease> {
        if let Some((at, failure)) = endpoint.last_failure.get().filter(|(at, _)| at.elapsed() < DIAL_PAUSE) {
            tracing::trace!(pod = &*endpoint.name, since = ?at.elapsed(), "not dialled again so soon");
            return Err(NoLease { failure, own: false });
        }
        let before = endpoint.times_reached.get();
        let dialled = self.try_dial(endpoint, dial).await;
        match &dialled {
            Ok(_) => {
                endpoint.times_reached.set(endpoint.times_reached.get().wrapping_add(1));
                endpoint.last_failure.set(None);
                self.reach.found(&endpoint.name, &endpoint.address);
            }
            Err(Undialled { failure, why }) => {
                endpoint.metrics().connect_failures.inc();
                // Others have reached it since this dial began, which took its time, perhaps with an address it has no more.
                if endpoint.times_reached.get() == before {
                    self.note_failure(endpoint, *failure, why);
                }
            }
        }
        dialled.map_err(|Undialled { failure, .. }| NoLease { failure, own: true })
    }

    fn note_failure(&self, endpoint: &Rc<Endpoint>, failure: Failure, why: &str) {
        endpoint.last_failure.set(Some((Instant::now(), failure)));
        // A name that is not found, or this process's own want, says nothing about the connections there are.
        if !matches!(failure.stage, Stage::Resolve | Stage::Local) {
            self.evict(endpoint);
        }
        // Another thread may have met it since.
        if endpoint.is_counted_together() && !self.knows(&endpoint.name) {
            Reach::never_met(&endpoint.name, &endpoint.address, why);
        } else {
            self.reach.lost(&endpoint.name, &endpoint.address, why);
        }
    }

    async fn try_dial(&self, endpoint: &Rc<Endpoint>, dial: Dial<'_>) -> Result<Connection, Undialled> {
        let failed = |failure, why| Undialled { failure, why };
        let (found, connect) = match &endpoint.literal {
            Some(address) => (Ok(Arc::clone(address)), dial.limits.connect),
            None => {
                let since = Instant::now();
                let found = self.dns.resolve_within(&endpoint.address, dial.limits.lookup).await;
                (found, dial.limits.connect_after(since.elapsed()))
            }
        };
        // A name server that is away says nothing of the pod.
        let unresolved = |timed_out| Failure { stage: Stage::Resolve, sent: false, timed_out };
        let mut addresses =
            found.map_err(|error| failed(unresolved(error == DnsError::Unanswered), error.to_string()))?;
        if endpoint.counts_by_address() {
            endpoint.lead_to(Arc::clone(&addresses));
        }
        if endpoint.confined {
            let inside = self.within(&addresses);
            if inside.is_empty() {
                let why = format!("none of {addresses:?} is within --pod-networks");
                return Err(failed(Failure { stage: Stage::Confine, sent: false, timed_out: false }, why));
            }
            addresses = inside;
        }
        let Connected { stream, address: reached, timer } = socket::connect(&addresses, connect, dial.youth)
            .await
            .map_err(|error| failed(Failure::of_connecting(error.kind()), format!("{addresses:?}: {error}")))?;
        if !socket::is_fresh(&stream) {
            let why = format!("{addresses:?}: the connection was closed at once");
            return Err(failed(Failure::of_connecting(ErrorKind::ConnectionAborted), why));
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
}
