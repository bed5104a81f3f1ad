//! Where a room comes from: the rules against a slow reading of the same head, and against Node's own URL parser, with
//! which Socket.IO's server reads the query.

use std::io::Write;
use std::process::{Command, Stdio};

use http::request::Parts;
use pod_router::core::affinity::{Affinity, AffinityError, AffinityRule};
use pod_router::core::head;
use pod_router::core::path;
use pod_router::core::room::RoomId;
use pod_router::core::session::{self, Session};
use serde_json::Value as Json;

use super::input::Input;
use super::request::{end_to_end, parts};

const SEGMENTS: &[&str] = &[
    "room_a",
    "room_a",
    "room_b-9",
    "room%5fa",
    "%72oom_a",
    "room_a%00",
    "x%2froom_a",
    "x%5Croom_a%2f",
    "x\\room_a",
    "%252f",
    "room_a;v=1",
    "x;%3b",
    "room_a%3Bsid=1",
    "x%3fsid=1",
    "user:password@host",
    "ROOM_a",
    "room_",
    "experiment",
    "socket.io",
    "api",
    "",
    ".",
    "..",
    "%",
    "%zz",
    "room_%61",
    "room_\u{61}",
    "a+b",
];

const NAMES: &[&str] =
    &["roomId", "roomId", "room%49d", "roomid", "roomId[]", "sid", "s%69d", "EIO", "%72oomId", "room+Id", "", "pod"];

const VALUES: &[&str] = &[
    "room_a",
    "room_a",
    "room_b",
    "room%5Fa",
    "room+a",
    "room%2Ba",
    "r%",
    "%ff",
    "%E2%82%AC",
    "a=b",
    "",
    "x%00",
    "-_9",
    "backend-1~k3Jx",
    "backend-1%7Ex~y",
    "~x",
    "x~",
];

const TOKENS: &[&[u8]] = &[
    b"/",
    b"?",
    b"&",
    b";",
    b"=",
    b"%",
    b"%2",
    b"#",
    b"roomId=",
    b"room_a",
    b"%26",
    b"%3D",
    b"&&",
    b"?roomId=room_x",
    b"+",
];

const COOKIES: &[&str] = &[
    "room=room_a",
    " room=room_b ",
    "room =room_c",
    "Room=x",
    "a=b",
    "room",
    "room=\"room_a\"",
    "y=\u{e9}",
    "room=\u{e9}",
    "",
    "=",
];

/// The rules under test, and the same again as the oracle reads them.
const RULES: &[(&str, Source)] = &[
    (r"path:room_[\w-]+", Source::Path(|text| text.starts_with("room_") && text.len() > 5)),
    ("path:[a-z]+", Source::Path(|text| text.bytes().all(|byte| byte.is_ascii_lowercase()))),
    ("query:roomId@/socket.io/", Source::Query("roomId", "/socket.io/")),
    ("query:roomId", Source::Query("roomId", "")),
    ("query:room Id@/api", Source::Query("room Id", "/api")),
    ("header:x-room", Source::Header("x-room")),
    ("cookie:room", Source::Cookie("room")),
];

