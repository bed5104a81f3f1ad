//! The timeout chain: each wait has its own limit, and none is taken for another.

use std::io::Write;
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

/// A head that begins just before the connection's idle time is over has its own time all the same.
#[test]
fn a_head_under_way_is_not_idle() {
    let stage = Stage::with(&["--downstream-idle", "500ms", "--header-timeout", "60s"]);
    let mut begun = stage.client();
    begun.send("GET /room_a HTTP/1.1\r\n");
    for _ in 0..2 {
        let mut idle = stage.client();
        idle.expect_end();
    }
    begun.send("Host: a\r\n\r\n");
    assert_eq!(begun.read_response().pod(), "backend-0");
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
    // Together the pauses are longer than one head may take; each alone is far shorter.
    let stage = Stage::with(&["--header-timeout", "3s"]);
    let mut client = stage.client();
    for number in 0..5 {
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

/// The rest of the body has the time of a body: neither that of an idle connection nor, after the response, of a head.
#[test]
fn a_body_that_goes_on_after_an_early_answer_is_not_cut() {
    let stage = Stage::with(&["--upstream-idle", "100ms", "--header-timeout", "200ms"]);
    let whole = Gate::shared();
    let opens = Arc::clone(&whole);
    stage.pods[0].play(move |mut conn| {
        let head = conn.request()?;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        conn.read_body(&head, |_| {})?;
        opens.open();
        conn.until_closed()
    });
    let mut client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nbody");
    assert_eq!(client.read_response().status(), 200);
    for piece in ["that", "goes"] {
        client.send(piece);
        sit_out(&stage, 3);
    }
    assert!(whole.wait(), "the pod gets all of the body");
    assert_eq!(client.get("/").pod(), "any");
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
}

/// A response that is under way does not make the client's silence any better.
#[test]
fn a_body_that_stops_amid_its_response_is_cut() {
    let stage = Stage::with(&["--request-body-idle", "300ms"]);
    stage.pods[0].play(|mut conn| {
        let head = conn.request()?;
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")?;
        conn.read_body(&head, |_| {})
    });
    let mut client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nbody");
    let head = client.read_head();
    assert_eq!(client.read_chunk().as_deref(), Some(&b"hello"[..]));
    assert!(client.read_body(&head).is_err(), "it looks complete");
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    assert!(rejected(&stage, "slow-body") > 0.5);
    let line = stage.router.access_line(head.value("x-request-id").unwrap_or_default());
    assert_eq!(line["error"], "slow-body");
}

/// It has begun to answer in time, and would have both its own connection and its client's for as long as it likes.
#[test]
fn a_pod_that_neither_takes_nor_sends_anything_amid_its_response_is_cut() {
    let stage = Stage::with(&["--response-timeout", "300ms"]);
    let over = Gate::shared();
    let held = Arc::clone(&over);
    stage.pods[0].play(move |mut conn| {
        conn.request()?;
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")?;
        held.wait();
        Ok(())
    });
    let mut client = stage.client();
    let sink = client.wire().stream().try_clone().expect("a socket can be shared");
    client.send(format!("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: {FLOOD}\r\n\r\n"));
    let sending = thread::spawn(move || (&sink).write_all(&vec![b'x'; FLOOD]));
    let head = client.read_head();
    assert_eq!(client.read_chunk().as_deref(), Some(&b"hello"[..]));
    assert!(client.read_body(&head).is_err(), "it looks complete");
    assert!(sending.join().expect("sending does not panic").is_err(), "somebody has taken all of it");
    let line = stage.router.access_line(head.value("x-request-id").unwrap_or_default());
    assert_eq!((&line["error"], rejected(&stage, "pod-stalled") > 0.5), (&"pod-stalled".into(), true), "{line}");
    over.open();
}

/// Nor is one that waits for its client to take more of the answer, nor that has to read only once all of it is taken.
#[test]
fn a_pod_that_answers_before_it_reads_is_not_cut() {
    let stage = Stage::with(&["--response-timeout", "2s", "--header-timeout", "200ms"]);
    let gates: Vec<_> = (0..12).map(|_| Gate::shared()).collect();
    let taken = Gate::shared();
    let (held, reads) = (gates.clone(), Arc::clone(&taken));
    stage.pods[0].play(move |mut conn| {
        let head = conn.request()?;
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", held.len() + FLOOD))?;
        for gate in &held {
            gate.wait();
            conn.send("x")?;
        }
        conn.send(vec![b'x'; FLOOD])?;
        reads.wait();
        conn.read_body(&head, |_| {})
    });
    let mut client = stage.client();
    let sink = client.wire().stream().try_clone().expect("a socket can be shared");
    client.send(format!("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: {FLOOD}\r\n\r\n"));
    let sending = thread::spawn(move || (&sink).write_all(&vec![b'x'; FLOOD]));
    client.read_head();
    for gate in &gates {
        sit_out(&stage, 1);
        gate.open();
        assert_eq!(client.read_exact(1), b"x");
    }
    sit_out(&stage, 12);
    assert_eq!(client.read_exact(FLOOD).len(), FLOOD);
    taken.open();
    sending.join().expect("sending does not panic").expect("the pod takes all of it");
    assert_eq!(client.get("/").pod(), "any", "the client's connection lives on");
}

/// The silence of a client that has its answer already is one all the same.
#[test]
fn a_body_that_stops_after_an_early_answer_is_cut() {
    let stage = Stage::with(&["--request-body-idle", "200ms"]);
    stage.pods[0].play(|mut conn| {
        conn.request()?;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        conn.until_closed()
    });
    let mut client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nbody");
    assert_eq!(client.read_response().status(), 200);
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    client.expect_end();
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
    let line = stage.router.access_line(head.value("x-request-id").unwrap_or_default());
    assert_eq!(line["error"], "slow-reader", "it was the router that ended it");
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

/// Neither a pod that has frozen nor a client that has then gone shows otherwise: what the client says, its end as well,
/// is behind bytes that nobody takes.
#[test]
fn a_pod_that_takes_nothing_of_a_websocket_is_cut_whether_the_client_has_gone_or_not() {
    let stage = Stage::with(&["--write-stall", "2s"]);
    let held = Gate::shared();
    let gate = Arc::clone(&held);
    stage.pods[0].play(move |mut conn| {
        script::accept_websocket(&mut conn)?;
        gate.wait();
        conn.until_closed()
    });
    let stays = tunnel(&stage);
    let error = stays.try_send(vec![b'x'; FLOOD]).expect_err("nobody takes it");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "a message that was cut off must not look complete");
    stage.router.wait_metric("pod_router_rejected_total", &[("reason", "pod-stalled")], 1.0);

    let goes = tunnel(&stage).with_patience(Duration::from_secs(1));
    goes.try_send(vec![b'x'; FLOOD]).expect_err("nothing of it has gone for a second");
    goes.reset();
    stage.router.wait_metric("pod_router_rejected_total", &[("reason", "pod-stalled")], 2.0);
    eventually("the tunnels are forgotten", || stage.router.metric("pod_router_websocket_connections", &[]) < 0.5);
    stage.router.wait_log("the tunnel's last line", |line| {
        line["message"] == "tunnel closed" && line["reason"] == "pod-stalled"
    });
    held.open();
    eventually("the pod's connections are closed", || stage.pods[0].open() == 0);
}
