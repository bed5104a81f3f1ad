//! Checks a request head before anything is decided from it, and says what kind of exchange it asks for.
//!
//! hyper has already parsed the bytes; what it lets through and a gateway must not is refused here.

use http::header::{CONTENT_LENGTH, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::headers::connection_options;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary exchange, and any upgrade that is not a well-formed WebSocket handshake.
    Http,
    /// A WebSocket handshake.
    WebSocket,
}

/// Why a head is refused before it is routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// HTTP/1.1 without exactly one valid `Host` (RFC 9112 section 3.2).
    BadHost,
    /// `CONNECT`, which asks for a tunnel to anywhere, or `TRACE`, which echoes credentials.
    MethodNotAllowed,
    /// A transfer coding other than exactly `chunked`: it would be lost on the way (RFC 9112 section 6.1).
    TransferCoding,
    /// A WebSocket handshake with a body: what follows it could be read as frames.
    UpgradeWithBody,
}

/// Checks the head and classifies it.
///
/// # Errors
///
/// The first rule that is broken.
pub fn inspect(head: &Parts) -> Result<Kind, HeadError> {
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(HeadError::MethodNotAllowed);
    }
    check_host(head)?;
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = match (codings.next(), codings.next()) {
        (None, _) => false,
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => true,
        _ => return Err(HeadError::TransferCoding),
    };
    if !is_websocket(head) {
        return Ok(Kind::Http);
    }
    let length = head.headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
    if chunked || length.is_some_and(|length| length != b"0") {
        return Err(HeadError::UpgradeWithBody);
    }
    Ok(Kind::WebSocket)
}

/// RFC 9112 section 3.2: a request with no, more than one or an invalid `Host` is answered 400. HTTP/1.0
/// may lack it.
fn check_host(head: &Parts) -> Result<(), HeadError> {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_authority(host) => Ok(()),
        (None, _) if head.version == Version::HTTP_10 => Ok(()),
        _ => Err(HeadError::BadHost),
    }
}

fn is_authority(host: &HeaderValue) -> bool {
    // An empty Host is valid for a target without an authority.
    host.is_empty() || Authority::try_from(host.as_bytes()).is_ok_and(|authority| !authority.as_str().contains('@'))
}

/// RFC 6455 section 4.2.1, and RFC 9110 section 7.8 for `Upgrade` under HTTP/1.0, which is ignored.
fn is_websocket(head: &Parts) -> bool {
    head.method == Method::GET
        && head.version == Version::HTTP_11
        && offers_websocket(&head.headers)
        && head.headers.contains_key(SEC_WEBSOCKET_KEY)
        && head.headers.contains_key(SEC_WEBSOCKET_VERSION)
}

/// Whether these headers ask to switch to exactly the WebSocket protocol.
pub fn offers_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let only_websocket = matches!(
        (upgrades.next(), upgrades.next()),
        (Some(token), None) if token.as_bytes().eq_ignore_ascii_case(b"websocket")
    );
    only_websocket && connection_options(headers).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

/// The epoch of the assignment the router went by, told to the pod.
pub const X_ROOM_EPOCH: HeaderName = HeaderName::from_static("x-room-epoch");
/// The request's id, in both directions.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(lines: &[(&str, &str)]) -> Parts {
        let mut request = Request::get("/x");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a head").into_parts().0
    }

    const HANDSHAKE: [(&str, &str); 5] = [
        ("host", "a"),
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];

    #[test]
    fn a_websocket_handshake_needs_every_part() {
        assert_eq!(inspect(&head(&HANDSHAKE)), Ok(Kind::WebSocket));
        for (missing, _) in &HANDSHAKE[1..] {
            let lines: Vec<_> = HANDSHAKE.into_iter().filter(|(name, _)| name != missing).collect();
            assert_eq!(inspect(&head(&lines)), Ok(Kind::Http), "without {missing}");
        }
        let mut post = head(&HANDSHAKE);
        post.method = Method::POST;
        assert_eq!(inspect(&post), Ok(Kind::Http));
        let mut old = head(&HANDSHAKE);
        old.version = Version::HTTP_10;
        assert_eq!(inspect(&old), Ok(Kind::Http));
    }

    #[test]
    fn an_upgrade_to_anything_else_is_plain_http() {
        for upgrade in ["h2c", "websocket, h2c", "websocketx", ""] {
            let mut parts = head(&HANDSHAKE);
            parts.headers.insert(UPGRADE, HeaderValue::from_str(upgrade).expect("a value"));
            assert_eq!(inspect(&parts), Ok(Kind::Http), "{upgrade}");
        }
        let mut twice = head(&HANDSHAKE);
        twice.headers.append(UPGRADE, HeaderValue::from_static("websocket"));
        assert_eq!(inspect(&twice), Ok(Kind::Http));
    }

    #[test]
    fn an_upgrade_with_a_body_is_refused() {
        for (name, value) in [("content-length", "5"), ("transfer-encoding", "chunked")] {
            let lines: Vec<_> = HANDSHAKE.into_iter().chain([(name, value)]).collect();
            assert_eq!(inspect(&head(&lines)), Err(HeadError::UpgradeWithBody));
        }
        let lines: Vec<_> = HANDSHAKE.into_iter().chain([("content-length", "0")]).collect();
        assert_eq!(inspect(&head(&lines)), Ok(Kind::WebSocket));
    }

    #[test]
    fn exactly_one_valid_host() {
        for good in ["a", "a:80", "[::1]:80", ""] {
            assert_eq!(inspect(&head(&[("host", good)])), Ok(Kind::Http), "{good}");
        }
        for bad in ["a b", "u@a", "a/b", "a:b:c"] {
            assert_eq!(inspect(&head(&[("host", bad)])), Err(HeadError::BadHost), "{bad}");
        }
        assert_eq!(inspect(&head(&[])), Err(HeadError::BadHost));
        assert_eq!(inspect(&head(&[("host", "a"), ("host", "a")])), Err(HeadError::BadHost));
    }

    #[test]
    fn only_chunked_is_a_transfer_coding() {
        let with = |coding| inspect(&head(&[("host", "a"), ("transfer-encoding", coding)]));
        assert_eq!(with("Chunked"), Ok(Kind::Http));
        for coding in ["gzip, chunked", "chunked, chunked", "identity", "xchunked", ""] {
            assert_eq!(with(coding), Err(HeadError::TransferCoding), "{coding}");
        }
    }
}
