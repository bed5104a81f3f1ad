//! Directory values that are not what the mission describes: refused, counted, never dialled.

use crate::support::{Pod, Stage, eventually};

/// Values under a room's key that are no assignment of this StatefulSet. `{trap}` becomes the address of a
/// listener that must not be dialled.
const BAD: [&str; 16] = [
    "",
    "backend-0",
    "{",
    "{}",
    "null",
    "[]",
    r#"["backend-0",1]"#,
    r#"{"podId":"backend-0"}"#,
    r#"{"podId":7,"assignedAt":1}"#,
    r#"{"podId":"backend-0","assignedAt":"soon"}"#,
    r#"{"podId":"backend-0","assignedAt":-1}"#,
    r#"{"podId":"frontend-0","assignedAt":1}"#,
    r#"{"podId":"{trap}","assignedAt":1}"#,
    r#"{"podId":"backend-0@{trap}","assignedAt":1}"#,
    r#"{"podId":"backend-0.evil.example","assignedAt":1}"#,
    r#"{"podId":"backend-01","assignedAt":1}"#,
];

#[test]
fn a_value_that_is_no_assignment_is_refused_counted_and_not_dialled() {
    let (stage, trap) = (Stage::new(), Pod::start("trap"));
    for (number, value) in BAD.iter().enumerate() {
        let room = format!("room_bad{number}");
        stage.redis.set(&format!("room:{room}:pod"), &value.replace("{trap}", &trap.addr().to_string()));
        let response = stage.get(&format!("/{room}"));
        assert_eq!(response.expect_error(503), "bad-assignment", "{value}");
        let counted = stage.router.metric("pod_router_rejected_total", &[("reason", "bad-assignment")]);
        assert_eq!(counted.round() as usize, number + 1, "{value}");
    }
    for pod in stage.pods.iter().chain([&stage.any, &trap]) {
        assert_eq!(pod.accepted(), 0, "{} was dialled", pod.name());
    }
}

/// The access lines tell of the others; a warning each would be a second line a request, however busy the room.
#[test]
fn a_value_is_warned_of_when_it_is_read_and_not_for_each_request() {
    let stage = Stage::with(&["--cache-negative", "60s"]);
    stage.redis.set("room:room_bad:pod", "backend-0");
    for _ in 0..10 {
        let refused = stage.get("/room_bad");
        refused.expect_error(503);
        stage.router.access_line(refused.head.value("x-request-id").unwrap_or_default());
    }
    let warned = stage.router.logs().into_iter().filter(|line| line["message"] == "unusable directory value");
    let warned: Vec<_> = warned.map(|line| (line["room"].clone(), line["reason"].clone())).collect();
    assert_eq!(warned, [("room_bad".into(), "malformed".into())]);
}

