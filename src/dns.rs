//! Pod name to address: our own small cache over the system's resolver.
//!
//! `getaddrinfo` caches nothing, and Kubernetes gives a restarted pod a new address under its old name, so
//! addresses are kept for five seconds at most, failures for one second, and a pod's entry is dropped as soon as a
//! connection to it fails. One question per name at a time, however many ask.
//!
//! Full names are resolved with a trailing dot: it keeps the search list of a cluster's resolv.conf (`ndots:5`) from
//! turning one question into four. `Host` never carries it.

mod srv;

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::core::address::HostPort;
use crate::single_flight::SingleFlight;

/// How long an address is used. CoreDNS' Kubernetes plugin answers with a lifetime of 5 s.
const POSITIVE: Duration = Duration::from_secs(5);

/// How long a failure is remembered. A restarting pod must not be missing for longer than it is.
const NEGATIVE: Duration = Duration::from_secs(1);

/// The longest wait for one answer; resolv.conf's own default is 5 s a try.
const DEADLINE: Duration = Duration::from_secs(5);

/// A name with this many dots is a full one: `service.namespace.svc.cluster.local` has four.
const QUALIFIED: usize = 4;

/// The cache, shared by all worker threads. Its size is bounded by the pods and backends there are.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    known: Arc<Mutex<HashMap<HostPort, Known>>>,
    asking: SingleFlight<HostPort, Answer>,
}

/// `None`: the name has no address.
type Answer = Option<Arc<[SocketAddr]>>;

#[derive(Clone, Debug)]
struct Known {
    answer: Answer,
    until: Instant,
}

impl Dns {
    /// The addresses behind a name, or the literal address itself.
    ///
    /// # Errors
    ///
    /// `NotFound` where the name has none now.
    pub async fn resolve(&self, target: &HostPort) -> io::Result<Arc<[SocketAddr]>> {
        if let Some(ip) = target.ip() {
            return Ok(Arc::new([SocketAddr::new(ip, target.port)]));
        }
        self.ask(target).await.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
    }

    /// The pods that a service's SRV record lists, with their weights; `None` where nobody answered. Not cached: who asks
    /// does so rarely.
    pub async fn services(&self, name: &str) -> Option<Vec<(HostPort, u32)>> {
        let asked = srv::ask(name).await;
        asked.inspect_err(|error| tracing::debug!(name, %error, "SRV record not found")).ok()
    }

    /// Forgets a name, because a connection to one of its addresses failed. That it has none is not forgotten.
    pub fn forget(&self, target: &HostPort) {
        let mut known = self.known();
        if known.get(target).is_some_and(|known| known.answer.is_some()) {
            known.remove(target);
        }
    }

    async fn ask(&self, target: &HostPort) -> Answer {
        let known =
            || self.known().get(target).filter(|known| known.until > Instant::now()).map(|known| known.answer.clone());
        let question = |target| {
            let dns = self.clone();
            async move {
                let answer = ask(&target).await;
                let lifetime = if answer.is_some() { POSITIVE } else { NEGATIVE };
                dns.known().insert(target, Known { answer: answer.clone(), until: Instant::now() + lifetime });
                answer
            }
        };
        self.asking.answer(target, known, question).await.flatten()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<HostPort, Known>> {
        // Inserts and removals only: nothing is left half-done by a panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pod's full name gets a trailing dot; a short one (`backend-service`, `backend.default`) needs the search list.
fn as_asked(host: &str) -> Cow<'_, str> {
    if host.matches('.').count() >= QUALIFIED && !host.ends_with('.') { format!("{host}.").into() } else { host.into() }
}

/// Asks the system's resolver once.
async fn ask(target: &HostPort) -> Answer {
    let name = as_asked(&target.host);
    let looked_up = tokio::time::timeout(DEADLINE, tokio::net::lookup_host((&*name, target.port))).await;
    match looked_up {
        Ok(Ok(addresses)) => Some(addresses.collect::<Vec<_>>()).filter(|found| !found.is_empty()).map(Arc::from),
        Ok(Err(error)) => {
            tracing::debug!(%target, %error, "name not resolved");
            None
        }
        Err(_) => {
            tracing::warn!(%target, "the resolver did not answer in time");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> HostPort {
        text.parse().expect("an address")
    }

    #[tokio::test]
    async fn a_literal_address_needs_no_resolver() {
        let found = Dns::default().resolve(&target("[::1]:7")).await.expect("literal");
        assert_eq!(*found, ["[::1]:7".parse().expect("an address")]);
    }

    #[test]
    fn only_a_full_name_is_asked_for_as_such() {
        let pod = "backend-0.backend.default.svc.cluster.local";
        assert_eq!(as_asked(pod), format!("{pod}."));
        for short in ["localhost", "backend-service", "backend.default.svc", "a.b.c.d.e."] {
            assert_eq!(as_asked(short), short);
        }
    }

    #[tokio::test]
    async fn a_failure_is_remembered_only_briefly_and_an_address_until_it_fails() {
        let dns = Dns::default();
        let remembered = |target: &HostPort, longest| {
            let known = dns.known().get(target).cloned()?;
            assert!(known.until <= Instant::now() + longest, "remembered for too long");
            Some(known.answer.is_some())
        };
        let local = target("localhost:7");
        dns.resolve(&local).await.expect("localhost resolves everywhere");
        assert_eq!(remembered(&local, POSITIVE), Some(true));
        dns.forget(&local);
        assert_eq!(remembered(&local, POSITIVE), None);

        let nowhere = target("pod-router-test.invalid:7");
        dns.resolve(&nowhere).await.expect_err("RFC 6761: .invalid never resolves");
        assert_eq!(remembered(&nowhere, NEGATIVE), Some(false));
        dns.forget(&nowhere);
        assert_eq!(remembered(&nowhere, NEGATIVE), Some(false), "a failure keeps its pause");
    }
}
