//! Where a response body ends: RFC 9112 sections 6.3 and 7.1.
//!
//! [`Decoder`] takes received bytes and gives back what is body, without copying. It never looks beyond the end of the
//! body: what is left over is for the caller to judge.

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::core::headers;

/// The most that one message may spend on chunk extensions, and again on trailers.
const MAX_OVERHEAD: usize = 16 * 1024;

/// The digits of a chunk's size that cost nothing: those of 64 bits.
const MAX_DIGITS: usize = 16;

/// The most trailer fields.
const MAX_TRAILERS: usize = 64;

/// Reads one body.
#[derive(Debug)]
pub enum Decoder {
    /// This many bytes are still to come.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Whatever comes until the connection closes.
    UntilClose,
}

/// A piece of a body.
#[derive(Debug)]
pub enum Part {
    /// Some of its bytes, never empty.
    Data(Bytes),
    /// The trailer fields, at its end.
    Trailers(HeaderMap),
}

/// Why a body cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The chunked coding is broken.
    Chunk,
    /// Extensions or trailers without an end.
    TooLarge,
    /// The connection closed before the body's end.
    CutOff,
}

/// The chunked coding, between two bytes.
#[derive(Debug)]
pub struct Chunks {
    state: State,
    /// What is left of the current chunk, or its size as far as it has been read.
    left: u64,
    /// The digits of its size so far.
    digits: usize,
    overhead: usize,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SizeStart,
    Size,
    SizeSpace,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Done,
}

// === impl Decoder ===

impl Decoder {
    /// A message without a body.
    pub const EMPTY: Self = Self::Length(0);

    /// A chunked body.
    pub fn chunked() -> Self {
        Self::Chunked(Chunks { state: State::SizeStart, left: 0, digits: 0, overhead: 0, trailers: Vec::new() })
    }

    /// The next piece of the body in `received`, taken out of it; `None` when more has to be received, or the body is
    /// over ([`Self::is_done`]).
    ///
    /// # Errors
    ///
    /// What is wrong with the chunked coding.
    pub fn decode(&mut self, received: &mut Bytes) -> Result<Option<Part>, BodyError> {
        match self {
            Self::Chunked(chunks) => chunks.decode(received),
            Self::Length(left) => Ok(take(received, left).map(Part::Data)),
            Self::UntilClose if received.is_empty() => Ok(None),
            Self::UntilClose => Ok(Some(Part::Data(std::mem::take(received)))),
        }
    }

    /// The connection has closed.
    ///
    /// # Errors
    ///
    /// [`BodyError::CutOff`], unless that is how the body ends, or it is over.
    pub fn close(&mut self) -> Result<(), BodyError> {
        if matches!(self, Self::UntilClose) {
            *self = Self::EMPTY;
        }
        if self.is_done() { Ok(()) } else { Err(BodyError::CutOff) }
    }

    /// Whether the body is over.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.state == State::Done,
            Self::UntilClose => false,
        }
    }

    /// How many bytes of body are certain to come next.
    pub fn certain(&self) -> u64 {
        match self {
            Self::Length(left) => *left,
            Self::Chunked(chunks) if chunks.state == State::Data => chunks.left,
            Self::Chunked(_) | Self::UntilClose => 0,
        }
    }

    /// The body's length, where it was announced.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(chunks) => (chunks.state == State::Done).then_some(0),
            Self::UntilClose => None,
        }
    }
}

/// Up to `left` bytes out of `received`.
fn take(received: &mut Bytes, left: &mut u64) -> Option<Bytes> {
    let length = usize::try_from(*left).map_or(received.len(), |left| left.min(received.len()));
    *left -= length as u64;
    (length > 0).then(|| received.split_to(length))
}

// === impl Chunks ===

