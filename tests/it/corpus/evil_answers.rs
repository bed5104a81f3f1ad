//! What evil and broken pods send.

use super::evil::{Evil, evil};
use super::ledger::After::{BeforeBody, Close, Reset, Serve};

pub(super) fn cases() -> Vec<Evil> {
    [lengths(), codings(), chunks(), surplus(), status_lines(), fields(), interim(), early_ends(), connections()]
        .into_iter()
        .flatten()
        .collect()
}

fn text(name: &'static str, text: &'static str) -> Evil {
    evil(name, text.as_bytes())
}

fn made(name: &'static str, text: String) -> Evil {
    evil(name, text.into_bytes())
}

fn lengths() -> Vec<Evil> {
    let with = |name, length: &str| made(name, format!("HTTP/1.1 200 OK\r\nContent-Length:{length}\r\n\r\nhello"));
    vec![
        with("a length", " 5").then(Serve).whole(200, "hello").kept(),
        with("a length twice, alike", " 5\r\nContent-Length: 5").then(Serve).whole(200, "hello").kept(),
        with("a length twice, differing", " 5\r\nContent-Length: 6"),
        with("a list of the same length", " 5, 5").then(Serve).whole(200, "hello").kept(),
        with("a list of lengths", " 5, 6"),
        with("a length of -1", " -1"),
        with("a length of +5", " +5"),
        with("a length of 0x5", " 0x5"),
        with("an empty length", ""),
        with("a length and a word", " 5 x"),
        with("a length of 2^64", " 18446744073709551616"),
        with("a length of 2^64 - 1 and five bytes", " 18446744073709551615").then(Close).cut_off(200, "hello"),
        with("a longer body than its length", " 3").then(Serve).whole(200, "hel"),
        with("a shorter body than its length", " 9").then(Close).cut_off(200, "hello"),
        with("no body but a length of 0", " 0").then(Serve).whole(200, ""),
    ]
}

