//! Messages and connections: what names hops, what asks for more than an answer, what comes before it is asked.

use super::case::{Case, made, text};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

pub(super) fn cases() -> Vec<Case> {
    [connections(), upgrades(), expectations(), pipelines(), early()].into_iter().flatten().collect()
}

fn connections() -> Vec<Case> {
    let with = |name, lines: &str| made(name, format!("GET /room_a HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    vec![
        with("close", "Connection: close\r\n").sees(&["backend-0 GET /room_a"]).answers(&[200]).closed(),
        with("close among others, then keep-alive", "Connection: x, CLOSE\r\nConnection: keep-alive\r\n")
            .sees(&["backend-0 GET /room_a"])
            .answers(&[200])
            .closed(),
        with("a close within quotes is none", "Connection: \"close\"\r\n").passes("backend-0 GET /room_a"),
        with("an option for each header there is", "Connection: Host, Via, X-Forwarded-For, X-Room-Id, Cookie, TE\r\nCookie: a=1\r\n")
            .passes("backend-0 GET /room_a"),
        with("empty options", "Connection: ,, ,\r\n").passes("backend-0 GET /room_a"),
        text(
            "what follows a close is nobody's",
            "GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .sees(&["backend-0 GET /room_a"])
        .answers(&[200])
        .closed(),
        text("Via names this router again and again", "GET /room_a HTTP/1.1\r\nHost: a\r\nVia: 1.1 pod-router, 1.1 pod-router\r\nVia: 1.1 x, 1.1 pod-router (z)\r\n\r\n")
            .refused(508),
    ]
}

fn upgrades() -> Vec<Case> {
    let ask = |name, line: &str, lines: &str| made(name, format!("{line}\r\nHost: a\r\n{lines}\r\n"));
    let get = "GET /room_a/ws HTTP/1.1";
    vec![
        ask("a handshake", get, &format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}"))
            .sees(&["backend-0 GET /room_a/ws"])
            .answers(&[101])
            .tunnel(),
        ask("a handshake that the pod declines", "GET /room_a/no HTTP/1.1", &format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}"))
            .passes("backend-0 GET /room_a/no"),
        made(
            "a declined handshake and a request behind it",
            format!("GET /room_a/no HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{KEY}\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        )
        .sees(&["backend-0 GET /room_a/no", "any GET /"])
        .answers(&[200, 200])
        .open(),
        ask("h2c", get, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n")
            .passes("backend-0 GET /room_a/ws"),
        ask("an upgrade to anything", get, "Connection: Upgrade\r\nUpgrade: foo\r\n").passes("backend-0 GET /room_a/ws"),
        ask("websocket and another", get, &format!("Connection: Upgrade\r\nUpgrade: websocket, foo\r\n{KEY}"))
            .passes("backend-0 GET /room_a/ws"),
        ask("websocket on two lines", get, &format!("Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n{KEY}"))
            .passes("backend-0 GET /room_a/ws"),
        ask("no key", get, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
            .passes("backend-0 GET /room_a/ws"),
        ask("no version", get, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n")
            .passes("backend-0 GET /room_a/ws"),
        ask("no Connection option", get, &format!("Upgrade: websocket\r\n{KEY}")).passes("backend-0 GET /room_a/ws"),
        ask("a POST", "POST /room_a/ws HTTP/1.1", &format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}"))
            .passes("backend-0 POST /room_a/ws"),
        ask("under HTTP/1.0", "GET /room_a/ws HTTP/1.0", &format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}"))
            .sees(&["backend-0 GET /room_a/ws"])
            .answers(&[200])
            .closed(),
        made(
            "with a body",
            format!("{get}\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n{KEY}\r\nhello"),
        )
        .refused(400),
        made(
            "with a chunked body",
            format!("{get}\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n{KEY}\r\n0\r\n\r\n"),
        )
        .refused(400),
        made(
            "another upgrade with a body and a request in it",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        )
        .passes("backend-0 POST /room_a [GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n]"),
    ]
}

fn expectations() -> Vec<Case> {
    vec![
        text("100-continue", "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            .more("hello")
            .sees(&["backend-0 POST /room_a [hello]"])
            .answers(&[100, 200])
            .open(),
        text(
            "100-CONTINUE and no waiting",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-CONTINUE\r\n\r\nhello",
        )
        .sees(&["backend-0 POST /room_a [hello]"])
        .answers(&[100, 200])
        .open(),
        text("100-continue without a body", "GET /room_a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n")
            .passes("backend-0 GET /room_a"),
        text(
            "100-continue under HTTP/1.0",
            "POST /room_a HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        )
        .sees(&["backend-0 POST /room_a [hello]"])
        .answers(&[200])
        .closed(),
        text(
            "100-continue that is refused",
            "POST /room%5Fa HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\nExpect: 100-continue\r\n\r\n",
        )
        .more("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        .refused(400),
        text(
            "100-continue and chunks",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
        )
        .more("5\r\nhello\r\n0\r\n\r\n")
        .sees(&["backend-0 POST /room_a [hello]"])
        .answers(&[100, 200])
        .open(),
        text(
            "an expectation that nobody knows",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: miracles\r\n\r\nhello",
        )
        .refused(417),
        text(
            "two expectations",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue, x\r\n\r\nhello",
        )
        .refused(417),
    ]
}

/// Affinity is per request, not per connection.
fn pipelines() -> Vec<Case> {
    vec![
        text(
            "three requests at once",
            "GET /room_a/1 HTTP/1.1\r\nHost: a\r\n\r\nGET /room_b/2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .sees(&["backend-0 GET /room_a/1", "backend-1 GET /room_b/2", "any GET /3"])
        .answers(&[200, 200, 200])
        .open(),
        text(
            "bodies between them",
            "POST /room_b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\noneGET /room_a HTTP/1.1\r\nHost: a\r\n\r\n\
             PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n",
        )
        .sees(&["backend-1 POST /room_b [one]", "backend-0 GET /room_a", "any PUT / [two]"])
        .answers(&[200, 200, 200])
        .open(),
        text("one that is refused and one that is not", "GET /room%5Fa HTTP/1.1\r\nHost: a\r\n\r\nGET /room_a HTTP/1.1\r\nHost: a\r\n\r\n")
            .sees(&["backend-0 GET /room_a"])
            .answers(&[400, 200])
            .open(),
        text("one that is none after one that is", "GET /room_a HTTP/1.1\r\nHost: a\r\n\r\nGARBAGE\r\n\r\n")
            .sees(&["backend-0 GET /room_a"])
            .answers(&[200, 400])
            .closed(),
        text("empty lines between them", "GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .sees(&["backend-0 GET /room_a", "any GET /"])
            .answers(&[200, 200])
            .open().h11_differs("RFC 9112 section 2.2: a server should skip them"),
        text("HEAD, whose answer has a length and no body", "HEAD /room_a HTTP/1.1\r\nHost: a\r\n\r\n")
            .passes("backend-0 HEAD /room_a"),
    ]
}

/// Answers that come before the body, which then must not be read as the next request (CL.0, RFC 9112 section 9.3).
fn early() -> Vec<Case> {
    vec![
        text("an answer before the body", "POST /room_a/early HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n")
            .more("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
            .passes("backend-0 POST /room_a/early [GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n]"),
        text("a refusal before the body", "POST /room%5Fa HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n")
            .more("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
            .refused(400),
        text("a refusal with the body there", "POST /room%5Fa HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
            .refused(400),
        text("a refusal and a chunked body", "POST /room%5Fa HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n23\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n")
            .refused(400),
        text("a TRACE with a body", "TRACE /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
            .refused(405),
        text("a client that leaves while it waits", "GET /room_a/silent HTTP/1.1\r\nHost: a\r\n\r\n")
            .half_close()
            .sees(&["backend-0 GET /room_a/silent"])
            .closed(),
    ]
}
