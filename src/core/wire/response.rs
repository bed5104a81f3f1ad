//! A pod's response head: what it says, how its body ends, and whether the connection outlives it.
//!
//! Framing fields never survive into the head that goes on: whoever sends it frames it anew.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use httparse::{Header, ParserConfig, Status};

use super::Decoder;
use crate::core::headers::{self, ConnectionOption, Named};

/// The most header fields of a response.
const MAX_FIELDS: usize = 100;

/// Room for the fields that are put back or added later.
const ADDED: usize = 4;

/// A response head without its end-to-end fields, which are in the map that [`parse`] was given: a map is large, and a head
/// is handed on a dozen times.
#[derive(Debug)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// The reason phrase, where it is not the usual one.
    pub reason: Option<Bytes>,
    /// Whether it switches, as far as its fields say, to the WebSocket protocol.
    pub websocket: bool,
    /// Reads the body.
    pub body: Decoder,
    /// Whether the connection can carry another exchange once the body has been read.
    pub keep_alive: bool,
}

/// Why a response head cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// It is not HTTP/1.x, or a line of it is broken.
    Malformed,
    /// More fields than are taken (100).
    TooManyFields,
    /// Two readers could disagree about where the body ends: differing or broken lengths, a transfer coding other than
    /// chunked.
    Framing,
}

/// What the fields of this hop come to.
#[derive(Default)]
struct Hop<'a> {
    chunked: bool,
    length: Option<u64>,
    /// The length as it was written first.
    length_text: &'a [u8],
    close: bool,
    keep_alive: bool,
    /// Whether a `Connection` line stands behind `Upgrade`.
    upgrade: bool,
    /// How many times `Upgrade` is there.
    upgrades: usize,
    /// Whether the last of them says `websocket`.
    websocket: bool,
    named: Named<'a>,
}

/// Reads the head at the start of `received`, as far as it is there, and says how long it is. The end-to-end
/// fields go into `map`, once they are all there, in place of what it holds.
///
/// # Errors
///
/// Why it cannot be used. The map is then of no use either.
pub fn parse(received: &Bytes, method: &Method, map: &mut HeaderMap) -> Result<Option<(Head, usize)>, HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut response, received, &mut fields);
    let length = match parsed {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyFields),
        Err(_) => return Err(HeadError::Malformed),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(HeadError::Malformed)?;
    let version = if response.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut hop = Hop::default();
    map.clear();
    hop.take_out(response.headers, received, (version, status), map)?;
    let body = hop.body(method, status);
    // None is a reason as well: hyper would make one up, "<none>" where it knows no other.
    let reason = response.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let persistent = if version == Version::HTTP_10 { hop.keep_alive && !hop.close } else { !hop.close };
    // RFC 9112 section 6.1: after a message with both, the connection is closed.
    let ambiguous = hop.chunked && hop.length.is_some();
    if hop.length.is_some() && !hop.chunked && allows_length(status) {
        // Also where there is no body: it is what a HEAD asks for (RFC 9110 section 8.6).
        map.insert(CONTENT_LENGTH, value(received, hop.length_text)?);
    }
    let head = Head {
        status,
        reason: reason.map(|reason| received.slice_ref(reason.as_bytes())),
        websocket: hop.switches_to_websocket(),
        keep_alive: persistent && !ambiguous && !matches!(body, Decoder::UntilClose),
        body,
    };
    Ok(Some((head, length)))
}

/// RFC 9110 section 8.6: no `Content-Length` in a 1xx or 204.
fn allows_length(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT
}

/// A part of what was received as a field value, shared with it.
fn value(received: &Bytes, part: &[u8]) -> Result<HeaderValue, HeadError> {
    HeaderValue::from_maybe_shared(received.slice_ref(part)).map_err(|_| HeadError::Malformed)
}

// === impl Hop ===

