//! Real Socket.IO 4.8: three Node pods with the Redis adapter, and real clients, through the router.
//!
//! The programs are in `tests/node`. A client counts a broadcast or an acknowledgement that names another pod than its
//! room's as misrouted; the pods say which rooms they have handled events of, so that a split would show on either side.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};

use serde_json::Value;

use crate::support::{Client, RealPod, Redis, Router, errors, finish, node};

/// Clients and pods give up by themselves after this many seconds: the machine may be busy.
const DEADLINE: &str = "120";

/// A Socket.IO server with the Redis adapter.
const SOCKET_IO: &str = "pod.mjs";

/// The rooms this pod has handled events of.
fn rooms_of(pod: &RealPod) -> BTreeSet<String> {
    let mut client = Client::connect(pod.addr());
    client.send("GET /_stats HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let stats: Value = serde_json::from_str(&client.read_response().text()).expect("the pod's statistics are JSON");
    stats["rooms"].as_object().expect("rooms by name").keys().cloned().collect()
}

fn start_pod(program: &str, name: &str, port: u16, redis: &Redis) -> RealPod {
    let (port, url) = (port.to_string(), redis.url());
    let mut args = vec!["--port", &port];
    if program == SOCKET_IO {
        args.extend(["--redis", &url]);
    }
    RealPod::start(program, name, &args)
}

/// Redis, three pods, and a router in front of them.
struct Cluster {
    router: Router,
    pods: Vec<RealPod>,
    redis: Redis,
}

impl Cluster {
    fn start(program: &str) -> Self {
        let redis = Redis::start();
        let pods: Vec<_> = (0..3).map(|n| start_pod(program, &format!("backend-{n}"), 0, &redis)).collect();
        let mut builder = Router::builder().redis(&redis);
        for pod in &pods {
            builder = builder.arg("--pod", pod.flag());
        }
        let any = pods.iter().map(|pod| pod.addr().to_string()).collect::<Vec<_>>().join(",");
        let router = builder.arg("--default-backend", any).start_ready();
        Self { router, pods, redis }
    }

    /// Gives `count` rooms to the pods in turn; the assignments as the clients' expectation.
    fn assign(&self, prefix: &str, count: usize) -> BTreeMap<String, String> {
        let assign = |number| {
            let (room, pod) = (format!("room_{prefix}{number}"), number % self.pods.len());
            self.redis.assign(&room, pod);
            (room, self.pods[pod].name.clone())
        };
        (0..count).map(assign).collect()
    }

    /// Runs 50 rooms of 4 over `transport`; prints and returns the clients' figures.
    fn run_rooms(&self, transport: &str) -> Value {
        let expected = self.assign(transport, 50);
        let file = std::env::temp_dir().join(format!("pod-router-{}-{transport}.json", self.router.addr().port()));
        fs::write(&file, serde_json::to_vec(&expected).expect("strings serialise"))
            .expect("the temporary folder is writable");
        let url = format!("http://{}", self.router.addr());
        let path = file.to_str().expect("a path of ours");
        let figures = finish(node(
            "the Socket.IO clients",
            &[
                "rooms.mjs",
                "--url",
                &url,
                "--transport",
                transport,
                "--rooms",
                "50",
                "--participants",
                "4",
                "--messages",
                "10",
                "--expect",
                path,
                "--deadline",
                DEADLINE,
            ],
        ));
        fs::remove_file(&file).expect("written above");
        eprintln!("socket.io {transport}: {figures}");
        figures
    }

    fn expect_unsplit(&self) {
        let mut seen = BTreeMap::new();
        for pod in &self.pods {
            for room in rooms_of(pod) {
                let other = seen.insert(room.clone(), &pod.name);
                assert_eq!(other, None, "{room} was handled by {} too", pod.name);
            }
        }
        assert_eq!(seen.len(), 50);
    }
}

fn every_event_is_handled_by_the_rooms_pod(transport: &str) {
    let cluster = Cluster::start(SOCKET_IO);
    let figures = cluster.run_rooms(transport);
    // 50 rooms, 4 participants, 10 messages: text, binary and a broadcast each.
    let counted = ["events", "acks", "binary", "broadcasts", "misrouted", "lost", "duplicated", "reconnects"];
    assert_eq!(counted.map(|name| figures[name].as_u64()), [6000, 4000, 2000, 8000, 0, 0, 0, 0].map(Some));
    cluster.expect_unsplit();
}

#[test]
fn polling_only() {
    every_event_is_handled_by_the_rooms_pod("polling");
}

#[test]
fn websocket_only() {
    every_event_is_handled_by_the_rooms_pod("websocket");
}

#[test]
fn polling_and_then_the_upgrade() {
    every_event_is_handled_by_the_rooms_pod("upgrade");
}

#[test]
fn clients_come_back_to_their_pod_after_it_has_restarted() {
    for transport in ["polling", "websocket"] {
        let mut cluster = Cluster::start(SOCKET_IO);
        cluster.redis.assign("room_back", 1);
        let url = format!("http://{}", cluster.router.addr());
        let mut clients = node(
            "the Socket.IO clients",
            &[
                "reconnect.mjs",
                "--url",
                &url,
                "--room",
                "room_back",
                "--transport",
                transport,
                "--expect",
                "backend-1",
                "--deadline",
                DEADLINE,
            ],
        );
        let mut lines = BufReader::new(clients.take_stdout()).lines().map(|line| line.expect("the output can be read"));
        let connected: Value = serde_json::from_str(&lines.next().unwrap_or_default()).expect("a line of JSON");
        assert_eq!((connected["connected"].as_u64(), connected["pod"].as_str()), (Some(4), Some("backend-1")));

        let port = cluster.pods[1].addr().port();
        cluster.pods[1].process.signal("KILL");
        cluster.pods[1].process.wait_exit();
        cluster.pods[1] = start_pod(SOCKET_IO, "backend-1", port, &cluster.redis);

        let back: Value = serde_json::from_str(&lines.next().unwrap_or_default()).expect("a line of JSON");
        assert_eq!((back["reconnected"].as_u64(), back["pod"].as_str()), (Some(4), Some("backend-1")), "{transport}");
        assert!(clients.wait_exit().success(), "{}", errors(&mut clients));
    }
}

/// `ws` on both ends: text, binary, fragments, pings, subprotocols and close codes of either side.
#[test]
fn plain_websocket_clients_see_no_router() {
    let cluster = Cluster::start("wspod.mjs");
    cluster.redis.assign("room_plain", 2);
    let url = format!("ws://{}/live/room_plain", cluster.router.addr());
    for variant in [
        &["--clients", "20", "--size", "1000"][..],
        &["--clients", "20", "--size", "1000", "--deflate"],
        &["--clients", "2", "--messages", "3", "--size", "5000000"],
    ] {
        let mut args = vec!["ws.mjs", "--url", &url, "--expect", "backend-2", "--deadline", DEADLINE];
        args.extend(variant);
        let figures = finish(node("the ws clients", &args));
        assert_eq!((figures["misrouted"].as_u64(), figures["failed"].as_u64()), (Some(0), Some(0)), "{figures}");
    }
}
