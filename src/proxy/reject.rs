//! The answers that are the router's own: the only place that picks a status code.
//!
//! Every way a request can fail to be routed or forwarded is a variant of [`Reject`], mapped here by exhaustive
//! matches to a status, a code for programs, a sentence for people and whether a retry makes sense. What never became
//! a request is answered by `canned.rs`.

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

/// Every code of an answer of the router's own, the listener's included, and of what is cut without one; the README's
/// list, and the label values of `pod_router_rejected_total`.
pub const CODES: [&str; 37] = [
    "bad-assignment",
    "bad-host",
    "bad-proxy-header",
    "bad-request",
    "bad-response",
    "bad-upgrade",
    "body-too-large",
    "directory-unavailable",
    "dot-segment",
    "duplicate-room",
    "duplicate-sid",
    "encoded-room",
    "expectation",
    "head-too-large",
    "invalid-room",
    "loop",
    "method-not-allowed",
    "no-backend",
    "no-capacity",
    "origin-refused",
    "pod-address-refused",
    "pod-busy",
    "pod-closed",
    "pod-stalled",
    "pod-timeout",
    "pod-unreachable",
    "rate-limited",
    "session-unknown",
    "slow-body",
    "slow-head",
    "slow-reader",
    "too-many-client-connections",
    "too-many-connections",
    "too-many-lookups",
    "transfer-coding",
    "unassigned-room",
    "upgrade-with-body",
];

/// What Engine.IO's server says of a `sid` that it does not know (`engine.io/lib/server.ts`, code 1): its client drops the
/// session and starts over at once.
const SESSION_UNKNOWN: &str = "Session ID unknown";

/// Why the router answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// The head breaks a rule.
    Head(HeadError),
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

