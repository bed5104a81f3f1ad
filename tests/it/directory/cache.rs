//! How long an answer is used, and how often Redis is asked.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Stage, eventually, together, wait_for};

#[test]
fn an_assignment_is_asked_for_once_and_then_remembered() {
    let stage = Stage::with(&["--cache-ttl", "1h"]);
    let monitor = stage.redis.monitor();
    for _ in 0..10 {
        assert_eq!(stage.get("/room_a").pod(), "backend-0");
    }
    assert_eq!(monitor.lookups("room_a"), 1);
}

/// At most one question per time to live, however many requests there are.
#[test]
fn redis_is_asked_once_per_time_to_live() {
    const TTL: Duration = Duration::from_millis(200);
    let stage = Stage::with(&["--cache-ttl", "200ms"]);
    let monitor = stage.redis.monitor();
    let start = Instant::now();
    let mut client = stage.client();
    eventually("it has been asked six times", || {
        for _ in 0..20 {
            assert_eq!(client.get("/room_a").pod(), "backend-0");
        }
        monitor.lookups("room_a") >= 6
    });
    let lookups = monitor.lookups("room_a");
    let most = start.elapsed().as_millis() / TTL.as_millis() + 1;
    assert!(lookups as u128 <= most, "{lookups} lookups where {most} were due");
}

#[test]
fn concurrent_first_requests_share_one_lookup() {
    let stage = Stage::with(&["--cache-ttl", "1h"]);
    stage.redis.assign("room_new", 1);
    let monitor = stage.redis.monitor();
    let pods = together(200, |_| stage.get("/room_new").pod().to_owned());
    assert!(pods.iter().all(|pod| pod == "backend-1"), "{pods:?}");
    assert_eq!(monitor.lookups("room_new"), 1);
}

/// The same while the answer takes its time: everybody waits for the one question that is under way.
#[test]
fn requests_that_come_during_a_lookup_wait_for_it() {
    let stage = Stage::with(&["--cache-ttl", "1h", "--redis-timeout", "60s"]);
    stage.redis.assign("room_new", 1);
    let monitor = stage.redis.monitor();
    stage.redis.pause();
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let client = stage.client();
            client.send("GET /room_new HTTP/1.1\r\nHost: a\r\n\r\n");
            client
        })
        .collect();
    stage.redis.resume();
    for mut client in clients {
        assert_eq!(client.read_response().pod(), "backend-1");
    }
    assert_eq!(monitor.lookups("room_new"), 1);
}

#[test]
fn that_a_room_is_unassigned_is_remembered_as_well() {
    let stage = Stage::with(&["--cache-negative", "1h"]);
    let monitor = stage.redis.monitor();
    assert_eq!(stage.get("/room_new").pod(), "any");
    // That a key is missing may take more than one command to tell.
    let asked = monitor.lookups("room_new");
    assert!(asked > 0);
    for _ in 0..9 {
        assert_eq!(stage.get("/room_new").pod(), "any");
    }
    assert_eq!(monitor.lookups("room_new"), asked);
    assert!(stage.router.metric("pod_router_room_lookups_total", &[("result", "negative")]) >= 9.0);
}

#[test]
fn a_new_assignment_is_seen_once_the_old_answer_is_too_old() {
    let stage = Stage::with(&["--cache-ttl", "100ms", "--cache-negative", "100ms"]);
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
    assert_eq!(stage.get("/room_new").pod(), "any");
    stage.redis.assign("room_a", 1);
    stage.redis.assign("room_new", 1);
    for target in ["/room_a", "/room_new"] {
        eventually("the new assignment is followed", || stage.get(target).pod() == "backend-1");
        // And not left again.
        assert_eq!(stage.get(target).pod(), "backend-1");
    }
}

#[test]
fn a_room_that_is_deleted_becomes_unassigned() {
    let stage = Stage::with(&["--cache-ttl", "100ms"]);
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
    stage.redis.command(&["DEL", "room:room_a:pod"]);
    eventually("the room is unassigned", || stage.get("/room_a").pod() == "any");
}

/// design.md, invariant 4: for one room, never an older epoch than one already used. The lower one may come
/// from a replica that lags or from a writer that lost a race.
#[test]
fn a_lower_epoch_does_not_replace_a_higher_one() {
    let stage = Stage::with(&["--cache-ttl", "50ms"]);
    stage.redis.assign_at("room_e", 1, 2000);
    assert_eq!(stage.get("/room_e").pod(), "backend-1");
    let monitor = stage.redis.monitor();
    stage.redis.assign_at("room_e", 0, 1000);
    eventually("it has been asked a few times", || {
        assert_eq!(stage.get("/room_e").pod(), "backend-1");
        monitor.lookups("room_e") >= 3
    });
    // A state, however often it is met.
    eventually("all are counted", || stage.router.metric("pod_router_epoch_regressions_total", &[]) >= 2.0);
    let is_warning = |line: &Value| line["message"].as_str().is_some_and(|text| text.contains("lower epoch"));
    stage.router.wait_log("the warning", is_warning);
    assert_eq!(stage.router.logs().iter().filter(|line| is_warning(line)).count(), 1);
    stage.redis.assign_at("room_e", 0, 3000);
    eventually("the higher epoch is followed", || stage.get("/room_e").pod() == "backend-0");
    let head = wait_for("the pod has a request", || stage.pods[0].received().pop()).head;
    assert_eq!(head.value("x-room-epoch"), Some("3000"));
}

#[test]
fn the_lookups_are_counted_by_what_came_of_them() {
    let stage = Stage::with(&["--cache-ttl", "1h", "--cache-negative", "1h"]);
    for _ in 0..3 {
        stage.get("/room_a");
        stage.get("/room_unknown");
        stage.get("/no-room");
    }
    let count = |result: &str| stage.router.metric("pod_router_room_lookups_total", &[("result", result)]);
    let counts = ["miss", "hit", "negative", "stale", "error"].map(count);
    assert_eq!(counts.map(|count| count.round() as u32), [2, 2, 2, 0, 0]);
    assert!(stage.router.metric("pod_router_directory_duration_seconds_count", &[]) >= 2.0);
}
