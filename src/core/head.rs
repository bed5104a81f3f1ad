//! Checks a request head before anything is decided from it, and says what kind of exchange it asks for.
//!
//! hyper has already parsed the bytes; what it lets through and a gateway must not is refused here.

use std::net::Ipv6Addr;

use http::header::{
    CONTENT_LENGTH, EXPECT, HOST, MAX_FORWARDS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
    VIA,
};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::headers::{connection_options, list_elements};

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
    /// A target that is none for this method (RFC 9112 section 3.2): a word or an authority, `*` for anything but
    /// `OPTIONS`, bytes beyond ASCII, a URI that is not `http` or `https` or that names a user (RFC 9110 section 4.2.4).
    BadTarget,
    /// `CONNECT`, which asks for a tunnel to anywhere, or `TRACE`, which echoes credentials.
    MethodNotAllowed,
    /// A transfer coding other than exactly `chunked`: it would be lost on the way (RFC 9112 section 6.1).
    TransferCoding,
    /// A WebSocket handshake with a body: what follows it could be read as frames.
    UpgradeWithBody,
    /// An expectation other than `100-continue`: it would be lost on the way (RFC 9110 section 10.1.1). Or any in a
    /// WebSocket handshake: a 100 would have to come before the 101 (section 7.8), and hyper says none where no body follows.
    Expectation,
    /// It has been here too often (RFC 9110 section 7.6).
    Loop,
}

/// The epoch of the assignment the router went by, told to the pod.
pub const X_ROOM_EPOCH: HeaderName = HeaderName::from_static("x-room-epoch");

/// The request's id, in both directions.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The name under which the router stands in `Via`, all replicas alike.
pub const PSEUDONYM: &str = "pod-router";

/// A request that has passed so many routers of this name goes round in circles. One before another is somebody's
/// design; the circle is a default backend that leads back here.
const MAX_HOPS: usize = 3;

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
    check_target(head)?;
    if hops(&head.headers) >= MAX_HOPS {
        return Err(HeadError::Loop);
    }
    if head.version != Version::HTTP_10 && !expects_at_most_continue(&head.headers) {
        return Err(HeadError::Expectation);
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = match (codings.next(), codings.next()) {
        (None, _) => false,
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => true,
        _ => return Err(HeadError::TransferCoding),
    };
    if !is_websocket(head) {
        return Ok(Kind::Http);
    }
    if head.headers.contains_key(EXPECT) {
        return Err(HeadError::Expectation);
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
    host.is_empty()
        || is_plain(host.as_bytes())
        || Authority::try_from(host.as_bytes()).is_ok_and(|authority| names_only_a_host(&authority))
}

/// Whether a host is one at first sight: a name or an IPv4 address, perhaps with a port. Most are, and to read one as an
/// authority takes a copy of it.
fn is_plain(host: &[u8]) -> bool {
    let mut parts = host.splitn(2, |byte| *byte == b':');
    let name = parts.next().unwrap_or_default();
    let port = std::str::from_utf8(parts.next().unwrap_or_default());
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    !name.is_empty() && name.iter().all(is_name) && port.is_ok_and(is_port)
}

/// A host and perhaps a port: no user, which RFC 9110 section 4.2.4 has taken for an attempt to deceive.
fn names_only_a_host(authority: &Authority) -> bool {
    let host = authority.host();
    let port = authority.as_str().strip_prefix(host);
    port.is_some_and(|port| port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) && is_host(host)
}

/// Digits, or none (RFC 3986 section 3.2.3), and no more than a port can be.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// What is in brackets is an address.
fn is_host(host: &str) -> bool {
    let Some(literal) = host.strip_prefix('[') else {
        return true;
    };
    literal.strip_suffix(']').is_some_and(|literal| literal.parse::<Ipv6Addr>().is_ok())
}

fn check_target(head: &Parts) -> Result<(), HeadError> {
    let valid = match (head.uri.scheme_str(), head.uri.authority()) {
        (Some("http" | "https"), Some(authority)) => names_only_a_host(authority),
        (None, None) => head.uri.path().starts_with('/') || head.method == Method::OPTIONS && head.uri.path() == "*",
        _ => false,
    };
    let ascii = head.uri.path_and_query().is_none_or(|target| target.as_str().is_ascii());
    if valid && ascii { Ok(()) } else { Err(HeadError::BadTarget) }
}

/// How often this router, or one like it, stands in `Via`: version, name, perhaps a comment (RFC 9110 section 7.6.3).
fn hops(headers: &HeaderMap) -> usize {
    let entries = headers.get_all(VIA).iter().map(HeaderValue::as_bytes).flat_map(list_elements);
    let names = entries.filter_map(|entry| entry.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).nth(1));
    names.filter(|name| *name == PSEUDONYM.as_bytes()).count()
}

