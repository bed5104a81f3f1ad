//! RFC 9110, HTTP semantics, and the parts of RFC 6455 that bind who stands between: the clauses that no test of another
//! suite is about.

use pod_router::proxy::CODES;

use crate::support::{Client, Stage, eventually, script};

/// Sends a request line and these lines to `room_a`; returns what the pod got.
fn at_the_pod(stage: &Stage, line: &str, lines: &str) -> crate::support::Head {
    let response = stage.request(format!("{line} HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    assert_eq!(response.pod(), "backend-0", "{}", response.head.text());
    stage.pods[0].received().pop().expect("it has answered").head
}

/// The head that a client gets for these lines of a pod's.
fn at_the_client(stage: &Stage, lines: &str) -> crate::support::Head {
    let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n{lines}\r\n");
    stage.redis.assign("room_b", 1);
    stage.pods[1].play(script::answer_and_close(answer));
    let head = stage.get("/room_b").head;
    eventually("the pod's connection is closed", || stage.pods[1].open() == 0);
    head
}

#[test]
fn rfc9110_5_5_control_bytes_in_values_are_refused_both_ways() {
    let stage = Stage::new();
    for byte in ["\0", "\r", "\x1b", "\x7f"] {
        let line = format!("X: a{byte}b\r\n");
        let response = stage.request(format!("GET /room_a HTTP/1.1\r\nHost: a\r\n{line}\r\n"));
        assert_eq!(response.status(), 400, "{byte:?}");
        assert_eq!(at_the_client(&stage, &line).second_word(), "502", "{byte:?}");
    }
    assert_eq!(at_the_client(&stage, "X: a\tb\r\n").value("x"), Some("a\tb"));
}

#[test]
fn rfc9110_8_6_a_repeated_length_is_forwarded_once() {
    let stage = Stage::new();
    for length in ["5, 5", "5\r\nContent-Length: 5", "5 ,5"] {
        let lines = format!("Connection: close\r\nContent-Length: {length}\r\n");
        stage.pods[0].play(script::answer_and_close(format!("HTTP/1.1 200 OK\r\n{lines}\r\nhello")));
        let response = stage.get("/room_a");
        assert_eq!(response.head.values("content-length"), ["5"]);
        assert_eq!(response.text(), "hello");
        eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    }
}

/// Both directions, and the trailers: one that `Connection` names is for this hop, so none is announced.
#[test]
fn rfc9110_7_6_1_a_trailer_that_connection_names_stops_here() {
    let stage = Stage::new();
    let answer = |connection: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nConnection: {connection}\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nX-Sum: 1\r\nConnection: close\r\nKeep-Alive: 1\r\n\r\n"
        )
    };
    let raw = |connection: &str| {
        stage.pods[0].play(script::answer_and_close(answer(connection)));
        let mut client = stage.client();
        client.send("GET /room_a HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n");
        String::from_utf8(client.wire().read_to_end().expect("a whole answer")).expect("text")
    };
    let relayed = raw("close");
    assert!(relayed.ends_with("\r\n0\r\nx-sum: 1\r\n\r\n"), "{relayed}");
    let stopped = raw("close, X-Sum");
    assert!(stopped.ends_with("\r\n0\r\n\r\n") && !stopped.contains("x-sum"), "{stopped}");
}

/// A default backend that leads back to the router.
#[test]
fn rfc9110_7_6_a_loop_is_ended() {
    let stage = Stage::new();
    let router = stage.router.addr();
    stage.any.play(move |mut conn| {
        let head = conn.request()?;
        conn.send(Client::connect(router).request(head.text()).whole())
    });
    // What the last router said came through the others, as a pod's answer, but for its field.
    let answer = stage.get("/");
    assert_eq!((answer.status(), &answer.json()["error"]), (508, &"loop".into()));
    assert_eq!(stage.any.received().len(), 3);
    assert!(stage.router.metric("pod_router_rejected_total", &[("reason", "loop")]) > 0.5);
    // Chains of routers are nobody's mistake.
    let head = at_the_pod(&stage, "GET /room_a", "Via: 1.1 pod-router, 1.1 pod-router\r\n");
    assert_eq!(head.values("via").join(", "), "1.1 pod-router, 1.1 pod-router, 1.1 pod-router");
}

#[test]
fn rfc9110_7_6_2_max_forwards_is_counted_down_and_ends_here_at_0() {
    let stage = Stage::new();
    let response = stage.request("OPTIONS /room_a HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n");
    assert_eq!((response.status(), response.pod()), (204, ""));
    assert!(stage.pods[0].received().is_empty());
    assert_eq!(at_the_pod(&stage, "OPTIONS /room_a", "Max-Forwards: 7\r\n").value("max-forwards"), Some("6"));
    // For other methods it means nothing.
    assert_eq!(at_the_pod(&stage, "GET /room_a", "Max-Forwards: 0\r\n").value("max-forwards"), Some("0"));
}

