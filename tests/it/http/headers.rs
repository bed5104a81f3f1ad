//! What becomes of header fields on their way through, in both directions.

use crate::support::{Head, Stage, script};

/// Sends a GET to [`ROOM`](crate::support::ROOM) with these field lines and returns the head that its pod got.
fn forwarded(stage: &Stage, fields: &str) -> Head {
    let response = stage.request(format!("GET /api/room/room_a HTTP/1.1\r\nHost: app.example\r\n{fields}\r\n"));
    assert_eq!(response.pod(), "backend-0", "{}", response.head.text());
    stage.pods[0].received().pop().expect("the pod has answered, so it has received").head
}

/// RFC 9110 section 7.6.1, over more than one `Connection` line.
#[test]
fn rfc9110_7_6_1_fields_for_one_hop_do_not_reach_the_pod() {
    let stage = Stage::new();
    let head = forwarded(
        &stage,
        "Connection: keep-alive, X-One\r\nX-One: 1\r\nX-Two: 2\r\nconnection: x-two,, X-Three \r\nX-Three: 3\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\n\
         TE: gzip\r\nUpgrade: foo\r\nX-Stays: yes\r\n",
    );
    assert_eq!(
        head.names(),
        [
            "host",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id",
            "x-room-epoch",
            "x-room-id",
            "x-room-pod",
            "x-stays",
        ],
        "{}",
        head.text()
    );
}

#[test]
fn rfc9110_7_6_1_fields_for_one_hop_do_not_reach_the_client() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer(
        "HTTP/1.1 200 OK\r\nConnection: X-One\r\nConnection: keep-alive, x-two\r\nX-One: 1\r\nX-Two: 2\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nX-Stays: yes\r\nContent-Length: 2\r\n\r\nok",
    ));
    let response = stage.get("/api/room/room_a");
    assert_eq!(
        response.head.names(),
        ["content-length", "date", "x-request-id", "x-stays"],
        "{}",
        response.head.text()
    );
    assert_eq!(response.text(), "ok");
}

/// HTTP/1.1 has to say `Host`, if only that there is none (RFC 9112 section 3.2); what nobody named is not forwarded.
#[test]
fn a_host_that_was_not_named_is_not_forwarded() {
    let stage = Stage::new();
    for request in ["GET /room_a HTTP/1.0\r\n\r\n", "GET /room_a HTTP/1.1\r\nHost:\r\n\r\n"] {
        assert_eq!(stage.request(request).pod(), "backend-0");
        let head = stage.pods[0].received().pop().expect("it has answered").head;
        assert_eq!((head.value("host"), head.has("x-forwarded-host")), (Some(""), false), "{}", head.text());
    }
}

/// What tells an answer of the router's own from a pod's cannot be said by a pod, in a head or behind a body.
#[test]
fn a_pod_cannot_speak_for_the_router() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer(
        "HTTP/1.1 500 Internal Server Error\r\nX-Pod-Router-Error: loop\r\nX-Stays: yes\r\nContent-Length: 0\r\n\r\n",
    ));
    let head = stage.get("/room_a").head;
    assert_eq!((head.second_word(), head.value("x-stays")), ("500", Some("yes")));
    assert!(!head.has("x-pod-router-error"), "{}", head.text());
    stage.any.play(script::answer(
        "HTTP/1.1 200 OK\r\nTrailer: X-Pod-Router-Error, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\
         X-Pod-Router-Error: loop\r\nX-Sum: 1\r\n\r\n",
    ));
    let mut client = stage.client();
    client.send("GET /x HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n");
    let all = String::from_utf8(client.wire().read_to_end().expect("an answer")).expect("text");
    assert!(all.contains("x-sum: 1") && !all.contains("x-pod-router-error: "), "{all}");
}

