//! Which pod owns a room: the value in Redis, and what a lookup made of it.
//!
//! The value is written by the backends, and whoever can write to Redis can write anything, so it is read
//! as hostile: a pod id is accepted only in the StatefulSet's own form, because a host name to dial is made
//! from it (a foreign one would let the directory point the router at any address).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest directory value that is looked at, in bytes. A real one has about a hundred.
pub const MAX_VALUE_LEN: usize = 4096;

/// The highest ordinal a pod name may carry.
const MAX_ORDINAL: u16 = 9999;

/// The StatefulSet whose pods the router serves; decides which pod ids are its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatefulSet(String);

/// The name of a pod of the StatefulSet: `<statefulset>-<ordinal>`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId(Arc<str>);

/// `assignedAt`, in milliseconds since 1970: of two assignments of a room the higher one is the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// The directory's word on a room: its pod, since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The pod that owns the room.
    pub pod: PodId,
    /// The assignment's epoch.
    pub epoch: Epoch,
}

/// Why a directory value is refused. The room is then answered 503 `bad-assignment`, never dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadAssignment {
    /// The value is not a JSON object, or has a field twice.
    Malformed,
    /// It has no `podId`, or one that is no string.
    NoPodId,
    /// It has no `assignedAt`, or one that is no whole number of milliseconds.
    NoEpoch,
    /// The pod id is not one of the StatefulSet's.
    ForeignPod,
    /// The key holds another Redis type than a string.
    WrongType,
    /// The value is longer than [`MAX_VALUE_LEN`].
    TooLarge,
}

/// What the directory says of a room when asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The room has a pod.
    Assigned(Assignment),
    /// The directory does not know the room.
    Unassigned,
    /// There is a value, and it cannot be used.
    Unusable(BadAssignment),
}

/// What a lookup produced, freshness included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// An answer within its time to live, or just fetched.
    Fresh(Answer),
    /// The last assignment known, used because the directory cannot be asked.
    Stale(Assignment),
    /// The directory cannot be asked, and nothing usable is remembered.
    Unknown,
}

/// A pod's heartbeat, as the backends write it to `pod:<podId>:metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Heartbeat {
    /// Rooms the pod holds.
    pub active_rooms: u64,
    /// Participants in those rooms.
    pub total_participants: u64,
    /// When it was written, in milliseconds since 1970.
    pub last_update: u64,
}

/// How old a heartbeat may be for its pod to count as healthy: three of the default 60 s.
pub const HEARTBEAT_FRESH: Duration = Duration::from_secs(180);

// === impl StatefulSet ===

impl StatefulSet {
    /// A StatefulSet's name: a DNS label (RFC 1123), short enough for an ordinal to follow.
    pub fn parse(name: &str) -> Option<Self> {
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = name.as_bytes();
        let valid = name.len() <= 57
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        valid.then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The pod that `text` names, if it is one of this StatefulSet.
    pub fn pod(&self, text: &str) -> Option<PodId> {
        let ordinal = text.strip_prefix(self.0.as_str())?.strip_prefix('-')?;
        let canonical = !ordinal.is_empty()
            && ordinal.bytes().all(|b| b.is_ascii_digit())
            && (ordinal == "0" || !ordinal.starts_with('0'));
        (canonical && ordinal.parse::<u16>().is_ok_and(|n| n <= MAX_ORDINAL)).then(|| PodId(text.into()))
    }

    /// The pod with this ordinal.
    pub fn nth(&self, ordinal: u16) -> PodId {
        PodId(format!("{}-{ordinal}", self.0).into())
    }
}

// === impl PodId ===

impl PodId {
    /// The pod's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Its name, shared.
impl From<PodId> for Arc<str> {
    fn from(pod: PodId) -> Self {
        pod.0
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Answer ===

/// The fields the router needs; others are the backends' own.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Value<'a> {
    #[serde(borrow)]
    pod_id: std::borrow::Cow<'a, str>,
    assigned_at: u64,
}

/// A new assignment as it is written to Redis.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewValue<'a> {
    pod_id: &'a str,
    participant_count: u64,
    assigned_at: u64,
}

impl Answer {
    /// Reads the value under a room's key: `{"podId":"backend-1","participantCount":4,"assignedAt":1634567890123}`.
    pub fn decode(value: &[u8], statefulset: &StatefulSet) -> Self {
        if value.len() > MAX_VALUE_LEN {
            return Self::Unusable(BadAssignment::TooLarge);
        }
        // serde would also read a struct from an array of its fields' values.
        let is_object = value.trim_ascii_start().first() == Some(&b'{');
        let parsed = is_object.then(|| serde_json::from_slice::<Value<'_>>(value));
        let Some(Ok(value)) = parsed else {
            return Self::Unusable(if is_object { flaw(value) } else { BadAssignment::Malformed });
        };
        match statefulset.pod(&value.pod_id) {
            Some(pod) => Self::Assigned(Assignment { pod, epoch: Epoch(value.assigned_at) }),
            None => Self::Unusable(BadAssignment::ForeignPod),
        }
    }
}

/// The same fields, whatever they hold.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Loose {
    pod_id: Option<serde_json::Value>,
    assigned_at: Option<serde_json::Value>,
}

/// What is wrong with an object that is no assignment. Read a second time for this: it is rare.
fn flaw(value: &[u8]) -> BadAssignment {
    match serde_json::from_slice::<Loose>(value) {
        Ok(found) if !found.pod_id.as_ref().is_some_and(serde_json::Value::is_string) => BadAssignment::NoPodId,
        Ok(found) if !found.assigned_at.as_ref().is_some_and(serde_json::Value::is_u64) => BadAssignment::NoEpoch,
        Ok(_) | Err(_) => BadAssignment::Malformed,
    }
}

impl Assignment {
    /// The JSON of a room that has just been placed and has nobody in it yet.
    pub fn encode(&self) -> String {
        serde_json::to_string(&NewValue { pod_id: self.pod.as_str(), participant_count: 0, assigned_at: self.epoch.0 })
            .expect("a struct of strings and numbers always serialises")
    }
}

impl BadAssignment {
    /// The reason as a log field and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoPodId => "no-pod-id",
            Self::NoEpoch => "no-assigned-at",
            Self::ForeignPod => "foreign-pod",
            Self::WrongType => "wrong-type",
            Self::TooLarge => "too-large",
        }
    }