#[derive(Clone, Copy)]
enum Source {
    Path(fn(&str) -> bool),
    Query(&'static str, &'static str),
    Header(&'static str),
    Cookie(&'static str),
}

/// A request target with segments and parameters that mean something.
pub(super) fn target(input: &mut Input) -> Vec<u8> {
    let mut text = input.pick(&["", "", "", "", "http://app.example", "https://[::1]:80"]).to_owned();
    if input.one_in(3) {
        text.push_str("/socket.io/");
    }
    for _ in 0..input.below(4) {
        text.push('/');
        text.push_str(input.pick(SEGMENTS));
    }
    if text.is_empty() {
        text.push('/');
    }
    let mut separator = "?";
    for _ in 0..input.below(4) {
        text.push_str(separator);
        separator = input.pick(&["&", "&", "&", ";", "&&", "?"]);
        text.push_str(input.pick(NAMES));
        text.push_str(input.pick(&["=", "=", "=", "", "=="]));
        text.push_str(input.pick(VALUES));
    }
    let mut bytes = text.into_bytes();
    input.damage(&mut bytes, TOKENS);
    bytes
}

/// A head with that target, and room fields now and then.
fn request(input: &mut Input) -> Option<(Parts, Vec<u8>)> {
    let target = target(input);
    let mut fields = vec![("host".to_owned(), b"a".to_vec())];
    for _ in 0..input.below(3) {
        let value = input.pick(&["room_a", "room_b", "", "room a", "room_a, room_b", "\u{e9}"]);
        fields.push((input.pick(&["x-room", "x-other", "x_room"]).to_owned(), value.trim().as_bytes().to_vec()));
    }
    for _ in 0..input.below(3) {
        let line = (0..input.below(3)).map(|_| input.pick(COOKIES)).collect::<Vec<_>>().join(";");
        fields.push(("cookie".to_owned(), line.trim().as_bytes().to_vec()));
    }
    let head = parts("GET", &target, false, &fields)?;
    head::inspect(&head).ok()?;
    Some((head, target))
}

fn is_id(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !text.is_empty() && text.len() <= 128 && text.chars().all(fits)
}

/// Bytes with each `%xx` of hexadecimal digits as what it stands for; anything else stays.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).expect("two digits"));
                at += 3;
            }
            (other, ..) => {
                out.push(other);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The WHATWG's `application/x-www-form-urlencoded` parsing, as it is written there.
fn parameters(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let decoded = |text: &str| percent_decoded(&text.replace('+', " "));
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

/// At most one of these may be there, and it has to be an id.
fn only(values: &[String]) -> Result<Option<String>, &'static str> {
    match values {
        [] => Ok(None),
        [value] if is_id(value) => Ok(Some(value.clone())),
        [_] => Err("invalid-room"),
        _ => Err("duplicate-room"),
    }
}

/// The path when everything is decoded and then `.` and `..` are resolved, one at a time.
fn resolved(path: &str, keep_empty: bool) -> String {
    let decoded = percent_decoded(path).replace('\\', "/");
    let mut segments: Vec<_> = decoded.split('/').skip(1).filter(|one| keep_empty || !one.is_empty()).collect();
    segments.retain(|one| *one != ".");
    while let Some(at) = segments.iter().position(|one| *one == "..") {
        segments.drain(at.saturating_sub(1)..=at);
    }
    let folder = ["/", "/.", "/.."].into_iter().any(|end| decoded.ends_with(end));
    let text = format!("/{}", segments.join("/"));
    if folder && !text.ends_with('/') { text + "/" } else { text }
}

/// One rule on a head of which this is the path and the query.
fn apply(source: Source, path: &str, query: &str, head: &Parts) -> Result<Option<String>, &'static str> {
    match source {
        Source::Path(matches) => {
            let names = |text: &str| is_id(text) && matches(text);
            for segment in path.split('/') {
                if names(segment) {
                    let found = |empty| resolved(path, empty).split('/').find(|one| names(one)).map(str::to_owned);
                    let same = [true, false].into_iter().all(|empty| found(empty).as_deref() == Some(segment));
                    return if same { Ok(Some(segment.to_owned())) } else { Err("dot-segment") };
                }
                let decoded = percent_decoded(segment);
                if decoded.split(['/', '\\']).any(names) {
                    return Err("encoded-room");
                }
            }
            Ok(None)
        }
        Source::Query(name, prefix) => {
            let is_under =
                |path: &str| path.starts_with(prefix) || path == prefix.trim_end_matches('/') && prefix.ends_with('/');
            let under = is_under(path);
            let hidden = !under && [true, false].into_iter().any(|empty| is_under(&resolved(path, empty)));
            let all = if under || hidden { parameters(query) } else { Vec::new() };
            let values: Vec<_> = all.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect();
            let sids = all.iter().filter(|(key, _)| key == "sid").count();
            if hidden && (!values.is_empty() || sids > 1) {
                return Err("encoded-room");
            }
            // Which of two faults is named does not matter.
            if sids > 1 || values.len() > 1 { Err("duplicate") } else { only(&values) }
        }
        Source::Header(name) => {
            let texts = head.headers.get_all(name).iter().map(|value| value.as_bytes());
            let found = only(&texts.map(|text| String::from_utf8_lossy(text).trim().to_owned()).collect::<Vec<_>>())?;
            match head.headers.contains_key(name.replace('-', "_")) {
                true => Err(if found.is_some() { "duplicate" } else { "encoded-room" }),
                false => Ok(found),
            }
        }
        Source::Cookie(name) => {
            let lines = head.headers.get_all("cookie").iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
            let all = lines.collect::<Vec<_>>().join(";");
            let bare = |text: &str| text.trim_matches([' ', '\t']).to_owned();
            let pairs =
                all.split(';').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (bare(key), bare(value)));
            only(&pairs.filter(|(key, _)| *key == *name).map(|(_, value)| value).collect::<Vec<_>>())
        }
    }
}

