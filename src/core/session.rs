//! What keeps a session of a request without a room at its pod: Engine.IO's `sid`, the affinity cookie, the client's
//! address.
//!
//! Nothing is remembered for it: a `sid` that names its pod is the backends' doing (`io.engine.generateId`), the cookie
//! holds a code that only the holder of `--affinity-key` can make (`backends::Signer`), and the address is hashed. Any replica
//! finds the same pod. A session is never balanced anew: another pod could only answer "Session ID unknown" to it.

use std::borrow::Cow;

use http::request::Parts;

use super::affinity::AffinityError;
use super::query;

/// The longest `sid` that is looked at. Engine.IO's own have 20 characters.
const MAX_SID: usize = 256;

/// Between the pod's name and the rest of a `sid`: unreserved in URLs (RFC 3986 section 2.3), in no pod's name and in no
/// `sid` that Engine.IO makes by itself.
const SEPARATOR: char = '~';

/// What a request is to Engine.IO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Session<'a> {
    /// No request of Engine.IO's, or one that needs no affinity: a WebSocket without a `sid` is a session by itself.
    None,
    /// The first request of a polling session: wherever it goes, the others have to follow.
    Handshake,
    /// A request of the session with this id.
    Sid(Cow<'a, str>),
}

/// What decided which pod a request without a room goes to; also the contract's label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffinitySource {
    /// The room.
    Room,
    /// The pod that the `sid` names.
    Sid,
    /// The affinity cookie.
    Cookie,
    /// The client's address.
    ClientIp,
    /// `--balance`.
    None,
}

impl AffinitySource {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Sid => "sid",
            Self::Cookie => "cookie",
            Self::ClientIp => "client_ip",
            Self::None => "none",
        }
    }
}

/// Reads the query as Engine.IO's server does (WHATWG). Its clients send `EIO` with every request; a `sid` without it is
/// some other program's. `upgrading`: the request is a WebSocket handshake.
///
/// # Errors
///
/// A doubled `sid`: router and pod could take different ones.
pub fn session(head: &Parts, upgrading: bool) -> Result<Session<'_>, AffinityError> {
    let Some(query) = head.uri.query() else {
        return Ok(Session::None);
    };
    let (mut engine_io, mut sid, mut doubled) = (false, None, false);
    for (key, value) in query::pairs(query) {
        match &*key {
            "EIO" => engine_io = true,
            "sid" => doubled |= sid.replace(value).is_some(),
            _ => {}
        }
    }
    Ok(match sid {
        _ if !engine_io => Session::None,
        _ if doubled => return Err(AffinityError::DuplicateSid),
        Some(sid) if !sid.is_empty() => Session::Sid(sid),
        _ if upgrading => Session::None,
        _ => Session::Handshake,
    })
}

/// Whether a query is that of a session's request, as [`session`] has it: for who comes first at a room's pod, and for an answer
/// of 400, which is most often a wrong pod's. Anybody can make a `sid` up.
pub fn is_of_session(query: &str) -> bool {
    let (mut engine_io, mut sid) = (false, false);
    for (key, value) in query::pairs(query) {
        engine_io |= key == "EIO";
        sid |= key == "sid" && !value.is_empty();
    }
    engine_io && sid
}

/// The pod that a `sid` such as `backend-1~k3Jx…` names.
pub fn pod_in_sid(sid: &str) -> Option<&str> {
    let (pod, rest) = sid.split_once(SEPARATOR)?;
    (sid.len() <= MAX_SID && !pod.is_empty() && !rest.is_empty()).then_some(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(target: &str) -> Parts {
        http::Request::get(target).body(()).expect("a request").into_parts().0
    }

    #[test]
    fn sessions_are_told_apart() {
        let of = |target: &str, upgrading| {
            session(&head(target), upgrading).map(|session| match session {
                Session::None => "none".to_owned(),
                Session::Handshake => "handshake".to_owned(),
                Session::Sid(sid) => sid.into_owned(),
            })
        };
        for (target, upgrading, expected) in [
            ("/socket.io/?EIO=4&transport=polling&t=x", false, "handshake"),
            ("/anything/?transport=polling&EIO=4&sid=", false, "handshake"),
            ("/socket.io/?EIO=4&transport=polling&sid=abc", false, "abc"),
            ("/socket.io/?EIO=4&transport=websocket&sid=abc", true, "abc"),
            ("/socket.io/?EIO=4&transport=websocket", true, "none"),
            ("/socket.io/?EIO=4&s%69d=backend-1%7Ex", false, "backend-1~x"),
            ("/login?sid=abc", false, "none"),
            ("/login?sid=abc&eio=4&sid=abc", false, "none"),
            ("/", false, "none"),
        ] {
            assert_eq!(of(target, upgrading).as_deref(), Ok(expected), "{target}");
        }
        for doubled in ["/socket.io/?EIO=4&sid=a&sid=b", "/socket.io/?sid=a&EIO=4&s%69d=a"] {
            assert_eq!(of(doubled, false), Err(AffinityError::DuplicateSid));
        }
        assert!(is_of_session("EIO=4&sid=x") && is_of_session("sid=x&EIO=4"));
        for other in ["EIO=4&sid=", "EIO=4&asid=x", "sid=x", "eio=4&sid=x"] {
            assert!(!is_of_session(other), "{other}");
        }
    }

    #[test]
    fn a_sid_names_its_pod_or_none() {
        assert_eq!(pod_in_sid("backend-1~abc"), Some("backend-1"));
        assert_eq!(pod_in_sid("backend-1~a~b"), Some("backend-1"));
        for none in ["", "~", "~abc", "backend-1~", "backend-1", "lv_VI97HAXpY6yYWAAAC"] {
            assert_eq!(pod_in_sid(none), None, "{none}");
        }
        assert_eq!(pod_in_sid(&format!("backend-1~{}", "x".repeat(MAX_SID))), None);
    }
}
