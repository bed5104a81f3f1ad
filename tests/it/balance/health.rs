//! Pods that fail: what it costs, who is left out, and how they come back.

use std::collections::BTreeMap;

use super::{answering_checks, handshake, knowing, poll, router, states, tunnel};
use crate::failure::unreachable::full_listener;
use crate::support::{Gate, Pods, Redis, Router, eventually, script};

const EJECTIONS: &str = "pod_router_ejections_total";

/// The pods that answer so many requests, and how often; statuses where none does.
fn answers(router: &Router, count: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..count {
        let response = router.get("/");
        let who = if response.status() == 200 { response.pod().to_owned() } else { response.status().to_string() };
        *counts.entry(who).or_default() += 1;
    }
    counts
}

#[test]
fn a_pod_that_refuses_costs_no_request_and_is_left_out_until_it_is_back() {
    let (redis, mut pods) = (Redis::start(), Pods::start(3));
    let router = router(&redis, &pods, &["--fail-timeout", "1s"]);
    pods.get_mut(1).kill();
    let served = answers(&router, 60);
    assert_eq!(served.get("backend-0").copied().unwrap_or(0) + served.get("backend-2").copied().unwrap_or(0), 60);
    let metric = |name: &str| router.metric(name, &[("pod", "backend-1")]);
    eventually("it is left out", || {
        answers(&router, 6);
        metric(EJECTIONS) > 0.5
    });
    assert!(metric("pod_router_upstream_connect_failures_total") >= 1.0);
    assert!(router.metric("pod_router_retries_total", &[("result", "elsewhere")]) >= 3.0);

    pods.get_mut(1).bind();
    eventually("it gets requests again", || answers(&router, 3).contains_key("backend-1"));
    assert_eq!(answers(&router, 30), ["backend-0", "backend-1", "backend-2"].map(|pod| (pod.to_owned(), 10)).into());
}

#[test]
fn a_pod_that_is_back_starts_with_a_tenth_of_its_share() {
    let (redis, mut pods) = (Redis::start(), Pods::start(2));
    let router = router(&redis, &pods, &["--fail-timeout", "100ms", "--slow-start", "1h"]);
    assert_eq!(answers(&router, 20).get("backend-1"), Some(&10), "from the start it has all of it");
    pods.get_mut(1).kill();
    eventually("it is left out", || {
        answers(&router, 6);
        router.metric(EJECTIONS, &[("pod", "backend-1")]) > 0.5
    });
    pods.get_mut(1).bind();
    eventually("it has been tried", || answers(&router, 3).contains_key("backend-1"));
    let count = answers(&router, 110).get("backend-1").copied().unwrap_or(0);
    assert!((9..=11).contains(&count), "{count} of 110");
}

#[test]
fn where_no_pod_is_left_a_request_waits() {
    let (redis, mut pods) = (Redis::start(), Pods::start(2));
    let router = router(&redis, &pods, &["--pod-wait", "60s", "--retry-budget", "100"]);
    (0..2).for_each(|n| pods.get_mut(n).kill());
    let mut client = router.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    router.wait_metric("pod_router_retries_total", &[("result", "waited")], 1.0);
    assert!(router.metric("pod_router_retries_total", &[("result", "elsewhere")]) >= 1.0);
    pods.get_mut(0).bind();
    assert_eq!(client.read_response().pod(), "backend-0");
}

/// A pod that refuses has lost its sessions. One that cannot be heard of may have them still.
#[test]
fn a_session_whose_pod_swallows_packets_is_not_told_that_it_is_unknown() {
    let (redis, mut pods) = (Redis::start(), Pods::start(2));
    let router = router(&redis, &pods, &["--pod-wait", "100ms", "--connect-timeout", "100ms"]);
    pods.get_mut(1).kill();
    let answer = || router.get(&poll("backend-1~x"));
    assert_eq!(answer().head.value("x-pod-router-error"), Some("session-unknown"));
    let _full = full_listener(pods[1].addr());
    // What has just been refused is not dialled again at once.
    eventually("it is dialled again", || answer().head.value("x-pod-router-error") == Some("pod-unreachable"));
}

/// It may be too busy, or what accepts is a proxy of its own.
#[test]
fn a_session_whose_pod_closes_at_once_is_not_told_that_it_is_unknown() {
    let (redis, pods) = (Redis::start(), Pods::start(2));
    let router = router(&redis, &pods, &["--pod-wait", "100ms"]);
    pods[1].play(|_| Ok(()));
    for _ in 0..5 {
        let answer = router.get(&poll("backend-1~x"));
        let error = answer.head.value("x-pod-router-error");
        // Whether it closes before or after the request has gone is chance.
        assert!(matches!(error, Some("pod-unreachable" | "pod-closed")), "{error:?}");
    }
}

