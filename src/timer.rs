//! A timer for one deadline after the other.
//!
//! Deadlines move away all the time, with each request and each piece of a body, and hardly any is ever reached. So a timer that
//! is early is left as it is and set again when it fires, which costs a turn of its task now and then instead of two changes to
//! the runtime's wheel each time. Most of what waits has no timer yet, or never one: it is made when it is first polled.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// A timer, made when it is first wanted.
#[derive(Debug, Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready when `deadline` has passed. Polled again after that, it is set again.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline.into())));
        loop {
            if timer.deadline() > deadline.into() || timer.is_elapsed() {
                timer.as_mut().reset(deadline.into());
            }
            ready!(timer.as_mut().poll(cx));
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
        }
    }

    /// Whether it will wake the task that has polled it last.
    pub fn is_running(&self) -> bool {
        self.0.as_ref().is_some_and(|timer| !timer.is_elapsed())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;
    use std::time::Duration;

    use super::*;

    fn deadline(timer: &Timer) -> Option<Instant> {
        timer.0.as_ref().map(|timer| timer.deadline().into_std())
    }

    fn look(timer: &mut Timer, deadline: Instant) -> Poll<()> {
        timer.poll(&mut Context::from_waker(Waker::noop()), deadline)
    }

    #[tokio::test]
    async fn it_is_set_for_the_nearest_deadline_and_left_for_later_ones() {
        let (mut timer, now) = (Timer::default(), Instant::now());
        let [near, far, farther] = [100, 200, 300].map(|seconds| now + Duration::from_secs(seconds));
        assert!(!timer.is_running() && deadline(&timer).is_none(), "none is made before it is wanted");
        for (next, set) in [(far, far), (farther, far), (near, near)] {
            assert!(look(&mut timer, next).is_pending() && timer.is_running());
            assert_eq!(deadline(&timer), Some(set));
        }
    }

    #[tokio::test]
    async fn one_that_is_early_is_set_again_and_one_that_has_fired_as_well() {
        let (mut timer, since) = (Timer::default(), Instant::now());
        let [early, late, last] = [10, 40, 60].map(|milliseconds| since + Duration::from_millis(milliseconds));
        assert!(look(&mut timer, early).is_pending());
        for deadline in [late, last] {
            poll_fn(|cx| timer.poll(cx, deadline)).await;
            assert!(since.elapsed() >= deadline - since && !timer.is_running());
        }
    }
}
