//! The timeout chain (notes/correctness.md section 3.4): each wait has its own limit, and none is taken for another.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::tunnel;
use crate::support::{Gate, Stage, eventually, script};

/// Waits this many times until a head that is never completed has been cut: so long other connections have been idle.
fn sit_out(stage: &Stage, times: usize) {
    for _ in 0..times {
        let mut slow = stage.client();
        slow.send("GET /room_a HT");
        assert_eq!(slow.read_response().status(), 408);
    }
}

fn rejected(stage: &Stage, reason: &str) -> f64 {
    stage.router.metric("pod_router_rejected_total", &[("reason", reason)])
}

#[test]
fn a_head_that_does_not_end_is_answered_408() {
    let stage = Stage::with(&["--header-timeout", "300ms"]);
    for begun in ["G", "GET /room_a HTTP/1.1\r\nHost: a\r\nX: ", "\r\n", "GET /room_a HTTP/1.1\r\nHost: a\r\n"] {
        let mut client = stage.client();
        client.send(begun);
        let response = client.read_response();
        assert_eq!(
            (response.status(), response.head.value("x-pod-router-error")),
            (408, Some("slow-head")),
            "{begun:?}"
        );
        assert_eq!(response.head.value("connection"), Some("close"));
        client.expect_end();
    }
    assert!(rejected(&stage, "slow-head") > 3.5);
    assert!(stage.pods[0].received().is_empty());
}

