//! The body decoder: the same bytes however they arrive, and those that the grammar of RFC 9112 section 7.1 gives.

use bytes::Bytes;
use pod_router::core::wire::{BodyError, Decoder, Part, request};

use super::input::Input;

const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"0\r\n\r\n",
    b"\r\n0\r\n",
    b"5\r\nhello\r\n",
    b";a=b",
    b";",
    b" ",
    b"\t",
    b"ffffffffffffffff",
    b"0x",
    b"-",
    b"+1",
    b"\r",
    b"X: y\r\n",
    b"Content-Length: 9\r\n",
    b"10000000000000000",
    b"00000000000000000",
    b"A\r\n",
];

/// Names that a trailer may not have, and some that it may.
const TRAILERS: &[&str] =
    &["X-Sum", "Server-Timing", "content-length", "Set-Cookie", "HOST", "Transfer-Encoding", "te"];

/// What a body came to: its data, the names of its trailers, and what was left over.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    data: Vec<u8>,
    trailers: Vec<String>,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Over, with this left.
    Whole(Vec<u8>),
    /// More has to come.
    Partial,
    Broken,
}

/// A body in chunks, mostly valid.
fn chunks(input: &mut Input) -> Vec<u8> {
    let mut wire = Vec::new();
    for _ in 0..input.below(4) {
        let data = input.bytes(40);
        if data.is_empty() {
            continue;
        }
        let size = match input.below(3) {
            0 => format!("{:x}", data.len()),
            1 => format!("{:X}", data.len()),
            _ => format!("{:06x}", data.len()),
        };
        wire.extend_from_slice(size.as_bytes());
        wire.extend_from_slice(input.pick(&[&b""[..], b"", b"", b";x", b" ; x=\"y\"", b"\t", b";\xff"]));
        wire.extend_from_slice(b"\r\n");
        wire.extend_from_slice(&data);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n");
    for _ in 0..input.below(3) {
        let value = input.word(b"abc 123\t,;=\"", 12);
        wire.extend_from_slice(format!("{}: {value}\r\n", input.pick(TRAILERS)).as_bytes());
    }
    wire.extend_from_slice(b"\r\n");
    wire.extend(input.bytes(6));
    input.damage(&mut wire, TOKENS);
    wire
}

/// Feeds the decoder in these pieces.
fn decode(mut decoder: Decoder, wire: &[u8], pieces: &[usize]) -> Read {
    let (mut data, mut trailers, mut rest, mut at) = (Vec::new(), Vec::new(), Bytes::new(), 0);
    for piece in pieces {
        rest = Bytes::from([&rest[..], &wire[at..at + piece]].concat());
        at += piece;
        loop {
            let certain = decoder.certain();
            match decoder.decode(&mut rest) {
                Ok(Some(Part::Data(part))) => {
                    assert!(!part.is_empty(), "an empty part");
                    assert!(certain == 0 || part.len() as u64 <= certain, "more than was certain to come");
                    data.extend_from_slice(&part);
                }
                Ok(Some(Part::Trailers(fields))) => trailers.extend(fields.keys().map(ToString::to_string)),
                Ok(None) => break,
                Err(BodyError::Chunk | BodyError::TooLarge | BodyError::CutOff) => {
                    return Read { data, trailers: Vec::new(), end: End::Broken };
                }
            }
        }
    }
    trailers.sort_unstable();
    let (whole, until_close) = (decoder.is_done(), matches!(decoder, Decoder::UntilClose));
    assert_eq!(decoder.length() == Some(0), whole, "there is nothing left where it is over");
    assert_eq!(decoder.close().is_ok(), whole || until_close, "a body is over when it says so");
    let end = if whole { End::Whole([&rest[..], &wire[at..]].concat()) } else { End::Partial };
    Read { data, trailers, end }
}

/// The next line of `wire` without its CRLF; `None` where there is none yet, an error where there cannot be one.
fn line<'a>(wire: &mut &'a [u8]) -> Result<Option<&'a [u8]>, ()> {
    let Some(end) = wire.iter().position(|byte| *byte == b'\r') else {
        return Ok(None);
    };
    match wire.get(end + 1) {
        None => Ok(None),
        Some(b'\n') => {
            let line = &wire[..end];
            *wire = &wire[end + 2..];
            Ok(Some(line))
        }
        Some(_) => Err(()),
    }
}

/// The size that a line gives: `chunk-size [ BWS chunk-ext ]`, of which everything behind the size is ignored but for
/// control characters.
fn size(line: &[u8], complete: bool) -> Result<u64, ()> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    if digits.is_empty() && (complete || !rest.is_empty()) {
        return Err(());
    }
    let after_space = rest.iter().position(|byte| *byte != b' ' && *byte != b'\t').map_or(&b""[..], |at| &rest[at..]);
    let extension = after_space.is_empty() || after_space[0] == b';';
    let control = after_space.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t');
    let text = std::str::from_utf8(digits).map_err(drop)?.trim_start_matches('0');
    if !extension || control || text.len() > 16 {
        return Err(());
    }
    if text.is_empty() { Ok(0) } else { u64::from_str_radix(text, 16).map_err(drop) }
}