fn codings() -> Vec<Evil> {
    let with = |name, lines: &str| made(name, format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"));
    vec![
        with("chunked", "Transfer-Encoding: chunked").then(Serve).whole(200, "hello").kept(),
        with("both framings, a shorter length", "Content-Length: 3\r\nTransfer-Encoding: chunked").whole(200, "hello"),
        with("both framings, a longer length", "Transfer-Encoding: chunked\r\nContent-Length: 500").whole(200, "hello"),
        with("chunked twice", "Transfer-Encoding: chunked, chunked"),
        with("chunked on two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        with("gzip, chunked", "Transfer-Encoding: gzip, chunked"),
        with("gzip", "Transfer-Encoding: gzip").then(Close),
        with("identity", "Transfer-Encoding: identity").then(Close),
        with("an empty coding", "Transfer-Encoding:").then(Close),
        with("xchunked", "Transfer-Encoding: xchunked"),
        with("a coding that Connection names away", "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked")
            .then(Serve)
            .whole(200, "hello")
            .kept(),
        text(
            "a length that Connection names away",
            "HTTP/1.1 200 OK\r\nConnection: Content-Length\r\nContent-Length: 5\r\n\r\nhello",
        )
        .then(Serve)
        .whole(200, "hello")
        .kept(),
        text("chunks under HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ]
}

fn chunks() -> Vec<Evil> {
    let body = |name, body: &str| made(name, format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
    let long = "x".repeat(20_000);
    vec![
        body("a chunk size of 2^64", "10000000000000000\r\nhello\r\n0\r\n\r\n").cut_off(200, ""),
        body("a chunk size that would wrap round", "ffffffffffffffff5\r\nhello\r\n0\r\n\r\n").cut_off(200, ""),
        body("a negative chunk size", "-5\r\nhello\r\n0\r\n\r\n").cut_off(200, ""),
        body("a chunk size with 0x", "0x5\r\nhello\r\n0\r\n\r\n").cut_off(200, ""),
        body("a chunk without a size", "\r\nhello\r\n0\r\n\r\n").cut_off(200, ""),
        body("a chunk size that ends in LF", "5\nhello\r\n0\r\n\r\n").cut_off(200, ""),
        body("an LF within an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n").cut_off(200, ""),
        body("a chunk that is longer than its size", "3\r\nhello\r\n0\r\n\r\n").cut_off(200, "hel"),
        body("a chunk that is shorter than its size", "6\r\nhello\r\n0\r\n\r\n").cut_off(200, "hello\r"),
        body("a chunk that ends in LF", "5\r\nhello\n0\r\n\r\n").cut_off(200, "hello"),
        body("an extension", "5;a=\"b\"\r\nhello\r\n0\r\n\r\n").then(Serve).whole(200, "hello").kept(),
        body("an extension without end", &format!("5;{long}\r\nhello\r\n0\r\n\r\n")).cut_off(200, ""),
        body("trailers", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n").then(Serve).whole(200, "hello").kept(),
        body("trailers that frame", "5\r\nhello\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\n\r\n")
            .then(Serve)
            .whole(200, "hello")
            .kept(),
        body("a trailer that is none", "5\r\nhello\r\n0\r\nno colon\r\n\r\n").cut_off(200, "hello"),
        body("trailers without end", &format!("5\r\nhello\r\n0\r\nX: {long}\r\n\r\n")).cut_off(200, "hello"),
        body("a thousand trailers", &format!("5\r\nhello\r\n0\r\n{}\r\n", "X: 1\r\n".repeat(1000)))
            .cut_off(200, "hello"),
        body("no last chunk", "5\r\nhello\r\n").then(Close).cut_off(200, "hello"),
        body("half a chunk", "9\r\nhello").then(Close).cut_off(200, "hello"),
        body("half a last chunk", "5\r\nhello\r\n0\r\n").then(Close).cut_off(200, "hello"),
        body("ten thousand chunks", &("1\r\nx\r\n".repeat(10_000) + "0\r\n\r\n"))
            .then(Serve)
            .whole(200, "x".repeat(10_000))
            .kept(),
    ]
}

/// Bytes beyond the answer, which must never become the next client's.
fn surplus() -> Vec<Evil> {
    const OTHER: &str = "HTTP/1.1 200 OK\r\nX-Pod: evil\r\nX-Seen: surplus\r\nContent-Length: 0\r\n\r\n";
    let with = |name, first: &str| made(name, format!("{first}{OTHER}"));
    vec![
        with("a second answer after a length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            .then(Serve)
            .whole(200, "hello"),
        with(
            "a second answer after chunks",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
        .then(Serve)
        .whole(200, "hello"),
        with("a second answer after a 204", "HTTP/1.1 204 No Content\r\n\r\n").then(Serve).whole(204, ""),
        with("a second answer after a 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n")
            .then(Serve)
            .whole(304, ""),
        with("a second answer to a HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            .to("HEAD", "")
            .then(Serve)
            .whole(200, ""),
        text("a body to a HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            .to("HEAD", "")
            .then(Serve)
            .whole(200, ""),
        text("chunks to a HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .to("HEAD", "")
            .then(Serve)
            .whole(200, ""),
        text("a body with a 204", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello")
            .then(Serve)
            .whole(204, ""),
        text(
            "chunks with a 204",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
        .then(Serve)
        .whole(204, ""),
        text("a body with a 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello")
            .then(Serve)
            .whole(304, ""),
        text("a line end too many", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\r\n")
            .then(Serve)
            .whole(200, "hello"),
    ]
}

fn status_lines() -> Vec<Evil> {
    let with = |name, line: &str| made(name, format!("{line}\r\nContent-Length: 2\r\n\r\nok"));
    vec![
        with("no reason", "HTTP/1.1 200 ").then(Serve).whole(200, "ok").kept(),
        with("no space for a reason", "HTTP/1.1 200").then(Serve).whole(200, "ok").kept(),
        with("a reason of one's own", "HTTP/1.1 200 Very: well, then").then(Serve).whole(200, "ok").kept(),
        with("an odd status", "HTTP/1.1 799 X").then(Serve).whole(799, "ok").kept(),
        with("a status of 099", "HTTP/1.1 099 X"),
        with("a status of 000", "HTTP/1.1 000 X"),
        with("a status of 20", "HTTP/1.1 20 X"),
        with("a status of 2000", "HTTP/1.1 2000 X"),
        with("a status of letters", "HTTP/1.1 abc X"),
        with("a negative status", "HTTP/1.1 -20 X"),
        with("no version", "200 OK"),
        with("HTTP/2", "HTTP/2 200 OK"),
        with("HTTP/1.2", "HTTP/1.2 200 OK"),
        with("http in small letters", "http/1.1 200 OK"),
        with("a space in front", " HTTP/1.1 200 OK"),
        with("two spaces", "HTTP/1.1  200 OK"),
        with("a NUL in the reason", "HTTP/1.1 200 O\0K"),
        text("HTTP/0.9", "<html>hello</html>\r\n\r\n").then(Close),
        text("an SSH banner", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        evil("a TLS alert", &b"\x15\x03\x03\x00\x02\x02\x46\r\n\r\n"[..]),
        evil("random bytes", vec![0xa5; 70_000]),
        text("an echo of the request", "GET /room_a/evil HTTP/1.1\r\nHost: a\r\n\r\n"),
    ]
}

fn fields() -> Vec<Evil> {
    let with = |name, lines: &str| made(name, format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{lines}\r\n\r\nok"));
    vec![
        evil("a value beyond ASCII", &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: \xff\r\n\r\nok"[..])
            .then(Serve)
            .whole(200, "ok")
            .kept(),
        with("a space before the colon", "X : 1"),
        with("a folded line", "X: 1\r\n 2"),
        with("no colon", "X"),
        with("an empty name", ": 1"),
        with("a NUL in a value", "X: a\0b"),
        with("a CR in a value", "X: a\rb"),
        with("an ESC in a value", "X: a\x1bb"),
        with("a hundred fields", ("X: 1\r\n".repeat(99)).trim_end()).then(Serve).whole(200, "ok").kept(),
        with("a hundred and one", ("X: 1\r\n".repeat(100)).trim_end()),
        with("a large field", &format!("X: {}", "x".repeat(60_000))).then(Serve).whole(200, "ok").kept(),
        with("a head over the limit", &format!("X: {}", "x".repeat(70_000))),
        made("a head without end", format!("HTTP/1.1 200 OK\r\n{}", "X: xxxxxxxxxxxxxxxx\r\n".repeat(20_000))),
        with("two lines with a length between them of another name", "Content_Length: 5")
            .then(Serve)
            .whole(200, "ok")
            .kept(),
        text("line ends of LF only", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok").then(Serve).whole(200, "ok").kept(),
    ]
}

fn interim() -> Vec<Evil> {
    const FINAL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let with = |name, first: &str| made(name, format!("{first}{FINAL}"));
    vec![
        with("a 103", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").then(Serve).whole(200, "ok").kept(),
        with("a 100 that nobody asked for", "HTTP/1.1 100 Continue\r\n\r\n").then(Serve).whole(200, "ok").kept(),
        with("a 102 and a 199", "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 199 X\r\n\r\n").then(Serve).whole(200, "ok").kept(),
        with("a 103 that names a length", "HTTP/1.1 103 Early Hints\r\nContent-Length: 40\r\n\r\n").then(Serve).whole(200, "ok").kept(),
        with("a storm of them", &"HTTP/1.1 100 Continue\r\n\r\n".repeat(20_000)).then(Serve).whole(200, "ok").kept(),
        with("a broken one", "HTTP/1.1 103 Early Hints\r\nLink\r\n\r\n"),
        text("nothing but one", "HTTP/1.1 103 Early Hints\r\n\r\n").then(Close),
        text("an unasked 101", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nsecrets"),
        text("an unasked 101 without fields", "HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        text("a 101 to another protocol", "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
            .to("GET", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"),
        text(
            "a 101 with another key's answer",
            "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: xxxxxxxxxxxxxxxxxxxxxxxxxxx=\r\n\r\n",
        )
        .to("GET", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"),
    ]
}

fn early_ends() -> Vec<Evil> {
    vec![
        text("not a byte", "").then(Close),
        text("not a byte, and a reset", "").then(Reset),
        text("half a status line", "HTTP/1.1 20").then(Close),
        text("half a head", "HTTP/1.1 200 OK\r\nContent-").then(Close),
        text("half a head, and a reset", "HTTP/1.1 200 OK\r\nContent-").then(Reset),
        text("a head without its body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").then(Close).cut_off(200, ""),
        text("half a body, and a reset", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
            .then(Reset)
            .cut_off(200, "hello"),
        text("a body that ends with the connection", "HTTP/1.1 200 OK\r\n\r\nhello").then(Close).whole(200, "hello"),
        text("such a body, and a reset", "HTTP/1.1 200 OK\r\n\r\nhello").then(Reset).cut_off(200, "hello"),
    ]
}

fn connections() -> Vec<Evil> {
    let with = |name, line: &str| made(name, format!("{line}\r\nContent-Length: 2\r\n\r\nok"));
    vec![
        with("close, and it stays", "HTTP/1.1 200 OK\r\nConnection: close").whole(200, "ok"),
        with(
            "close among others, then keep-alive",
            "HTTP/1.1 200 OK\r\nConnection: x, CLOSE\r\nConnection: keep-alive",
        )
        .whole(200, "ok"),
        with("keep-alive, and it closes", "HTTP/1.1 200 OK\r\nConnection: keep-alive").then(Close).whole(200, "ok"),
        with("HTTP/1.0", "HTTP/1.0 200 OK").whole(200, "ok"),
        with("HTTP/1.0 that stays", "HTTP/1.0 200 OK\r\nConnection: keep-alive").then(Serve).whole(200, "ok").kept(),
        with(
            "fields that Connection names",
            "HTTP/1.1 200 OK\r\nConnection: X-A, Date, Set-Cookie\r\nX-A: 1\r\nSet-Cookie: a=1",
        )
        .then(Serve)
        .whole(200, "ok")
        .kept(),
        with("an answer before the body has come", "HTTP/1.1 413 Too Large\r\nConnection: close")
            .to("POST", "Connection: close\r\nContent-Length: 5\r\n")
            .then(BeforeBody)
            .whole(413, "ok"),
    ]
}
