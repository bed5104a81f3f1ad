//! Servers as their users run them, with every default, behind the router.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::contract::{self, Way};
use super::{Behind, streams};
use crate::support::{finish, node, together};

/// Clients give up by themselves after this many seconds: the machine may be busy.
const DEADLINE: &str = "120";

/// All that HTTP has, both ways alike.
fn http(program: &str) {
    let behind = Behind::start(program);
    let [straight, routed] = behind.ways().map(Way::straight_from_here);
    let exchanges = contract::expect_alike(straight, routed);
    contract::expect_told_alike(straight, routed);
    for way in [straight, routed] {
        streams::expect_events_one_by_one(way);
        streams::expect_abort_to_arrive(way);
    }
    connection_is_kept(&behind);
    eprintln!("peers: {program}: {exchanges} exchanges alike");
}

/// One client, one request after another: the router keeps its connection to the pod.
#[track_caller]
fn connection_is_kept(behind: &Behind) {
    let connections = || behind.router.metric("pod_router_upstream_connections", &[("pod", "backend-0")]);
    let (mut client, before) = (behind.router.client(), connections());
    for number in 0..20 {
        let body = format!("{number:05}");
        let response =
            client.request(format!("POST /live/room_a/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{body}"));
        assert_eq!((response.status(), response.text()), (200, body));
    }
    assert!(connections() < before + 1.5, "{} connections after {before}", connections());
}

/// `ws` as the client: text, binary, fragments, pings, close codes of either side, a subprotocol, permessage-deflate.
#[track_caller]
pub(super) fn websocket(url: &str) {
    for variant in
        [&["--size", "1000"][..], &["--size", "1000", "--deflate"], &["--messages", "2", "--size", "2000000"]]
    {
        let mut args = vec!["ws.mjs", "--url", url, "--clients", "4", "--expect", "backend-0", "--deadline", DEADLINE];
        args.extend(variant);
        let figures = finish(node("the ws clients", &args));
        let counted = ["connections", "misrouted", "failed"].map(|name| figures[name].as_u64());
        assert_eq!(counted, [8, 0, 0].map(Some), "{url}: {figures}");
    }
}

fn websocket_both_ways(program: &str) {
    let behind = Behind::start(program);
    for addr in behind.ways() {
        websocket(&format!("ws://{addr}/live/room_a/ws"));
    }
}

/// Socket.IO's own client against this pod: polling, and polling with the upgrade.
#[track_caller]
pub(super) fn socketio(addr: SocketAddr) {
    let rooms = json!({ super::ROOM: "backend-0" }).to_string();
    for transport in ["polling", "upgrade"] {
        let url = format!("http://{addr}");
        let mut args = vec!["rooms.mjs", "--url", &url, "--transport", transport, "--expect", &rooms];
        args.extend(["--rooms", "1", "--participants", "8", "--messages", "10", "--deadline", DEADLINE]);
        let figures = finish(node("the Socket.IO clients", &args));
        let counted = ["acks", "broadcasts", "misrouted", "lost", "duplicated", "reordered", "reconnects"];
        let expected = [160, 640, 0, 0, 0, 0, 0].map(Some);
        assert_eq!(counted.map(|name| figures[name].as_u64()), expected, "{transport}: {figures}");
    }
}

#[test]
fn http_of_node_is_as_it_is_without_the_router() {
    http("httppod.mjs");
}

#[test]
fn http_of_aiohttp_is_as_it_is_without_the_router() {
    http("aiohttp_pod.py");
}

#[test]
fn http_of_uvicorn_is_as_it_is_without_the_router() {
    http("asgi_pod.py");
}

#[test]
fn websockets_of_aiohttp_pass_untouched() {
    websocket_both_ways("aiohttp_pod.py");
}

#[test]
fn websockets_of_uvicorn_pass_untouched() {
    websocket_both_ways("asgi_pod.py");
}

#[test]
fn websockets_of_the_websockets_package_pass_untouched() {
    websocket_both_ways("websockets_pod.py");
}

#[test]
fn python_socketio_on_aiohttp_keeps_its_sessions() {
    socketio(Behind::start("aiohttp_pod.py").router.addr());
}

#[test]
fn python_socketio_on_uvicorn_keeps_its_sessions() {
    socketio(Behind::start("asgi_pod.py").router.addr());
}

/// uvicorn closes an idle connection after 5 s, without having announced it, as Node does, with `Keep-Alive: timeout=5`.
/// The router's own limit is 4 s.
#[test]
fn no_post_is_lost_to_a_connection_that_uvicorn_closes() {
    const CLIENTS: usize = 30;
    const PAUSES: [u64; 6] = [3900, 4000, 4100, 4900, 5000, 5100];
    let behind = Behind::start("asgi_pod.py");
    let answered = AtomicUsize::new(0);
    together(CLIENTS, |number| {
        let mut client = behind.router.client();
        for request in 0..40 {
            if request == 20 {
                thread::sleep(Duration::from_millis(PAUSES[number % PAUSES.len()]));
            }
            let response = client
                .request("POST /live/room_a/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".as_bytes());
            assert_eq!((response.status(), response.text().as_str()), (200, "hello"), "{}", response.head.text());
            answered.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert_eq!(answered.into_inner(), CLIENTS * 40);
    let lost = behind.router.metric("pod_router_upstream_requests_total", &[("pod", "backend-0"), ("code", "none")]);
    assert!(lost < 0.5, "{lost} attempts had no answer");
}
