//! Which pod a request reaches: the affinity rules, the default backend, requests that are refused.

use std::net::Ipv4Addr;

use crate::support::{Pod, Pods, Redis, Router, Stage};

#[test]
fn a_room_in_the_path_goes_to_its_pod() {
    let stage = Stage::new();
    stage.redis.assign("room_b", 1);
    stage.redis.assign("room_a-b_9", 1);
    for (target, pod) in [
        ("/experiment/room_a", "backend-0"),
        ("/api/room/room_a", "backend-0"),
        ("/api/room/room_b/members?roomId=room_a", "backend-1"),
        ("/api/experiment/x/room_b", "backend-1"),
        ("/api/room/room_a-b_9/", "backend-1"),
        ("/room_a/room_b", "backend-0"),
        ("//room_b", "backend-1"),
    ] {
        assert_eq!(stage.get(target).pod(), pod, "{target}");
    }
}

#[test]
fn a_room_in_the_query_counts_under_socket_io_only() {
    let stage = Stage::new();
    for (target, pod) in [
        ("/socket.io/?EIO=4&transport=polling&roomId=room_a", "backend-0"),
        ("/socket.io/?EIO=4&transport=polling&roomId=room_a&t=1&sid=x", "backend-0"),
        // `addTrailingSlash: false` on both sides.
        ("/socket.io?EIO=4&roomId=room_a", "backend-0"),
        ("/socket.io/more?roomId=room_a", "backend-0"),
        ("/socket.iox/?roomId=room_a", "any"),
        ("/api/x?roomId=room_a", "any"),
    ] {
        assert_eq!(stage.get(target).pod(), pod, "{target}");
    }
    // Many a backend would find the room there.
    assert_eq!(stage.get("/%73ocket.io/?roomId=room_a").expect_error(400), "encoded-room");
}

