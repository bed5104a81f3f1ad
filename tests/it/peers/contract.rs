//! What every HTTP pod of these tests answers, and that it is answered alike on the straight way and through the router.
//!
//! | path, below `/live/room_a/` | answer |
//! |---|---|
//! | `echo` | the request's body; `X-Framing` says how it was framed: `length` or `chunked` |
//! | `fields` | the request's fields as a JSON list of pairs |
//! | `parts` | `one`, `two` and `three`, in chunks |
//! | `large` | 1 MiB with a length |
//! | `nothing`, `unchanged`, `odd` | 204; 304 with an `ETag`; 299 with two cookies |
//! | `events`, `next` | server-sent events: one at once, two more each when `next` is asked for |
//! | `hang`, `hanging` | no answer ever; how many such requests have come, and of how many the client has gone |
//! | `ws` | a WebSocket that greets and echoes, see `tests/node/ws.mjs` |

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value as Json;

use crate::support::{Client, Response};

/// What the router says to a client besides what the pod says.
const ADDED: [&str; 1] = ["x-request-id"];

/// What each connection has of its own; `Date` is the time.
const OF_THIS_HOP: [&str; 3] = ["connection", "keep-alive", "date"];

/// What the router says to a pod besides what the client says.
const TOLD: [&str; 8] = [
    "via",
    "x-request-id",
    "x-room-id",
    "x-room-pod",
    "x-room-epoch",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
];

/// A request on the wire.
struct Request {
    head: String,
    body: Vec<u8>,
    /// Whether the body is only sent after a 100.
    expects_100: bool,
}

/// A client at this address that talks to that one.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) from: IpAddr,
    pub(super) to: SocketAddr,
}

impl Way {
    pub(super) fn straight_from_here(to: SocketAddr) -> Self {
        Self { from: [127, 0, 0, 1].into(), to }
    }

    #[track_caller]
    pub(super) fn client(&self) -> Client {
        Client::connect_from(self.from, self.to)
    }
}

/// A request for a path of the contract with these further lines.
fn head(method: &str, path: &str, lines: &str) -> String {
    format!("{method} /live/room_a/{path} HTTP/1.1\r\nHost: app.example\r\n{lines}\r\n")
}

fn bodiless(method: &str, path: &str, lines: &str) -> Request {
    Request { head: head(method, path, lines), body: Vec::new(), expects_100: false }
}

fn sized(method: &str, length: usize, lines: &str) -> Request {
    let body = b"0123456789abcdef".iter().copied().cycle().take(length).collect();
    let lines = format!("Content-Type: text/plain\r\nContent-Length: {length}\r\n{lines}");
    Request { head: head(method, "echo", &lines), body, expects_100: lines.contains("100-continue") }
}

