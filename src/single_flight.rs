//! One question at a time per key, however many ask.
//!
//! Whoever asks first carries the question on as part of their own work, so that one which nobody else asks costs no task
//! and no channel. Should they give up, because a client has hung up, what is left of the question becomes a task: nobody
//! else fails by that, and the answer is kept. It stays on the thread of whoever asked first; others may wait for it on
//! theirs, and ask themselves should that thread end. It leaves the map before its answer is given out, so who comes later
//! asks anew.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::watch;

/// The questions under way. Cheap to clone: a handle. Keys are cloned a few times for each question.
#[derive(Debug)]
pub struct SingleFlight<K, T>(Arc<Mutex<HashMap<K, UnderWay<T>>>>);

/// A question in the map.
#[derive(Debug)]
struct UnderWay<T> {
    started: Instant,
    /// Made for the second who asks.
    landing: Option<watch::Sender<Option<T>>>,
}

/// A question of one's own: it goes on while this is polled. What is left of it when this is dropped goes on as a task.
pub struct Leading<T: 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

/// A question that somebody else has put.
#[derive(Debug)]
pub struct Flight<T> {
    started: Instant,
    landed: watch::Receiver<Option<T>>,
}

/// What joining comes to.
#[derive(Debug)]
pub enum Joined<T: 'static> {
    /// The answer is there.
    Known(T),
    /// The question has been put now, by whoever joined, and is theirs to await.
    Begun(Leading<T>),
    /// Somebody has put it before. If it dies unanswered, it is time to join again.
    UnderWay(Flight<T>),
}

/// Takes a question out of the map when it is over, and gives its answer, if it has one, to those who wait for it.
struct Departure<K: Eq + Hash, T> {
    flights: SingleFlight<K, T>,
    key: K,
    answer: Option<T>,
}

impl<K: Clone + Eq + Hash + Send + 'static, T: Clone + Send + Sync + 'static> SingleFlight<K, T> {
    /// The answer of the question about `key` that is under way, or of `question`. `None` means that it died unanswered, by a
    /// panic.
    pub async fn answer<F>(&self, key: &K, known: impl Fn() -> Option<T>, question: impl Fn(K) -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        loop {
            match self.join(key, &known, &question) {
                Joined::Known(answer) => return Some(answer),
                Joined::Begun(leading) => return leading.await,
                Joined::UnderWay(mut flight) => {
                    if let Some(answer) = flight.land().await {
                        return Some(answer);
                    }
                }
            }
        }
    }

    /// The question about `key` that is under way, or `question`.
    ///
    /// `known` looks, when no question is under way, whether the last one has left an answer: whoever missed it a moment ago
    /// and finds no flight now has only come between the two.
    pub fn join<F>(&self, key: &K, known: impl FnOnce() -> Option<T>, question: impl FnOnce(K) -> F) -> Joined<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        {
            let mut flights = self.flights();
            if let Some(flight) = flights.get_mut(key) {
                return Joined::UnderWay(flight.follow());
            }
            if let Some(answer) = known() {
                return Joined::Known(answer);
            }
            flights.insert(key.clone(), UnderWay { started: Instant::now(), landing: None });
        }
        let mut departure = Departure { flights: self.clone(), key: key.clone(), answer: None };
        let question = question(key.clone());
        Joined::Begun(Leading(Some(Box::pin(async move {
            let answer = question.await;
            departure.answer = Some(answer.clone());
            drop(departure);
            answer
        }))))
    }
}

impl<K, T> SingleFlight<K, T> {
    fn flights(&self) -> MutexGuard<'_, HashMap<K, UnderWay<T>>> {
        // Inserts and removals only: nothing is left half-done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no question is under way.
    pub fn is_idle(&self) -> bool {
        self.flights().is_empty()
    }
}

impl<T> UnderWay<T> {
    fn follow(&mut self) -> Flight<T> {
        let landing = self.landing.get_or_insert_with(|| watch::Sender::new(None));
        Flight { started: self.started, landed: landing.subscribe() }
    }
}

impl<T: Clone> Flight<T> {
    /// When the question was put.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Waits for the answer. `None` means that the question died unanswered: by a panic, or with its thread's runtime.
    pub async fn land(&mut self) -> Option<T> {
        self.landed.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone())
    }
}

impl<T: 'static> Future for Leading<T> {
    /// `None` means that the question has panicked.
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(question) = &mut self.0 else {
            return Poll::Ready(None);
        };
        // As in a task of its own: the panic has been reported, and ends the question rather than whoever put it. Nothing of
        // the question is used again.
        let answer = match catch_unwind(AssertUnwindSafe(|| question.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answer)) => Some(answer),
            Err(_) => None,
        };
        self.0 = None;
        Poll::Ready(answer)
    }
}