/// A client must not be able to name away what the message or the router needs.
#[test]
fn a_connection_line_cannot_remove_what_is_needed() {
    let stage = Stage::new();
    let named = "Connection: Host, Content-Length, Transfer-Encoding, X-Forwarded-For, X-Room-Id, Via, X-Request-Id";
    let response = stage
        .request(format!("POST /api/room/room_a HTTP/1.1\r\nHost: a\r\n{named}\r\nContent-Length: 5\r\n\r\nhello"));
    assert_eq!(response.json()["body"], "hello");
    let head = stage.pods[0].only_head();
    for name in ["host", "content-length", "x-forwarded-for", "x-room-id", "via", "x-request-id"] {
        assert!(head.value(name).is_some(), "{name} is gone:\n{}", head.text());
    }
    let response = stage.request(
        "POST /api/room/room_a HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    assert_eq!(response.json()["body"], "hello");
}

/// RFC 9110 sections 5.1 and 5.3.
#[test]
fn rfc9110_5_3_everything_else_passes_in_order() {
    let stage = Stage::new();
    let head = forwarded(
        &stage,
        "X-A: 1\r\nAuthorization: Bearer x\r\nX-A: 2\r\nCookie: a=1\r\nCookie: b=2\r\nX-A: 3, 4\r\nOrigin: https://o\r\n\
         If-None-Match: \"x\"\r\nAccept-Encoding: gzip\r\nX-Empty:\r\ntraceparent: 00-1-2-01\r\nX-Odd: \u{e9}\r\n",
    );
    assert_eq!(head.values("x-a"), ["1", "2", "3, 4"]);
    assert_eq!(head.values("cookie"), ["a=1", "b=2"]);
    for (name, value) in [
        ("authorization", "Bearer x"),
        ("origin", "https://o"),
        ("if-none-match", "\"x\""),
        ("accept-encoding", "gzip"),
        ("x-empty", ""),
        ("traceparent", "00-1-2-01"),
        ("x-odd", "\u{e9}"),
        ("host", "app.example"),
    ] {
        assert_eq!(head.value(name), Some(value));
    }

    stage.pods[1].play(script::answer(
        "HTTP/1.1 207 Fine By Me\r\nSet-Cookie: a=1; Path=/\r\nX-B: 1\r\nSet-Cookie: b=2\r\nWWW-Authenticate: Basic\r\n\
         Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: pod\r\nContent-Length: 0\r\n\r\n",
    ));
    stage.redis.assign("room_b", 1);
    let response = stage.get("/room_b");
    assert_eq!(response.status(), 207);
    assert_eq!(response.head.values("set-cookie"), ["a=1; Path=/", "b=2"]);
    assert_eq!(response.head.value("www-authenticate"), Some("Basic"));
    assert_eq!(response.head.value("date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    assert_eq!(response.head.value("server"), Some("pod"));
}

/// Loopback is trusted by default: what the ingress says is kept, and its own address appended.
#[test]
fn a_trusted_proxy_is_believed() {
    let stage = Stage::new();
    let head = forwarded(
        &stage,
        "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 10.0.0.9\r\nX-Forwarded-Proto: wss\r\n\
         X-Forwarded-Host: app.example.org\r\nX-Real-Ip: 203.0.113.7\r\nForwarded: for=203.0.113.7\r\n",
    );
    assert_eq!(head.values("x-forwarded-for").join(", "), "203.0.113.7, 10.0.0.9, 127.0.0.1");
    assert_eq!(head.value("x-forwarded-proto"), Some("wss"));
    assert_eq!(head.value("x-forwarded-host"), Some("app.example.org"));
    assert_eq!(head.value("x-real-ip"), Some("203.0.113.7"));
    // RFC 7239: Traefik passes it through from clients unchecked.
    assert!(!head.has("forwarded"));
}

#[test]
fn a_proxy_that_says_nothing_is_completed() {
    let head = forwarded(&Stage::new(), "");
    assert_eq!(head.value("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.value("x-forwarded-proto"), Some("http"));
    assert_eq!(head.value("x-forwarded-host"), Some("app.example"));
}

#[test]
fn an_untrusted_client_says_nothing_of_itself() {
    let stage = Stage::with(&["--trusted-proxies", "10.0.0.0/8"]);
    let head = forwarded(
        &stage,
        "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Real-Ip: 1.2.3.4\r\n\
         X-Forwarded-Port: 1\r\nForwarded: for=1.2.3.4\r\nX-Request-Id: chosen\r\n",
    );
    assert_eq!(head.value("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.value("x-forwarded-proto"), Some("http"));
    assert_eq!(head.value("x-forwarded-host"), Some("app.example"));
    for name in ["x-real-ip", "x-forwarded-port", "forwarded"] {
        assert!(!head.has(name), "{name}");
    }
    assert_ne!(head.value("x-request-id"), Some("chosen"));
}

#[test]
fn the_pod_is_told_the_room_and_a_client_cannot_tell_it() {
    let stage = Stage::new();
    stage.redis.assign_at("room_b", 1, 1_634_567_890_123);
    let spoofed = "X-Room-Id: x\r\nx-room-pod: y\r\nX-Room-Epoch: 9\r\nX-Room-Epoch: 10\r\n";
    let response = stage.request(format!("GET /room_b HTTP/1.1\r\nHost: a\r\n{spoofed}\r\n"));
    assert_eq!(response.pod(), "backend-1");
    let head = stage.pods[1].only_head();
    assert_eq!(head.value("x-room-id"), Some("room_b"));
    assert_eq!(head.value("x-room-pod"), Some("backend-1"));
    assert_eq!(head.value("x-room-epoch"), Some("1634567890123"));

    let response = stage.request(format!("GET / HTTP/1.1\r\nHost: a\r\n{spoofed}\r\n"));
    assert_eq!(response.pod(), "any");
    let head = stage.any.only_head();
    assert!(["x-room-pod", "x-room-epoch"].iter().all(|name| !head.has(name)), "{}", head.text());
}

#[test]
fn a_request_has_one_id_from_end_to_end() {
    let stage = Stage::new();
    let head = forwarded(&stage, "X-Request-Id: from-the-ingress\r\n");
    assert_eq!(head.value("x-request-id"), Some("from-the-ingress"));

    let response = stage.request("GET /room_a HTTP/1.1\r\nHost: a\r\nX-Request-Id: kept\r\n\r\n");
    assert_eq!(response.head.value("x-request-id"), Some("kept"));

    let ids: Vec<_> = (0..3)
        .map(|_| {
            let response = stage.get("/room_a");
            let at_the_pod = stage.pods[0].received().pop().expect("the pod has received the request");
            let id = response.head.value("x-request-id").expect("an id is made").to_owned();
            assert_eq!(at_the_pod.head.value("x-request-id"), Some(id.as_str()));
            id
        })
        .collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids.iter().all(|id| !id.is_empty()), "{ids:?}");
}

/// RFC 9110 section 7.6.3: a gateway adds itself, with the version that it received.
#[test]
fn rfc9110_7_6_3_via_grows_by_the_router() {
    let stage = Stage::new();
    assert_eq!(forwarded(&stage, "").values("via"), ["1.1 pod-router"]);
    assert_eq!(
        forwarded(&stage, "Via: 1.0 fred, 1.1 p.example\r\n").values("via").join(", "),
        "1.0 fred, 1.1 p.example, 1.1 pod-router"
    );
}

/// RFC 9110 section 6.6.1.
#[test]
fn rfc9110_6_6_1_a_response_without_a_date_gets_one() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    assert!(stage.get("/room_a").head.value("date").is_some());
}
