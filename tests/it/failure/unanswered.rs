//! Requests that got no answer: which are sent again (none that the pod may have seen), which time out.

use std::io;
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::Value as Json;

use crate::support::{Conn, Gate, Stage, eventually, script, together};

const POST: &str = "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";

/// A keep-alive connection that the pod has closed while it idled: nothing was sent on it, so even a POST may
/// go again, on a new one. The pod's FIN has arrived before the next request is made.
#[test]
fn a_connection_gone_stale_costs_nothing() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer_and_close("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    let mut client = stage.client();
    for number in 1..=20 {
        assert_eq!(client.request(POST).text(), "ok");
        eventually("the pod has closed the connection", || stage.pods[0].open() == 0);
        assert_eq!(stage.pods[0].received().len(), number);
    }
}

/// The same with a reset, as a pod that is killed leaves it.
#[test]
fn a_connection_reset_while_idle_costs_nothing() {
    let stage = Stage::new();
    // A reset could overtake an answer that is still on its way.
    let (arrived, arrivals) = mpsc::channel();
    let arrivals = Mutex::new(arrivals);
    stage.pods[0].play(move |mut conn| {
        conn.whole_request()?;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        arrivals.lock().expect("no script panics").recv().map_err(io::Error::other)?;
        conn.reset();
        Ok(())
    });
    let mut client = stage.client();
    for number in 1..=10 {
        assert_eq!(client.request(POST).text(), "ok");
        arrived.send(()).expect("the pod waits for it");
        eventually("the pod has reset the connection", || stage.pods[0].open() == 0);
        assert_eq!(stage.pods[0].received().len(), number);
    }
}

/// RFC 9110 section 9.2.2 would allow to repeat the GET. Engine.IO's polling forgives no repetition.
#[test]
fn rfc9110_9_2_2_a_request_the_pod_has_read_is_never_sent_again() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| conn.whole_request().map(drop));
    let get = "GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n";
    for (number, request) in [(1, get), (2, POST), (3, get)] {
        assert_eq!(stage.request(request).expect_error(502), "pod-closed");
        assert_eq!(stage.pods[0].received().len(), number);
    }
}

#[test]
fn nor_is_one_that_was_read_on_a_reused_connection() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        conn.whole_request()?;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        conn.whole_request().map(drop)
    });
    let mut client = stage.client();
    for number in [2, 4] {
        assert_eq!(client.get("/room_a").text(), "ok");
        client.get("/room_a").expect_error(502);
        assert_eq!(stage.pods[0].received().len(), number);
    }
    assert_eq!(stage.pods[0].accepted(), 2);
}

#[test]
fn nor_is_one_that_was_reset() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        conn.whole_request()?;
        conn.reset();
        Ok(())
    });
    stage.request(POST).expect_error(502);
    assert_eq!(stage.pods[0].received().len(), 1);
}

/// Engine.IO closes a handshake to a path that nobody serves without an answer: any client can bring that about, and it says
/// nothing of the pod's other connections.
#[test]
fn a_handshake_without_an_answer_costs_no_other_connection() {
    // Each thread has connections of its own.
    let stage = Stage::with(&["--threads", "1"]);
    let both = Barrier::new(2);
    stage.pods[0].play(move |mut conn| {
        conn.request()?;
        both.wait();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        while conn.request()?.value("upgrade").is_none() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        }
        Ok(())
    });
    together(2, |_| assert_eq!(stage.get("/room_a").text(), "ok"));
    let handshake = "GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stage.request(handshake).expect_error(502);
    assert_eq!(stage.get("/room_a").text(), "ok");
    assert_eq!(stage.pods[0].accepted(), 2);
}

#[test]
fn an_answer_that_breaks_off_in_its_head_is_a_bad_gateway() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer_and_close("HTTP/1.1 200 OK\r\nContent-Le"));
    stage.get("/room_a").expect_error(502);
    assert_eq!(stage.pods[0].received().len(), 1);
}

#[test]
fn a_silent_pod_is_answered_for() {
    // Over within the first second of the client's connection, and later than that, where it is not timed from the beginning.
    for timeout in ["300ms", "1500ms"] {
        let stage = Stage::with(&["--response-timeout", timeout]);
        stage.pods[0].play(script::silence);
        let response = stage.request(POST);
        assert_eq!(response.expect_error(504), "pod-timeout", "{timeout}");
        // The exchange is over on the pod's side too, and it is not repeated.
        eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
        assert_eq!(stage.pods[0].received().len(), 1);
        stage.pods[0].play(script::echo);
        assert_eq!(stage.get("/room_a").pod(), "backend-0");
    }
}

