//! What never becomes a request is answered, counted and logged like everything else that the router refuses.

use crate::support::{Client, Response, Stage, script};

/// A refusal of the router's own: status and code, JSON, an id that is in the body, the head and the log.
#[track_caller]
fn expect_refusal(stage: &Stage, response: &Response, (status, code): (u16, &str), what: &str) {
    let head = &response.head;
    assert_eq!((response.status(), head.value("x-pod-router-error")), (status, Some(code)), "{what}\n{}", head.text());
    assert_eq!(head.value("connection"), Some("close"), "{what}");
    assert_eq!(head.value("content-type"), Some("application/json"), "{what}");
    let json = response.json();
    assert_eq!((&json["error"], json["message"].is_string()), (&code.into(), true), "{what}");
    let id = head.value("x-request-id").expect("each answer has an id");
    assert_eq!((id.len(), &json["requestId"]), (32, &id.into()), "{what}");
    let line = stage.router.access_line(id);
    assert_eq!((&line["status"], &line["error"]), (&status.into(), &code.into()), "{what}: {line}");
    assert_eq!((&line["source"], &line["client"]), (&"none".into(), &"127.0.0.1".into()), "{what}: {line}");
    assert!(line["method"].is_null() && line["path"].is_null(), "{what}: {line}");
}

fn rejected(stage: &Stage, code: &str) -> f64 {
    stage.router.metric("pod_router_rejected_total", &[("reason", code)])
}

#[test]
fn bytes_that_are_no_request_are_refused_in_full() {
    let stage = Stage::new();
    let unreadable: [&[u8]; 16] = [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\x00\x01\x02\x03\r\n\r\n",
        b"GET /room_a HTTP/1.2\r\nHost: a\r\n\r\n",
        b"GET /\r\n",
        b"GET /a`b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a<b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a>b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 2\r\n\r\nok",
        b"GET /room_a HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n",
        b"GET /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"GET /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        b"GET /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        b"GET /room_a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HEAD /room_a\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /room_a HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
    ];
    for bytes in unreadable {
        let mut client = stage.client();
        client.send(bytes);
        let what = String::from_utf8_lossy(bytes);
        expect_refusal(&stage, &client.read_response(), (400, "bad-request"), &what);
        client.expect_end();
    }
    let large = format!("GET /room_a HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    let many = format!("GET /room_a HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(200));
    for bytes in [large, many] {
        let mut client = stage.client();
        client.send(&bytes);
        expect_refusal(&stage, &client.read_response(), (431, "head-too-large"), &bytes[..60]);
        client.expect_end();
    }
    assert_eq!((rejected(&stage, "bad-request") as usize, rejected(&stage, "head-too-large") as usize), (16, 2));
    assert!(stage.pods[0].received().is_empty());
}

#[test]
fn a_target_beyond_any_is_refused_in_full() {
    let stage = Stage::with(&["--max-header-bytes", "200000"]);
    let mut client = stage.client();
    client.send(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000)));
    expect_refusal(&stage, &client.read_response(), (414, "head-too-large"), "a target of 70,001 bytes");
}

/// The request in front keeps its answer, whether it came alone or in the same bytes.
#[test]
fn what_follows_a_request_and_is_none_is_refused_in_full() {
    let stage = Stage::new();
    let good = "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok";
    for apart in [true, false] {
        let mut client = stage.client();
        if apart {
            assert_eq!(client.request(good).pod(), "backend-0");
            client.send("nonsense\r\n\r\n");
        } else {
            client.send(format!("{good}nonsense\r\n\r\n"));
            assert_eq!(client.read_response().pod(), "backend-0");
        }
        expect_refusal(&stage, &client.read_response(), (400, "bad-request"), "nonsense");
        client.expect_end();
    }
}

/// RFC 9112 section 9.6: closing with something unread would reset the connection, and the answer might not arrive. hyper lets go
/// of a connection that was offered another protocol before.
#[test]
fn what_cannot_be_read_to_its_end_is_refused_in_full() {
    let stage = Stage::new();
    let offer = "GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    for (start, status) in [("nonsense\r\n\r\n", 400), ("GET /room_a HTTP/1.1\r\nHost: a\r\nX: ", 431)] {
        for before in [None, Some(offer)] {
            let mut client = stage.client();
            if let Some(before) = before {
                assert_eq!(client.request(before).pod(), "backend-0");
            }
            // As one who reads only when all is sent.
            client.send([start.as_bytes(), &[b'x'; 1_000_000]].concat());
            let answer = client.wire().read_to_end().expect("an orderly end");
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{before:?}: {answer}");
        }
    }
}

/// A pod may say what hyper would: it passes, at once or in pieces, and so does the next answer.
#[test]
fn a_pods_bytes_are_never_taken_for_such_an_answer() {
    let stage = Stage::new();
    let own = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    stage.pods[0].play(move |mut conn| {
        while conn.request().is_ok() {
            conn.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{own}\r\n", own.len()))?;
            conn.send(format!("{:x}\r\n{own}\r\n", own.len()))?;
            conn.send("0\r\n\r\n")?;
        }
        Ok(())
    });
    let mut client = stage.client();
    for _ in 0..3 {
        assert_eq!(client.get("/room_a").text(), own.repeat(2));
    }
    stage.any.play(script::answer(own));
    let refused = stage.get("/x");
    assert_eq!((refused.status(), refused.head.has("x-pod-router-error")), (400, false));
}

#[test]
fn a_head_that_does_not_end_is_refused_in_full() {
    let stage = Stage::with(&["--header-timeout", "300ms"]);
    let mut client = stage.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n");
    expect_refusal(&stage, &client.read_response(), (408, "slow-head"), "half a head");
    client.expect_end();
}

#[test]
fn a_connection_too_many_is_refused_in_full() {
    for (limit, expected) in [
        ("--max-connections", (503, "too-many-connections")),
        ("--max-connections-per-client", (429, "too-many-client-connections")),
    ] {
        let stage = Stage::with(&[limit, "1", "--trusted-proxies", "none"]);
        let mut first = stage.client();
        assert_eq!(first.get("/room_a").pod(), "backend-0");
        let mut second: Client = stage.client();
        expect_refusal(&stage, &second.read_response(), expected, limit);
        second.expect_end();
    }
}

/// HTTP/2's preface gets no answer that HTTP/1.1 could be; the log has a line all the same.
#[test]
fn what_is_closed_without_an_answer_is_logged() {
    let stage = Stage::new();
    let mut client = stage.client();
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    client.expect_end();
    let line = stage.router.wait_log("its line", |line| line["error"] == "bad-request");
    assert_eq!(line["status"], 444, "{line}");
}
