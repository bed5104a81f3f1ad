//! `/socket.io/` of a demo pod: Engine.IO's polling as far as a demo needs it, and a plain WebSocket echo.
//!
//! Socket.IO-shaped, not Socket.IO: the handshake, the long polls, the session ids and the errors are Engine.IO's
//! (protocol revision 4), but messages are echoed as they are and the WebSocket speaks plain text. Real Socket.IO
//! servers stand behind the router in its tests.

use std::sync::Arc;
use std::time::Duration;

use http::header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::echo;
use super::pod::Pod;
use super::reply::{self, Reply};
use super::sessions::{MAX_PAYLOAD, PING_INTERVAL, PING_TIMEOUT, SEPARATOR, Session};
use crate::core::head::offers_websocket;
use crate::core::room::RoomId;

/// How long the body of a POST may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The parameters of a request to `/socket.io/`.
#[derive(Debug, Default)]
struct Query {
    transport: String,
    sid: Option<String>,
    room: Option<RoomId<'static>>,
}

/// Answers one request to `/socket.io/`.
pub(super) async fn answer(pod: &Arc<Pod>, request: Request<Incoming>) -> Reply {
    let Some(query) = Query::parse(request.uri()) else {
        return bad_request();
    };
    if let Some(room) = &query.room
        && pod.count(room).is_none()
    {
        return full();
    }
    match (query.transport.as_str(), request.method(), &query.sid) {
        ("websocket", &Method::GET, _) => websocket(pod, query.room, request),
        ("polling", &Method::GET, None) => handshake(pod, query.room),
        ("polling", &Method::GET | &Method::POST, Some(sid)) => match pod.sessions.find(sid) {
            Some(session) if request.method() == Method::GET => reply::payload(session.poll().await),
            Some(session) => receive(pod, sid, &session, request.into_body()).await,
            None => reply::engine_error(1, "Session ID unknown"),
        },
        ("polling", _, None) => reply::engine_error(2, "Bad handshake method"),
        ("polling" | "websocket", _, _) => bad_request(),
        _ => reply::engine_error(0, "Transport unknown"),
    }
}

fn handshake(pod: &Pod, room: Option<RoomId<'static>>) -> Reply {
    let Some(sid) = pod.sessions.open(room) else {
        return full();
    };
    let open = json!({
        "sid": sid,
        "upgrades": ["websocket"],
        "pingInterval": millis(PING_INTERVAL),
        "pingTimeout": millis(PING_TIMEOUT),
        "maxPayload": MAX_PAYLOAD,
    });
    reply::payload(format!("0{open}"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Takes a payload and queues the echo of each message in it.
async fn receive(pod: &Pod, sid: &str, session: &Session, body: Incoming) -> Reply {
    let body = Limited::new(body, MAX_PAYLOAD).collect();
    let text = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => String::from_utf8(body.to_bytes().into()),
        Ok(Err(_)) => return reply::refuse(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "over maxPayload, or cut off"),
        Err(_) => return reply::refuse(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not come"),
    };
    let Ok(text) = text else {
        return bad_request();
    };
    for packet in text.split(SEPARATOR) {
        if packet == "1" {
            pod.sessions.close(sid);
        } else if let Some(message) = packet.strip_prefix('4') {
            let echo = pod.echo(session.room.as_ref(), message);
            if session.push(format!("4{echo}")).is_err() {
                pod.sessions.close(sid);
                return bad_request();
            }
        }
    }
    reply::payload("ok".to_owned())
}

/// Answers a WebSocket handshake (RFC 6455 section 4.2) and spawns the echo behind it.
fn websocket(pod: &Arc<Pod>, room: Option<RoomId<'static>>, mut request: Request<Incoming>) -> Reply {
    let headers = request.headers();
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY).filter(|_| offers_websocket(headers)) else {
        return bad_request();
    };
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut refusal = reply::refuse(StatusCode::UPGRADE_REQUIRED, "upgrade-required", "WebSocket version 13");
        refusal.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return refusal;
    }
    let Some(permit) = pod.admit_websocket() else {
        return full();
    };
    let accept_key = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    // On its own: the connection's task ends with the handshake.
    tokio::spawn(talk(Arc::clone(pod), room, upgrade, permit));
    reply::switch_protocols(&accept_key)
}

/// A WebSocket's life; the permit is its place among the pod's participants.
async fn talk(pod: Arc<Pod>, room: Option<RoomId<'static>>, upgrade: OnUpgrade, permit: OwnedSemaphorePermit) {
    // Either can only fail because the client went away, which ends a demo's echo without ceremony.
    if let Ok(socket) = upgrade.await {
        let _gone = echo::run(TokioIo::new(socket), |text| pod.echo(room.as_ref(), text)).await;
    }
    drop(permit);
    pod.beat();
}

fn bad_request() -> Reply {
    reply::engine_error(3, "Bad request")
}

fn full() -> Reply {
    reply::refuse(StatusCode::SERVICE_UNAVAILABLE, "full", "this demo pod takes no more")
}

impl Query {
    /// The first value of each parameter counts; `None` where `roomId` is no room id.
    fn parse(uri: &Uri) -> Option<Self> {
        let mut query = Self::default();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            match name.as_ref() {
                "transport" => query.transport = value.into_owned(),
                "sid" => query.sid = Some(value.into_owned()),
                "roomId" => query.room = Some(RoomId::parse(value)?.into_owned()),
                _ => {}
            }
        }
        Some(query)
    }
}
