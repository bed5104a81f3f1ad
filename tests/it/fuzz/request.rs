//! The head that a pod gets: parsed back by httparse it is the client's, without what is for one hop, and with what the
//! router says, once; and a WebSocket handshake is exactly what RFC 6455 says is one.

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use ipnet::IpNet;
use pod_router::core::assignment::{Assignment, Epoch, StatefulSet};
use pod_router::core::forwarded::{self, Client};
use pod_router::core::head::{self, Kind};
use pod_router::core::room::RoomId;
use pod_router::core::wire::request::{self as wire, Added, Framing};

use super::input::Input;
use super::room;

type Fields = Vec<(String, Vec<u8>)>;

const LINES: &[(&str, &str)] = &[
    ("Connection", "keep-alive, Upgrade"),
    ("connection", "close"),
    ("Connection", "X-One, X-Forwarded-For, host, content-length"),
    ("Upgrade", "websocket"),
    ("Upgrade", "WebSocket"),
    ("Upgrade", "websocket, h2c"),
    ("Upgrade", "h2c"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
    ("Transfer-Encoding", "chunked"),
    ("Transfer-Encoding", "gzip, chunked"),
    ("Content-Length", "0"),
    ("Content-Length", "5"),
    ("Expect", "100-continue"),
    ("TE", "gzip, trailers"),
    ("Trailer", "X-One"),
    ("Keep-Alive", "5"),
    ("Proxy-Connection", "x"),
    ("Proxy-Authorization", "x"),
    ("Forwarded", "for=1.2.3.4"),
    ("X-Forwarded-For", "1.1.1.1, 10.0.0.7"),
    ("X-Forwarded-For", "_hidden"),
    ("X-Forwarded-Proto", "wss"),
    ("X-Forwarded-Host", "them"),
    ("X_Forwarded_Proto", "wss"),
    ("X-Real-IP", "1.1.1.1"),
    ("X-Room-Id", "spoof"),
    ("X_Room_Pod", "spoof"),
    ("X-Room_Epoch", "9"),
    ("X-Request-Id", "theirs"),
    ("Via", "1.1 pod-router"),
    ("Via", "1.0 first, 1.1 pod-router (x)"),
    ("Max-Forwards", "3"),
    ("Max-Forwards", "0"),
    ("Max-Forwards", "x"),
    ("Host", "b"),
    ("Cookie", "a=1; b=2"),
    ("X-One", "1"),
    ("X-One", "2"),
    ("X-Two", "a\tb \u{e9}"),
    ("X-Empty", ""),
];

/// What no pod gets from a client as it came.
const NEVER: &[&str] = &[
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "expect",
    "trailer",
    "forwarded",
    "x-request-id",
    "x-room-id",
    "x-room-pod",
    "x-room-epoch",
];

/// What a pod gets from a client only through a proxy that is trusted.
const CLAIMS: &[&str] = &["x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-real-ip", "x-scheme"];

/// What the router says anew; how often is checked one by one.
const SAID_ANEW: &[&str] = &[
    "connection",
    "upgrade",
    "te",
    "host",
    "content-length",
    "transfer-encoding",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "via",
    "max-forwards",
];

const TOKENS: &[&[u8]] =
    &[b",", b" ", b";", b"\t", b"upgrade", b"close", b"x-one", b"\xff", b"\"", b"chunked", b"websocket"];

/// A head as hyper makes one of these parts; `None` where it would not.
pub(super) fn parts(method: &str, target: &[u8], old: bool, fields: &Fields) -> Option<Parts> {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).ok()?;
    *request.uri_mut() = Uri::try_from(target).ok()?;
    *request.version_mut() = if old { Version::HTTP_10 } else { Version::HTTP_11 };
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(value.trim_ascii()).ok()?);
    }
    Some(request.into_parts().0)
}

/// A target by hand: its authority, and what a pod has to get (RFC 9112 section 3.2).
pub(super) fn end_to_end(target: &[u8]) -> (Option<String>, String) {
    let text = String::from_utf8_lossy(target);
    let text = text.split('#').next().unwrap_or_default();
    if text.starts_with('/') || text == "*" {
        return (None, text.to_owned());
    }
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let (authority, origin) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let slash = if origin.starts_with('/') { "" } else { "/" };
    (Some(authority.to_owned()), format!("{slash}{origin}"))
}

fn fields(input: &mut Input) -> Fields {
    let mut fields: Fields = Vec::new();
    let handshake = input.one_in(3);
    if !input.one_in(10) {
        fields.push(("Host".to_owned(), input.pick(&["a", "a:80", "[::1]", "", "a b", "u@a"]).as_bytes().to_vec()));
    }
    if handshake {
        fields.extend([3, 7, 8].map(|at| (LINES[at].0.to_owned(), LINES[at].1.as_bytes().to_vec())));
        fields.push(("Connection".to_owned(), b"Upgrade".to_vec()));
    }
    for _ in 0..input.below(8) {
        let (name, value) = LINES[input.below(LINES.len())];
        let mut value = value.as_bytes().to_vec();
        if input.one_in(6) {
            input.damage(&mut value, TOKENS);
        }
        let name = if input.one_in(8) { input.word(b"aZ_-09x", 8) } else { name.to_owned() };
        let at = input.below(fields.len() + 1);
        fields.insert(at, (name, value.trim_ascii().to_vec()));
    }
    if handshake && input.one_in(4) {
        fields.remove(input.below(fields.len()));
    }
    fields
}

