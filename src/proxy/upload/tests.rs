//! What is sent at once, and what an attempt that sent nothing leaves for the next.

use std::future::poll_fn;
use std::task::Waker;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::LocalRuntime;
use tokio::sync::mpsc;

use super::*;

const HEAD: &[u8] = b"POST / HTTP/1.1\r\n";

/// A pod's socket, by what is sent on it at once. One that is broken takes nothing.
#[derive(Default)]
struct Sends {
    sent: Vec<String>,
    broken: bool,
}

impl AsyncWrite for Sends {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let length = bytes.len();
        self.sent.push(String::from_utf8(bytes).expect("text"));
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The request that a client has sent in one piece, on its way; and that client. hyper has read what it reads unasked.
pub(in crate::proxy) async fn received(fields: &str, body: &str, framing: Framing) -> (Upload, DuplexStream) {
    let (mut client, served) = tokio::io::duplex(64 * 1024);
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
    client.write_all(request.as_bytes()).await.expect("there is room");
    let (bodies, mut received) = mpsc::unbounded_channel();
    let service = service_fn(move |request: http::Request<Incoming>| {
        bodies.send(request.into_body()).expect("it is waited for");
        std::future::pending::<Result<http::Response<String>, io::Error>>()
    });
    tokio::task::spawn_local(
        async move { http1::Builder::new().serve_connection(TokioIo::new(served), service).await },
    );
    let body = received.recv().await.expect("a request");
    let mut upload = Upload::new(HEAD.to_vec(), body, framing, None, Instant::now());
    upload.address(None);
    (upload, client)
}

async fn send(upload: &mut Upload, pod: &mut Sends) -> Result<(), SendError> {
    poll_fn(|cx| upload.poll_send(pod, cx)).await
}

pub(in crate::proxy) fn run(test: impl Future<Output = ()>) {
    LocalRuntime::new().expect("the machine has room for a runtime").block_on(test);
}

const FRAMINGS: [(&str, &str, Framing, &[&str]); 4] = [
    ("Content-Length: 5", "hello", Framing::Length(5), &["POST / HTTP/1.1\r\n\r\nhello"]),
    ("Content-Length: 0", "", Framing::Length(0), &["POST / HTTP/1.1\r\n\r\n"]),
    (
        "Transfer-Encoding: chunked",
        "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        Framing::Chunked,
        &["POST / HTTP/1.1\r\n\r\n5\r\nhello\r\n", "6\r\n world\r\n", "0\r\n\r\n"],
    ),
    ("Transfer-Encoding: chunked", "0\r\n\r\n", Framing::Chunked, &["POST / HTTP/1.1\r\n\r\n0\r\n\r\n"]),
];

#[test]
fn what_came_with_the_head_goes_with_it() {
    run(async {
        for (fields, body, framing, sends) in FRAMINGS {
            let (mut upload, _client) = received(fields, body, framing).await;
            let mut pod = Sends::default();
            send(&mut upload, &mut pod).await.expect("the pod takes it");
            assert_eq!(pod.sent, sends);
            assert!(upload.is_complete());
            assert_eq!(upload.lead.0.capacity(), 0, "it waits for the pod without the head");
        }
    });
}

#[test]
fn what_was_taken_of_a_body_is_there_for_another_attempt() {
    let room = RoomId::parse("room_a").expect("a room");
    let set = crate::core::assignment::StatefulSet::parse("backend").expect("a name");
    run(async {
        for (fields, body, framing, sends) in FRAMINGS {
            let (mut upload, _client) = received(fields, body, framing).await;
            for nth in 0..3 {
                let assignment = Assignment { pod: set.nth(nth), epoch: crate::core::assignment::Epoch(1) };
                upload.address(Some((&room, &assignment)));
                let failed = send(&mut upload, &mut Sends { broken: true, ..Sends::default() }).await;
                assert!(matches!(failed, Err(SendError::Pod(_))) && !upload.was_begun());
            }
            upload.address(None);
            let mut pod = Sends::default();
            send(&mut upload, &mut pod).await.expect("the pod takes it");
            assert_eq!(pod.sent, sends);
        }
    });
}

/// A client that is told to send its body cannot be told to try again without.
#[test]
fn a_body_is_asked_for_when_a_pod_has_taken_the_head() {
    run(async {
        let fields = "Content-Length: 5\r\nExpect: 100-continue";
        let (upload, mut client) = received(fields, "", Framing::Length(5)).await;
        let mut upload = upload.on_demand(true);
        let failed = send(&mut upload, &mut Sends { broken: true, ..Sends::default() }).await;
        assert!(matches!(failed, Err(SendError::Pod(_))));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let unasked = std::pin::pin!(client.read_u8()).poll(&mut Context::from_waker(Waker::noop()));
        assert!(unasked.is_pending(), "it was asked");

        let mut pod = Sends::default();
        let client = async {
            let mut asked = [0; 25];
            client.read_exact(&mut asked).await.expect("an answer");
            assert_eq!(asked, *b"HTTP/1.1 100 Continue\r\n\r\n");
            client.write_all(b"hello").await.expect("there is room");
        };
        let (sent, ()) = tokio::join!(send(&mut upload, &mut pod), client);
        sent.expect("the pod takes it");
        assert_eq!(pod.sent, ["POST / HTTP/1.1\r\n\r\n", "hello"]);
    });
}
