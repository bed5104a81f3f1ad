//! Response heads from pods: how they frame the body, what of them goes on, and that a part of one is none.

use bytes::Bytes;
use http::{HeaderMap, Method};
use pod_router::core::wire::response::{self, Head};
use pod_router::core::wire::{Decoder, HeadError};

use super::input::Input;

const LINES: &[&str] = &[
    "Content-Length: 5",
    "content-length: 5, 5",
    "Content-Length: 6",
    "Content-Length: 05",
    "Content-Length: +5",
    "Content-Length:",
    "Transfer-Encoding: chunked",
    "transfer-encoding: Chunked",
    "Transfer-Encoding: gzip, chunked",
    "Connection: close",
    "connection: Keep-Alive, X-One",
    "Connection: upgrade",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "Keep-Alive: timeout=5",
    "X-One: 1",
    "X-Two: a, b",
    "X-Two:\t c \t",
    "Set-Cookie: a=1; Path=/",
    "Set-Cookie: b=2",
    "Trailer: X-One",
    "X-Request-Id: theirs",
    "Date: now",
    "X-Odd: \u{e9}\u{20ac}",
    "X-Empty:",
];

const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b": ",
    b":",
    b" ",
    b"\t",
    b",",
    b"\r\n\r\n",
    b"chunked",
    b"close",
    b"5",
    b"Content-Length",
    b"Transfer-Encoding",
    b"HTTP/1.0",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"\r\n ",
];

