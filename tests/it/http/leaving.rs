//! A client that goes away while its request is under way is missed by the pod at once, whatever it had sent ahead.
//!
//! What lies unread behind a request hides the end of the connection from whoever only reads when there is a use for
//! what comes. Long polls and event streams would then be held for a client that is long gone.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;

use crate::support::{Client, Gate, Stage, eventually, get, orphans, script};

/// The ways in which a client goes: a FIN, a reset, a FIN of the writing side.
const ENDINGS: [fn(Client); 3] = [drop, Client::reset, |mut client| {
    client.half_close();
    client.expect_end();
}];

/// Sends `first`, waits until the pod has the request, sends `then`, goes, and waits until the pod knows.
fn expect_missed(stage: &Stage, first: &str, then: &str, end: fn(Client)) {
    let pod = &stage.pods[0];
    let before = pod.received().len();
    let client = stage.client();
    client.send(first);
    eventually("the pod has the request", || pod.received().len() == before + 1);
    client.send(then);
    end(client);
    eventually("the pod's connection is closed", || pod.open() == 0);
    expect_forgotten(stage);
}

#[track_caller]
fn expect_forgotten(stage: &Stage) {
    let left = || stage.router.metric("pod_router_downstream_connections", &[]);
    eventually("the client's place is free", || left() < 0.5);
}

/// Engine.IO ends the session when a poll's connection closes, and counts on it.
#[test]
fn a_client_that_goes_away_is_noticed_whatever_lies_behind_its_request() {
    let stage = Stage::new();
    stage.pods[0].play(script::silence);
    let request = get("/room_a");
    let upload = "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let handshake = "GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // No more than fits into the router's socket: behind more, a FIN does not even arrive.
    let many = request.repeat(500);
    for end in ENDINGS {
        for request in [&request, upload, handshake] {
            for behind in ["", "\r\n", "X", &request.repeat(2), &many] {
                expect_missed(&stage, request, behind, end);
                expect_missed(&stage, &format!("{request}{behind}"), "", end);
            }
        }
    }
}

#[test]
fn a_client_that_goes_away_amid_its_upload_is_noticed() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        conn.request()?;
        conn.until_closed()
    });
    let client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome of it");
    eventually("the pod has the request", || stage.pods[0].received().len() == 1);
    drop(client);
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
}

#[test]
fn and_amid_a_stream() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        conn.request()?;
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")?;
        conn.until_closed()
    });
    for end in [drop, Client::reset] {
        for behind in ["", "\r\n"] {
            let mut client = stage.client();
            client.send(get("/room_a") + behind);
            client.read_head();
            assert_eq!(client.read_chunk().as_deref(), Some(&b"hello"[..]));
            end(client);
            eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
        }
    }
}

