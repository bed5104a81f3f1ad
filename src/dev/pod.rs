//! A demo pod: a small HTTP server that behaves like a backend of the mission, rooms in memory and all.
//!
//! It counts what it is asked about its rooms, writes its heartbeat and, when told to, a room's assignment to the
//! shared directory, and says in every answer who it is. It does not check that a room is its own: that a wrong
//! pod would answer just as readily is what makes the router's work visible.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderName, Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::MissedTickBehavior;

use super::cluster::{Cluster, Remembered};
use super::engine;
use super::reply::{self, Reply};
use super::sessions::Sessions;
use crate::core::assignment::PodId;
use crate::core::head::{X_REQUEST_ID, X_ROOM_EPOCH};
use crate::core::room::RoomId;

/// Between two heartbeats where nothing changes. The mission's pods beat every 60 s; a demo should look alive.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How long a connection may idle or take over a request head; longer than the router keeps one.
const IDLE: Duration = Duration::from_secs(10);

/// Bytes of a request head: as many as the router lets through, and what it adds.
const MAX_HEAD: usize = 64 * 1024;

const MAX_CONNECTIONS: usize = 1024;
const MAX_WEBSOCKETS: usize = 1024;

/// One demo pod.
#[derive(Debug)]
pub(super) struct Pod {
    id: PodId,
    cluster: Arc<Cluster>,
    /// Requests by room; as many rooms as the cluster remembers, no more.
    requests: Mutex<HashMap<RoomId<'static>, u64>>,
    pub(super) sessions: Sessions,
    websockets: Arc<Semaphore>,
}

// === Serving ===

impl Pod {
    pub(super) fn new(id: PodId, cluster: Arc<Cluster>) -> Self {
        Self {
            id,
            cluster,
            requests: Mutex::default(),
            sessions: Sessions::default(),
            websockets: Arc::new(Semaphore::new(MAX_WEBSOCKETS)),
        }
    }

