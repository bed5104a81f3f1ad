//! From a matching 101 to a tunnel: the pod's socket, and the client's taken back from hyper, each with what had been
//! read too early.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::client::ClientSocket;
use super::exchange::Exchange;
use super::record::{Record, millis};
use super::tunnel::{End, Tunnel};
use super::upstream::Kept;
use super::{Downstream, Proxy};
use crate::core::room::RoomId;
use crate::directory::Directory;
use crate::metrics::Held;

/// How long the 101 may take to reach the client and free both sockets.
const HAND_OVER: Duration = Duration::from_secs(10);

/// A WebSocket handshake that a pod may accept.
#[derive(Debug)]
pub(super) struct Offer {
    /// Gives the client's socket back after the 101.
    pub(super) on_client: OnUpgrade,
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

/// Hands both sockets to a tunnel. The 101 that frees the client's is still to be returned by the caller.
pub(super) fn start<D: Directory>(
    proxy: &Rc<Proxy<D>>,
    downstream: &Rc<Downstream>,
    exchange: Box<Exchange>,
    on_client: OnUpgrade,
    record: &Record,
) {
    let pod = exchange.lease().endpoint().metrics();
    let story = Story {
        started: Instant::now(),
        request_id: record.request_id().clone(),
        room: record.room.clone(),
        pod: Arc::clone(exchange.lease().endpoint().name()),
        _held: (Held::new(&proxy.metrics.websockets), Held::new(&pod.tunnels), Rc::clone(downstream)),
    };
    let member = proxy.roster.join();
    let common = Rc::clone(&proxy.tunnels);
    let (pod, early_down, kept) = exchange.into_tunnel();
    tokio::task::spawn_local(async move {
        let client = match tokio::time::timeout(HAND_OVER, on_client).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return tracing::debug!(%error, "the 101 did not reach the client"),
            Err(_) => return tracing::debug!("the 101 did not reach the client in time"),
        };
        match raw(client) {
            Ok((client, early_up)) => {
                let tunnel = Tunnel::new(client, pod, (early_up, early_down), common, member);
                // A task of its own: this one is larger than a tunnel has to be, and a tunnel lives long.
                tokio::task::spawn_local(Relay { tunnel, story, end: None, _kept: kept });
            }
            Err(error) => tracing::warn!(%error, "the client's socket could not become a tunnel's"),
        }
    });
}

/// What a tunnel keeps of its handshake, for the line at its end.
struct Story {
    started: Instant,
    request_id: HeaderValue,
    room: Option<RoomId<'static>>,
    pod: Arc<str>,
    /// Counted while the tunnel lives: among the WebSockets, the pod's tunnels, and with the downstream connection's
    /// permit.
    _held: (Held, Held, Rc<Downstream>),
}

/// A tunnel from its beginning to the line at its end. A future by hand: what an `async fn` is given it holds twice, and
/// tunnels are held by the thousand.
struct Relay {
    tunnel: Tunnel,
    story: Story,
    /// How it ended. Dropped without, it was cut together with its thread's runtime.
    end: Option<End>,
    _kept: Kept,
}

impl Future for Relay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.end = Some(ready!(self.tunnel.poll(cx)));
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
            request_id = self.request_id.to_str().unwrap_or_default(),
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

/// The socket under an upgraded connection, and the bytes that were read beyond the head.
fn raw(upgraded: Upgraded) -> io::Result<(TcpStream, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<ClientSocket>>().expect("clients are served on exactly this type");
    Ok((parts.io.into_inner().into_stream()?, parts.read_buf))
}
