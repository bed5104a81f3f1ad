//! One end of an HTTP/1.1 connection, as bytes: heads are found, bodies are delimited, nothing is hidden.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;

/// A socket that is read through a buffer. Dropping it closes the connection.
pub(crate) struct Wire {
    stream: Arc<TcpStream>,
    /// What has been read and not been taken.
    buffer: Vec<u8>,
    /// Where the kernel writes to. Filling a fresh buffer each time would make a dev build slow.
    scratch: Box<[u8]>,
    tape: Option<Tape>,
}

/// Every byte that has been read from a [`Wire`], for whoever wants to parse it again.
#[derive(Clone, Default)]
pub(crate) struct Tape(Arc<Mutex<Vec<u8>>>);

/// A message head as it came: start line, field lines and the blank line.
#[derive(Clone)]
pub(crate) struct Head {
    text: String,
}

/// How the end of a message body is told (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// Bodies are moved in pieces of this size.
const PIECE: usize = 64 * 1024;

// === impl Wire ===

impl Wire {
    pub(crate) fn new(stream: Arc<TcpStream>) -> Self {
        stream.set_nodelay(true).expect("a live socket takes its options");
        Self { stream, buffer: Vec::new(), scratch: vec![0; PIECE].into(), tape: None }
    }

    /// Records from here on what is read.
    pub(crate) fn record(&mut self) -> Tape {
        self.tape.get_or_insert_default().clone()
    }

    /// Fails a read or write that makes no progress for this long.
    pub(crate) fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("a live socket takes its options");
        self.stream.set_write_timeout(Some(patience)).expect("a live socket takes its options");
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        (&*self.stream).write_all(bytes.as_ref())
    }

    /// Reads once; `false` at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        let read = loop {
            match (&*self.stream).read(&mut self.scratch) {
                // A socket with a timeout is not read again by itself after a signal.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.buffer.extend_from_slice(&self.scratch[..read]);
        if let Some(tape) = &self.tape {
            tape.bytes().extend_from_slice(&self.scratch[..read]);
        }
        Ok(read > 0)
    }

    /// Reads until `done` finds, in what has come, the length to take; `None` at a clean end before any byte.
    fn take_when(&mut self, done: impl Fn(&[u8]) -> Option<usize>) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(len) = done(&self.buffer) {
                return Ok(Some(self.buffer.drain(..len).collect()));
            }
            if !self.fill()? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The next message's head; `None` where the connection ends instead.
    pub(crate) fn read_head(&mut self) -> io::Result<Option<Head>> {
        let end = |bytes: &[u8]| bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        Ok(self.take_when(end)?.map(|bytes| Head::new(&bytes)))
    }

    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let end = |bytes: &[u8]| bytes.windows(2).position(|window| window == b"\r\n").map(|at| at + 2);
        self.take_when(end)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    pub(crate) fn read_exact(&mut self, len: usize) -> io::Result<Vec<u8>> {
        self.take_when(|bytes| (bytes.len() >= len).then_some(len))?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Whatever comes next; empty at the end of the stream.
    pub(crate) fn read_some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// The data of one chunk (RFC 9112 section 7.1); `None` at the last one, its trailers read as well.
    pub(crate) fn read_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.read_line()?;
        let size = String::from_utf8_lossy(&line);
        let size = size.trim().split(';').next().unwrap_or_default();
        let size =
            usize::from_str_radix(size, 16).map_err(|_| io::Error::other(format!("not a chunk size: {line:?}")))?;
        if size == 0 {
            while self.read_line()? != b"\r\n" {}
            return Ok(None);
        }
        let mut data = self.read_exact(size + 2)?;
        data.truncate(size);
        Ok(Some(data))
    }

    /// Reads a body piece by piece, handing each to `each`. An error is a body that broke off.
    pub(crate) fn read_body(&mut self, framing: Framing, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        match framing {
            Framing::Length(mut left) => {
                while left > 0 {
                    let mut piece = self.read_some()?;
                    if piece.is_empty() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    let ours = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.buffer = piece.split_off(ours);
                    left -= ours as u64;
                    each(&piece);
                }
            }
            Framing::Chunked => {
                while let Some(chunk) = self.read_chunk()? {
                    each(&chunk);
                }
            }
            Framing::UntilClose => loop {
                let piece = self.read_some()?;
                if piece.is_empty() {
                    break;
                }
                each(&piece);
            },
        }
        Ok(())
    }

    /// Everything up to the end of the stream.
    pub(crate) fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        self.read_body(Framing::UntilClose, |piece| all.extend_from_slice(piece))?;
        Ok(all)
    }

    /// Says that nothing more will be sent; what comes can still be read.
    pub(crate) fn half_close(&self) {
        // The peer may have reset the connection already: then there is nothing to close.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a reset instead of an orderly close.
    pub(crate) fn reset(self) {
        SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO)).expect("a live socket takes its options");
    }
}

// === impl Tape ===

impl Tape {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has been recorded so far.
    pub(crate) fn copy(&self) -> Vec<u8> {
        self.bytes().clone()
    }
}

// === impl Head ===

impl Head {
    fn new(bytes: &[u8]) -> Self {
        Self { text: String::from_utf8_lossy(bytes).into_owned() }
    }

    /// The head, byte for byte.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The request line or status line.
    pub(crate) fn start_line(&self) -> &str {
        self.text.split("\r\n").next().unwrap_or_default()
    }

    /// The field lines in order: names in lower case, values trimmed.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (String, &str)> {
        let lines = self.text.split("\r\n").skip(1).filter(|line| !line.is_empty());
        lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            (name.to_ascii_lowercase(), value.trim())
        })
    }

    /// The names of all fields, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.fields().map(|(name, _)| name).collect();
        names.sort_unstable();
        names
    }

    /// The values of all lines with this name, in order.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.fields().filter(|(field, _)| field == name).map(|(_, value)| value).collect()
    }

    /// The value of a field that occurs at most once.
    #[track_caller]
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() <= 1, "{name} occurs more than once in:\n{}", self.text);
        values.first().copied()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.values(name).is_empty()
    }

    /// The second word of the start line: a request's target, a response's status.
    pub(crate) fn second_word(&self) -> &str {
        self.start_line().split(' ').nth(1).unwrap_or_default()
    }

    /// How the body of this message ends, for a message that may have one.
    pub(crate) fn framing(&self, without_any: Framing) -> Framing {
        if self.values("transfer-encoding").iter().any(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return Framing::Chunked;
        }
        match self.value("content-length") {
            Some(length) => Framing::Length(length.parse().expect("a Content-Length is a number")),
            None => without_any,
        }
    }
}
