//! A pod that refuses connections: its requests are held, the directory is asked again, then they are given up.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::{NameServer, Pod, Pods, Redis, Router, Stage, eventually, script};

const FAILURES: &str = "pod_router_upstream_connect_failures_total";

/// What the log says with this message, once it has said all of what has happened so far.
fn lines(router: &Router, message: &str) -> Vec<serde_json::Value> {
    let request_id = format!("mark-{}", fastrand::u64(..));
    router.request(format!("GET /room%5Fa HTTP/1.1\r\nHost: a\r\nX-Request-Id: {request_id}\r\n\r\n"));
    router.access_line(&request_id);
    router.logs().into_iter().filter(|line| line["message"] == message).collect()
}

#[test]
fn a_request_waits_for_its_pod_to_come_back_and_is_delivered_once() {
    let mut stage = Stage::with(&["--pod-wait", "60s"]);
    stage.pods.get_mut(0).unbind();
    let mut client = stage.client();
    let waiting =
        thread::spawn(move || client.request("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"));
    stage.router.wait_metric(FAILURES, &[("pod", "backend-0")], 2.0);
    stage.pods.get_mut(0).bind();
    let response = waiting.join().expect("the request is answered");
    assert_eq!(response.pod(), "backend-0");
    assert_eq!(response.json()["body"], "hello");
    assert_eq!(stage.pods[0].received().len(), 1);
}

