//! Where a backend's pods come from, and which backend a path is for.

use crate::support::{NameServer, Pod, Pods, Redis, Router, eventually};

#[test]
fn the_longest_prefix_decides() {
    let (redis, pods) = (Redis::start(), Pods::start(4));
    redis.assign("room_a", 0);
    let router = Router::builder()
        .redis(&redis)
        .pod(&pods[0])
        .default_backend([&pods[1]])
        .arg("--route", format!("/api/={} balance=least_conn", pods[2].addr()))
        .arg("--route", format!("/api/admin/={}", pods[3].addr()))
        .start_ready();
    for (target, pod) in [
        ("/", "backend-1"),
        ("/apis", "backend-1"),
        ("/api", "backend-2"),
        ("/api/x?y", "backend-2"),
        ("/api/admin/x", "backend-3"),
        // A room decides first.
        ("/api/room_a", "backend-0"),
        ("/api/room_unknown", "backend-2"),
    ] {
        assert_eq!(router.get(target).pod(), pod, "{target}");
    }
}

#[test]
fn a_backend_can_be_the_pods_with_a_heartbeat() {
    let (redis, pods) = (Redis::start(), Pods::start(3));
    let mut builder = Router::builder().redis(&redis).args(&["--default-backend", "heartbeats", "--threads", "1"]);
    for pod in pods.iter() {
        builder = builder.pod(pod);
    }
    redis.heartbeat(0, 1, 1, 0);
    redis.heartbeat(2, 1, 1, 0);
    redis.heartbeat(1, 1, 1, 600_000);
    let router = builder.start_ready();
    eventually("the heartbeats are read", || router.get("/").status() == 200);
    let picks: Vec<_> = (0..10).map(|_| router.get("/").pod().to_owned()).collect();
    assert!(!picks.iter().any(|pod| pod == "backend-1"), "{picks:?}");
    assert_eq!(picks.iter().filter(|pod| *pod == "backend-0").count(), 5);
    // A pod that joins gets requests, one that leaves keeps none.
    redis.heartbeat(1, 1, 1, 0);
    redis.heartbeat(0, 1, 1, 600_000);
    eventually("the set has changed", || {
        let picks: Vec<_> = (0..4).map(|_| router.get("/").pod().to_owned()).collect();
        picks.iter().any(|pod| pod == "backend-1") && !picks.iter().any(|pod| pod == "backend-0")
    });
}

#[test]
fn a_backend_without_a_pod_says_so() {
    let redis = Redis::start();
    let router = Router::builder().redis(&redis).args(&["--default-backend", "heartbeats"]).start_ready();
    assert_eq!(router.get("/").expect_error(503), "no-backend");
}

/// A headless service: one name, an address for each pod.
#[test]
fn each_address_of_a_name_is_a_pod() {
    const NAME: &str = "backend.default.svc.cluster.local";
    let Some(names) = NameServer::start() else { return };
    let redis = Redis::start();
    let first = Pod::start("first");
    let port = first.addr().port();
    let (second, third) = (Pod::start_at_port("second", port), Pod::start_at_port("third", port));
    names.set_all(NAME, &[first.addr().ip(), second.addr().ip()]);
    let router = Router::builder()
        .nameserver(&names)
        .redis(&redis)
        .arg("--default-backend", format!("{NAME}:{port}"))
        .args(&["--threads", "1"])
        .start_ready();
    let reached = |pod: &str| (0..3).any(|_| router.get("/").pod() == pod);
    eventually("both get requests", || reached("first") && reached("second"));
    names.set_all(NAME, &[third.addr().ip(), second.addr().ip()]);
    eventually("the one that has joined gets requests", || reached("third"));
    assert!(!reached("first"), "and the one that has left none");
}

/// SRV records name the pods, so that rooms, sessions and the backend mean the same ones.
#[test]
fn a_services_srv_record_names_its_pods() {
    const NAME: &str = "_http._tcp.backend.default.svc.cluster.local";
    let Some(names) = NameServer::start() else { return };
    let (redis, pods) = (Redis::start(), Pods::start(2));
    let mut builder = Router::builder().nameserver(&names).redis(&redis).args(&["--default-backend", NAME]);
    for pod in pods.iter() {
        builder = builder.pod(pod);
    }
    let target = |n: usize| (pods[n].addr().ip().to_string(), pods[n].addr().port());
    for (n, pod) in pods.iter().enumerate() {
        names.set(&target(n).0, pod.addr().ip());
    }
    names.set_services(NAME, &[target(0), target(1)]);
    let router = builder.start_ready();
    eventually("the record is read", || router.get("/").status() == 200);
    assert_eq!(router.get("/socket.io/?EIO=4&transport=polling&sid=backend-1~x").pod(), "backend-1");
    let gone = router.get("/socket.io/?EIO=4&transport=polling&sid=backend-7~x");
    assert_eq!((gone.status(), gone.head.value("x-pod-router-error")), (400, Some("session-unknown")));
}