/// What never goes on to a client, whatever it says.
const OF_THIS_HOP: &[&str] =
    &["connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "upgrade"];

fn head(input: &mut Input) -> Vec<u8> {
    let status = match input.below(3) {
        0 => input.pick(&["200 OK", "204 No Content", "304 Not Modified", "101 Switching Protocols", "100 Continue"]),
        1 => input.pick(&["200", "200 ", "299 Mine", "599 ?", "404 Not Found", "500 \u{e9}"]),
        _ => input.pick(&["200 OK", "200 OK", "20 OK", "1000 X", "099 X", "-10 X"]),
    };
    let mut text = format!("{} {status}\r\n", input.pick(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2"]));
    for _ in 0..input.below(7) {
        text.push_str(input.pick(LINES));
        text.push_str("\r\n");
    }
    if input.one_in(100) {
        text.push_str(&"X-Many: 1\r\n".repeat(90 + input.below(20)));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    input.damage(&mut bytes, TOKENS);
    bytes
}

/// The fields of a head that has been accepted, read line by line: names in lower case, values without the space around.
fn fields(head: &[u8]) -> Vec<(String, Vec<u8>)> {
    let lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    // Empty lines in front are passed over (RFC 9112 section 2.2).
    let fields = lines.skip_while(|line| line.is_empty()).skip(1).take_while(|line| !line.is_empty());
    fields
        .map(|line| {
            let colon = line.iter().position(|byte| *byte == b':').expect("every line of it has a name");
            (String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase(), line[colon + 1..].trim_ascii().to_vec())
        })
        .collect()
}

fn elements<'a>(fields: &'a [(String, Vec<u8>)], name: &'a str) -> impl Iterator<Item = String> + 'a {
    let values = fields.iter().filter(move |(field, _)| field == name).map(|(_, value)| String::from_utf8_lossy(value));
    values.flat_map(|value| value.split(',').map(|one| one.trim().to_ascii_lowercase()).collect::<Vec<_>>())
}

/// RFC 9112 section 6.3, with every line at hand. An error is what two readers could understand differently.
fn framing(fields: &[(String, Vec<u8>)], old: bool, status: u16, method: &Method) -> Result<String, ()> {
    let lengths: Vec<_> = elements(fields, "content-length").collect();
    let number = |text: &String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let values: Vec<_> = lengths.iter().filter(|text| number(text)).map(|text| text.parse::<u64>()).collect();
    let agree = values.len() == lengths.len() && values.iter().all(|value| value.is_ok() && *value == values[0]);
    let codings: Vec<_> =
        fields.iter().filter(|(name, _)| name == "transfer-encoding").map(|(_, value)| value).collect();
    let chunked = codings.len() == 1 && codings[0].eq_ignore_ascii_case(b"chunked") && !old;
    if !agree || !(chunked || codings.is_empty()) {
        return Err(());
    }
    if method == Method::HEAD || status < 200 || status == 204 || status == 304 {
        return Ok("length 0".to_owned());
    }
    match values.first() {
        _ if chunked => Ok("chunks".to_owned()),
        Some(Ok(length)) => Ok(format!("length {length}")),
        Some(Err(_)) | None => Ok("until the close".to_owned()),
    }
}

fn named(body: &Decoder) -> String {
    match body {
        Decoder::Length(length) => format!("length {length}"),
        Decoder::Chunked(_) => "chunks".to_owned(),
        Decoder::UntilClose => "until the close".to_owned(),
    }
}

fn parse(bytes: &[u8], method: &Method) -> Result<Option<(Head, usize, HeaderMap)>, HeadError> {
    // Of another head's: none of it may be left.
    let mut passed = HeaderMap::from_iter([(http::header::FROM, http::HeaderValue::from_static("another"))]);
    let parsed = response::parse(&Bytes::copy_from_slice(bytes), method, &mut passed)?;
    Ok(parsed.map(|(head, length)| (head, length, passed)))
}

/// The most fields that a pod's answer may have.
const MOST_FIELDS: usize = 100;

/// What has `passed` is what came, in its order, without what is this hop's.
fn expect_fields(parsed: &Head, passed: &HeaderMap, fields: &[(String, Vec<u8>)]) {
    let options: Vec<_> = elements(fields, "connection").collect();
    for (name, _) in fields {
        let own: Vec<_> = fields.iter().filter(|(field, _)| field == name).map(|(_, value)| &value[..]).collect();
        let seen: Vec<_> = passed.get_all(name).iter().map(|value| value.as_bytes().trim_ascii()).collect();
        let framed = ["content-length", "transfer-encoding"].contains(&name.as_str());
        // What `Connection` says of itself is no field's name.
        let of_its_own = ["close", "keep-alive", "upgrade", "host"].contains(&name.as_str());
        let is_named = options.contains(name) && !of_its_own && !name.starts_with("x-forwarded-");
        let announces = name == "trailer" && !options.is_empty();
        if OF_THIS_HOP.contains(&name.as_str()) || name == "x-request-id" || name == "transfer-encoding" {
            assert!(seen.is_empty(), "{name} goes on");
        } else if is_named && !framed {
            assert!(seen.is_empty(), "{name}, which Connection names, goes on");
        } else if !framed && !announces {
            assert_eq!(seen, own, "{name}");
        }
    }
    let known = |name: &http::HeaderName| fields.iter().any(|(field, _)| field == name.as_str());
    assert!(passed.keys().all(known), "a field of nobody's in {:?}", passed);
    // One length at most, and none beside chunks.
    let lengths: Vec<_> = passed.get_all("content-length").iter().collect();
    assert!(lengths.len() <= 1 && (lengths.is_empty() || !matches!(parsed.body, Decoder::Chunked(_))));
}

fn check(bytes: &[u8], method: &Method, input: &mut Input) -> bool {
    let parsed = parse(bytes, method);
    // A part of a head is none, and what comes behind it changes nothing.
    let cut = input.below(bytes.len() + 1);
    if let Ok(Some((_, length, _))) = &parsed {
        let early = parse(&bytes[..cut.min(length - 1)], method);
        assert!(matches!(early, Ok(None)), "{early:?} after {cut} bytes");
        let more = [bytes, &input.bytes(10)].concat();
        let again = parse(&more, method).expect("still valid").expect("still whole");
        assert_eq!(again.1, *length);
    }
    let (parsed, length, passed) = match parsed {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return false,
        Err(error) => {
            // An error stays one, whatever follows.
            let more = [bytes, b"\r\n\r\n"].concat();
            assert!(parse(&more, method).is_err(), "{error:?} is forgotten");
            let lines = bytes.split(|byte| *byte == b'\n').count();
            assert!(error != HeadError::TooManyFields || lines > MOST_FIELDS, "{lines} lines are too many");
            return false;
        }
    };
    let fields = fields(&bytes[..length]);
    let old = bytes.trim_ascii_start().starts_with(b"HTTP/1.0");
    let expected = framing(&fields, old, parsed.status.as_u16(), method);
    assert_eq!(Ok(named(&parsed.body)), expected, "the end of the body");
    let options: Vec<_> = elements(&fields, "connection").collect();
    let has = |option: &str| options.iter().any(|one| one == option);
    let both = fields.iter().any(|(name, _)| name == "content-length")
        && fields.iter().any(|(name, _)| name == "transfer-encoding");
    let persists = if old { has("keep-alive") && !has("close") } else { !has("close") };
    let until_close = matches!(parsed.body, Decoder::UntilClose);
    assert_eq!(parsed.keep_alive, persists && !both && !until_close, "whether the connection lives on");
    let upgrades: Vec<_> = fields.iter().filter(|(name, _)| name == "upgrade").map(|(_, value)| value).collect();
    let websocket = upgrades.len() == 1 && upgrades[0].eq_ignore_ascii_case(b"websocket") && has("upgrade");
    assert_eq!(parsed.websocket, websocket, "whether it switches to WebSocket");
    expect_fields(&parsed, &passed, &fields);
    true
}

#[test]
fn response_heads_are_framed_and_passed_on_as_the_rfc_says() {
    super::run("response", 60_000, |input| {
        let bytes = head(input);
        let method = if input.one_in(4) { Method::HEAD } else { Method::GET };
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let _shown = Shown(&shown);
        check(&bytes, &method, input)
    });
}

/// Shows the input of a run that fails.
struct Shown<'a>(&'a str);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("fuzz: the head was {:?}", self.0);
        }
    }
}
