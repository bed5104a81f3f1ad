//! A thread's connection to Redis: one at a time, replaced whole when it is no good.
//!
//! fred's own idea of being connected is not used. It says connected while it sleeps before the first retry,
//! keeps callers waiting in its queue, ends for good on some errors, and waits up to 5 s to close a connection
//! that no longer answers. So a client here lives as long as its one connection. A single task opens it, pings
//! it, and on any doubt drops it, socket and queue, and opens another.
//!
//! Up means: the last ping was answered, and the last lookups did not all time out. While the link is down,
//! every question is answered [`DirectoryError::Unavailable`] at once; nothing queues, because a request that
//! waits for Redis would only wait in two places.
//!
//! Behind Sentinel only the master will do, by what the Sentinels say (`sentinels`): one that they have replaced still
//! answers. In a Cluster the link is up while all primaries answer: fred opens a connection to each or to none. While
//! a slot is on its way between two of them, rooms of it that have left already cannot be asked for.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::outlook::Outlook;
use super::sentinels::Sentinels;
use super::session::Session;
use super::settings::Settings;
use super::words::in_words;
use crate::directory::DirectoryError;

/// Between two pings.
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(500);

/// Pings in a row that may fail before the connection is replaced. The first one already takes the link down.
const MAX_FAILED_PINGS: u32 = 3;

/// Questions in a row that may time out before the link is taken down without waiting for the next ping.
const MAX_TIMEOUTS: u32 = 3;

/// Parts that a time limit is waited for in, at most. A command takes a thread that is behind three turns: to write it, to read
/// what is answered, and to come back to whoever has asked. A question may have two.
const MOST_PARTS: u32 = 8;

/// The shortest such part: the runtime's clock counts milliseconds, and each part may be one longer.
const LEAST_PART: Duration = Duration::from_millis(10);

/// Questions at a time, of one thread. Beyond it Redis is not asked: those before would time out as well.
pub(super) const MAX_IN_FLIGHT: usize = 10_000;

/// Between two attempts, doubling from the first to the second, less up to half of it at random. No longer,
/// so that a server that is back is asked again within a second or so.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// One thread's way to Redis, and whether it is open.
pub(super) struct Link {
    settings: Arc<Settings>,
    sentinels: Arc<Sentinels>,
    outlook: Arc<Outlook>,
    started: AtomicBool,
    state: RwLock<State>,
    /// Wakes the task: a ping is due now.
    doubt: Notify,
    /// Whether Redis has answered once.
    contact: watch::Sender<bool>,
    pub(super) in_flight: Semaphore,
}

enum State {
    /// Nothing is known yet.
    Starting,
    Up(Arc<Period>),
    /// Why.
    Down(String),
}

/// From coming up to going down. Questions hold the period they were asked in, so that a burst of timeouts
/// that begins before a ping is answered does not take the link down again after it.
struct Period {
    client: Client,
    /// Questions in a row that timed out.
    timeouts: AtomicU32,
}

// === impl Link ===

impl Link {
    pub(super) fn new(settings: Arc<Settings>, sentinels: Arc<Sentinels>, outlook: Arc<Outlook>) -> Self {
        Self {
            settings,
            sentinels,
            outlook,
            started: AtomicBool::new(false),
            state: RwLock::new(State::Starting),
            doubt: Notify::new(),
            contact: watch::Sender::new(false),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
        }
    }

