//! How long a client's connection may take for what: to begin a request, to complete its head, to take its answer.
//!
//! One timer for the whole connection, set again when it fires or when something new has to be waited for, and not for
//! every request: a request that comes and is answered in the usual way costs two looks at a flag. How long a request's
//! body may take is watched where it is wanted (`proxy/exchange.rs`).

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::proxy::Downstream;

/// The limits of all connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// `--downstream-idle`.
    pub(super) idle: Duration,
    /// `--header-timeout`.
    pub(super) head: Duration,
    /// `--write-stall`.
    pub(super) write: Duration,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The next request.
    Idle,
    /// The rest of a request's head.
    Head,
    /// The client's taking what there is for it.
    Write,
}

/// One connection's clock.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// The head that is incomplete, by its number, and since when.
    head: Option<(u64, Instant)>,
    /// The write that is not taken, by its number, and since when.
    write: Option<(u64, Instant)>,
    /// When a write was taken last that had to wait.
    taken: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Ready when something has taken too long. Always called from the connection's task, after the connection itself:
    /// once set, the timer wakes it without being asked again.
    pub(super) fn poll(&mut self, limits: &Limits, downstream: &Downstream, cx: &mut Context<'_>) -> Poll<Overdue> {
        let (head, write) = (downstream.incomplete_head(), downstream.stuck_write());
        let as_before = head == self.head.map(|(number, _)| number) && write == self.write.map(|(number, _)| number);
        if as_before && self.timer.as_ref().is_some_and(|timer| !timer.is_elapsed()) {
            return Poll::Pending;
        }
        let mut now = Instant::now();
        if self.write.is_some() {
            self.taken = Some(now);
        }
        follow(&mut self.head, head, now);
        follow(&mut self.write, write, now);
        loop {
            let (deadline, overdue) = self.nearest(limits, downstream.idle_since().unwrap_or(now));
            if deadline <= now {
                return Poll::Ready(overdue);
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
            // What is over by now only moves the deadline away: a timer that is early is set anew when it fires.
            if timer.deadline() > deadline.into() || timer.is_elapsed() {
                timer.as_mut().reset(deadline.into());
            }
            ready!(timer.as_mut().poll(cx));
            now = Instant::now();
        }
    }

    fn nearest(&self, limits: &Limits, idle_since: Instant) -> (Instant, Overdue) {
        let head = self.head.map(|(_, since)| (since + limits.head, Overdue::Head));
        let write = self.write.map(|(_, since)| (since + limits.write, Overdue::Write));
        // A connection with either under way is not idle, though no request has begun or all have ended.
        let under_way = [head, write].into_iter().flatten().min_by_key(|(deadline, _)| *deadline);
        under_way.unwrap_or_else(|| {
            let since = self.taken.map_or(idle_since, |taken| taken.max(idle_since));
            (since + limits.idle, Overdue::Idle)
        })
    }
}

/// Notes when something new has to be waited for.
fn follow(since: &mut Option<(u64, Instant)>, number: Option<u64>, now: Instant) {
    if since.map(|(known, _)| known) != number {
        *since = number.map(|number| (number, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest deadline at `now`, at which these began.
    fn nearest(now: Instant, head: bool, write: bool) -> (Duration, Overdue) {
        let second = Duration::from_secs(1);
        let limits = Limits { idle: second, head: 10 * second, write: 60 * second };
        let begun = |is_begun: bool| is_begun.then_some((0, now));
        let patience = Patience { head: begun(head), write: begun(write), ..Patience::default() };
        let (deadline, overdue) = patience.nearest(&limits, now);
        (deadline - now, overdue)
    }

    /// The end of a response may wait in hyper's buffer after the request is over: cut as idle, it would be truncated.
    #[test]
    fn a_connection_on_which_something_is_under_way_is_not_idle() {
        let now = Instant::now();
        assert_eq!(nearest(now, false, false), (Duration::from_secs(1), Overdue::Idle));
        assert_eq!(nearest(now, true, false), (Duration::from_secs(10), Overdue::Head));
        assert_eq!(nearest(now, false, true), (Duration::from_secs(60), Overdue::Write));
        assert_eq!(nearest(now, true, true), (Duration::from_secs(10), Overdue::Head));
    }

    /// What was taken last may have been taken long after its request was over.
    #[test]
    fn a_connection_is_idle_since_it_took_what_it_had_to_wait_for() {
        let (second, now) = (Duration::from_secs(1), Instant::now());
        let limits = Limits { idle: second, head: second, write: second };
        for (taken, idle_until) in [(None, 1), (Some(now + second), 2), (Some(now - second), 1)] {
            let patience = Patience { taken, ..Patience::default() };
            assert_eq!(patience.nearest(&limits, now), (now + idle_until * second, Overdue::Idle));
        }
    }
}