/// By the router, and by the pod: a FIN would wait behind what that does not take, so that it gets a reset.
#[test]
fn and_amid_an_upload_that_its_pod_does_not_read() {
    let stage = Stage::new();
    let resets = Arc::new(AtomicUsize::new(0));
    let heard = Arc::clone(&resets);
    stage.pods[0].play(move |mut conn| {
        conn.request()?;
        let socket = SockRef::from(conn.wire().stream()).try_clone()?;
        eventually("the reset arrives", || matches!(socket.take_error(), Ok(Some(_))));
        heard.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    // A FIN would stand behind what the socket has no room for.
    for nth in 1..=2 {
        let mut client = stage.client();
        client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
        let mut stream = client.wire().stream();
        stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a live socket");
        while stream.write(&[0; 65536]).is_ok() {}
        client.reset();
        expect_forgotten(&stage);
        eventually("the pod has heard of it", || resets.load(Ordering::SeqCst) == nth);
    }
}

/// The kernel keeps what was sent last when the connection is closed, where no limit of the router's counts it.
#[test]
fn an_answer_that_nobody_takes_does_not_stay_behind() {
    let stage = Stage::with(&["--write-stall", "2s"]);
    let long = vec![b'x'; 90_000];
    stage.pods[0].play(move |mut conn| {
        conn.whole_request()?;
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", long.len()))?;
        conn.send(&long)?;
        conn.until_closed()
    });
    let client = Client::connect_narrow(stage.router.addr());
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let left = || orphans(stage.router.addr().port());
    eventually("it is closed, with most of the answer unread", || left() == 1);
    eventually("the kernel has given it up", || left() == 0);
    drop(client);
}

/// What has been looked past while its turn had not come is read when it has.
#[test]
fn requests_sent_ahead_are_answered_in_their_turn() {
    let stage = Stage::new();
    let gate = Gate::shared();
    let held = Arc::clone(&gate);
    stage.pods[0].play(move |mut conn| {
        loop {
            let head = conn.request()?;
            if head.second_word() == "/room_a/0" {
                held.wait();
            }
            conn.send(format!("HTTP/1.1 200 OK\r\nX-Seen: {}\r\nContent-Length: 0\r\n\r\n", head.second_word()))?;
        }
    });
    let mut client = stage.client();
    client.send(get("/room_a/0") + &get("/room_a/1"));
    eventually("the pod has the first", || stage.pods[0].received().len() == 1);
    // More than hyper reads ahead, in pieces that come while the first is under way.
    let ahead: Vec<String> = (2..6000).map(|number| get(&format!("/room_a/{number}"))).collect();
    ahead.chunks(1500).for_each(|piece| client.send(piece.concat()));
    gate.open();
    for number in 0..6000 {
        let response = client.read_response();
        assert_eq!(response.head.value("x-seen"), Some(&*format!("/room_a/{number}")));
    }
}

/// A request's head with this id and these lines, and so much of its body.
fn amid(id: &str, lines: &str, part: &str) -> String {
    format!("POST /room_a HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n{lines}\r\n\r\n{part}")
}

const CHUNKED: &str = "Transfer-Encoding: chunked";

/// What the access line of a request says became of it.
fn outcome(stage: &Stage, id: &str) -> (u64, String) {
    let line = stage.router.access_line(id);
    (line["status"].as_u64().unwrap_or_default(), line["error"].as_str().unwrap_or_default().to_owned())
}

/// Whatever of a body the router had read when its client went: it is the client that ended it, and it has not sent anything
/// wrong. Nobody is answered (deviation 10), also not who only closes the sending side.
#[test]
fn who_goes_amid_a_body_is_gone() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        let head = conn.request()?;
        conn.read_body(&head, |_| {})
    });
    let bodies = [
        ("Content-Length: 100", ""),
        ("Content-Length: 100", "some of it"),
        (CHUNKED, ""),
        (CHUNKED, "5"),
        (CHUNKED, "5\r\nhel"),
        (CHUNKED, "5\r\nhello"),
        (CHUNKED, "5\r\nhello\r\n"),
        (CHUNKED, "5\r\nhello\r\n0\r\n"),
        (CHUNKED, "5\r\nhello\r\n0\r\nX-Sum: 1\r\n"),
    ];
    for (case, (lines, part)) in bodies.into_iter().enumerate() {
        for (way, end) in ENDINGS.into_iter().enumerate() {
            // Before the end, and together with it.
            for (when, first) in ["", part].into_iter().enumerate() {
                let id = format!("gone-{case}-{way}-{when}");
                expect_missed(&stage, &amid(&id, lines, first), &part[first.len()..], end);
                assert_eq!(outcome(&stage, &id), (499, "client-gone".to_owned()), "{id}: {lines}, {part:?}");
            }
        }
    }
    assert!(stage.router.metric("pod_router_rejected_total", &[("reason", "bad-request")]) < 0.5);
}

/// And whoever sends what is no chunk has not gone, whether the pod has answered already or not.
#[test]
fn who_sends_a_wrong_body_is_told_so_or_cut_off_for_that() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        let head = conn.request()?;
        if head.start_line().contains("early") {
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")?;
        }
        conn.read_body(&head, |_| {})
    });
    let wrong = ["x\r\n", "5\r\nhelloX", "5;\n", "-1\r\n", "10000000000000000\r\n", "0\r\nX Y: 1\r\n\r\n"];
    for (case, part) in wrong.into_iter().enumerate() {
        let id = format!("wrong-{case}");
        let mut client = stage.client();
        client.send(amid(&id, CHUNKED, part));
        assert_eq!(client.read_response().expect_error(400), "bad-request", "{part:?}");
        client.expect_end();
        assert_eq!(outcome(&stage, &id), (400, "bad-request".to_owned()), "{part:?}");

        let id = format!("early-{case}");
        let mut client = stage.client();
        client.send(amid(&id, CHUNKED, "").replace("/room_a", "/room_a/early"));
        assert_eq!(client.read_head().start_line(), "HTTP/1.1 200 OK");
        client.send(part);
        assert_eq!(outcome(&stage, &id), (200, "bad-request".to_owned()), "{part:?}");
    }
    let counted = stage.router.metric("pod_router_rejected_total", &[("reason", "bad-request")]);
    assert_eq!(counted as usize, 2 * wrong.len());
}
