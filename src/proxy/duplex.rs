//! A response that has begun before its request has ended.
//!
//! hyper asks for more of a response only while its client takes what there was, and a client may want to have sent its
//! request first: were the one driven by the other, both would wait. So the request has a task of its own here, which
//! shares the exchange with the response's body and ends with it: it is ended, because what it waits for (the pod's socket)
//! may go with the exchange and wake nobody. It is rare, and costs other exchanges nothing.

use std::cell::{Cell, Ref, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use tokio::task::AbortHandle;

use super::exchange::{Broken, Exchange};
use crate::core::wire::Part;
use crate::timer::Timer;

/// An exchange whose request is sent on while its response is read.
pub(super) struct Duplex {
    shared: Rc<Shared>,
    sending: Sending,
}

/// The task that sends the request, until this is dropped.
struct Sending(AbortHandle);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Shared {
    /// Borrowed for one poll at a time.
    exchange: RefCell<Box<Exchange>>,
    /// What became of the request, for the response to break off with.
    broken: Cell<Option<Broken>>,
    /// Who reads the response.
    reader: Cell<Option<Waker>>,
}

impl std::fmt::Debug for Duplex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Duplex").field(&self.shared.exchange).finish()
    }
}

impl Duplex {
    /// Goes on with the request. Has to be called on the worker's runtime.
    pub(super) fn start(exchange: Box<Exchange>) -> Self {
        let exchange = RefCell::new(exchange);
        let shared = Rc::new(Shared { exchange, broken: Cell::new(None), reader: Cell::new(None) });
        let sending = tokio::task::spawn_local(Self::send(Rc::downgrade(&shared)));
        Self { shared, sending: Sending(sending.abort_handle()) }
    }

    /// The exchange.
    pub(super) fn exchange(&self) -> Ref<'_, Exchange> {
        Ref::map(self.shared.exchange.borrow(), |exchange| &**exchange)
    }

    /// The exchange for good; the request is no longer sent on from here.
    pub(super) fn into_exchange(self) -> Option<Box<Exchange>> {
        let Self { shared, sending } = self;
        drop(sending);
        Rc::into_inner(shared).map(|shared| shared.exchange.into_inner())
    }

    /// As [`Exchange::poll_part`].
    pub(super) fn poll_part(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, Broken>>> {
        if let Some(broken) = self.shared.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        self.shared.reader.set(Some(cx.waker().clone()));
        self.shared.exchange.borrow_mut().poll_part(cx)
    }

    /// Sends the request until it has gone, has failed, or nobody wants it any more. Whoever holds it up has a limit. Who reads
    /// the response need not say when it begins to wait for the pod: that ends no earlier than what is waited for here.
    async fn send(shared: Weak<Shared>) {
        let mut timer = Timer::default();
        poll_fn(|cx| {
            let Some(shared) = shared.upgrade() else {
                return Poll::Ready(());
            };
            let sent = shared.exchange.borrow_mut().poll_upload(cx);
            let sent = match sent {
                Poll::Ready(sent) => sent,
                Poll::Pending => {
                    let (deadline, broken) = shared.exchange.borrow().upload_deadline(Instant::now());
                    ready!(timer.poll(cx, deadline));
                    Err(broken)
                }
            };
            if let Err(broken) = sent {
                shared.broken.set(Some(broken));
                shared.reader.take().into_iter().for_each(Waker::wake);
            }
            Poll::Ready(())
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, Method};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::runtime::LocalRuntime;
    use tokio::sync::mpsc;

    use super::*;
    use crate::core::wire::request::Framing;
    use crate::proxy::Youth;
    use crate::proxy::exchange::Patience;
    use crate::proxy::upload::Upload;
    use crate::proxy::upstream::tests::{lease, pool};

    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n";

    /// An exchange whose pod has begun to answer and reads no more, while its client sends on for as long as it can.
    async fn early() -> (Duplex, tokio::net::TcpStream) {
        let pod = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let (pool, address) = (pool(), pod.local_addr().expect("a bound socket").to_string());
        let endpoint = pool.listed("pod", &address.parse().expect("an address"));
        let lease = lease(&pool, &endpoint).await.expect("somebody listens");
        let (mut on_pod, _) = pod.accept().await.expect("it was dialled");

        let (mut client, served) = tokio::io::duplex(64 * 1024);
        let (bodies, mut received) = mpsc::unbounded_channel();
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            bodies.send(request.into_body()).expect("it is waited for");
            std::future::pending::<Result<http::Response<String>, std::io::Error>>()
        });
        tokio::task::spawn_local(
            async move { http1::Builder::new().serve_connection(TokioIo::new(served), service).await },
        );
        tokio::task::spawn_local(async move {
            client.write_all(HEAD).await?;
            while client.write_all(&[b'x'; 64 * 1024]).await.is_ok() {}
            std::io::Result::Ok(())
        });
        let body = received.recv().await.expect("a request");

        let mut upload = Upload::new(
            HEAD[..HEAD.len() - 2].to_vec(),
            body,
            Framing::Length(100_000_000),
            None,
            std::time::Instant::now(),
        );
        upload.address(None);
        let patience = Duration::from_secs(3600);
        let patience = Patience { response: patience, request_body: patience, response_body: None };
        let answer = async {
            let mut some = [0; 1000];
            on_pod.read_exact(&mut some).await.expect("the request comes");
            on_pod.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await.expect("it is read");
        };
        let (method, mut map) = (Method::POST, HeaderMap::new());
        let (mut unsent, over) = (None, Youth::over());
        let begun = Exchange::new(lease, upload, patience).begin(&method, &mut map, &mut unsent, &over);
        let (begun, ()) = tokio::join!(begun, answer);
        let (_, exchange) = begun.expect("an answer");
        (Duplex::start(exchange), on_pod)
    }

    /// The pod's socket is closed with the exchange, and what is closed wakes nobody.
    #[test]
    fn the_task_ends_with_the_exchange() {
        let runtime = LocalRuntime::new().expect("the machine has room for a runtime");
        let ended = runtime.block_on(async {
            let (duplex, _pod) = early().await;
            let task = duplex.sending.0.clone();
            let waits_for_pod = || matches!(duplex.exchange().upload_deadline(Instant::now()).1, Broken::Stalled);
            let mut looks = 0;
            while looks < 100 || !waits_for_pod() {
                tokio::task::yield_now().await;
                looks += 1;
            }
            assert!(!task.is_finished());
            drop(duplex);
            let ended = async {
                while !task.is_finished() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), ended).await
        });
        assert!(ended.is_ok(), "the task is left");
    }
}
