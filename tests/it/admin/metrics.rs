//! `/metrics`: every name of the contract from the start, correct counts, and no room anywhere.

use crate::support::{Redis, Router, Stage, eventually, script};

/// The metrics that users rely on, with their types and labels.
const METRICS: [(&str, &str, &[&str]); 12] = [
    ("pod_router_requests_total", "counter", &["kind", "code", "source"]),
    ("pod_router_request_duration_seconds", "histogram", &[]),
    ("pod_router_room_lookups_total", "counter", &["result"]),
    ("pod_router_directory_up", "gauge", &[]),
    ("pod_router_directory_duration_seconds", "histogram", &[]),
    ("pod_router_websocket_connections", "gauge", &[]),
    ("pod_router_downstream_connections", "gauge", &[]),
    ("pod_router_upstream_requests_total", "counter", &["pod", "code"]),
    ("pod_router_upstream_connect_failures_total", "counter", &["pod"]),
    ("pod_router_tunnel_bytes_total", "counter", &["direction"]),
    ("pod_router_rejected_total", "counter", &["reason"]),
    ("pod_router_build_info", "gauge", &["version", "revision"]),
];

#[test]
fn every_metric_of_the_contract_is_there_from_the_start() {
    let router = Router::builder().redis(&Redis::stopped()).start();
    let response = router.get_admin("/metrics");
    assert!(response.head.value("content-type").is_some_and(|media| media.starts_with("text/plain; version=0.0.4")));
    let text = response.text();
    let missing: Vec<_> = METRICS
        .iter()
        .filter(|(name, kind, _)| {
            !text.contains(&format!("# TYPE {name} {kind}\n")) || !text.contains(&format!("# HELP {name} "))
        })
        .map(|(name, ..)| name)
        .collect();
    assert!(missing.is_empty(), "missing: {missing:?}\n{text}");
}

#[test]
fn the_labels_are_those_of_the_contract() {
    let mut stage = Stage::with(&["--pod-wait", "0s"]);
    busy(&mut stage);
    let text = stage.router.get_admin("/metrics").text();
    for (name, kind, labels) in METRICS {
        let series = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
        let sample =
            text.lines().find(|line| line.starts_with(&series)).unwrap_or_else(|| panic!("no {series}:\n{text}"));
        let mut found: Vec<_> = sample
            .split_once('{')
            .and_then(|(_, rest)| rest.rsplit_once('}'))
            .map_or(Vec::new(), |(list, _)| list.split("\",").filter_map(|pair| pair.split('=').next()).collect());
        let mut expected = labels.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{sample}");
    }
}

/// A pod may say any status; the series it can make are few.
#[test]
fn the_status_codes_of_a_pod_are_bounded() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        loop {
            let (head, _) = conn.whole_request()?;
            let status = head.second_word().rsplit('/').next().unwrap_or_default().to_owned();
            conn.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok"))?;
        }
    });
    let mut client = stage.client();
    // 204 to 205 have no body, and below 200 there is no answer yet.
    for status in (206..304).chain(305..=999) {
        assert_eq!(client.get(&format!("/room_a/{status}")).status(), status);
    }
    let text = stage.router.get_admin("/metrics").text();
    for family in ["pod_router_upstream_requests_total{", "pod_router_requests_total{"] {
        let series = text.lines().filter(|line| line.starts_with(family)).count();
        assert!(series < 60, "{series} of {family}");
    }
    for (code, count) in [("2xx", 93.0), ("418", 0.0), ("503", 1.0), ("other", 400.0)] {
        let labels = [("pod", "backend-0"), ("code", code)];
        let counted = stage.router.metric("pod_router_upstream_requests_total", &labels);
        assert!((counted - count).abs() < 0.5, "{code}: {counted}");
    }
}

/// Room ids have no bound, so they are no labels; a `sid` is a secret.
#[test]
fn no_room_and_no_secret_is_in_the_metrics() {
    let mut stage = Stage::with(&["--pod-wait", "0s"]);
    busy(&mut stage);
    let text = stage.router.get_admin("/metrics").text();
    for word in ["room_", "SECRET", "roomId"] {
        let line = text.lines().find(|line| line.replace("pod_router_room_lookups", "").contains(word));
        assert_eq!(line.filter(|line| !line.starts_with('#')), None, "{word}");
    }
}

