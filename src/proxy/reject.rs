//! The answers that are the router's own: the only place that picks a status code.
//!
//! Every way a request can fail to be routed or forwarded is a variant of [`Reject`], mapped here by exhaustive
//! matches to a status, a code for programs, a sentence for people and whether a retry makes sense.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use crate::core::affinity::AffinityError;
use crate::core::decision::{Failure, RoomRefusal, Stage};
use crate::core::head::HeadError;
use crate::directory::resolver::PlacementError;

/// The header that tells an answer of the router's own from a pod's.
pub(super) const X_POD_ROUTER_ERROR: HeaderName = HeaderName::from_static("x-pod-router-error");

/// Every code of an answer of the router's own, the listener's included, and of what is cut without one; the README's
/// list, and the label values of `pod_router_rejected_total`.
pub const CODES: [&str; 25] = [
    "bad-assignment",
    "bad-host",
    "bad-request",
    "bad-upgrade",
    "directory-unavailable",
    "duplicate-room",
    "duplicate-sid",
    "encoded-room",
    "expectation",
    "head-too-large",
    "invalid-room",
    "loop",
    "method-not-allowed",
    "no-capacity",
    "pod-closed",
    "pod-stalled",
    "pod-timeout",
    "pod-unreachable",
    "slow-body",
    "slow-head",
    "slow-reader",
    "too-many-connections",
    "transfer-coding",
    "unassigned-room",
    "upgrade-with-body",
];

/// Why the router answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// The head breaks a rule.
    Head(HeadError),
    /// The room's source is ambiguous or malformed.
    Affinity(AffinityError),
    /// The room cannot be routed.
    Room(RoomRefusal),
    /// A new room cannot be placed.
    Placement(PlacementError),
    /// The pod did not answer, or not sensibly.
    Pod(Failure),
    /// The pod answered a WebSocket handshake with a 101 that does not match (protocol, key), or sent one nobody asked for.
    BadUpgrade,
}

