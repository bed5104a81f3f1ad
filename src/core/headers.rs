//! Rewrites heads on their way through: what is for this hop goes, what the router knows is added.
//!
//! Everything not named here passes unchanged and in order (RFC 9110 sections 5.1 and 5.3).

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version, request, response};

use super::assignment::Assignment;
use super::forwarded::{self, Client};
use super::head::{Kind, X_REQUEST_ID, X_ROOM_EPOCH, X_ROOM_ID, X_ROOM_POD, connection_options, to_origin_form};
use super::room::RoomId;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE_OPTION: HeaderValue = HeaderValue::from_static("upgrade");
const OUR_VIA: &str = "1.1 pod-router";

/// What the router adds to a request.
#[derive(Debug)]
pub struct Added<'a> {
    /// The ingress or client the request came from, and whether it is believed.
    pub client: Client,
    /// The request's id.
    pub request_id: &'a HeaderValue,
    /// Ordinary exchange or WebSocket handshake.
    pub kind: Kind,
}

/// Turns a downstream request head into the one the pod gets. The target stays byte for byte.
pub fn to_upstream(head: &mut request::Parts, added: &Added<'_>) {
    // Absolute form first: the Host it yields is the one to forward.
    to_origin_form(head);
    strip_hop_by_hop(&mut head.headers);
    // The router itself answers `Expect: 100-continue` when the pod's connection takes the body (RFC 9110
    // section 10.1.1); TE and trailers are this hop's (sections 10.1.4 and 6.5).
    for name in [EXPECT, TE, TRAILER, TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    forwarded::rewrite(&mut head.headers, &added.client);
    add_via(&mut head.headers, head.version);
    if !head.headers.contains_key(HOST) {
        // RFC 9112 section 3.2: HTTP/1.1 has a Host, empty where an HTTP/1.0 client named none.
        head.headers.insert(HOST, HeaderValue::from_static(""));
    }
    head.headers.insert(X_REQUEST_ID, added.request_id.clone());
    unname_room(&mut head.headers);
    if added.kind == Kind::WebSocket {
        head.headers.insert(CONNECTION, UPGRADE_OPTION);
        head.headers.insert(UPGRADE, WEBSOCKET);
    }
    // RFC 9112 section 2.3: a gateway sends its own version.
    head.version = Version::HTTP_11;
}

/// Names the room, its pod and the epoch to the pod, replacing what an earlier attempt said.
pub fn name_room(headers: &mut HeaderMap, room: &RoomId<'_>, assignment: &Assignment) {
    let value = |text: &str| HeaderValue::from_str(text).expect("room and pod ids are header-safe");
    headers.insert(X_ROOM_ID, value(room.as_str()));
    headers.insert(X_ROOM_POD, value(assignment.pod.as_str()));
    headers.insert(X_ROOM_EPOCH, HeaderValue::from(assignment.epoch.0));
}

/// Removes what a client, or an earlier attempt, said of the room.
pub fn unname_room(headers: &mut HeaderMap) {
    for name in [X_ROOM_ID, X_ROOM_POD, X_ROOM_EPOCH] {
        headers.remove(name);
    }
}

/// Turns a pod's response head into the one the client gets.
pub fn to_downstream(head: &mut response::Parts, request_id: &HeaderValue) {
    // RFC 9112 section 6.3: Transfer-Encoding overrides Content-Length, which must not survive it.
    if head.headers.contains_key(TRANSFER_ENCODING) {
        head.headers.remove(CONTENT_LENGTH);
    }
    one_content_length(&mut head.headers);
    strip_hop_by_hop(&mut head.headers);
    head.headers.remove(TRANSFER_ENCODING);
    head.headers.insert(X_REQUEST_ID, request_id.clone());
    head.version = Version::HTTP_11;
}

/// The head of the 101 that starts a tunnel.
pub fn switch_protocols(head: &mut response::Parts, request_id: &HeaderValue) {
    to_downstream(head, request_id);
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONNECTION, UPGRADE_OPTION);
    head.headers.insert(UPGRADE, WEBSOCKET);
}

/// RFC 9110 section 7.6.1: removes the fields meant for this hop, those that any `Connection` line names
/// included. `Host` and `Content-Length` cannot be named away: the message would mean something else.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = connection_options(headers)
            .filter_map(|option| HeaderName::from_bytes(option).ok())
            .filter(|name| name != HOST && name != CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, UPGRADE] {
        headers.remove(name);
    }
}

/// RFC 9110 section 8.6: `5, 5` and repeated lines become one value. hyper has refused differing ones.
fn one_content_length(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(first), second) = (lines.next(), lines.next()) else {
        return;
    };
    let bytes = first.as_bytes();
    let comma = bytes.iter().position(|b| *b == b',');
    if second.is_none() && comma.is_none() {
        return;
    }
    let single = bytes[..comma.unwrap_or(bytes.len())].trim_ascii();
    let single = HeaderValue::from_bytes(single).expect("a part of a header value is one");
    headers.insert(CONTENT_LENGTH, single);
}

