//! What a failing pod costs under load: 500 requests a second over three real Node pods, one of which is killed, stopped
//! or made to refuse connections.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{RealPod, Redis, Router, StopOnDrop, eventually};

const THREADS: u32 = 10;
/// Of each thread: together they make 500 requests a second.
const PACE: Duration = Duration::from_millis(20);
/// How long the load goes on after the pod has failed.
const AFTER: Duration = Duration::from_secs(3);

/// One request: when it was sent, and the status it got.
struct Sample {
    at: Instant,
    status: u16,
}

struct Scene {
    router: Router,
    pods: Vec<RealPod>,
    _redis: Redis,
}

/// What the failure has cost.
struct Cost {
    requests: usize,
    /// Failed ones until the pod was ejected, and from then on.
    before: usize,
    after: usize,
}

impl Scene {
    fn start(args: &[&str]) -> Self {
        let redis = Redis::start();
        let pods: Vec<_> =
            (0..3).map(|n| RealPod::start("pod.mjs", &format!("backend-{n}"), &["--port", "0"])).collect();
        let mut builder = Router::builder().redis(&redis).args(args);
        for pod in &pods {
            builder = builder.arg("--pod", pod.flag());
        }
        let all = pods.iter().map(|pod| pod.addr().to_string()).collect::<Vec<_>>().join(",");
        let router = builder.arg("--default-backend", all).start_ready();
        Self { router, pods, _redis: redis }
    }

    /// Applies load, lets `fail` happen to the middle pod, and counts.
    fn run(&mut self, fail: impl FnOnce(&mut RealPod)) -> Cost {
        let (stop, router, pod) = (AtomicBool::new(false), &self.router, &mut self.pods[1]);
        let ejections = || router.metric("pod_router_ejections_total", &[("pod", "backend-1")]);
        let (samples, ejected) = thread::scope(|scope| {
            let _stopped = StopOnDrop(&stop);
            let threads: Vec<_> = (0..THREADS)
                .map(|n| {
                    scope.spawn({
                        let stop = &stop;
                        move || load(router, n, stop)
                    })
                })
                .collect();
            eventually("every pod has requests", || {
                (0..3).all(|n| router.metric("pod_router_picks_total", &[("pod", &format!("backend-{n}"))]) > 50.0)
            });
            fail(pod);
            let failed = Instant::now();
            eventually("the pod is ejected", || ejections() > 0.0);
            let ejected = Instant::now();
            thread::sleep(AFTER.saturating_sub(failed.elapsed()));
            stop.store(true, Ordering::Relaxed);
            (
                threads.into_iter().flat_map(|thread| thread.join().expect("a thread of the load")).collect::<Vec<_>>(),
                ejected,
            )
        });
        let bad = |sample: &&Sample| sample.status != 200;
        Cost {
            requests: samples.len(),
            before: samples.iter().filter(bad).filter(|sample| sample.at < ejected).count(),
            after: samples.iter().filter(bad).filter(|sample| sample.at >= ejected).count(),
        }
    }
}

impl Cost {
    fn say(&self, pod: &str) {
        let Self { requests, before, after } = self;
        eprintln!("{pod}: {before} of {requests} requests failed before it was ejected, {after} after");
    }
}

/// Requests at this thread's pace on a kept connection, until told to stop.
fn load(router: &Router, n: u32, stop: &AtomicBool) -> Vec<Sample> {
    let (mut client, mut samples) = (router.client(), Vec::new());
    let mut next = Instant::now() + PACE * n / THREADS;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        next += PACE;
        let at = Instant::now();
        let answer = client.try_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let status = answer.map_or(0, |answer| answer.status());
        if status == 0 {
            client = router.client();
        }
        samples.push(Sample { at, status });
    }
    samples
}

#[test]
fn a_pod_that_is_killed_costs_what_it_was_answering() {
    let cost = Scene::start(&[]).run(|pod| {
        pod.process.signal("KILL");
        pod.process.wait_exit();
    });
    cost.say("killed");
    // A request is lost only where the pod may have seen it: each thread has one, and another where its new connection was
    // still taken by the kernel.
    assert!(cost.before <= 2 * THREADS as usize, "{}", cost.before);
    assert_eq!(cost.after, 0);
}

#[test]
fn a_pod_that_stops_costs_what_was_sent_to_it_until_it_is_ejected() {
    let mut scene = Scene::start(&["--response-timeout", "300ms", "--connect-timeout", "300ms"]);
    let cost = scene.run(|pod| pod.process.signal("STOP"));
    scene.pods[1].process.signal("CONT");
    cost.say("stopped");
    assert!((3..=2 * THREADS as usize).contains(&cost.before), "{}", cost.before);
    assert_eq!(cost.after, 0);
}

#[test]
fn a_pod_that_ends_by_itself_and_then_refuses_costs_nothing() {
    // As Kubernetes ends it: what it was answering it answers.
    let cost = Scene::start(&[]).run(|pod| {
        pod.process.signal("TERM");
        pod.process.wait_exit();
    });
    cost.say("refusing");
    assert!(cost.before <= THREADS as usize, "{}", cost.before);
    assert_eq!(cost.after, 0);
}