/// An answer of the router's own, but for its request id.
#[derive(Debug)]
pub(super) struct Answer {
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

/// The 302 of a page load.
pub(super) fn redirect(location: &str) -> Answer {
    let mut headers = HeaderMap::with_capacity(8);
    let location = HeaderValue::from_str(location).expect("a template checked at start, and validated ids");
    headers.insert(LOCATION, location);
    // hyper leaves it out of an answer to HEAD.
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    // RFC 9110 section 12.5.5: the same URL asked for with another Accept goes to the pod.
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Answer { status: StatusCode::FOUND, headers, body: Bytes::new() }
}

/// The answer to an `OPTIONS` that may not be forwarded any more (RFC 9110 section 7.6.2).
pub(super) fn options(close: bool) -> Answer {
    let mut headers = HeaderMap::with_capacity(4);
    if close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Answer { status: StatusCode::NO_CONTENT, headers, body: Bytes::new() }
}

/// Written to a connection over `--max-connections` before it is closed; it gets no request handled.
pub const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    x-pod-router-error: too-many-connections\r\nretry-after: 1\r\nconnection: close\r\n\
    content-type: application/json\r\ncontent-length: 113\r\n\r\n\
    {\"error\":\"too-many-connections\",\"message\":\"This router has reached --max-connections; try again.\",\"requestId\":\"\"}";

/// Written to a connection whose request head does not come to an end, before it is closed.
pub(super) const SLOW_HEAD: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    x-pod-router-error: slow-head\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 93\r\n\r\n\
    {\"error\":\"slow-head\",\"message\":\"The request's head was not complete in time.\",\"requestId\":\"\"}";

/// Whether the pod's final answer to a WebSocket handshake is a switch of protocols.
pub(super) fn is_switch(status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS
}

impl Reject {
    /// The answer to the request with this id. With `close`, the connection ends: something of the request is unread.
    pub(super) fn answer(self, request_id: &str, close: bool) -> Answer {
        let body = Body { error: self.code(), message: self.message(), request_id };
        let body = serde_json::to_vec(&body).expect("a struct of strings always serialises");
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(X_POD_ROUTER_ERROR, HeaderValue::from_static(self.code()));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let status = self.status();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Answer { status, headers, body: body.into() }
    }

    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Head(HeadError::BadHost | HeadError::BadTarget | HeadError::UpgradeWithBody) => {
                StatusCode::BAD_REQUEST
            }
            Self::Head(HeadError::Expectation) => StatusCode::EXPECTATION_FAILED,
            Self::Head(HeadError::Loop) => StatusCode::LOOP_DETECTED,
            Self::Head(HeadError::MethodNotAllowed) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Head(HeadError::TransferCoding) => StatusCode::NOT_IMPLEMENTED,
            Self::Affinity(
                AffinityError::EncodedRoom
                | AffinityError::InvalidRoom
                | AffinityError::DuplicateRoom
                | AffinityError::DuplicateSid,
            ) => StatusCode::BAD_REQUEST,
            Self::Room(RoomRefusal::Unassigned) => StatusCode::NOT_FOUND,
            Self::Room(RoomRefusal::BadAssignment(_) | RoomRefusal::DirectoryUnavailable)
            | Self::Placement(PlacementError::NoCapacity | PlacementError::DirectoryUnavailable) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Pod(failure) => match (failure.stage, failure.timed_out) {
                (Stage::Resolve | Stage::Connect | Stage::Send, _) => StatusCode::SERVICE_UNAVAILABLE,
                (Stage::Upload, true) => StatusCode::REQUEST_TIMEOUT,
                (Stage::Upload, false) => StatusCode::BAD_REQUEST,
                (Stage::Head, true) => StatusCode::GATEWAY_TIMEOUT,
                (Stage::Head, false) => StatusCode::BAD_GATEWAY,
            },
            Self::BadUpgrade => StatusCode::BAD_GATEWAY,
        }
    }

    /// The reason, for programs and metrics; listed in the README.
    pub fn code(self) -> &'static str {
        match self {
            Self::Head(HeadError::BadHost) => "bad-host",
            Self::Head(HeadError::BadTarget) => "bad-request",
            Self::Head(HeadError::Expectation) => "expectation",
            Self::Head(HeadError::Loop) => "loop",
            Self::Head(HeadError::UpgradeWithBody) => "upgrade-with-body",
            Self::Head(HeadError::MethodNotAllowed) => "method-not-allowed",
            Self::Head(HeadError::TransferCoding) => "transfer-coding",
            Self::Affinity(error) => error.code(),
            Self::Room(refusal) => refusal.code(),
            Self::Placement(PlacementError::NoCapacity) => "no-capacity",
            Self::Placement(PlacementError::DirectoryUnavailable) => "directory-unavailable",
            Self::Pod(failure) => match (failure.stage, failure.timed_out) {
                (Stage::Resolve | Stage::Connect | Stage::Send, _) => "pod-unreachable",
                (Stage::Upload, true) => "slow-body",
                (Stage::Upload, false) => "bad-request",
                (Stage::Head, true) => "pod-timeout",
                (Stage::Head, false) => "pod-closed",
            },
            Self::BadUpgrade => "bad-upgrade",
        }
    }