/// RFC 9110 section 7.6.3: a gateway adds itself to `Via`, with the version it received.
fn add_via(headers: &mut HeaderMap, received: Version) {
    let ours = if received == Version::HTTP_10 { "1.0 pod-router" } else { OUR_VIA };
    headers.append(VIA, HeaderValue::from_static(ours));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::assignment::{Epoch, StatefulSet};
    use http::{Request, Response};

    fn request(lines: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::get("/a%2Fb//c?x=%20&");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a head").into_parts().0
    }

    fn upstream(lines: &[(&str, &str)], kind: Kind) -> request::Parts {
        let mut head = request(lines);
        let id = HeaderValue::from_static("id");
        let client = Client { ip: [192, 0, 2, 1].into(), trusted: false };
        to_upstream(&mut head, &Added { client, request_id: &id, kind });
        head
    }

    #[test]
    fn hop_by_hop_fields_stop_here_even_on_a_second_connection_line() {
        let head = upstream(
            &[
                ("host", "a"),
                ("connection", "close, X-One"),
                ("connection", "x-two,, host, Content-Length"),
                ("x-one", "1"),
                ("x-two", "2"),
                ("x-three", "3"),
                ("content-length", "0"),
                ("keep-alive", "5"),
                ("te", "trailers"),
                ("trailer", "x"),
                ("expect", "100-continue"),
                ("proxy-connection", "x"),
                ("proxy-authorization", "x"),
                ("upgrade", "h2c"),
                ("transfer-encoding", "chunked"),
                ("forwarded", "for=x"),
                ("x-room-id", "spoof"),
                ("x-room-pod", "spoof"),
                ("x-room-epoch", "9"),
            ],
            Kind::Http,
        );
        let mut names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let expected = [
            "content-length",
            "host",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id",
            "x-three",
        ];
        assert_eq!(names, expected);
        assert_eq!(head.uri.to_string(), "/a%2Fb//c?x=%20&");
        assert_eq!(head.headers[HOST], "a");
    }

    #[test]
    fn a_handshake_keeps_exactly_its_upgrade() {
        let head = upstream(
            &[
                ("host", "a"),
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "WebSocket"),
                ("sec-websocket-protocol", "x"),
            ],
            Kind::WebSocket,
        );
        assert_eq!(head.headers[CONNECTION], "upgrade");
        assert_eq!(head.headers[UPGRADE], "websocket");
        assert_eq!(head.headers["sec-websocket-protocol"], "x");
    }

    #[test]
    fn repeated_fields_keep_their_order_and_via_grows() {
        let head =
            upstream(&[("host", "a"), ("x-a", "1"), ("x-a", "2"), ("x-a", "3"), ("via", "1.1 first")], Kind::Http);
        let values = |name: &str| {
            head.headers.get_all(name).iter().map(|v| v.to_str().expect("text").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(values("x-a"), ["1", "2", "3"]);
        assert_eq!(values("via"), ["1.1 first", "1.1 pod-router"]);
    }

    #[test]
    fn the_room_headers_replace_those_of_an_earlier_attempt() {
        let mut headers = HeaderMap::new();
        let room = RoomId::parse("room_a").expect("a room");
        let set = StatefulSet::parse("backend").expect("a name");
        for (ordinal, epoch) in [(1, 10), (2, 11)] {
            name_room(&mut headers, &room, &Assignment { pod: set.nth(ordinal), epoch: Epoch(epoch) });
        }
        assert_eq!(headers.len(), 3);
        assert_eq!(headers[X_ROOM_POD], "backend-2");
        assert_eq!(headers[X_ROOM_EPOCH], "11");
    }

    fn downstream(lines: &[(&str, &str)]) -> response::Parts {
        let mut response = Response::builder();
        for (name, value) in lines {
            response = response.header(*name, *value);
        }
        let mut head = response.body(()).expect("a head").into_parts().0;
        to_downstream(&mut head, &HeaderValue::from_static("id"));
        head
    }

    #[test]
    fn transfer_encoding_overrides_the_length() {
        let head = downstream(&[
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("connection", "x-a"),
            ("x-a", "1"),
        ]);
        let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-request-id"]);
    }

    #[test]
    fn a_repeated_length_becomes_one() {
        assert_eq!(downstream(&[("content-length", "5, 5")]).headers[CONTENT_LENGTH], "5");
        let twice = downstream(&[("content-length", "5"), ("content-length", "5")]);
        assert_eq!(twice.headers.get_all(CONTENT_LENGTH).iter().count(), 1);
    }
}