/// The elements of all lines of this name.
fn elements(fields: &Fields, name: &str) -> Vec<String> {
    let text = lines(fields, name).iter().map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>().join(",");
    text.split(',').map(|one| one.trim_ascii().to_owned()).filter(|one| !one.is_empty()).collect()
}

/// The same in lower case.
fn list(fields: &Fields, name: &str) -> Vec<String> {
    elements(fields, name).into_iter().map(|one| one.to_ascii_lowercase()).collect()
}

fn lines<'a>(fields: &'a Fields, name: &str) -> Vec<&'a [u8]> {
    fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..]).collect()
}

/// RFC 6455 section 4.2.1, as far as a gateway looks.
fn is_handshake(head: &Parts, fields: &Fields) -> bool {
    let upgrade = lines(fields, "upgrade");
    head.method == Method::GET
        && head.version == Version::HTTP_11
        && upgrade.len() == 1
        && upgrade[0].eq_ignore_ascii_case(b"websocket")
        && list(fields, "connection").iter().any(|option| option == "upgrade")
        && lines(fields, "sec-websocket-key").len() == 1
        && !lines(fields, "sec-websocket-version").is_empty()
}

/// What has been accepted is what may be.
fn expect_acceptable(head: &Parts, fields: &Fields, kind: Kind) {
    assert_eq!(kind == Kind::WebSocket, is_handshake(head, fields), "what is a handshake");
    assert!(head.method != Method::CONNECT && head.method != Method::TRACE);
    let hosts = lines(fields, "host").len();
    assert!(hosts == 1 || hosts == 0 && head.version == Version::HTTP_10, "{hosts} hosts");
    let codings = lines(fields, "transfer-encoding");
    assert!(codings.is_empty() || codings.len() == 1 && codings[0].eq_ignore_ascii_case(b"chunked"));
    let length = lines(fields, "content-length").first().is_some_and(|length| *length != b"0");
    assert!(kind == Kind::Http || codings.is_empty() && !length, "a handshake with a body");
    let hops =
        elements(fields, "via").iter().filter(|hop| hop.split_ascii_whitespace().nth(1) == Some("pod-router")).count();
    assert!(hops < 3, "{hops} times round");
}

/// What a pod reads, with another parser: the request line, and the fields in their order.
fn read_back(bytes: &[u8]) -> (String, String, Fields) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(bytes).unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(bytes)));
    assert_eq!(parsed, httparse::Status::Complete(bytes.len()), "the head ends where it ends");
    assert_eq!(request.version, Some(1));
    let text = |part: Option<&str>| part.expect("a whole head").to_owned();
    let fields = request.headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec()));
    (text(request.method), text(request.path), fields.collect())
}

fn one<'a>(fields: &'a Fields, name: &str) -> &'a [u8] {
    let values = lines(fields, name);
    assert_eq!(values.len(), 1, "{name} in {fields:?}");
    values[0]
}

/// Every field that is anybody's goes on, in order and unchanged; none that is this hop's, the router's or a claim does.
fn expect_passed(sent: &Fields, got: &Fields, trusted: bool) {
    let named = list(sent, "connection");
    let mut names: Vec<_> = sent.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        let name = name.as_str();
        let dashed = name.replace('_', "-");
        let (came, went) = (lines(sent, name), lines(got, name));
        let disguised = name.contains('_')
            && (NEVER.contains(&dashed.as_str()) || CLAIMS.contains(&dashed.as_str()) || dashed == "x-forwarded-for");
        if SAID_ANEW.contains(&name) || ["x-request-id", "x-room-id", "x-room-pod", "x-room-epoch"].contains(&name) {
            continue;
        }
        let is_named = named.iter().any(|option| option == name) && !name.starts_with("x-forwarded-");
        if NEVER.contains(&name) || disguised || is_named && !["close", "keep-alive", "upgrade"].contains(&name) {
            assert!(went.is_empty(), "{name} goes on");
        } else if CLAIMS.contains(&name) {
            assert_eq!(went, if trusted { came } else { Vec::new() }, "{name}");
        } else {
            assert_eq!(went, came, "{name}");
        }
    }
    let added = ["x-request-id", "x-room-id", "x-room-pod", "x-room-epoch"];
    let known = |name: &str| names.iter().any(|one| one == name) || SAID_ANEW.contains(&name) || added.contains(&name);
    assert!(got.iter().all(|(name, _)| known(name)), "a field of nobody's in {got:?}");
}

