//! The end of the process: lame duck, drain, deadline, second signal.
//!
//! How far the end has come is read off the log ("draining") and the probes, never guessed by waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{Client, Gate, PATIENCE, Router, Stage, eventually, script};

const HANDSHAKE: &str = "GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A lame duck that no test waits for.
const LONG: &str = "10m";

fn wait_lame_duck(router: &Router) {
    eventually("/readyz says no", || router.get_admin("/readyz").status() == 503);
}

/// Waits until no new connection is served any more.
fn wait_draining(router: &Router) {
    eventually("new connections are turned away", || match Client::try_connect(router.addr()) {
        Ok(mut client) => client.try_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_err(),
        Err(_) => true,
    });
}

/// A stage whose pod 0 takes a request and answers once the gate is open.
fn held_stage(args: &[&str]) -> (Stage, Arc<Gate>) {
    let (stage, gate) = (Stage::with(args), Gate::shared());
    let held = Arc::clone(&gate);
    stage.pods[0].play(move |mut conn| {
        conn.whole_request()?;
        held.wait();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
    });
    (stage, gate)
}

fn wait_in_flight(stage: &Stage) {
    eventually("the pod has the request", || stage.pods[0].received().len() == 1);
}

#[test]
fn a_lame_duck_serves_and_says_goodbye() {
    for signal in ["TERM", "INT"] {
        let mut stage = Stage::with(&["--lame-duck", LONG]);
        let mut kept = stage.client();
        assert_eq!(kept.get("/room_a").head.value("connection"), None);
        stage.router.signal(signal);
        wait_lame_duck(&stage.router);
        assert_eq!(stage.router.get_admin("/livez").status(), 200);
        // Old connections are served, told to go, and closed; new ones as well.
        for mut client in [kept, stage.client()] {
            let response = client.get("/room_a");
            assert_eq!(response.pod(), "backend-0");
            assert_eq!(response.head.value("connection"), Some("close"));
            client.expect_end();
        }
        let refused = stage.get("/room%5Fa");
        refused.expect_error(400);
        assert_eq!(refused.head.value("connection"), Some("close"));
        assert!(!stage.router.has_exited());
    }
}

#[test]
fn an_idle_router_ends_after_the_lame_duck() {
    let mut stage = Stage::with(&["--lame-duck", "300ms", "--drain-timeout", "60s"]);
    let mut idle = stage.client();
    idle.get("/room_a");
    stage.router.signal("TERM");
    assert_eq!(stage.router.wait_exit().code(), Some(0));
    idle.expect_end();
}

