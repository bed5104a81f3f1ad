//! Where a request's body ends: Content-Length, Transfer-Encoding, chunks (RFC 9112 sections 6 and 7).

use super::case::{Case, made, text};

pub(super) fn cases() -> Vec<Case> {
    [lengths(), codings(), both(), chunks(), trailers()].into_iter().flatten().collect()
}

fn lengths() -> Vec<Case> {
    vec![
        text("content-length", "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
            .passes("backend-0 POST /room_a [hello]"),
        text("content-length 0", "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            .passes("backend-0 POST /room_a"),
        text(
            "content-length with leading zeroes",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\n\r\nhello",
        )
        .passes("backend-0 POST /room_a [hello]"),
        text(
            "content-length and the next request",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .sees(&["backend-0 POST /room_a [hello]", "any GET /"])
        .answers(&[200, 200])
        .open(),
        text("a body that a GET names", "GET /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
            .passes("backend-0 GET /room_a [hello]"),
        text("no length, and bytes that look like a body", "POST /room_a HTTP/1.1\r\nHost: a\r\n\r\nhello\r\n\r\n")
            .sees(&["backend-0 POST /room_a"])
            .answers(&[200, 400]),
        text(
            "content-length given twice, alike",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        )
        .passes("backend-0 POST /room_a [hello]"),
        text(
            "content-length given twice, differing",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        )
        .refused(400),
        text("content-length as a list", "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello")
            .refused(400),
        text(
            "content-length as a differing list",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\nhello!",
        )
        .refused(400),
        text("content-length +5", "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello").refused(400),
        text("content-length -5", "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello").refused(400),
        text("content-length 0x5", "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello").refused(400),
        text("content-length 5.0", "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\nhello").refused(400),
        text("content-length 5 5", "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello").refused(400),
        text("content-length five", "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: five\r\n\r\nhello")
            .refused(400),
        text("content-length empty", "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhello").refused(400),
        text(
            "content-length 2^64",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\nhello",
        )
        .refused(400),
        text(
            "content-length 2^64 - 1",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\nhello",
        )
        .refused(431),
        text(
            "content-length with a vertical tab",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: \x0b5\r\n\r\nhello",
        )
        .refused(400),
        text(
            "a body that its client breaks off",
            "POST /room_a/silent HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello",
        )
        .half_close()
        .sees(&["backend-0 POST /room_a/silent [hello"])
        .closed(),
    ]
}

fn codings() -> Vec<Case> {
    let one = |name, coding: &str| {
        made(
            name,
            format!("POST /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:{coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        )
    };
    vec![
        one("chunked", " chunked").passes("backend-0 POST /room_a [hello]"),
        one("CHUNKED without a space", "CHUNKED").passes("backend-0 POST /room_a [hello]"),
        one("chunked between tabs", "\tchunked\t").passes("backend-0 POST /room_a [hello]"),
        one("identity", " identity").refused(400),
        one("xchunked", " xchunked").refused(400),
        one("chunked in quotes", " \"chunked\"").refused(400),
        one("chunked with a parameter", " chunked;q=1").refused(400),
        one("chunked after a comma", " ,chunked").refused(501),
        one("chunked before a comma", " chunked,").refused(400),
        one("chunked twice", " chunked, chunked").refused(501),
        one("gzip, chunked", " gzip, chunked").refused(501),
        one("chunked, gzip", " chunked, gzip").refused(400),
        one("chunked, identity", " chunked, identity").refused(400),
        one("two words", " x chunked").refused(400),
        one("a vertical tab before it", " \x0bchunked").refused(400),
        one("a NUL behind it", " chunked\0").refused(400),
        one("no coding at all", "").refused(400),
        one("a second line with another", " chunked\r\nTransfer-Encoding: identity").refused(400),
        one("a second line with the same", " chunked\r\nTransfer-Encoding: chunked").refused(501),
        one("first line with another", " gzip\r\nTransfer-Encoding: chunked").refused(501),
        one("folded", "\r\n chunked").refused(400),
        text("a space before the colon", "POST /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n")
            .refused(400),
        text("a coding under HTTP/1.0", "POST /room_a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
            .refused(400),
        text(
            "a lookalike of the field is a field like others",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        )
        .passes("backend-0 POST /room_a [0\r\n\r\n]"),
        text(
            "a Connection line cannot name the coding away",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
        .passes("backend-0 POST /room_a [hello]"),
        text(
            "nor the length",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\nContent-Length: 5\r\n\r\nhello",
        )
        .passes("backend-0 POST /room_a [hello]"),
    ]
}

/// Section 6.3: Transfer-Encoding wins, and the connection ends after the answer.
fn both() -> Vec<Case> {
    vec![
        text(
            "both framings, the length first",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .sees(&["backend-0 POST /room_a"])
        .answers(&[200])
        .closed(),
        text(
            "both framings, the coding first",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 40\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .sees(&["backend-0 POST /room_a"])
        .answers(&[200])
        .closed(),
        text(
            "both framings, the length 0",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
        .sees(&["backend-0 POST /room_a [hello]"])
        .answers(&[200])
        .closed(),
        text(
            "both framings, a coding that is none",
            "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: xchunked\r\n\r\nhello",
        )
        .refused(400),
    ]
}

fn chunks() -> Vec<Case> {
    let body = |name, body: &str| {
        made(name, format!("POST /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"))
    };
    // What came of it together with the head was looked at before the pod got any of it.
    let broken = |name, bytes: &str| body(name, bytes).refused(400);
    let long = "x".repeat(20_000);
    vec![
        body("several chunks", "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n").passes("backend-0 POST /room_a [hello]"),
        body("sizes with zeroes and in capitals", "0000A\r\n0123456789\r\n00\r\n\r\n")
            .passes("backend-0 POST /room_a [0123456789]"),
        body("extensions", "5;a;b=c;d=\"e\"\r\nhello\r\n0;last\r\n\r\n").passes("backend-0 POST /room_a [hello]"),
        body("after the last chunk comes the next request", "5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .sees(&["backend-0 POST /room_a [hello]", "any GET /"])
            .answers(&[200, 200])
            .open(),
        broken("a size of 2^64", "10000000000000000\r\nhello\r\n0\r\n\r\n"),
        broken("a size that would wrap round", "ffffffffffffffff5\r\nhello\r\n0\r\n\r\n"),
        broken("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
        broken("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        broken("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        broken("a size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        broken("no size", "\r\nhello\r\n0\r\n\r\n"),
        broken("no size but an extension", ";a\r\nhello\r\n0\r\n\r\n"),
        broken("letters for a size", "five\r\nhello\r\n0\r\n\r\n"),
        broken("a space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
        broken("a size line that ends in LF", "5\nhello\r\n0\r\n\r\n"),
        broken("a size line that ends in CR", "5\rhello\r\n0\r\n\r\n"),
        broken("an LF within an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        broken("a CR within an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        body("data that is longer than its size", "3\r\nhello\r\n0\r\n\r\n")
            .sees(&["backend-0 POST /room_a [hel"])
            .answers(&[400])
            .closed(),
        body("data that ends in LF", "5\r\nhello\n0\r\n\r\n")
            .sees(&["backend-0 POST /room_a [hello"])
            .answers(&[400])
            .closed(),
        body("data that is shorter than its size", "6\r\nhello\r\n0\r\n\r\n")
            .sees(&["backend-0 POST /room_a [hello\r"])
            .answers(&[400])
            .closed(),
        body("extensions beyond any reason", &format!("5\r\nhello\r\n5;{long}\r\nhello\r\n0\r\n\r\n"))
            .sees(&["backend-0 POST /room_a [hello"])
            .answers(&[400])
            .closed(),
        body("no last chunk", "5\r\nhello\r\n").half_close().sees(&["backend-0 POST /room_a [hello"]).closed(),
        made(
            "a chunked body that a GET has",
            "GET /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
        )
        .passes("backend-0 GET /room_a [hello]"),
    ]
}

fn next_two() -> &'static str {
    "GET /room_b HTTP/1.1\r\nHost: a\r\n\r\nGET /room_a/last HTTP/1.1\r\nHost: a\r\n"
}

/// Section 7.1.2 and RFC 9110 section 6.5.1: none of a request's trailers is forwarded. Behind a trailer section nothing is
/// read: hyper may have taken more for it than others do.
fn trailers() -> Vec<Case> {
    let after = |name, trailers: &str| {
        made(
            name,
            format!(
                "POST /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{trailers}\r\n"
            ),
        )
    };
    vec![
        after("a trailer", "X-Sum: 1\r\n").sees(&["backend-0 POST /room_a [hello]"]).answers(&[200]).closed(),
        after("a trailer, and the next request", "X-Sum: 1\r\n\r\nGET /room_b HTTP/1.1\r\nHost: a\r\n")
            .sees(&["backend-0 POST /room_a [hello]"])
            .answers(&[200])
            .closed(),
        after("a trailer that ends in LF, and the next two requests", &format!("X-Sum: 1\n\r\n{}", next_two()))
            .sees(&["backend-0 POST /room_a [hello]"])
            .answers(&[200])
            .closed(),
        after("an LF for a trailer section, and the next two requests", &format!("\n{}", next_two()))
            .sees(&["backend-0 POST /room_a [hello]"])
            .answers(&[200])
            .closed(),
        after("a trailer section that LFs end, and the next two requests", &format!("X-Sum: 1\n\n{}", next_two()))
            .sees(&["backend-0 POST /room_a [hello]"])
            .answers(&[200])
            .closed(),
        after(
            "trailers that would be heads",
            "Content-Length: 9\r\nTransfer-Encoding: gzip\r\nHost: b\r\nX-Room-Id: b\r\n",
        )
        .sees(&["backend-0 POST /room_a [hello]"])
        .answers(&[200])
        .closed()
        .h11_differs("it reads them like a head; here they are dropped"),
        after("a trailer without a colon", "X-Sum\r\n")
            .sees(&["backend-0 POST /room_a [hello"])
            .answers(&[400])
            .closed(),
        after("a trailer section without end", &format!("X-Sum: {}\r\n", "x".repeat(40_000)))
            .sees(&["backend-0 POST /room_a [hello"])
            .answers(&[400])
            .closed(),
    ]
}
