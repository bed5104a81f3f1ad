//! Places at pods, where `--pod-max-connections` limits them: at the one pod that will do, or at whichever of several has one
//! first.
//!
//! A request may wait in several lines at once, one a pod, and leaves the others when its turn has come in one. What it
//! waits altogether, for however many pods and attempts, is `--pod-queue-timeout`.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Pool;
use crate::core::decision::{Failure, Stage};
use crate::proxy::endpoint::Endpoint;
use crate::proxy::queue::{Place, Precedence, Queue};

/// How often somebody who waits for a place looks whether the name leads elsewhere by now. DNS is asked no more often than
/// its answers last.
const LOOK: Duration = Duration::from_millis(500);

impl Pool {
    /// A place at the pod, if one is free.
    pub(in crate::proxy) fn try_enter(&self, pod: &Endpoint) -> Option<Place> {
        pod.queue()?.try_enter()
    }

    /// A place at the first of these pods that has one, and which of them that is. One that `would_do` no longer by then is left
    /// out, unless it is the last. What had to be waited is taken from `left`.
    ///
    /// # Errors
    ///
    /// [`Stage::Queue`]: all queues are full, or nothing was `left`.
    pub(in crate::proxy) async fn enter_first(
        &self,
        pods: &[Rc<Endpoint>],
        would_do: impl Fn(usize) -> bool,
        who: Precedence,
        left: &mut Duration,
    ) -> Result<(usize, Place), Failure> {
        let (since, mut has_waited) = (Instant::now(), false);
        let mut failure = Failure { stage: Stage::Queue, sent: false, timed_out: false };
        let entering = |pod| Box::pin(self.enter(pod, who, since + *left));
        let mut lines: Vec<_> = pods.iter().map(|pod| entering(pod)).enumerate().collect();
        let mut lines_left = lines.len();
        let entered = poll_fn(|cx| {
            let mut entered = None;
            lines.retain_mut(|(number, line)| {
                if entered.is_some() {
                    return false;
                }
                match line.as_mut().poll(cx) {
                    Poll::Pending => return true,
                    Poll::Ready(Ok(found)) if lines_left == 1 || would_do(*number) => entered = Some((*number, found)),
                    // The place is for who comes next.
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(why)) => failure.timed_out |= why.timed_out,
                }
                lines_left -= 1;
                false
            });
            match entered {
                Some(entered) => Poll::Ready(Ok(entered)),
                None if lines.is_empty() => Poll::Ready(Err(failure)),
                None => {
                    has_waited = true;
                    Poll::Pending
                }
            }
        });
        let entered = entered.await;
        if has_waited {
            *left = left.saturating_sub(since.elapsed());
        }
        entered
    }

    /// A place at the pod, whose queue may be another by the time that there is one.
    async fn enter(&self, pod: &Endpoint, who: Precedence, until: Instant) -> Result<Place, Failure> {
        let none = Failure { stage: Stage::Queue, sent: false, timed_out: false };
        let mut queue = pod.queue().ok_or(none)?;
        loop {
            let entered = tokio::select! {
                biased;
                // First, or a queue that is full would be the answer of a pod that has gone elsewhere.
                moved = self.queue_elsewhere(pod, &queue) => Err(moved),
                entered = queue.enter(who, pod.metrics(), until) => Ok(entered),
            };
            match entered {
                Ok(place) => return place,
                Err(elsewhere) => queue = elsewhere,
            }
        }
    }

    /// The queue to wait in once the name does not lead any more to the address that this one is of.
    async fn queue_elsewhere(&self, pod: &Endpoint, queue: &Arc<Queue>) -> Arc<Queue> {
        loop {
            self.follow(pod).await;
            if let Some(now) = pod.queue_other_than(queue) {
                return now;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