/// "malformed" alone would not tell somebody who wrote the time as text what to change.
#[test]
fn the_log_names_the_field_that_is_wrong() {
    let stage = Stage::new();
    for (room, value, reason, field) in [
        ("room_none", r#"{"podId":"backend-0"}"#, "no-assigned-at", "assignedAt"),
        ("room_text", r#"{"podId":"backend-0","assignedAt":"1634567890123"}"#, "no-assigned-at", "assignedAt"),
        ("room_pod", r#"{"pod":"backend-0","assignedAt":1}"#, "no-pod-id", "podId"),
        ("room_set", r#"{"podId":"frontend-0","assignedAt":1}"#, "foreign-pod", "--statefulset"),
    ] {
        stage.redis.set(&format!("room:{room}:pod"), value);
        stage.get(&format!("/{room}")).expect_error(503);
        let line = stage.router.wait_log("the warning", |line| line["room"] == room && line["level"] == "WARN");
        assert_eq!(line["reason"], reason);
        assert!(line["why"].as_str().is_some_and(|why| why.contains(field)), "{line}");
    }
}

/// Nothing lower is followed while it is remembered, the key's deletion included: an epoch is not forgotten by way of
/// "unassigned". What helps at once is the same number again, with the right pod.
#[test]
fn an_absurd_epoch_is_followed_and_warned_of_and_the_same_one_again_moves_the_room() {
    let stage = Stage::with(&["--cache-ttl", "1ms", "--cache-negative", "1ms"]);
    stage.redis.assign_at("room_far", 0, u64::MAX);
    for _ in 0..5 {
        assert_eq!(stage.get("/room_far").pod(), "backend-0");
    }
    let warned = || {
        let ahead = |line: &serde_json::Value| line["assigned_at"] == u64::MAX && line["level"] == "WARN";
        stage.router.logs().into_iter().filter(ahead).count()
    };
    eventually("a warning", || warned() > 0);
    stage.redis.command(&["DEL", "room:room_far:pod"]);
    eventually("the room is unassigned", || stage.get("/room_far").pod() == "any");
    stage.redis.assign("room_far", 1);
    eventually("the lower epoch is met", || {
        assert_ne!(stage.get("/room_far").pod(), "backend-1", "a lower epoch was followed");
        stage.router.metric("pod_router_epoch_regressions_total", &[]) > 0.5
    });
    assert_eq!(stage.get("/room_far").pod(), "backend-0");
    stage.redis.assign_at("room_far", 1, u64::MAX);
    eventually("the same epoch is followed", || stage.get("/room_far").pod() == "backend-1");
    assert_eq!(warned(), 1, "once for the number, not for each question");
}

#[test]
fn a_key_of_another_type_is_refused() {
    let stage = Stage::new();
    for (room, command) in [
        ("room_list", &["RPUSH", "room:room_list:pod", "backend-0"][..]),
        ("room_set", &["SADD", "room:room_set:pod", "backend-0"]),
        ("room_hash", &["HSET", "room:room_hash:pod", "podId", "backend-0"]),
    ] {
        stage.redis.command(command);
        assert_eq!(stage.get(&format!("/{room}")).expect_error(503), "bad-assignment", "{room}");
    }
    // Redis itself is fine, and so is its connection.
    assert!(stage.router.metric("pod_router_directory_up", &[]) > 0.5);
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
}

#[test]
fn a_megabyte_is_refused() {
    let stage = Stage::new();
    let padding = "x".repeat(1024 * 1024);
    stage.redis.set("room:room_big:pod", &format!(r#"{{"podId":"backend-0","assignedAt":1,"x":"{padding}"}}"#));
    assert_eq!(stage.get("/room_big").expect_error(503), "bad-assignment");
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
}

#[test]
fn fields_that_the_mission_does_not_know_do_no_harm() {
    let stage = Stage::new();
    stage.redis.set("room:room_more:pod", r#" {"x":{"y":[1]},"assignedAt":5,"podId":"backend-1","z":null} "#);
    assert_eq!(stage.get("/room_more").pod(), "backend-1");
}

#[test]
fn the_refusal_is_remembered_and_then_looked_at_again() {
    let stage = Stage::with(&["--cache-negative", "1h"]);
    stage.redis.set("room:room_b:pod", "{");
    let monitor = stage.redis.monitor();
    for _ in 0..5 {
        stage.get("/room_b").expect_error(503);
    }
    assert_eq!(monitor.lookups("room_b"), 1);

    let stage = Stage::with(&["--cache-negative", "100ms"]);
    stage.redis.set("room:room_b:pod", "{");
    stage.get("/room_b").expect_error(503);
    stage.redis.assign("room_b", 1);
    eventually("the repaired value is followed", || stage.get("/room_b").pod() == "backend-1");
}

/// A value that has gone bad is not outlived by the assignment that was good before it: Redis can be asked.
#[test]
fn a_value_that_turns_bad_is_refused_too() {
    let stage = Stage::with(&["--cache-ttl", "100ms"]);
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
    stage.redis.set("room:room_a:pod", r#"{"podId":"evil","assignedAt":9}"#);
    eventually("the bad value is refused", || stage.get("/room_a").status() == 503);
}

#[test]
fn a_page_load_of_such_a_room_is_not_redirected() {
    let stage = Stage::new();
    stage.redis.set("room:room_b:pod", r#"{"podId":"//evil.example/","assignedAt":9}"#);
    let response = stage.request("GET /experiment/room_b HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
    assert_eq!(response.expect_error(503), "bad-assignment");
    assert!(!response.head.has("location"));
}
