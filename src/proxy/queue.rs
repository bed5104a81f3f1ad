//! `--pod-max-connections`: places at a pod, and the bounded queue in front of them.
//!
//! A pod has one queue for all worker threads, since the limit is the process's: that of the address its connections lead to,
//! so that it is one for all its names. Until it has been reached, it is that of the name. Without a limit there is no queue, and a
//! request pays nothing for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::UpstreamConfig;
use crate::core::decision::{Failure, Stage};
use crate::metrics::{Held, Metrics, PodMetrics, seconds};

/// The queues of all pods, as long as somebody may come to one: where pods go by their addresses, old ones pile up.
#[derive(Clone, Debug, Default)]
pub struct Queues(Arc<Mutex<HashMap<Arc<str>, Arc<Queue>>>>);

/// The places at one pod, and who waits for one.
#[derive(Debug)]
pub(super) struct Queue {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    limit: usize,
    metrics: Arc<Metrics>,
}

/// A place at a pod, given back on drop.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// One of those who wait, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Queues {
    /// The queue of a pod, where there is a limit.
    pub(super) fn of(&self, pod: &Arc<str>, config: &UpstreamConfig, metrics: &Arc<Metrics>) -> Option<Arc<Queue>> {
        let max = config.max_connections?;
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !queues.contains_key(pod) {
            // A tunnel has its place for longer than its thread remembers the pod.
            queues.retain(|_, queue| Arc::strong_count(queue) > 1 || queue.places.available_permits() < max);
        }
        let queue = queues.entry(Arc::clone(pod)).or_insert_with(|| {
            Arc::new(Queue {
                places: Arc::new(Semaphore::new(max)),
                waiting: AtomicUsize::new(0),
                limit: config.queue,
                metrics: Arc::clone(metrics),
            })
        });
        Some(Arc::clone(queue))
    }
}

impl Queue {
    /// A place, if one is free and nobody waits.
    pub(super) fn try_enter(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(Place)
    }

    /// A place, at once or after a wait.
    ///
    /// # Errors
    ///
    /// [`Stage::Queue`]: the queue is full, or the wait was in vain.
    pub(super) async fn enter(&self, pod: &PodMetrics, until: Instant) -> Result<Place, Failure> {
        if let Some(place) = self.try_enter() {
            return Ok(place);
        }
        let full = |timed_out| Failure { stage: Stage::Queue, sent: false, timed_out };
        let _waiting = Waiting::join(&self.waiting, self.limit).ok_or(full(false))?;
        let _queued = Held::new(&pod.queued);
        let since = Instant::now();
        let place = tokio::time::timeout_at(until.into(), Arc::clone(&self.places).acquire_owned()).await;
        self.metrics.queue_duration.observe(seconds(since.elapsed()));
        place.map(|place| Place(place.expect("the places are never closed"))).map_err(|_| full(true))
    }
}

impl<'a> Waiting<'a> {
    fn join(waiting: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let joined =
            waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < limit).then_some(count + 1));
        joined.ok().map(|_| Self(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(5);

    async fn enter(queue: &Queue, pod: &PodMetrics, patience: Duration) -> Result<Place, Failure> {
        queue.enter(pod, Instant::now() + patience).await
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
            pod_networks: None,
        }
    }

    #[tokio::test]
    async fn places_are_handed_on_and_the_queue_is_bounded() {
        let (queues, metrics) = (Queues::default(), Arc::new(Metrics::new()));
        let (name, pod) = (Arc::from("backend-0"), metrics.pod("backend-0"));
        assert!(queues.of(&name, &config(None, 1), &metrics).is_none());
        let limits = config(Some(1), 1);
        let queue = queues.of(&name, &limits, &metrics).expect("a limit");
        let again = queues.of(&name, &limits, &metrics).expect("a limit");
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
        assert_eq!((pod.queued.get(), metrics.queue_duration.get_sample_count()), (0, 1));
        drop(second);
        enter(&queue, &pod, LONG).await.expect("free again");
    }

    #[tokio::test]
    async fn a_queue_is_kept_as_long_as_somebody_may_come_to_it_or_has_a_place() {
        let (queues, metrics) = (Queues::default(), Arc::new(Metrics::new()));
        let limits = config(Some(1), 1);
        let of = |name: String| queues.of(&Arc::from(name), &limits, &metrics).expect("a limit");
        let known = || queues.0.lock().expect("nobody panics").len();
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
    async fn a_wait_ends() {
        let metrics = Arc::new(Metrics::new());
        let (name, pod) = (Arc::from("backend-0"), metrics.pod("backend-0"));
        let queue = Queues::default().of(&name, &config(Some(1), 1), &metrics).expect("a limit");
        let _taken = enter(&queue, &pod, LONG).await.expect("free");
        let failure = enter(&queue, &pod, SHORT).await.expect_err("nobody leaves");
        assert_eq!((failure.stage, failure.timed_out), (Stage::Queue, true));
        assert_eq!(pod.queued.get(), 0);
    }
}
