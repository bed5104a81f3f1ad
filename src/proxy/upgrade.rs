//! From a matching 101 to a tunnel: the pod's socket, and the client's taken back from hyper, each with what had been
//! read too early.
//!
//! hyper gets no answer to a handshake that a pod accepts: the task that serves the connection takes the client's socket
//! out of it, and the 101 is the first that the tunnel passes on. hyper's own way, an answer and a future for the socket,
//! needs another task, and a lock and a box on the way to it; and a 101 that it writes may say `close`
//! ([`switch`](crate::core::wire::switch)).

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::client::ClientSocket;
use super::exchange::Exchange;
use super::record::{Record, millis};
use super::tunnel::{Common, Direction, End, Tunnel, reset_on_drop};
use super::upstream::PodShare;
use super::{Downstream, Permit, Proxy};
use crate::core::room::RoomId;
use crate::directory::Directory;
use crate::drain::Member;
use crate::metrics::Held;

/// A WebSocket handshake that a pod may accept: the `Sec-WebSocket-Accept` that answers this one and no other.
#[derive(Debug)]
pub(super) struct Offer(String);

impl Offer {
    /// The offer in a request that is a handshake.
    pub(super) fn of(fields: &HeaderMap) -> Option<Self> {
        let key = fields.get(SEC_WEBSOCKET_KEY)?;
        Some(Self(derive_accept_key(key.as_bytes())))
    }

    /// Whether the pod has understood what was asked (RFC 6455 section 4.2.2): a 101 for any other reason, or from a
    /// pod that is out of step with its requests, must not open a tunnel.
    pub(super) fn is_accepted_by(&self, headers: &HeaderMap) -> bool {
        let mut accepts = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
        matches!((accepts.next(), accepts.next()), (Some(accept), None) if accept == self.0.as_str())
    }
}

/// A tunnel that its pod has agreed to, until the client's socket is taken out of hyper. Dropped, it closes the pod's.
#[derive(Debug)]
pub struct Agreed {
    pod: TcpStream,
    /// For the client: the 101, of `head` bytes, and what came together with it.
    early: Vec<u8>,
    head: usize,
    common: Rc<Common>,
    story: Story,
    kept: PodShare,
}

impl Agreed {
    /// With the exchange that the 101 has ended, as the record says, and the 101's `head` for the client.
    pub(super) fn new<D: Directory>(
        proxy: &Proxy<D>,
        exchange: Box<Exchange>,
        mut head: Vec<u8>,
        record: &Record,
    ) -> Self {
        let pod = exchange.lease().endpoint().metrics();
        let story = Story {
            started: record.answered(),
            // A copy: the id shares its space with other ids, or is a piece of what was read, and a tunnel lives long.
            request_id: record.request_id().to_str().unwrap_or_default().into(),
            room: record.room.clone(),
            pod: Arc::clone(exchange.lease().endpoint().name()),
            bytes: (0, 0),
            end: None,
            _held: (Held::new(&proxy.metrics.websockets), Held::new(&pod.tunnels)),
        };
        let (pod, glued, kept) = exchange.into_tunnel();
        let length = head.len();
        head.extend_from_slice(&glued);
        Self { pod, early: head, head: length, common: Rc::clone(&proxy.tunnels), story, kept }
    }

    /// The tunnel between the pod and the client, which has sent `early` already. It goes on as the `member` that its connection
    /// was, and counts in its place.
    pub fn begin(self, member: Member, downstream: &Downstream, client: ClientSocket, early: Bytes) -> Box<Relay> {
        let (client, looked_past) = client.into_stream();
        // Not when the 101 came: its client may have had an earlier answer to take since.
        let now = Instant::now();
        let up = Direction::to_pod(early.into(), looked_past, now);
        let down = Direction::to_client(self.early, self.head, now);
        let Self { pod, common, story, kept, .. } = self;
        let tunnel = Tunnel::new((client, up), (pod, down), common, member, now);
        Box::new(Relay { tunnel, story, kept, _permit: downstream.take_permit() })
    }

    /// It never begins: its client broke off, or took nothing for too long, with an earlier answer before it. Its pod learns of
    /// that as it would through a tunnel.
    pub(super) fn give_up(mut self, end: End) {
        reset_on_drop(&self.pod);
        self.story.end = Some(end);
    }
}

/// What a tunnel keeps of its handshake, for the line at its end: one for each 101, also where the tunnel never begins.
#[derive(Debug)]
struct Story {
    started: Instant,
    request_id: Box<str>,
    room: Option<RoomId<'static>>,
    pod: Arc<str>,
    /// From the client, and to it.
    bytes: (u64, u64),
    /// How it ended. Dropped without, it was cut together with its thread's runtime.
    end: Option<End>,
    /// Counted while the tunnel lives: among the WebSockets, and the pod's tunnels.
    _held: (Held, Held),
}

/// A tunnel from its beginning to the line at its end. A future by hand: what an `async fn` is given it holds twice, and
/// tunnels are held by the thousand.
#[derive(Debug)]
pub struct Relay {
    tunnel: Tunnel,
    story: Story,
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
        self.story.end = Some(ready!(end));
        Poll::Ready(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.story.bytes = (self.tunnel.up.bytes, self.tunnel.down.bytes);
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        tracing::info!(
            target: "pod_router::access",
            request_id = &*self.request_id,
            room = self.room.as_ref().map(RoomId::as_str),
            pod = &*self.pod,
            duration_ms = millis(self.started.elapsed()),
            bytes_in = self.bytes.0,
            bytes_out = self.bytes.1,
            reason = self.end.unwrap_or(End::Cut).as_str(),
            "tunnel closed"
        );
    }
}
