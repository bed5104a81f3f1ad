//! The pods over real sockets, without a router: what it would add, the tests write themselves.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{self, Message};

use super::*;
use crate::config::DirectoryKind;
use crate::core::decision::OnUnassigned;
use crate::core::placement;
use crate::directory::Directory;
use crate::directory::memory::now_ms;

async fn demo() -> Demo {
    start("127.0.0.1:9901".to_owned()).await.expect("three free ports")
}

/// Sends the bytes of one request, and reads the status and body of its answer.
async fn send(pod: SocketAddr, request: String) -> (u16, String) {
    let mut socket = TcpStream::connect(pod).await.expect("the pod listens");
    socket.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer in UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    (head[9..12].parse().expect("a status"), body.to_owned())
}

async fn get(pod: SocketAddr, target: &str) -> (u16, String) {
    send(pod, format!("GET {target} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n")).await
}

async fn post(pod: SocketAddr, target: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let head = format!("POST {target} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    send(pod, head + body).await
}

async fn get_json(pod: SocketAddr, target: &str) -> Value {
    let (status, body) = get(pod, target).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

#[tokio::test]
async fn any_pod_serves_the_page_where_page_loads_end() {
    let demo = demo().await;
    for (_, pod) in &demo.pods {
        for target in ["/", "/experiment", "/experiment?roomId=room_a&pod=backend-1", "/experiment/room_a"] {
            let (status, body) = get(*pod, target).await;
            assert_eq!((status, body.contains("id=\"room-name\"")), (200, true), "{target}");
        }
    }
    assert_eq!(get(demo.pods[0].1, "/elsewhere").await.0, 404);
    let about = get_json(demo.pods[1].1, "/api/about").await;
    assert_eq!((&about["pod"], &about["admin"]), (&Value::from("backend-1"), &Value::from("127.0.0.1:9901")));
    demo.set_admin("127.0.0.1:4711".parse().expect("an address"));
    assert_eq!(get_json(demo.pods[2].1, "/api/about").await["admin"], "127.0.0.1:4711");
}

#[tokio::test]
async fn a_room_is_counted_per_pod_and_told_what_the_router_said() {
    let demo = demo().await;
    let pod = demo.pods[2].1;
    let first = get_json(pod, "/api/room/room_a/whoami").await;
    assert_eq!(
        first,
        serde_json::json!({
            "pod": "backend-2", "room": "room_a", "epoch": null, "requests": 1, "requestId": null,
        })
    );
    let routed = "GET /api/room/room_a/whoami HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\
                  x-room-epoch: 1634567890123\r\nx-request-id: abc\r\n\r\n";
    let (_, body) = send(pod, routed.to_owned()).await;
    let second: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        second,
        serde_json::json!({
            "pod": "backend-2", "room": "room_a", "epoch": 1_634_567_890_123_u64, "requests": 2, "requestId": "abc",
        })
    );
    assert_eq!(get_json(demo.pods[0].1, "/api/room/room_a/whoami").await["requests"], 1);
    assert_eq!(get(pod, "/api/room/room.a/whoami").await.0, 400);
}

#[tokio::test]
async fn a_move_is_written_to_the_directory_by_whichever_pod_is_asked() {
    let demo = demo().await;
    let room = RoomId::parse("room_a").expect("a room");
    let before = demo.directory.assign(&room, &demo.pods[0].0);
    let (status, body) = post(demo.pods[1].1, "/api/room/room_a/assign?pod=backend-2", "").await;
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    let after = demo.directory.get(&room).expect("assigned");
    assert_eq!((status, after.pod.as_str()), (200, "backend-2"));
    assert!(after.epoch > before.epoch);
    assert_eq!(
        answer,
        serde_json::json!({
            "pod": "backend-1", "room": "room_a", "assigned": "backend-2", "epoch": after.epoch.0,
        })
    );
    for wrong in ["?pod=backend-3", "?pod=", ""] {
        assert_eq!(post(demo.pods[1].1, &format!("/api/room/room_a/assign{wrong}"), "").await.0, 400, "{wrong}");
    }
    let rooms = get_json(demo.pods[0].1, "/api/rooms").await;
    assert_eq!(rooms["rooms"][0], serde_json::json!({ "room": "room_a", "pod": "backend-2", "epoch": after.epoch.0 }));
    let pods = get_json(demo.pods[0].1, "/api/pods").await;
    let counts: Vec<_> = (0..3).map(|n| pods["pods"][n]["rooms"].as_u64()).collect();
    // One of them is the demo's own room, on backend-1 from the start.
    assert_eq!(counts, [Some(0), Some(1), Some(1)]);
}

/// What the router does with `--on-unassigned assign`, with the heartbeats the pods really write: the demo's own room
/// is on backend-1, so the first two to be placed go to the others.
#[tokio::test]
async fn heartbeats_place_the_first_rooms_on_different_pods() {
    let demo = demo().await;
    let limits =
        config(&demo, &DevArgs { listen: any(), admin_listen: any(), log_format: LogFormat::Text }).routing.limits;
    let mut chosen = BTreeSet::new();
    for name in ["room_a", "room_b"] {
        let beats = demo.directory.heartbeats().await.expect("memory");
        let pod = placement::choose(&beats, limits, now_ms(), 0).expect("space").clone();
        demo.directory.assign(&RoomId::parse(name).expect("a room"), &pod);
        let (id, address) = demo.pods.iter().find(|(id, _)| *id == pod).expect("one of the three");
        get_json(*address, &format!("/api/room/{name}/whoami")).await;
        chosen.insert(id.as_str());
    }
    assert_eq!(chosen, BTreeSet::from(["backend-0", "backend-2"]));
}

#[tokio::test]
async fn a_poll_returns_what_was_posted_and_only_where_the_session_is() {
    let demo = demo().await;
    let pod = demo.pods[1].1;
    let target = "/socket.io/?EIO=4&transport=polling&roomId=room_a";
    let (status, body) = get(pod, target).await;
    let open: Value = serde_json::from_str(body.strip_prefix('0').expect("an open packet")).expect("JSON");
    assert_eq!((status, &open["maxPayload"], &open["upgrades"][0]), (200, &1_000_000.into(), &"websocket".into()));
    let target = format!("{target}&sid={}", open["sid"].as_str().expect("a session id"));

    // A poll that waits, and a POST that wakes it.
    let waiting = tokio::spawn({
        let target = target.clone();
        async move { get(pod, &target).await }
    });
    assert_eq!(post(pod, &target, "4hello\u{1e}3\u{1e}4\"you\"").await, (200, "ok".to_owned()));
    let (_, payload) = waiting.await.expect("no panic");
    let echoes: Vec<_> = payload.split('\u{1e}').collect();
    assert_eq!(echoes[0], r#"4{"pod":"backend-1","room":"room_a","text":"hello"}"#);
    assert_eq!(echoes[1..], [r#"4{"pod":"backend-1","room":"room_a","text":"\"you\""}"#]);

    let unknown = (400, r#"{"code":1,"message":"Session ID unknown"}"#.to_owned());
    assert_eq!(get(demo.pods[0].1, &target).await, unknown);
    assert_eq!(post(pod, &target, "1").await.0, 200);
    assert_eq!(get(pod, &target).await, unknown);
}

#[tokio::test]
async fn what_is_no_engine_io_is_refused_with_its_codes() {
    let pod = demo().await.pods[0].1;
    for (target, code) in [
        ("/socket.io/?EIO=4", 0),
        ("/socket.io/?EIO=4&transport=carrier-pigeon", 0),
        ("/socket.io/?EIO=4&transport=polling&sid=x", 1),
        ("/socket.io/?EIO=4&transport=websocket", 3),
        ("/socket.io/?EIO=4&transport=polling&roomId=a%2Fb", 3),
    ] {
        let (status, body) = get(pod, target).await;
        assert!(status == 400 && body.contains(&format!("\"code\":{code},")), "{target}: {status} {body}");
    }
    let (status, body) = post(pod, "/socket.io/?EIO=4&transport=polling", "").await;
    assert!(status == 400 && body.contains("\"code\":2,"), "{body}");
}

#[tokio::test]
async fn a_websocket_echoes_with_the_pods_name_and_counts_while_it_lasts() {
    let demo = demo().await;
    let pod = demo.pods[2].1;
    let participants =
        move || async move { get_json(pod, "/api/pods").await["pods"][2]["heartbeat"]["totalParticipants"].clone() };
    let mut client = tokio::task::spawn_blocking(move || connect(pod)).await.expect("no panic");
    assert_eq!(participants().await, 1);
    let talk = move || {
        for text in ["hello", "", "\u{1f980}", &"x".repeat(60_000)] {
            client.send(Message::text(text)).expect("sent");
            let echo = client.read().expect("an echo").into_text().expect("text");
            let echo: Value = serde_json::from_str(&echo).expect("JSON");
            assert_eq!(echo, serde_json::json!({ "pod": "backend-2", "room": "room_a", "text": text }));
        }
        client.close(None).expect("sent");
        while client.read().is_ok() {}
    };
    tokio::task::spawn_blocking(talk).await.expect("no panic");
    // The pod's end of the socket is closed before its heartbeat says so.
    while participants().await != 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_websocket() {
    let pod = demo().await.pods[0].1;
    let talk = move || {
        let mut client = connect(pod);
        // The pod may close before all of it is sent.
        let _too_much = client.send(Message::text("x".repeat(70_000)));
        assert!(client.read().is_err());
    };
    tokio::task::spawn_blocking(talk).await.expect("no panic");
}

fn connect(pod: SocketAddr) -> tungstenite::WebSocket<std::net::TcpStream> {
    let socket = std::net::TcpStream::connect(pod).expect("the pod listens");
    let url = format!("ws://{pod}/socket.io/?transport=websocket&roomId=room_a");
    tungstenite::client(url, socket).expect("a 101 with the right key").0
}

#[tokio::test]
async fn the_configuration_is_the_contracts_around_the_demo_pods() {
    let demo = demo().await;
    let config = config(&demo, &DevArgs { listen: any(), admin_listen: any(), log_format: LogFormat::Text });
    assert!(matches!(config.directory.kind, DirectoryKind::Memory));
    assert_eq!(config.routing.on_unassigned, OnUnassigned::Assign);
    assert_eq!(config.backends.default_backend().sources.len(), 3);
    for ((id, address), backend) in demo.pods.iter().zip(&config.backends.default_backend().sources) {
        assert_eq!(config.routing.address_of(id).to_string(), address.to_string());
        assert_eq!(backend.to_string(), address.to_string());
    }
    assert_eq!(config.routing.affinity.rules().len(), 2);
    assert!(config.directory.ttl.is_zero(), "a move is seen by the next request");
}

fn any() -> SocketAddr {
    "0.0.0.0:0".parse().expect("an address")
}

#[test]
fn the_urls_can_be_opened() {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let text = urls(address("0.0.0.0:3001"), address("[::]:9901"));
    for url in ["http://127.0.0.1:3001/\n", "http://127.0.0.1:3001/experiment/room_demo", "http://[::1]:9901/status"] {
        assert!(text.contains(url), "{url}: {text}");
    }
    assert!(urls(address("127.0.0.1:1"), address("10.0.0.1:2")).contains("http://10.0.0.1:2/metrics"));
}
