//! A router as thin as one can be: hyper's server towards clients, and one request after the other on kept connections to
//! one pod. No directory, limits, metrics or deadlines; only what the load test sends is understood.
//!
//! By default the connection that was used last is used next, as for few pods. Told of so `many`, it uses any of them: what as
//! many pods do to the kernel, whose sockets have then left the processor's caches.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;

/// What most answers fit in.
const USUAL_LENGTH: usize = 1024;

/// The most header fields of an answer.
const MAX_FIELDS: usize = 32;

/// The connections to the pod.
#[derive(Debug)]
pub(crate) struct Pool {
    target: SocketAddr,
    /// How many wait for a request, at least, before one of them is used; none: whichever there are.
    many: usize,
    /// Those that carry no request, the last used last.
    idle: Mutex<Vec<TcpStream>>,
}

impl Pool {
    pub(crate) fn new(target: SocketAddr, many: usize) -> Self {
        Self { target, many, idle: Mutex::default() }
    }

    async fn take(&self) -> io::Result<TcpStream> {
        let kept = self.next();
        match kept {
            Some(kept) => Ok(kept),
            None => {
                let pod = TcpStream::connect(self.target).await?;
                pod.set_nodelay(true)?;
                Ok(pod)
            }
        }
    }

    fn put_back(&self, pod: TcpStream) {
        self.idle().push(pod);
    }

    /// The connection for the next request, unless one is to be made.
    fn next(&self) -> Option<TcpStream> {
        let mut idle = self.idle();
        match self.many {
            0 => idle.pop(),
            many if idle.len() < many => None,
            _ => {
                let any = fastrand::usize(..idle.len());
                Some(idle.swap_remove(any))
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves a client's requests until it goes.
pub(crate) async fn serve(client: TcpStream, pool: Arc<Pool>) -> Outcome {
    let service = service_fn(move |request| {
        let pool = Arc::clone(&pool);
        async move { forward(&pool, &request).await }
    });
    Ok(Builder::new().serve_connection(TokioIo::new(client), service).await?)
}

async fn forward(pool: &Pool, request: &Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let mut head = Vec::with_capacity(USUAL_LENGTH);
    write!(head, "{} {} HTTP/1.1\r\n", request.method(), request.uri())?;
    for (name, value) in request.headers().iter().filter(|(name, _)| *name != CONNECTION) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    let mut pod = pool.take().await?;
    pod.write_all(&head).await?;
    let mut received = BytesMut::with_capacity(USUAL_LENGTH);
    let (response, length) = loop {
        read(&mut pod, &mut received).await?;
        if let Some((response, head, length)) = parse(&received)? {
            received.advance(head);
            break (response, length);
        }
    };
    received.reserve(length.saturating_sub(received.len()));
    while received.len() < length {
        read(&mut pod, &mut received).await?;
    }
    pool.put_back(pod);
    Ok(response.map(|()| Full::new(received.freeze())))
}

async fn read(pod: &mut TcpStream, received: &mut BytesMut) -> io::Result<()> {
    match pod.read_buf(received).await? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// The answer without its body, the length of its head and that of its body, once the head is whole.
fn parse(received: &[u8]) -> io::Result<Option<(Response<()>, usize, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = parsed.parse(received).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let mut response = Response::builder().status(parsed.code.unwrap_or_default());
    let mut length = 0;
    for field in parsed.headers.iter().filter(|field| !field.name.eq_ignore_ascii_case("connection")) {
        if field.name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str()) {
            let text = std::str::from_utf8(field.value).map_err(io::Error::other)?;
            length = text.parse().map_err(io::Error::other)?;
        }
        response = response.header(field.name, field.value);
    }
    Ok(Some((response.body(()).map_err(io::Error::other)?, head, length)))
}
