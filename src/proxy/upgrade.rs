//! From a matching 101 to a tunnel: the pod's socket, and the client's taken back from hyper, each with what had been
//! read too early.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::client::ClientSocket;
use super::exchange::Exchange;
use super::record::{Record, millis};
use super::tunnel::{Direction, End, Limits, Tunnel};
use super::{Downstream, Proxy};
use crate::core::room::RoomId;
use crate::directory::Directory;
use crate::drain::Member;
use crate::metrics::{Held, Metrics, PodMetrics};

/// How long the 101 may take to reach the client and free both sockets.
const HAND_OVER: Duration = Duration::from_secs(10);

/// What a tunnel keeps of its handshake.
struct Handshake {
    started: Instant,
    request_id: HeaderValue,
    room: Option<RoomId<'static>>,
    pod: PodMetrics,
    metrics: Arc<Metrics>,
    limits: Limits,
    member: Member,
    /// Counted while the tunnel lives: among the WebSockets, the pod's tunnels and connections, and with the
    /// downstream connection's permit.
    _held: (Held, Held, Held, Rc<Downstream>),
}

/// Starts the tunnel's task. The 101 that frees the client's socket is still to be returned by the caller.
pub(super) fn start<D: Directory>(
    proxy: &Rc<Proxy<D>>,
    downstream: &Rc<Downstream>,
    exchange: Box<Exchange>,
    on_client: OnUpgrade,
    record: &Record,
) {
    let pod = exchange.lease().endpoint().metrics().clone();
    let (stream, early, open) = exchange.into_tunnel();
    let metrics = Arc::clone(&proxy.metrics);
    let handshake = Handshake {
        started: Instant::now(),
        request_id: record.request_id().clone(),
        room: record.room.clone(),
        limits: Limits {
            idle: proxy.config.downstream.tunnel_idle,
            linger: proxy.config.downstream.tunnel_linger,
            drain: proxy.config.drain.timeout,
        },
        member: proxy.roster.join(),
        _held: (Held::new(&metrics.websockets), Held::new(&pod.tunnels), open, Rc::clone(downstream)),
        pod,
        metrics,
    };
    tokio::task::spawn_local(async move {
        match tokio::time::timeout(HAND_OVER, on_client).await {
            Ok(Ok(client)) => handshake.relay(client, stream, early).await,
            Ok(Err(error)) => tracing::debug!(%error, "the 101 did not reach the client"),
            Err(_) => tracing::debug!("the 101 did not reach the client in time"),
        }
    });
}

impl Handshake {
    async fn relay(self, client: Upgraded, pod: TcpStream, early_down: Bytes) {
        let (client, early_up) = raw(client);
        let bytes = &self.metrics.tunnel_bytes;
        let directions =
            (Direction::new(early_up, bytes.upstream.clone()), Direction::new(early_down, bytes.downstream.clone()));
        let mut tunnel = Tunnel::new(&client, &pod, directions, self.limits, self.member);
        let end = tunnel.relay().await;
        let (up, down) = (tunnel.up.bytes, tunnel.down.bytes);
        log_end(&self.request_id, self.room.as_ref(), self.pod.name(), self.started, (up, down), end);
    }
}

/// The socket under an upgraded connection, and the bytes that were read beyond the head.
fn raw(upgraded: Upgraded) -> (TcpStream, Bytes) {
    let parts = upgraded.downcast::<TokioIo<ClientSocket>>().expect("clients are served on exactly this type");
    (parts.io.into_inner().into_stream(), parts.read_buf)
}

fn log_end(
    request_id: &HeaderValue,
    room: Option<&RoomId<'_>>,
    pod: &str,
    started: Instant,
    (up, down): (u64, u64),
    end: End,
) {
    tracing::info!(
        target: "pod_router::access",
        request_id = request_id.to_str().unwrap_or_default(),
        room = room.map(RoomId::as_str),
        pod,
        duration_ms = millis(started.elapsed()),
        bytes_in = up,
        bytes_out = down,
        reason = end.as_str(),
        "tunnel closed"
    );
}