const TOO_LARGE: &str = "The request's body is larger than is accepted here.";

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
    pub(super) fn answer(self, request_id: &str, close: bool) -> Answer {
        let body = if self == Self::SessionUnknown {
            // Engine.IO's own words, byte for byte: its clients look into them.
            format!(r#"{{"code":1,"message":"{SESSION_UNKNOWN}"}}"#).into()
        } else {
            let body = Body { error: self.code(), message: self.message(), request_id };
            serde_json::to_vec(&body).expect("a struct of strings always serialises")
        };
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(X_POD_ROUTER_ERROR, HeaderValue::from_static(self.code()));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let status = self.status();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Self::Admission(refusal) = self {
            say_rate(&mut headers, refusal);
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
            Self::Admission(Refusal::BodyTooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Admission(Refusal::Origin) => StatusCode::FORBIDDEN,
            Self::Admission(Refusal::RateLimited(..) | Refusal::UnknownRooms(_)) => StatusCode::TOO_MANY_REQUESTS,
            Self::Affinity(
                AffinityError::EncodedRoom
                | AffinityError::DotSegment
                | AffinityError::InvalidRoom
                | AffinityError::DuplicateRoom
                | AffinityError::DuplicateSid,
            ) => StatusCode::BAD_REQUEST,
            Self::Room(RoomRefusal::Unassigned) => StatusCode::NOT_FOUND,
            Self::Room(RoomRefusal::BadAssignment(_) | RoomRefusal::DirectoryUnavailable)
            | Self::Placement(PlacementError::NoCapacity | PlacementError::DirectoryUnavailable) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NoBackend => StatusCode::SERVICE_UNAVAILABLE,
            Self::SessionUnknown => StatusCode::BAD_REQUEST,
            Self::Pod(failure) => match (failure.stage, failure.timed_out) {
                (Stage::Queue | Stage::Resolve | Stage::Connect | Stage::Send, _) => StatusCode::SERVICE_UNAVAILABLE,
                (Stage::Confine, _) => StatusCode::BAD_GATEWAY,
                (Stage::Limit, _) => StatusCode::PAYLOAD_TOO_LARGE,
                (Stage::Upload, true) => StatusCode::REQUEST_TIMEOUT,
                (Stage::Upload, false) => StatusCode::BAD_REQUEST,
                (Stage::Head, true) => StatusCode::GATEWAY_TIMEOUT,
                (Stage::Head, false) | (Stage::Malformed, _) => StatusCode::BAD_GATEWAY,
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
            Self::Admission(refusal) => refusal.code(),
            Self::Affinity(error) => error.code(),
            Self::Room(refusal) => refusal.code(),
            Self::Placement(PlacementError::NoCapacity) => "no-capacity",
            Self::Placement(PlacementError::DirectoryUnavailable) => "directory-unavailable",
            Self::NoBackend => "no-backend",
            Self::SessionUnknown => "session-unknown",
            Self::Pod(failure) => match (failure.stage, failure.timed_out) {
                (Stage::Queue, _) => "pod-busy",
                (Stage::Resolve | Stage::Connect | Stage::Send, _) => "pod-unreachable",
                (Stage::Confine, _) => "pod-address-refused",
                (Stage::Limit, _) => Refusal::BodyTooLarge.code(),
                (Stage::Upload, true) => "slow-body",
                (Stage::Upload, false) => "bad-request",
                (Stage::Head, true) => "pod-timeout",
                (Stage::Head, false) => "pod-closed",
                (Stage::Malformed, _) => "bad-response",
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
            Self::Admission(Refusal::BodyTooLarge) => TOO_LARGE,
            Self::Admission(Refusal::Origin) => "Pages of this origin may not open WebSockets here.",
            Self::Admission(Refusal::RateLimited(..)) => "You make requests too quickly; try again later.",
            Self::Admission(Refusal::UnknownRooms(_)) => {
                "You ask for too many rooms that nobody knows; try again later."
            }
            Self::Affinity(AffinityError::EncodedRoom) => "Write the room id in the path without percent-encoding.",
            Self::Affinity(AffinityError::DotSegment) => {
                "Resolve the path's dot segments (..): with them it names another room than without."
            }
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
            Self::NoBackend => "No pod is there to serve this at the moment; try again.",
            Self::SessionUnknown => SESSION_UNKNOWN,
            Self::Pod(failure) => match (failure.stage, failure.timed_out) {
                (Stage::Queue, _) => "The pod has as many requests as it may have; try again.",
                (Stage::Resolve | Stage::Connect | Stage::Send, _) => {
                    "The pod cannot be reached at the moment; try again."
                }
                (Stage::Confine, _) => "The pod's address is outside the networks that pods may be in.",
                (Stage::Limit, _) => TOO_LARGE,
                (Stage::Upload, true) => "Nothing more came of the request's body.",
                (Stage::Upload, false) => "The request's body broke off, or is malformed.",
                (Stage::Head, true) => "The pod did not answer in time.",
                (Stage::Head, false) => {
                    "The pod closed the connection without an answer; the request was not repeated."
                }
                (Stage::Malformed, _) => {
                    "The pod's answer cannot be used, the router's log says why; the request was not repeated."
                }
            },
            Self::BadUpgrade => "The pod answered the upgrade with something that was not asked for.",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::assignment::BadAssignment;
    use crate::core::rate::Rate;

    const EXCEEDED: Exceeded =
        Exceeded { rate: Rate { number: 100, per: Duration::from_secs(60), burst: 20 }, wait: 7 };

    #[test]
    fn who_is_limited_is_told_by_what_and_until_when() {
        let headers = Reject::Admission(Refusal::RateLimited(2, EXCEEDED)).answer("id", false).headers;
        assert_eq!(headers[RETRY_AFTER], "7");
        assert_eq!(headers[RATELIMIT_POLICY], "\"requests-2\";q=100;w=60");
        assert_eq!(headers[RATELIMIT], "\"requests-2\";r=0;t=7");
        let headers = Reject::Admission(Refusal::Origin).answer("id", false).headers;
        assert!(!headers.contains_key(RETRY_AFTER) && !headers.contains_key(RATELIMIT));
    }

    #[test]
    fn every_code_is_listed() {
        let stages = [
            Stage::Resolve,
            Stage::Confine,
            Stage::Queue,
            Stage::Connect,
            Stage::Send,
            Stage::Upload,
            Stage::Limit,
            Stage::Head,
            Stage::Malformed,
        ];
        let failures = stages
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
            Reject::Admission(Refusal::BodyTooLarge),
            Reject::Admission(Refusal::Origin),
            Reject::Admission(Refusal::RateLimited(1, EXCEEDED)),
            Reject::Admission(Refusal::UnknownRooms(EXCEEDED)),
            Reject::Affinity(AffinityError::EncodedRoom),
            Reject::Affinity(AffinityError::DotSegment),
            Reject::Affinity(AffinityError::InvalidRoom),
            Reject::Affinity(AffinityError::DuplicateRoom),
            Reject::Affinity(AffinityError::DuplicateSid),
            Reject::Room(RoomRefusal::Unassigned),
            Reject::Room(RoomRefusal::BadAssignment(BadAssignment::Malformed)),
            Reject::Room(RoomRefusal::DirectoryUnavailable),
            Reject::Placement(PlacementError::NoCapacity),
            Reject::Placement(PlacementError::DirectoryUnavailable),
            Reject::NoBackend,
            Reject::SessionUnknown,
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
