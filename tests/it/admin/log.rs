//! The log: one access line a request, one line at a tunnel's end, and no secret in any of them.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::support::{Redis, Router, Stage, eventually, script};

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

/// The README's table of fields: programs that read the log rely on it.
#[test]
fn the_lines_have_the_documented_fields_and_no_others() {
    let readme = include_str!("../../../README.md");
    let rows = readme.lines().filter(|line| line.starts_with("| `") && line.matches('|').count() == 5);
    let documented = |column: usize| -> BTreeSet<String> {
        let of_column = rows.clone().filter(|row| row.split('|').nth(column).is_some_and(|cell| cell.contains('✓')));
        let names = of_column.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split(','));
        names.map(|name| name.trim().trim_matches('`').to_owned()).collect()
    };
    let fields = |line: &Json| -> BTreeSet<String> {
        let names = line.as_object().expect("an object").keys().cloned();
        names.filter(|name| !["timestamp", "level", "target", "message"].contains(&name.as_str())).collect()
    };
    let stage = Stage::with(&["--pod-wait", "0s"]);
    stage.pods[0].play(script::websocket_echo);
    let mut client = stage.client();
    client.send(
        "GET /room_a HTTP/1.1\r\nHost: a\r\nX-Request-Id: ws\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    client.read_head();
    client.half_close();
    client.expect_end();
    let closed = stage.router.wait_log("the tunnel's end", |line| line["message"] == "tunnel closed");
    assert_eq!(fields(&closed), documented(3), "{closed}");
    stage.pods[1].play(script::answer_and_close("nonsense"));
    stage.redis.assign("room_b", 1);
    stage.request("GET /room_b HTTP/1.1\r\nHost: a\r\nX-Request-Id: failed\r\n\r\n");
    // One that has everything: a room, a pod and an error.
    let failed = stage.router.access_line("failed");
    assert_eq!(fields(&failed), documented(2), "{failed}");
}

/// `--log-sample`: fewer lines for what went well, all lines for what did not.
#[test]
fn successes_can_be_sampled_and_failures_are_all_there() {
    let count = |sample: &str| {
        let stage = Stage::with(&["--log-sample", sample]);
        // One connection, so one thread: its lines are in order.
        let mut client = stage.client();
        for number in 0..400 {
            client.get("/room_a");
            if number % 100 == 0 {
                client.get("/room%5Fa").expect_error(400);
            }
        }
        client.request("GET /room%5Fa HTTP/1.1\r\nHost: a\r\nX-Request-Id: last\r\n\r\n");
        stage.router.access_line("last");
        let (logs, kept) = (stage.router.logs(), Json::from("request"));
        let with = |status: u16| logs.iter().filter(|line| line["message"] == kept && line["status"] == status).count();
        assert_eq!(with(400), 5);
        with(200)
    };
    assert_eq!(count("1"), 400);
    assert_eq!(count("0"), 0);
    // Ten standard deviations to either side.
    assert!((100..=300).contains(&count("0.5")));
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
    no_secret_as("json", "\"request\"");
}

#[test]
fn no_secret_is_in_any_line_of_text() {
    no_secret_as("text", "pod_router::access: request request_id=");
}

/// `line` is in what is logged for a request in this format.
fn no_secret_as(format: &str, line: &str) {
    let stage = Stage::with(&["--pod-wait", "0s"]);
    let mut talkative = Router::builder()
        .redis(&stage.redis)
        .pod(&stage.pods[0])
        .pod(&stage.pods[1])
        .default_backend([&stage.any])
        .args(&["--pod-wait", "0s", "--response-timeout", "300ms", "--log-format", format])
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
    assert!(output.contains(line), "there is no access line to look at");
}

/// The password in the Redis URL: with a Redis that takes it, one that refuses it, and one that goes away.
#[test]
fn the_redis_password_is_in_no_line() {
    for level in ["info", "debug", "trace"] {
        for password in ["SECRETright", "SECRETwrong"] {
            let mut redis = Redis::with_password("SECRETright");
            let url = format!("redis://:{password}@{}/0", redis.addr());
            let builder = Router::builder().env("REDIS_URL", url).env("RUST_LOG", level);
            let mut router = builder.args(&["--pod-wait", "0s"]).start();
            if password == "SECRETright" {
                router.wait_ready();
            }
            let ask = || {
                let fields = "Referer: http://a/?token=SECRETreferer\r\nProxy-Authorization: Basic SECRETproxy\r\n";
                let request = format!("GET /room_a?unknown=SECRETvalue HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
                router.request(request).status()
            };
            ask();
            redis.kill();
            eventually("Redis is known to be away", || router.metric("pod_router_directory_up", &[]) < 0.5);
            assert_eq!(ask(), 503);
            router.signal("TERM");
            router.signal("TERM");
            router.wait_exit();
            let output = router.whole_output();
            assert_eq!(output.lines().find(|line| line.contains("SECRET")), None, "{level}, {password}");
            assert!(output.contains("\"request\""), "there is no access line to look at");
        }
    }
}