impl<'a> Hop<'a> {
    /// Takes what is for this hop out of the fields: the others go into `map`. In one walk, for there is one with every answer.
    fn take_out(
        &mut self,
        fields: &[Header<'a>],
        received: &Bytes,
        (version, status): (Version, StatusCode),
        map: &mut HeaderMap,
    ) -> Result<(), HeadError> {
        map.reserve(fields.len() + ADDED);
        for field in fields {
            // Node says it with every answer, and as a name it is an uncommon one: it would be put into memory of its own,
            // only to be left out.
            if field.name.eq_ignore_ascii_case("keep-alive") {
                continue;
            }
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Malformed)?;
            self.note(&name, field.value, version)?;
            // A 426 says in it what the client is to upgrade to (RFC 9110 section 15.5.22).
            let demanded = status == StatusCode::UPGRADE_REQUIRED && name == UPGRADE;
            if demanded || headers::goes_downstream(name.as_str()) {
                map.append(name, value(received, field.value)?);
            }
        }
        if !self.named.is_empty() {
            // Hardly ever, and in a walk of its own: a `Connection` line may stand behind what it names.
            let all = std::mem::take(map);
            for (name, value) in all.iter().filter(|(name, _)| !self.named.stops(name.as_str())) {
                map.append(name, value.clone());
            }
        }
        Ok(())
    }

    /// Notes what a field says of this hop, if it does.
    fn note(&mut self, name: &HeaderName, value: &'a [u8], version: Version) -> Result<(), HeadError> {
        if *name == CONNECTION {
            self.connection(value);
        } else if *name == CONTENT_LENGTH {
            self.length(value)?;
        } else if *name == TRANSFER_ENCODING {
            // RFC 9112 section 6.1: HTTP/1.0 has no transfer codings; and only chunked, once, is one that can be taken off
            // here.
            let is_chunked = value.eq_ignore_ascii_case(b"chunked");
            if version == Version::HTTP_10 || self.chunked || !is_chunked {
                return Err(HeadError::Framing);
            }
            self.chunked = true;
        } else if *name == UPGRADE {
            self.upgrades += 1;
            self.websocket = value.eq_ignore_ascii_case(b"websocket");
        }
        Ok(())
    }

    fn connection(&mut self, line: &'a [u8]) {
        for option in headers::list_elements(line) {
            match ConnectionOption::of(option) {
                ConnectionOption::Close => self.close = true,
                ConnectionOption::KeepAlive => self.keep_alive = true,
                ConnectionOption::Upgrade => self.upgrade = true,
                ConnectionOption::Field => self.named.add(option),
            }
        }
    }