#[test]
fn a_pod_that_never_answers_is_left_out_after_three() {
    let (redis, pods) = (Redis::start(), Pods::start(3));
    pods[1].play(script::silence);
    let router = router(&redis, &pods, &["--response-timeout", "200ms"]);
    let served = answers(&router, 40);
    // What has been sent is not sent again: three requests are lost, one for each strike.
    assert_eq!(served.get("504"), Some(&3), "{served:?}");
    assert_eq!(router.metric(EJECTIONS, &[("pod", "backend-1")]), 1.0);
    assert_eq!(states(&router)[1], "ejected");
}

/// Engine.IO ends each WebSocket handshake to a path that is not its own without an answer: any client can have that.
#[test]
fn a_handshake_that_is_closed_without_an_answer_is_not_held_against_the_pod() {
    let (redis, pods) = (Redis::start(), Pods::start(2));
    for pod in pods.iter() {
        pod.play(|mut conn| conn.request().map(drop));
    }
    let router = router(&redis, &pods, &[]);
    for _ in 0..12 {
        assert_eq!(router.request(handshake("/nope")).expect_error(502), "pod-closed");
    }
    let ejections = || pods.iter().map(|pod| router.metric(EJECTIONS, &[("pod", pod.name())])).sum::<f64>();
    assert_eq!(ejections(), 0.0);
    answers(&router, 12);
    assert_eq!(ejections(), 1.0, "any other request is");
}

#[test]
fn answers_count_as_failures_where_that_is_wanted() {
    for (status, expected) in [("off", 20), ("502,503", 3)] {
        let (redis, pods) = (Redis::start(), Pods::start(2));
        pods[1].play(script::answer("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"));
        let router = router(&redis, &pods, &["--fail-status", status]);
        assert_eq!(answers(&router, 40).get("503"), Some(&expected), "{status}");
    }
}

#[test]
fn never_more_than_half_is_left_out() {
    let (redis, mut pods) = (Redis::start(), Pods::start(4));
    let router = router(&redis, &pods, &["--pod-wait", "0s", "--retry-budget", "100"]);
    for pod in [1, 2, 3] {
        pods.get_mut(pod).kill();
    }
    let ejections = || (0..4).map(|n| router.metric(EJECTIONS, &[("pod", &format!("backend-{n}"))])).sum::<f64>();
    eventually("two are left out", || {
        answers(&router, 4);
        ejections() > 1.5
    });
    assert_eq!(answers(&router, 60).keys().collect::<Vec<_>>(), ["backend-0"]);
    assert_eq!(ejections(), 2.0);
}

/// Two of four are out; one of the others leaves. Of three, two are too many.
#[test]
fn where_a_set_shrinks_what_is_too_many_comes_back() {
    let (redis, mut pods) = (Redis::start(), Pods::start(4));
    (0..4).for_each(|n| redis.heartbeat(n, 1, 1, 0));
    let args = ["--default-backend", "heartbeats", "--fail-timeout", "1h", "--retry-budget", "100"];
    let router = knowing(&redis, &pods).args(&args).start_ready();
    eventually("the heartbeats are read", || router.get("/").status() == 200);
    (0..2).for_each(|n| pods.get_mut(n).kill());
    eventually("both are out", || {
        answers(&router, 8);
        states(&router) == ["ejected", "ejected", "up", "up"]
    });
    redis.heartbeat(2, 1, 1, 600_000);
    eventually("one has left, and the one that was ejected first is back", || {
        answers(&router, 8);
        let states = states(&router);
        states.len() == 3 && states.iter().filter(|state| *state == "ejected").count() == 1
    });
    assert_eq!(answers(&router, 30).keys().collect::<Vec<_>>(), ["backend-3"], "which costs no request");
}

#[test]
fn a_rooms_pod_is_never_replaced() {
    let (redis, mut pods) = (Redis::start(), Pods::start(3));
    redis.assign("room_a", 1);
    let router = router(&redis, &pods, &["--pod-wait", "0s"]);
    pods.get_mut(1).kill();
    // Not at once: what several learn of one dial is one failure.
    let ejected = || router.metric(EJECTIONS, &[("pod", "backend-1")]) > 0.5;
    eventually("it is left out", || {
        answers(&router, 6);
        ejected()
    });
    assert_eq!(router.get("/room_a").expect_error(503), "pod-unreachable");
    pods.get_mut(1).bind();
    // Still left out for requests without a room, and there for its room.
    eventually("its room is served", || router.get("/room_a").status() == 200);
    assert_eq!(router.metric(EJECTIONS, &[("pod", "backend-1")]), 1.0);
    assert!(!answers(&router, 9).contains_key("backend-1"));
}

