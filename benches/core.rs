//! What the parts of a request cost, and what a whole one does, with allocation counts: `cargo bench --bench core`.
//!
//! The pure parts are called as they are. Under `request`, a whole router serves a client on a kept connection: server,
//! proxy, pod and client share one thread, so that every allocation of a request is counted (pod and client make none).

use std::ffi::OsString;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use divan::{AllocProfiler, Bencher, black_box};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request};
use pod_router::app;
use pod_router::backends::Backends;
use pod_router::config::{self, Command, Config};
use pod_router::core::assignment::{Answer, Assignment, Epoch, Heartbeat, PodId, Resolution, StatefulSet};
use pod_router::core::decision::{self, OnUnassigned};
use pod_router::core::forwarded::Client;
use pod_router::core::head::{self, Kind};
use pod_router::core::placement::{self, Limits};
use pod_router::core::room::RoomId;
use pod_router::core::wire::request::{self, Added, Framing};
use pod_router::core::wire::{Decoder, response};
use pod_router::directory::memory::{MemoryDirectory, now_ms};
use pod_router::directory::resolver::Resolver;
use pod_router::dns::Dns;
use pod_router::drain::{Roster, Signal};
use pod_router::limits;
use pod_router::metrics::Metrics;
use pod_router::proxy::{Commons, Proxy, Queues, Reach};
use pod_router::server::{self, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalRuntime;

#[global_allocator]
static ALLOCATOR: AllocProfiler<mimalloc::MiMalloc> = AllocProfiler::new(mimalloc::MiMalloc);

fn main() {
    divan::main();
}

// === the pure parts ===

/// A request as a browser sends it through an ingress.
fn parts(target: &str) -> Parts {
    let request = Request::get(target)
        .header("host", "app.example.org")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
        .header("accept", "*/*")
        .header("accept-encoding", "gzip, deflate, br")
        .header("referer", "https://app.example.org/experiment?roomId=room_a8Xk2")
        .header("cookie", "session=9f8e7d6c5b4a39281706f5e4d3c2b1a0")
        .header("x-forwarded-for", "203.0.113.9")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "app.example.org");
    request.body(()).expect("a valid head").into_parts().0
}

fn settings(more: &[String]) -> Config {
    let words = ["pod-router", "serve", "--directory=memory"].into_iter().map(OsString::from);
    match config::parse(words.chain(more.iter().map(OsString::from)), [], false) {
        Ok(Command::Serve(config)) => *config,
        other => unreachable!("valid settings: {other:?}"),
    }
}