    /// Spawns the task that keeps the connection, once; whether this was the time.
    pub(super) fn start(self: &Arc<Self>) -> bool {
        let first = !self.started.swap(true, Ordering::Relaxed);
        if first {
            tokio::spawn(self.clone().keep());
        }
        first
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.read().unwrap_or_else(PoisonError::into_inner), State::Up(_))
    }

    pub(super) async fn first_contact(&self) {
        // The sender is ours, so the wait cannot fail.
        let _ = self.contact.subscribe().wait_for(|contact| *contact).await;
    }

    /// Asks Redis, within the deadline. The question may be put twice.
    pub(super) async fn ask<T, Q>(&self, question: impl Fn(Client) -> Q) -> Result<T, DirectoryError>
    where
        Q: Future<Output = Result<T, Error>>,
    {
        let period = self.period()?;
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return Err(DirectoryError::Unavailable(format!("{MAX_IN_FLIGHT} questions are already waiting")));
        };
        let answer = async {
            match question(period.client.clone()).await {
                // A slot of the Cluster has moved: fred does not follow (see `settings`), but knows the way now.
                Err(error) if *error.kind() == ErrorKind::Routing => question(period.client.clone()).await,
                answer => answer,
            }
        };
        match within(self.settings.timeout, answer).await {
            Some(Ok(answer)) => {
                if period.timeouts.load(Ordering::Relaxed) > 0 {
                    period.timeouts.store(0, Ordering::Relaxed);
                }
                Ok(answer)
            }
            Some(Err(error)) if *error.kind() != ErrorKind::Timeout => {
                Err(unanswered(&error, period.client.is_clustered()))
            }
            Some(Err(_)) | None => {
                if period.timeouts.fetch_add(1, Ordering::Relaxed) + 1 == MAX_TIMEOUTS {
                    self.distrust(&period);
                }
                Err(DirectoryError::Timeout)
            }
        }
    }

    fn period(&self) -> Result<Arc<Period>, DirectoryError> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Up(period) => Ok(period.clone()),
            State::Down(why) => Err(DirectoryError::Unavailable(why.clone())),
            State::Starting => Err(DirectoryError::Unavailable("not connected yet".to_owned())),
        }
    }

    /// Takes the link down after too many timeouts, and has it pinged at once.
    fn distrust(&self, period: &Arc<Period>) {
        if self.period().is_ok_and(|now| Arc::ptr_eq(&now, period)) {
            self.set_down(format!("{MAX_TIMEOUTS} questions in a row timed out"));
            self.doubt.notify_one();
        }
    }

    /// Opens connection after connection, for as long as the runtime lives.
    async fn keep(self: Arc<Self>) {
        let mut failures = 0;
        for attempt in 0.. {
            match self.open(attempt).await {
                Ok(session) => {
                    failures = 0;
                    let why = self.attend(session).await;
                    self.set_down(why);
                }
                Err(why) => {
                    failures += 1;
                    self.set_down(why);
                }
            }
            sleep(backoff(failures, fastrand::f64())).await;
        }
    }

    /// A connection that has answered, and not one to a server that is not the master any more.
    async fn open(&self, attempt: usize) -> Result<Session, String> {
        let session = Session::open(&self.settings, attempt).await?;
        match session.master().and_then(|server| self.sentinels.master_instead_of(&server)) {
            Some(master) => Err(replaced(&master)),
            None => Ok(session),
        }
    }

    /// Pings an open connection until it is no good any more, and says why.
    async fn attend(&self, mut session: Session) -> String {
        let server = session.master();
        let mut replacement = pin!(self.sentinels.replacement(server.as_deref()));
        let mut failed = 0;
        self.set_up(&session.client);
        loop {
            tokio::select! {
                why = session.ended() => return why,
                master = &mut replacement => return replaced(&master),
                () = self.doubt.notified() => {}
                () = sleep(PING_INTERVAL) => {}
            }
            match within(self.settings.timeout, session.ping()).await {
                Some(Ok(())) => {
                    failed = 0;
                    self.set_up(&session.client);
                }
                Some(Err(error)) => {
                    failed += 1;
                    self.set_down(in_words(&error));
                }
                None => {
                    failed += 1;
                    self.set_down("a ping timed out".to_owned());
                }
            }
            if failed == MAX_FAILED_PINGS {
                return format!("{MAX_FAILED_PINGS} pings in a row failed");
            }
        }
    }

    fn set_up(&self, client: &Client) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let was_down = match *state {
            State::Up(_) => return,
            State::Down(_) => true,
            State::Starting => false,
        };
        *state = State::Up(Arc::new(Period { client: client.clone(), timeouts: AtomicU32::new(0) }));
        // Under the lock, so that the outlook hears of the turns in their order.
        self.outlook.up(was_down, &self.settings.servers());
        drop(state);
        self.contact.send_replace(true);
    }

    fn set_down(&self, why: String) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let was_down = matches!(*state, State::Down(_));
        *state = State::Down(why.clone());
        self.outlook.down(was_down, &self.settings.servers(), &why);
    }
}

/// Waits for an answer, but for no longer than `limit` where the thread is on time. The limit is waited for in parts, and each
/// begins when the thread has come to the end of the one before: a thread that a storm of connections keeps busy, or that is
/// not let run for a while, hears late what Redis has said long ago, and would take its own lateness for Redis'.
pub(super) async fn within<T>(limit: Duration, answer: impl Future<Output = T>) -> Option<T> {
    let parts = u32::try_from(limit.as_millis() / LEAST_PART.as_millis()).unwrap_or(MOST_PARTS).clamp(1, MOST_PARTS);
    let mut answer = pin!(answer);
    for _ in 0..parts {
        if let Ok(answer) = timeout(limit / parts, answer.as_mut()).await {
            return Some(answer);
        }
    }
    None
}

fn replaced(master: &str) -> String {
    format!("Sentinel has another master now, {master}")
}

/// What an error other than a timeout means: a connection that failed, or an answer that says no. In a Cluster a slot may
/// be on its way, which is no refusal.
pub(super) fn unanswered(error: &Error, clustered: bool) -> DirectoryError {
    let on_its_way = clustered && matches!(error.kind(), ErrorKind::Routing | ErrorKind::Cluster);
    if on_its_way || matches!(error.kind(), ErrorKind::IO | ErrorKind::Canceled) {
        DirectoryError::Unavailable(in_words(error))
    } else {
        DirectoryError::Refused(error.details().to_owned())
    }
}

/// How long to wait before the next attempt; `roll` is from 0 to 1.
pub(super) fn backoff(failures: u32, roll: f64) -> Duration {
    let (least, most) = BACKOFF;
    let full = least.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most);
    full.mul_f64(1.0 - roll / 2.0)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::yield_now;

    use super::*;

    /// Each turn of the thread takes longer than there is time for an answer, which has come after two commands.
    #[tokio::test]
    async fn a_thread_that_is_late_has_its_turns_all_the_same() {
        let limit = 8 * LEAST_PART;
        let answer = async {
            for _ in 0..6 {
                std::thread::sleep(limit);
                yield_now().await;
            }
        };
        assert_eq!(within(limit, answer).await, Some(()));
        for limit in [Duration::ZERO, LEAST_PART / 10, limit] {
            assert_eq!(within(limit, pending::<()>()).await, None);
        }
    }

    #[test]
    fn attempts_come_slower_and_slower_but_never_slower_than_one_a_second() {
        let waits: Vec<u128> = (0..8).map(|failures| backoff(failures, 0.0).as_millis()).collect();
        assert_eq!(waits, [100, 100, 200, 400, 800, 1000, 1000, 1000]);
        assert_eq!(backoff(u32::MAX, 1.0), Duration::from_millis(500));
    }
}
