//! What the suites are built from: real processes, raw sockets and pods whose every byte is scripted.
//!
//! [`Router`] is the built binary under test and [`Redis`] a real server, both ended on drop. [`Pod`] is a
//! fake pod inside the test process, [`Client`] a raw client: no HTTP library stands between a test and the
//! wire. [`Stage`] puts one of each together, which is where most tests start.
//!
//! Nothing here uses a fixed port, and nothing sleeps so that things may settle: what takes a while is
//! polled for by [`eventually`].

mod client;
mod kernel;
mod nameserver;
mod pod;
mod process;
mod program;
mod redis;
mod router;
mod sample;
pub(crate) mod script;
mod stage;
mod wire;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use client::{Client, Response, Truncated, get};
pub(crate) use kernel::{MOST_QUEUED, orphans, probed, queued};
pub(crate) use nameserver::NameServer;
pub(crate) use pod::{Conn, Pod, Pods, free_addr, own_ip};
pub(crate) use process::Process;
pub(crate) use program::{RealPod, errors, finish, node};
pub(crate) use redis::{Redis, now_ms};
pub(crate) use router::{Router, RouterBuilder};
pub(crate) use sample::Pattern;
pub(crate) use stage::Stage;
pub(crate) use wire::{Framing, Head, Tape};

/// How long a test waits for something that should come at once. Long, for a machine that is busy with
/// other things: it only ever passes in full when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The pause between two looks at a condition.
const GLANCE: Duration = Duration::from_millis(5);

/// Tells threads to stop when it is dropped, also by a failure: a scope waits for them, and would for ever.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Waits until `condition` holds; fails, naming `what`, when it does not within [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Waits until `look` finds something, and returns it.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(GLANCE);
    }
}

/// Waits until a sender that counts its bytes in `sent` has begun and gets no more of them away.
#[track_caller]
pub(crate) fn wait_stalled(sent: &AtomicU64) {
    let mut last = 0;
    eventually("the sender stalls", || {
        // Without progress for this long, somebody holds it up: all ends are on this machine.
        thread::sleep(Duration::from_millis(300));
        let now = sent.load(Ordering::SeqCst);
        now > 0 && now == std::mem::replace(&mut last, now)
    });
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

/// A door that one side, script or test, waits at until the other opens it, for good.
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

    /// Waits until somebody opens; whether that has happened, in the end. The deadline only ends the waiting of
    /// one side after the other has failed.
    pub(crate) fn wait(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.opened.wait_timeout_while(open, 3 * PATIENCE, |open| !*open);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