    /// What happened and what to do, for people.
    pub fn message(self) -> &'static str {
        match self {
            Self::Head(HeadError::BadHost) => "The request needs exactly one valid Host header.",
            Self::Head(HeadError::BadTarget) => "The request's target is neither a path nor an http URI.",
            Self::Head(HeadError::Expectation) => "The only expectation understood here is 100-continue.",
            Self::Head(HeadError::Loop) => {
                "The request has passed pod-router several times: a backend's address leads back to the router."
            }
            Self::Head(HeadError::UpgradeWithBody) => "A WebSocket handshake must not have a body.",
            Self::Head(HeadError::MethodNotAllowed) => "CONNECT and TRACE are not served here.",
            Self::Head(HeadError::TransferCoding) => "The only transfer coding understood here is chunked.",
            Self::Affinity(AffinityError::EncodedRoom) => "Write the room id in the path without percent-encoding.",
            Self::Affinity(AffinityError::InvalidRoom) => {
                "A room id has 1 to 128 characters of A-Z, a-z, 0-9, _ and -."
            }
            Self::Affinity(AffinityError::DuplicateRoom) => "The room id is given more than once; give it once.",
            Self::Affinity(AffinityError::DuplicateSid) => "The sid is given more than once; give it once.",
            Self::Room(RoomRefusal::Unassigned) => "This room is not assigned to a pod.",
            Self::Room(RoomRefusal::BadAssignment(_)) => {
                "What the directory holds for this room cannot be used; see the router's log."
            }
            Self::Room(RoomRefusal::DirectoryUnavailable) | Self::Placement(PlacementError::DirectoryUnavailable) => {
                "The room's pod cannot be looked up at the moment; try again."
            }
            Self::Placement(PlacementError::NoCapacity) => {
                "No pod has space for another room at the moment; try again."
            }
            Self::Pod(failure) => match (failure.stage, failure.timed_out) {
                (Stage::Resolve | Stage::Connect | Stage::Send, _) => {
                    "The pod cannot be reached at the moment; try again."
                }
                (Stage::Upload, true) => "Nothing more came of the request's body.",
                (Stage::Upload, false) => "The request's body broke off, or is malformed.",
                (Stage::Head, true) => "The pod did not answer in time.",
                (Stage::Head, false) => {
                    "The pod closed the connection without a valid answer; the request was not repeated."
                }
            },
            Self::BadUpgrade => "The pod answered the upgrade with something that was not asked for.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::assignment::BadAssignment;

    #[test]
    fn the_canned_answers_are_well_formed() {
        for answer in [TOO_MANY_CONNECTIONS, SLOW_HEAD] {
            let text = std::str::from_utf8(answer).expect("ASCII");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
            let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
            let code = body["error"].as_str().expect("a code");
            assert!(CODES.contains(&code) && head.contains(&format!("x-pod-router-error: {code}\r\n")));
        }
    }

    #[test]
    fn every_code_is_listed() {
        let failures = [Stage::Resolve, Stage::Connect, Stage::Send, Stage::Upload, Stage::Head]
            .into_iter()
            .flat_map(|stage| [true, false].map(|timed_out| Reject::Pod(Failure { stage, sent: false, timed_out })));
        let all = [
            Reject::Head(HeadError::BadHost),
            Reject::Head(HeadError::BadTarget),
            Reject::Head(HeadError::Expectation),
            Reject::Head(HeadError::Loop),
            Reject::Head(HeadError::MethodNotAllowed),
            Reject::Head(HeadError::TransferCoding),
            Reject::Head(HeadError::UpgradeWithBody),
            Reject::Affinity(AffinityError::EncodedRoom),
            Reject::Affinity(AffinityError::InvalidRoom),
            Reject::Affinity(AffinityError::DuplicateRoom),
            Reject::Affinity(AffinityError::DuplicateSid),
            Reject::Room(RoomRefusal::Unassigned),
            Reject::Room(RoomRefusal::BadAssignment(BadAssignment::Malformed)),
            Reject::Room(RoomRefusal::DirectoryUnavailable),
            Reject::Placement(PlacementError::NoCapacity),
            Reject::Placement(PlacementError::DirectoryUnavailable),
            Reject::BadUpgrade,
        ];
        for reject in all.into_iter().chain(failures) {
            assert!(CODES.contains(&reject.code()), "{}", reject.code());
        }
        assert!(CODES.is_sorted());
    }

    #[test]
    fn what_may_pass_says_when_to_try_again() {
        let answer = Reject::Room(RoomRefusal::DirectoryUnavailable).answer("id", true);
        assert_eq!(answer.status, 503);
        assert_eq!(answer.headers[RETRY_AFTER], "1");
        assert_eq!(answer.headers[CONNECTION], "close");
        assert_eq!(answer.headers[X_POD_ROUTER_ERROR], "directory-unavailable");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(body["requestId"], "id");
        let answer = Reject::Room(RoomRefusal::Unassigned).answer("id", false);
        assert!(!answer.headers.contains_key(RETRY_AFTER) && !answer.headers.contains_key(CONNECTION));
    }
}
