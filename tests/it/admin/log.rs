//! The log: one access line a request, one line at a tunnel's end, and no secret in any of them.

use crate::support::{Stage, eventually, script};

#[test]
fn a_requests_line_has_the_fields_of_the_contract() {
    let stage = Stage::new();
    let body = "POST /room_a/x?sid=1 HTTP/1.1\r\nHost: a\r\nX-Request-Id: one\r\nContent-Length: 5\r\n\r\nhello";
    let response = stage.request(body);
    let line = stage.router.access_line("one");
    for (field, value) in [
        ("kind", "http"),
        ("method", "POST"),
        ("path", "/room_a/x"),
        ("room", "room_a"),
        ("pod", "backend-0"),
        ("source", "room"),
        ("client", "127.0.0.1"),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert_eq!(line["status"], 200, "{line}");
    assert_eq!(line["bytes_in"], 5, "{line}");
    assert_eq!(line["bytes_out"], response.body.len(), "{line}");
    assert!(line["error"].is_null(), "{line}");
    let (head_ms, duration_ms) = (line["head_ms"].as_f64(), line["duration_ms"].as_f64());
    assert!(head_ms.is_some() && head_ms <= duration_ms, "{line}");
}

#[test]
fn each_kind_of_request_says_what_it_was() {
    let stage = Stage::new();
    stage.redis.set("room:room_bad:pod", "{");
    let send = |id: &str, target: &str, fields: &str| {
        stage.request(format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n{fields}\r\n"));
        stage.router.access_line(id)
    };
    let redirect = send("redirect", "/experiment/room_a", "Accept: text/html\r\n");
    assert_eq!(
        (&redirect["kind"], &redirect["status"], &redirect["room"]),
        (&"redirect".into(), &302.into(), &"room_a".into())
    );

    let default = send("default", "/x", "");
    assert_eq!((&default["source"], &default["status"]), (&"default".into(), &200.into()));
    assert!(default["room"].is_null(), "{default}");

    let ambiguous = send("ambiguous", "/socket.io/?roomId=room_a&roomId=room_b", "");
    assert_eq!((&ambiguous["source"], &ambiguous["status"]), (&"none".into(), &400.into()));
    assert!(ambiguous["error"].is_string(), "{ambiguous}");

    let bad = send("bad", "/room_bad", "");
    assert_eq!((&bad["error"], &bad["status"]), (&"bad-assignment".into(), &503.into()));
}

#[test]
fn a_tunnel_has_a_line_at_its_start_and_one_at_its_end() {
    let stage = Stage::new();
    stage.pods[0].play(script::websocket_echo);
    let mut client = stage.client();
    client.send(
        "GET /socket.io/?roomId=room_a&sid=x HTTP/1.1\r\nHost: a\r\nX-Request-Id: ws\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    client.read_head();
    client.send("hello");
    client.read_exact(5);
    let line = stage.router.access_line("ws");
    assert_eq!(
        (&line["kind"], &line["status"], &line["path"]),
        (&"websocket".into(), &101.into(), &"/socket.io/".into())
    );
    client.half_close();
    client.expect_end();
    let closed = stage.router.wait_log("the tunnel's end", |line| line["message"] == "tunnel closed");
    for (field, value) in [("request_id", "ws"), ("room", "room_a"), ("pod", "backend-0")] {
        assert_eq!(closed[field], value, "{field} in {closed}");
    }
    assert_eq!((&closed["bytes_in"], &closed["bytes_out"]), (&5.into(), &5.into()), "{closed}");
    assert!(closed["duration_ms"].is_number() && closed["reason"].is_string(), "{closed}");
}

#[test]
fn there_is_one_line_a_request() {
    let stage = Stage::new();
    let mut client = stage.client();
    for _ in 0..10 {
        client.get("/room_a");
    }
    let lines = || stage.router.logs().iter().filter(|line| line["message"] == "request").count();
    eventually("all requests are logged", || lines() >= 10);
    assert_eq!(lines(), 10);
}

/// Invariant 9 of design.md, at the most talkative level: a `sid` opens a session, a token an account.
#[test]
fn no_secret_is_in_any_line() {
    let stage = Stage::with(&["--pod-wait", "0s"]);
    let mut talkative = crate::support::Router::builder()
        .redis(&stage.redis)
        .pod(&stage.pods[0])
        .pod(&stage.pods[1])
        .default_backend([&stage.any])
        .args(&["--pod-wait", "0s", "--response-timeout", "300ms"])
        .env("RUST_LOG", "trace")
        .start_ready();
    let fields = "Cookie: io=SECRETcookie\r\nAuthorization: Bearer SECRETtoken\r\nSec-WebSocket-Protocol: SECRETproto\r\n\
                  X-Api-Key: SECRETkey\r\n";
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Version: 13\r\n";
    let query = "EIO=4&sid=SECRETsid&token=SECRETquery";
    let send = |target: &str, more: &str| {
        let mut client = talkative.client();
        client.send(format!("GET {target}?{query} HTTP/1.1\r\nHost: a\r\n{fields}{more}\r\n"));
        // Some of these end without an answer, and a 101 is not followed by a body.
        let _ = client.wire().read_head();
    };
    stage.redis.assign("room_b", 1);
    for target in ["/room_a", "/x", "/room%5Fa", "/experiment/room_a", "/socket.io/"] {
        send(target, "");
        send(target, "Accept: text/html\r\n");
        send(target, upgrade);
    }
    // The ways to fail: a doubled sid, a pod that closes, one that is silent, one that talks nonsense.
    talkative.get("/socket.io/?sid=SECRETsid&sid=SECRETsid").expect_error(400);
    stage.pods[0].play(|mut conn| conn.request().map(drop));
    send("/room_a", "");
    stage.pods[0].play(script::silence);
    send("/room_a", "");
    stage.pods[0].play(script::answer_and_close("HTTP/1.1 SECRET nonsense\r\n\r\n"));
    send("/room_a", "");
    let mut client = talkative.client();
    client.send("GET /SECRETs path HTTP/9.9\r\nSECRET\r\n\r\n");
    let _ = client.wire().read_to_end();
    talkative.signal("TERM");
    talkative.signal("TERM");
    talkative.wait_exit();
    let output = talkative.whole_output();
    let leak = output.lines().find(|line| line.contains("SECRET"));
    assert_eq!(leak, None);
    assert!(output.contains("\"request\""), "there is no access line to look at");
}
