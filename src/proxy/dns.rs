//! Pod name to address: our own small cache over the system's resolver.
//!
//! `getaddrinfo` caches nothing, and Kubernetes gives a restarted pod a new address under its old name, so
//! addresses are kept for [`POSITIVE`] at most, failures for [`NEGATIVE`], and a pod's entry is dropped as soon as a
//! connection to it fails. One question per name at a time, however many ask.
//!
//! Names are resolved with a trailing dot: it keeps the search list of a cluster's resolv.conf (`ndots:5`) from
//! turning one question into four.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::core::address::HostPort;

/// How long an address is used. CoreDNS' Kubernetes plugin answers with a lifetime of 5 s.
const POSITIVE: Duration = Duration::from_secs(5);

/// How long a failure is remembered. A restarting pod must not be missing for longer than it is.
const NEGATIVE: Duration = Duration::from_secs(1);

/// The longest wait for one answer; resolv.conf's own default is 5 s a try.
const DEADLINE: Duration = Duration::from_secs(5);

/// The cache, shared by all worker threads. Its size is bounded by the pods and backends there are.
#[derive(Clone, Debug, Default)]
pub struct Dns(Arc<Mutex<HashMap<HostPort, Entry>>>);

type Answer = Option<Arc<[SocketAddr]>>;

#[derive(Clone, Debug)]
enum Entry {
    Asking(watch::Receiver<Option<Answer>>),
    Known { answer: Answer, until: Instant },
}

impl Dns {
    /// The addresses behind a name, or the literal address itself.
    ///
    /// # Errors
    ///
    /// `NotFound` where the name has none now.
    pub(super) async fn resolve(&self, target: &HostPort) -> io::Result<Arc<[SocketAddr]>> {
        if let Some(ip) = target.ip() {
            return Ok(Arc::new([SocketAddr::new(ip, target.port)]));
        }
        let answer = match self.known_or_asking(target) {
            Entry::Known { answer, .. } => answer,
            Entry::Asking(mut answered) => {
                answered.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone()).flatten()
            }
        };
        answer.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
    }

    /// Forgets a name, because a connection to one of its addresses failed. A question under way goes on.
    pub(super) fn forget(&self, target: &HostPort) {
        let mut entries = self.entries();
        if matches!(entries.get(target), Some(Entry::Known { answer: Some(_), .. })) {
            entries.remove(target);
        }
    }

    fn known_or_asking(&self, target: &HostPort) -> Entry {
        let mut entries = self.entries();
        match entries.get(target) {
            Some(Entry::Known { until, .. }) if *until <= Instant::now() => {}
            // An asker that died with its runtime leaves a closed channel behind.
            Some(Entry::Asking(answered)) if answered.has_changed().is_err() => {}
            Some(entry) => return entry.clone(),
            None => {}
        }
        let (answering, answered) = watch::channel(None);
        entries.insert(target.clone(), Entry::Asking(answered.clone()));
        let (dns, target) = (self.clone(), target.clone());
        // Detached: the request that asked first may be cancelled.
        tokio::spawn(async move {
            let answer = ask(&target).await;
            let lifetime = if answer.is_some() { POSITIVE } else { NEGATIVE };
            let known = Entry::Known { answer: answer.clone(), until: Instant::now() + lifetime };
            dns.entries().insert(target, known);
            answering.send_replace(Some(answer));
        });
        Entry::Asking(answered)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<HostPort, Entry>> {
        // Inserts and removals only: nothing is left half-done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the system's resolver once.
async fn ask(target: &HostPort) -> Answer {
    let name = format!("{}.", target.host.trim_end_matches('.'));
    let looked_up = tokio::time::timeout(DEADLINE, tokio::net::lookup_host((name.as_str(), target.port))).await;
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

    #[tokio::test]
    async fn a_failure_is_remembered_only_briefly_and_an_address_until_it_fails() {
        let dns = Dns::default();
        let local = target("localhost:7");
        dns.resolve(&local).await.expect("localhost resolves everywhere");
        assert!(
            matches!(dns.entries().get(&local), Some(Entry::Known { answer: Some(_), until }) if *until <= Instant::now() + POSITIVE)
        );
        dns.forget(&local);
        assert!(dns.entries().get(&local).is_none());

        let nowhere = target("pod-router-test.invalid:7");
        dns.resolve(&nowhere).await.expect_err("RFC 6761: .invalid never resolves");
        assert!(
            matches!(dns.entries().get(&nowhere), Some(Entry::Known { answer: None, until }) if *until <= Instant::now() + NEGATIVE)
        );
        dns.forget(&nowhere);
        assert!(dns.entries().get(&nowhere).is_some(), "a failure keeps its pause");
    }
}