/// Slowloris: a byte now and then does not buy more time.
#[test]
fn a_head_that_comes_byte_by_byte_has_no_more_time() {
    let stage = Stage::with(&["--header-timeout", "300ms"]);
    let client = stage.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n");
    for byte in "X: y\r\n".bytes().cycle() {
        if client.try_send([byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(rejected(&stage, "slow-head") > 0.5);
}

/// A head that has taken its time, within the limit, says nothing of the next one; nor does a request's body.
#[test]
fn each_head_has_its_own_time() {
    let stage = Stage::with(&["--header-timeout", "1s"]);
    let mut client = stage.client();
    for number in 0..4 {
        let (first, rest) = ("POST /room_a HTTP/1.1\r\nHost: a\r\n", "Content-Length: 4\r\n\r\n");
        client.send(first);
        thread::sleep(Duration::from_millis(400));
        client.send(rest);
        client.send("bo");
        thread::sleep(Duration::from_millis(400));
        client.send("dy");
        assert_eq!(client.read_response().json()["body"], "body", "{number}");
    }
    assert!(rejected(&stage, "slow-head") < 0.5);
}

/// hyper's own timeout is both at once: an ingress' pooled connections were closed under it (linkerd2-proxy 3985).
#[test]
fn a_connection_may_idle_for_longer_than_a_head_may_take() {
    let stage = Stage::with(&["--header-timeout", "200ms", "--response-timeout", "60s"]);
    let mut idle = stage.client();
    let mut unused = stage.client();
    assert_eq!(idle.request("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok").pod(), "backend-0");
    let gate = Gate::shared();
    let held = Arc::clone(&gate);
    stage.pods[1].play(move |mut conn| {
        conn.whole_request()?;
        held.wait();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npoll")
    });
    stage.redis.assign("room_b", 1);
    let mut polling = stage.client();
    // With a second request behind it, of which only a part has come.
    polling.send("GET /room_b HTTP/1.1\r\nHost: a\r\n\r\nGET /room_a HT");
    eventually("the poll is with its pod", || stage.pods[1].received().len() == 1);
    sit_out(&stage, 4);
    gate.open();
    assert_eq!(polling.read_response().text(), "poll");
    polling.send("TP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(polling.read_response().pod(), "backend-0");
    assert_eq!(idle.get("/room_a").pod(), "backend-0");
    assert_eq!(unused.get("/room_a").pod(), "backend-0");
}

#[test]
fn a_request_body_that_stops_coming_is_answered_408() {
    let stage = Stage::with(&["--request-body-idle", "300ms"]);
    for begun in
        ["Content-Length: 10\r\n\r\nhello", "Content-Length: 10\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel"]
    {
        let mut client = stage.client();
        client.send(format!("POST /room_a HTTP/1.1\r\nHost: a\r\n{begun}"));
        assert_eq!(client.read_response().expect_error(408), "slow-body", "{begun:?}");
        client.expect_end();
        eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    }
    assert!(rejected(&stage, "slow-body") > 2.5);
    // It is not the pod's fault: what is kept of its connections stays, and it is not called unanswered.
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
}

#[test]
fn a_request_body_that_comes_slowly_passes() {
    let stage = Stage::with(&["--request-body-idle", "1s", "--response-timeout", "1s", "--header-timeout", "1s"]);
    let mut client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 25\r\n\r\n");
    for _ in 0..25 {
        thread::sleep(Duration::from_millis(60));
        client.send("x");
    }
    assert_eq!(client.read_response().json()["bodyLength"], 25);
}

/// A pod may answer before it has read all: the rest of the body is no request's head, and takes its own time.
#[test]
fn a_body_that_goes_on_after_its_answer_is_no_slow_head() {
    let stage = Stage::with(&["--header-timeout", "300ms"]);
    let gate = Gate::shared();
    let whole = Arc::clone(&gate);
    stage.pods[0].play(move |mut conn| {
        let head = conn.request()?;
        conn.send("HTTP/1.1 200 OK\r\nX-Pod: early\r\nContent-Length: 0\r\n\r\n")?;
        conn.read_body(&head, |_| {})?;
        whole.open();
        conn.until_closed()
    });
    let mut client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 25\r\n\r\n");
    assert_eq!(client.read_response().pod(), "early");
    for _ in 0..25 {
        thread::sleep(Duration::from_millis(60));
        client.send("x");
    }
    assert!(gate.wait(), "the pod has the whole body");
    // Nor is the connection cut afterwards, or said to wait for the rest of a head.
    sit_out(&stage, 2);
    assert_eq!(client.get("/").pod(), "any");
    assert!((1.5..2.5).contains(&rejected(&stage, "slow-head")), "only those of the two that were");
}

/// Who is waited for is the one who is slow: here the pod, which has a time of its own.
#[test]
fn a_pod_that_reads_slowly_is_not_the_clients_fault() {
    const LEN: usize = 32 * 1024 * 1024;
    let stage = Stage::with(&["--request-body-idle", "200ms", "--header-timeout", "200ms"]);
    let gate = Gate::shared();
    let held = Arc::clone(&gate);
    stage.pods[0].play(move |mut conn| {
        let head = conn.request()?;
        held.wait();
        conn.read_body(&head, |_| {})?;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    });
    let mut client = stage.client();
    thread::scope(|scope| {
        scope.spawn(|| {
            eventually("the pod has the head", || stage.pods[0].received().len() == 1);
            sit_out(&stage, 5);
            gate.open();
        });
        client.send(format!("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: {LEN}\r\n\r\n"));
        client.send(vec![b'x'; LEN]);
    });
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn a_response_body_that_stops_coming_is_cut_off_where_that_is_asked_for() {
    let stage = Stage::with(&["--response-body-idle", "300ms"]);
    for begun in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "\r\nhello"] {
        stage.pods[0].play(move |mut conn| {
            conn.whole_request()?;
            conn.send(format!("HTTP/1.1 200 OK\r\n{begun}"))?;
            conn.until_closed()
        });
        let mut client = stage.client();
        client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = client.read_head();
        let read = client.read_body(&head);
        assert!(read.is_err(), "{begun:?} looks complete: {read:?}");
        eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    }
    assert!(rejected(&stage, "pod-stalled") > 2.5);
    stage.router.wait_log("the reason", |line| line["error"] == "pod-stalled");
}

#[test]
fn a_response_that_comes_slowly_passes() {
    let stage = Stage::with(&["--response-body-idle", "1s", "--response-timeout", "1s", "--write-stall", "1s"]);
    stage.pods[0].play(|mut conn| {
        conn.whole_request()?;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n")?;
        for _ in 0..25 {
            thread::sleep(Duration::from_millis(60));
            conn.send("x")?;
        }
        Ok(())
    });
    assert_eq!(stage.get("/room_a").text(), "x".repeat(25));
}

/// More than the sockets' buffers hold.
const FLOOD: usize = 64 * 1024 * 1024;

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_cut() {
    let stage = Stage::with(&["--write-stall", "500ms"]);
    stage.pods[0].play(|mut conn| {
        conn.whole_request()?;
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {FLOOD}\r\n\r\n"))?;
        conn.send(vec![b'x'; FLOOD])
    });
    let mut client = stage.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    stage.router.wait_metric("pod_router_rejected_total", &[("reason", "slow-reader")], 1.0);
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    eventually("the client's is too", || stage.router.metric("pod_router_downstream_connections", &[]) < 0.5);
    let head = client.read_head();
    assert!(client.read_body(&head).is_err(), "it looks complete");
}

/// What counts is that anything goes. The kernel asks for more when a third of its buffer is free again, so the rate must
/// not be too low for a limit as short as this one.
#[test]
fn a_client_that_takes_its_answer_slowly_is_not() {
    const LEN: usize = 24 * 1024 * 1024;
    let stage = Stage::with(&["--write-stall", "1s"]);
    stage.pods[0].play(|mut conn| {
        conn.whole_request()?;
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n"))?;
        conn.send(vec![b'x'; LEN])
    });
    let mut client = stage.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_head();
    let mut taken = 0;
    while taken < LEN {
        let piece = client.wire().read_some().expect("the answer goes on");
        assert!(!piece.is_empty(), "cut after {taken} bytes");
        taken += piece.len();
        thread::sleep(Duration::from_millis(10));
    }
    assert!(rejected(&stage, "slow-reader") < 0.5);
}

#[test]
fn a_websocket_client_that_takes_nothing_is_cut() {
    let stage = Stage::with(&["--write-stall", "500ms"]);
    stage.pods[0].play(|mut conn| {
        script::accept_websocket(&mut conn)?;
        conn.send(vec![b'x'; FLOOD])?;
        conn.until_closed()
    });
    let mut client = tunnel(&stage);
    let closed = stage.router.wait_log("the tunnel's last line", |line| line["message"] == "tunnel closed");
    assert_eq!(closed["reason"], "slow-reader");
    assert!(rejected(&stage, "slow-reader") > 0.5);
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    let error = client.wire().read_to_end().expect_err("a message that was cut off must not look complete");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
