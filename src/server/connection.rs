//! A client's connection from when it is known whose it is: a conversation over HTTP, and then perhaps a tunnel.
//!
//! One task for both: the tunnel takes over the client's socket, its place in the roster and the permit, and nothing has to be
//! woken or scheduled in between. Each is on the heap by itself: the conversation is much the larger one, and gone when the
//! tunnel is first polled, for tunnels are held by the thousand.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::server::conn::http1::Parts;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::yield_now;

use super::Server;
use super::patience::{Overdue, Patience};
use crate::core::forwarded::Client;
use crate::directory::Directory;
use crate::drain::{Member, Phase};
use crate::proxy::{Answer, ClientSocket, Downstream, Ending, HEAD_TOO_LARGE, Permit, Relay, UNREADABLE, Unheard};

impl<D: Directory> Server<D> {
    /// Has a connection served to its end, in a task of its own.
    pub(super) fn attend(
        self: &Rc<Self>,
        (stream, peer): (TcpStream, SocketAddr),
        client: Client,
        permit: Permit,
        member: Member,
    ) {
        let downstream = Rc::new(Downstream::new(client, permit, self.proxy.nursery().youth(&member)));
        let conversation = Box::pin(Rc::clone(self).converse(stream, peer, downstream, member));
        tokio::task::spawn_local(async move {
            let tunnel = conversation.await;
            if let Some(tunnel) = tunnel {
                tunnel.await;
            }
        });
    }

    /// Speaks HTTP until the connection ends or has become a tunnel.
    fn converse(
        self: Rc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        downstream: Rc<Downstream>,
        member: Member,
    ) -> impl Future<Output = Option<Box<Relay>>> {
        let socket = TokioIo::new(ClientSocket::new(stream, &downstream));
        // Not an `async fn`, whose future would have its arguments twice.
        async move {
            let service = service_fn(|request| Rc::clone(&self.proxy).handle(Rc::clone(&downstream), request));
            let mut connection = self.http.serve_connection(socket, service);
            let mut patience = Patience::default();
            let (mut noted, mut told_to_end, mut let_go) = (false, false, None);
            let mut turn: Option<Pin<Box<dyn Future<Output = ()>>>> = None;
            let mut tunnel = None;
            let ended = poll_fn(|cx| {
                // Whatever has no timer in the connection's youth is looked at when this is woken at its end.
                member.enrol(cx.waker());
                let mut ended = poll_to_end(&mut connection, &mut let_go, cx);
                if ended.is_pending() && !told_to_end && downstream.doubts.takes_no_more() {
                    told_to_end = true;
                    Pin::new(&mut connection).graceful_shutdown();
                    ended = poll_to_end(&mut connection, &mut let_go, cx);
                }
                // A connection of which only a part of a head has come is idle to hyper.
                if ended.is_pending()
                    && !told_to_end
                    && member.phase(cx.waker()) == Phase::Draining
                    && downstream.incomplete_head().is_none()
                {
                    // hyper closes a connection that it thinks idle, and so resets one with a request unread. After a turn of
                    // the runtime's, what has come by now has been seen.
                    let turn = turn.get_or_insert_with(|| Box::pin(yield_now()));
                    if turn.as_mut().poll(cx).is_ready() {
                        told_to_end = true;
                        Pin::new(&mut connection).graceful_shutdown();
                        ended = poll_to_end(&mut connection, &mut let_go, cx);
                    }
                }
                // Before the connection ends, which may take it a while: the client has its answer now.
                if ended.is_pending() && !noted && downstream.unheard().is_some() {
                    noted = true;
                    self.note_unreadable(&downstream, &UNREADABLE);
                }
                match ended {
                    Poll::Pending => {
                        tunnel = downstream.take_tunnel();
                        if tunnel.is_some() {
                            return Poll::Ready(Ok(()));
                        }
                        downstream.uncork_at_next_turn(cx);
                        let overdue = patience.poll(&self.limits, &downstream, cx);
                        overdue.map(|overdue| {
                            self.cut(&downstream, overdue);
                            Ok(())
                        })
                    }
                    ended => ended,
                }
            });
            let ended = ended.await;
            if tunnel.is_none() {
                downstream.give_up_tunnel();
            }
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "connection ended");
                if error.is_parse() && !noted {
                    let answer = if error.is_parse_too_large() { &HEAD_TOO_LARGE } else { &UNREADABLE };
                    self.note_unreadable(&downstream, answer);
                }
                return None;
            }
            let tunnel = tunnel?;
            let Parts { io, read_buf, .. } = connection.into_parts();
            Some(tunnel.begin(member, &downstream, io.into_inner(), read_buf))
        }
    }

    /// Says how a connection ends that has used up its time, and counts it.
    fn cut(&self, downstream: &Downstream, overdue: Overdue) {
        let count = |reason| self.metrics.rejected.with_label_values(&[reason]).inc();
        match overdue {
            Overdue::Idle => {}
            Overdue::Head => {
                count("slow-head");
                downstream.end_with_slow_head();
            }
            Overdue::Write => {
                count("slow-reader");
                downstream.end_with(Ending::SlowReader);
            }
        }
    }

    /// hyper refuses what it cannot parse by itself (400, 414, 431), which the client's socket makes an answer of ours. Where
    /// none was written, it is `answer`'s code all the same: to the preface of HTTP/2 hyper says nothing, and its own answer
    /// goes to a client that has not taken an earlier one.
    fn note_unreadable(&self, downstream: &Downstream, answer: &'static Answer) {
        let count = |code| self.metrics.rejected.with_label_values(&[code]).inc();
        let client = downstream.client.ip;
        match downstream.unheard() {
            Some(unheard) => {
                count(unheard.code());
                unheard.log(client);
            }
            None => {
                count(answer.code);
                Unheard::new(answer).log_unanswered(client);
            }
        }
    }
}

/// Polls hyper's connection until it has ended as connections do. One over which another protocol was ever offered, taken or
/// not, hyper lets go as it is, for somebody else to go on with: what is left unwritten, and with its socket open, whether it
/// ends well or with a head that cannot be read. Nobody here goes on, and polled again it writes the rest and shuts the socket
/// down; for all others it has done so, and a second time does nothing. Its first word counts. (After any other error a poll
/// could meet a request that has ended.)
fn poll_to_end<C>(
    connection: &mut C,
    let_go: &mut Option<hyper::Result<()>>,
    cx: &mut Context<'_>,
) -> Poll<hyper::Result<()>>
where
    C: Future<Output = hyper::Result<()>> + Unpin,
{
    let mut ended = ready!(Pin::new(&mut *connection).poll(cx));
    if let_go.is_none() && ended.as_ref().err().is_none_or(hyper::Error::is_parse) {
        *let_go = Some(ended);
        ended = ready!(Pin::new(connection).poll(cx));
    }
    Poll::Ready(let_go.take().unwrap_or(Ok(())).and(ended))
}
