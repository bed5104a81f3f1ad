//! A response that has begun before its request has ended.
//!
//! hyper asks for more of a response only while its client takes what there was, and a client may want to have sent its
//! request first: were the one driven by the other, both would wait. So the request has a task of its own here, which
//! shares the exchange with the response's body and ends with it. It is rare, and costs other exchanges nothing.

use std::cell::{Cell, Ref, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use super::exchange::{Broken, Exchange};
use crate::core::wire::Part;

/// An exchange whose request is sent on while its response is read.
pub(super) struct Duplex(Rc<Shared>);

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
        f.debug_tuple("Duplex").field(&self.0.exchange).finish()
    }
}

impl Duplex {
    /// Goes on with the request. Has to be called on the worker's runtime.
    pub(super) fn start(exchange: Box<Exchange>) -> Self {
        let exchange = RefCell::new(exchange);
        let shared = Rc::new(Shared { exchange, broken: Cell::new(None), reader: Cell::new(None) });
        tokio::task::spawn_local(Self::send(Rc::downgrade(&shared)));
        Self(shared)
    }

    /// The exchange.
    pub(super) fn exchange(&self) -> Ref<'_, Exchange> {
        Ref::map(self.0.exchange.borrow(), |exchange| &**exchange)
    }

    /// The exchange for good; the request is no longer sent on from here.
    pub(super) fn into_exchange(self) -> Option<Box<Exchange>> {
        Rc::into_inner(self.0).map(|shared| shared.exchange.into_inner())
    }

    /// As [`Exchange::poll_part`].
    pub(super) fn poll_part(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, Broken>>> {
        if let Some(broken) = self.0.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        self.0.reader.set(Some(cx.waker().clone()));
        self.0.exchange.borrow_mut().poll_part(cx)
    }

    /// Sends the request until it has gone, has failed, or nobody wants it any more. The client's silence has a limit; the
    /// pod's has not while its response is under way, which has limits of its own.
    async fn send(shared: Weak<Shared>) {
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO)); // set where it is polled
        poll_fn(|cx| {
            let Some(shared) = shared.upgrade() else {
                return Poll::Ready(());
            };
            let sent = shared.exchange.borrow_mut().poll_upload(cx);
            let sent = match sent {
                Poll::Ready(sent) => sent,
                Poll::Pending => {
                    let Some(deadline) = shared.exchange.borrow().client_deadline() else {
                        return Poll::Pending;
                    };
                    timer.as_mut().reset(deadline.into());
                    ready!(timer.as_mut().poll(cx));
                    Err(Broken::SlowUpload)
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
