//! `/livez`, `/readyz`, `/health/cluster`, `/status`.

use crate::support::{Client, Router, Stage, eventually, now_ms};

#[test]
fn the_probes_answer_and_other_paths_do_not() {
    let stage = Stage::new();
    for (path, status) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/health/cluster", 200),
        ("/status", 200),
        ("/metrics", 200),
        ("/livez?verbose", 200),
        ("/", 404),
        ("/livez/", 404),
        ("/nothing", 404),
        ("/room_a", 404),
    ] {
        assert_eq!(stage.router.get_admin(path).status(), status, "{path}");
    }
    let mut client = Client::connect(stage.router.admin());
    assert_eq!(client.request("HEAD /livez HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    assert_eq!(client.request("POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").status(), 405);
}

#[test]
fn half_a_head_is_not_waited_for() {
    let stage = Stage::new();
    let mut client = Client::connect(stage.router.admin());
    client.send("GET /livez HTTP/1.1\r\nHost: a\r\n");
    client.expect_end();
}

/// The data listener is what the ingress exposes: it knows none of this.
#[test]
fn the_data_listener_serves_no_admin_path() {
    let stage = Stage::new();
    for path in ["/livez", "/readyz", "/status", "/metrics", "/health/cluster"] {
        assert_eq!(stage.get(path).pod(), "any", "{path}");
    }
}

#[test]
fn the_clusters_health_is_the_sum_of_the_heartbeats() {
    let stage = Stage::new();
    let health = || stage.router.get_admin("/health/cluster").json();
    let counts = |pods, healthy, rooms, participants| {
        serde_json::json!({
            "totalPods": pods, "healthyPods": healthy, "totalRooms": rooms, "totalParticipants": participants,
        })
    };
    assert_eq!(health(), counts(0, 0, 0, 0));
    stage.redis.heartbeat(0, 3, 12, 1000);
    stage.redis.heartbeat(1, 4, 16, 30_000);
    // Silent for ten minutes, where a heartbeat is due every 60 s.
    stage.redis.heartbeat(2, 5, 20, 600_000);
    // Not pods of this StatefulSet, and not a heartbeat.
    stage.redis.set("pod:frontend-0:metrics", r#"{"activeRooms":100,"totalParticipants":100,"lastUpdate":1}"#);
    stage.redis.set("pod:backend-3:metrics", "not JSON");
    eventually("the heartbeats are seen", || health()["totalPods"] == 3);
    let seen = health();
    assert_eq!(seen["healthyPods"], 2, "{seen}");
    assert!(seen["totalRooms"] == 7 || seen["totalRooms"] == 12, "{seen}");
    assert!(seen["totalParticipants"] == 28 || seen["totalParticipants"] == 48, "{seen}");
    stage.redis.heartbeat(2, 5, 20, 0);
    eventually("the pod is heard of again", || health() == counts(3, 3, 12, 48));
    let unreadable = |line: &serde_json::Value| line["message"] == "unreadable heartbeat";
    let first = stage.router.wait_log("the warning", unreadable);
    assert_eq!((first["level"].as_str(), first["pods"].as_str()), (Some("WARN"), Some("backend-3")));
    stage.redis.set("pod:backend-4:metrics", r#"{"activeRooms":"3"}"#);
    eventually("another is unreadable", || {
        health();
        stage.router.logs().iter().filter(|line| unreadable(line)).count() == 2
    });
    let told: Vec<_> = stage.router.logs().into_iter().filter(unreadable).map(|line| line["pods"].clone()).collect();
    assert_eq!(told, ["backend-3", "backend-3,backend-4"], "once for each change, however often they are read");
}

#[test]
fn a_heartbeat_from_the_next_day_is_told_of_once() {
    const TWO_DAYS: u64 = 2 * 24 * 60 * 60 * 1000;
    let stage = Stage::new();
    for (rooms, ahead) in (1..).zip([1000, TWO_DAYS, TWO_DAYS, 0, TWO_DAYS]) {
        let beat = serde_json::json!({ "activeRooms": rooms, "lastUpdate": now_ms() + ahead });
        stage.redis.set("pod:backend-0:metrics", &beat.to_string());
        eventually("it is read", || {
            let health = stage.router.get_admin("/health/cluster").json();
            health["healthyPods"] == 1 && health["totalRooms"] == rooms
        });
    }
    let told = |line: &serde_json::Value| line["last_update"].as_u64().is_some_and(|at| at > now_ms());
    eventually("the warning, and once more after a better one", || {
        stage.router.logs().into_iter().filter(told).count() == 2
    });
    let first = stage.router.wait_log("the warning", told);
    assert_eq!((first["level"].as_str(), first["pod"].as_str()), (Some("WARN"), Some("backend-0")));
}

#[test]
fn the_clusters_health_says_so_when_redis_is_away() {
    let mut stage = Stage::new();
    stage.redis.kill();
    eventually("the cluster's health is unknown", || stage.router.get_admin("/health/cluster").status() == 503);
}

#[test]
fn the_status_tells_what_is_going_on() {
    let stage = Stage::new();
    let mut client = stage.client();
    client.get("/room_a");
    let status = stage.router.get_admin("/status").json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"), "{status}");
    assert!(status["uptimeSeconds"].is_u64(), "{status}");
    assert_eq!(status["directory"]["up"], true, "{status}");
    assert_eq!(status["cachedRooms"], 1, "{status}");
    assert_eq!(status["websocketConnections"], 0, "{status}");
    assert_eq!(status["downstreamConnections"], 1, "{status}");
    assert!(status["pods"].to_string().contains("backend-0"), "{status}");
    assert!(!status.to_string().contains("room_a"), "{status}");
}

/// Liveness asks nobody: neither Redis nor a pod can make it wait.
#[test]
fn the_probes_do_not_wait_for_redis() {
    let stage = Stage::with(&["--redis-timeout", "10m"]);
    stage.redis.pause();
    for path in ["/livez", "/readyz", "/status", "/metrics"] {
        assert_eq!(stage.router.get_admin(path).status(), 200, "{path}");
    }
    stage.redis.resume();
}

/// However many hold a connection without using it, or do not take what they asked for.
#[test]
fn the_probes_do_not_wait_for_a_place() {
    let stage = Stage::new();
    let mut held: Vec<_> = (0..100)
        .map(|number| {
            let client = Client::connect(stage.router.admin());
            if number % 2 == 0 {
                client.send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
            }
            assert_eq!(stage.router.get_admin("/livez").status(), 200, "{number}");
            client
        })
        .collect();
    assert_eq!(held[0].read_response().status(), 200);
    held[0].expect_end();
    assert_eq!(held[99].get("/livez").status(), 200, "the youngest has its place");
}

#[test]
fn a_router_with_a_memory_directory_needs_no_redis() {
    let router = Router::builder().args(&["--directory", "memory"]).start_ready();
    assert_eq!(router.get_admin("/health/cluster").json()["totalPods"], 0);
}
