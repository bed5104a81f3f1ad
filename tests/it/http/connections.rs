//! The life of connections on both sides: reuse, pipelining, early ends, streams.

use std::io::Write;
use std::sync::Arc;
use std::thread;

use crate::support::{Client, Gate, Pattern, Stage, eventually, probed, script};

#[test]
fn a_pods_connection_is_used_again() {
    let stage = Stage::new();
    let mut client = stage.client();
    for _ in 0..10 {
        assert_eq!(client.get("/room_a").pod(), "backend-0");
    }
    assert_eq!(stage.pods[0].received().len(), 10);
    assert_eq!(stage.pods[0].accepted(), 1);
    assert!(probed(stage.pods[0].addr()) > 0, "the end of an answer may be far, and its pod's node vanish");
}

#[test]
fn each_pods_connections_are_kept_apart() {
    let stage = Stage::new();
    stage.redis.assign("room_b", 1);
    let mut client = stage.client();
    for _ in 0..5 {
        assert_eq!(client.get("/room_a").pod(), "backend-0");
        assert_eq!(client.get("/room_b").pod(), "backend-1");
        assert_eq!(client.get("/").pod(), "any");
    }
    for pod in stage.pods.iter().chain([&stage.any]) {
        assert_eq!((pod.accepted(), pod.received().len()), (1, 5), "{}", pod.name());
    }
}

#[test]
fn a_pod_that_says_close_is_dialled_again() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer_and_close("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"));
    let mut client = stage.client();
    for _ in 0..5 {
        assert_eq!(client.get("/room_a").text(), "ok");
    }
    assert_eq!(stage.pods[0].accepted(), 5);
}

/// hyper's default would keep them 90 s; Node closes after 5 s.
#[test]
fn an_idle_connection_to_a_pod_is_given_up() {
    let stage = Stage::with(&["--upstream-idle", "200ms"]);
    stage.get("/room_a");
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
}

