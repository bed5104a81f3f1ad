//! The answers that are the router's own: the only place that picks a status code.
//!
//! What is said to a client is an [`Answer`] in one table: a status, a code for programs, a sentence for people. Every way
//! a request can fail to be routed or forwarded is a variant of [`Reject`], and one exhaustive match says which answer is
//! its. What never became a request has its answers in the same table, and `canned.rs` to write them without hyper.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use crate::core::admission::Refusal;
use crate::core::affinity::AffinityError;
use crate::core::decision::{Failure, RoomRefusal, Stage};
use crate::core::head::HeadError;
use crate::core::rate::Exceeded;
use crate::directory::resolver::PlacementError;

/// The header that tells an answer of the router's own from a pod's.
pub(super) const X_POD_ROUTER_ERROR: HeaderName = HeaderName::from_static("x-pod-router-error");

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What is said to a client.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub(super) status: StatusCode,
    /// For programs, metrics and the log; listed in the README.
    pub code: &'static str,
    /// For people: what happened and what to do.
    pub(super) message: &'static str,
}

impl Answer {
    /// Whether another try may be answered better: what says so carries `Retry-After`.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
    }
}

macro_rules! answers {
    ($($(#[$doc:meta])* $vis:vis $name:ident: $status:ident, $code:literal, $message:literal;)+) => {
        $($(#[$doc])* $vis static $name: Answer =
            Answer { status: StatusCode::$status, code: $code, message: $message };)+

        /// Every code of an answer of the router's own, and of what is cut without one; some have several answers. The
        /// README's list, and the label values of `pod_router_rejected_total`.
        pub const CODES: &[&str] = &[$($code,)+ "bad-proxy-header", "pod-stalled", "slow-reader"];

        #[cfg(test)]
        pub(super) const ALL: &[&Answer] = &[$(&$name),+];
    };
}

answers! {
    // heads
    BAD_HOST: BAD_REQUEST, "bad-host", "The request needs exactly one valid Host header.";
    BAD_TARGET: BAD_REQUEST, "bad-request", "The request's target is neither a path nor an http URI.";
    EXPECTATION: EXPECTATION_FAILED, "expectation", "The only expectation understood here is 100-continue.";
    LOOP: LOOP_DETECTED, "loop",
        "The request has passed pod-router several times: a backend's address leads back to the router.";
    UPGRADE_WITH_BODY: BAD_REQUEST, "upgrade-with-body", "A WebSocket handshake must not have a body.";
    METHOD: METHOD_NOT_ALLOWED, "method-not-allowed", "CONNECT and TRACE are not served here.";
    TRANSFER_CODING: NOT_IMPLEMENTED, "transfer-coding", "The only transfer coding understood here is chunked.";
    BEHIND_TRAILERS: BAD_REQUEST, "bad-request",
        "The request before this one ended in a trailer section, or not at all; use another connection.";
    // limits and rules
    pub(super) BODY_TOO_LARGE: PAYLOAD_TOO_LARGE, "body-too-large", "The request's body is larger than is accepted here.";
    ORIGIN: FORBIDDEN, "origin-refused", "Pages of this origin may not open WebSockets here.";
    RATE_LIMITED: TOO_MANY_REQUESTS, "rate-limited", "You make requests too quickly; try again later.";
    UNKNOWN_ROOMS: TOO_MANY_REQUESTS, "too-many-lookups",
        "You ask for too many rooms that nobody knows; try again later.";
    // rooms
    ENCODED_ROOM: BAD_REQUEST, "encoded-room",
        "Write the room id in the path without percent-encoding, and its header's name with the hyphens and underscores it has.";
    DOT_SEGMENT: BAD_REQUEST, "dot-segment",
        "Resolve the path's dot segments (..): with them it names another room than without.";
    INVALID_ROOM: BAD_REQUEST, "invalid-room", "A room id has 1 to 128 characters of A-Z, a-z, 0-9, _ and -.";
    DUPLICATE_ROOM: BAD_REQUEST, "duplicate-room", "The room id is given more than once; give it once.";
    DUPLICATE_SID: BAD_REQUEST, "duplicate-sid", "The sid is given more than once; give it once.";
    UNASSIGNED_ROOM: NOT_FOUND, "unassigned-room", "This room is not assigned to a pod.";
    BAD_ASSIGNMENT: SERVICE_UNAVAILABLE, "bad-assignment",
        "What the directory holds for this room cannot be used; see the router's log.";
    DIRECTORY_UNAVAILABLE: SERVICE_UNAVAILABLE, "directory-unavailable",
        "The room's pod cannot be looked up at the moment; try again.";
    NO_CAPACITY: SERVICE_UNAVAILABLE, "no-capacity", "No pod has space for another room at the moment; try again.";
    // pods
    NO_BACKEND: SERVICE_UNAVAILABLE, "no-backend", "No pod is there to serve this at the moment; try again.";
    /// What Engine.IO's server says of a `sid` that it does not know (`engine.io/lib/server.ts`, code 1): its client drops
    /// the session and starts over at once.
    SESSION_UNKNOWN: BAD_REQUEST, "session-unknown", "Session ID unknown";
    POD_BUSY: SERVICE_UNAVAILABLE, "pod-busy", "The pod has as many requests as it may have; try again.";
    POD_UNREACHABLE: SERVICE_UNAVAILABLE, "pod-unreachable", "The pod cannot be reached at the moment; try again.";
    POD_ADDRESS_REFUSED: BAD_GATEWAY, "pod-address-refused",
        "The pod's address is outside the networks that pods may be in.";
    SLOW_BODY: REQUEST_TIMEOUT, "slow-body", "Nothing more came of the request's body.";
    pub(super) BROKEN_BODY: BAD_REQUEST, "bad-request", "The request's body is malformed.";
    POD_TIMEOUT: GATEWAY_TIMEOUT, "pod-timeout", "The pod did not answer in time.";
    POD_CLOSED: BAD_GATEWAY, "pod-closed",
        "The pod closed the connection without an answer; the request was not repeated.";
    BAD_RESPONSE: BAD_GATEWAY, "bad-response",
        "The pod's answer cannot be used, the router's log says why; the request was not repeated.";
    BAD_UPGRADE: BAD_GATEWAY, "bad-upgrade", "The pod answered the upgrade with something that was not asked for.";
    // what never became a request
    /// Over `--max-connections-per-client`.
    pub TOO_MANY_OF_CLIENT: TOO_MANY_REQUESTS, "too-many-client-connections",
        "You have too many connections open here; close some first.";
    /// Over `--max-connections`.
    pub TOO_MANY_CONNECTIONS: SERVICE_UNAVAILABLE, "too-many-connections",
        "This router has reached --max-connections; try again.";
    /// A head that does not come to its end.
    pub(super) SLOW_HEAD: REQUEST_TIMEOUT, "slow-head", "The request's head was not complete in time.";
    /// Bytes that are no HTTP/1.1.
    pub UNREADABLE: BAD_REQUEST, "bad-request", "This is no request as RFC 9112 has it.";
    /// Too many bytes or fields; to hyper also a length that no 64 bits could count.
    pub HEAD_TOO_LARGE: REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large",
        "The request's head is larger, has more fields or names a longer body than is accepted here.";
    /// A target beyond what hyper can hold.
    pub(super) TARGET_TOO_LONG: URI_TOO_LONG, "head-too-large", "The request's target is longer than is accepted here.";
}

/// Why the router answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// The head breaks a rule.
    Head(HeadError),
    /// It comes behind one of which it is not certain where it ended: see `doubt.rs`.
    BehindTrailers,
    /// A limit or a rule that somebody set stands against it.
    Admission(Refusal),
    /// The room's source is ambiguous or malformed.
    Affinity(AffinityError),
    /// The room cannot be routed.
    Room(RoomRefusal),
    /// A new room cannot be placed.
    Placement(PlacementError),
    /// The backend has no pod at the moment.
    NoBackend,
    /// The session's pod has gone, and the session with it.
    SessionUnknown,
    /// The pod did not answer, or not sensibly.
    Pod(Failure),
    /// The pod answered a WebSocket handshake with a 101 that does not match (protocol, key), or sent one nobody asked for.
    BadUpgrade,
}

/// An answer of the router's own as a response, but for its request id.
#[derive(Debug)]
pub(super) struct Own {
    /// The status code.
    pub(super) status: StatusCode,
    /// The header fields.
    pub(super) headers: HeaderMap,
    /// The body.
    pub(super) body: Bytes,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    error: &'a str,
    message: &'a str,
    request_id: &'a str,
}

/// The 302 of a page load. It takes the place of the request's header fields in their map.
pub(super) fn redirect(location: String, mut headers: HeaderMap) -> Own {
    headers.clear();
    let location = HeaderValue::try_from(location).expect("a template checked at start, and validated ids");
    headers.insert(LOCATION, location);
    // hyper leaves it out of an answer to HEAD.
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    // RFC 9110 section 12.5.5: the same URL asked for with another Accept goes to the pod.
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Own { status: StatusCode::FOUND, headers, body: Bytes::new() }
}

/// The answer to an `OPTIONS` that may not be forwarded any more (RFC 9110 section 7.6.2).
pub(super) fn options() -> Own {
    Own { status: StatusCode::NO_CONTENT, headers: HeaderMap::with_capacity(4), body: Bytes::new() }
}

/// When to come back, and what the rate is that has been exceeded (draft-ietf-httpapi-ratelimit-headers, from its ninth
/// version on: quota `q` in a window of `w` seconds; remaining `r`, in `t` seconds there is more). Only on a refusal: a
/// pod's answers are the pod's.
fn say_rate(headers: &mut HeaderMap, refusal: Refusal) {
    let (policy, Exceeded { rate, wait }) = match refusal {
        Refusal::RateLimited(rule, exceeded) => (format!("\"requests-{rule}\""), exceeded),
        Refusal::UnknownRooms(exceeded) => ("\"unknown-rooms\"".to_owned(), exceeded),
        Refusal::BodyTooLarge | Refusal::Origin => return,
    };
    let value = |text: String| HeaderValue::try_from(text).expect("digits and ASCII words");
    headers.insert(RETRY_AFTER, HeaderValue::from(wait));
    headers.insert(RATELIMIT_POLICY, value(format!("{policy};q={};w={}", rate.number, rate.per.as_secs())));
    headers.insert(RATELIMIT, value(format!("{policy};r=0;t={wait}")));
}

/// Whether the pod's final answer to a WebSocket handshake is a switch of protocols.
pub(super) fn is_switch(status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS
}

impl Reject {
    /// The answer to the request with this id. With `close`, the connection ends: something of the request is unread.
    pub(super) fn respond(self, request_id: &str, close: bool) -> Own {
        let answer = self.answer();
        let Answer { status, code, message } = answer;
        let body = if self == Self::SessionUnknown {
            // Engine.IO's own words, byte for byte: its clients look into them.
            format!(r#"{{"code":1,"message":"{message}"}}"#).into()
        } else {
            let body = Body { error: code, message, request_id };
            serde_json::to_vec(&body).expect("a struct of strings always serialises")
        };
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(X_POD_ROUTER_ERROR, HeaderValue::from_static(code));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if answer.may_pass() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Self::Admission(refusal) = self {
            say_rate(&mut headers, refusal);
        }
        if close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Own { status: *status, headers, body: body.into() }
    }

    /// What is said.
    pub fn answer(self) -> &'static Answer {
        match self {
            Self::Head(HeadError::BadHost) => &BAD_HOST,
            Self::Head(HeadError::BadTarget) => &BAD_TARGET,
            Self::Head(HeadError::Expectation) => &EXPECTATION,
            Self::Head(HeadError::Loop) => &LOOP,
            Self::Head(HeadError::UpgradeWithBody) => &UPGRADE_WITH_BODY,
            Self::Head(HeadError::MethodNotAllowed) => &METHOD,
            Self::Head(HeadError::TransferCoding) => &TRANSFER_CODING,
            Self::BehindTrailers => &BEHIND_TRAILERS,
            Self::Admission(Refusal::BodyTooLarge) => &BODY_TOO_LARGE,
            Self::Admission(Refusal::Origin) => &ORIGIN,
            Self::Admission(Refusal::RateLimited(..)) => &RATE_LIMITED,
            Self::Admission(Refusal::UnknownRooms(_)) => &UNKNOWN_ROOMS,
            Self::Affinity(AffinityError::EncodedRoom) => &ENCODED_ROOM,
            Self::Affinity(AffinityError::DotSegment) => &DOT_SEGMENT,
            Self::Affinity(AffinityError::InvalidRoom) => &INVALID_ROOM,
            Self::Affinity(AffinityError::DuplicateRoom) => &DUPLICATE_ROOM,
            Self::Affinity(AffinityError::DuplicateSid) => &DUPLICATE_SID,
            Self::Room(RoomRefusal::Unassigned) => &UNASSIGNED_ROOM,
            Self::Room(RoomRefusal::BadAssignment(_)) => &BAD_ASSIGNMENT,
            Self::Room(RoomRefusal::DirectoryUnavailable) | Self::Placement(PlacementError::DirectoryUnavailable) => {
                &DIRECTORY_UNAVAILABLE
            }
            Self::Placement(PlacementError::NoCapacity) => &NO_CAPACITY,
            Self::NoBackend => &NO_BACKEND,
            Self::SessionUnknown => &SESSION_UNKNOWN,
            Self::Pod(failure) => match (failure.stage, failure.timed_out) {
                (Stage::Queue, _) => &POD_BUSY,
                (Stage::Resolve | Stage::Connect | Stage::Local | Stage::Send, _) => &POD_UNREACHABLE,
                (Stage::Confine, _) => &POD_ADDRESS_REFUSED,
                (Stage::Limit, _) => &BODY_TOO_LARGE,
                (Stage::Upload, true) => &SLOW_BODY,
                // Whose client has gone gets none.
                (Stage::Upload, false) | (Stage::Gone, _) => &BROKEN_BODY,
                (Stage::Head, true) => &POD_TIMEOUT,
                (Stage::Head, false) => &POD_CLOSED,
                (Stage::Malformed, _) => &BAD_RESPONSE,
            },
            Self::BadUpgrade => &BAD_UPGRADE,
        }
    }

    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        self.answer().status
    }

    /// The reason, for programs and metrics; listed in the README.
    pub fn code(self) -> &'static str {
        self.answer().code
    }

    /// What happened and what to do, for people.
    pub fn message(self) -> &'static str {
        self.answer().message
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::rate::Rate;

    const EXCEEDED: Exceeded =
        Exceeded { rate: Rate { number: 100, per: Duration::from_secs(60), burst: 20 }, wait: 7 };

    #[test]
    fn who_is_limited_is_told_by_what_and_until_when() {
        let headers = Reject::Admission(Refusal::RateLimited(2, EXCEEDED)).respond("id", false).headers;
        assert_eq!(headers[RETRY_AFTER], "7");
        assert_eq!(headers[RATELIMIT_POLICY], "\"requests-2\";q=100;w=60");
        assert_eq!(headers[RATELIMIT], "\"requests-2\";r=0;t=7");
        let headers = Reject::Admission(Refusal::Origin).respond("id", false).headers;
        assert!(!headers.contains_key(RETRY_AFTER) && !headers.contains_key(RATELIMIT));
    }

    #[test]
    fn the_table_is_well_formed() {
        for Answer { status, code, message } in ALL {
            assert!(CODES.contains(code) && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code}");
            assert!(status.is_client_error() || status.is_server_error(), "{code}");
            let is_sentence = message.ends_with('.') && message.starts_with(|first: char| first.is_ascii_uppercase());
            assert!(is_sentence || *code == "session-unknown", "{message}");
        }
    }

    #[test]
    fn what_may_pass_says_when_to_try_again() {
        let answer = Reject::Room(RoomRefusal::DirectoryUnavailable).respond("id", true);
        assert_eq!(answer.status, 503);
        assert_eq!(answer.headers[RETRY_AFTER], "1");
        assert_eq!(answer.headers[CONNECTION], "close");
        assert_eq!(answer.headers[X_POD_ROUTER_ERROR], "directory-unavailable");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(body["requestId"], "id");
        let answer = Reject::Room(RoomRefusal::Unassigned).respond("id", false);
        assert!(!answer.headers.contains_key(RETRY_AFTER) && !answer.headers.contains_key(CONNECTION));
    }
}