/// What the router says, it says once.
fn expect_said(head: &Parts, sent: &Fields, got: &Fields, client: &Client, framing: Framing) {
    assert_eq!(one(got, "x-request-id"), b"id");
    assert_eq!(one(got, "x-room-id"), b"room_a");
    assert_eq!(one(got, "x-room-pod"), b"backend-1");
    assert_eq!(one(got, "x-room-epoch"), b"7");
    let chain = String::from_utf8_lossy(one(got, "x-forwarded-for")).into_owned();
    let before = if client.trusted { lines(sent, "x-forwarded-for") } else { Vec::new() };
    let before: Vec<_> =
        before.iter().filter(|line| !line.is_empty()).map(|line| String::from_utf8_lossy(line)).collect();
    let own = client.ip.to_string();
    let whole: Vec<_> = before.iter().map(AsRef::as_ref).chain([own.as_str()]).collect();
    assert_eq!(chain, whole.join(", "));
    for (name, ours) in [("x-forwarded-proto", &b"http"[..]), ("x-forwarded-host", one(got, "host"))] {
        let claimed = lines(sent, name);
        let named = Vec::from_iter((!ours.is_empty()).then_some(ours));
        let expected = if client.trusted && !claimed.is_empty() { claimed } else { named };
        assert_eq!(lines(got, name), expected, "{name}");
    }
    assert!(lines(got, "via").last().is_some_and(|via| via.ends_with(b" pod-router")));
    let lengths = lines(got, "content-length");
    match framing {
        Framing::None => assert!(lengths.is_empty() && lines(got, "transfer-encoding").is_empty()),
        Framing::Length(length) => assert_eq!(lengths, [length.to_string().as_bytes()]),
        Framing::Chunked => assert!(lengths.is_empty() && one(got, "transfer-encoding") == b"chunked"),
    }
    let handshake = is_handshake(head, sent);
    assert_eq!(lines(got, "upgrade"), if handshake { vec![&b"websocket"[..]] } else { Vec::new() });
    let options: &[&[u8]] = match (handshake, lines(got, "te").as_slice()) {
        (true, []) => &[b"upgrade"],
        (false, [te]) if *te == b"trailers" => &[b"te"],
        (_, te) => {
            assert!(te.is_empty(), "{te:?}");
            &[]
        }
    };
    assert_eq!(lines(got, "connection"), options);
}

/// The client's address is the peer's, or one that a trusted peer names.
fn expect_address(head: &Parts, sent: &Fields, client: &Client, networks: &[IpNet]) {
    let address = forwarded::address(&head.headers, client, networks);
    let named = list(sent, "x-forwarded-for").iter().any(|one| one.parse() == Ok(address));
    assert!(address == client.ip || client.trusted && named, "{address} is nobody's word");
}

#[test]
fn the_pod_gets_the_clients_head_without_this_hop() {
    let set = StatefulSet::parse("backend").expect("a name");
    let room = RoomId::parse("room_a").expect("a room");
    let assignment = Assignment { pod: set.nth(1), epoch: Epoch(7) };
    let networks: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a network")];
    super::run("request", 40_000, |input| {
        let method = input.pick(&["GET", "GET", "GET", "HEAD", "POST", "OPTIONS", "CONNECT", "TRACE", "M-SEARCH"]);
        let target = if method == "OPTIONS" && input.one_in(3) { b"*".to_vec() } else { room::target(input) };
        let (sent, old) = (fields(input), input.one_in(10));
        let Some(head) = parts(method, &target, old, &sent) else {
            return false;
        };
        // hyper has trimmed what it hands on.
        let client = Client::new(if input.one_in(2) { [10, 0, 0, 9] } else { [192, 0, 2, 1] }.into(), &networks);
        expect_address(&head, &sent, &client, &networks);
        let Ok(kind) = head::inspect(&head) else {
            return false;
        };
        expect_acceptable(&head, &sent, kind);
        let zeros = |text: &&[u8]| !text.is_empty() && text.iter().all(|byte| *byte == b'0');
        let zero = lines(&sent, "max-forwards").first().is_some_and(zeros);
        assert_eq!(head::ends_here(&head), method == "OPTIONS" && zero);
        let framing = match input.below(3) {
            _ if kind == Kind::WebSocket => Framing::None,
            0 => Framing::None,
            1 => Framing::Length(input.number()),
            _ => Framing::Chunked,
        };
        let request_id = HeaderValue::from_static("id");
        let mut bytes = wire::head(&head, &Added { client: &client, request_id: &request_id, kind, framing });
        wire::name_room(&mut bytes, &room, &assignment);
        bytes.extend_from_slice(wire::END);

        let (seen_method, seen_target, got) = read_back(&bytes);
        let (authority, origin) = end_to_end(&target);
        assert_eq!((seen_method.as_str(), seen_target), (method, origin));
        let host = authority.unwrap_or_else(|| {
            lines(&sent, "host").first().map(|host| String::from_utf8_lossy(host).into_owned()).unwrap_or_default()
        });
        assert_eq!(String::from_utf8_lossy(one(&got, "host")), host);
        expect_passed(&sent, &got, client.trusted);
        expect_said(&head, &sent, &got, &client, framing);
        true
    });
}
