//! Which pods cannot be reached at this moment, for the log: a line when that begins and one when it ends.
//!
//! Each request to such a pod fails by itself and has its access line, which says that the pod is unreachable but not why:
//! a name without an address, a refusal and a firewall look alike there. A line with the cause for each failed dial would
//! be one a request, from each worker thread. So the threads share who is away. Looked at only when a pod is dialled.
//!
//! A warning is about something that an operator has. Of a pod that only a client's `sid` or cookie speaks of there is none:
//! whoever makes up names could fill the log with them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::core::address::HostPort;

/// From so many on, those that nobody has dialled for [`FORGOTTEN`] are dropped: where pods go by their addresses, one that
/// was replaced never comes back.
const MANY: usize = 1024;

const FORGOTTEN: Duration = Duration::from_secs(600);

/// The pods that are away, by name, and when they were last dialled. Cheap to clone: a handle.
#[derive(Clone, Debug, Default)]
pub struct Reach(Arc<Mutex<HashMap<Arc<str>, Instant>>>);

impl Reach {
    /// A dial has failed. Whether the pod was thought to be there.
    pub(super) fn lost(&self, pod: &Arc<str>, address: &HostPort, why: &str) -> bool {
        let mut away = self.away();
        let now = Instant::now();
        if away.len() >= MANY {
            away.retain(|_, last| now.saturating_duration_since(*last) < FORGOTTEN);
        }
        let first = away.insert(Arc::clone(pod), now).is_none();
        drop(away);
        if first {
            tracing::warn!(pod = &**pod, %address, why, "pod unreachable");
        } else {
            tracing::debug!(pod = &**pod, %address, why, "pod still unreachable");
        }
        first
    }

    /// A dial has failed, to a pod of which nobody knows but the client that names it.
    pub(super) fn never_met(pod: &str, address: &HostPort, why: &str) {
        tracing::debug!(pod, %address, why, "a pod that only its client names is unreachable");
    }

    /// A dial has succeeded. Whether the pod was away.
    pub(super) fn found(&self, pod: &str, address: &HostPort) -> bool {
        let mut away = self.away();
        // Nobody is, as a rule: without a hash of the name.
        let back = !away.is_empty() && away.remove(pod).is_some();
        drop(away);
        if back {
            tracing::info!(pod, %address, "pod reachable again");
        }
        back
    }

    fn away(&self) -> MutexGuard<'_, HashMap<Arc<str>, Instant>> {
        // Single inserts and removals: nothing is left half-done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_count() {
        let (reach, pod) = (Reach::default(), Arc::<str>::from("backend-0"));
        let address = "backend-0:3000".parse().expect("an address");
        assert!(!reach.found(&pod, &address));
        let turns = [true, false, false].map(|_| reach.clone().lost(&pod, &address, "refused"));
        assert_eq!(turns, [true, false, false]);
        assert!(reach.lost(&"backend-1".into(), &address, "refused"), "another pod has its own line");
        assert_eq!([reach.found(&pod, &address), reach.found(&pod, &address)], [true, false]);
        assert!(reach.lost(&pod, &address, "refused"));
    }

    #[test]
    fn what_was_long_gone_is_forgotten_where_there_are_many() {
        let reach = Reach::default();
        let address = "a:1".parse().expect("an address");
        let long_ago = Instant::now().checked_sub(FORGOTTEN).expect("the machine has run for so long");
        for number in 0..MANY {
            reach.away().insert(format!("10.0.0.{number}").into(), long_ago);
        }
        reach.lost(&"new".into(), &address, "refused");
        assert_eq!(reach.away().len(), 1);
    }
}