impl<T: 'static> Drop for Leading<T> {
    fn drop(&mut self) {
        // A runtime that is ending drops the task at once, and so does this where there is none: whoever waits asks anew.
        if let (Some(rest), Ok(_)) = (self.0.take(), Handle::try_current()) {
            tokio::spawn(async move { drop(rest.await) });
        }
    }
}

impl<T: 'static> fmt::Debug for Leading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leading").finish_non_exhaustive()
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

impl<K: Eq + Hash, T> Drop for Departure<K, T> {
    fn drop(&mut self) {
        // In this order, and told with the map free: who hears the answer may ask the next question at once.
        let landing = self.flights.flights().remove(&self.key).and_then(|flight| flight.landing);
        if let (Some(landing), Some(answer)) = (landing, self.answer.take()) {
            landing.send_replace(Some(answer));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::runtime::{Builder, Runtime};
    use tokio::sync::oneshot;

    use super::*;

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
                    async move {
                        tokio::task::yield_now().await;
                        asked.fetch_add(1, Ordering::SeqCst)
                    }
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

    fn runtime() -> Runtime {
        Builder::new_current_thread().build().expect("a runtime")
    }

    /// What one poll of it comes to.
    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
    }

    #[tokio::test]
    async fn who_asks_alone_needs_no_task_and_no_channel() {
        let flights = SingleFlight::<u8, usize>::default();
        let (answer, gate) = oneshot::channel();
        let Joined::Begun(mut leading) = flights.join(&1, || None, |_| async { gate.await.expect("it is sent") })
        else {
            panic!("nobody has asked before")
        };
        assert!(poll_once(&mut leading).await.is_pending());
        let tasks = || Handle::current().metrics().num_alive_tasks();
        assert_eq!((tasks(), flights.flights()[&1].landing.is_none()), (0, true));
        answer.send(8).expect("it is awaited");
        assert_eq!(leading.await, Some(8));
        assert!(flights.is_idle());
        assert_eq!(tasks(), 0, "nothing is left to do");
    }

    #[tokio::test]
    async fn a_question_outlives_who_put_it() {
        // Given up before it has begun, and in the middle of it; with somebody waiting, and without.
        for (begun, followed) in [(false, true), (true, true), (false, false), (true, false)] {
            let flights = SingleFlight::<u8, usize>::default();
            let ((answer, gate), (tell, told)) = (oneshot::channel(), oneshot::channel());
            let question = |_| async {
                let answer = gate.await.expect("it is sent");
                tell.send(answer).expect("it is awaited");
                answer
            };
            let Joined::Begun(mut leading) = flights.join(&1, || None, question) else { panic!("it is the first") };
            if begun {
                assert!(poll_once(&mut leading).await.is_pending());
            }
            let follow = || flights.join(&1, || None, |_| pending());
            let second = followed.then(follow);
            drop(leading);
            assert!(!flights.is_idle());
            answer.send(8).expect("it is awaited");
            assert_eq!(told.await, Ok(8), "it goes to its end");
            if let Some(second) = second {
                let Joined::UnderWay(mut flight) = second else { panic!("{second:?}") };
                assert_eq!(flight.land().await, Some(8));
            }
            assert!(flights.is_idle());
        }
    }

    /// Its task is dropped within `spawn`, and so takes the question out of the map.
    #[test]
    fn a_question_given_up_where_no_task_can_be_is_over_at_once() {
        let ended = runtime();
        let gone = ended.handle().clone();
        drop(ended);
        for gone in [Some(gone), None] {
            let flights = SingleFlight::<u8, usize>::default();
            let (said, hears) = std::sync::mpsc::channel();
            let asking = flights.clone();
            std::thread::spawn(move || {
                let _within = gone.as_ref().map(Handle::enter);
                let first = asking.join(&1, || None, |_| async { 8 });
                let second = asking.join(&1, || None, |_| async { 9 });
                drop(first);
                said.send(second)
            });
            let joined = hears.recv_timeout(std::time::Duration::from_secs(20)).expect("no lock is waited for");
            let Joined::UnderWay(mut flight) = joined else { panic!("{joined:?}") };
            assert_eq!(runtime().block_on(flight.land()), None);
            assert!(flights.is_idle());
        }
    }

    /// Threads end one by one in a drain; requests on the others may wait for what one of them has asked.
    #[test]
    fn a_question_that_ends_with_its_thread_is_put_again_by_who_waits_for_it() {
        let (ending, going_on) = (runtime(), runtime());
        let flights = SingleFlight::<u8, usize>::default();
        ending.block_on(async { drop(flights.join(&1, || None, |_| pending())) });
        let asked_again = going_on.block_on(async {
            let mut answer = std::pin::pin!(flights.answer(&1, || None, |_| async { 8 }));
            assert!(poll_once(&mut answer).await.is_pending());
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
