//! `--pod-max-connections`: places at a pod, and the bounded queue in front of them.
//!
//! A pod has one queue for all worker threads, since the limit is the process's: that of the address its connections lead
//! to, so that it is one for all its names. Until it has been reached, it is that of the name. Without a limit there is no
//! queue, and a request pays nothing for it.
//!
//! Who belongs to a session comes first: its pod is the only one that will do, and a poll that gets no answer ends it. All
//! others come as they began to wait, wherever that was: whoever goes from line to line, because its pod has gone elsewhere
//! or did not take it, keeps its turn by its ticket. A semaphore knows no such order, so the line is kept here.

use std::collections::btree_map::OccupiedEntry;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::config::UpstreamConfig;
use crate::core::decision::{Failure, Stage};
use crate::metrics::{Held, PodMetrics};

/// The queues of all pods, as long as somebody may come to one: where pods go by their addresses, old ones pile up.
#[derive(Clone, Debug, Default)]
pub struct Queues {
    by_pod: Arc<Mutex<HashMap<Arc<str>, Arc<Queue>>>>,
    /// How many numbers have been drawn.
    drawn: Arc<AtomicU64>,
}

/// The places at one pod, and who waits for one.
#[derive(Debug)]
pub(super) struct Queue {
    line: Mutex<Line>,
    limit: usize,
}

/// Who comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precedence {
    /// A request of a session.
    Session,
    /// Any other.
    Other,
}

/// The turn of somebody who waits, the same in all lines: by precedence, then by the number [drawn](Queues::draw).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    pub(super) precedence: Precedence,
    pub(super) number: u64,
}

/// Of two with one ticket (a request may come to a line by two names of its pod) the one who came first.
type Standing = (Ticket, u64);

#[derive(Debug)]
struct Line {
    /// None, as long as anybody waits.
    free: usize,
    waiting: BTreeMap<Standing, oneshot::Sender<Place>>,
    joined: u64,
}

/// A place at a pod, given to the next in line on drop.
#[derive(Debug)]
pub(super) struct Place(Arc<Queue>);

/// One of those who wait, until dropped.
struct Waiting(Arc<Queue>, Standing);

/// What joining comes to.
enum Joined {
    Place(Place),
    Waiting(Waiting, oneshot::Receiver<Place>),
    Full,
}

impl Queues {
    /// The number of a request that begins to wait: higher than all that were drawn before.
    pub(super) fn draw(&self) -> u64 {
        // Nothing else is told by it.
        self.drawn.fetch_add(1, Ordering::Relaxed)
    }

    /// The queue of a pod, where there is a limit.
    pub(super) fn of(&self, pod: &Arc<str>, config: &UpstreamConfig) -> Option<Arc<Queue>> {
        let free = config.max_connections?;
        let mut queues = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        if !queues.contains_key(pod) {
            // Whoever has a place there holds it as well: a tunnel for longer than its thread remembers the pod.
            queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        }
        let queue = queues.entry(Arc::clone(pod)).or_insert_with(|| {
            let line = Mutex::new(Line { free, waiting: BTreeMap::new(), joined: 0 });
            Arc::new(Queue { line, limit: config.queue })
        });
        Some(Arc::clone(queue))
    }
}

impl Queue {
    /// A place, if one is free: then nobody waits.
    pub(super) fn try_enter(self: &Arc<Self>) -> Option<Place> {
        self.line().take().then(|| Place(Arc::clone(self)))
    }

    /// A place, at once or after a wait.
    ///
    /// # Errors
    ///
    /// [`Stage::Queue`]: the queue is full, or the wait was in vain.
    pub(super) async fn enter(
        self: &Arc<Self>,
        ticket: Ticket,
        pod: &PodMetrics,
        until: Instant,
    ) -> Result<Place, Failure> {
        let full = |timed_out| Failure { stage: Stage::Queue, sent: false, timed_out };
        let (_waiting, place) = match self.join(ticket) {
            Joined::Place(place) => return Ok(place),
            Joined::Waiting(waiting, place) => (waiting, place),
            Joined::Full => return Err(full(false)),
        };
        let _queued = Held::new(&pod.queued);
        let place = tokio::time::timeout_at(until.into(), place).await;
        // Nobody hands over what has been given up for somebody whose turn is earlier.
        place.map_err(|_| full(true))?.map_err(|_| full(false))
    }

