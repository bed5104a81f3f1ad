//! From a matching 101 to a tunnel: both raw sockets, taken back from hyper with what it had read too early.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::record::{Record, millis};
use super::socket::PodSocket;
use super::tunnel::{Direction, End, Limits, Tunnel};
use super::upstream::Lease;
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
    lease: Lease,
    (on_client, on_pod): (OnUpgrade, Option<OnUpgrade>),
    record: &Record,
) {
    let pod = lease.endpoint().metrics().clone();
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
        _held: (
            Held::new(&metrics.websockets),
            Held::new(&pod.tunnels),
            Held::new(&pod.connections),
            Rc::clone(downstream),
        ),
        pod,
        metrics,
    };
    // The sender has no more to send, and what it holds of the socket must not outlive the tunnel.
    drop(lease);
    tokio::task::spawn_local(async move {
        let Some(on_pod) = on_pod else {
            return tracing::warn!("a 101 came without its connection");
        };
        let both = async { tokio::try_join!(on_client, on_pod) };
        match tokio::time::timeout(HAND_OVER, both).await {
            Ok(Ok((client, pod))) => handshake.relay(client, pod).await,
            Ok(Err(error)) => tracing::debug!(%error, "the 101 did not reach the client"),
            Err(_) => tracing::debug!("the 101 did not reach the client in time"),
        }
    });
}

impl Handshake {
    async fn relay(self, client: Upgraded, pod: Upgraded) {
        let (client, early_up) = raw::<TcpStream>(client);
        let (pod, early_down) = raw::<PodSocket>(pod);
        let bytes = &self.metrics.tunnel_bytes;
        let directions =
            (Direction::new(early_up, bytes.upstream.clone()), Direction::new(early_down, bytes.downstream.clone()));
        let mut tunnel = Tunnel::new(&client, pod.stream(), directions, self.limits, self.member);
        let end = tunnel.relay().await;
        let (up, down) = (tunnel.up.bytes, tunnel.down.bytes);
        log_end(&self.request_id, self.room.as_ref(), self.pod.name(), self.started, (up, down), end);
    }
}

/// The socket under an upgraded connection, and the bytes that were read beyond the head.
fn raw<T>(upgraded: Upgraded) -> (T, Bytes)
where
    TokioIo<T>: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let parts = upgraded.downcast::<TokioIo<T>>().expect("both sides are served on exactly these types");
    (parts.io.into_inner(), parts.read_buf)
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