fn chunked(method: &str, chunks: &[usize], lines: &str) -> Request {
    let mut body = Vec::new();
    for size in chunks {
        body.extend_from_slice(format!("{size:x}\r\n").as_bytes());
        body.extend(std::iter::repeat_n(b'c', *size));
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let lines = format!("Transfer-Encoding: chunked\r\n{lines}");
    Request { head: head(method, "echo", &lines), body, expects_100: lines.contains("100-continue") }
}

fn requests() -> Vec<Request> {
    let mut all = vec![
        bodiless("GET", "parts", ""),
        bodiless("HEAD", "parts", ""),
        bodiless("GET", "large", "Accept-Encoding: gzip\r\n"),
        bodiless("HEAD", "large", ""),
        bodiless("GET", "nothing", ""),
        bodiless("DELETE", "nothing", ""),
        bodiless("GET", "unchanged", "If-None-Match: \"v1\"\r\n"),
        bodiless("HEAD", "unchanged", "If-None-Match: \"v1\"\r\n"),
        bodiless("GET", "odd", "Cookie: a=0; b=1\r\n"),
        bodiless("GET", "no-such-path?x=%2F&y", ""),
        bodiless("POST", "echo", "Content-Length: 0\r\n"),
        bodiless("GET", "parts", "Connection: close\r\n"),
        sized("POST", 5, "Expect: 100-continue\r\n"),
        chunked("PUT", &[3, 4], "Expect: 100-continue\r\n"),
        chunked("POST", &[], ""),
        chunked("POST", &[1, 100_000, 7], ""),
    ];
    all.extend(["POST", "PUT", "PATCH", "DELETE"].map(|method| sized(method, 1000, "")));
    all.extend([1_000_000, 65_536].map(|length| sized("POST", length, "")));
    all
}

/// The answer to a request, in words that can be compared.
#[track_caller]
fn answer(client: &mut Client, request: &Request) -> String {
    client.send(&request.head);
    let mut words = String::new();
    if request.expects_100 {
        let interim = client.read_head();
        writeln!(words, "{}", interim.start_line()).expect("a String takes everything");
    }
    client.send(&request.body);
    let what = request.head.lines().next().unwrap_or_default();
    let to_head = what.starts_with("HEAD ");
    let response =
        client.try_read_response(to_head).unwrap_or_else(|error| panic!("{what}: no complete response: {error}"));
    words.push_str(&in_words(&response, to_head));
    words
}

fn in_words(response: &Response, to_head: bool) -> String {
    let mut words = format!("{}\n", response.head.start_line());
    let mut fields: Vec<_> = response.head.fields().collect();
    fields.retain(|(name, _)| !ADDED.contains(&name.as_str()) && !OF_THIS_HOP.contains(&name.as_str()));
    if to_head {
        fields.retain(|(name, _)| name != "transfer-encoding"); // deviation 8
    }
    // Names may come in any order, lines of one name may not (RFC 9110 section 5.3): the sort is stable.
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (name, value) in fields {
        writeln!(words, "{name}: {value}").expect("a String takes everything");
    }
    let body = String::from_utf8_lossy(&response.body[..response.body.len().min(64)]);
    let sum = response.body.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    writeln!(words, "{} bytes, {sum:x}: {body:?}", response.body.len()).expect("a String takes everything");
    words
}

/// Makes every exchange both ways, on connections that are kept as long as they may be. Returns how many there were.
#[track_caller]
pub(super) fn expect_alike(straight: Way, routed: Way) -> usize {
    let requests = requests();
    let [expected, seen] = [straight, routed].map(|way| {
        let mut client = way.client();
        let each = requests.iter().map(|request| {
            let answer = answer(&mut client, request);
            if request.head.contains("Connection: close") {
                client = way.client();
            }
            answer
        });
        each.collect::<Vec<_>>()
    });
    for ((request, expected), seen) in requests.iter().zip(&expected).zip(&seen) {
        assert_eq!(seen, expected, "left through the router, right without it:\n{}", request.head);
    }
    expected.len()
}

/// The fields of a request with these lines, as the pod has them: names in lower case, in the order of the names.
#[track_caller]
pub(super) fn fields_at_the_pod(way: Way, lines: &str) -> Vec<(String, String)> {
    let response = way.client().request(head("GET", "fields", lines));
    assert_eq!(response.status(), 200, "{}{}", response.head.text(), response.text());
    let Json::Array(pairs) = response.json() else { panic!("not a list: {}", response.text()) };
    let text = |value: &Json| value.as_str().expect("fields are text").to_owned();
    let mut fields: Vec<_> = pairs.iter().map(|pair| (text(&pair[0]).to_ascii_lowercase(), text(&pair[1]))).collect();
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

/// Fails unless the pod is told the same both ways, apart from what the router adds.
#[track_caller]
pub(super) fn expect_told_alike(straight: Way, routed: Way) {
    let lines = "User-Agent: peers/1\r\nAccept: */*;q=0.1\r\nAccept-Encoding: gzip, br\r\nX-Twice: 1\r\nX-Other: a, b\r\n\
                 X-Twice: 2\r\nCookie: session=1; theme=\"dark\"\r\nAuthorization: Bearer a.b.c\r\nX-Empty:\r\n\
                 Origin: http://app.example\r\nRange: bytes=0-1\r\nIf-Match: *\r\nX-Long: ";
    let lines = format!("{lines}{}\r\n", "x".repeat(6000));
    let own = |fields: Vec<(String, String)>| {
        let kept = fields.into_iter().filter(|(name, _)| name != "connection" && !TOLD.contains(&name.as_str()));
        kept.collect::<Vec<_>>()
    };
    assert_eq!(own(fields_at_the_pod(routed, &lines)), own(fields_at_the_pod(straight, &lines)));
}
