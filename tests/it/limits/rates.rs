//! `--rate-limit` and `--lookup-rate`: how often one client may ask. The rates are by the hour, so that none is given back
//! while a test runs.

use super::rejected;
use crate::support::{Client, Response, Stage, eventually};

fn get(path: &str, chain: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {chain}\r\n\r\n")
}

/// What the client at the end of this chain gets.
#[track_caller]
fn ask(client: &mut Client, path: &str, chain: &str) -> Response {
    client.request(get(path, chain))
}

#[track_caller]
fn expect_limited(response: &Response, code: &str, policy: &str) {
    assert_eq!(response.expect_error(429), code);
    let wait: u32 = response.head.value("retry-after").expect("it says when").parse().expect("in seconds");
    assert!((1..=3600).contains(&wait), "{wait}");
    let (name, _) = policy.split_once(';').expect("a name and its parameters");
    assert_eq!(response.head.value("ratelimit-policy"), Some(policy));
    assert_eq!(response.head.value("ratelimit"), Some(format!("{name};r=0;t={wait}").as_str()));
    assert!(!response.head.has("connection"), "the connection is as good as before");
}

#[test]
fn a_client_makes_so_many_requests() {
    let stage = Stage::with(&["--rate-limit", "1r/h burst=2"]);
    let mut client = stage.client();
    for _ in 0..3 {
        let response = ask(&mut client, "/room_a", "203.0.113.7");
        assert_eq!(response.pod(), "backend-0");
        assert!(!response.head.has("ratelimit"), "a pod's answer is the pod's");
    }
    for (count, path) in ["/room_a", "/", "/experiment/room_a"].into_iter().enumerate() {
        let response = ask(&mut client, path, "203.0.113.7");
        expect_limited(&response, "rate-limited", "\"requests-1\";q=1;w=3600");
        assert_eq!(rejected(&stage, "rate-limited"), count + 1);
    }
    // It is the client and not the connection, nor what it claims to be.
    expect_limited(
        &stage.request(get("/", "9.9.9.9, 203.0.113.7, 10.0.0.1")),
        "rate-limited",
        "\"requests-1\";q=1;w=3600",
    );
    assert_eq!(ask(&mut client, "/room_a", "203.0.113.8").pod(), "backend-0", "another client on the same connection");
    assert_eq!(stage.pods[0].received().len(), 4);
}

/// What is asked of the server as a whole goes to a pod too, and what the router answers itself costs as much.
#[test]
fn no_request_is_none() {
    for request in [
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS /room_a HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
        "GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /experiment/room_a HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n",
    ] {
        let stage = Stage::with(&["--rate-limit", "1r/h"]);
        let mut client = stage.client();
        assert!(client.request(request).status() < 400, "{request}");
        assert_eq!(client.request(request).expect_error(429), "rate-limited", "{request}");
    }
}

#[test]
fn an_ipv6_client_is_its_network() {
    let stage = Stage::with(&["--rate-limit", "1r/h"]);
    assert_eq!(stage.request(get("/", "2001:db8::1")).status(), 200);
    assert_eq!(stage.request(get("/", "2001:db8::ffff:2")).status(), 429);
    assert_eq!(stage.request(get("/", "2001:db8:0:1::1")).status(), 200);
}

/// Of several scopes the closest counts, and counts alone.
#[test]
fn a_rate_may_be_for_some_paths() {
    let stage = Stage::with(&["--rate-limit", "/api/=1r/h burst=1", "--rate-limit", "/api/free/=1000r/s burst=1000"]);
    let mut client = stage.client();
    let mut ask = |path: &str| ask(&mut client, path, "203.0.113.7");
    assert_eq!([ask("/api/x").status(), ask("/api/y?z").status()], [200, 200]);
    for around in ["/api/x", "/%61pi/x", "/api%2Fx", "/api/x/../../room_a"] {
        expect_limited(&ask(around), "rate-limited", "\"requests-1\";q=1;w=3600");
    }
    for _ in 0..20 {
        assert_eq!([ask("/api/free/x").status(), ask("/api").status(), ask("/room_a").status()], [200, 200, 200]);
    }
}

/// What backends could read in different ways counts as each: the laxer scope is no way around the stricter one.
#[test]
fn a_laxer_rate_is_no_way_around_a_stricter_one() {
    let stage = Stage::with(&["--rate-limit", "/api/=1r/h burst=1", "--rate-limit", "/static/img/=1000r/s burst=1000"]);
    let mut client = stage.client();
    let mut ask = |path: &str| ask(&mut client, path, "203.0.113.7");
    assert_eq!([ask("/static/img/../../api/login").status(), ask("/api/login").status()], [200, 200]);
    for around in ["/static/img/../../api/login", "/static/img/%2e%2e/%2e%2e/api/login", "/api/login"] {
        expect_limited(&ask(around), "rate-limited", "\"requests-1\";q=1;w=3600");
    }
    assert_eq!(ask("/static/img/x").status(), 200);
}

/// As nginx has it: all of them, and what one refuses uses up no other.
#[test]
fn two_rates_for_one_path_both_apply() {
    let stage = Stage::with(&[
        "--rate-limit",
        "/api/=1r/h burst=5",
        "--rate-limit",
        "/api/=1r/m burst=2",
        "--rate-limit",
        "/=1r/h",
    ]);
    let mut client = stage.client();
    let mut ask = |path: &str| ask(&mut client, path, "203.0.113.7");
    assert_eq!([(); 3].map(|()| ask("/api/x").status()), [200; 3]);
    for _ in 0..5 {
        assert_eq!(ask("/api/x").head.value("ratelimit-policy"), Some("\"requests-2\";q=1;w=60"));
    }
    assert_eq!([ask("/").status(), ask("/").status()], [200, 429], "another path, another rule");
    let stage = Stage::with(&["--rate-limit", "/api/=1000r/s burst=1000", "--rate-limit", "/api/=1r/h burst=2"]);
    let statuses = [(); 5].map(|()| stage.get("/api/x").status());
    assert_eq!(statuses, [200, 200, 200, 429, 429], "their order does not count");
}

