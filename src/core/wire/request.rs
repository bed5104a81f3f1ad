//! A request head as the pod gets it: the client's, without what is for this hop, and with what the router knows.
//!
//! Written straight into bytes: no header map is rebuilt on the way. The room's lines come last and apart, because a
//! further attempt may go to another pod under another epoch.

use std::io::Write as _;

use http::header::{CONNECTION, HOST, MAX_FORWARDS, TE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version};

use super::line;
use crate::core::assignment::Assignment;
use crate::core::forwarded::{self, Client};
use crate::core::head::{Kind, PSEUDONYM, max_forwards};
use crate::core::headers::{self, Named};
use crate::core::room::RoomId;

/// What most heads fit in.
const USUAL_LENGTH: usize = 1024;

/// What the router adds to a request.
#[derive(Debug)]
pub struct Added<'a> {
    /// The ingress or client the request came from, and whether it is believed.
    pub client: &'a Client,
    /// The request's id.
    pub request_id: &'a HeaderValue,
    /// Ordinary exchange or WebSocket handshake.
    pub kind: Kind,
    /// How the body is framed.
    pub framing: Framing,
}

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// By its length.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// A head without its end: [`name_room`] may follow, then [`END`].
pub fn head(head: &Parts, added: &Added<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(USUAL_LENGTH);
    request_line(&mut out, head);
    // RFC 9112 section 3.2.2: an absolute target's authority replaces the `Host` it came with. HTTP/1.1 always has
    // one, empty where an HTTP/1.0 client named none.
    let host = match head.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => head.headers.get(HOST).map_or(&b""[..], HeaderValue::as_bytes),
    };
    line(&mut out, "host", host);
    let named = Named::collect(head.headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes));
    let forwards = if head.method == Method::OPTIONS { max_forwards(&head.headers) } else { None };
    for (name, value) in &head.headers {
        if forwards.is_some() && name == MAX_FORWARDS {
            continue;
        }
        if headers::goes_upstream(name.as_str(), &named, added.client.trusted) {
            line(&mut out, name.as_str(), value.as_bytes());
        }
    }
    forwarded::write(&mut out, &head.headers, added.client, host);
    // RFC 9110 section 7.6.3: a gateway adds itself, with the version it received.
    let received: &[u8] = if head.version == Version::HTTP_10 { b"via: 1.0 " } else { b"via: 1.1 " };
    [received, PSEUDONYM.as_bytes(), END].into_iter().for_each(|part| out.extend_from_slice(part));
    line(&mut out, "x-request-id", added.request_id.as_bytes());
    if let Some(forwards) = forwards {
        // RFC 9110 section 7.6.2. At 0 it is not forwarded at all.
        decimal_line(&mut out, "max-forwards", forwards.saturating_sub(1));
    }
    match added.framing {
        Framing::None => {}
        Framing::Length(length) => decimal_line(&mut out, "content-length", length),
        Framing::Chunked => line(&mut out, "transfer-encoding", b"chunked"),
    }
    if added.kind == Kind::WebSocket {
        line(&mut out, "connection", b"upgrade");
        line(&mut out, "upgrade", b"websocket");
    } else if takes_trailers(&head.headers) {
        // RFC 9110 section 10.1.4: this hop's own word, for what the client's says of the response's trailers.
        line(&mut out, "te", b"trailers");
        line(&mut out, "connection", b"te");
    }
    out
}