    /// Serves connections and writes heartbeats, for ever.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay); // tokio's default: a burst to catch up
        loop {
            tokio::select! {
                _ = heartbeat.tick() => {
                    self.sessions.sweep(Instant::now());
                    self.beat();
                }
                (stream, place) = accept(&listener, &places) => {
                    tokio::spawn(Arc::clone(&self).connection(stream, place));
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, place: OwnedSemaphorePermit) {
        let service = service_fn(move |request| {
            let pod = Arc::clone(&self);
            async move { Ok::<_, Infallible>(pod.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE) // 30 s by default
            .max_buf_size(MAX_HEAD) // about 400 KiB by default
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        // It fails where the client went away or sent no HTTP; there is nobody left to tell.
        let _gone = connection.await;
        drop(place);
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        match (request.method(), segments.as_slice()) {
            (&Method::GET | &Method::HEAD, [] | ["experiment", ..]) => reply::page(),
            (&Method::GET, ["api", "about"]) => reply::json(&self.about()),
            (&Method::GET, ["api", "pods"]) => reply::json(&self.pods().await),
            (&Method::GET, ["api", "rooms"]) => reply::json(&self.rooms()),
            (&Method::GET, ["api", "room", room, "whoami"]) => {
                self.for_room(room, |room, requests| self.whoami(room, requests, &request.into_parts().0))
            }
            (&Method::POST, ["api", "room", room, "assign"]) => {
                self.for_room(room, |room, _| self.assign(room, request.uri().query().unwrap_or_default()))
            }
            (_, ["socket.io"]) => engine::answer(&self, request).await,
            _ => reply::refuse(StatusCode::NOT_FOUND, "not-found", "this demo pod has no such page"),
        }
    }
}

/// The next connection and its place among those allowed. An error (too many open files, say) passes: wait, go on.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await.and_then(tune) {
            Ok(stream) => return (stream, place),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A demo's messages are small and answered at once: Nagle's delay would show on the page.
fn tune((stream, _): (TcpStream, std::net::SocketAddr)) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

// === The API ===

impl Pod {
    fn about(&self) -> Value {
        json!({ "pod": self.id.as_str(), "version": env!("CARGO_PKG_VERSION"), "admin": self.cluster.admin() })
    }

    /// The pods: the rooms the directory gives them now, and their last heartbeats, by which the router places rooms.
    async fn pods(&self) -> Value {
        let beats: HashMap<_, _> = self.cluster.heartbeats().await.into_iter().collect();
        let pods = self.cluster.pods.iter().map(
            |pod| json!({ "pod": pod.as_str(), "rooms": self.cluster.rooms_of(pod), "heartbeat": beats.get(pod) }),
        );
        json!({ "pod": self.id.as_str(), "pods": pods.collect::<Vec<_>>() })
    }

    fn rooms(&self) -> Value {
        let rooms = self.cluster.rooms().into_iter().map(|(room, assignment)| {
            json!({ "room": room.as_str(), "pod": assignment.pod.as_str(), "epoch": assignment.epoch.0 })
        });
        json!({ "pod": self.id.as_str(), "rooms": rooms.collect::<Vec<_>>() })
    }

    /// Counts the request and hands the room on, if it is one and there is space for it.
    fn for_room(&self, text: &str, then: impl FnOnce(&RoomId<'_>, u64) -> Reply) -> Reply {
        let Some(room) = RoomId::parse(text) else {
            return reply::refuse(StatusCode::BAD_REQUEST, "bad-room", "a room id is 1 to 128 of [A-Za-z0-9_-]");
        };
        match self.count(&room) {
            Some(requests) => then(&room, requests),
            None => reply::refuse(StatusCode::SERVICE_UNAVAILABLE, "full", "the demo remembers no more rooms"),
        }
    }

    fn whoami(&self, room: &RoomId<'_>, requests: u64, head: &Parts) -> Reply {
        let header = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        reply::json(&json!({
            "pod": self.id.as_str(),
            "room": room.as_str(),
            "epoch": header(X_ROOM_EPOCH).and_then(|epoch| epoch.parse::<u64>().ok()),
            "requests": requests,
            "requestId": header(X_REQUEST_ID),
        }))
    }

    /// Writes a room's assignment, as a backend does. Whichever pod is asked can: the directory is shared.
    fn assign(&self, room: &RoomId<'_>, query: &str) -> Reply {
        let named = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "pod");
        let Some(pod) = named.and_then(|(_, name)| self.cluster.pod(&name)) else {
            return reply::refuse(StatusCode::BAD_REQUEST, "bad-pod", "?pod= has to name one of the demo's pods");
        };
        let assignment = self.cluster.assign(room, pod);
        reply::json(&json!({
            "pod": self.id.as_str(),
            "room": room.as_str(),
            "assigned": assignment.pod.as_str(),
            "epoch": assignment.epoch.0,
        }))
    }
}

// === Its state ===

impl Pod {
    /// Counts a request for a room: how many there were, or `None` where the demo remembers no more rooms.
    pub(super) fn count(&self, room: &RoomId<'_>) -> Option<u64> {
        let remembered = self.cluster.remember(room);
        if remembered == Remembered::Full {
            return None;
        }
        if remembered == Remembered::New {
            // At once, so that the next room is placed with this one counted.
            self.beat();
        }
        let mut requests = self.requests();
        let count = requests.entry(room.clone().into_owned()).or_default();
        *count += 1;
        Some(*count)
    }

    /// A WebSocket's place, unless there are too many. Until it is dropped it counts as a participant.
    pub(super) fn admit_websocket(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.websockets).try_acquire_owned().ok()?;
        self.beat();
        Some(permit)
    }

    /// The echo of a message: what was said, in which room, and who says so.
    pub(super) fn echo(&self, room: Option<&RoomId<'_>>, text: &str) -> String {
        json!({ "pod": self.id.as_str(), "room": room.map(RoomId::as_str), "text": text }).to_string()
    }

    /// Writes the pod's heartbeat.
    pub(super) fn beat(&self) {
        let websockets = MAX_WEBSOCKETS - self.websockets.available_permits();
        let participants = websockets + self.sessions.count();
        self.cluster.beat(&self.id, u64::try_from(participants).unwrap_or(u64::MAX));
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<RoomId<'static>, u64>> {
        // Every update is one insert and one addition: there is no half-done state a panic could have left.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
