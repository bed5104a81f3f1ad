//! Limits of a request: its fields, its body, its origin; and where the pod it is for may be.

use std::fmt::Write;

use super::rejected;
use crate::support::{NameServer, Pod, Redis, Router, Stage, eventually};

#[test]
fn a_head_has_so_many_fields() {
    let head = |fields: usize| {
        // `Host` is one of them.
        let mut head = String::from("GET /room_a HTTP/1.1\r\nHost: a\r\n");
        (1..fields).for_each(|number| write!(head, "X-{number}: y\r\n").expect("a string takes all"));
        head + "\r\n"
    };
    for (args, most) in [(&[][..], 100), (&["--max-headers", "12"], 12), (&["--max-headers", "300"], 300)] {
        let stage = Stage::with(args);
        assert_eq!(stage.request(head(most)).pod(), "backend-0");
        let mut client = stage.client();
        client.send(head(most + 1));
        assert_eq!(client.read_response().expect_error(431), "head-too-large", "{most}");
        client.expect_end();
        stage.router.wait_metric("pod_router_rejected_total", &[("reason", "head-too-large")], 0.5);
        assert_eq!(rejected(&stage, "head-too-large"), 1);
        assert_eq!(stage.pods[0].received().len(), 1);
    }
}

fn post(framing: &str, body: &str) -> String {
    format!("POST /room_a HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}")
}

#[test]
fn a_body_has_so_many_bytes() {
    let stage = Stage::with(&["--max-body", "10"]);
    for (framing, body) in [
        ("Content-Length: 10", "0123456789"),
        ("Transfer-Encoding: chunked", "4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n"),
        ("Content-Length: 0", ""),
    ] {
        assert_eq!(stage.request(post(framing, body)).pod(), "backend-0", "{framing}");
    }
    let passed = stage.pods[0].received().len();
    for body in ["", "0123456789x"] {
        let response = stage.request(post("Content-Length: 11", body));
        assert_eq!(response.expect_error(413), "body-too-large");
        assert_eq!(response.head.value("connection"), Some("close"));
    }
    // It is not asked for either.
    let response = stage.request(post("Content-Length: 11\r\nExpect: 100-continue", ""));
    assert_eq!(response.expect_error(413), "body-too-large");
    assert_eq!(stage.pods[0].received().len(), passed, "no pod saw any of them");
    assert_eq!(rejected(&stage, "body-too-large"), 3);
}

/// hyper cannot count so far, and takes it for a head that is too large.
#[test]
fn a_length_beyond_64_bits_is_told_so() {
    let stage = Stage::new();
    let response = stage.request(post("Content-Length: 18446744073709551615", "x"));
    assert_eq!(response.expect_error(431), "head-too-large");
    assert!(response.json()["message"].as_str().is_some_and(|message| message.contains("a longer body")));
}

/// That it is too long shows only when it is: the pod never sees its end.
#[test]
fn a_chunked_body_is_counted_as_it_comes() {
    let stage = Stage::with(&["--max-body", "10"]);
    let mut client = stage.client();
    client.send(post("Transfer-Encoding: chunked", "6\r\n012345\r\n"));
    eventually("the pod has the head", || stage.pods[0].received().len() == 1);
    client.send("5\r\n6789x\r\n0\r\n\r\n");
    assert_eq!(client.read_response().expect_error(413), "body-too-large");
    client.expect_end();
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    assert_eq!(rejected(&stage, "body-too-large"), 1);
    let unanswered = [("pod", "backend-0"), ("code", "none")];
    assert_eq!(stage.router.metric("pod_router_upstream_requests_total", &unanswered), 0.0, "no fault of the pod's");
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
}

/// RFC 9112 section 9.6: a close with something unread is a reset, which takes the answer with it.
#[test]
fn the_answer_reaches_a_client_that_is_still_sending() {
    const LEN: usize = 8 * 1024 * 1024;
    let stage = Stage::with(&["--max-body", "64KiB"]);
    for framing in [format!("Content-Length: {LEN}"), format!("Transfer-Encoding: chunked\r\n\r\n{LEN:x}")] {
        let mut client = stage.client();
        client.send(format!("POST /room_a HTTP/1.1\r\nHost: a\r\n{framing}\r\n"));
        if framing.starts_with("Content") {
            client.send("\r\n");
        }
        client.send(vec![b'x'; LEN]);
        assert_eq!(client.read_response().expect_error(413), "body-too-large");
        client.expect_end();
    }
}

fn handshake(origin: &str) -> String {
    format!(
        "GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{origin}\r\n"
    )
}

#[test]
fn only_pages_of_allowed_origins_open_websockets() {
    let stage = Stage::with(&["--allowed-origins", "https://app.example,http://localhost:8080"]);
    for (count, origin) in [
        "Origin: https://evil.example\r\n",
        "Origin: http://app.example\r\n",
        "Origin: https://app.example.evil.example\r\n",
        "Origin: null\r\n",
        "Origin: https://app.example\r\nOrigin: https://evil.example\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = stage.client();
        let response = client.request(handshake(origin));
        assert_eq!(response.expect_error(403), "origin-refused", "{origin}");
        assert_eq!(rejected(&stage, "origin-refused"), count + 1);
        // The connection is as good as before.
        assert_eq!(client.get("/room_a").pod(), "backend-0");
    }
    for origin in ["Origin: https://app.example\r\n", "Origin: http://localhost:8080\r\n", ""] {
        assert_eq!(stage.request(handshake(origin)).pod(), "backend-0", "{origin}");
    }
    // What is no WebSocket is CORS' affair.
    let get = "GET /room_a HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\n\r\n";
    assert_eq!(stage.request(get).pod(), "backend-0");
}

#[test]
fn any_page_opens_websockets_unless_somebody_says_which() {
    assert_eq!(Stage::new().request(handshake("Origin: https://evil.example\r\n")).pod(), "backend-0");
}

#[test]
fn a_pod_outside_its_networks_is_never_dialled() {
    let stage = Stage::with(&["--pod-networks", "10.0.0.0/8, 192.168.0.0/16"]);
    let response = stage.get("/room_a");
    assert_eq!(response.expect_error(502), "pod-address-refused");
    assert_eq!((stage.pods[0].accepted(), rejected(&stage, "pod-address-refused")), (0, 1));
    assert_eq!(stage.get("/").pod(), "any", "the configuration names default backends itself");
    let stage = Stage::with(&["--pod-networks", "loopback"]);
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
}

/// A name may resolve to anything, today to this and tomorrow to that.
#[test]
fn it_is_the_resolved_address_that_counts() {
    const NAME: &str = "backend-0.backend.default.svc.cluster.local";
    let Some(names) = NameServer::start() else { return };
    let (redis, inside) = (Redis::start(), Pod::start("backend-0"));
    let outside = Pod::start_at_port("elsewhere", inside.addr().port());
    redis.assign("room_a", 0);
    names.set(NAME, outside.addr().ip());
    let router = Router::builder()
        .nameserver(&names)
        .redis(&redis)
        .arg("--pod-address", format!("{{pod}}.backend.{{namespace}}.svc.cluster.local:{}", inside.addr().port()))
        .arg("--pod-networks", inside.addr().ip().to_string())
        .start_ready();
    assert_eq!(router.get("/room_a").expect_error(502), "pod-address-refused");
    assert_eq!(outside.accepted(), 0);
    names.set(NAME, inside.addr().ip());
    eventually("the pod is back where it may be", || router.get("/room_a").status() == 200);
    assert_eq!((inside.received().len(), outside.accepted()), (1, 0));
}
