//! `pod-router dev`: what the router needs around it, in the same process.
//!
//! Owns three demo pods, the directory they share, the configuration of a router in front of them and the page
//! they serve. It starts no router, and the router knows nothing of it: the page comes through the router because
//! the pods are its default backend, a room is placed because their heartbeats lie in the directory, and a moved
//! room is followed because a pod wrote so there. What works here works with real pods for the same reasons.

mod cluster;
mod echo;
mod engine;
mod pod;
mod reply;
mod sessions;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use self::cluster::Cluster;
use self::pod::Pod;
use crate::config::{
    Config, DirectoryConfig, DirectoryKind, DownstreamConfig, DrainConfig, LogFormat, RoutingConfig, UpstreamConfig,
};
use crate::core::address::{AddressTemplate, HostPort};
use crate::core::affinity::Affinity;
use crate::core::assignment::{PodId, StatefulSet};
use crate::core::decision::OnUnassigned;
use crate::core::placement::Limits;
use crate::directory::memory::MemoryDirectory;

/// How many demo pods there are: with three, a move leaves one that is neither the old pod nor the new one.
const PODS: u16 = 3;

/// How long the router uses an assignment without asking again: short enough for a person who has just moved a room.
const CACHE_TTL: Duration = Duration::from_millis(250);

/// The running demo pods and what they share with the router.
#[derive(Clone, Debug)]
pub struct Demo {
    /// Where the pods write assignments and heartbeats, and the router reads them.
    pub directory: MemoryDirectory,
    /// The pods and where they listen.
    pub pods: Vec<(PodId, SocketAddr)>,
    cluster: Arc<Cluster>,
}

impl Demo {
    /// Tells the page the admin listener's real address, once port 0 has become one.
    pub fn set_admin(&self, admin: SocketAddr) {
        self.cluster.set_admin(admin.to_string());
    }
}

/// Binds the demo pods `backend-0` to `backend-2` and spawns them with `tokio::spawn` on the current runtime, which
/// may be of any flavour; they run until it ends. `admin` is the admin listener as `host:port`: the page links there.
///
/// The first heartbeats are written before this returns, so the first request for a room finds pods to choose from.
///
/// # Errors
///
/// A pod's socket could not be bound.
pub async fn start(admin: String) -> io::Result<Demo> {
    let mut listeners = Vec::new();
    let mut pods = Vec::new();
    for ordinal in 0..PODS {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        pods.push((statefulset().nth(ordinal), listener.local_addr()?));
        listeners.push(listener);
    }
    let directory = MemoryDirectory::default();
    let ids: Vec<PodId> = pods.iter().map(|(id, _)| id.clone()).collect();
    let cluster = Arc::new(Cluster::new(directory.clone(), ids.clone(), admin));
    for (id, listener) in ids.into_iter().zip(listeners) {
        let pod = Arc::new(Pod::new(id, Arc::clone(&cluster)));
        pod.beat();
        tokio::spawn(pod.serve(listener));
    }
    Ok(Demo { directory, pods, cluster })
}

/// The configuration of a router in front of `demo`: the contract's defaults, except for the in-memory directory and
/// its short `--cache-ttl`, the demo pods as pods and default backend, and `--on-unassigned assign`.
pub fn config(demo: &Demo, listen: SocketAddr, admin_listen: SocketAddr, log_format: LogFormat) -> Config {
    Config {
        listen,
        admin_listen,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        log_format,
        directory: DirectoryConfig {
            kind: DirectoryKind::Memory,
            timeout: Duration::from_millis(250),
            ttl: CACHE_TTL,
            stale: Duration::from_secs(600),
            negative: Duration::from_millis(250),
            capacity: 100_000,
        },
        routing: routing(demo),
        downstream: DownstreamConfig {
            idle: Duration::from_secs(120),
            max_connections: 65_536,
            max_header_bytes: 32_768,
            trusted_proxies: TRUSTED_PROXIES
                .iter()
                .map(|network| network.parse().expect("a network written here"))
                .collect(),
            tunnel_idle: None,
        },
        upstream: UpstreamConfig {
            connect_timeout: Duration::from_secs(2),
            pod_wait: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
            idle: Duration::from_secs(4),
        },
        drain: DrainConfig { lame_duck: Duration::from_secs(5), timeout: Duration::from_secs(30) },
    }
}

/// Loopback and the private ranges, as the contract has it.
const TRUSTED_PROXIES: [&str; 6] =
    ["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

fn routing(demo: &Demo) -> RoutingConfig {
    let affinity = [r"path:room_[\w-]+", "query:roomId@/socket.io/"];
    let redirect = "/experiment/=/experiment?roomId={room}&pod={pod}";
    let at = |address: &SocketAddr| HostPort { host: address.ip().to_string().into(), port: address.port() };
    RoutingConfig {
        affinity: Affinity::new(affinity.iter().map(|rule| rule.parse().expect("a rule written here")).collect()),
        redirect: Some(redirect.parse().expect("a redirect written here")),
        statefulset: statefulset(),
        // For pods that are not there: a name that never resolves (RFC 6761 section 6.4).
        pod_address: AddressTemplate::new("{pod}.invalid:3000", "default").expect("a template written here"),
        fixed_pods: demo.pods.iter().map(|(id, address)| (id.clone(), at(address))).collect(),
        default_backend: demo.pods.iter().map(|(_, address)| at(address)).collect(),
        on_unassigned: OnUnassigned::Assign,
        limits: Limits { rooms: 20, participants: 80 },
    }
}

fn statefulset() -> StatefulSet {
    StatefulSet::parse("backend").expect("a DNS label")
}

/// The text to print once the router listens: the URLs to try, each under an address a browser on this machine can open.
pub fn urls(listen: SocketAddr, admin: SocketAddr) -> String {
    let (data, admin) = (reachable(listen), reachable(admin));
    format!(
        "\
pod-router dev: a router, an in-memory directory and three demo pods, in this one process.

  The page to click through     http://{data}/
  A page load, redirected       http://{data}/experiment/room_demo
  The pod of a room             curl http://{data}/api/room/room_demo/whoami
  Move the room                 curl -X POST 'http://{data}/api/room/room_demo/assign?pod=backend-2'
  A WebSocket echo              ws://{data}/socket.io/?transport=websocket&roomId=room_demo
  What the router says          http://{admin}/status
                                http://{admin}/metrics

Ctrl-C ends it; a second one at once.
"
    )
}

/// Where a listener bound to all addresses is reached from here.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listener.port())
}

#[cfg(test)]
mod tests;
