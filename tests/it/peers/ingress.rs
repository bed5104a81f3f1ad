//! Debian's nginx and HAProxy in front of the router, configured as operators do it.
//!
//! Each has two listeners: one leads to the pod through the router, the other straight to the pod. So the two ways
//! differ by the router and nothing else.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;

use super::contract::{self, Way};
use super::{Behind, servers, streams};
use crate::support::{Process, eventually, free_addr};

/// Where the clients are: not where the ingress is, so that its word can be told from its address.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9));

/// What somebody wrote into `X-Forwarded-For` who is no proxy.
const SPOOFED: &str = "203.0.113.66";

/// An ingress of Debian's, with a router and a pod behind it.
pub(super) struct Ingress {
    // Declared, and so dropped, before what it talks to.
    _process: Process,
    routed: SocketAddr,
    straight: SocketAddr,
    folder: PathBuf,
    behind: Behind,
}

impl Ingress {
    /// nginx, in front of a pod from `tests/node` or `tests/python`.
    pub(super) fn nginx(pod: &str) -> Self {
        Self::start(pod, "nginx", include_str!("nginx.conf"), "/usr/sbin/nginx", &["-e", "stderr", "-c"])
    }

    fn haproxy(pod: &str) -> Self {
        Self::start(pod, "haproxy", include_str!("haproxy.cfg"), "/usr/sbin/haproxy", &["-db", "-f"])
    }

    #[track_caller]
    fn start(pod: &str, name: &'static str, config: &str, program: &str, args: &[&str]) -> Self {
        let behind = Behind::start(pod);
        let (routed, straight) = (free_addr(), free_addr());
        let folder = std::env::temp_dir().join(format!("pod-router-{name}-{routed}"));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let values = [
            ("@DIR@", folder.to_str().expect("a path in UTF-8").to_owned()),
            ("@ROUTED@", routed.to_string()),
            ("@STRAIGHT@", straight.to_string()),
            ("@ROUTER@", behind.router.addr().to_string()),
            ("@POD@", behind.pod.addr().to_string()),
        ];
        let config = values.iter().fold(config.to_owned(), |config, (name, value)| config.replace(name, value));
        let file = folder.join("config");
        fs::write(&file, config).expect("the temporary folder is writable");
        let mut process = Process::start(name, program, |command| {
            command.args(args).arg(&file).stderr(std::process::Stdio::inherit());
        });
        eventually("the ingress listens", || {
            assert!(process.try_wait().is_none(), "{name} has ended");
            TcpStream::connect(straight).is_ok() && TcpStream::connect(routed).is_ok()
        });
        Self { _process: process, routed, straight, folder, behind }
    }

    /// The listener that leads through the router.
    pub(super) fn routed(&self) -> SocketAddr {
        self.routed
    }

    pub(super) fn behind(&self) -> &Behind {
        &self.behind
    }

    fn ways(&self) -> [Way; 2] {
        [self.straight, self.routed].map(|to| Way { from: CLIENT, to })
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        // What is left there harms nobody.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// All that HTTP has, with the router between ingress and pod as without it.
#[track_caller]
fn http(ingress: &Ingress) {
    let [straight, routed] = ingress.ways();
    let exchanges = contract::expect_alike(straight, routed);
    contract::expect_told_alike(straight, routed);
    streams::expect_events_one_by_one(routed);
    streams::expect_abort_to_arrive(routed);
    eprintln!("peers: {exchanges} exchanges alike behind the ingress");
}

/// The pod and the log learn who the client is, from the ingress, and not from the client.
#[track_caller]
fn client_is_known(ingress: &Ingress) {
    let [_, routed] = ingress.ways();
    let lines = format!("X-Forwarded-For: {SPOOFED}\r\nX-Forwarded-Proto: gopher\r\nX-Room-Id: room_b\r\n");
    let fields = contract::fields_at_the_pod(routed, &lines);
    let field = |name: &str| {
        let values = fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str());
        values.collect::<Vec<_>>().join(" | ")
    };
    assert_eq!(field("x-forwarded-for"), format!("{SPOOFED}, {CLIENT}, 127.0.0.1"));
    assert_eq!(field("x-forwarded-proto"), "http");
    assert_eq!(field("x-forwarded-host"), "app.example");
    assert_eq!((field("host"), field("x-room-id")), ("app.example".to_owned(), super::ROOM.to_owned()));
    assert_eq!(field("x-room-pod"), "backend-0");
    let line = ingress.behind.router.access_line(&field("x-request-id"));
    assert_eq!(line["client"], CLIENT.to_string(), "{line}");
}

/// Many clients, one after another: the ingress keeps its connection to the router.
#[track_caller]
fn connection_is_kept(ingress: &Ingress) {
    let [_, routed] = ingress.ways();
    let connections = || ingress.behind.router.metric("pod_router_downstream_connections", &[]);
    routed.client().get("/live/room_a/nothing");
    let first = connections();
    for _ in 0..20 {
        assert_eq!(routed.client().get("/live/room_a/nothing").status(), 204);
        let response =
            routed.client().request("POST /live/room_a/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!((response.status(), response.text().as_str()), (200, "hi"));
    }
    // Fewer, where one of a test before has ended meanwhile.
    assert!(connections() < first + 0.5, "{} connections instead of {first}", connections());
}

fn ws(ingress: &Ingress) -> String {
    format!("ws://{}/live/room_a/ws", ingress.routed())
}

#[test]
fn http_behind_nginx_is_as_it_is_without_the_router() {
    let ingress = Ingress::nginx("httppod.mjs");
    http(&ingress);
    client_is_known(&ingress);
    connection_is_kept(&ingress);
}

#[test]
fn http_behind_haproxy_is_as_it_is_without_the_router() {
    let ingress = Ingress::haproxy("httppod.mjs");
    http(&ingress);
    client_is_known(&ingress);
    connection_is_kept(&ingress);
}

/// nginx as it is told to pass request bodies on while they come: they arrive so at the pod.
#[test]
fn an_upload_streams_through_nginx() {
    let ingress = Ingress::nginx("httppod.mjs");
    let [_, routed] = ingress.ways();
    let mut client = routed.client();
    client
        .send("POST /live/room_a/streamed/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    // The first chunk has to reach the pod for the connection to be open there.
    let busy = &[("pod", "backend-0")];
    ingress.behind.router.wait_metric("pod_router_upstream_connections", busy, 1.0);
    client.send("4\r\ndefg\r\n0\r\n\r\n");
    let response = client.read_response();
    assert_eq!((response.status(), response.text().as_str()), (200, "abcdefg"));
    assert_eq!(response.head.value("x-framing"), Some("chunked"));
}

#[test]
fn websockets_pass_nginx_and_the_router() {
    servers::websocket(&ws(&Ingress::nginx("httppod.mjs")));
}

#[test]
fn websockets_pass_haproxy_and_the_router() {
    servers::websocket(&ws(&Ingress::haproxy("websockets_pod.py")));
}

#[test]
fn socketio_keeps_its_sessions_behind_nginx() {
    servers::socketio(Ingress::nginx("pod.mjs").routed());
}

#[test]
fn socketio_keeps_its_sessions_behind_haproxy() {
    servers::socketio(Ingress::haproxy("asgi_pod.py").routed());
}
