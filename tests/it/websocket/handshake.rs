//! Handshakes: which are tunnelled, which are refused, which are no WebSocket handshakes at all.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use super::{all_pods, expect_echo, expect_switch, handshake, handshake_with, tunnel};
use crate::support::{Client, Stage, eventually, get, probed, script};

#[test]
fn a_handshake_becomes_a_tunnel_to_the_rooms_pod() {
    let stage = Stage::new();
    all_pods(&stage).for_each(|pod| pod.play(script::websocket_echo));
    stage.redis.assign("room_b", 1);
    for (target, pod) in [
        ("/socket.io/?EIO=4&transport=websocket&roomId=room_a", &stage.pods[0]),
        ("/ws/room_b", &stage.pods[1]),
        ("/ws/room_unknown", &stage.any),
        ("/ws", &stage.any),
    ] {
        let before = pod.received().len();
        expect_echo(&mut tunnel(&stage, target), "hello");
        let received = pod.received();
        assert_eq!(received.len(), before + 1, "{target}");
        assert_eq!(received[before].head.start_line(), format!("GET {target} HTTP/1.1"));
    }
}

#[test]
fn rfc6455_4_1_the_pod_gets_the_handshake_as_it_was() {
    let stage = Stage::new();
    stage.pods[0].play(script::websocket_echo);
    let mut client = stage.client();
    client.send(handshake_with(
        "/room_a",
        "Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\
         Origin: https://app.example\r\nCookie: a=1\r\nX-Forwarded-Proto: wss\r\n",
    ));
    expect_switch(&client.read_head());
    let head = stage.pods[0].only_head();
    for (name, value) in [
        ("sec-websocket-key", super::KEY),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat, superchat"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("origin", "https://app.example"),
        ("cookie", "a=1"),
        ("upgrade", "websocket"),
        ("x-forwarded-proto", "wss"),
        ("x-room-id", "room_a"),
        ("x-room-pod", "backend-0"),
    ] {
        assert_eq!(head.value(name), Some(value));
    }
    assert!(head.value("connection").is_some_and(|option| option.eq_ignore_ascii_case("upgrade")));
}

#[test]
fn rfc6455_4_2_2_the_client_gets_the_pods_101_as_it_was() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        let head = conn.request()?;
        let answer = script::switching_protocols(&head);
        let (lines, _) = answer.split_at(answer.len() - 2);
        conn.send(format!("{lines}Sec-WebSocket-Protocol: chat\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n"))?;
        conn.until_closed()
    });
    let mut client = stage.client();
    client.send(handshake("/room_a"));
    let head = client.read_head();
    expect_switch(&head);
    assert_eq!(head.value("sec-websocket-protocol"), Some("chat"));
    assert_eq!(head.values("set-cookie"), ["a=1", "b=2"]);
    assert!(head.value("x-request-id").is_some());
    assert_eq!(head.values("date").len(), 1);
    assert!(!head.has("content-length") && !head.has("transfer-encoding"), "{}", head.text());
}

/// Firefox sends both options, jetty's client says `close` beside `Upgrade`.
#[test]
fn rfc6455_4_2_1_the_upgrade_option_is_found_among_others_and_in_any_case() {
    let stage = Stage::new();
    stage.pods[0].play(script::websocket_echo);
    for lines in [
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
        "Connection: keep-alive\r\nConnection: UPGRADE\r\nUpgrade: WebSocket\r\n",
        "connection:upgrade\r\nupgrade:websocket\r\n",
        "Connection: close, Upgrade\r\nUpgrade: websocket\r\n",
    ] {
        let mut client = stage.client();
        client.send(format!(
            "GET /room_a HTTP/1.1\r\nHost: a\r\n{lines}Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n\r\n",
            super::KEY
        ));
        expect_switch(&client.read_head());
        expect_echo(&mut client, "hello");
    }
}

