//! From a matching 101 to a tunnel: the pod's socket, and the client's taken back from hyper, each with what had been
//! read too early.
//!
//! The task that serves the connection goes on with the client's socket itself, once hyper has written the 101 and is done.
//! hyper's own way, a future for the socket, needs another task, and a lock and a box on the way to it.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::client::ClientSocket;
use super::exchange::Exchange;
use super::record::{Record, millis};
use super::tunnel::{Common, Direction, End, Tunnel};
use super::upstream::PodShare;
use super::{Downstream, Permit, Proxy};
use crate::core::room::RoomId;
use crate::directory::Directory;
use crate::drain::Member;
use crate::metrics::Held;

/// A WebSocket handshake that a pod may accept.
#[derive(Debug)]
pub(super) struct Offer {
    /// Tells whether hyper has written the 101.
    on_client: OnUpgrade,
    /// The `Sec-WebSocket-Accept` that answers this handshake and no other.
    accept: String,
}

impl Offer {
    /// The offer of a request that is a handshake.
    pub(super) fn take(head: &mut Parts) -> Option<Box<Self>> {
        let on_client = head.extensions.remove::<OnUpgrade>()?;
        let key = head.headers.get(SEC_WEBSOCKET_KEY)?;
        let accept = derive_accept_key(key.as_bytes());
        Some(Box::new(Self { on_client, accept }))
    }

    /// Whether the pod has understood what was asked (RFC 6455 section 4.2.2): a 101 for any other reason, or from a
    /// pod that is out of step with its requests, must not open a tunnel.
    pub(super) fn is_accepted_by(&self, headers: &HeaderMap) -> bool {
        let mut accepts = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
        matches!((accepts.next(), accepts.next()), (Some(accept), None) if accept == self.accept.as_str())
    }
}

/// A tunnel that its pod has agreed to, until hyper lets go of the client's socket. Dropped, it closes the pod's.
#[derive(Debug)]
pub struct Agreed {
    on_client: OnUpgrade,
    pod: TcpStream,
    /// What came together with the 101.
    early: Bytes,
    common: Rc<Common>,
    story: Story,
    kept: PodShare,
}

impl Agreed {
    /// With the exchange that the 101 has ended, as the record says. The 101 itself is still to be returned by the caller.
    pub(super) fn new<D: Directory>(proxy: &Proxy<D>, exchange: Box<Exchange>, offer: Offer, record: &Record) -> Self {
        let pod = exchange.lease().endpoint().metrics();
        let story = Story {
            started: record.answered(),
            // A copy: the id shares its space with other ids, or is a piece of what was read, and a tunnel lives long.
            request_id: record.request_id().to_str().unwrap_or_default().into(),
            room: record.room.clone(),
            pod: Arc::clone(exchange.lease().endpoint().name()),
            _held: (Held::new(&proxy.metrics.websockets), Held::new(&pod.tunnels)),
        };
        let (pod, early, kept) = exchange.into_tunnel();
        Self { on_client: offer.on_client, pod, early, common: Rc::clone(&proxy.tunnels), story, kept }
    }

    /// The tunnel between the pod and the client, which has been sent the 101; `early` is what it has sent already. It goes
    /// on as the `member` that its connection was, and counts in its place. `None` where the 101 did not go out.
    pub fn begin(
        self: Box<Self>,
        member: Member,
        downstream: &Downstream,
        client: ClientSocket,
        early: Bytes,
    ) -> Option<Box<Relay>> {
        let Self { mut on_client, pod, early: early_down, common, story, kept } = *self;
        // Told to upgrade by itself, hyper calls its part an error of the user's; where it did not come to that, cancelled.
        let told = Pin::new(&mut on_client).poll(&mut Context::from_waker(Waker::noop()));
        if !matches!(told, Poll::Ready(Err(error)) if error.is_user()) {
            tracing::debug!("the 101 did not reach the client");
            return None;
        }
        let (client, looked_past) = client.into_stream();
        let up = Direction::to_pod(early, looked_past);
        let tunnel = Tunnel::new((client, up), (pod, Direction::to_client(early_down)), common, member, story.started);
        Some(Box::new(Relay { tunnel, story, end: None, kept, _permit: downstream.take_permit() }))
    }
}

/// What a tunnel keeps of its handshake, for the line at its end.
#[derive(Debug)]
struct Story {
    started: Instant,
    request_id: Box<str>,
    room: Option<RoomId<'static>>,
    pod: Arc<str>,
    /// Counted while the tunnel lives: among the WebSockets, and the pod's tunnels.
    _held: (Held, Held),
}

/// A tunnel from its beginning to the line at its end. A future by hand: what an `async fn` is given it holds twice, and
/// tunnels are held by the thousand.
#[derive(Debug)]
pub struct Relay {
    tunnel: Tunnel,
    story: Story,
    /// How it ended. Dropped without, it was cut together with its thread's runtime.
    end: Option<End>,
    /// Its part of the pod.
    kept: PodShare,
    /// Its connection's.
    _permit: Option<Permit>,
}

impl Future for Relay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let end = self.tunnel.poll(cx);
        if self.tunnel.pod_is_done() {
            self.kept.leave();
        }
        self.end = Some(ready!(end));
        Poll::Ready(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.story.log(&self.tunnel, self.end.unwrap_or(End::Cut));
    }
}

impl Story {
    fn log(&self, tunnel: &Tunnel, end: End) {
        tracing::info!(
            target: "pod_router::access",
            request_id = &*self.request_id,
            room = self.room.as_ref().map(RoomId::as_str),
            pod = &*self.pod,
            duration_ms = millis(self.started.elapsed()),
            bytes_in = tunnel.up.bytes,
            bytes_out = tunnel.down.bytes,
            reason = end.as_str(),
            "tunnel closed"
        );
    }
}