impl Chunks {
    fn decode(&mut self, received: &mut Bytes) -> Result<Option<Part>, BodyError> {
        loop {
            match self.state {
                State::Done => return Ok(None),
                State::Data => {
                    let data = take(received, &mut self.left);
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    if let Some(data) = data {
                        return Ok(Some(Part::Data(data)));
                    }
                }
                State::Trailers => return self.trailers(received),
                State::SizeStart
                | State::Size
                | State::SizeSpace
                | State::Extension
                | State::SizeLf
                | State::DataCr
                | State::DataLf => {}
            }
            if self.state == State::Data || received.is_empty() {
                return Ok(None);
            }
            let byte = received.get_u8();
            self.state = self.step(byte)?;
        }
    }

    /// One byte of the coding between the data.
    fn step(&mut self, byte: u8) -> Result<State, BodyError> {
        match (self.state, byte) {
            (State::SizeStart | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                self.left = self.left.checked_mul(16).ok_or(BodyError::Chunk)? + digit;
                self.digits = if self.state == State::SizeStart { 1 } else { self.digits + 1 };
                // A size may be padded to a width, on each of any number of chunks, but not without end.
                if self.digits > MAX_DIGITS {
                    self.count()?;
                }
                Ok(State::Size)
            }
            (State::Size | State::SizeSpace, b' ' | b'\t') => self.count().map(|()| State::SizeSpace),
            (State::Size | State::SizeSpace, b';') => self.count().map(|()| State::Extension),
            (State::Size | State::SizeSpace | State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, 0..=8 | 10..=31 | 127) => Err(BodyError::Chunk),
            (State::Extension, _) => self.count().map(|()| State::Extension),
            (State::SizeLf, b'\n') if self.left == 0 => Ok(State::Trailers),
            (State::SizeLf, b'\n') => Ok(State::Data),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::SizeStart),
            _ => Err(BodyError::Chunk),
        }
    }

    fn count(&mut self) -> Result<(), BodyError> {
        self.overhead += 1;
        if self.overhead > MAX_OVERHEAD { Err(BodyError::TooLarge) } else { Ok(()) }
    }

    /// Collects the trailer section up to its empty line. Lines end with CR and LF: a bare LF, which other readers take for
    /// an end as well, must not be waited beyond.
    fn trailers(&mut self, received: &mut Bytes) -> Result<Option<Part>, BodyError> {
        while self.state == State::Trailers && !received.is_empty() {
            let byte = received.get_u8();
            if byte == b'\n' && self.trailers.last() != Some(&b'\r') {
                return Err(BodyError::Chunk);
            }
            self.trailers.push(byte);
            if self.trailers.len() > MAX_OVERHEAD {
                return Err(BodyError::TooLarge);
            }
            if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
                self.state = State::Done;
            }
        }
        if self.state != State::Done || self.trailers.len() == 2 {
            return Ok(None);
        }
        parse_trailers(&std::mem::take(&mut self.trailers)).map(|fields| Some(Part::Trailers(fields)))
    }
}