#[test]
fn a_handshake_waits_as_well() {
    let mut stage = Stage::with(&["--pod-wait", "60s"]);
    stage.pods[0].play(script::websocket_echo);
    stage.pods.get_mut(0).unbind();
    let mut client = stage.client();
    let waiting = thread::spawn(move || {
        client.send(
            "GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
        client.read_head()
    });
    stage.router.wait_metric(FAILURES, &[("pod", "backend-0")], 1.0);
    stage.pods.get_mut(0).bind();
    assert_eq!(waiting.join().expect("the handshake is answered").second_word(), "101");
}

#[test]
fn a_pod_that_stays_away_is_given_up() {
    let mut stage = Stage::with(&["--pod-wait", "300ms"]);
    stage.pods.get_mut(0).unbind();
    let response = stage.get("/room_a");
    assert_eq!(response.expect_error(503), "pod-unreachable");
    assert!(response.head.value("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
    assert!(stage.router.metric("pod_router_rejected_total", &[("reason", "pod-unreachable")]) > 0.5);
    // A connection failure moves no room, and harms no other.
    assert!(stage.pods[1].received().is_empty());
    assert_eq!(stage.get("/").pod(), "any");
}

/// A host that has gone swallows packets: that must not hold a request for longer than `--pod-wait`, whatever
/// `--connect-timeout` allows the first attempt.
#[test]
fn a_pod_that_swallows_packets_is_given_up_as_well() {
    let mut stage = Stage::with(&["--pod-wait", "5s", "--connect-timeout", "1h"]);
    stage.pods.get_mut(0).unbind();
    stage.pods.get_mut(1).unbind();
    let _full = full_listener(stage.pods[1].addr());
    let mut client = stage.client();
    let waiting = thread::spawn(move || client.get("/room_a"));
    // Refused first, so that the attempt which is swallowed is not the first.
    stage.router.wait_metric(FAILURES, &[("pod", "backend-0")], 1.0);
    stage.redis.assign("room_a", 1);
    let response = waiting.join().expect("the request is answered");
    assert_eq!(response.expect_error(503), "pod-unreachable");
    assert!(stage.router.metric(FAILURES, &[("pod", "backend-1")]) > 0.5, "the room's second pod was not tried");
}

/// A listener whose queue is full: the kernel drops further SYNs.
pub(crate) fn full_listener(addr: SocketAddr) -> (Socket, Vec<TcpStream>) {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("a socket takes its options");
    socket.bind(&addr.into()).expect("the address is free");
    socket.listen(0).expect("it listens");
    let fill = || TcpStream::connect_timeout(&addr, Duration::from_millis(300)).ok();
    let queued = std::iter::from_fn(fill).take(64).collect::<Vec<_>>();
    assert!(queued.len() < 64, "the queue has no end");
    (socket, queued)
}

/// Never more than a retry: `Retry-After`, and the connection's next request is served.
#[test]
fn a_given_up_upload_does_not_spoil_what_follows() {
    let mut stage = Stage::with(&["--pod-wait", "100ms"]);
    stage.pods.get_mut(0).unbind();
    let response = stage.request("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\nGET /x ");
    response.expect_error(503);
    stage.pods.get_mut(0).bind();
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
}

#[test]
fn without_pod_wait_a_refusal_is_answered_at_once() {
    let mut stage = Stage::with(&["--pod-wait", "0s"]);
    stage.pods.get_mut(0).unbind();
    assert_eq!(stage.get("/room_a").expect_error(503), "pod-unreachable");
}

/// The directory is asked again past the cache, which here would hold the old answer for an hour.
#[test]
fn a_room_that_moves_while_its_request_waits_is_followed() {
    let mut stage = Stage::with(&["--pod-wait", "60s", "--cache-ttl", "1h"]);
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
    stage.pods.get_mut(0).kill();
    let mut client = stage.client();
    let waiting =
        thread::spawn(move || client.request("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"));
    stage.router.wait_metric(FAILURES, &[("pod", "backend-0")], 1.0);
    stage.redis.assign("room_a", 1);
    let response = waiting.join().expect("the request is answered");
    assert_eq!(response.pod(), "backend-1");
    assert_eq!(response.json()["body"], "hello");
    let head = stage.pods[1].only_head();
    assert_eq!(head.value("x-room-pod"), Some("backend-1"));
    // From now on the cache knows better as well.
    assert_eq!(stage.get("/room_a").pod(), "backend-1");
}

#[test]
fn a_client_that_gives_up_waiting_is_forgotten() {
    let mut stage = Stage::with(&["--pod-wait", "60s"]);
    stage.pods.get_mut(0).unbind();
    let client = stage.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\nX-Request-Id: impatient\r\n\r\n");
    stage.router.wait_metric(FAILURES, &[("pod", "backend-0")], 1.0);
    drop(client);
    let line = stage.router.access_line("impatient");
    assert_eq!((line["room"].as_str(), line["pod"].as_str()), (Some("room_a"), Some("backend-0")));
    stage.pods.get_mut(0).bind();
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
    assert_eq!(stage.pods[0].received().len(), 1, "the abandoned request was sent");
}

/// A name that has no address is a pod that is not there (yet).
#[test]
fn a_pod_without_an_address_is_unreachable() {
    // Who asks the machine's own gets no answer now and then.
    let Some(names) = NameServer::start() else { return };
    let (redis, any) = (Redis::start(), Pod::start("any"));
    redis.assign("room_a", 0);
    let router = Router::builder()
        .nameserver(&names)
        .redis(&redis)
        .default_backend([&any])
        .args(&["--pod-address", "{pod}.no-such-name.invalid:3000", "--pod-wait", "200ms"])
        .start_ready();
    assert_eq!(router.get("/room_a").expect_error(503), "pod-unreachable");
    let said = lines(&router, "pod unreachable");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0]["why"], "the name has no address");
}

/// Why, where and since when is one line for all requests and threads, and so is the end of it.
#[test]
fn that_a_pod_is_away_is_said_once_with_the_cause_and_so_is_its_return() {
    let mut stage = Stage::with(&["--pod-wait", "0s", "--threads", "3"]);
    let address = stage.pods[0].addr().to_string();
    for turn in 1..=2 {
        stage.pods.get_mut(0).kill();
        for _ in 0..8 {
            stage.get("/room_a").expect_error(503);
        }
        let away = lines(&stage.router, "pod unreachable");
        assert_eq!(away.len(), turn, "{away:?}");
        let (said, why) = (&away[turn - 1], away[turn - 1]["why"].as_str().unwrap_or_default());
        assert_eq!((said["level"].as_str(), said["pod"].as_str()), (Some("WARN"), Some("backend-0")));
        assert!(said["address"] == address.as_str() && why.contains("refused") && why.contains(&address), "{said}");
        stage.pods.get_mut(0).bind();
        eventually("the pod is dialled again", || stage.get("/room_a").status() == 200);
        assert_eq!(lines(&stage.router, "pod reachable again").len(), turn);
    }
}

/// Whoever makes up names in a `sid` writes no warning for each. Of a pod that has been reached, or that owns a room,
/// there is one.
#[test]
fn a_pod_that_only_a_sid_names_is_no_warning_until_it_is_known_otherwise() {
    let Some(names) = NameServer::start() else { return };
    let (redis, mut pods, any) = (Redis::start(), Pods::start(1), Pod::start("any"));
    let builder = Router::builder().redis(&redis).default_backend([&any]).pod(&pods[0]).nameserver(&names);
    let router = builder.args(&["--pod-address", "{pod}.no-such-name.invalid:3000", "--pod-wait", "0s"]).start_ready();
    let sid = |pod: usize| router.get(&format!("/socket.io/?EIO=4&transport=polling&sid=backend-{pod}~x"));
    for pod in 1..20 {
        assert_eq!(sid(pod).head.value("x-pod-router-error"), Some("session-unknown"));
    }
    let warnings = || -> Vec<_> {
        lines(&router, "pod unreachable").iter().filter_map(|line| line["pod"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(warnings(), [""; 0]);
    redis.assign("room_a", 7);
    // The answer is there before its line in the log; and who asks right after the last of those is told of its failure.
    eventually("it is said", || {
        assert_eq!(router.get("/room_a").expect_error(503), "pod-unreachable");
        !warnings().is_empty()
    });
    assert_eq!(warnings(), ["backend-7"]);
    assert_eq!(sid(0).pod(), "backend-0");
    pods.get_mut(0).unbind();
    eventually("its connections are gone", || sid(0).head.value("x-pod-router-error") == Some("session-unknown"));
    eventually("it is said", || warnings().len() > 1);
    assert_eq!(warnings(), ["backend-7", "backend-0"]);
}

#[test]
fn a_default_backend_that_refuses_is_passed_over() {
    let redis = Redis::start();
    let mut pods = Pods::start(2);
    let router = Router::builder().redis(&redis).default_backend(pods.iter()).start_ready();
    pods.get_mut(0).unbind();
    let mut client = router.client();
    for _ in 0..6 {
        assert_eq!(client.get("/").pod(), "backend-1");
    }
}

/// What one dial finds out is told to others that would dial at the same time. It is one failure all the same.
#[test]
fn a_dial_that_fails_is_held_against_the_pod_once() {
    const MAX_FAILS: usize = 12;
    let (redis, mut pods) = (Redis::start(), Pods::start(2));
    let args = ["--threads", "1", "--max-fails", &MAX_FAILS.to_string(), "--retry-budget", "100"];
    let router = Router::builder().redis(&redis).default_backend(pods.iter()).args(&args).start_ready();
    let gone = pods[0].addr().to_string();
    pods.get_mut(0).unbind();
    let mut client = router.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(60));
    for _ in 0..60 {
        assert_eq!(client.read_response().pod(), "backend-1");
    }
    let of = |metric: &str| router.metric(metric, &[("pod", &gone)]).round() as usize;
    let (dials, ejections) = (of(FAILURES), of("pod_router_ejections_total"));
    assert!(dials > 0);
    assert_eq!(ejections > 0, dials >= MAX_FAILS, "{dials} dials have failed, {ejections} ejections");
}