#[test]
fn every_method_is_routed_alike() {
    let stage = Stage::new();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        let response =
            stage.request(format!("{method} /api/room/room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(response.pod(), "backend-0", "{method}");
    }
}

#[test]
fn a_room_the_directory_does_not_know_goes_to_the_default_backend() {
    let stage = Stage::new();
    assert_eq!(stage.get("/api/room/room_unknown").pod(), "any");
}

#[test]
fn a_request_without_a_room_goes_to_the_default_backend() {
    let stage = Stage::new();
    let long = format!("/api/room/room_{}", "x".repeat(124));
    for target in
        ["/", "/api/rooms", "/api/xroom_a", "/api/room_", "/api/room_a.b", "/API/ROOM_a", "/api/room_a;v=1", &long]
    {
        assert_eq!(stage.get(target).pod(), "any", "{target}");
    }
    assert_eq!(stage.request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").pod(), "any");
}

#[test]
fn the_default_backends_addresses_take_turns() {
    let redis = Redis::start();
    let pods = Pods::start(3);
    let router = Router::builder().redis(&redis).default_backend(pods.iter()).start_ready();
    // One connection: each worker thread may count for itself.
    let mut client = router.client();
    for _ in 0..9 {
        assert_eq!(client.get("/").status(), 200);
    }
    let counts: Vec<_> = pods.iter().map(|pod| pod.received().len()).collect();
    assert_eq!(counts, [3, 3, 3]);
}

/// A name may have several addresses (`::1` and `127.0.0.1` here), and not all of them listen.
#[test]
fn a_backend_may_be_named() {
    let (redis, pod) = (Redis::start(), Pod::start_at("any", (Ipv4Addr::LOCALHOST, 0).into()));
    redis.assign("room_a", 0);
    let router = Router::builder()
        .redis(&redis)
        .arg("--default-backend", format!("localhost:{}", pod.addr().port()))
        .arg("--pod", format!("backend-0=localhost:{}", pod.addr().port()))
        .start_ready();
    for target in ["/", "/room_a"] {
        let response = router.get(target);
        assert_eq!(response.pod(), "any", "{}", response.text());
    }
    // Where the request is sent is not what it says of where it was sent.
    assert!(pod.received().iter().all(|received| received.head.value("host") == Some("test")));
}

#[test]
fn rooms_may_come_from_headers_and_cookies() {
    let stage =
        Stage::with(&["--affinity", "header:X-Room", "--affinity", "cookie:room@/app/", "--affinity", "path:r[0-9]+"]);
    stage.redis.assign("b", 1);
    stage.redis.assign("r7", 1);
    let pod_of = |target: &str, fields: &str| {
        stage.request(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).pod().to_owned()
    };
    assert_eq!(pod_of("/", "X-Room: room_a\r\n"), "backend-0");
    assert_eq!(pod_of("/", "x-room:  b \r\n"), "backend-1");
    assert_eq!(pod_of("/app/x", "Cookie: a=1; room=b; c=2\r\n"), "backend-1");
    assert_eq!(pod_of("/app/x", "Cookie: a=1\r\nCookie: room=b\r\n"), "backend-1");
    assert_eq!(pod_of("/other", "Cookie: room=b\r\n"), "any");
    // The first rule that finds a room wins.
    assert_eq!(pod_of("/app/x", "Cookie: room=b\r\nX-Room: room_a\r\n"), "backend-0");
    assert_eq!(pod_of("/r7", ""), "backend-1");
    // Rules that are given replace the defaults.
    assert_eq!(pod_of("/room_a", ""), "any");
    for fields in ["X-Room: a b\r\n", "X-Room: b\r\nX-Room: b\r\n", "X-Room: a,b\r\n", "X-Room:\r\n"] {
        stage.request(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).expect_error(400);
    }
    for fields in ["Cookie: room=b; room=b\r\n", "Cookie: room=b c\r\n", "Cookie: room=b\r\nCookie: room=room_a\r\n"] {
        stage.request(format!("GET /app/ HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).expect_error(400);
    }
}

#[test]
fn an_ambiguous_room_is_refused_and_reaches_no_pod() {
    let stage = Stage::new();
    for target in [
        // It would name a room only once decoded.
        "/experiment/room%5Fa",
        "/api/room/%72oom_a",
        "/api/room%2Froom_a",
        "/api/x%5Croom_a",
        // A name given twice: Engine.IO takes the last one, others the first.
        "/socket.io/?roomId=room_a&roomId=room_b",
        "/socket.io/?roomId=room_a&room%49d=room_a",
        "/socket.io/?sid=a&roomId=room_a&sid=b",
        "/socket.io/?sid=a&s%69d=a",
        // Outside the alphabet.
        "/socket.io/?roomId=room+a",
        "/socket.io/?roomId=room%2Ba",
        "/socket.io/?roomId=room_a%00",
        "/socket.io/?roomId=room:a",
        "/socket.io/?roomId=",
        "/socket.io/?roomId",
    ] {
        stage.get(target).expect_error(400);
    }
    let received: usize = stage.pods.iter().chain([&stage.any]).map(|pod| pod.received().len()).sum();
    assert_eq!(received, 0);
}

#[test]
fn a_refused_request_leaves_its_connection_usable() {
    let stage = Stage::new();
    let mut client = stage.client();
    client.get("/api/room/%72oom_a").expect_error(400);
    assert_eq!(client.get("/api/room/room_a").pod(), "backend-0");
}

#[test]
fn the_pods_carry_the_statefulsets_name() {
    let (redis, pod, any) = (Redis::start(), Pod::start("web-12"), Pod::start("any"));
    redis.set("rooms/room_a", r#"{"podId":"web-12","assignedAt":7}"#);
    let router = Router::builder()
        .redis(&redis)
        .pod(&pod)
        .default_backend([&any])
        .args(&["--statefulset", "web", "--room-key", "rooms/{room}"])
        .start_ready();
    assert_eq!(router.get("/room_a").pod(), "web-12");
}
