//! The end of the process, told to everything that has to end.
//!
//! [`Signal`] carries the [`Phase`] to all threads. Within a worker thread every connection and tunnel holds a
//! [`Member`] of that worker's [`Roster`]: it reads the phase as a plain cell on each poll (no lock, no atomic
//! on the hot path) and is woken once when the phase changes. A worker is done when its roster is empty.
//!
//! hyper-util's `GracefulShutdown` is not used: it cannot watch a connection that may upgrade and never
//! tracks tunnels (see `hyper_util::server::graceful`; axum-server issue 40).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use slab::Slab;
use tokio::sync::watch;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Normal service.
    Serving,
    /// SIGTERM has come. Still serving, but saying goodbye on every answer, so that the ingress lets go of
    /// its connections while new ones go elsewhere.
    LameDuck,
    /// No new connections. Whatever is in flight ends.
    Draining,
}

/// Sends the phase to all threads.
#[derive(Debug)]
pub struct Signal(watch::Sender<Phase>);

/// Receives the phase in one thread.
pub type Watch = watch::Receiver<Phase>;

/// The connections and tunnels of one worker thread.
#[derive(Debug)]
pub struct Roster {
    phase: Cell<Phase>,
    /// When [`Phase::Draining`] began.
    draining: Cell<Option<Instant>>,
    /// Whether the time to drain is over.
    cut: Cell<bool>,
    members: RefCell<Slab<Waker>>,
    waiting: RefCell<Option<Waker>>,
}

/// One connection's or tunnel's place in its worker's roster; leaves it on drop.
#[derive(Debug)]
pub struct Member {
    roster: Rc<Roster>,
    /// See [`Self::place`]. Of 32 bits, because tunnels are held by the thousand.
    place: u32,
    enrolled: Cell<bool>,
}

// === impl Signal ===

impl Signal {
    /// Starts in [`Phase::Serving`].
    pub fn new() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }

    /// A receiver for one thread.
    pub fn watch(&self) -> Watch {
        self.0.subscribe()
    }

    /// Moves on to a later phase; there is no way back.
    pub fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let later = to > *phase;
            *phase = to.max(*phase);
            later
        });
    }
}

impl Default for Signal {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Roster ===

impl Roster {
    /// An empty roster in [`Phase::Serving`].
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(Phase::Serving),
            draining: Cell::new(None),
            cut: Cell::new(false),
            members: RefCell::default(),
            waiting: RefCell::default(),
        })
    }

    /// The phase, as this worker knows it.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// A place for a new connection, and for the tunnel that it may become. It counts from now on.
    pub fn join(self: &Rc<Self>) -> Member {
        let place = self.members.borrow_mut().insert(Waker::noop().clone());
        let place = u32::try_from(place).expect("there are fewer open files");
        Member { roster: Rc::clone(self), place, enrolled: Cell::new(false) }
    }

    /// Follows the signal until [`Phase::Draining`], waking every member at each change.
    pub async fn follow(&self, mut watch: Watch) {
        loop {
            let phase = *watch.borrow_and_update();
            self.enter(phase);
            // The sender going away means the same as its last word.
            if phase == Phase::Draining || watch.changed().await.is_err() {
                return self.enter(Phase::Draining);
            }
        }
    }

    fn enter(&self, phase: Phase) {
        if phase == self.phase.replace(phase) {
            return;
        }
        if phase == Phase::Draining {
            self.draining.set(Some(Instant::now()));
        }
        let wakers: Vec<_> = self.members.borrow().iter().map(|(_, waker)| waker.clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes the member who has this [place](Member::place), if anybody has.
    pub fn wake(&self, place: usize) {
        let waker = self.members.borrow().get(place).cloned();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Says that whoever is left is cut off, by us.
    pub fn cut(&self) {
        self.cut.set(true);
    }

    /// Whether whoever is left is cut off.
    pub fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Ends once nobody is left.
    pub async fn emptied(&self) {
        poll_fn(|cx| {
            if self.members.borrow().is_empty() {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// How many are left.
    pub fn len(&self) -> usize {
        self.members.borrow().len()
    }

    /// Whether nobody is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// === impl Member ===

impl Member {
    /// The phase. Enrols the task to be woken when it changes: call it from within the task's `poll`.
    pub fn phase(&self, waker: &Waker) -> Phase {
        self.enrol(waker);
        self.roster.phase()
    }

    /// From now on this task is woken when the phase changes, and by [`Roster::wake`].
    pub fn enrol(&self, waker: &Waker) {
        if !self.enrolled.replace(true) {
            self.roster.members.borrow_mut()[self.place()] = waker.clone();
        }
    }

    /// Its place in the roster, which may be another's once it has left.
    pub fn place(&self) -> usize {
        self.place as usize
    }

    /// When the drain began, if it has.
    pub fn draining_since(&self) -> Option<Instant> {
        self.roster.draining.get()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // The waker goes last, when nothing is borrowed: it may be what keeps another member's task alive.
        let _waker = self.roster.members.borrow_mut().remove(self.place());
        if self.roster.is_empty()
            && let Some(waiting) = self.roster.waiting.borrow_mut().take()
        {
            waiting.wake();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    /// A task that counts how often it is woken.
    #[derive(Default)]
    pub(crate) struct Wakes(AtomicUsize);

    impl Wakes {
        pub(crate) fn waker(self: &Arc<Self>) -> Waker {
            Waker::from(Arc::clone(self))
        }

        pub(crate) fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn phases_only_move_forward() {
        let signal = Signal::new();
        let watch = signal.watch();
        signal.advance(Phase::Draining);
        signal.advance(Phase::LameDuck);
        assert_eq!(*watch.borrow(), Phase::Draining);
    }

    #[test]
    fn members_are_woken_at_a_change_and_the_last_one_ends_the_wait() {
        let roster = Roster::new();
        let woken = Arc::new(Wakes::default());
        let waker = woken.waker();
        let (one, two) = (roster.join(), roster.join());
        assert_eq!(one.phase(&waker), Phase::Serving);
        roster.enter(Phase::LameDuck);
        roster.enter(Phase::LameDuck);
        assert_eq!(woken.count(), 1, "once, and only who asked");
        assert_eq!(two.phase(&waker), Phase::LameDuck);
        roster.wake(one.place());
        assert_eq!(woken.count(), 2);
        roster.wake(two.place() + 1);
        assert_eq!(two.draining_since(), None);
        roster.enter(Phase::Draining);
        let since = two.draining_since().expect("the drain has begun");
        assert_eq!(roster.join().draining_since(), Some(since), "for whoever comes later as well");

        let mut emptied = pin!(roster.emptied());
        let mut cx = Context::from_waker(&waker);
        assert!(emptied.as_mut().poll(&mut cx).is_pending());
        drop(one);
        assert!(emptied.as_mut().poll(&mut cx).is_pending());
        let before = woken.count();
        drop(two);
        assert_eq!(woken.count(), before + 1);
        assert!(emptied.poll(&mut cx).is_ready());
    }
}