/// A 101 that said `close` would promise the end of the connection that it opens as a tunnel: hyper would say it where the
/// handshake says so, as jetty's client does, also to one behind other requests.
#[test]
fn rfc9112_9_6_a_101_never_says_close() {
    let stage = Stage::new();
    stage.pods[0].play(script::websocket_echo);
    let handshake = handshake("/room_a").replace("Connection: Upgrade", "Connection: Upgrade, close");
    for before in [0, 1, 3] {
        let mut client = stage.client();
        client.send(["GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(before), handshake.clone()].concat());
        for _ in 0..before {
            assert_eq!(client.read_response().pod(), "any");
        }
        expect_switch(&client.read_head());
        expect_echo(&mut client, "hello");
    }
}

/// For the tunnel the socket is taken out of hyper, which may have something left for the client: the head of an answer that came
/// before its request had ended. It reads what follows the request all the same.
#[test]
fn a_101_follows_an_answer_that_is_not_taken() {
    let stage = Stage::with(&["--threads", "1"]);
    stage.pods[0].play(script::websocket_echo);
    // They read a little at a time.
    thread::scope(|scope| {
        for (before, mut client) in narrow_clients(&stage) {
            scope.spawn(move || {
                for _ in 0..=before {
                    assert_eq!(client.read_head().value("x-long").map(str::len), Some(FIELD));
                }
                expect_switch(&client.read_head());
                expect_echo(&mut client, "hello");
            });
        }
    });
}

/// The pod has opened a tunnel for each, whether it has begun by then or not.
#[test]
fn a_reset_behind_an_answer_that_is_not_taken_reaches_the_pod() {
    let stage = Stage::with(&["--threads", "1"]);
    let resets = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&resets);
    stage.pods[0].play(move |mut conn| {
        script::accept_websocket(&mut conn)?;
        conn.wire().read_to_end().inspect_err(|error| {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            counted.fetch_add(1, Ordering::Relaxed);
        })?;
        Ok(())
    });
    let clients = narrow_clients(&stage);
    let opened = stage.router.metric("pod_router_upstream_websocket_connections", &[("pod", "backend-0")]) as usize;
    assert!(opened > 1, "all are waited for");
    // With what they have not read.
    drop(clients);
    eventually("each is reset", || resets.load(Ordering::Relaxed) == opened);
    let ended = || {
        let of_room = |line: &Value| line["message"] == "tunnel closed" && line["room"] == "room_a";
        stage.router.logs().into_iter().filter(of_room).collect::<Vec<_>>()
    };
    eventually("each has its line", || ended().len() == opened);
    assert!(ended().iter().all(|line| line["reason"] == "client-reset"), "{:?}", ended());
}

/// Who reads this field in an answer to each request before a handshake.
const FIELD: usize = 32 * 1024;

/// Clients that have read nothing, and whose handshake for `room_a` has come to its pod, each behind so many requests and one
/// more: one of these numbers of answers is the first that the kernel does not hold, and so hyper has it.
fn narrow_clients(stage: &Stage) -> Vec<(usize, Client)> {
    stage.redis.assign("room_b", 1);
    stage.any.play(|mut conn| {
        loop {
            let head = conn.request()?;
            conn.send(format!("HTTP/1.1 204 No Content\r\nX-Long: {}\r\n\r\n", "x".repeat(FIELD)))?;
            conn.read_body(&head, |_| {})?;
        }
    });
    stage.pods[1].play(script::websocket_echo);
    // All that is sent until now has its answer: a connection has grown up that has begun later.
    let has_settled = |tunnels| eventually("the second is over", || probed(stage.pods[1].addr()) == tunnels);
    let clients: Vec<_> = (0..24).map(|before| (before, Client::connect_narrow(stage.router.addr()))).collect();
    for (before, client) in &clients {
        client.send([&get("/").repeat(*before), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc"].concat());
    }
    let _first = tunnel(stage, "/room_b");
    has_settled(1);
    for (_, client) in &clients {
        client.send(["def", &handshake("/room_a")].concat());
    }
    let _second = tunnel(stage, "/room_b");
    has_settled(2);
    clients
}

#[test]
fn a_connection_that_served_requests_can_become_a_tunnel() {
    let stage = Stage::new();
    stage.pods[0].play(script::websocket_echo);
    let mut client = stage.client();
    assert_eq!(client.get("/").pod(), "any");
    client.send(handshake("/room_a"));
    expect_switch(&client.read_head());
    expect_echo(&mut client, "hello");
}

#[test]
fn a_pods_refusal_reaches_the_client_as_it_is() {
    const REFUSALS: [(&str, &str, &str, &str); 6] = [
        ("400 Bad Request", "content-type", "application/json", r#"{"code":1,"message":"Session ID unknown"}"#),
        ("401 Unauthorized", "www-authenticate", "Bearer", "who are you?"),
        ("426 Upgrade Required", "sec-websocket-version", "13", "newer please"),
        ("426 Upgrade Required", "upgrade", "websocket", "RFC 9110 section 15.5.22"),
        ("503 Service Unavailable", "retry-after", "7", "later"),
        ("200 OK", "x-a", "1", "a page"),
    ];
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        loop {
            let head = conn.request()?;
            let number = head.second_word().rsplit('/').next().and_then(|number| number.parse::<usize>().ok());
            let (status, name, value, body) = REFUSALS[number.unwrap_or_default()];
            let len = body.len();
            conn.send(format!("HTTP/1.1 {status}\r\n{name}: {value}\r\nContent-Length: {len}\r\n\r\n{body}"))?;
        }
    });
    for (number, (status, name, value, body)) in REFUSALS.iter().enumerate() {
        let response = stage.request(handshake(&format!("/room_a/{number}")));
        assert_eq!(response.head.start_line(), format!("HTTP/1.1 {status}"));
        assert_eq!(response.head.value(name), Some(*value));
        assert_eq!(response.text(), *body);
        assert!(!response.head.has("x-pod-router-error"));
    }
    assert!(stage.router.metric("pod_router_websocket_connections", &[]) < 0.5);
}

/// Engine.IO's server refuses with a body that ends with the connection (`abortUpgrade`).
#[test]
fn a_refusal_that_ends_with_the_connection_arrives_whole() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer_and_close(
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-type: text/html\r\n\r\nSession ID unknown",
    ));
    let response = stage.request(handshake("/room_a"));
    assert_eq!((response.status(), response.text().as_str()), (400, "Session ID unknown"));
}

