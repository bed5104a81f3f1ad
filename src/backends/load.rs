//! How many requests and tunnels each pod has from this process: what `least_conn` and `p2c` go by. A request that waits for
//! a place there is one of them, as HAProxy's `leastconn` has it (`fwlc_queue_srv`: `served + queueslength`).
//!
//! By name, because the rooms' requests weigh on a pod as well, and those know it by its name only; and, of what was dialled
//! by a name, by the address reached as well, because that is all that a backend knows of one whose name it cannot find.
//! Either sum has everything the pod gets, whichever a backend lists. Not a metric: series are shared by pods where there
//! are too many, and a choice must not go by another pod's load.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Names below which nobody looks for those that are not used any more.
const FEW: usize = 64;

/// The loads of all pods that anybody holds a handle of.
#[derive(Debug, Default)]
pub(super) struct Loads(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_name: HashMap<Arc<str>, Weak<AtomicU64>>,
    /// How many there may be before the unused ones are looked for.
    sweep_at: usize,
}

/// One pod's load. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Load(Arc<AtomicU64>);

/// A request or tunnel at a pod, until dropped.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicU64>);

impl Loads {
    /// The load of the pod with this name: one for all who ask.
    pub(super) fn of(&self, name: &Arc<str>) -> Load {
        // Inserts and removals only: nothing is left half-done by a panic.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(load) = known.by_name.get(name).and_then(Weak::upgrade) {
            return Load(load);
        }
        if known.by_name.len() >= known.sweep_at.max(FEW) {
            known.by_name.retain(|_, load| load.strong_count() > 0);
            known.sweep_at = 2 * known.by_name.len();
        }
        let load = Arc::default();
        known.by_name.insert(Arc::clone(name), Arc::downgrade(&load));
        Load(load)
    }
}

impl Load {
    /// Requests in flight, tunnels, and requests that wait for a place.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more, until the guard is dropped.
    pub fn begin(&self) -> InFlight {
        self.0.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.0))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_one_load_whoever_asks_and_each_its_own() {
        let loads = Loads::default();
        let (a, again, b) = (loads.of(&"a".into()), loads.of(&"a".into()), loads.of(&"b".into()));
        let held = (a.begin(), again.begin());
        assert_eq!((a.get(), again.get(), b.get()), (2, 2, 0));
        drop(held);
        assert_eq!(a.get(), 0);
    }

    #[test]
    fn names_that_nobody_uses_are_forgotten() {
        let loads = Loads::default();
        let used = loads.of(&"used".into());
        let _at_it = used.begin();
        drop(used);
        for number in 0..10_000 {
            loads.of(&format!("made-up-{number}").into());
        }
        assert!(loads.0.lock().expect("no panic").by_name.len() <= FEW);
        assert_eq!(loads.of(&"used".into()).get(), 1, "a request holds on to it");
    }
}
