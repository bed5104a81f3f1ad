//! `--max-connections-per-client`, and what a refused client gets to read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::rejected;
use crate::support::{Client, Pod, Pods, Redis, Router, RouterBuilder, Stage, eventually, script};

const LIMIT: [&str; 2] = ["--max-connections-per-client", "2"];
const REASON: &str = "too-many-client-connections";

fn from(stage: &Stage, last: u8) -> Client {
    Client::connect_from([127, 0, 0, last], stage.router.addr())
}

#[track_caller]
fn expect_refused(client: &mut Client) {
    let response = client.get("/room_a");
    assert_eq!((response.status(), response.head.value("x-pod-router-error")), (429, Some(REASON)));
    assert_eq!((response.head.value("retry-after"), response.head.value("connection")), (Some("1"), Some("close")));
    assert_eq!(response.json()["error"], REASON);
    client.expect_end();
}

#[test]
fn one_client_cannot_take_all_connections() {
    let stage = Stage::with(&[&LIMIT[..], &["--trusted-proxies", "none"]].concat());
    let mut kept: Vec<_> = (0..2).map(|_| from(&stage, 2)).collect();
    for client in &mut kept {
        assert_eq!(client.get("/room_a").pod(), "backend-0");
    }
    expect_refused(&mut from(&stage, 2));
    assert_eq!(rejected(&stage, REASON), 1);
    assert_eq!(from(&stage, 3).get("/room_a").pod(), "backend-0", "another client");
    for client in &mut kept {
        assert_eq!(client.get("/room_a").pod(), "backend-0", "what was there stays");
    }
    kept.pop();
    eventually("its place is free again", || from(&stage, 2).get("/room_a").status() == 200);
}

/// A tunnel keeps the place of the connection it was.
#[test]
fn a_tunnel_counts_until_it_ends() {
    let stage = Stage::with(&[&LIMIT[..], &["--trusted-proxies", "none"]].concat());
    stage.pods[0].play(script::websocket_echo);
    let mut tunnels: Vec<_> = (0..2).map(|_| from(&stage, 2)).collect();
    for client in &mut tunnels {
        client.send(
            "GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
        assert_eq!(client.read_head().second_word(), "101");
        client.send("still here");
        assert_eq!(client.read_exact(10), b"still here");
    }
    expect_refused(&mut from(&stage, 2));
    drop(tunnels);
    eventually("both places are free", || from(&stage, 2).get("/").status() == 200);
}

/// An ingress carries everybody.
#[test]
fn a_trusted_proxy_is_not_a_client() {
    let stage = Stage::with(&LIMIT);
    let mut kept: Vec<_> = (0..5).map(|_| from(&stage, 2)).collect();
    for client in &mut kept {
        assert_eq!(client.get("/room_a").pod(), "backend-0");
    }
}

/// Behind a load balancer it is whom the PROXY header names that counts.
#[test]
fn whom_the_proxy_header_names_is_the_client() {
    let stage = Stage::with(&[&LIMIT[..], &["--proxy-protocol", "on"]].concat());
    let named = |source: &str| {
        let client = stage.client();
        client.send(format!("PROXY TCP6 {source} ::1 1 2\r\n"));
        client
    };
    let mut kept: Vec<_> = ["2001:db8::1", "2001:db8::2"].into_iter().map(named).collect();
    for client in &mut kept {
        assert_eq!(client.get("/room_a").pod(), "backend-0");
    }
    expect_refused(&mut named("2001:db8::3"));
    assert_eq!(named("2001:db8:0:1::1").get("/room_a").pod(), "backend-0", "another /64");
}

/// Nor is a load balancer that does not say whom a connection is for: its health checks would be refused with the rest.
#[test]
fn a_load_balancer_that_names_nobody_is_not_a_client() {
    let stage = Stage::with(&[&LIMIT[..], &["--proxy-protocol", "on"]].concat());
    let mut kept: Vec<_> = (0..5).map(|_| stage.client()).collect();
    for client in &mut kept {
        client.send("PROXY UNKNOWN\r\n");
        assert_eq!(client.get("/room_a").pod(), "backend-0");
    }
}

/// What is kept to pods takes files as well, and clients that come later need them.
#[test]
fn what_is_kept_to_pods_leaves_files_for_clients() {
    let (redis, pods) = (Redis::start(), Pods::start(6));
    let builder = pods.iter().fold(Router::builder().redis(&redis), RouterBuilder::pod);
    let router = builder.args(&["--threads", "1", "--pod-wait", "0s"]).open_files(200).start_ready();
    let limit = router.metric("pod_router_max_downstream_connections", &[]) as usize;
    // Each round's requests are answered when all have come, or one connection would do for all of them.
    let come = Arc::new(AtomicUsize::new(0));
    for (ordinal, pod) in pods.iter().enumerate() {
        redis.assign(&format!("room_{ordinal}"), ordinal);
        let come = Arc::clone(&come);
        pod.play(move |mut conn| {
            loop {
                conn.request()?;
                let round = come.fetch_add(1, Ordering::SeqCst) / limit;
                eventually("all have come", || come.load(Ordering::SeqCst) >= (round + 1) * limit);
                conn.send("HTTP/1.1 204 No Content\r\n\r\n")?;
            }
        });
    }
    let mut clients: Vec<_> = (0..limit).map(|_| router.client()).collect();
    for round in 0..12 {
        let path = format!("/room_{}", round % 6);
        clients.iter().for_each(|client| client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")));
        for client in &mut clients {
            assert_eq!(client.read_response().status(), 204, "{round}");
        }
        let (all, kept) = (router.open_files(), router.metric("pod_router_upstream_connections", &[]));
        assert!(all < 200 && kept > 0.5, "{all} {kept}");
    }
    assert_eq!(router.metric("pod_router_accept_errors_total", &[]), 0.0);
}

/// Sockets take files: with fewer of those than `--max-connections` needs, that limit has to act before they run out.
#[test]
fn the_limit_fits_into_the_open_files() {
    let any = Pod::start("any");
    let builder = Router::builder().args(&["--directory", "memory"]).default_backend([&any]);
    let router = builder.open_files(200).start_ready();
    let limit = router.metric("pod_router_max_downstream_connections", &[]);
    assert!((2.0..=100.0).contains(&limit), "{limit}");
    router.wait_log("a warning", |line| line["level"] == "WARN" && line["max_connections"] == 65536);
    let mut kept: Vec<Client> = Vec::new();
    let refused = loop {
        let mut client = router.client();
        match client.get("/").status() {
            200 => kept.push(client),
            status => break status,
        }
    };
    assert_eq!((refused, kept.len() as f64), (503, limit));
    assert_eq!(router.get_admin("/livez").status(), 200);
    assert!(router.open_files() < 200 && router.metric("pod_router_accept_errors_total", &[]) < 0.5);
}
