//! The head of a 101 as the client gets it: the one answer that hyper does not write, because what follows it is no HTTP.
//!
//! hyper takes it for an answer like any other: it adds `close` where the connection was to end, and what has been switched
//! to another protocol does not (RFC 9112 section 9.6, RFC 6455 section 4.2.2).

use http::HeaderMap;
use http::header::DATE;
use httpdate::HttpDate;

use super::line;
use super::request::END;

/// What most heads fit in.
const USUAL_LENGTH: usize = 512;

/// The head of a switch to the WebSocket protocol with these end-to-end fields, and its pod's reason, where it is not the
/// usual one. Where the pod has not said when that was, it is `now` (RFC 9110 section 6.6.1).
pub fn head(reason: Option<&[u8]>, fields: &HeaderMap, now: HttpDate) -> Vec<u8> {
    let mut out = Vec::with_capacity(USUAL_LENGTH);
    out.extend_from_slice(b"HTTP/1.1 101 ");
    out.extend_from_slice(reason.unwrap_or(b"Switching Protocols"));
    out.extend_from_slice(END);
    line(&mut out, "connection", b"upgrade");
    line(&mut out, "upgrade", b"websocket");
    for (name, value) in fields {
        line(&mut out, name.as_str(), value.as_bytes());
    }
    if !fields.contains_key(DATE) {
        line(&mut out, DATE.as_str(), now.to_string().as_bytes());
    }
    out.extend_from_slice(END);
    out
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{SEC_WEBSOCKET_ACCEPT, SET_COOKIE};

    use super::*;

    #[test]
    fn a_switch_says_so_and_what_its_pod_has_said() {
        let fields = [(SET_COOKIE, "a=1"), (SEC_WEBSOCKET_ACCEPT, "x"), (SET_COOKIE, "b=2")];
        let fields = HeaderMap::from_iter(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
        let now = "Fri, 02 Jan 1970 00:00:00 GMT".parse().expect("a date");
        for (reason, said) in [(None, "Switching Protocols"), (Some(&b"Go on"[..]), "Go on"), (Some(b""), "")] {
            let expected = format!(
                "HTTP/1.1 101 {said}\r\nconnection: upgrade\r\nupgrade: websocket\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
                 sec-websocket-accept: x\r\ndate: Fri, 02 Jan 1970 00:00:00 GMT\r\n\r\n"
            );
            assert_eq!(String::from_utf8(head(reason, &fields, now)).expect("text"), expected);
        }
        let dated = HeaderMap::from_iter([(DATE, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))]);
        let head = String::from_utf8(head(None, &dated, now)).expect("text");
        assert_eq!(head.matches("date: ").collect::<Vec<_>>().len(), 1, "{head}");
        assert!(head.contains("date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"), "{head}");
    }
}
