//! Health checks beside what requests tell of a pod: how a pod comes back, and what is no answer yet.

use super::{poll, router, states};
use crate::support::{Pods, Redis, eventually};

/// A rolling restart: each pod is away for a moment, and its requests notice first.
#[test]
fn a_pod_that_restarts_is_tried_as_soon_as_its_checks_pass_again() {
    let (redis, mut pods) = (Redis::start(), Pods::start(2));
    let check = ["--health-check", "/health interval=50ms timeout=1s rise=2 fall=2", "--fail-timeout", "1h"];
    let router = router(&redis, &pods, &check);
    pods.get_mut(1).kill();
    let ejections = || router.metric("pod_router_ejections_total", &[("pod", "backend-1")]);
    eventually("its requests have noticed, or its checks", || {
        router.get("/");
        ejections() > 0.5 || states(&router)[1] == "down"
    });
    // By its requests as well, where the checks were first: those of sessions that know no other pod.
    eventually("both have", || {
        router.get(&poll("backend-1~x"));
        ejections() > 0.5 && states(&router)[1] == "down"
    });
    pods.get_mut(1).bind();
    eventually("it gets requests again", || (0..3).any(|_| router.get("/").pod() == "backend-1"));
    assert_eq!((ejections(), &*states(&router)[1]), (1.0, "up"));
    for message in ["ejected from the backends: it keeps failing", "health check", "back among the backends"] {
        let line = router.wait_log(message, |line| line["message"] == message);
        assert_eq!((line["prefix"].as_str(), line["pod"].as_str()), (Some(""), Some("backend-1")), "{line}");
    }
}