/// One that its pod has closed counts no longer, though no request comes to find that out; one that is good is left alone.
#[test]
fn an_idle_connection_that_its_pod_has_closed_is_given_up() {
    let stage = Stage::with(&["--upstream-idle", "1h", "--threads", "1"]);
    stage.pods[0].play(script::answer_and_close("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    let connections = |pod: &str| stage.router.metric("pod_router_upstream_connections", &[("pod", pod)]);
    stage.get("/room_b");
    stage.get("/room_a");
    eventually("it counts no longer", || connections("backend-0") == 0.0);
    stage.get("/room_b");
    assert_eq!((connections(&stage.any.addr().to_string()), stage.any.accepted()), (1.0, 1));
}

#[test]
fn an_idle_client_connection_is_given_up() {
    // A young connection has no timer for what is over only after its first second.
    for idle in ["200ms", "1500ms"] {
        let stage = Stage::with(&["--downstream-idle", idle]);
        let (mut client, mut silent) = (stage.client(), stage.client());
        client.get("/room_a");
        client.expect_end();
        silent.expect_end();
    }
}

/// RFC 9112 section 9.6.
#[test]
fn rfc9112_9_6_a_client_that_says_close_is_closed() {
    let stage = Stage::new();
    let mut client = stage.client();
    let response = client.request("GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(response.head.value("connection"), Some("close"));
    client.expect_end();
    // That was between the client and the router: the pod's connection stays.
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
    assert_eq!(stage.pods[0].open(), stage.pods[0].accepted());
}

/// Affinity is per request, not per connection (RFC 9112 section 9.3.2 has the order).
#[test]
fn pipelined_requests_of_different_rooms_go_each_to_its_pod_in_order() {
    let stage = Stage::new();
    stage.redis.assign("room_b", 1);
    let mut client = stage.client();
    let targets = ["/room_a/1", "/room_b/2", "/3", "/room_b/4", "/room_a/5"];
    let requests: String = targets.iter().map(|target| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(requests);
    for (target, pod) in targets.iter().zip(["backend-0", "backend-1", "any", "backend-1", "backend-0"]) {
        let response = client.read_response();
        assert_eq!(response.pod(), pod, "{target}");
        assert!(response.json()["head"].as_str().is_some_and(|head| head.starts_with(&format!("GET {target} "))));
    }
}

#[test]
fn rfc9112_9_3_2_a_slow_first_answer_holds_back_the_second() {
    let stage = Stage::new();
    let gate = Gate::shared();
    let held = Arc::clone(&gate);
    stage.pods[0].play(move |mut conn| {
        conn.whole_request()?;
        held.wait();
        conn.send("HTTP/1.1 200 OK\r\nX-Pod: slow\r\nContent-Length: 0\r\n\r\n")
    });
    let mut client = stage.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the slow pod has its request", || stage.pods[0].received().len() == 1);
    gate.open();
    assert_eq!(client.read_response().pod(), "slow");
    assert_eq!(client.read_response().pod(), "any");
}

#[test]
fn chunks_are_passed_on_as_they_come() {
    let stage = Stage::new();
    let gates: Vec<_> = (0..3).map(|_| Gate::shared()).collect();
    let held = gates.clone();
    stage.pods[0].play(move |mut conn| {
        conn.whole_request()?;
        conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for gate in &held {
            conn.send("6\r\ndata:\n\r\n")?;
            gate.wait();
        }
        conn.send("0\r\n\r\n")
    });
    let mut client = stage.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_head().value("content-type"), Some("text/event-stream"));
    for gate in gates {
        // The next chunk is sent only once this one has arrived.
        assert_eq!(client.read_chunk().as_deref(), Some(&b"data:\n"[..]));
        gate.open();
    }
    assert_eq!(client.read_chunk(), None);
}

#[test]
fn a_request_body_is_passed_on_as_it_comes() {
    let stage = Stage::new();
    let gate = Gate::shared();
    let arrived = Arc::clone(&gate);
    stage.pods[0].play(move |mut conn| {
        conn.request()?;
        assert_eq!(conn.wire().read_chunk()?.as_deref(), Some(&b"first"[..]));
        arrived.open();
        assert_eq!(conn.wire().read_chunk()?.as_deref(), Some(&b"second"[..]));
        assert_eq!(conn.wire().read_chunk()?, None);
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    });
    let mut client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    assert!(gate.wait(), "the first chunk has arrived");
    client.send("6\r\nsecond\r\n0\r\n\r\n");
    assert_eq!(client.read_response().status(), 200);
}

/// A stray line end, or a request behind one that was said to be the last: to close with either unread is to reset, and what
/// the client has no room for yet would be lost.
#[test]
fn a_last_answer_arrives_though_more_has_come_before_it() {
    let stage = Stage::new();
    let answer = "last".repeat(16 * 1024);
    for more in ["\r\n", "GET /second HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let [came, sent] = [(); 2].map(|()| Gate::shared());
        let gates = (Arc::clone(&came), Arc::clone(&sent));
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
        let response = head + &answer;
        stage.pods[0].play(move |mut conn| {
            conn.request()?;
            gates.0.open();
            gates.1.wait();
            conn.send(&response)
        });
        let mut client = Client::connect_narrow(stage.router.addr());
        client.send("GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(came.wait(), "the request is at its pod");
        client.send(more);
        sent.open();
        assert_eq!(client.read_response().text(), answer);
        client.expect_end();
    }
}

/// RFC 9112 section 9.3: an answer may come while the body is still being sent.
#[test]
fn an_early_answer_reaches_the_client_that_is_still_sending() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        conn.request()?;
        conn.send("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmuch")?;
        conn.half_close();
        conn.until_closed()
    });
    let mut client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\nfirst bytes");
    let response = client.read_response();
    assert_eq!((response.status(), response.text().as_str()), (413, "much"));
    assert_eq!(
        response.head.value("connection"),
        Some("close"),
        "whoever sends another request is told that it is not read"
    );
    // The rest of the body is nobody's: it must not be read as the next request.
    let _ = client.try_send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    assert!(stage.any.received().is_empty());
}

/// More than the sockets' buffers hold.
const FLOOD: u64 = 16 * 1024 * 1024;

/// A request whose body is this long, in either framing. Who asks for one chunk sends the same bytes.
fn uploads(target: &str, len: u64) -> [String; 2] {
    [format!("Content-Length: {len}\r\n\r\n"), format!("Transfer-Encoding: chunked\r\n\r\n{len:x}\r\n")]
        .map(|framing| format!("POST {target} HTTP/1.1\r\nHost: a\r\n{framing}"))
}

/// Sends a large upload while it waits for the answer, and as much again once that is there; returns the answer's status.
/// Nobody may turn the sender away: one that stops at an error, or whose kernel drops with the connection what has come on
/// it, would not have read the answer (RFC 9112 section 9.6).
#[track_caller]
fn status_amid_upload(stage: &Stage, upload: &str) -> u16 {
    let mut client = stage.client();
    let sink = client.wire().stream().try_clone().expect("a socket can be shared");
    let flood = move || Pattern::pieces(FLOOD).try_for_each(|piece| (&sink).write_all(piece));
    client.send(upload);
    let sending = thread::spawn(move || flood().map(|()| flood));
    let status = client.read_response().status();
    let sent = sending.join().expect("sending does not panic").and_then(|flood| flood());
    assert!(sent.is_ok(), "after {status}, to {upload:?}: {sent:?}");
    status
}

#[test]
fn an_early_answer_reaches_a_client_that_never_stops_sending() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        conn.request()?;
        conn.send("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmuch")?;
        conn.half_close();
        conn.until_closed()
    });
    for (target, status) in [("/room_a", 413), ("/room%5Fa", 400)] {
        for upload in uploads(target, 2 * FLOOD) {
            for _ in 0..5 {
                assert_eq!(status_amid_upload(&stage, &upload), status);
            }
        }
    }
}