#[test]
fn what_is_given_back_with_time_can_be_used() {
    let stage = Stage::with(&["--rate-limit", "20r/s"]);
    let mut client = stage.client();
    assert_eq!(ask(&mut client, "/", "203.0.113.7").status(), 200);
    eventually("there is one more", || ask(&mut client, "/", "203.0.113.7").status() == 200);
}

#[test]
fn a_body_that_is_not_wanted_ends_the_connection_and_the_answer_arrives() {
    let stage = Stage::with(&["--rate-limit", "1r/h"]);
    assert_eq!(stage.get("/").status(), 200);
    let mut client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    client.send(vec![b'x'; 1_000_000]);
    let response = client.read_response();
    assert_eq!(
        (response.expect_error(429).as_str(), response.head.value("connection")),
        ("rate-limited", Some("close"))
    );
    client.expect_end();
    assert!(stage.pods[0].received().is_empty());
}

/// How often Redis was asked for a room.
fn asked(stage: &Stage) -> usize {
    stage.router.metric("pod_router_room_lookups_total", &[("result", "miss")]).round() as usize
}

#[test]
fn a_client_asks_for_so_many_unknown_rooms() {
    let stage = Stage::with(&["--lookup-rate", "1r/h burst=4", "--cache-negative", "1h", "--cache-ttl", "1h"]);
    let mut client = stage.client();
    // Known ones do not count, however many.
    for number in 0..20 {
        stage.redis.assign(&format!("room_known{number}"), 1);
        assert_eq!(ask(&mut client, &format!("/room_known{number}"), "203.0.113.7").pod(), "backend-1");
    }
    // Nor does what is remembered.
    for _ in 0..3 {
        for number in 0..5 {
            assert_eq!(ask(&mut client, &format!("/room_guess{number}"), "203.0.113.7").pod(), "any");
        }
    }
    let before = asked(&stage);
    for number in 5..30 {
        let response = ask(&mut client, &format!("/room_guess{number}"), "203.0.113.7");
        expect_limited(&response, "too-many-lookups", "\"unknown-rooms\";q=1;w=3600");
    }
    assert_eq!((asked(&stage), rejected(&stage, "too-many-lookups")), (before, 25), "Redis was not asked");
    // What is in the cache is served to it all the same, and to others everything.
    assert_eq!(ask(&mut client, "/room_known3", "203.0.113.7").pod(), "backend-1");
    assert_eq!(ask(&mut client, "/room_guess3", "203.0.113.7").pod(), "any");
    assert_eq!(ask(&mut client, "/", "203.0.113.7").pod(), "any");
    assert_eq!(ask(&mut client, "/room_guess5", "203.0.113.8").pod(), "any");
}

/// A page load that is redirected asks the directory as well; a value that cannot be used is as good as none.
#[test]
fn redirects_and_unusable_values_count_as_well() {
    let stage = Stage::with(&["--lookup-rate", "1r/h", "--cache-negative", "1h"]);
    let page = |room: &str| format!("GET /experiment/{room} HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
    assert_eq!(stage.request(page("room_guess1")).status(), 302);
    assert_eq!(stage.request(page("room_guess2")).expect_error(429), "too-many-lookups");
    stage.redis.set("room:room_odd:pod", "no JSON");
    let odd = |client| get("/room_odd", client);
    assert_eq!(stage.request(odd("203.0.113.7")).expect_error(503), "bad-assignment");
    assert_eq!(stage.request(get("/room_guess3", "203.0.113.7")).expect_error(429), "too-many-lookups");
}

/// Who shares an address with a guesser stays in the room: a moment ago its pod was known.
#[test]
fn a_room_that_was_known_is_served_to_a_limited_client() {
    let stage = Stage::with(&["--lookup-rate", "1r/h", "--cache-ttl", "1ms"]);
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
    assert_eq!(stage.get("/room_guess1").pod(), "any");
    assert_eq!(stage.get("/room_guess2").expect_error(429), "too-many-lookups");
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
}

/// Whoever hangs up while the directory is asked pays for what it then says, no more and no less.
#[test]
fn a_client_that_hangs_up_pays_for_unknown_rooms_only() {
    let lookups = "pod_router_room_lookups_total";
    for (room, then) in [("room_known", 200), ("room_guess", 429)] {
        let stage = Stage::with(&["--lookup-rate", "1r/h burst=3", "--redis-timeout", "60s", "--threads", "1"]);
        for number in 0..5 {
            stage.redis.assign(&format!("room_known{number}"), 1);
        }
        let before = stage.router.metric(lookups, &[("result", "miss")]);
        stage.redis.pause();
        for number in 0..4 {
            let client = stage.client();
            let id = format!("gone-{number}");
            client.send(format!("GET /{room}{number} HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n"));
            // The one thread has read it when it answers one that came later.
            assert_eq!(stage.get("/").pod(), "any");
            drop(client);
            assert_eq!(stage.router.access_line(&id)["status"], 499);
        }
        stage.redis.resume();
        stage.router.wait_metric(lookups, &[("result", "miss")], before + 4.0);
        assert_eq!(stage.get("/room_known4").status(), then, "after four of {room}");
    }
}
