//! Redis away, frozen, late or locked: known rooms go on, unknown ones are told to retry, no one waits long.

use crate::support::{Pod, Pods, Redis, Response, Router, Stage, eventually, together};

/// Fails unless this says that the directory cannot be asked and when to come again.
#[track_caller]
fn expect_unavailable(response: &Response) {
    assert_eq!(response.expect_error(503), "directory-unavailable");
    let after = response.head.value("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
    assert!(after.is_some(), "{}", response.head.text());
}

/// A router that remembers no assignment for longer than it takes, so that each request has to ask.
fn forgetful() -> Stage {
    Stage::with(&["--cache-ttl", "1ms", "--cache-negative", "1ms"])
}

#[test]
fn known_rooms_outlive_redis_and_unknown_ones_are_told_to_retry() {
    let mut stage = forgetful();
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
    stage.redis.kill();
    for _ in 0..5 {
        assert_eq!(stage.get("/room_a").pod(), "backend-0");
        expect_unavailable(&stage.get("/room_unknown"));
        assert_eq!(stage.get("/no-room").pod(), "any");
    }
    let page = "GET /experiment/room_a HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n";
    assert_eq!(stage.request(page).head.value("location"), Some("/experiment?roomId=room_a&pod=backend-0"));
    // Redis is everybody's: were readiness to follow it, all replicas would go at once.
    assert_eq!(stage.router.get_admin("/readyz").status(), 200);
    assert_eq!(stage.router.get_admin("/livez").status(), 200);
    eventually("the directory is reported down", || stage.router.metric("pod_router_directory_up", &[]) < 0.5);
    assert!(stage.router.metric("pod_router_room_lookups_total", &[("result", "stale")]) >= 5.0);
    assert!(stage.router.metric("pod_router_room_lookups_total", &[("result", "error")]) >= 5.0);
    let refused = stage.router.metric("pod_router_rejected_total", &[("reason", "directory-unavailable")]);
    assert_eq!(refused.round() as u32, 5);

    stage.redis.restart();
    stage.redis.assign("room_unknown", 1);
    eventually("the directory is asked again", || stage.get("/room_unknown").pod() == "backend-1");
    eventually("the directory is reported up", || stage.router.metric("pod_router_directory_up", &[]) > 0.5);
    // The server came back empty: what it does not know any more is unassigned, not remembered.
    eventually("the room is unassigned", || stage.get("/room_a").pod() == "any");
}

/// It answers pings, so that it is up and the router ready; that no room can be looked up has to be said all the same.
#[test]
fn a_redis_that_refuses_lookups_is_reported_down_in_its_own_words() {
    let (redis, pods, any) = (Redis::start(), Pods::start(1), Pod::start("any"));
    redis.assign("room_a", 0);
    let allow = |rights: &str| {
        let user = format!("ACL SETUSER router reset on >s3cret ~room:* {rights}");
        redis.command(&user.split(' ').collect::<Vec<_>>());
    };
    allow("+ping +get");
    let url = format!("redis://router:s3cret@{}/0", redis.addr());
    let router = Router::builder()
        .arg("--redis-url", url)
        .pod(&pods[0])
        .default_backend([&any])
        .args(&["--cache-negative", "1ms"]);
    let router = router.start_ready();
    eventually("it is reported down", || router.metric("pod_router_directory_up", &[]) < 0.5);
    for _ in 0..3 {
        expect_unavailable(&router.get("/room_a"));
    }
    let said = |message: &str| router.logs().into_iter().filter(|line| line["message"] == message).collect::<Vec<_>>();
    router.wait_log("the warning", |line| line["message"] == "Redis refuses what it is asked");
    let warned = said("Redis refuses what it is asked");
    assert_eq!(warned.len(), 1, "{warned:?}");
    let words = warned[0]["why"].as_str().unwrap_or_default();
    assert!(warned[0]["level"] == "WARN" && words.starts_with("NOPERM") && words.contains("getrange"), "{warned:?}");

    allow("+ping +get +getrange");
    eventually("the room is found", || router.get("/room_a").status() == 200);
    eventually("it is reported up", || router.metric("pod_router_directory_up", &[]) > 0.5);
}

#[test]
fn a_stale_assignment_has_an_end() {
    let mut stage = Stage::with(&["--cache-ttl", "1ms", "--cache-stale", "500ms"]);
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
    stage.redis.kill();
    eventually("the assignment is too old even so", || stage.get("/room_a").status() == 503);
    expect_unavailable(&stage.get("/room_a"));
}

/// Each wait has a deadline, and a Redis that is known to be frozen is not asked, and so not waited for, at all.
#[test]
fn a_frozen_redis_holds_requests_up_only_until_it_is_known() {
    let stage = Stage::with(&["--cache-ttl", "1ms", "--cache-negative", "1ms", "--redis-timeout", "1s"]);
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
    stage.redis.pause();
    let asked = || stage.router.metric("pod_router_directory_duration_seconds_count", &[]);
    let before = asked();
    for number in 0..60 {
        expect_unavailable(&stage.get(&format!("/room_frozen{number}")));
        assert_eq!(stage.get("/room_a").pod(), "backend-0");
    }
    let waited = asked() - before;
    assert!((0.5..20.5).contains(&waited), "{waited} of 120 requests have waited for their timeout");
    assert_eq!(stage.get("/no-room").pod(), "any");
    assert_eq!(stage.router.get_admin("/readyz").status(), 200);

    stage.redis.resume();
    stage.redis.assign("room_thawed", 1);
    eventually("the directory is asked again", || stage.get("/room_thawed").pod() == "backend-1");
}

/// The first requests, before the freeze is known, wait together and not one behind the other: the last of them would
/// not be answered while its client has patience.
#[test]
fn the_deadline_of_a_lookup_holds_for_all_that_ask_at_once() {
    let stage = Stage::with(&["--redis-timeout", "2s"]);
    stage.redis.pause();
    for response in together(40, |number| stage.get(&format!("/room_{number}"))) {
        expect_unavailable(&response);
    }
}

/// A poll every 25 s must not keep a session on a pod that Redis has long since replaced.
#[test]
fn after_an_outage_the_new_assignment_is_followed() {
    let mut stage = forgetful();
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
    stage.redis.kill();
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
    stage.redis.restart();
    stage.redis.assign("room_a", 1);
    eventually("the new assignment is followed", || stage.get("/room_a").pod() == "backend-1");
}

/// That it has lost everything cannot be told from everything having ended: the directory's word counts.
#[test]
fn a_redis_that_comes_back_empty_has_answered() {
    for (policy, status, pod) in [("default-backend", 200, Some("any")), ("reject", 404, None)] {
        let args = ["--cache-ttl", "1ms", "--cache-negative", "1ms", "--on-unassigned", policy];
        let mut stage = Stage::with(&args);
        assert_eq!(stage.get("/room_a").pod(), "backend-0");
        stage.redis.kill();
        assert_eq!(stage.get("/room_a").pod(), "backend-0");
        stage.redis.restart();
        eventually("the answer is followed", || {
            let response = stage.get("/room_a");
            response.status() == status && pod.is_none_or(|pod| response.pod() == pod)
        });
        stage.redis.assign("room_a", 1);
        eventually("the room is written again", || {
            let response = stage.get("/room_a");
            response.status() == 200 && response.pod() == "backend-1"
        });
    }
}

#[test]
fn a_router_starts_without_redis_and_is_ready_once_that_has_answered() {
    let (mut redis, pods, any) = (Redis::stopped(), Pods::start(1), Pod::start("any"));
    let router = Router::builder().redis(&redis).pod(&pods[0]).default_backend([&any]).start();
    assert_eq!(router.get_admin("/livez").status(), 200);
    assert_eq!(router.get_admin("/readyz").status(), 503);
    expect_unavailable(&router.get("/room_a"));
    assert_eq!(router.get("/no-room").pod(), "any");
    assert!(router.metric("pod_router_directory_up", &[]) < 0.5);

    redis.restart();
    redis.assign("room_a", 0);
    router.wait_ready();
    eventually("the room is found", || router.get("/room_a").pod() == "backend-0");
    redis.kill();
    assert_eq!(router.get("/room_a").pod(), "backend-0");
    assert_eq!(router.get_admin("/readyz").status(), 200);
}

#[test]
fn the_password_comes_from_the_environment() {
    let (redis, pods, any) = (Redis::with_password("correct horse"), Pods::start(1), Pod::start("any"));
    redis.assign("room_a", 0);
    let builder = |password: &str| {
        Router::builder()
            .env("REDIS_HOST", redis.ip().to_string())
            .env("REDIS_PORT", redis.addr().port().to_string())
            .env("REDIS_PASSWORD", password)
            .pod(&pods[0])
            .default_backend([&any])
    };
    let router = builder("correct horse").start_ready();
    assert_eq!(router.get("/room_a").pod(), "backend-0");
    assert!(!router.whole_output().contains("correct horse"), "{}", router.whole_output());

    let router = builder("wrong horse").start();
    expect_unavailable(&router.get("/room_a"));
    assert_eq!(router.get_admin("/readyz").status(), 503);
    assert!(!router.whole_output().contains("wrong horse"), "{}", router.whole_output());
}

/// Kubernetes sets `REDIS_PORT` like this for a service of that name.
#[test]
fn a_service_link_is_understood() {
    let (redis, pods) = (Redis::start(), Pods::start(1));
    redis.assign("room_a", 0);
    let router = Router::builder()
        .env("REDIS_HOST", redis.ip().to_string())
        .env("REDIS_PORT", format!("tcp://{}", redis.addr()))
        .pod(&pods[0])
        .start_ready();
    assert_eq!(router.get("/room_a").pod(), "backend-0");
}