fn room(id: &'static str) -> RoomId<'static> {
    RoomId::parse(id).expect("a room id")
}

fn assignment() -> Assignment {
    let set = StatefulSet::parse("backend").expect("a name");
    Assignment { pod: set.nth(1), epoch: Epoch(1_634_567_890_123) }
}

const TARGETS: [&str; 3] = [
    "/api/room/room_a8Xk2/state",
    "/socket.io/?EIO=4&transport=polling&t=PqX&sid=abc&roomId=room_a8Xk2",
    "/api/health",
];

#[divan::bench(args = TARGETS)]
fn extract_room(bencher: Bencher<'_, '_>, target: &str) {
    let (config, head) = (settings(&[]), parts(target));
    bencher.bench_local(|| black_box(config.routing.affinity.room(black_box(&head))).is_ok());
}

#[divan::bench]
fn inspect_head(bencher: Bencher<'_, '_>) {
    let head = parts(TARGETS[0]);
    bencher.bench_local(|| head::inspect(black_box(&head)));
}

#[divan::bench]
fn decide(bencher: Bencher<'_, '_>) {
    let known = Resolution::Fresh(Answer::Assigned(assignment()));
    bencher.bench_local(|| decision::plan(false, black_box(&known).clone(), OnUnassigned::DefaultBackend));
}

#[divan::bench]
fn cache_hit(bencher: Bencher<'_, '_>) {
    let runtime = app::local_runtime().expect("a runtime");
    runtime.block_on(async {
        let directory = MemoryDirectory::default();
        directory.assign(&room("room_a8Xk2"), &assignment().pod);
        let resolver = Resolver::new(directory, settings(&["--cache-ttl=1h".to_owned()]).directory, Arc::default());
        resolver.resolve(&room("room_a8Xk2"), Instant::now(), None).await;
        let now = Instant::now();
        bencher.bench_local(|| {
            let room = RoomId::parse(black_box("room_a8Xk2"))?;
            // A hit never waits: one poll is all it takes.
            let mut resolved = std::pin::pin!(resolver.resolve(&room, now, None));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            Some(resolved.as_mut().poll(&mut cx).is_ready())
        });
    });
}

#[divan::bench]
fn rewrite_request_head(bencher: Bencher<'_, '_>) {
    let head = parts(TARGETS[0]);
    let client = Client::new([10, 0, 0, 9].into(), &["10.0.0.0/8".parse().expect("a network")]);
    let (request_id, room, assignment) = (HeaderValue::from_static("0f1e2d3c"), room("room_a8Xk2"), assignment());
    bencher.bench_local(|| {
        let added = Added { client: &client, request_id: &request_id, kind: Kind::Http, framing: Framing::None };
        let mut bytes = request::head(black_box(&head), &added);
        request::name_room(&mut bytes, &room, &assignment);
        bytes
    });
}

#[divan::bench]
fn parse_response_head(bencher: Bencher<'_, '_>) {
    let received = Bytes::from_static(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 12\r\n\
          ETag: W/\"c-Lve95gjOVATpfV8EL5X4nxwjKHE\"\r\nDate: Sat, 21 Nov 2026 06:00:00 GMT\r\n\
          Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n",
    );
    let mut map = HeaderMap::with_capacity(16);
    bencher.bench_local(|| {
        let parsed = response::parse(black_box(&received), &Method::GET, &mut map);
        map.clear();
        parsed
    });
}

#[divan::bench]
fn decode_chunk(bencher: Bencher<'_, '_>) {
    let wire = Bytes::from_static(b"1c\r\n42[\"message\",{\"text\":\"hi\"}]\r\n0\r\n\r\n");
    bencher.bench_local(|| {
        let (mut decoder, mut received) = (Decoder::chunked(), black_box(&wire).clone());
        while let Ok(Some(part)) = decoder.decode(&mut received) {
            black_box(part);
        }
    });
}

#[divan::bench(args = [10, 100, 1000])]
fn place_room(bencher: Bencher<'_, '_>, pods: u16) {
    let set = StatefulSet::parse("backend").expect("a name");
    let now = now_ms();
    let beat = |n: u16| Heartbeat {
        active_rooms: u64::from(n * 7 % 20),
        total_participants: u64::from(n * 13 % 80),
        last_update: now,
    };
    let pods: Vec<(PodId, Heartbeat)> = (0..pods).map(|n| (set.nth(n), beat(n))).collect();
    let limits = Limits { rooms: 20, participants: 80 };
    bencher.bench_local(|| placement::choose(black_box(&pods), limits, now, 7).cloned());
}

// === whole requests ===

/// A router, a pod that always answers the same, and a client on a kept connection: all on this thread.
struct Stage {
    runtime: LocalRuntime,
    client: TcpStream,
    directory: MemoryDirectory,
    buffer: Box<[u8]>,
}

/// Answers every request on the connection with `answer`.
async fn pod(listener: TcpListener, answer: &'static [u8]) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::task::spawn_local(async move {
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Starts a router in front of `pod`; the address it listens on.
async fn router(pod: SocketAddr, directory: MemoryDirectory) -> SocketAddr {
    let config = Arc::new(settings(&[format!("--pod=backend-1={pod}"), "--cache-ttl=1h".to_owned()]));
    let (metrics, roster) = (Arc::new(Metrics::new()), Roster::new());
    let resolver = Resolver::new(directory, config.directory.clone(), Arc::clone(&metrics));
    let backends = Arc::new(Backends::new(Arc::clone(&config), Arc::clone(&metrics)));
    let clients = limits::Places::new(16);
    let commons = Commons {
        dns: Dns::default(),
        backends,
        queues: Queues::default(),
        reach: Reach::default(),
        limits: limits::Limits::default(),
        clients: Arc::clone(&clients),
        files: limits::Files::default(),
        metrics: Arc::clone(&metrics),
    };
    let proxy = Proxy::new(Arc::clone(&config), resolver, commons, Rc::clone(&roster));
    let listener = server::listen(([127, 0, 0, 1], 0).into(), false, Duration::from_secs(60)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = Server::new(proxy, roster, &config.downstream, clients, None, metrics);
    tokio::task::spawn_local(async move {
        let signal = Signal::new();
        let listener = TcpListener::from_std(listener).expect("non-blocking");
        server.run(listener, signal.watch(), &config.drain).await;
        drop(signal);
    });
    address
}

impl Stage {
    fn new(answer: &'static [u8]) -> Self {
        let runtime = app::local_runtime().expect("a runtime");
        let directory = MemoryDirectory::default();
        directory.assign(&room("room_a8Xk2"), &assignment().pod);
        let known = directory.clone();
        let client = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            tokio::task::spawn_local(pod(listener, answer));
            TcpStream::connect(router(address, known).await).await.expect("it listens")
        });
        Self { runtime, client, directory, buffer: vec![0; 128 * 1024].into() }
    }

    /// Sends the request and reads its answer, which ends in `end`.
    fn exchange(&mut self, request: &[u8], end: &[u8]) {
        let Self { runtime, client, buffer, .. } = self;
        runtime.block_on(async {
            client.write_all(request).await.expect("the router takes it");
            let mut filled = 0;
            while !buffer[..filled].ends_with(end) {
                let read = client.read(&mut buffer[filled..]).await.expect("the router answers");
                assert!(read > 0, "the router closed the connection");
                filled += read;
            }
        });
    }
}

/// RFC 6455's own example (section 1.3).
const HANDSHAKE: &[u8] = b"GET /socket.io/?EIO=4&transport=websocket&roomId=room_a8Xk2 HTTP/1.1\r\nHost: bench\r\n\
    Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"ok\":true}\n";

#[divan::bench]
fn request_http(bencher: Bencher<'_, '_>) {
    let mut stage = Stage::new(ANSWER);
    let request = b"GET /api/room/room_a8Xk2/state HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\n\r\n";
    bencher.bench_local(|| stage.exchange(request, b"{\"ok\":true}\n"));
}

/// A room that is looked up, in a directory that answers at once: all of a cold room's cost but for Redis and its client.
#[divan::bench]
fn request_cold_room(bencher: Bencher<'_, '_>) {
    let mut stage = Stage::new(ANSWER);
    let (directory, mut next) = (stage.directory.clone(), 0);
    let new_room = || {
        next += 1;
        let id = format!("room_{next:08}");
        directory.assign(&RoomId::parse(&id).expect("a room id"), &assignment().pod);
        format!("GET /api/room/{id}/state HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\n\r\n")
    };
    bencher.with_inputs(new_room).bench_local_refs(|request| stage.exchange(request.as_bytes(), b"{\"ok\":true}\n"));
}

#[divan::bench]
fn request_redirect(bencher: Bencher<'_, '_>) {
    let mut stage = Stage::new(ANSWER);
    let request = b"GET /experiment/room_a8Xk2 HTTP/1.1\r\nHost: bench\r\nAccept: text/html\r\n\r\n";
    bencher.bench_local(|| stage.exchange(request, b"\r\n\r\n"));
}

/// A message and its answer, which is the pod's handshake once more: a tunnel does not look.
#[divan::bench]
fn relay_two_messages(bencher: Bencher<'_, '_>) {
    let mut stage = Stage::new(SWITCHED);
    stage.exchange(HANDSHAKE, b"\r\n\r\n");
    bencher.bench_local(|| stage.exchange(b"\x82\x84\0\0\0\0ping", b"\r\n\r\n"));
}