#[test]
fn each_signal_that_asks_for_an_end_gets_a_clean_one() {
    for signal in ["INT", "QUIT"] {
        let mut stage = Stage::with(&["--lame-duck", "0s"]);
        stage.router.signal(signal);
        assert_eq!(stage.router.wait_exit().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_request_in_flight_is_finished() {
    let (mut stage, gate) = held_stage(&["--lame-duck", "0s", "--drain-timeout", "60s"]);
    let mut client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    wait_in_flight(&stage);
    stage.router.signal("TERM");
    wait_draining(&stage.router);
    assert!(!stage.router.has_exited());
    gate.open();
    assert_eq!(client.read_response().text(), "done");
    client.expect_end();
    assert_eq!(stage.router.wait_exit().code(), Some(0));
}

/// Also while it is not yet known whose it is.
#[test]
fn a_connection_that_has_not_said_whom_it_is_for_is_served() {
    let mut stage = Stage::with(&["--proxy-protocol", "on", "--lame-duck", "0s", "--drain-timeout", "60s"]);
    let mut client = stage.client();
    client.send("PROXY TCP4 203.0.113.7");
    eventually("it is counted", || stage.router.metric("pod_router_downstream_connections", &[]) > 0.5);
    stage.router.signal("TERM");
    eventually("nobody else can connect", || Client::try_connect(stage.router.addr()).is_err());
    client.send(" 10.0.0.1 1 2\r\nGET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().pod(), "backend-0");
    client.expect_end();
    assert_eq!(stage.router.wait_exit().code(), Some(0));
}

/// They have connected, for all they know, before the router closed its door.
#[test]
fn connections_in_the_queue_are_served() {
    let mut stage = Stage::with(&["--threads", "1", "--lame-duck", "0s", "--drain-timeout", "60s"]);
    stage.router.signal("STOP");
    let mut clients: Vec<_> = (0..1000).map(|_| stage.client().with_patience(4 * PATIENCE)).collect();
    for client in &clients {
        client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    stage.router.signal("TERM");
    stage.router.signal("CONT");
    for client in &mut clients {
        assert_eq!(client.read_response().pod(), "backend-0");
        client.expect_end();
    }
    assert_eq!(stage.router.wait_exit().code(), Some(0));
}

/// However soon the router ends: the kernel holds nobody back then, who would be forgotten with the listener.
#[test]
fn a_client_that_has_just_connected_and_says_nothing_is_told() {
    for lame_duck in ["0s", "1s"] {
        let mut stage = Stage::with(&["--threads", "1", "--lame-duck", lame_duck, "--drain-timeout", "60s"]);
        let mut silent = stage.client();
        stage.router.signal("TERM");
        silent.expect_end();
        assert_eq!(stage.router.wait_exit().code(), Some(0));
    }
}

/// Nor from a longer lame duck's beginning on.
#[test]
fn a_client_that_connects_late_in_the_lame_duck_and_says_nothing_is_told() {
    // Less than a second before its end; where the machine was slower the door was closed, and nothing is shown.
    let told = (0..10).any(|_| {
        let mut stage = Stage::with(&["--threads", "1", "--lame-duck", "1500ms", "--drain-timeout", "60s"]);
        let mut busy = stage.client();
        busy.get("/room_a");
        let since = Instant::now();
        stage.router.signal("TERM");
        while since.elapsed() < Duration::from_millis(900) {
            // So the thread that accepts knows it as well, at the latest by the last of them.
            let Ok(_) = busy.try_request(b"GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n") else { break };
            busy = stage.client();
        }
        let Ok(mut silent) = Client::try_connect(stage.router.addr()) else { return false };
        silent.expect_end();
        assert_eq!(stage.router.wait_exit().code(), Some(0));
        true
    });
    assert!(told, "nobody connected in time");
}

#[test]
fn a_download_in_flight_is_finished() {
    let mut stage = Stage::with(&["--lame-duck", "0s", "--drain-timeout", "60s"]);
    let gate = Gate::shared();
    let held = Arc::clone(&gate);
    stage.pods[0].play(move |mut conn| {
        conn.whole_request()?;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
        held.wait();
        conn.send("other")
    });
    let mut client = stage.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.read_head();
    stage.router.signal("TERM");
    wait_draining(&stage.router);
    gate.open();
    assert_eq!(client.read_body(&head).expect("the whole body"), b"firstother");
    assert_eq!(stage.router.wait_exit().code(), Some(0));
}

#[test]
fn a_stuck_request_is_cut_at_the_deadline() {
    let (mut stage, _gate) = held_stage(&["--lame-duck", "0s", "--drain-timeout", "500ms"]);
    let mut client = stage.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_in_flight(&stage);
    stage.router.signal("TERM");
    assert_eq!(stage.router.wait_exit().code(), Some(0));
    client.expect_end();
    let line = stage.router.wait_log("the request's access line", |line| line["path"] == "/room_a");
    assert_eq!((line["error"].as_str(), line["status"].as_u64()), (Some("drain-timeout"), Some(444)), "{line}");
}

/// Whatever cuts a tunnel, its last line is there.
#[test]
fn a_tunnel_that_is_cut_at_the_deadline_is_logged() {
    let mut stage = Stage::with(&["--lame-duck", "0s", "--drain-timeout", "0s"]);
    stage.pods[0].play(script::websocket_echo);
    let mut clients = [stage.client(), stage.client(), stage.client()];
    for client in &mut clients {
        client.send(HANDSHAKE);
        assert_eq!(client.read_head().second_word(), "101");
        client.send("hello");
        assert_eq!(client.read_exact(5), b"hello");
    }
    stage.router.signal("TERM");
    assert_eq!(stage.router.wait_exit().code(), Some(0));
    let closed: Vec<_> = stage.router.logs().into_iter().filter(|line| line["message"] == "tunnel closed").collect();
    assert_eq!(closed.len(), clients.len(), "{closed:?}");
    for line in closed {
        assert!(["drained", "drain-timeout"].iter().any(|reason| line["reason"] == *reason), "{line}");
        assert_eq!(line["bytes_out"], 5);
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let (mut stage, _gate) = held_stage(&["--lame-duck", LONG, "--drain-timeout", LONG]);
    let client = stage.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_in_flight(&stage);
    stage.router.signal("TERM");
    wait_lame_duck(&stage.router);
    stage.router.signal("TERM");
    stage.router.wait_exit();
}

/// The clients of tunnels that end at the same moment would all come back at the same moment.
#[test]
fn tunnels_end_spread_over_the_window() {
    const TUNNELS: usize = 60;
    let mut stage = Stage::with(&["--lame-duck", "0s", "--drain-timeout", "6s"]);
    stage.pods[0].play(script::websocket_echo);
    let mut clients: Vec<_> = (0..TUNNELS)
        .map(|_| {
            let mut client = stage.client();
            client.send(HANDSHAKE);
            assert_eq!(client.read_head().second_word(), "101");
            client
        })
        .collect();
    stage.router.signal("TERM");
    eventually("some have ended and others have not", || {
        let left = stage.router.metric("pod_router_websocket_connections", &[]);
        (10.0..=50.0).contains(&left)
    });
    clients.iter_mut().for_each(Client::expect_end);
    assert_eq!(stage.router.wait_exit().code(), Some(0));
    let closed: Vec<_> = stage.router.logs().into_iter().filter(|line| line["message"] == "tunnel closed").collect();
    assert_eq!(closed.len(), TUNNELS);
    // The pod's threads know them by their order; the lines come in that of their ends.
    let lifetimes: Vec<_> = closed.iter().filter_map(|line| line["duration_ms"].as_f64()).collect();
    assert!(!lifetimes.is_sorted_by(|one, other| one >= other), "they have ended in the order of their opening");
}

#[test]
fn a_tunnel_lives_through_the_lame_duck() {
    let stage = Stage::with(&["--lame-duck", LONG]);
    stage.pods[0].play(script::websocket_echo);
    let mut client = stage.client();
    client.send(HANDSHAKE);
    assert_eq!(client.read_head().second_word(), "101");
    stage.router.signal("TERM");
    wait_lame_duck(&stage.router);
    client.send("still there?");
    assert_eq!(client.read_exact(12), b"still there?");
}

/// hyper's graceful shutdown would turn its `Connection: upgrade` into `close`, were the 101 hyper's to write.
#[test]
fn a_handshake_in_flight_is_not_spoiled() {
    for (lame_duck, wait) in [(LONG, wait_lame_duck as fn(&Router)), ("0s", wait_draining)] {
        let stage = Stage::with(&["--lame-duck", lame_duck, "--drain-timeout", "60s"]);
        let gate = Gate::shared();
        let held = Arc::clone(&gate);
        stage.pods[0].play(move |mut conn| {
            let head = conn.request()?;
            held.wait();
            conn.send(script::switching_protocols(&head))?;
            conn.send("welcome")?;
            conn.until_closed()
        });
        let mut client = stage.client().with_patience(4 * PATIENCE);
        client.send(HANDSHAKE);
        wait_in_flight(&stage);
        stage.router.signal("TERM");
        wait(&stage.router);
        gate.open();
        let head = client.read_head();
        assert_eq!(head.second_word(), "101");
        let connection = head.value("connection").unwrap_or_default();
        assert!(connection.eq_ignore_ascii_case("upgrade"), "{}", head.text());
        assert_eq!(client.read_exact(7), b"welcome");
    }
}

/// A handshake that arrives on the lame duck is served as well.
#[test]
fn a_handshake_during_the_lame_duck_is_served() {
    let stage = Stage::with(&["--lame-duck", LONG]);
    stage.pods[0].play(script::websocket_echo);
    stage.router.signal("TERM");
    wait_lame_duck(&stage.router);
    let mut client = stage.client();
    client.send(HANDSHAKE);
    let head = client.read_head();
    assert_eq!(head.second_word(), "101");
    assert!(head.value("connection").is_some_and(|option| option.eq_ignore_ascii_case("upgrade")), "{}", head.text());
    client.send("hello");
    assert_eq!(client.read_exact(5), b"hello");
}

/// Nor is one whose room is still being looked up, or whose head has not come to its end.
#[test]
fn a_handshake_that_is_not_with_its_pod_yet_is_not_spoiled_either() {
    let stage = Stage::with(&["--lame-duck", "0s", "--drain-timeout", "60s", "--redis-timeout", "40s"]);
    stage.pods[0].play(script::websocket_echo);
    let (begun, rest) = HANDSHAKE.split_at(60);
    let partial = stage.client().with_patience(4 * PATIENCE);
    partial.send(begun);
    let waiting = stage.client().with_patience(4 * PATIENCE);
    stage.redis.pause();
    waiting.send(HANDSHAKE);
    eventually("both connections are served", || stage.router.metric("pod_router_downstream_connections", &[]) > 1.5);
    stage.router.signal("TERM");
    wait_draining(&stage.router);
    stage.redis.resume();
    partial.send(rest);
    for mut client in [waiting, partial] {
        let head = client.read_head();
        assert_eq!(head.second_word(), "101");
        let connection = head.value("connection").unwrap_or_default();
        assert!(connection.eq_ignore_ascii_case("upgrade"), "{}", head.text());
        client.send("hello");
        assert_eq!(client.read_exact(5), b"hello");
    }
}
