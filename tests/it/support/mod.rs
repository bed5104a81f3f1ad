//! What the suites are built from: real processes, raw sockets and pods whose every byte is scripted.
//!
//! [`Router`] is the built binary under test and [`Redis`] a real server, both ended on drop. [`Pod`] is a
//! fake pod inside the test process, [`Client`] a raw client: no HTTP library stands between a test and the
//! wire. [`Stage`] puts one of each together, which is where most tests start.
//!
//! Nothing here uses a fixed port, and nothing sleeps so that things may settle: what takes a while is
//! polled for by [`eventually`].

mod client;
mod pod;
mod process;
mod redis;
mod router;
mod sample;
pub(crate) mod script;
mod stage;
mod wire;

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use client::{Client, Response, Truncated};
pub(crate) use pod::{Conn, Pod, Pods, Received};
pub(crate) use redis::{Monitor, Redis, Value};
pub(crate) use router::{Router, RouterBuilder};
pub(crate) use sample::Pattern;
pub(crate) use stage::{ROOM, Stage};
pub(crate) use wire::{Framing, Head, Wire};

/// How long a test waits for something that should come at once. Long, for a machine that is busy with
/// other things: it only ever passes in full when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The pause between two looks at a condition.
const GLANCE: Duration = Duration::from_millis(5);

/// Waits until `condition` holds; fails, naming `what`, when it does not within [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Waits until `look` finds something, and returns it.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, look)
}

/// [`wait_for`] with another deadline.
#[track_caller]
pub(crate) fn wait_within<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        thread::sleep(GLANCE);
    }
}

/// Runs `work` on `count` threads at once and returns what each made, in order.
pub(crate) fn together<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (work, start) = (&work, std::sync::Barrier::new(count));
    let start = &start;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| {
                scope.spawn(move || {
                    start.wait();
                    work(index)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread of the test panicked")).collect()
    })
}

/// A door that a script waits at until the test opens it, for good.
#[derive(Default)]
pub(crate) struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// A closed one, to be shared with a script.
    pub(crate) fn shared() -> std::sync::Arc<Self> {
        std::sync::Arc::default()
    }

    pub(crate) fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }

    /// Waits for the test. The deadline only ends a script whose test has failed.
    pub(crate) fn wait(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.opened.wait_timeout_while(open, 6 * PATIENCE, |open| !*open);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