/// The same, slowly, with everything at hand; without the trailers, which are another parser's.
fn oracle(mut wire: &[u8]) -> (Vec<u8>, Result<Option<&[u8]>, ()>) {
    let mut data = Vec::new();
    loop {
        let before = wire;
        let size = match line(&mut wire) {
            Ok(Some(line)) => size(line, true),
            // What there is of a line may already be wrong.
            Ok(None) => {
                let partial = before.strip_suffix(b"\r").unwrap_or(before);
                return (data, size(partial, before.ends_with(b"\r")).map(|_| None));
            }
            Err(()) => Err(()),
        };
        match size {
            Err(()) => return (data, Err(())),
            Ok(0) => return (data, Ok(Some(wire))),
            Ok(size) => {
                let here = usize::try_from(size).map_or(wire.len(), |size| size.min(wire.len()));
                data.extend_from_slice(&wire[..here]);
                wire = &wire[here..];
                match wire {
                    [] | [b'\r'] => return (data, Ok(None)),
                    [b'\r', b'\n', rest @ ..] => wire = rest,
                    _ => return (data, Err(())),
                }
            }
        }
    }
}

/// The names of a trailer section that may pass, or that it is broken; and what follows it.
type Section = (Result<Vec<String>, ()>, Vec<u8>);

/// Reads a trailer section; `None` where it is not over.
fn oracle_trailers(section: &[u8]) -> Option<Section> {
    let empty_line = || section.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 2);
    let end = if section.starts_with(b"\r\n") { Some(0) } else { empty_line() };
    // A bare LF breaks the section where it stands, whether or not the rest has come.
    let there = end.map_or(section, |end| &section[..end + 2]);
    if there.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || there[at - 1] != b'\r')) {
        return Some((Err(()), Vec::new()));
    }
    let end = end?;
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let names = match httparse::parse_headers(&section[..end + 2], &mut fields) {
        Ok(httparse::Status::Complete((_, fields))) => {
            let mut names: Vec<_> = fields.iter().map(|field| field.name.to_ascii_lowercase()).collect();
            let never = ["content-length", "set-cookie", "host", "transfer-encoding", "te"];
            names.retain(|name| !never.contains(&name.as_str()));
            names.sort_unstable();
            names.dedup();
            Ok(names)
        }
        _ => Err(()),
    };
    Some((names, section[end + 2..].to_vec()))
}

fn expected(wire: &[u8]) -> Read {
    let (data, outcome) = oracle(wire);
    let (trailers, end) = match outcome {
        Err(()) => (Vec::new(), End::Broken),
        Ok(None) => (Vec::new(), End::Partial),
        Ok(Some(section)) => match oracle_trailers(section) {
            None => (Vec::new(), End::Partial),
            Some((Err(()), _)) => (Vec::new(), End::Broken),
            Some((Ok(names), rest)) => (names, End::Whole(rest)),
        },
    };
    Read { data, trailers, end }
}

/// The most bytes of extensions in a body, and of trailers.
const MOST_OVERHEAD: usize = 16 * 1024;

/// What is no data is bounded. Near the bound it may be either.
fn check_overhead(input: &mut Input) {
    let sizes = [(); 2].map(|()| input.below(MOST_OVERHEAD * 3 / 2));
    let [extension, trailer] = sizes.map(|size| "x".repeat(size));
    let wire = format!("5;{extension}\r\nhello\r\n0\r\nX-Sum: {trailer}\r\n\r\n");
    let end = decode(Decoder::chunked(), wire.as_bytes(), &input.pieces(wire.len())).end;
    if sizes.iter().any(|size| *size > MOST_OVERHEAD) {
        assert_eq!(end, End::Broken, "{sizes:?}");
    } else if sizes.iter().all(|size| size + 100 < MOST_OVERHEAD) {
        assert_eq!(end, End::Whole(Vec::new()), "{sizes:?}");
    }
}

#[test]
fn chunked_bodies_are_what_the_grammar_says_in_whatever_pieces() {
    super::run("body", 25_000, |input| {
        let wire = chunks(input);
        let expected = expected(&wire);
        let shown = String::from_utf8_lossy(&wire).into_owned();
        let random = input.pieces(wire.len());
        for pieces in [vec![1; wire.len()], vec![wire.len()], random] {
            let pieces: Vec<_> = pieces.into_iter().filter(|piece| *piece > 0).collect();
            let mut seen = decode(Decoder::chunked(), &wire, &pieces);
            seen.trailers.dedup();
            assert_eq!(seen, expected, "{shown:?} in pieces of {pieces:?}");
        }
        // What the router itself sends in chunks.
        let mut sent = Vec::new();
        request::chunk_start(&mut sent, wire.len());
        for part in [&wire, request::END, request::LAST_CHUNK] {
            sent.extend_from_slice(part);
        }
        assert_eq!(decode(Decoder::chunked(), &sent, &input.pieces(sent.len())).data, wire);
        // By length, and by the close.
        let length = input.below(wire.len() + 1);
        let pieces = input.pieces(wire.len());
        let read = decode(Decoder::Length(length as u64), &wire, &pieces);
        assert_eq!((&read.data[..], read.end), (&wire[..length], End::Whole(wire[length..].to_vec())));
        assert_eq!(decode(Decoder::UntilClose, &wire, &pieces).data, wire);
        if input.one_in(50) {
            check_overhead(input);
        }
        matches!(expected.end, End::Whole(_))
    });
}