    fn join(self: &Arc<Self>, ticket: Ticket) -> Joined {
        let mut line = self.line();
        if line.take() {
            return Joined::Place(Place(Arc::clone(self)));
        }
        if line.waiting.len() >= self.limit && !line.is_left_for(ticket) {
            return Joined::Full;
        }
        let (standing, (sender, place)) = ((ticket, line.joined), oneshot::channel());
        line.joined += 1;
        line.waiting.insert(standing, sender);
        Joined::Waiting(Waiting(Arc::clone(self), standing), place)
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Counting, inserts and removals only: nothing is left half-done by a panic.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn take(&mut self) -> bool {
        let left = self.free.checked_sub(1);
        self.free = left.unwrap_or(0);
        left.is_some()
    }

    /// Whether the last one has to go for this one.
    fn is_left_for(&mut self, ticket: Ticket) -> bool {
        self.waiting.last_entry().filter(|last| last.key().0 > ticket).map(OccupiedEntry::remove).is_some()
    }

    fn leave(&mut self) -> Option<oneshot::Sender<Place>> {
        let next = self.waiting.pop_first();
        self.free += usize::from(next.is_none());
        next.map(|(_, next)| next)
    }
}

impl Place {
    /// The line that it is of.
    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let next = self.0.line().leave();
        if let Some(next) = next {
            // One that has just gone does not take it: dropped, it goes on to the next.
            drop(next.send(Self(Arc::clone(&self.0))));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.line().waiting.remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::sync::LazyLock;
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metrics;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(5);

    static QUEUES: LazyLock<Queues> = LazyLock::new(Queues::default);

    fn ticket(precedence: Precedence) -> Ticket {
        Ticket { precedence, number: QUEUES.draw() }
    }

    async fn enter(queue: &Arc<Queue>, pod: &PodMetrics, patience: Duration) -> Result<Place, Failure> {
        queue.enter(ticket(Precedence::Other), pod, Instant::now() + patience).await
    }

    async fn waits(entering: Pin<&mut impl Future<Output = Result<Place, Failure>>>) {
        tokio::select! {
            biased;
            _ = entering => panic!("there is no place"),
            () = std::future::ready(()) => {}
        }
    }

    fn config(max: Option<usize>, queue: usize) -> UpstreamConfig {
        let second = Duration::from_secs(1);
        UpstreamConfig {
            connect_timeout: second,
            max_connections: max,
            queue,
            queue_timeout: second,
            pod_wait: second,
            response_timeout: second,
            response_body_idle: None,
            idle: second,
            dns_stale: second,
            pod_networks: None,
        }
    }

    #[tokio::test]
    async fn places_are_handed_on_and_the_queue_is_bounded() {
        let (queues, metrics) = (Queues::default(), Metrics::new());
        let (name, pod) = (Arc::from("backend-0"), metrics.pod("backend-0"));
        assert!(queues.of(&name, &config(None, 1)).is_none());
        let limits = config(Some(1), 1);
        let queue = queues.of(&name, &limits).expect("a limit");
        let again = queues.of(&name, &limits).expect("a limit");
        assert!(Arc::ptr_eq(&queue, &again), "one for all threads");

        let first = enter(&queue, &pod, LONG).await.expect("free");
        let mut second = std::pin::pin!(enter(&queue, &pod, LONG));
        tokio::select! {
            biased;
            _ = &mut second => panic!("the only place is taken"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(pod.queued.get(), 1);
        let third = enter(&queue, &pod, LONG).await.expect_err("one may wait");
        assert_eq!((third.stage, third.timed_out, third.sent), (Stage::Queue, false, false));
        drop(first);
        let second = second.await.expect("its turn has come");
        assert_eq!(pod.queued.get(), 0);
        drop(second);
        enter(&queue, &pod, LONG).await.expect("free again");
    }

    #[tokio::test]
    async fn a_queue_is_kept_as_long_as_somebody_may_come_to_it_or_has_a_place() {
        let (queues, metrics) = (Queues::default(), Metrics::new());
        let limits = config(Some(1), 1);
        let of = |name: String| queues.of(&Arc::from(name), &limits).expect("a limit");
        let known = || queues.by_pod.lock().expect("nobody panics").len();
        let (kept, tunnels) = (of("10.0.0.1:1".to_owned()), of("10.0.0.2:1".to_owned()));
        let place = enter(&tunnels, &metrics.pod("10.0.0.2:1"), LONG).await.expect("free");
        drop(tunnels);
        for n in 3..100 {
            drop(of(format!("10.0.0.{n}:1")));
        }
        assert_eq!(known(), 3, "those two and the last");
        let tunnels = of("10.0.0.2:1".to_owned());
        enter(&tunnels, &metrics.pod("10.0.0.2:1"), SHORT).await.expect_err("the tunnel has the only place");
        drop((place, tunnels, kept));
        drop(of("10.0.0.100:1".to_owned()));
        assert_eq!(known(), 1);
    }

    #[tokio::test]
    async fn a_sessions_request_is_next_and_where_the_queue_is_full_the_last_of_the_others_goes() {
        let (queues, metrics) = (Queues::default(), Metrics::new());
        let (name, pod) = (Arc::from("backend-0"), metrics.pod("backend-0"));
        let queue = queues.of(&name, &config(Some(1), 2)).expect("a limit");
        let place = enter(&queue, &pod, LONG).await.expect("free");
        let (mut first, mut last) = (pin!(enter(&queue, &pod, LONG)), pin!(enter(&queue, &pod, LONG)));
        waits(first.as_mut()).await;
        waits(last.as_mut()).await;
        let of_session = || queue.enter(ticket(Precedence::Session), &pod, Instant::now() + LONG);
        let (mut session, mut another) = (pin!(of_session()), Box::pin(of_session()));
        waits(session.as_mut()).await;
        assert!(!last.await.expect_err("the queue has two").timed_out);
        drop(place);
        let place = session.await.expect("its turn");
        waits(first.as_mut()).await;
        waits(another.as_mut()).await;
        // It has been handed to one who is gone before it was taken.
        drop((place, another));
        first.await.expect("it went on to the next");
    }

    #[tokio::test]
    async fn who_comes_from_another_line_keeps_its_turn() {
        let (queues, metrics) = (Queues::default(), Metrics::new());
        let (name, pod) = (Arc::from("backend-0"), metrics.pod("backend-0"));
        let queue = queues.of(&name, &config(Some(1), 2)).expect("a limit");
        let place = enter(&queue, &pod, LONG).await.expect("free");
        let earlier = ticket(Precedence::Other);
        let (mut first, mut last) = (pin!(enter(&queue, &pod, LONG)), pin!(enter(&queue, &pod, LONG)));
        waits(first.as_mut()).await;
        waits(last.as_mut()).await;
        // By two names of the pod, which takes two of the line's places.
        let mut both = [(); 2].map(|()| Box::pin(queue.enter(earlier, &pod, Instant::now() + LONG)));
        for one in &mut both {
            waits(one.as_mut()).await;
        }
        last.await.expect_err("the queue has two");
        first.await.expect_err("the queue has two");
        assert!(!enter(&queue, &pod, LONG).await.expect_err("it is full").timed_out);
        drop(place);
        let [one, other] = both;
        let place = one.await.expect("its turn");
        drop(place);
        other.await.expect("its turn");
    }

    #[tokio::test]
    async fn a_wait_ends() {
        let metrics = Metrics::new();
        let (name, pod) = (Arc::from("backend-0"), metrics.pod("backend-0"));
        let queue = Queues::default().of(&name, &config(Some(1), 1)).expect("a limit");
        let _taken = enter(&queue, &pod, LONG).await.expect("free");
        let failure = enter(&queue, &pod, SHORT).await.expect_err("nobody leaves");
        assert_eq!((failure.stage, failure.timed_out), (Stage::Queue, true));
        assert_eq!(pod.queued.get(), 0);
    }
}
