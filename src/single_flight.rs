//! One question at a time per key, however many ask.
//!
//! The question runs as a task of its own, detached from whoever asked first: a client that hangs up must not fail the
//! others. It leaves the map before its answer is given out, so who comes later asks anew.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::watch;

/// The questions under way. Cheap to clone: a handle.
#[derive(Debug)]
pub struct SingleFlight<K, T>(Arc<Mutex<HashMap<K, Flight<T>>>>);

/// A question under way.
#[derive(Debug)]
pub struct Flight<T> {
    started: Instant,
    landed: watch::Receiver<Option<T>>,
}

/// Takes a question out of the map when it is over, answered or not.
struct Departure<K: Eq + Hash, T>(SingleFlight<K, T>, K);

impl<K: Clone + Eq + Hash + Send + 'static, T: Clone + Send + Sync + 'static> SingleFlight<K, T> {
    /// The question about `key` that is under way, or `question`, started on `runtime`.
    pub fn join<F>(&self, key: &K, runtime: &Handle, question: impl FnOnce(K) -> F) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(key) {
            return flight.clone();
        }
        let (landing, landed) = watch::channel(None);
        let flight = Flight { started: Instant::now(), landed };
        flights.insert(key.clone(), flight.clone());
        let departure = Departure(self.clone(), key.clone());
        let question = question(key.clone());
        runtime.spawn(async move {
            let answer = question.await;
            drop(departure);
            landing.send_replace(Some(answer));
        });
        flight
    }
}

impl<K, T> SingleFlight<K, T> {
    fn flights(&self) -> MutexGuard<'_, HashMap<K, Flight<T>>> {
        // Inserts and removals only: nothing is left half-done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no question is under way.
    pub fn is_idle(&self) -> bool {
        self.flights().is_empty()
    }
}

impl<T: Clone> Flight<T> {
    /// When the question was put.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Waits for the answer. `None` means that the question died unanswered, with its runtime.
    pub async fn land(&mut self) -> Option<T> {
        self.landed.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone())
    }
}

impl<K, T> Clone for SingleFlight<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Self {
        Self { started: self.started, landed: self.landed.clone() }
    }
}

impl<K: Eq + Hash, T> Drop for Departure<K, T> {
    fn drop(&mut self) {
        self.0.flights().remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_question_is_put_once_and_again_when_it_is_over() {
        let flights = SingleFlight::<u8, usize>::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let join = || {
            let asked = Arc::clone(&asked);
            flights.join(&1, &Handle::current(), |_| async move { asked.fetch_add(1, Ordering::SeqCst) })
        };
        let (mut one, mut two) = (join(), join());
        assert_eq!((one.land().await, two.land().await), (Some(0), Some(0)));
        assert!(flights.is_idle());
        assert_eq!(join().land().await, Some(1));
    }

    #[tokio::test]
    async fn a_question_that_panics_fails_its_askers_and_not_the_next() {
        let flights = SingleFlight::<u8, usize>::default();
        let mut broken = flights.join(&1, &Handle::current(), |_| async { panic!("as a bug would") });
        assert_eq!(broken.land().await, None);
        assert!(flights.is_idle());
    }
}