    /// RFC 9112 section 6.3: repeated lengths have to agree (`5, 5` is the same as `5`).
    fn length(&mut self, value: &'a [u8]) -> Result<(), HeadError> {
        for element in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            let digits = !element.is_empty() && element.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(element).ok().filter(|_| digits);
            let length = text.and_then(|text| text.parse().ok()).ok_or(HeadError::Framing)?;
            match self.length {
                None => (self.length, self.length_text) = (Some(length), element),
                Some(before) if before != length => return Err(HeadError::Framing),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Exactly one `Upgrade`, to `websocket`, that a `Connection` line stands behind.
    fn switches_to_websocket(&self) -> bool {
        self.upgrade && self.upgrades == 1 && self.websocket
    }

    /// RFC 9112 section 6.3, for a response to a request that is not CONNECT.
    fn body(&self, method: &Method, status: StatusCode) -> Decoder {
        let bodiless = *method == Method::HEAD
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        match self.length {
            _ if bodiless => Decoder::EMPTY,
            _ if self.chunked => Decoder::chunked(),
            Some(length) => Decoder::Length(length),
            None => Decoder::UntilClose,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_for(method: &Method, text: &str) -> Result<Option<(Head, usize)>, HeadError> {
        parse(&Bytes::copy_from_slice(text.as_bytes()), method, &mut HeaderMap::new())
    }

    fn head(text: &str) -> (Head, HeaderMap) {
        let mut fields = HeaderMap::from_iter([(TRANSFER_ENCODING, HeaderValue::from_static("another's"))]);
        let parsed = parse(&Bytes::copy_from_slice(text.as_bytes()), &Method::GET, &mut fields);
        let (head, length) = parsed.expect("a valid head").expect("a whole head");
        assert_eq!(length, text.find("\r\n\r\n").expect("its end") + 4);
        (head, fields)
    }

    fn error(text: &str) -> HeadError {
        parse_for(&Method::GET, text).expect_err("an error")
    }

    #[test]
    fn a_head_and_nothing_of_this_hop() {
        let (head, fields) = head(
            "HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nConnection: keep-alive, X-Own\r\nKeep-Alive: timeout=5\r\n\
             X-Own: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX-Request-Id: theirs\r\n\r\nhello",
        );
        assert_eq!((head.status, head.reason.as_deref()), (StatusCode::OK, Some(&b"Fine"[..])));
        let mut names: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "set-cookie"]);
        assert_eq!(fields.get_all("set-cookie").iter().count(), 2);
        assert!(matches!(head.body, Decoder::Length(5)) && head.keep_alive && !head.websocket);
        for (line, reason) in [("200 OK", None), ("200 ", Some("")), ("299", Some("")), ("299 Mine", Some("Mine"))] {
            let parsed = self::head(&format!("HTTP/1.1 {line}\r\n\r\n")).0.reason;
            assert_eq!(parsed.as_deref(), reason.map(str::as_bytes), "{line}");
        }
    }

    #[test]
    fn what_connection_names_ends_here_wherever_it_stands_and_the_rest_keeps_its_order() {
        let (_, fields) = head(
            "HTTP/1.1 426 X\r\nA: 1\r\nX-Own: 1\r\nTrailer: b\r\nC: 1\r\nUpgrade: h2c\r\nD: 1\r\nA: 2\r\nConnection: x-own\r\n\
             Connection: upgrade\r\n\r\n",
        );
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let expected: [(&str, &[u8]); 5] = [("a", b"1"), ("a", b"2"), ("c", b"1"), ("upgrade", b"h2c"), ("d", b"1")];
        assert_eq!(fields, expected);
    }

    #[test]
    fn how_the_body_ends() {
        let body = |method, text: &str| parse_for(&method, text).expect("valid").expect("whole").0.body;
        let framed = |fields: &str| body(Method::GET, &format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
        assert!(matches!(framed("content-length: 5, 5\r\nContent-Length: 5\r\n"), Decoder::Length(5)));
        assert!(matches!(framed("Transfer-Encoding: Chunked\r\n"), Decoder::Chunked(_)));
        assert!(matches!(framed("transfer-encoding: chunked\r\ncontent-length: 3\r\n"), Decoder::Chunked(_)));
        assert!(matches!(framed(""), Decoder::UntilClose));
        assert!(matches!(body(Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"), Decoder::Length(0)));
        for status in ["204 No Content", "304 Not Modified", "103 Early Hints"] {
            let text = format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\n");
            assert!(matches!(body(Method::GET, &text), Decoder::Length(0)), "{status}");
        }
    }

    #[test]
    fn lengths_pass_on_where_they_may() {
        let length = |text: &str| head(text).1.get("content-length").map(|value| value.as_bytes().to_vec());
        assert_eq!(length("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"), Some(b"5".to_vec()));
        assert_eq!(length("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n"), None);
        assert_eq!(length("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n"), None);
    }

    #[test]
    fn ambiguous_framing_is_an_error() {
        for fields in [
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5, 6\r\n",
            "content-length: +5\r\n",
            "content-length: 5 5\r\n",
            "content-length:\r\n",
            "content-length: 99999999999999999999\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: identity\r\n",
            "transfer-encoding:\r\n",
        ] {
            assert_eq!(error(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")), HeadError::Framing, "{fields:?}");
        }
        assert_eq!(error("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"), HeadError::Framing);
    }

    #[test]
    fn what_is_no_head_is_an_error() {
        for text in [
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "hello\r\n\r\n",
            "HTTP/1.1 200 OK\r\nbad name: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx : 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: 1\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n",
        ] {
            assert_eq!(error(text), HeadError::Malformed, "{text:?}");
        }
        let many = "x: 1\r\n".repeat(MAX_FIELDS + 1);
        assert_eq!(error(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")), HeadError::TooManyFields);
        assert!(matches!(parse_for(&Method::GET, "HTTP/1.1 200 OK\r\nx: 1\r\n"), Ok(None)));
    }

    #[test]
    fn whether_the_connection_lives_on() {
        let lives = |text: &str| head(text).0.keep_alive;
        assert!(lives("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
        assert!(lives("HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 0\r\n\r\n"));
        assert!(!lives("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n"));
        assert!(!lives("HTTP/1.1 200 OK\r\nconnection: x\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n"));
        assert!(!lives("HTTP/1.1 200 OK\r\n\r\n"));
        assert!(!lives("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n"));
    }

    #[test]
    fn a_switch_to_websocket_names_it_once() {
        let switches = |fields: &str| head(&format!("HTTP/1.1 101 X\r\n{fields}\r\n")).0.websocket;
        assert!(switches("Upgrade: WebSocket\r\nConnection: keep-alive\r\nConnection: Upgrade\r\n"));
        assert!(!switches("Upgrade: websocket\r\n"));
        assert!(!switches("Upgrade: h2c\r\nConnection: upgrade\r\n"));
        assert!(!switches("Upgrade: websocket\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"));
    }
}