/// The fields of a trailer section, without those that are not allowed there (RFC 9110 section 6.5.1).
fn parse_trailers(section: &[u8]) -> Result<HeaderMap, BodyError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(section, &mut fields) else {
        return Err(BodyError::Chunk);
    };
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BodyError::Chunk)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| BodyError::Chunk)?;
        if headers::may_be_trailer(name.as_str()) {
            map.append(name, value);
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body, its trailers, and what was left over.
    type Read = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

    /// Feeds `wire` in pieces of `step` bytes.
    fn read(mut decoder: Decoder, wire: &[u8], step: usize) -> Result<Read, BodyError> {
        let (mut body, mut trailers, mut rest) = (Vec::new(), None, Bytes::new());
        for piece in wire.chunks(step) {
            rest = Bytes::from([&rest[..], piece].concat());
            while let Some(part) = decoder.decode(&mut rest)? {
                match part {
                    Part::Data(data) => {
                        assert!(!data.is_empty());
                        body.extend_from_slice(&data);
                    }
                    Part::Trailers(fields) => trailers = Some(fields),
                }
            }
        }
        decoder.close().map(|()| (body, trailers, rest.to_vec()))
    }

    #[test]
    fn a_length_ends_exactly_there_however_the_bytes_arrive() {
        for step in 1..9 {
            let (body, _, rest) = read(Decoder::Length(5), b"helloHTTP", step).expect("a body");
            assert_eq!((&body[..], &rest[..]), (&b"hello"[..], &b"HTTP"[..]));
            assert_eq!(read(Decoder::Length(6), b"hello", step), Err(BodyError::CutOff));
        }
    }

    #[test]
    fn chunks_however_the_bytes_arrive() {
        let wire = b"5\r\nhello\r\nA ; x=\"y\"\r\n0123456789\r\n00\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\nHTTP";
        for step in 1..wire.len() {
            let (body, trailers, rest) = read(Decoder::chunked(), wire, step).expect("a body");
            assert_eq!((&body[..], &rest[..]), (&b"hello0123456789"[..], &b"HTTP"[..]), "in steps of {step}");
            let trailers = trailers.expect("trailers");
            assert_eq!(trailers.len(), 1, "a length is no trailer");
            assert_eq!(trailers["x-sum"], "1");
        }
        assert_eq!(read(Decoder::chunked(), b"0\r\n\r\n", 1), Ok((Vec::new(), None, Vec::new())));
    }

    #[test]
    fn what_is_not_exactly_chunked_is_an_error() {
        let broken: [&[u8]; 17] = [
            b"\r\n",
            b"g\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhelloo\r\n0\r\n\r\n",
            b"5\r\nhell\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"5 5\r\nhello\r\n",
            b"10000000000000000\r\n",
            b"5;a\nb\r\nhello\r\n",
            b"5\rhello",
            b"0\r\nbad trailer\r\n\r\n",
            b"0\r\n: x\r\n\r\n",
            b"0\r\n\n",
            b"0\r\nx: y\n\r\n",
            b"0\r\nx: y\r\n\n",
        ];
        for wire in broken {
            for step in [1, wire.len()] {
                let outcome = read(Decoder::chunked(), wire, step);
                assert_eq!(outcome, Err(BodyError::Chunk), "{:?}", String::from_utf8_lossy(wire));
            }
        }
        for cut in [&b"5\r\nhell"[..], b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n", b"", b"5"] {
            assert_eq!(read(Decoder::chunked(), cut, 1), Err(BodyError::CutOff));
        }
    }

    #[test]
    fn nothing_grows_without_end() {
        let extension = [&b"5;"[..], &vec![b'x'; MAX_OVERHEAD + 1]].concat();
        let trailers = [&b"0\r\nx: "[..], &vec![b'x'; MAX_OVERHEAD + 1]].concat();
        let zeroes = vec![b'0'; MAX_OVERHEAD + MAX_DIGITS + 1];
        for wire in [extension, trailers, zeroes] {
            assert_eq!(read(Decoder::chunked(), &wire, 1000), Err(BodyError::TooLarge));
        }
        let padded = [&b"0000000000000001\r\nx\r\n".repeat(MAX_OVERHEAD)[..], b"0\r\n\r\n"].concat();
        assert_eq!(read(Decoder::chunked(), &padded, 10_000).expect("a body").0.len(), MAX_OVERHEAD);
    }

    #[test]
    fn without_a_length_the_close_is_the_end() {
        let (body, ..) = read(Decoder::UntilClose, b"hello", 2).expect("a body");
        assert_eq!(body, b"hello");
    }

    #[test]
    fn what_is_certain_never_reaches_beyond_the_chunk() {
        let mut decoder = Decoder::chunked();
        let mut received = Bytes::from_static(b"a\r\nhel");
        assert!(matches!(decoder.decode(&mut received), Ok(Some(Part::Data(_)))));
        assert_eq!(decoder.certain(), 7);
        assert_eq!((Decoder::Length(7).certain(), Decoder::UntilClose.certain()), (7, 0));
    }
}
