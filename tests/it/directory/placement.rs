//! `--on-unassigned`: rooms that nobody owns yet.

use std::collections::HashSet;

use crate::support::{Pod, Pods, Redis, Router, RouterBuilder, Stage, together};

/// Two pods with equal heartbeats and a default backend, before which any number of routers can be started.
struct Cluster {
    redis: Redis,
    pods: Pods,
    any: Pod,
}

impl Cluster {
    fn new() -> Self {
        let cluster = Self { redis: Redis::start(), pods: Pods::start(2), any: Pod::start("any") };
        cluster.redis.heartbeat(0, 3, 12, 1000);
        cluster.redis.heartbeat(1, 3, 12, 1000);
        cluster
    }

    fn router(&self) -> RouterBuilder {
        Router::builder()
            .redis(&self.redis)
            .pod(&self.pods[0])
            .pod(&self.pods[1])
            .default_backend([&self.any])
            .args(&["--on-unassigned", "assign"])
    }
}

#[test]
fn an_unassigned_room_can_be_refused() {
    let stage = Stage::with(&["--on-unassigned", "reject"]);
    stage.get("/room_unknown").expect_error(404);
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
    assert_eq!(stage.get("/no-room").pod(), "any");
    assert!(stage.any.received().iter().all(|received| received.head.second_word() == "/no-room"));
}

/// Whoever comes first, on whichever replica: one pod gets the room, and all requests go there.
#[test]
fn a_room_is_placed_once_however_many_ask_and_wherever() {
    let cluster = Cluster::new();
    let routers = [cluster.router().start_ready(), cluster.router().start_ready()];
    for round in 0..3 {
        let room = format!("room_new{round}");
        let pods: HashSet<_> =
            together(50, |number| routers[number % 2].get(&format!("/{room}")).pod().to_owned()).into_iter().collect();
        assert_eq!(pods.len(), 1, "{pods:?}");
        let pod = pods.into_iter().next().unwrap_or_default();
        let stored = cluster.redis.get(&format!("room:{room}:pod")).expect("the room is assigned");
        let stored: serde_json::Value = serde_json::from_str(&stored).expect("the assignment is JSON");
        assert_eq!(stored["podId"], pod.as_str());
        // The pod was told the epoch that is in Redis.
        let of_room = |pod: &Pod| {
            let received =
                pod.received().into_iter().filter(|received| received.head.value("x-room-id") == Some(&room));
            received.map(|received| received.head.value("x-room-epoch").map(str::to_owned)).collect::<HashSet<_>>()
        };
        let epochs: HashSet<_> = cluster.pods.iter().flat_map(of_room).collect();
        assert_eq!(epochs, HashSet::from([stored["assignedAt"].as_u64().map(|epoch| epoch.to_string())]));
    }
    assert!(cluster.any.received().is_empty());
}

#[test]
fn the_emptier_pod_gets_the_room_and_a_full_or_silent_one_none() {
    for (beats, expected) in [
        ([(9, 30, 1000), (2, 5, 1000)], "backend-1"),
        ([(2, 5, 1000), (9, 30, 1000)], "backend-0"),
        // MAX_ROOMS_PER_POD, MAX_PARTICIPANTS_PER_POD.
        ([(20, 5, 1000), (19, 70, 1000)], "backend-1"),
        ([(1, 80, 1000), (19, 70, 1000)], "backend-1"),
        // Not heard of for an hour.
        ([(0, 0, 3_600_000), (19, 70, 1000)], "backend-1"),
    ] {
        let cluster = Cluster::new();
        for (ordinal, (rooms, participants, age)) in beats.into_iter().enumerate() {
            cluster.redis.heartbeat(ordinal, rooms, participants, age);
        }
        let router = cluster.router().start_ready();
        assert_eq!(router.get("/room_new").pod(), expected, "{beats:?}");
    }
}

#[test]
fn the_limits_come_from_the_seeds_variables() {
    let cluster = Cluster::new();
    cluster.redis.heartbeat(0, 2, 0, 1000);
    cluster.redis.heartbeat(1, 0, 5, 1000);
    let router = cluster.router().env("MAX_ROOMS_PER_POD", "2").env("MAX_PARTICIPANTS_PER_POD", "5").start_ready();
    router.get("/room_new").expect_error(503);
    let router = cluster.router().env("MAX_ROOMS_PER_POD", "3").env("MAX_PARTICIPANTS_PER_POD", "5").start_ready();
    assert_eq!(router.get("/room_new").pod(), "backend-0");
}

#[test]
fn without_a_pod_that_has_space_a_room_is_not_placed() {
    let cluster = Cluster::new();
    cluster.redis.command(&["FLUSHALL"]);
    let router = cluster.router().start_ready();
    let response = router.get("/room_new");
    response.expect_error(503);
    assert!(response.head.value("retry-after").is_some());
    assert_eq!(cluster.redis.get("room:room_new:pod"), None);
    assert!(cluster.any.received().is_empty());
}

#[test]
fn a_room_that_has_a_pod_is_not_placed_again() {
    let cluster = Cluster::new();
    cluster.redis.heartbeat(0, 19, 79, 1000);
    cluster.redis.assign_at("room_a", 0, 7);
    let router = cluster.router().start_ready();
    assert_eq!(router.get("/room_a").pod(), "backend-0");
    assert_eq!(cluster.pods[0].only_head().value("x-room-epoch"), Some("7"));
}

/// A page load places nothing: only the requests that follow it do.
#[test]
fn a_page_load_of_an_unassigned_room_redirects_without_a_pod() {
    let cluster = Cluster::new();
    let router = cluster.router().start_ready();
    let response = router.request("GET /experiment/room_new HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
    assert_eq!(response.head.value("location"), Some("/experiment?roomId=room_new"));
    assert_eq!(cluster.redis.get("room:room_new:pod"), None);
}