/// Closing with bytes unread resets the connection. The answer that was sent before is there to be read; that
/// the router cannot write any more must not be all that it notices.
#[test]
fn an_early_answer_is_found_though_its_pod_has_gone() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        conn.request()?;
        conn.send("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmuch")
    });
    for upload in uploads("/room_a", 2 * FLOOD) {
        for _ in 0..10 {
            assert_eq!(status_amid_upload(&stage, &upload), 413);
        }
    }
}

/// Neither a pod that goes later nor one that takes nothing more, once the client has its answer.
#[test]
fn who_wants_no_more_after_an_early_answer_does_not_turn_its_client_away() {
    let stage = Stage::with(&["--response-timeout", "300ms"]);
    for goes in [true, false] {
        for upload in uploads("/room_a", 2 * FLOOD) {
            let answered = Gate::shared();
            let held = Arc::clone(&answered);
            stage.pods[0].play(move |mut conn| {
                conn.request()?;
                conn.send("HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nmuch")?;
                held.wait();
                Ok(())
            });
            let mut client = stage.client();
            client.send(&upload);
            assert_eq!(client.read_response().text(), "much");
            if goes {
                answered.open();
                eventually("the pod has gone", || stage.pods[0].open() == 0);
            }
            let sent = Pattern::pieces(2 * FLOOD).try_for_each(|piece| client.try_send(piece));
            answered.open();
            assert!(sent.is_ok(), "the pod goes: {goes}, to {upload:?}: {sent:?}");
        }
    }
}

#[test]
fn rfc9112_9_3_after_an_early_answer_the_rest_of_the_body_is_no_request() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        loop {
            let head = conn.request()?;
            conn.send("HTTP/1.1 200 OK\r\nX-Pod: early\r\nContent-Length: 0\r\n\r\n")?;
            conn.read_body(&head, |_| {})?;
        }
    });
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..10 {
        let mut client = stage.client();
        client.send(format!("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", smuggled.len()));
        assert_eq!(client.read_response().pod(), "early");
        // The connection may go on, after the body, or end.
        let _ = client.try_send(format!("{smuggled}GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        if let Ok(Some(head)) = client.wire().read_head() {
            assert_eq!(head.value("x-pod"), Some("any"));
        }
    }
    assert!(stage.any.received().iter().all(|received| received.head.second_word() == "/"));
    assert_eq!(stage.get("/room_a").pod(), "early");
}

/// A reply must never reach another request: an exchange that did not end cleanly takes its connection along.
#[test]
fn an_abandoned_exchanges_connection_is_not_used_again() {
    let stage = Stage::new();
    let gate = Gate::shared();
    let held = Arc::clone(&gate);
    stage.pods[0].play(move |mut conn| {
        conn.request()?;
        held.wait();
        conn.send("HTTP/1.1 200 OK\r\nX-Pod: late\r\nContent-Length: 0\r\n\r\n")?;
        script::echo(conn)
    });
    let client = stage.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the pod has the request", || stage.pods[0].received().len() == 1);
    drop(client);
    // A reply that comes before the router has noticed would end the exchange as it should.
    stage.router.wait_log("the client is gone", |line| line["error"] == "client-gone");
    stage.pods[0].play(script::echo);
    gate.open();
    for _ in 0..5 {
        assert_eq!(stage.get("/room_a").pod(), "backend-0");
    }
    assert!(stage.pods[0].received()[1..].iter().all(|received| received.connection > 0));
}

/// RFC 9112 section 9.2: bytes that nobody asked for are no response.
#[test]
fn rfc9112_9_2_bytes_on_an_idle_connection_are_no_answer() {
    let stage = Stage::new();
    let gate = Gate::shared();
    let held = Arc::clone(&gate);
    stage.pods[0].play(move |mut conn| {
        conn.whole_request()?;
        conn.send("HTTP/1.1 200 OK\r\nX-Pod: asked\r\nContent-Length: 0\r\n\r\n")?;
        held.wait();
        conn.send("HTTP/1.1 200 OK\r\nX-Pod: unasked\r\nContent-Length: 0\r\n\r\n")?;
        conn.until_closed()
    });
    let mut client = stage.client();
    assert_eq!(client.get("/room_a").pod(), "asked");
    stage.pods[0].play(script::echo);
    gate.open();
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    assert_eq!(client.get("/room_a").pod(), "backend-0");
}

#[test]
fn surplus_bytes_after_a_response_never_become_the_next() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer(
        "HTTP/1.1 200 OK\r\nX-Pod: first\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX-Pod: surplus\r\nContent-Length: 0\r\n\r\n",
    ));
    let mut client = stage.client();
    for _ in 0..3 {
        assert_eq!(client.get("/room_a").pod(), "first");
    }
}