/// What is written into the log of a path, and what rules for prefixes go by: nothing of what may be a secret.
fn check_shown(path: &str) {
    let shown = path::loggable(path);
    let lower = shown.to_ascii_lowercase();
    assert!(![";", "%3b", "%3f"].iter().any(|mark| lower.contains(mark)), "{path:?} is shown as {shown:?}");
    let bare = path::without_parameters(path);
    assert!(!bare.contains(';') && bare.matches('/').count() == path.matches('/').count(), "{path:?} is {bare:?}");
    let of_path = |shown: &str| shown.split('/').zip(path.split('/')).all(|(shown, segment)| segment.contains(shown));
    assert!(of_path(&shown) && of_path(&bare), "{path:?}: {shown:?}, {bare:?}");
}

/// The session that a request is of: Engine.IO's only where it says `EIO`, and then of one `sid` at most.
fn check_session(head: &Parts, query: &str, upgrading: bool) {
    let all = parameters(query);
    let sids: Vec<_> = all.iter().filter(|(key, _)| key == "sid").map(|(_, value)| value.as_str()).collect();
    let expected = match (all.iter().any(|(key, _)| key == "EIO"), &sids[..]) {
        (false, _) => Ok(Session::None),
        (true, [_, _, ..]) => Err(AffinityError::DuplicateSid),
        (true, [sid]) if !sid.is_empty() => Ok(Session::Sid((*sid).into())),
        (true, _) if upgrading => Ok(Session::None),
        (true, _) => Ok(Session::Handshake),
    };
    assert_eq!(session::session(head, upgrading), expected, "{query:?}");
    let is_of_session = all.iter().any(|(key, _)| key == "EIO") && sids.iter().any(|sid| !sid.is_empty());
    assert_eq!(session::is_of_session(query), is_of_session, "{query:?}");
    for sid in sids {
        let named = sid.find('~').filter(|at| *at > 0 && at + 1 < sid.len() && sid.len() <= 256).map(|at| &sid[..at]);
        assert_eq!(session::pod_in_sid(sid), named, "{sid:?}");
    }
}

/// The reason, with the two that are one to the oracle made one.
fn code(error: AffinityError) -> &'static str {
    match pod_router::proxy::Reject::Affinity(error).code() {
        "duplicate-sid" | "duplicate-room" => "duplicate",
        other => other,
    }
}

