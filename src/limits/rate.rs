//! How often each client does something.
//!
//! `governor` does the arithmetic (GCRA: one number a client). Its own stores keep a client until somebody sweeps them;
//! here it is the cache that the directory's answers are in too, which holds so many and not more. Who has been seen
//! once makes way for who comes often, so that a crowd of strangers does not free those who are being limited.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use quick_cache::sync::Cache;

use crate::core::prefix::Prefix;
use crate::core::rate::{Exceeded, Rate};

/// Clients that a limit remembers, at about 100 bytes each.
pub const CLIENTS: usize = 65_536;

/// One rate, and how far each client has used it.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    clock: Since,
    /// What governor counts from, or a moment later.
    zero: Duration,
    cells: RateLimiter<Prefix, Cells, Since, NoOpMiddleware<Duration>>,
    /// The same cells, which governor does not let go.
    known: Arc<Cache<Prefix, Arc<AtomicU64>>>,
}

/// One that was taken.
#[derive(Clone, Copy, Debug)]
#[must_use = "it is either spent or given back"]
pub struct Turn {
    client: Prefix,
    /// When time gives it back, in nanoseconds since the limiter was made.
    until: u64,
}

/// What governor remembers of each client: nanoseconds since the limiter was made, 0 for nothing.
#[derive(Debug)]
struct Cells(Arc<Cache<Prefix, Arc<AtomicU64>>>);

/// The time since the limiter was made. governor's own clocks come with its `std`, and that with an executor's parts.
#[derive(Clone, Copy, Debug)]
struct Since(Instant);

// === impl Limiter ===

impl Limiter {
    /// A limiter that nobody has used yet.
    pub fn new(rate: Rate) -> Self {
        Self::remembering(rate, CLIENTS)
    }

    fn remembering(rate: Rate, clients: usize) -> Self {
        let at_once = NonZeroU32::MIN.saturating_add(rate.burst);
        let quota = Quota::with_period(rate.interval()).expect("a rate has an interval").allow_burst(at_once);
        let clock = Since(Instant::now());
        let known = Arc::new(Cache::new(clients));
        let cells = RateLimiter::new(quota, Cells(Arc::clone(&known)), clock);
        Self { rate, clock, zero: clock.now(), cells, known }
    }

    /// Takes one of what this client may have.
    ///
    /// # Errors
    ///
    /// There is none now.
    pub fn take(&self, client: Prefix) -> Result<Turn, Exceeded> {
        let taken = self.cells.check_key(&client);
        taken.map_err(|until| Exceeded::new(self.rate, until.wait_time_from(self.clock.now())))?;
        Ok(Turn { client, until: self.known.get(&client).map_or(0, |cell| cell.load(Ordering::Relaxed)) })
    }

    /// Gives one back that was taken, because it turned out not to count.
    pub fn give_back(&self, turn: Turn) {
        self.give_back_at(turn, self.clock.now().saturating_sub(self.zero));
    }

    /// What time has given back already is not given back again: it would be somebody else's.
    fn give_back_at(&self, turn: Turn, now: Duration) {
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let left = turn.until.saturating_sub(nanoseconds(now)).min(nanoseconds(self.rate.interval()));
        if let Some(cell) = self.known.get(&turn.client) {
            let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| Some(until.saturating_sub(left)));
        }
    }
}

// === impl Cells ===

impl StateStore for Cells {
    type Key = Prefix;

    fn measure_and_replace<T, F, E>(&self, client: &Prefix, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let cell = match self.0.get(client) {
            Some(cell) => cell,
            None => self.0.get_or_insert_with(client, || Ok(Arc::default()))?,
        };
        let mut before = cell.load(Ordering::Relaxed);
        loop {
            let (outcome, after) = decide(NonZeroU64::new(before).map(|before| Nanos::from(before.get())))?;
            match cell.compare_exchange_weak(before, after.into(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(outcome),
                Err(now) => before = now,
            }
        }
    }
}

// === impl Since ===

impl Clock for Since {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One an hour: no test takes so long that there would be one more.
    const HOURLY: Rate = Rate { number: 1, per: Duration::from_secs(3600), burst: 2 };

    fn client(number: u32) -> Prefix {
        Prefix::of(number.to_be_bytes().into())
    }

    /// Takes one that there is.
    #[track_caller]
    fn spend(limiter: &Limiter, number: u32) {
        let _spent = limiter.take(client(number)).expect("there is one");
    }

    #[test]
    fn the_burst_is_on_top_of_the_rate() {
        let limiter = Limiter::new(HOURLY);
        for _ in 0..3 {
            spend(&limiter, 1);
        }
        assert_eq!(limiter.take(client(1)).expect_err("it is used up").wait, 3600);
        spend(&limiter, 2);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let limiter = Limiter::new(HOURLY);
        for _ in 0..100 {
            let turn = limiter.take(client(1)).expect("there is one");
            limiter.give_back(turn);
        }
        (0..2).for_each(|_| spend(&limiter, 1));
        let last = limiter.take(client(1)).expect("there is one");
        assert!(limiter.take(client(1)).is_err());
        limiter.give_back(last);
        spend(&limiter, 1);
        assert!(limiter.take(client(1)).is_err());
        spend(&limiter, 2);
    }

    /// Where an interval is shorter than what is waited for, time is the first to give back.
    #[test]
    fn nothing_is_given_back_twice() {
        const HOUR: Duration = HOURLY.per;
        for (after, left) in [(Duration::ZERO, 2), (2 * HOUR, 1), (5 * HOUR, 1)] {
            let limiter = Limiter::new(HOURLY);
            let early = limiter.take(client(1)).expect("there is one");
            spend(&limiter, 1);
            limiter.give_back_at(early, after);
            let more = (0..9).take_while(|_| limiter.take(client(1)).is_ok()).count();
            assert_eq!(more, left, "given back after {after:?}");
        }
    }

    #[test]
    fn what_was_taken_comes_back_with_time() {
        let limiter = Limiter::new(Rate { number: 1000, per: Duration::from_secs(1), burst: 0 });
        spend(&limiter, 1);
        while limiter.take(client(1)).is_err() {
            std::thread::yield_now();
        }
    }

    /// Strangers in any number are forgotten, and do not have those forgotten who come often.
    #[test]
    fn so_many_clients_are_remembered_and_not_more() {
        let limiter = Limiter::remembering(HOURLY, 1000);
        let regular = client(0);
        while limiter.take(regular).is_ok() {}
        for stranger in 1..100_000 {
            spend(&limiter, stranger);
            if stranger % 100 == 0 {
                assert!(limiter.take(regular).is_err(), "forgotten after {stranger} strangers");
            }
        }
        assert!(limiter.known.len() <= 1000);
    }

    #[test]
    fn threads_together_take_no_more_than_there_is() {
        let limiter = Limiter::new(Rate { burst: 999, ..HOURLY });
        let taken: usize = std::thread::scope(|scope| {
            let takers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).filter(|_| limiter.take(client(1)).is_ok()).count())).collect();
            takers.into_iter().map(|taker| taker.join().expect("no panic")).sum()
        });
        assert_eq!(taken, 1000);
    }
}
