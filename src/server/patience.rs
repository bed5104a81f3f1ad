//! How long a client's connection may take for what: to begin a request, to complete its head, to take its answer.
//!
//! One timer for the whole connection, looked at when it fires or when something new has to be waited for, and not for
//! every request: a request that comes and is answered in the usual way costs two looks at a flag. A young connection has
//! none yet: nothing is over within its first second, and many are over before that themselves. How long a request's body may
//! take is watched where it is wanted (`proxy/exchange.rs`).

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::proxy::Downstream;
use crate::timer::Timer;

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
    timer: Timer,
}

impl Patience {
    /// Ready when something has taken too long. Always called from the connection's task, after the connection itself:
    /// that is woken at the end of its youth and by the timer, without being asked again.
    pub(super) fn poll(&mut self, limits: &Limits, downstream: &Downstream, cx: &mut Context<'_>) -> Poll<Overdue> {
        let (head, write) = (downstream.incomplete_head(), downstream.stuck_write());
        let as_before = head == self.head.map(|(number, _)| number) && write == self.write.map(|(number, _)| number);
        let is_young = downstream.youth.spares([limits.idle, limits.head, limits.write]);
        if as_before && (is_young || self.timer.is_running()) {
            return Poll::Pending;
        }
        let now = Instant::now();
        if self.write.is_some() {
            self.taken = Some(now);
        }
        follow(&mut self.head, head, now);
        follow(&mut self.write, write, now);
        if is_young {
            return Poll::Pending;
        }
        let (deadline, overdue) = self.nearest(limits, downstream.idle_since().unwrap_or(now));
        self.timer.poll(cx, deadline).map(|()| overdue)
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
    use std::rc::Rc;
    use std::sync::Arc;

    use prometheus::IntGauge;

    use super::*;
    use crate::core::forwarded::Client;
    use crate::drain::Roster;
    use crate::drain::tests::Wakes;
    use crate::limits::Places;
    use crate::metrics::Held;
    use crate::proxy::{Nursery, Permit, SECOND};

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

    #[tokio::test]
    async fn the_young_have_no_timer_unless_something_is_over_within_their_first_second() {
        let (long, gauge) =
            (Duration::from_secs(60), IntGauge::new("connections", "Those of this test.").expect("a gauge"));
        for (limit, is_timed) in [(long, false), (SECOND, true)] {
            let roster = Roster::new();
            let (nursery, member) = (Rc::new(Nursery::new(Rc::clone(&roster))), roster.join());
            let permit = Permit::new(Places::new(1).take().expect("there is one"), Held::new(&gauge));
            let downstream = Downstream::new(Client::new([192, 0, 2, 1].into(), &[]), permit, nursery.youth(&member));
            let limits = Limits { idle: limit, head: long, write: long };
            let (mut patience, task) = (Patience::default(), Arc::new(Wakes::default()));
            member.enrol(&task.waker());
            let mut look = || {
                let waker = task.waker();
                assert!(patience.poll(&limits, &downstream, &mut Context::from_waker(&waker)).is_pending());
                patience.timer.is_running()
            };
            assert_eq!((look(), look()), (is_timed, is_timed), "{limit:?}");
            nursery.grow();
            assert!(look() && task.count() > 0, "{limit:?}: it has been woken, and has one now");
        }
    }
}
