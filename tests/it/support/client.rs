//! The raw client: sends the bytes it is given, reads what comes back.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use socket2::{Domain, Socket, Type};

use super::wire::{Framing, Head, Wire};
use super::{PATIENCE, Pattern};

/// A connection to the router.
pub(crate) struct Client {
    wire: Wire,
}

/// A response, its body complete.
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

/// The part of a body that came before the connection broke off.
#[derive(Debug)]
pub(crate) struct Truncated(pub(crate) Vec<u8>);

// === impl Client ===

impl Client {
    /// # Panics
    ///
    /// When nobody listens.
    #[track_caller]
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr).expect("the router accepts connections")
    }

    pub(crate) fn try_connect(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self::over(TcpStream::connect_timeout(&addr, PATIENCE)?))
    }

    /// Over a socket that is connected already.
    pub(crate) fn over(stream: TcpStream) -> Self {
        let wire = Wire::new(Arc::new(stream));
        wire.set_patience(PATIENCE);
        Self { wire }
    }

    /// From this address, which is one of this machine's.
    #[track_caller]
    pub(crate) fn connect_from(from: impl Into<IpAddr>, addr: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("the machine has sockets left");
        socket.bind(&SocketAddr::new(from.into(), 0).into()).expect("an address of this machine");
        socket.connect(&addr.into()).expect("somebody listens");
        Self::over(socket.into())
    }

    /// With room for hardly anything that it does not read.
    pub(crate) fn connect_narrow(addr: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("the machine has sockets left");
        socket.set_recv_buffer_size(1024).expect("a live socket takes its options");
        socket.connect(&addr.into()).expect("somebody listens");
        Self::over(socket.into())
    }

    /// For a connection on which nothing may happen for longer than [`PATIENCE`].
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        self.wire.set_patience(patience);
        self
    }

    #[track_caller]
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes).expect("the router takes what is sent");
    }

    /// Sends to a router that may have closed the connection.
    pub(crate) fn try_send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.send(bytes)
    }

    /// Sends a whole request and reads its response.
    #[track_caller]
    pub(crate) fn request(&mut self, bytes: impl AsRef<[u8]>) -> Response {
        self.try_request(bytes.as_ref()).expect("a complete response")
    }

    pub(crate) fn try_request(&mut self, bytes: &[u8]) -> io::Result<Response> {
        self.wire.send(bytes)?;
        self.try_read_response(bytes.starts_with(b"HEAD "))
    }

    /// A plain GET.
    #[track_caller]
    pub(crate) fn get(&mut self, target: &str) -> Response {
        self.request(get(target))
    }

    #[track_caller]
    pub(crate) fn read_head(&mut self) -> Head {
        self.wire.read_head().expect("a response head").expect("a response head, not the end of the connection")
    }

    /// The next response to a request that was no HEAD.
    #[track_caller]
    pub(crate) fn read_response(&mut self) -> Response {
        self.try_read_response(false).expect("a complete response")
    }

    /// The next response; an error where there is no complete one.
    pub(crate) fn try_read_response(&mut self, to_head: bool) -> io::Result<Response> {
        let head = self.wire.read_head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut body = Vec::new();
        if !to_head {
            self.wire.read_body(response_framing(&head), |piece| body.extend_from_slice(piece))?;
        }
        Ok(Response { head, body })
    }

    /// The body that follows this head, or what came of it.
    pub(crate) fn read_body(&mut self, head: &Head) -> Result<Vec<u8>, Truncated> {
        let mut body = Vec::new();
        match self.wire.read_body(response_framing(head), |piece| body.extend_from_slice(piece)) {
            Ok(()) => Ok(body),
            Err(_) => Err(Truncated(body)),
        }
    }

    /// The body that follows this head is exactly this long and follows the pattern.
    #[track_caller]
    pub(crate) fn expect_pattern(&mut self, head: &Head, mut pattern: Pattern, len: u64) {
        let mut received = 0;
        let read = self.wire.read_body(response_framing(head), |piece| {
            pattern.expect(piece);
            received += piece.len() as u64;
        });
        read.expect("a complete body");
        assert_eq!(received, len, "the body's length");
    }

    /// The next chunk of a chunked body; `None` after the last.
    #[track_caller]
    pub(crate) fn read_chunk(&mut self) -> Option<Vec<u8>> {
        self.wire.read_chunk().expect("a chunk")
    }

    #[track_caller]
    pub(crate) fn read_exact(&mut self, len: usize) -> Vec<u8> {
        self.wire.read_exact(len).expect("the rest of the stream")
    }

    /// Fails unless the connection ends here, orderly or by a reset.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        match self.wire.read_some() {
            Ok(bytes) => assert!(bytes.is_empty(), "not the end: {:?}", String::from_utf8_lossy(&bytes)),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "neither end nor reset"),
        }
    }

    pub(crate) fn half_close(&self) {
        self.wire.half_close();
    }

    /// Goes away without a goodbye.
    pub(crate) fn reset(self) {
        self.wire.reset();
    }

    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

/// A plain GET request.
pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// RFC 9112 section 6.3, for responses to anything but HEAD and CONNECT.
fn response_framing(head: &Head) -> Framing {
    match head.second_word() {
        status if status.starts_with('1') || status == "204" || status == "304" => Framing::Length(0),
        _ => head.framing(Framing::UntilClose),
    }
}

// === impl Response ===

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.second_word().parse().expect("a status is a number")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Json {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// Head and body, of an answer that has a length or none.
    pub(crate) fn whole(&self) -> Vec<u8> {
        [self.head.text().as_bytes(), &self.body].concat()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The name of the pod that answered; empty for an answer of the router's own.
    pub(crate) fn pod(&self) -> &str {
        self.head.value("x-pod").unwrap_or_default()
    }

    /// Fails unless this is the router's own answer with this status, in the contract's form: the code in
    /// header and body, a message, and the request id in header and body. Returns the code.
    #[track_caller]
    pub(crate) fn expect_error(&self, status: u16) -> String {
        assert_eq!(self.status(), status, "{}{}", self.head.text(), self.text());
        let body = self.json();
        let field = |name: &str| {
            body[name].as_str().filter(|text| !text.is_empty()).unwrap_or_else(|| {
                panic!("{name} is not a string in {body}");
            })
        };
        let code = field("error");
        assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code} is not kebab-case");
        assert_eq!(self.head.value("x-pod-router-error"), Some(code));
        assert_eq!(self.head.value("x-request-id"), Some(field("requestId")));
        assert!(self.head.value("content-type").is_some_and(|media| media.starts_with("application/json")));
        field("message");
        code.to_owned()
    }
}