    /// The reason for a person: what is wrong with the value.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Malformed => "it is not a JSON object, or has a field twice",
            Self::NoPodId => "podId is missing or is not a string",
            Self::NoEpoch => "assignedAt is missing or is not a whole number of milliseconds",
            Self::ForeignPod => "podId names no pod of --statefulset",
            Self::WrongType => "the key holds another Redis type than a string",
            Self::TooLarge => "it is longer than 4096 bytes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend() -> StatefulSet {
        StatefulSet::parse("backend").expect("a name")
    }

    fn decode(value: &str) -> Answer {
        Answer::decode(value.as_bytes(), &backend())
    }

    #[test]
    fn the_missions_value_is_read_and_other_fields_are_ignored() {
        let value = r#"{"podId":"backend-1","participantCount":4,"assignedAt":1634567890123,"x":{"y":[1]}}"#;
        assert_eq!(
            decode(value),
            Answer::Assigned(Assignment { pod: backend().nth(1), epoch: Epoch(1_634_567_890_123) })
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        let assignment = Assignment { pod: backend().nth(7), epoch: Epoch(5) };
        assert_eq!(decode(&assignment.encode()), Answer::Assigned(assignment));
    }

    #[test]
    fn a_value_that_is_not_the_missions_is_refused_by_what_is_wrong_with_it() {
        use BadAssignment::{Malformed, NoEpoch, NoPodId};
        for (value, why) in [
            ("", Malformed),
            ("null", Malformed),
            ("[]", Malformed),
            ("\"backend-1\"", Malformed),
            ("backend-1", Malformed),
            ("{", Malformed),
            ("\u{0}", Malformed),
            (r#"["backend-1",1]"#, Malformed),
            (r#"{"podId":"backend-1","podId":"backend-2","assignedAt":1}"#, Malformed),
            (r#"{"podId":"backend-1","assignedAt":1} trailing"#, Malformed),
            ("{}", NoPodId),
            (r#"{"assignedAt":1}"#, NoPodId),
            (r#"{"podid":"backend-1","assignedAt":1}"#, NoPodId),
            (r#"{"podId":1,"assignedAt":1}"#, NoPodId),
            (r#"{"podId":null,"assignedAt":1}"#, NoPodId),
            (r#"{"podId":"backend-1"}"#, NoEpoch),
            (r#"{"podId":"backend-1","assignedAt":null}"#, NoEpoch),
            (r#"{"podId":"backend-1","assignedAt":"1"}"#, NoEpoch),
            (r#"{"podId":"backend-1","assignedAt":-1}"#, NoEpoch),
            (r#"{"podId":"backend-1","assignedAt":1634567890123.5}"#, NoEpoch),
            (r#"{"podId":"backend-1","assignedAt":18446744073709551616}"#, NoEpoch),
        ] {
            assert_eq!(decode(value), Answer::Unusable(why), "{value}");
        }
        assert!(BadAssignment::TooLarge.sentence().contains(&MAX_VALUE_LEN.to_string()));
        let large = format!(r#"{{"podId":"backend-1","assignedAt":1,"x":"{}"}}"#, "x".repeat(MAX_VALUE_LEN));
        assert_eq!(decode(&large), Answer::Unusable(BadAssignment::TooLarge));
    }

    #[test]
    fn only_the_statefulsets_own_pods_are_pods() {
        let set = backend();
        for good in ["backend-0", "backend-9999"] {
            assert_eq!(set.pod(good).as_ref().map(PodId::as_str), Some(good));
        }
        for bad in [
            "",
            "backend",
            "backend-",
            "backend-01",
            "backend-10000",
            "backend--1",
            "backend-1 ",
            "backend-1.",
            "backend-1.evil.com",
            "Backend-1",
            "169.254.169.254",
            "backend-1:80",
            "user@backend-1",
            "backend-1/x",
            "backend-+1",
            "frontend-1",
            "backend-1%00",
            "backend-１",
        ] {
            assert_eq!(set.pod(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_statefulset_is_a_dns_label() {
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(58)] {
            assert_eq!(StatefulSet::parse(bad), None, "{bad}");
        }
        assert!(StatefulSet::parse("backend-v2").is_some());
    }
}
