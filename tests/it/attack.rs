//! Attacks, bounded in number and time: what is attacked stays small, and whoever behaves is served meanwhile.
//!
//! `benches/attack` measures the same with a release build: how long others wait, and how much memory it takes.

mod floods;
mod slow;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::support::{Router, Stage, StopOnDrop, eventually};

/// A room of the bystander's.
const QUIET: &str = "/room_quiet";

/// [`Stage::with`], but for the access lines, of which there would be too many to keep, and with all the time for Redis: on a
/// machine that is busy with the attack, the time to ask it may pass before it was asked.
fn stage(args: &[&str]) -> Stage {
    let args = [&["--redis-timeout", "20s"], args].concat();
    let stage = Stage::with_env(&args, &[("RUST_LOG", "info,pod_router::access=off")]);
    stage.redis.assign(QUIET.trim_start_matches('/'), 1);
    stage
}

/// Runs the attack while somebody who behaves asks all the time, now on a connection that is kept and now on a new one;
/// fails unless that one has every answer, and at least as many as make it worth saying so.
fn beside_a_bystander<T>(stage: &Stage, attack: impl FnOnce() -> T) -> T {
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let bystander = scope.spawn(|| {
            let mut kept = stage.client();
            while !over.load(Ordering::SeqCst) {
                assert_eq!(kept.get(QUIET).pod(), "backend-1");
                assert_eq!(stage.get(QUIET).pod(), "backend-1");
                served.fetch_add(2, Ordering::SeqCst);
            }
        });
        let ending = StopOnDrop(&over);
        let made = attack();
        // An attack that is over at once has disturbed nobody yet.
        eventually("the bystander is served", || bystander.is_finished() || served.load(Ordering::SeqCst) >= 20);
        drop(ending);
        bystander.join().expect("the bystander has had its answers");
        made
    })
}

/// Fails if the router has ever taken so much more than it had, in MiB.
#[track_caller]
fn expect_growth_below(router: &Router, before_kib: u64, most_mib: u64) {
    let grown = router.peak_rss_kib().saturating_sub(before_kib) / 1024;
    assert!(grown < most_mib, "{grown} MiB more than before");
}

/// Fails unless all connections of the attack end, and nothing has panicked.
#[track_caller]
fn expect_at_rest(stage: &Stage) {
    eventually("no client's connection is left", || {
        stage.router.metric("pod_router_downstream_connections", &[]) < 0.5
    });
    assert!(!stage.router.whole_output().contains("panicked"));
}