/// As hyper reads it, which writes the trailers to the client.
fn takes_trailers(fields: &HeaderMap) -> bool {
    let lines = fields.get_all(TE).iter().map(HeaderValue::as_bytes);
    lines.flat_map(headers::list_elements).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// Names the room, its pod and the epoch to the pod.
pub fn name_room(out: &mut Vec<u8>, room: &RoomId<'_>, assignment: &Assignment) {
    line(out, "x-room-id", room.as_str().as_bytes());
    line(out, "x-room-pod", assignment.pod.as_str().as_bytes());
    decimal_line(out, "x-room-epoch", assignment.epoch.0);
}

/// The end of a head.
pub const END: &[u8] = b"\r\n";

/// What stands before the data of a chunk of `length` bytes; [`END`] stands behind it.
pub fn chunk_start(out: &mut Vec<u8>, length: usize) {
    let _ = write!(out, "{length:x}\r\n"); // a Vec takes everything
}

/// The end of a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The target goes byte for byte as it came, but in origin form (RFC 9112 section 3.2.1), and under the gateway's own
/// version (section 2.3).
fn request_line(out: &mut Vec<u8>, head: &Parts) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    if target.starts_with('?') {
        // `http://host?query` has an empty path, which is written as a slash.
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

fn decimal_line(out: &mut Vec<u8>, name: &str, value: u64) {
    let _ = write!(out, "{name}: {value}\r\n"); // a Vec takes everything
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::assignment::{Epoch, StatefulSet};
    use http::Request;

    fn encoded(target: &str, lines: &[(&str, &str)], kind: Kind, framing: Framing) -> String {
        let mut request = Request::get(target);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).expect("a head").into_parts().0;
        let (client, request_id) = (Client::new([192, 0, 2, 1].into(), &[]), HeaderValue::from_static("id"));
        let added = Added { client: &client, request_id: &request_id, kind, framing };
        String::from_utf8(head(&parts, &added)).expect("text")
    }

    const OURS: &str = "x-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: http\r\nx-forwarded-host: a\r\n";

    #[test]
    fn hop_by_hop_fields_stop_here_and_the_target_is_left_alone() {
        let lines = [
            ("host", "a"),
            ("connection", "close, X-One"),
            ("connection", "x-two,, host, Content-Length"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("x-four", "4"),
            ("x-three", "5"),
            ("content-length", "7"),
            ("keep-alive", "5"),
            ("te", "gzip"),
            ("trailer", "x"),
            ("expect", "100-continue"),
            ("proxy-connection", "x"),
            ("proxy-authorization", "x"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("forwarded", "for=x"),
            ("via", "1.1 first"),
            ("x-room-id", "spoof"),
            ("x-room-pod", "spoof"),
            ("x-room-epoch", "9"),
        ];
        assert_eq!(
            encoded("/a%2Fb//c?x=%20&", &lines, Kind::Http, Framing::Length(7)),
            format!(
                "GET /a%2Fb//c?x=%20& HTTP/1.1\r\nhost: a\r\nx-three: 3\r\nx-three: 5\r\nx-four: 4\r\n\
                 via: 1.1 first\r\n{OURS}via: 1.1 pod-router\r\nx-request-id: id\r\ncontent-length: 7\r\n"
            )
        );
    }

    #[test]
    fn a_handshake_keeps_exactly_its_upgrade() {
        let lines = [
            ("host", "a"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", "x"),
        ];
        let text = encoded("/", &lines, Kind::WebSocket, Framing::None);
        assert!(text.ends_with("\r\nx-request-id: id\r\nconnection: upgrade\r\nupgrade: websocket\r\n"), "{text}");
        assert!(text.contains("sec-websocket-key: x\r\n"));
    }

    #[test]
    fn an_absolute_target_becomes_origin_form_and_names_its_own_host() {
        for (target, line) in [("http://b:81/x?y=%2F", "/x?y=%2F"), ("http://b:81", "/"), ("http://b:81?q", "/?q")] {
            let text = encoded(target, &[("host", "a")], Kind::Http, Framing::None);
            assert!(text.starts_with(&format!("GET {line} HTTP/1.1\r\nhost: b:81\r\n")), "{text}");
            assert_eq!(text.matches("host: ").count(), 2, "its own, and the forwarded one: {text}");
        }
        assert!(encoded("*", &[("host", "a")], Kind::Http, Framing::Chunked).starts_with("GET * HTTP/1.1\r\n"));
    }

    #[test]
    fn what_is_said_hop_by_hop_is_said_anew() {
        let text =
            encoded("/", &[("host", "a"), ("te", "gzip, Trailers"), ("connection", "te")], Kind::Http, Framing::None);
        assert!(text.ends_with("te: trailers\r\nconnection: te\r\n") && text.matches("te: ").count() == 1, "{text}");
        let mut parts = Request::options("/").header("max-forwards", "3").body(()).expect("a head").into_parts().0;
        let (client, request_id) = (Client::new([192, 0, 2, 1].into(), &[]), HeaderValue::from_static("id"));
        let added = Added { client: &client, request_id: &request_id, kind: Kind::Http, framing: Framing::None };
        let text = |parts: &Parts| String::from_utf8(head(parts, &added)).expect("text");
        assert!(text(&parts).contains("\r\nmax-forwards: 2\r\n"));
        parts.method = Method::GET;
        assert!(text(&parts).contains("\r\nmax-forwards: 3\r\n"));
    }

    #[test]
    fn the_room_is_named_with_its_pod_and_epoch() {
        let mut out = Vec::new();
        let room = RoomId::parse("room_a").expect("a room");
        let set = StatefulSet::parse("backend").expect("a name");
        name_room(&mut out, &room, &Assignment { pod: set.nth(1), epoch: Epoch(10) });
        assert_eq!(out, b"x-room-id: room_a\r\nx-room-pod: backend-1\r\nx-room-epoch: 10\r\n");
    }

    #[test]
    fn chunks_are_counted_in_hexadecimal() {
        let mut out = Vec::new();
        chunk_start(&mut out, 31);
        assert_eq!(out, b"1f\r\n");
    }
}
