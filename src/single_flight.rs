//! One question at a time per key, however many ask.
//!
//! The question runs as a task of its own, detached from whoever asked first: a client that hangs up must not fail the
//! others. It runs on the thread of whoever asked first; others may wait for it on theirs, and ask themselves should that
//! thread end. It leaves the map before its answer is given out, so who comes later asks anew.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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

/// What joining comes to.
#[derive(Debug)]
pub enum Joined<T> {
    /// The answer is there.
    Known(T),
    /// The question has been put now, by whoever joined.
    Begun(Flight<T>),
    /// Somebody has put it before. If it dies unanswered, it is time to join again.
    UnderWay(Flight<T>),
}

/// Takes a question out of the map when it is over, answered or not.
struct Departure<K: Eq + Hash, T>(SingleFlight<K, T>, K);

impl<K: Clone + Eq + Hash + Send + 'static, T: Clone + Send + Sync + 'static> SingleFlight<K, T> {
    /// The answer of the question about `key` that is under way, or of `question`. `None` means that it died unanswered: by a
    /// panic, or with the runtime.
    pub async fn answer<F>(&self, key: &K, known: impl Fn() -> Option<T>, question: impl Fn(K) -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        loop {
            match self.join(key, &known, &question) {
                Joined::Known(answer) => return Some(answer),
                Joined::Begun(mut flight) => return flight.land().await,
                Joined::UnderWay(mut flight) => {
                    if let Some(answer) = flight.land().await {
                        return Some(answer);
                    }
                }
            }
        }
    }

    /// The question about `key` that is under way, or `question`, started on the runtime this is called on.
    ///
    /// `known` looks, when no question is under way, whether the last one has left an answer: whoever missed it a moment ago
    /// and finds no flight now has only come between the two.
    pub fn join<F>(&self, key: &K, known: impl FnOnce() -> Option<T>, question: impl FnOnce(K) -> F) -> Joined<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        // The map is free again before anything is spawned: a runtime that is ending drops the task, and with it the
        // departure, within `spawn`.
        let (landing, flight) = {
            let mut flights = self.flights();
            if let Some(flight) = flights.get(key) {
                return Joined::UnderWay(flight.clone());
            }
            if let Some(answer) = known() {
                return Joined::Known(answer);
            }
            let (landing, landed) = watch::channel(None);
            let flight = Flight { started: Instant::now(), landed };
            flights.insert(key.clone(), flight.clone());
            (landing, flight)
        };
        let departure = Departure(self.clone(), key.clone());
        let question = question(key.clone());
        tokio::spawn(async move {
            let answer = question.await;
            drop(departure);
            landing.send_replace(Some(answer));
        });
        Joined::Begun(flight)
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
            flights.answer(
                &1,
                || None,
                move |_| {
                    let asked = Arc::clone(&asked);
                    async move { asked.fetch_add(1, Ordering::SeqCst) }
                },
            )
        };
        assert_eq!(tokio::join!(join(), join()), (Some(0), Some(0)));
        assert!(flights.is_idle());
        assert_eq!(join().await, Some(1));
    }

    #[tokio::test]
    async fn an_answer_that_has_just_been_left_is_taken() {
        let flights = SingleFlight::<u8, usize>::default();
        assert_eq!(flights.answer(&1, || Some(7), |_| async { 8 }).await, Some(7));
        assert!(flights.is_idle());
    }

    /// Its task is dropped within `spawn`, and so takes the question out of the map while `join` is still at work.
    #[test]
    fn a_question_for_a_runtime_that_is_gone_is_over_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let gone = runtime.handle().clone();
        drop(runtime);
        let flights = SingleFlight::<u8, usize>::default();
        let (said, hears) = std::sync::mpsc::channel();
        let asking = flights.clone();
        std::thread::spawn(move || {
            let _within = gone.enter();
            said.send(asking.join(&1, || None, |_| async { 8 }))
        });
        let joined = hears.recv_timeout(std::time::Duration::from_secs(20)).expect("joining does not wait for itself");
        let Joined::Begun(mut flight) = joined else { panic!("{joined:?}") };
        let asker = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        assert_eq!(asker.block_on(flight.land()), None);
        assert!(flights.is_idle());
    }

    /// Threads end one by one in a drain; requests on the others may wait for what one of them has asked.
    #[test]
    fn a_question_that_ends_with_its_thread_is_put_again_by_who_waits_for_it() {
        let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (ending, going_on) = (runtime(), runtime());
        let flights = SingleFlight::<u8, usize>::default();
        ending.block_on(async { drop(flights.join(&1, || None, |_| std::future::pending())) });
        let asked_again = going_on.block_on(async {
            let mut answer = std::pin::pin!(flights.answer(&1, || None, |_| async { 8 }));
            assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(answer.as_mut().poll(cx))).await.is_pending());
            ending.shutdown_background();
            answer.await
        });
        assert_eq!(asked_again, Some(8));
    }

    #[tokio::test]
    async fn a_question_that_panics_fails_its_askers_and_not_the_next() {
        let flights = SingleFlight::<u8, usize>::default();
        assert_eq!(flights.answer(&1, || None, |_| async { panic!("as a bug would") }).await, None);
        assert!(flights.is_idle());
    }
}