#[test]
fn the_room_is_the_one_that_a_slow_reading_finds() {
    // Compiling an expression takes longer than all the rest.
    let all: Vec<AffinityRule> = RULES.iter().map(|(text, _)| text.parse().expect("a valid rule")).collect();
    super::run("room", 40_000, |input| {
        let Some((head, target)) = request(input) else {
            return false;
        };
        let chosen: Vec<_> = (0..=input.below(3)).map(|_| input.below(RULES.len())).collect();
        let rules: Vec<_> = chosen.iter().map(|at| RULES[*at]).collect();
        let affinity = Affinity::new(chosen.iter().map(|at| all[*at].clone()).collect());
        let seen = affinity.room(&head).map(|room| room.map(|(room, rule)| (room.as_str().to_owned(), rule)));

        let (_, origin) = end_to_end(&target);
        let (path, query) = origin.split_once('?').unwrap_or((&origin, ""));
        check_shown(path);
        check_session(&head, query, input.one_in(2));
        let mut found = Ok(None);
        for (index, (_, source)) in rules.iter().enumerate() {
            found = apply(*source, path, query, &head).map(|room| room.map(|room| (room, index)));
            if found != Ok(None) {
                break;
            }
        }
        let written: Vec<_> = rules.iter().map(|(text, _)| *text).collect();
        let expected = found.map_err(|error| if error == "duplicate-room" { "duplicate" } else { error });
        assert_eq!(seen.clone().map_err(code), expected, "{written:?} on {head:?}");
        if let Ok(Some((room, _))) = &seen {
            assert!(RoomId::parse(room.as_str()).is_some() && is_id(room));
        }
        !matches!(expected, Ok(None))
    });
}

/// What Socket.IO's server makes of each target (engine.io's `prepare`), as a JSON list of room ids and nulls.
const NODE: &str = r#"
const lines = require("node:fs").readFileSync(0, "utf8").split("\n").filter(Boolean);
const roomOf = (target) => {
  try {
    return Object.fromEntries(new URL(target, "https://socket.io").searchParams.entries()).roomId ?? null;
  } catch {
    return "no URL";
  }
};
process.stdout.write(JSON.stringify(lines.map((line) => roomOf(JSON.parse(line)))));
"#;

fn ask_node(targets: &[String]) -> Vec<Json> {
    let mut node = Command::new("node")
        .args(["-e", NODE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Node starts");
    let lines: Vec<_> = targets.iter().map(|target| Json::from(target.as_str()).to_string()).collect();
    let mut stdin = node.stdin.take().expect("it is piped");
    let writing = std::thread::spawn(move || stdin.write_all(lines.join("\n").as_bytes()));
    let output = node.wait_with_output().expect("Node ends");
    writing.join().expect("writing does not panic").expect("Node reads all targets");
    serde_json::from_slice(&output.stdout).expect("a list")
}

/// Where the router takes a room from the query, Socket.IO's server has the same; where it takes none, there is none.
#[test]
fn the_room_in_a_query_is_the_one_that_nodes_url_parser_finds() {
    let affinity = Affinity::new(vec!["query:roomId".parse().expect("a rule")]);
    let mut seen = Vec::new();
    super::run("room of a query", 20_000, |input| {
        let Some((head, target)) = request(input) else {
            return false;
        };
        let room = affinity.room(&head).map(|room| room.map(|(room, _)| room.into_owned()));
        // A long run asks about as many as fit.
        if seen.len() < 200_000 {
            seen.push((end_to_end(&target).1, room.clone()));
        }
        !matches!(room, Ok(None))
    });
    let targets: Vec<_> = seen.iter().map(|(target, _)| target.clone()).collect();
    let mut asked = 0;
    for ((target, ours), theirs) in seen.iter().zip(ask_node(&targets)) {
        let Ok(ours) = ours else { continue };
        if theirs == "no URL" {
            continue;
        }
        asked += 1;
        assert_eq!(theirs.as_str(), ours.as_ref().map(RoomId::as_str), "{target:?}");
    }
    eprintln!("fuzz: Node agrees on {asked} of {} targets; the others are refused", seen.len());
}
