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
    cells: RateLimiter<Prefix, Cells, Since, NoOpMiddleware<Duration>>,
    /// The same cells, which governor does not let go.
    known: Arc<Cache<Prefix, Arc<AtomicU64>>>,
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
        Self { rate, clock, cells: RateLimiter::new(quota, Cells(Arc::clone(&known)), clock), known }
    }

    /// Takes one of what this client may have.
    ///
    /// # Errors
    ///
    /// There is none now.
    pub fn take(&self, client: Prefix) -> Result<(), Exceeded> {
        let taken = self.cells.check_key(&client);
        taken.map_err(|until| Exceeded::new(self.rate, until.wait_time_from(self.clock.now())))
    }

    /// Gives one back that was taken, because it turned out not to count.
    pub fn give_back(&self, client: Prefix) {
        if let Some(cell) = self.known.get(&client) {
            let one = u64::try_from(self.rate.interval().as_nanos()).unwrap_or(u64::MAX);
            // Less than what was taken is left only where it has come back with time already: then there is nothing to do.
            let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| until.checked_sub(one));
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

    #[test]
    fn the_burst_is_on_top_of_the_rate() {
        let limiter = Limiter::new(HOURLY);
        for _ in 0..3 {
            assert_eq!(limiter.take(client(1)), Ok(()));
        }
        assert_eq!(limiter.take(client(1)).map_err(|exceeded| exceeded.wait), Err(3600));
        assert_eq!(limiter.take(client(2)), Ok(()), "another client");
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let limiter = Limiter::new(HOURLY);
        for _ in 0..100 {
            assert_eq!(limiter.take(client(1)), Ok(()));
            limiter.give_back(client(1));
        }
        (0..3).for_each(|_| assert_eq!(limiter.take(client(1)), Ok(())));
        assert!(limiter.take(client(1)).is_err());
        limiter.give_back(client(1));
        limiter.give_back(client(2));
        assert!(limiter.take(client(1)).is_ok() && limiter.take(client(1)).is_err() && limiter.take(client(2)).is_ok());
    }

    #[test]
    fn what_was_taken_comes_back_with_time() {
        let limiter = Limiter::new(Rate { number: 1000, per: Duration::from_secs(1), burst: 0 });
        assert_eq!(limiter.take(client(1)), Ok(()));
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
            assert_eq!(limiter.take(client(stranger)), Ok(()));
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
