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

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::sleep;

use super::outlook::Outlook;
use super::sentinels::Sentinels;
use super::session::{PING_INTERVAL, Pause, Session, unanswered, within};
use super::settings::Settings;
use super::words::in_words;
use crate::directory::DirectoryError;

/// Pings in a row that may fail before the connection is replaced. The first one already takes the link down.
const MAX_FAILED_PINGS: u32 = 3;

/// Questions in a row that may time out before the link is taken down without waiting for the next ping.
const MAX_TIMEOUTS: u32 = 3;

/// Questions at a time, of one thread. Beyond it Redis is not asked: those before would time out as well.
pub(super) const MAX_IN_FLIGHT: usize = 10_000;

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
        let mut pause = Pause::default();
        for attempt in 0.. {
            let opened = self.open(attempt).await;
            let is_open = opened.is_ok();
            let why = match opened {
                Ok(session) => self.attend(session).await,
                Err(why) => why,
            };
            self.set_down(why);
            pause.after(is_open).await;
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

fn replaced(master: &str) -> String {
    format!("Sentinel has another master now, {master}")
}
