//! Request lines, hosts, field lines and their sizes (RFC 9112 sections 2 to 5).

use super::case::{Case, case, made, text};

pub(super) fn cases() -> Vec<Case> {
    [request_lines(), targets(), hosts(), fields(), sizes(), foreign()].into_iter().flatten().collect()
}

fn request_lines() -> Vec<Case> {
    vec![
        text("a request", "GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n").passes("backend-0 GET /room_a"),
        text("a method of one's own", "BREW /room_a HTTP/1.1\r\nHost: a\r\n\r\n").passes("backend-0 BREW /room_a"),
        text("a method in small letters", "get /room_a HTTP/1.1\r\nHost: a\r\n\r\n").passes("backend-0 get /room_a"),
        text("an empty line in front", "\r\nGET /room_a HTTP/1.1\r\nHost: a\r\n\r\n")
            .passes("backend-0 GET /room_a")
            .h11_differs("RFC 9112 section 2.2: a server should skip it"),
        text("HTTP/1.0", "GET /room_a HTTP/1.0\r\n\r\n").sees(&["backend-0 GET /room_a"]).answers(&[200]).closed(),
        text("HTTP/1.0 that would stay", "GET /room_a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .passes("backend-0 GET /room_a"),
        text("HTTP/0.9", "GET /room_a\r\n\r\n").refused(400),
        text("HTTP/1.2", "GET /room_a HTTP/1.2\r\nHost: a\r\n\r\n").refused(400),
        text("HTTP/2.0", "GET /room_a HTTP/2.0\r\nHost: a\r\n\r\n").refused(400),
        text("http/1.1", "GET /room_a http/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("HTTP/1.10", "GET /room_a HTTP/1.10\r\nHost: a\r\n\r\n").refused(400),
        text("no version but a space", "GET /room_a \r\nHost: a\r\n\r\n").refused(400),
        text("two spaces", "GET  /room_a HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("a tab", "GET\t/room_a HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("a space in front", " GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("a space behind", "GET /room_a HTTP/1.1 \r\nHost: a\r\n\r\n").refused(400),
        text("a space in the target", "GET /room_a /b HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("a method with a colon", "GET: /room_a HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("no method", "/room_a HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("CR within the line", "GET /room_a\rX HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("NUL within the line", "GET /room_a\0 HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("line ends of LF only", "GET /room_a HTTP/1.1\nHost: a\n\n").passes("backend-0 GET /room_a"),
    ]
}

fn targets() -> Vec<Case> {
    vec![
        text("absolute form, and another Host", "GET http://b/room_a?x=%2F& HTTP/1.1\r\nHost: a\r\n\r\n")
            .passes("backend-0 GET /room_a?x=%2F&"),
        text("absolute form without a path", "GET http://b HTTP/1.1\r\nHost: a\r\n\r\n").passes("any GET /"),
        text("absolute form with a query only", "GET http://b?x HTTP/1.1\r\nHost: a\r\n\r\n").passes("any GET /?x"),
        text("absolute form with a user", "GET http://user@b/room_a HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("absolute form of another scheme", "GET gopher://b/room_a HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("absolute form without an authority", "GET http:///room_a HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("authority form", "GET b:80 HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("a word", "GET room_a HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("an asterisk", "GET * HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        text("an asterisk for OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").passes("any OPTIONS *"),
        text("odd paths stay as they are", "GET //a/../%2e%2E//b;c?d=%zz?& HTTP/1.1\r\nHost: a\r\n\r\n")
            .passes("any GET //a/../%2e%2E//b;c?d=%zz?&"),
        text("a path that looks like an authority", "GET //other.example/room_a HTTP/1.1\r\nHost: a\r\n\r\n")
            .passes("backend-0 GET //other.example/room_a"),
        text("a fragment is no part of a target", "GET /room_a#room_b HTTP/1.1\r\nHost: a\r\n\r\n")
            .passes("backend-0 GET /room_a"),
        text("a backslash", "GET \\room_a HTTP/1.1\r\nHost: a\r\n\r\n").refused(400),
        case("bytes beyond ASCII", &b"GET /x?y=\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n"[..]).refused(400),
        case("bytes that are no UTF-8", &b"GET /x?y=\xff HTTP/1.1\r\nHost: a\r\n\r\n"[..]).refused(400),
        text("CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n").refused(405),
        text("CONNECT to a port that is none", "CONNECT a:99999 HTTP/1.1\r\nHost: a\r\n\r\n").refused(405),
        text("TRACE", "TRACE /room_a HTTP/1.1\r\nHost: a\r\n\r\n").refused(405),
        text("OPTIONS at its last hop", "OPTIONS /room_a HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n")
            .answers(&[204])
            .open(),
    ]
}

fn hosts() -> Vec<Case> {
    vec![
        text("no Host", "GET /room_a HTTP/1.1\r\n\r\n").refused(400),
        text("two Hosts", "GET /room_a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").refused(400),
        text("the same Host twice", "GET /room_a HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n").refused(400),
        text("an empty Host", "GET /room_a HTTP/1.1\r\nHost:\r\n\r\n").passes("backend-0 GET /room_a"),
        text("a Host with a user", "GET /room_a HTTP/1.1\r\nHost: user@a\r\n\r\n").refused(400),
        text("a Host with a path", "GET /room_a HTTP/1.1\r\nHost: a/b\r\n\r\n").refused(400),
        text("a Host with a space", "GET /room_a HTTP/1.1\r\nHost: a b\r\n\r\n").refused(400),
        text("a list of Hosts", "GET /room_a HTTP/1.1\r\nHost: a, b\r\n\r\n").refused(400),
        text("a Host with a port that is none", "GET /room_a HTTP/1.1\r\nHost: a:b\r\n\r\n").refused(400),
        text("a Host with a port beyond any", "GET /room_a HTTP/1.1\r\nHost: a:99999\r\n\r\n").refused(400),
        text("a Host with an empty port", "GET /room_a HTTP/1.1\r\nHost: a:\r\n\r\n").passes("backend-0 GET /room_a"),
        text("a Host in brackets that is no address", "GET /room_a HTTP/1.1\r\nHost: [::g]:80\r\n\r\n").refused(400),
        text("absolute form with a port beyond any", "GET http://b:99999/room_a HTTP/1.1\r\nHost: a\r\n\r\n")
            .refused(400),
        text("absolute form, brackets without an address", "GET http://[::g]/room_a HTTP/1.1\r\nHost: a\r\n\r\n")
            .refused(400),
        text("a Host of IPv6", "GET /room_a HTTP/1.1\r\nHost: [::1]:80\r\n\r\n").passes("backend-0 GET /room_a"),
        text("a Host with half a bracket", "GET /room_a HTTP/1.1\r\nHost: [::1\r\n\r\n").refused(400),
        text("absolute form and no Host", "GET http://b/room_a HTTP/1.1\r\n\r\n").refused(400),
        text("absolute form and two Hosts", "GET http://b/room_a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").refused(400),
    ]
}

fn fields() -> Vec<Case> {
    let with = |name, line: &str| made(name, format!("GET /room_a HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"));
    vec![
        with("a value of odd printable characters", "X: !\"#$%&'()*+,-./:;<=>?@[]^_`{|}~")
            .passes("backend-0 GET /room_a"),
        case("a value beyond ASCII", &b"GET /room_a HTTP/1.1\r\nHost: a\r\nX: \xff\xfe\r\n\r\n"[..])
            .passes("backend-0 GET /room_a"),
        with("a tab in a value", "X: a\tb").passes("backend-0 GET /room_a"),
        with("an empty value", "X:").passes("backend-0 GET /room_a"),
        with("a space before the colon", "X : 1").refused(400),
        with("a tab before the colon", "X\t: 1").refused(400),
        with("an empty name", ": 1").refused(400),
        with("no colon", "X").refused(400),
        with("a space in a name", "X Y: 1").refused(400),
        with("a bracket in a name", "X(: 1").refused(400),
        with("a NUL in a name", "X\0: 1").refused(400),
        case("a name beyond ASCII", &b"GET /room_a HTTP/1.1\r\nHost: a\r\nX\xff: 1\r\n\r\n"[..]).refused(400),
        with("a NUL in a value", "X: a\0b").refused(400),
        with("a CR in a value", "X: a\rb").refused(400),
        with("a DEL in a value", "X: a\x7fb").refused(400),
        with("an ESC in a value", "X: a\x1bb").refused(400),
        with("a folded line", "X: a\r\n b").refused(400),
        with("a folded line of a tab", "X: a\r\n\tb").refused(400),
        text("a folded first line", "GET /room_a HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n").refused(400),
        text(
            "an LF that would start a request",
            "GET /room_a HTTP/1.1\r\nHost: a\r\nX: 1\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .sees(&["backend-0 GET /room_a", "any GET /smuggled"])
        .answers(&[200, 200])
        .open(),
        text("a head that its client breaks off", "GET /room_a HTTP/1.1\r\nHost: a\r\nX-").half_close(),
        text("a request line that its client breaks off", "GET /ro").half_close(),
        text("nothing", "").half_close(),
        text("empty lines only", "\r\n\r\n\r\n").half_close(),
    ]
}

fn sizes() -> Vec<Case> {
    let head = |fill: usize| format!("GET /room_a HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(fill));
    let fields = |count: usize| {
        let fields: String = (1..count).map(|number| format!("X-{number}: 1\r\n")).collect();
        format!("GET /room_a HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    };
    let target = |length: usize| format!("GET /x?{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length));
    vec![
        made("a large head", head(32_000)).passes("backend-0 GET /room_a"),
        made("a head over the limit", head(33_000)).refused(431),
        made("a head far over the limit", head(1_000_000)).refused(431),
        made("a hundred fields", fields(100)).passes("backend-0 GET /room_a"),
        made("a hundred and one", fields(101)).refused(431),
        made("a long target", target(30_000))
            .sees_long(format!("any GET /x?{}", "x".repeat(30_000)))
            .answers(&[200])
            .open(),
        made("a target over the head's limit", target(40_000)).refused(431),
        made("a target longer than any", target(70_000)).refused(431),
        made("a long method", format!("{} /room_a HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(300)))
            .sees_long(format!("backend-0 {} /room_a", "M".repeat(300)))
            .answers(&[200])
            .open(),
        made("a large cookie", format!("GET /room_a HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "c=1; ".repeat(3000)))
            .passes("backend-0 GET /room_a"),
    ]
}

/// What is not HTTP at all.
fn foreign() -> Vec<Case> {
    vec![
        case("a TLS ClientHello", &b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\x00\x01\x02\x03\r\n\r\n"[..])
            .refused(400),
        case("SSLv2", &b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\r\n\r\n"[..]).refused(400),
        text("SSH", "SSH-2.0-OpenSSH_9.2\r\n\r\n").refused(400),
        text("Redis", "*1\r\n$4\r\nPING\r\n").refused(400),
        text("SMTP", "EHLO a.example\r\n").refused(400),
        text("HTTP/2 by prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        text("the PROXY protocol", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /room_a HTTP/1.1\r\nHost: a\r\n\r\n")
            .refused(400),
        case(
            "the PROXY protocol, version 2",
            &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x01\0\x02"[..],
        )
        .refused(400),
        case("bytes without a line end", vec![0xfe; 40_000]).refused(400),
        case("zeroes", vec![0; 100]).refused(400),
    ]
}
