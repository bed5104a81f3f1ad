//! Whether what follows a request on its client's connection is what the client means.
//!
//! hyper takes a bare LF for the end of a line within a chunked request's trailer section, but not for that of the section:
//! `0\r\nA: b\n\r\n`, which is complete to others, goes on to it up to the next empty line, and the next request is gone with
//! it. Its client would take the answer to the one after that for this one's. The section cannot be read here before hyper
//! does, so no other request is taken behind one: a body that ended in trailers, or that was not read to its end, is the
//! connection's last. Nobody's requests have trailers but by intent, and a connection more is what they cost.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::client::{Downstream, Ending};

/// What is not certain about a connection.
#[derive(Debug, Default)]
pub struct Doubts {
    /// The requests whose end has not been seen.
    open: Cell<u32>,
    last: Cell<bool>,
}

/// About one chunked request, until its end has been seen.
#[derive(Debug)]
pub(super) struct Doubt {
    downstream: Rc<Downstream>,
    /// The connection's task.
    connection: Waker,
    plain: bool,
}

impl Doubts {
    /// Whether no other request is taken from the connection.
    pub fn takes_no_more(&self) -> bool {
        self.last.get()
    }

    /// Waits until the end of every request before this one has been seen; whether this one may be taken. hyper reads a head
    /// that has come together with the end of a body before those who send that body on have been told of it.
    pub(super) async fn settled(&self) -> bool {
        poll_fn(|_| if self.open.get() == 0 { Poll::Ready(!self.takes_no_more()) } else { Poll::Pending }).await
    }
}

impl Doubt {
    /// About the request that is being served on this connection. Has to be called in the connection's task.
    pub(super) async fn about(downstream: &Rc<Downstream>) -> Self {
        let connection = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        downstream.doubts.open.update(|open| open + 1);
        Self { downstream: Rc::clone(downstream), connection, plain: false }
    }

    /// The body has ended, and there was nothing behind it.
    pub(super) fn dispel(mut self) {
        self.plain = true;
    }
}

impl Drop for Doubt {
    fn drop(&mut self) {
        let doubts = &self.downstream.doubts;
        doubts.open.update(|open| open - 1);
        if !self.plain {
            doubts.last.set(true);
            self.downstream.end_with(Ending::Unread);
        }
        // It waits for this, or has to be ended.
        self.connection.wake_by_ref();
    }
}
