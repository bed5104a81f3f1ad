//! What pods commonly do with a connection. Anything else is a closure in the test that needs it.

use std::io;

use serde_json::json;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::pod::Conn;
use super::wire::Head;

/// The longest body that [`echo`] returns, in bytes.
const ECHO_MOST: usize = 4096;

/// Answers each request with a JSON of what arrived: the pod's name, the head as it came, the body's length,
/// and the body itself if it is short text.
pub(crate) fn echo(mut conn: Conn) -> io::Result<()> {
    loop {
        let head = conn.request()?;
        let (mut len, mut body) = (0, Vec::new());
        conn.read_body(&head, |piece| {
            len += piece.len();
            if len <= ECHO_MOST {
                body.extend_from_slice(piece);
            }
        })?;
        let body = if len <= ECHO_MOST { String::from_utf8(body).ok() } else { None };
        let seen = json!({"pod": conn.pod_name(), "head": head.text(), "bodyLength": len, "body": body}).to_string();
        let content = if head.start_line().starts_with("HEAD ") { "" } else { &seen };
        conn.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Pod: {}\r\nContent-Length: {}\r\n\r\n{content}",
            conn.pod_name(),
            seen.len(),
        ))?;
    }
}

/// Answers each request with these bytes, once its body has been read.
pub(crate) fn answer(bytes: impl AsRef<[u8]>) -> impl Fn(Conn) -> io::Result<()> {
    move |mut conn| {
        loop {
            conn.whole_request()?;
            conn.send(&bytes)?;
        }
    }
}

/// Answers one request with these bytes and closes. Unless they say so (or end with the connection, or are no
/// valid answer), the next request has to wait for the close: sent before it is seen, it would be lost.
pub(crate) fn answer_and_close(bytes: impl AsRef<[u8]>) -> impl Fn(Conn) -> io::Result<()> {
    move |mut conn| {
        conn.whole_request()?;
        conn.send(&bytes)
    }
}

/// Takes a request and never answers; notices when the router gives up.
pub(crate) fn silence(mut conn: Conn) -> io::Result<()> {
    conn.request()?;
    conn.until_closed()
}

/// Accepts a WebSocket and sends every byte back, until the router's half is closed.
pub(crate) fn websocket_echo(mut conn: Conn) -> io::Result<()> {
    accept_websocket(&mut conn)?;
    loop {
        let bytes = conn.wire().read_some()?;
        if bytes.is_empty() {
            return Ok(());
        }
        conn.send(bytes)?;
    }
}

/// Takes a handshake and answers it with 101.
pub(crate) fn accept_websocket(conn: &mut Conn) -> io::Result<Head> {
    let head = conn.request()?;
    conn.send(switching_protocols(&head))?;
    Ok(head)
}

/// The 101 that accepts this handshake (RFC 6455 section 4.2.2).
pub(crate) fn switching_protocols(handshake: &Head) -> String {
    let key = handshake.value("sec-websocket-key").unwrap_or_default();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes()),
    )
}
