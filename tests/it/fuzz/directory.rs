//! The directory's value: whatever is in Redis, only a pod of the StatefulSet comes out, and what JSON says comes out.

use std::fmt;

use pod_router::core::assignment::{Answer, Assignment, BadAssignment, Epoch, MAX_VALUE_LEN, StatefulSet};
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::Value as Json;

use super::input::Input;

const MEMBERS: [&str; 2] = ["podId", "assignedAt"];

const PODS: &[&str] = &[
    "backend-1",
    "backend-0",
    "backend-9999",
    "backend-10000",
    "backend-01",
    "backend-",
    "backend",
    "backend-1.evil.com",
    "169.254.169.254",
    "backend-1:80",
    "Backend-1",
    "backend-\\u0031",
    "backend-1\\u0000",
    "backend-1\\n",
    "frontend-1",
    "backend-\u{ff11}",
    "\\\"",
    "backend\\u002d7",
    "",
];

const TOKENS: &[&[u8]] = &[
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"1",
    b"-1",
    b"1.0",
    b"1e3",
    b"18446744073709551615",
    b"18446744073709551616",
    b"\"podId\"",
    b"\"podId\":\"backend-2\",",
    b"\"assignedAt\":7,",
    b"\\u0000",
    b"\xff",
    b" ",
];

/// A value, mostly valid.
fn value(input: &mut Input) -> Vec<u8> {
    let number = input.number();
    let epoch = match input.below(8) {
        0 => input.pick(&["-1", "1.0", "1e3", "\"1\"", "null", "true", "01", "18446744073709551616"]).to_owned(),
        _ => number.to_string(),
    };
    let name = input.pick(&["podId", "podId", "podId", "podId", "\\u0070odId", "podid"]);
    let pod = match input.below(2) {
        0 => format!("backend-{}", input.below(12_000)),
        _ => input.pick(PODS).to_owned(),
    };
    let mut members = vec![format!("\"{name}\":\"{pod}\""), format!("\"assignedAt\":{epoch}")];
    for _ in 0..input.below(3) {
        let nested = "[".repeat(input.below(200));
        let more = ["\"participantCount\":4", "\"x\":{\"podId\":\"backend-3\"}", "\"y\":[1,2.5e-3,\"\\ud83d\\ude00\"]"];
        members.push(input.pick(&more).to_owned());
        if input.one_in(30) {
            members.push(format!("\"deep\":{nested}{}", "]".repeat(nested.len())));
        }
        if input.one_in(30) {
            members.push(format!("\"long\":\"{}\"", "x".repeat(input.below(2 * MAX_VALUE_LEN))));
        }
    }
    if input.one_in(2) {
        let last = members.len() - 1;
        members.swap(0, input.below(last + 1));
    }
    if input.one_in(20) {
        // What serde would take for the struct as well.
        members = vec![format!("\"{pod}\""), epoch];
    }
    let (open, close) = if members[0].contains(':') { ("{", "}") } else { ("[", "]") };
    let space = input.pick(&["", "", " ", "\n"]);
    let mut bytes = format!("{space}{open}{}{close}", members.join(",")).into_bytes();
    input.damage(&mut bytes, TOKENS);
    bytes
}

/// The members that matter, in their order, with those that are there twice: `serde_json::Value` would keep the last.
/// The others are the backends' own, and only have to end where JSON says.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, Json)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if MEMBERS.contains(&name.as_str()) {
                members.push((name, map.next_value()?));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(members)
    }
}

/// What the value says, by a reading of every member; `None` where it is no object that says it.
fn oracle(bytes: &[u8]) -> Option<(String, u64)> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let members = reader.deserialize_map(Members).ok()?;
    reader.end().ok()?;
    let only = |name: &str| {
        let mut values = members.iter().filter(|(member, _)| member == name).map(|(_, value)| value);
        values.next().filter(|_| values.next().is_none())
    };
    Some((only("podId")?.as_str()?.to_owned(), only("assignedAt")?.as_u64()?))
}

/// `backend-` and a number of one to four digits as one writes it.
fn is_pod(text: &str) -> bool {
    let ordinal = text.strip_prefix("backend-").and_then(|digits| digits.parse::<u32>().ok());
    ordinal.is_some_and(|ordinal| ordinal <= 9999 && text == format!("backend-{ordinal}"))
}

#[test]
fn the_directorys_value_is_read_as_json_and_names_a_pod_of_the_statefulset_or_nothing() {
    let set = StatefulSet::parse("backend").expect("a name");
    super::run("directory", 50_000, |input| {
        let bytes = value(input);
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let said = oracle(&bytes);
        let answer = Answer::decode(&bytes, &set);
        match &answer {
            Answer::Assigned(Assignment { pod, epoch }) => {
                assert!(is_pod(pod.as_str()), "{pod} from {shown:?}");
                assert_eq!(said, Some((pod.to_string(), epoch.0)), "{answer:?} from {shown:?}");
            }
            Answer::Unusable(BadAssignment::TooLarge) => assert!(bytes.len() > MAX_VALUE_LEN),
            Answer::Unusable(BadAssignment::ForeignPod) => {
                assert!(said.as_ref().is_some_and(|(pod, _)| !is_pod(pod)), "{said:?} from {shown:?}");
            }
            Answer::Unusable(BadAssignment::Malformed | BadAssignment::NoPodId | BadAssignment::NoEpoch) => {
                assert_eq!(said, None, "{shown:?}");
            }
            Answer::Unassigned | Answer::Unusable(BadAssignment::WrongType) => panic!("{answer:?} from {shown:?}"),
        }
        let own = Assignment { pod: set.nth(input.below(10_000) as u16), epoch: Epoch(input.number()) };
        assert_eq!(Answer::decode(own.encode().as_bytes(), &set), Answer::Assigned(own));
        matches!(answer, Answer::Assigned(_))
    });
}
