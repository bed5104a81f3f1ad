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

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;

use self::cluster::Cluster;
use self::pod::Pod;
use crate::config::{self, Command, Config, DevArgs, LogFormat};
use crate::core::assignment::{PodId, StatefulSet};
use crate::core::room::RoomId;
use crate::directory::memory::MemoryDirectory;

/// How many demo pods there are: with three, a move leaves one that is neither the old pod nor the new one.
const PODS: u16 = 3;

/// How long the router uses an assignment without asking again: not at all, so that a room that has just been moved is found
/// at its new pod by the very next request. The directory is in the same process.
const CACHE_TTL: &str = "0s";

/// The room that has a pod from the start.
const DEMO_ROOM: &str = "room_demo";

/// The pods' StatefulSet.
const STATEFULSET: &str = "backend";

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
    // So that the redirect can be tried first: a room without a pod would be redirected without one.
    let room = RoomId::parse(DEMO_ROOM).expect("a room written here");
    cluster.remember(&room);
    cluster.assign(&room, &ids[1]);
    for (id, listener) in ids.into_iter().zip(listeners) {
        let pod = Arc::new(Pod::new(id, Arc::clone(&cluster)));
        pod.beat();
        tokio::spawn(pod.serve(listener));
    }
    Ok(Demo { directory, pods, cluster })
}

/// The configuration of a router in front of `demo`: what `serve` would make of these arguments, so that its defaults are
/// the contract's. Leaving takes no time: there is no ingress to say goodbye to.
pub fn config(demo: &Demo, args: &DevArgs) -> Config {
    let log_format = match args.log_format {
        LogFormat::Json => "json",
        LogFormat::Text => "text",
    };
    let backends: Vec<_> = demo.pods.iter().map(|(_, address)| address.to_string()).collect();
    let mut words = vec!["pod-router".to_owned(), "--directory=memory".to_owned(), "--on-unassigned=assign".to_owned()];
    words.extend([format!("--cache-ttl={CACHE_TTL}"), "--lame-duck=0s".to_owned(), "--drain-timeout=1s".to_owned()]);
    words.extend([format!("--listen={}", args.listen), format!("--admin-listen={}", args.admin_listen)]);
    words.extend([format!("--log-format={log_format}"), format!("--default-backend={}", backends.join(","))]);
    // For pods that are not there: a name that never resolves (RFC 6761 section 6.4).
    words.extend([format!("--statefulset={STATEFULSET}"), "--pod-address={pod}.invalid:3000".to_owned()]);
    words.extend(demo.pods.iter().map(|(pod, address)| format!("--pod={pod}={address}")));
    match config::parse(words.into_iter().map(OsString::from), [], false) {
        Ok(Command::Serve(config)) => *config,
        other => unreachable!("these arguments are valid settings of serve: {other:?}"),
    }
}

fn statefulset() -> StatefulSet {
    StatefulSet::parse(STATEFULSET).expect("a DNS label")
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