#[test]
fn a_refused_handshakes_connection_serves_the_next_request() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"));
    let mut client = stage.client();
    // Bytes sent ahead are no frames then, but the next request: nothing was switched (CVE-2026-2833).
    client.send(format!("{}GET / HTTP/1.1\r\nHost: a\r\n\r\n", handshake("/room_a")));
    assert_eq!(client.read_response().status(), 403);
    assert_eq!(client.read_response().pod(), "any");
    assert_eq!(stage.pods[0].received().len(), 1);
}

/// RFC 9110 section 7.8: no switch to a protocol that was not offered.
#[test]
fn rfc9110_7_8_a_101_that_was_not_asked_for_is_a_bad_gateway() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        conn.request()?;
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nsecrets")?;
        conn.until_closed()
    });
    stage.get("/room_a").expect_error(502);
}

#[test]
fn rfc9110_7_8_a_101_to_another_protocol_is_a_bad_gateway() {
    let stage = Stage::new();
    for fields in [
        "Connection: Upgrade\r\nUpgrade: foo\r\n",
        "Connection: Upgrade\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, foo\r\n",
        "",
    ] {
        stage.pods[0].play(move |mut conn| {
            conn.request()?;
            conn.send(format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\nbytes"))?;
            conn.until_closed()
        });
        stage.request(handshake("/room_a")).expect_error(502);
    }
    assert!(stage.router.metric("pod_router_websocket_connections", &[]) < 0.5);
}

/// What follows the head could be read as frames by one side and as a body by the other.
#[test]
fn rfc6455_4_1_a_handshake_with_a_body_is_refused() {
    let stage = Stage::new();
    for lines in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut client = stage.client();
        client.send(handshake_with("/room_a", lines));
        client.read_response().expect_error(400);
        client.expect_end();
    }
    assert!(stage.pods[0].received().is_empty());
}

/// Sends a GET that offers an upgrade which is not the router's to grant; returns what the pod got.
fn forwarded_plain(stage: &Stage, request: &str) -> crate::support::Head {
    let response = Client::connect(stage.router.addr()).request(request);
    assert_eq!(response.pod(), "backend-0", "{request}\n{}", response.head.text());
    stage.pods[0].received().pop().expect("the pod has answered").head
}

#[test]
fn rfc9110_7_8_other_upgrades_are_forwarded_as_plain_requests() {
    let stage = Stage::new();
    let key = format!("Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n", super::KEY);
    for (line, fields) in [
        // An h2c upgrade would take the pod's connection out of the router's sight.
        ("GET", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n".to_owned()),
        ("GET", format!("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n{key}")),
        ("GET", format!("Upgrade: websocket\r\n{key}")),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n".to_owned()),
        ("POST", format!("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n{key}")),
    ] {
        let head = forwarded_plain(&stage, &format!("{line} /room_a HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        for name in ["upgrade", "connection", "http2-settings"] {
            assert!(!head.has(name), "{fields}\nbecame\n{}", head.text());
        }
    }
}

/// RFC 9110 section 7.8: a server must ignore an Upgrade received in an HTTP/1.0 request.
#[test]
fn rfc9110_7_8_an_http_1_0_upgrade_is_ignored() {
    let stage = Stage::new();
    let head = forwarded_plain(&stage, &handshake("/room_a").replace("HTTP/1.1", "HTTP/1.0"));
    assert!(!head.has("upgrade") && !head.has("connection"), "{}", head.text());
}

#[test]
fn an_ambiguous_handshake_is_refused() {
    let stage = Stage::new();
    for target in ["/socket.io/?roomId=room_a&roomId=room_a", "/ws/room%5Fa"] {
        stage.request(handshake(target)).expect_error(400);
    }
}