/// What hyper takes for an expectation is one line with one element; to any other it would say neither yes nor no.
fn expects_at_most_continue(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(EXPECT).iter().map(HeaderValue::as_bytes);
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(expectation), None) => expectation.eq_ignore_ascii_case(b"100-continue"),
        (Some(_), Some(_)) => false,
    }
}

/// Whether an `OPTIONS` may not be forwarded any more, but is to be answered here (RFC 9110 section 7.6.2).
pub fn ends_here(head: &Parts) -> bool {
    head.method == Method::OPTIONS && max_forwards(&head.headers) == Some(0)
}

/// How often an `OPTIONS` may still be forwarded, where it says so intelligibly.
pub fn max_forwards(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(MAX_FORWARDS).and_then(|value| value.to_str().ok())?;
    // `parse` alone would take a sign.
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// RFC 6455 section 4.2.1, and RFC 9110 section 7.8 for `Upgrade` under HTTP/1.0, which is ignored. The key may not come
/// twice (section 11.3.1): a pod could answer the one, and the router check the other.
fn is_websocket(head: &Parts) -> bool {
    head.method == Method::GET
        && head.version == Version::HTTP_11
        && offers_websocket(&head.headers)
        && head.headers.get_all(SEC_WEBSOCKET_KEY).iter().count() == 1
        && head.headers.contains_key(SEC_WEBSOCKET_VERSION)
        // What `Connection` names is this hop's, and does not go on: the pod would get half of a handshake.
        && !connection_options(&head.headers)
            .any(|option| [SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION].iter().any(|part| option.eq_ignore_ascii_case(part.as_str().as_bytes())))
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
        let twice: Vec<_> = HANDSHAKE.into_iter().chain([HANDSHAKE[3]]).collect();
        assert_eq!(inspect(&head(&twice)), Ok(Kind::Http), "two keys");
        for named in ["Upgrade, Sec-WebSocket-Key", "sec-websocket-version,upgrade"] {
            let mut parts = head(&HANDSHAKE);
            parts.headers.insert("connection", HeaderValue::from_static(named));
            assert_eq!(inspect(&parts), Ok(Kind::Http), "{named}");
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
        for good in ["a", "a:80", "a:65535", "a:", "[::1]:80", "[2001:db8::1]", ""] {
            assert_eq!(inspect(&head(&[("host", good)])), Ok(Kind::Http), "{good}");
        }
        for bad in [
            "a b",
            "u@a",
            "a/b",
            "a:b:c",
            "a:b",
            "a:65536",
            "a:99999",
            "a:+80",
            "[::1",
            "[::g]:80",
            "[1.2.3.4]",
            "[]",
            "[::1]x",
            "a, b",
        ] {
            assert_eq!(inspect(&head(&[("host", bad)])), Err(HeadError::BadHost), "{bad}");
        }
        assert_eq!(inspect(&head(&[])), Err(HeadError::BadHost));
        assert_eq!(inspect(&head(&[("host", "a"), ("host", "a")])), Err(HeadError::BadHost));
    }

    #[test]
    fn what_is_a_host_at_first_sight_is_one() {
        const PIECES: [&str; 14] =
            ["a", "Z9", ".", "-", ":", ":", "0", "65535", "65536", "_", "[::1]", "@", "%61", "/"];
        let mut plain = 0;
        for number in 0..PIECES.len().pow(4) {
            let digits = [1, 14, 14 * 14, 14 * 14 * 14].map(|weight| number / weight % 14);
            for count in 1..=4 {
                let host: String = digits[..count].iter().map(|digit| PIECES[*digit]).collect();
                let authority = Authority::try_from(host.as_str());
                let is_one = authority.is_ok_and(|authority| names_only_a_host(&authority));
                assert!(is_one || !is_plain(host.as_bytes()), "{host}");
                plain += usize::from(is_plain(host.as_bytes()));
            }
        }
        assert!(plain > 10_000, "{plain}");
        for plain in ["app.example.org", "localhost:8080", "192.0.2.1:80", "a:"] {
            assert!(is_plain(plain.as_bytes()), "{plain}");
        }
    }

    #[test]
    fn only_chunked_is_a_transfer_coding() {
        let with = |coding| inspect(&head(&[("host", "a"), ("transfer-encoding", coding)]));
        assert_eq!(with("Chunked"), Ok(Kind::Http));
        for coding in ["gzip, chunked", "chunked, chunked", "identity", "xchunked", ""] {
            assert_eq!(with(coding), Err(HeadError::TransferCoding), "{coding}");
        }
    }

    #[test]
    fn a_target_is_a_path_or_a_plain_uri() {
        let with = |method: &str, target: &str| {
            let request = Request::builder().method(method).uri(target).header("host", "a");
            inspect(&request.body(()).expect("a head").into_parts().0)
        };
        for target in ["/", "//x", "http://a", "https://a:80/x?y", "http://[::1]:/"] {
            assert_eq!(with("GET", target), Ok(Kind::Http), "{target}");
        }
        for target in [
            "x",
            "a:80",
            "*",
            "/\u{e9}",
            "/?\u{e9}",
            "gopher://a/",
            "http://a:99999/",
            "http://[::g]/",
            "http://u@a/",
            "http://u:p@a/",
        ] {
            assert_eq!(with("GET", target), Err(HeadError::BadTarget), "{target}");
        }
        assert_eq!(with("OPTIONS", "*"), Ok(Kind::Http));
    }

    #[test]
    fn a_circle_is_noticed_and_a_chain_is_none() {
        let via = |lines: &[&str]| {
            let lines: Vec<_> = [("host", "a")].into_iter().chain(lines.iter().map(|line| ("via", *line))).collect();
            inspect(&head(&lines))
        };
        assert_eq!(via(&["1.1 pod-router, 1.0 x", "1.1 pod-router", "1.1 a-pod-router"]), Ok(Kind::Http));
        let circle = via(&["1.1 pod-router,HTTP/1.1  pod-router", "1.1 x (y), 1.1 pod-router (z)"]);
        assert_eq!(circle, Err(HeadError::Loop));
    }

    #[test]
    fn only_continue_can_be_expected() {
        let expecting = |value| inspect(&head(&[("host", "a"), ("expect", value)]));
        assert_eq!(expecting("100-Continue"), Ok(Kind::Http));
        for value in ["100-continue, x", "x", "101", "100-continue, 100-continue", ""] {
            assert_eq!(expecting(value), Err(HeadError::Expectation), "{value}");
        }
        let twice = head(&[("host", "a"), ("expect", "100-continue"), ("expect", "100-continue")]);
        assert_eq!(inspect(&twice), Err(HeadError::Expectation));
    }

    #[test]
    fn a_handshake_can_expect_nothing() {
        let lines: Vec<_> = HANDSHAKE.into_iter().chain([("expect", "100-continue")]).collect();
        assert_eq!(inspect(&head(&lines)), Err(HeadError::Expectation));
    }

    #[test]
    fn options_may_end_here() {
        let with = |method: Method, value| {
            let mut parts = head(&[("host", "a"), ("max-forwards", value)]);
            parts.method = method;
            ends_here(&parts)
        };
        assert!(with(Method::OPTIONS, "0"));
        assert!(!with(Method::OPTIONS, "1") && !with(Method::OPTIONS, "x") && !with(Method::GET, "0"));
        assert!(!with(Method::OPTIONS, "+0") && !with(Method::OPTIONS, ""));
    }
}