#[test]
fn a_pod_is_asked_how_it_is() {
    let (redis, pods) = (Redis::start(), Pods::start(3));
    let check = "/health interval=50ms timeout=1s rise=1 fall=2";
    let says = |n: usize, status, word| pods[n].play(answering_checks(status, word));
    (0..3).for_each(|n| says(n, "200 OK", ""));
    let router = router(&redis, &pods, &["--health-check", check]);
    eventually("all are up", || states(&router) == ["up", "up", "up"]);

    says(0, "200 OK", "drain\n");
    says(1, "503 Service Unavailable", "");
    eventually("one drains, one is down", || states(&router) == ["drain", "down", "up"]);
    assert_eq!(answers(&router, 9).keys().collect::<Vec<_>>(), ["backend-2"]);
    // The session of a pod that drains goes on there.
    assert_eq!(router.get(&poll("backend-0~abc")).pod(), "backend-0");

    says(0, "200 OK", "maint\n");
    eventually("it is in maintenance", || states(&router)[0] == "maintenance");
    let gone = router.get(&poll("backend-0~abc"));
    assert_eq!((gone.status(), &*gone.text()), (400, r#"{"code":1,"message":"Session ID unknown"}"#));

    // Not even when it stops answering: two bad answers would have it down, and asked as a last resort.
    (1..3).for_each(|n| says(n, "503 Service Unavailable", ""));
    let asked = pods[0].received().len();
    says(0, "503 Service Unavailable", "");
    eventually("it has been asked", || pods[0].received().len() > asked + 3);
    eventually("the others are down", || states(&router)[1..] == ["down", "down"]);
    assert_eq!(states(&router)[0], "maintenance");
    assert!(!answers(&router, 9).contains_key("200"));

    (0..3).for_each(|n| says(n, "200 OK", "up\n"));
    eventually("all are back", || answers(&router, 9).len() == 3);
}

#[test]
fn a_single_pod_in_maintenance_gets_no_session_either() {
    let (redis, pods) = (Redis::start(), Pods::start(1));
    pods[0].play(script::answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nmaint"));
    let check = "/health interval=50ms timeout=1s rise=1 fall=1";
    let router = router(&redis, &pods, &["--health-check", check, "--session-affinity", "sid"]);
    let answer = || router.get(&poll("x"));
    eventually("it is in maintenance", || answer().head.value("x-pod-router-error") == Some("session-unknown"));
    assert_eq!(router.get("/").expect_error(503), "no-backend");
}

/// Many a small server answers HTTP/1.0 and keeps the connection open.
#[test]
fn an_answer_to_a_check_need_not_end_with_its_connection() {
    let (redis, pods) = (Redis::start(), Pods::start(2));
    for (pod, word) in pods.iter().zip(["ok", "drain"]) {
        pod.play(move |mut conn| {
            loop {
                conn.request()?;
                let name = conn.pod_name().to_owned();
                conn.send(format!("HTTP/1.1 200 OK\r\nX-Pod: {name}\r\nContent-Length: {}\r\n\r\n{word}", word.len()))?;
            }
        });
    }
    let router = router(&redis, &pods, &["--health-check", "/health interval=50ms timeout=5s rise=1 fall=1"]);
    eventually("both are heard", || states(&router) == ["up", "drain"]);
}

/// What finds no place anywhere has been tried nowhere.
#[test]
fn a_request_that_all_pods_are_too_full_for_is_not_tried_again() {
    let (redis, pods) = (Redis::start(), Pods::start(2));
    pods.iter().for_each(|pod| pod.play(script::websocket_echo));
    let limits = ["--pod-max-connections", "1", "--pod-queue", "0", "--balance", "least_conn"];
    let router = router(&redis, &pods, &limits);
    let _tunnels = [(); 2].map(|()| tunnel(&router, "/live"));
    assert_eq!(router.get("/").expect_error(503), "pod-busy");
    let picks = |pod: &str| router.metric("pod_router_picks_total", &[("pod", pod), ("source", "none")]);
    assert_eq!(picks("backend-0") + picks("backend-1"), 3.0, "one has been chosen");
    assert_eq!(router.metric("pod_router_retries_total", &[("result", "elsewhere")]), 0.0);
}

/// Where all pods are full, those with nothing to keep to go where the line is shortest.
#[test]
fn who_waits_counts_towards_the_pods_load() {
    let (redis, pods) = (Redis::start(), Pods::start(2));
    pods.iter().for_each(|pod| pod.play(script::websocket_echo));
    let limits = ["--pod-max-connections", "1", "--pod-queue-timeout", "10m", "--balance", "least_conn"];
    let router = router(&redis, &pods, &limits);
    let _tunnels = [(); 2].map(|()| tunnel(&router, "/live"));
    let wait = |target: &str, pod: &str, length: f64| {
        let client = router.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        router.wait_metric("pod_router_upstream_queued", &[("pod", pod)], length);
        client
    };
    let session = poll("backend-0~x");
    let _sessions = [1.0, 2.0, 3.0].map(|length| wait(&session, "backend-0", length));
    let _others = [1.0, 2.0, 3.0].map(|length| wait("/", "backend-1", length));
}

#[test]
fn a_full_pod_queues_and_then_refuses() {
    let (redis, pods) = (Redis::start(), Pods::start(1));
    redis.assign("room_a", 0);
    let gate = Gate::shared();
    let door = std::sync::Arc::clone(&gate);
    pods[0].play(move |mut conn| {
        let head = conn.request()?;
        door.wait();
        if head.has("upgrade") {
            conn.send(script::switching_protocols(&head))?;
            return conn.until_closed();
        }
        conn.send(format!(
            "HTTP/1.1 200 OK\r\nX-Pod: {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            conn.pod_name()
        ))
    });
    let limits = ["--pod-max-connections", "1", "--pod-queue", "1", "--pod-queue-timeout", "20s"];
    let router = router(&redis, &pods, &limits);
    // Rooms and the rest share the pod's places.
    let (mut first, mut second) = (router.client(), router.client());
    first.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is at the pod", || pods[0].received().len() == 1);
    second.send(handshake("/live"));
    eventually("it waits", || router.metric("pod_router_upstream_queued", &[("pod", "backend-0")]) == 1.0);
    let third = router.get("/");
    assert_eq!(third.expect_error(503), "pod-busy");
    assert!(third.head.has("retry-after"));

    gate.open();
    assert_eq!(first.read_response().status(), 200);
    assert_eq!(second.read_head().second_word(), "101");
    assert_eq!(router.metric("pod_router_queue_duration_seconds_count", &[]), 1.0);
    // The tunnel keeps its place, until it ends.
    let mut fourth = router.client();
    fourth.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it waits for the tunnel", || {
        router.metric("pod_router_upstream_queued", &[("pod", "backend-0")]) == 1.0
    });
    drop(second);
    assert_eq!(fourth.read_response().status(), 200);
}

/// A session has no other pod, and ends with a poll that gets no answer: who begins one, or has none, can wait.
#[test]
fn a_sessions_request_is_the_first_to_get_a_place() {
    let (redis, pods, gate) = (Redis::start(), Pods::start(1), Gate::shared());
    let door = std::sync::Arc::clone(&gate);
    pods[0].play(move |mut conn| {
        conn.whole_request()?;
        door.wait();
        conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    });
    redis.assign("room_a", 0);
    let limits = ["--pod-max-connections", "1", "--pod-queue", "3", "--pod-queue-timeout", "10m"];
    let router = router(&redis, &pods, &limits);
    let targets = ["/first", "/?EIO=4&transport=polling", "/room_a", "/?EIO=4&transport=polling&sid=x"];
    let clients = targets.iter().zip(0_u32..).map(|(target, before)| {
        let client = router.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        eventually("it is at the pod, or waits", || {
            let waiting = router.metric("pod_router_upstream_queued", &[("pod", "backend-0")]);
            pods[0].received().len() == 1 && waiting == f64::from(before)
        });
        client
    });
    let mut clients: Vec<_> = clients.collect();
    gate.open();
    assert!(clients.iter_mut().all(|client| client.read_response().status() == 200));
    let order: Vec<_> = pods[0].received().iter().map(|received| received.head.second_word().to_owned()).collect();
    assert_eq!(order, [0, 3, 1, 2].map(|n| targets[n]));
}

#[test]
fn a_wait_for_a_full_pod_ends() {
    let (redis, pods) = (Redis::start(), Pods::start(1));
    pods[0].play(script::silence);
    let router = router(&redis, &pods, &["--pod-max-connections", "1", "--pod-queue-timeout", "50ms"]);
    let first = router.client();
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is at the pod", || pods[0].received().len() == 1);
    assert_eq!(router.get("/").expect_error(503), "pod-busy");
}