#[test]
fn rfc9110_10_1_1_an_expectation_that_cannot_be_met_is_refused() {
    let stage = Stage::new();
    for value in ["miracles", "100-continue, miracles", "100"] {
        let mut client = stage.client();
        client.send(format!("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: {value}\r\n\r\n"));
        assert_eq!(client.read_response().expect_error(417), "expectation");
        client.expect_end();
    }
    // HTTP/1.0 has no expectations: they are ignored.
    let response = stage.request("POST /room_a HTTP/1.0\r\nContent-Length: 2\r\nExpect: x\r\n\r\nok");
    assert_eq!(response.json()["body"], "ok");
}

#[test]
fn rfc9110_11_6_credentials_and_challenges_pass_as_they_are() {
    let stage = Stage::new();
    let head = at_the_pod(&stage, "GET /room_a", "Authorization: Digest a=\"b, c\",  d\r\n");
    assert_eq!(head.value("authorization"), Some("Digest a=\"b, c\",  d"));
    let head = at_the_client(&stage, "WWW-Authenticate: Basic realm=\"a, b\"\r\nWWW-Authenticate: Digest\r\n");
    assert_eq!(head.values("www-authenticate"), ["Basic realm=\"a, b\"", "Digest"]);
}

#[test]
fn rfc9110_10_2_1_allow_passes_as_it_is() {
    let head = at_the_client(&Stage::new(), "Allow: GET,,  PUT\r\nAllow:\r\n");
    assert_eq!(head.values("allow"), ["GET,,  PUT", ""]);
}

/// Not a cache: conditions and ranges are the pod's to judge.
#[test]
fn rfc9110_13_2_1_conditions_are_forwarded_and_not_judged() {
    let stage = Stage::new();
    let head = at_the_pod(
        &stage,
        "GET /room_a",
        "If-None-Match: \"x\"\r\nIf-Match: *\r\nIf-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
         If-Range: \"y\"\r\nRange: bytes=0-1\r\n",
    );
    for name in ["if-none-match", "if-match", "if-modified-since", "if-range", "range"] {
        assert!(head.has(name), "{name}");
    }
    let answer = "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 40\r\nConnection: close\r\n\r\n";
    stage.redis.assign("room_b", 1);
    stage.pods[1].play(script::answer_and_close(answer));
    let response = stage.request("GET /room_b HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"x\"\r\n\r\n");
    assert_eq!((response.status(), response.head.value("etag")), (304, Some("\"x\"")));
    // hyper's server leaves the length of a 304 out: a deviation, and allowed to whoever makes the response.
    assert!(!response.head.has("content-length"));
}

/// A pod's own passes; the router has no reason of its own.
#[test]
fn rfc9110_15_5_20_the_router_never_says_421() {
    let stage = Stage::new();
    for request in [
        "GET http://elsewhere.example/room_a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET https://elsewhere.example:1/room_a HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(stage.request(request).pod(), "backend-0");
    }
    // Each of its codes is in the README's table with its status.
    let readme = include_str!("../../../README.md");
    for code in CODES {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{code}` |"))).expect("every code has a row");
        assert!(!row.contains("421"), "{row}");
    }
    stage.pods[1].play(script::answer("HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\n\r\n"));
    stage.redis.assign("room_b", 1);
    assert_eq!(stage.get("/room_b").status(), 421);
}

#[test]
fn rfc9110_12_5_5_what_depends_on_accept_says_so_and_never_on_everything() {
    let stage = Stage::new();
    let page = "GET /experiment/room_a HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n";
    assert_eq!(stage.request(page).head.values("vary"), ["Accept"]);
    assert_eq!(at_the_client(&stage, "Vary: *\r\n").values("vary"), ["*"], "the pod's own passes");
}

/// RFC 6455 section 4.2.2: a 101 that does not answer the key is no acceptance of this handshake.
#[test]
fn rfc6455_4_2_2_only_the_answer_to_the_key_opens_a_tunnel() {
    let stage = Stage::new();
    let handshake = "GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    for accept in [
        "",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo\r\n",
        "Sec-WebSocket-Accept: S3PPLMBITXAQ9KYGZZHZRBK+XOO=\r\n",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Accept: x\r\n",
    ] {
        stage.pods[0].play(move |mut conn| {
            conn.request()?;
            let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
            conn.send(format!("{switch}{accept}\r\nsecrets"))?;
            conn.until_closed()
        });
        assert_eq!(stage.request(handshake).expect_error(502), "bad-upgrade", "{accept:?}");
    }
    assert!(stage.router.metric("pod_router_websocket_connections", &[]) < 0.5);
}

/// RFC 6455 section 4.2.1: what lacks a part is no handshake, and RFC 9110 section 7.8: then nothing is switched.
#[test]
fn rfc6455_4_2_1_what_lacks_a_part_is_an_ordinary_request() {
    let stage = Stage::new();
    let parts = [
        "Connection: Upgrade\r\n",
        "Upgrade: websocket\r\n",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "Sec-WebSocket-Version: 13\r\n",
    ];
    for missing in 0..parts.len() {
        let lines: String = parts.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, part)| *part).collect();
        let head = at_the_pod(&stage, "GET /room_a", &lines);
        assert!(!head.has("upgrade") && !head.has("connection"), "{}", head.text());
    }
}
