//! The demo pods' answers: every one whole, small and never stored by a cache.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

/// A pod's answer.
pub(super) type Reply = Response<Full<Bytes>>;

const PAGE: &str = include_str!("page.html");

/// The page.
pub(super) fn page() -> Reply {
    reply(StatusCode::OK, "text/html; charset=utf-8", Bytes::from_static(PAGE.as_bytes()))
}

/// 200 with JSON.
pub(super) fn json(value: &Value) -> Reply {
    with_json(StatusCode::OK, value)
}

/// 200 with an Engine.IO payload.
pub(super) fn payload(text: String) -> Reply {
    reply(StatusCode::OK, "text/plain; charset=UTF-8", text.into())
}

/// A refusal, in the same form as the router's own.
pub(super) fn refuse(status: StatusCode, error: &str, message: &str) -> Reply {
    with_json(status, &json!({ "error": error, "message": message }))
}

/// 400 with one of Engine.IO's own error codes.
pub(super) fn engine_error(code: u8, message: &str) -> Reply {
    with_json(StatusCode::BAD_REQUEST, &json!({ "code": code, "message": message }))
}

/// The 101 of a WebSocket handshake: no body, and nothing to store.
pub(super) fn switch_protocols(accept_key: &str) -> Reply {
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(http::header::CONNECTION, "Upgrade")
        .header(http::header::UPGRADE, "websocket")
        .header(http::header::SEC_WEBSOCKET_ACCEPT, accept_key)
        .body(Full::default())
        .expect("a base64 key is a header value")
}

fn with_json(status: StatusCode, value: &Value) -> Reply {
    reply(status, "application/json", value.to_string().into())
}

fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}