/// The time runs from the last byte of the request.
#[test]
fn a_slow_upload_is_not_timed_out() {
    let stage = Stage::with(&["--response-timeout", "300ms"]);
    let mut client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n");
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(50));
        client.send("x");
    }
    assert_eq!(client.read_response().json()["bodyLength"], 20);
}

/// Waits until `--response-timeout` is over once more: so long a silent pod is waited for.
fn sit_out(stage: &Stage) {
    stage.any.play(script::silence);
    assert_eq!(stage.get("/").expect_error(504), "pod-timeout");
}

/// Takes a moment for its answer, far less than any limit: one that is over already must not be.
fn after_a_moment(mut conn: Conn) -> io::Result<()> {
    loop {
        conn.whole_request()?;
        thread::sleep(Duration::from_millis(100));
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
    }
}

/// Nor does it run before there is a connection: a place in the queue is no fault of the pod's.
#[test]
fn the_queue_does_not_count_as_the_pods_time() {
    let stage = Stage::with(&["--response-timeout", "2s", "--pod-max-connections", "1", "--threads", "1"]);
    let gate = Gate::shared();
    let opens = Arc::clone(&gate);
    stage.pods[0].play(move |mut conn| {
        conn.whole_request()?;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")?;
        opens.wait();
        conn.send("k")?;
        after_a_moment(conn)
    });
    let mut first = stage.client();
    first.send("GET /room_a/first HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = first.read_head();
    let mut queued = ["GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n", POST].map(|request| {
        let client = stage.client();
        client.send(request);
        client
    });
    stage.router.wait_metric("pod_router_upstream_queued", &[("pod", "backend-0")], 2.0);
    sit_out(&stage);
    gate.open();
    assert_eq!(first.read_body(&head).expect("all of it"), b"ok");
    for client in &mut queued {
        assert_eq!(client.read_response().text(), "ok");
    }
}

/// Nor does a lookup.
#[test]
fn the_directory_does_not_count_as_the_pods_time() {
    let stage = Stage::with(&[
        "--response-timeout",
        "2s",
        "--redis-timeout",
        "60s",
        "--threads",
        "1",
        "--upstream-idle",
        "60s",
    ]);
    stage.redis.assign("room_b", 0);
    stage.pods[0].play(after_a_moment);
    assert_eq!(stage.get("/room_a").text(), "ok", "a connection is kept");
    stage.redis.pause();
    let mut client = stage.client();
    client.send("GET /room_b HTTP/1.1\r\nHost: a\r\n\r\n");
    sit_out(&stage);
    stage.redis.resume();
    assert_eq!(client.read_response().text(), "ok");
}

/// It ends with the response's head: a download may take its time.
#[test]
fn a_slow_download_is_not_timed_out() {
    let stage = Stage::with(&["--response-timeout", "300ms"]);
    stage.pods[0].play(|mut conn| {
        conn.whole_request()?;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")?;
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(50));
            conn.send("x")?;
        }
        Ok(())
    });
    assert_eq!(stage.get("/room_a").text(), "x".repeat(20));
}

/// Nobody but the router sees such an answer: the code and the log have to say what is wrong with it.
#[test]
fn an_answer_that_cannot_be_used_is_told_from_none() {
    let stage = Stage::new();
    for (answer, why) in [
        (format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(101)), "more than 100 header fields"),
        (format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70_000)), "longer than 64 KiB"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n".to_owned(), "framed ambiguously"),
        ("nonsense\r\n\r\n".to_owned(), "malformed"),
    ] {
        stage.pods[0].play(script::answer(answer));
        assert_eq!(stage.get("/room_a").expect_error(502), "bad-response");
        let warned = |line: &Json| {
            let said = line["error"].as_str().is_some_and(|error| error.contains(why));
            line["level"] == "WARN" && line["pod"] == "backend-0" && said
        };
        stage.router.wait_log(why, warned);
    }
    assert_eq!(stage.router.metric("pod_router_rejected_total", &[("reason", "bad-response")]) as usize, 4);
}
