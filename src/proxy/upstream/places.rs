//! Places at pods, where `--pod-max-connections` limits them: at the one pod that will do, or at whichever of several has one
//! first.
//!
//! A request may wait in several lines at once, one a pod, and leaves the others when its turn has come in one. In each it
//! stands by the same ticket, so that it loses nothing by going from one to another.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Pool;
use crate::core::decision::{Failure, Stage};
use crate::proxy::endpoint::Endpoint;
use crate::proxy::queue::{Place, Queue, Ticket};

/// How often somebody who waits for a place looks whether that is still where to wait. DNS and the directory are asked no
/// more often than their answers last.
pub(in crate::proxy) const LOOK: Duration = Duration::from_millis(500);

/// How long an answer of DNS' is waited for that could spare a request its refusal: what a name server takes that is there.
const ANSWER: Duration = Duration::from_millis(100);

impl Pool {
    /// A place at the pod, if one is free.
    pub(in crate::proxy) fn try_enter(&self, pod: &Endpoint) -> Option<Place> {
        pod.queue()?.try_enter()
    }

    /// The number of a request that begins to wait, for its ticket.
    pub(in crate::proxy) fn draw(&self) -> u64 {
        self.queues.draw()
    }

    /// A place at the first of these pods that has one, and which of them that is. One that `would_do` no longer by then is left
    /// out, unless it is the last.
    ///
    /// # Errors
    ///
    /// [`Stage::Queue`]: all queues are full, or none had a place `until` then.
    pub(in crate::proxy) async fn enter_first(
        &self,
        pods: &[Rc<Endpoint>],
        would_do: impl Fn(usize) -> bool,
        ticket: Ticket,
        until: Instant,
    ) -> Result<(usize, Place), Failure> {
        let mut failure = Failure { stage: Stage::Queue, sent: false, timed_out: false };
        let entering = |pod| Box::pin(self.enter(pod, ticket, until));
        let mut lines: Vec<_> = pods.iter().map(|pod| entering(pod)).enumerate().collect();
        let mut lines_left = lines.len();
        poll_fn(|cx| {
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
                None => Poll::Pending,
            }
        })
        .await
    }

    /// A place at the pod, whose queue may be another by the time that there is one.
    async fn enter(&self, pod: &Endpoint, ticket: Ticket, until: Instant) -> Result<Place, Failure> {
        let none = Failure { stage: Stage::Queue, sent: false, timed_out: false };
        let mut queue = pod.queue().ok_or(none)?;
        loop {
            let entered = tokio::select! {
                biased;
                // First, or a queue that is full would be the answer of a pod that has gone elsewhere.
                moved = self.queue_elsewhere(pod, &queue) => Err(moved),
                entered = queue.enter(ticket, pod.metrics(), until) => Ok(entered),
            };
            queue = match entered {
                Err(elsewhere) => elsewhere,
                // So would it be where DNS' last answer is over and the next is on its way.
                Ok(Err(full)) if !full.timed_out => {
                    let _ = tokio::time::timeout(ANSWER, self.follow(pod)).await;
                    pod.queue_other_than(&queue).ok_or(full)?
                }
                Ok(place) => return place,
            };
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