/// Some of everything that is counted.
fn busy(stage: &mut Stage) {
    stage.get("/room_a?sid=SECRET");
    stage.get("/room_unknown");
    stage.get("/room%5Fa");
    stage.get("/socket.io/?roomId=room_a&sid=SECRET");
    stage.request("GET /experiment/room_a HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
    stage.redis.set("room:room_bad:pod", "{");
    stage.get("/room_bad").expect_error(503);
    stage.redis.assign("room_b", 1);
    stage.pods.get_mut(1).unbind();
    stage.get("/room_b").expect_error(503);
}

#[test]
fn requests_are_counted_by_kind_code_and_source() {
    let mut stage = Stage::with(&["--pod-wait", "0s"]);
    busy(&mut stage);
    let count = |kind, code, source| {
        let labels = [("kind", kind), ("code", code), ("source", source)];
        stage.router.metric("pod_router_requests_total", &labels).round() as u32
    };
    eventually("all requests are counted", || count("http", "200", "room") == 2);
    assert_eq!(count("http", "200", "default"), 1);
    assert_eq!(count("redirect", "302", "room"), 1);
    assert_eq!(count("http", "400", "none"), 1);
    assert_eq!(stage.router.metric("pod_router_requests_total", &[("code", "503")]).round() as u32, 2);
    let pod = |code| {
        let labels = [("pod", "backend-0"), ("code", code)];
        stage.router.metric("pod_router_upstream_requests_total", &labels).round() as u32
    };
    assert_eq!(pod("200"), 2);
    let failures = stage.router.metric("pod_router_upstream_connect_failures_total", &[("pod", "backend-1")]);
    assert!(failures >= 1.0, "{failures}");
    assert_eq!(stage.router.metric("pod_router_request_duration_seconds_count", &[]).round() as u32, 7);
}

#[test]
fn connections_and_tunnels_are_gauges_that_go_down_again() {
    let stage = Stage::new();
    stage.pods[0].play(script::websocket_echo);
    let gauge = |name: &str| stage.router.metric(name, &[]).round() as u32;
    let (idle, mut tunnel) = (stage.client(), stage.client());
    tunnel.send(
        "GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    assert_eq!(tunnel.read_head().second_word(), "101");
    eventually("both connections are counted", || gauge("pod_router_downstream_connections") == 2);
    assert_eq!(gauge("pod_router_websocket_connections"), 1);
    drop((idle, tunnel));
    eventually("both are gone", || gauge("pod_router_downstream_connections") == 0);
    assert_eq!(gauge("pod_router_websocket_connections"), 0);
    let labels = [("kind", "websocket"), ("code", "101"), ("source", "room")];
    assert_eq!(stage.router.metric("pod_router_requests_total", &labels).round() as u32, 1);
}

/// `--max-connections`: a limit has a setting, a metric and a test.
#[test]
fn connections_beyond_the_limit_are_turned_away_and_counted() {
    let stage = Stage::with(&["--max-connections", "3"]);
    let mut kept: Vec<_> = (0..3).map(|_| stage.client()).collect();
    for client in &mut kept {
        assert_eq!(client.get("/room_a").status(), 200);
    }
    let response = stage.get("/room_a");
    assert_eq!((response.status(), response.head.value("x-pod-router-error")), (503, Some("too-many-connections")));
    assert_eq!(response.json()["error"], "too-many-connections");
    assert!(stage.router.metric("pod_router_rejected_total", &[("reason", "too-many-connections")]) >= 1.0);
    kept.pop();
    eventually("a place is free again", || stage.get("/room_a").status() == 200);
}

/// A room without an assignment goes to any pod, or its page without one: what an operator has to hear of.
#[test]
fn requests_of_unassigned_rooms_are_counted() {
    let stage = Stage::new();
    let misses = || stage.router.metric("pod_router_unassigned_rooms_total", &[]).round() as u32;
    stage.get("/room_a");
    stage.get("/no-room");
    assert_eq!(misses(), 0);
    assert_eq!(stage.get("/room_unknown").pod(), "any");
    assert_eq!(misses(), 1);
    let page = "GET /experiment/room_unknown HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n";
    assert_eq!(stage.request(page).status(), 302);
    assert_eq!(misses(), 2);
}

/// A session's request at a pod that does not know it: Engine.IO's 400, whether a room was named or not.
#[test]
fn answers_of_400_to_a_sid_are_counted() {
    let stage = Stage::new();
    for pod in [&stage.pods[0], &stage.any] {
        pod.play(script::answer("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"));
    }
    let misses = || stage.router.metric("pod_router_affinity_misses_total", &[]).round() as u32;
    for (target, expected) in [
        ("/socket.io/?EIO=4&roomId=room_a", 0),
        ("/socket.io/?EIO=4&roomId=room_a&sid=x", 1),
        ("/socket.io/?EIO=4&sid=x", 2),
        ("/?sid=", 2),
    ] {
        assert_eq!(stage.get(target).status(), 400);
        assert_eq!(misses(), expected, "{target}");
    }
}

/// What an alert compares the gauges with, and what the process itself uses.
#[test]
fn the_limits_and_the_process_are_measured() {
    let router = Router::builder().args(&["--directory", "memory", "--max-connections", "1234"]).start_ready();
    assert_eq!(router.metric("pod_router_max_downstream_connections", &[]).round() as u32, 1234);
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"] {
        let text = router.get_admin("/metrics").text();
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "no {name}");
    }
    assert!(router.metric("process_max_fds", &[]) > router.metric("process_open_fds", &[]));
}

/// `--max-header-bytes`.
#[test]
fn a_head_beyond_the_limit_is_refused() {
    let stage = Stage::with(&["--max-header-bytes", "16384"]);
    let head = |len| format!("GET /room_a HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "x".repeat(len));
    assert_eq!(stage.request(head(15_000)).pod(), "backend-0");
    for len in [17_000, 40_000] {
        let mut client = stage.client();
        // The router may close before it has read everything.
        let _ = client.try_send(head(len));
        assert_eq!(client.read_response().expect_error(431), "head-too-large", "{len}");
        client.expect_end();
    }
    assert_eq!(stage.pods[0].received().len(), 1);
}
