//! The configuration as it is meant: validated, typed, complete.
//!
//! `args` has what was typed (flags, environment, seed names); the one conversion there makes a [`Config`]
//! of it or says what is wrong. Past this point nothing is optional that must be set, every duration is a
//! [`Duration`], and no other file reads the environment. A leaf: each layer takes its own sub-struct.

mod args;
mod backends;
mod command;
mod convert;
mod environment;
mod error;
mod log_filter;
mod redis_url;
mod settings;
mod value;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::core::address::{AddressTemplate, HostPort};
use crate::core::affinity::Affinity;
use crate::core::assignment::{PodId, StatefulSet};
use crate::core::decision::OnUnassigned;
use crate::core::origin::Origins;
use crate::core::placement::Limits;
use crate::core::rate::{Rate, RateRule};
use crate::core::redirect::Redirect;
use crate::core::room::RoomId;

pub use backends::{BackendConfig, BackendsConfig, CheckConfig, CookieConfig, Key, SessionConfig, Source};
pub use command::{Command, DevArgs, Exit, HealthCheck, Question, from_process, parse};
pub use error::ConfigError;
pub use settings::{Setting, settings};

/// Everything `serve` was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--listen`: the data listener.
    pub listen: SocketAddr,
    /// `--admin-listen`: health, metrics and status.
    pub admin_listen: SocketAddr,
    /// `--threads`: worker threads, at least 1.
    pub threads: usize,
    /// `--log-format`.
    pub log_format: LogFormat,
    /// `--log-sample`: the share of successful requests that get an access line, 0 to 1.
    pub log_sample: f64,
    /// Who owns a room, and how that is remembered.
    pub directory: DirectoryConfig,
    /// Which request goes where.
    pub routing: RoutingConfig,
    /// Requests without a room.
    pub backends: BackendsConfig,
    /// Connections from the ingress.
    pub downstream: DownstreamConfig,
    /// Connections to the pods.
    pub upstream: UpstreamConfig,
    /// The end.
    pub drain: DrainConfig,
}

/// `--log-format`: how log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a person at a terminal.
    Text,
}

/// Where assignments come from and how long they are used.
#[derive(Clone, Debug)]
pub struct DirectoryConfig {
    /// `--directory`.
    pub kind: DirectoryKind,
    /// `--redis-timeout`: the deadline of one lookup, queueing included.
    pub timeout: Duration,
    /// `--cache-ttl`: how long an assignment is used without asking again.
    pub ttl: Duration,
    /// `--cache-stale`: how long past that it may be used while the directory cannot be asked.
    pub stale: Duration,
    /// `--cache-negative`: how long "unassigned" and "unusable" are remembered.
    pub negative: Duration,
    /// `--cache-capacity`: rooms remembered, at least 1.
    pub capacity: usize,
}

/// `--directory`: the source of truth about rooms.
#[derive(Clone, Debug)]
pub enum DirectoryKind {
    /// Redis, shared by all replicas and the backends.
    Redis(RedisConfig),
    /// This process's own memory.
    Memory,
}

/// How Redis is reached and where a room's key is.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// The URL, which may hold a password.
    pub url: Secret,
    /// `--room-key`.
    pub room_key: KeyTemplate,
}

/// `--room-key`: the key of a room's assignment, with `{room}` to be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTemplate(String);

/// Which request goes where.
#[derive(Clone, Debug)]
pub struct RoutingConfig {
    /// `--affinity`.
    pub affinity: Affinity,
    /// `--redirect`; `None` when it is off.
    pub redirect: Option<Redirect>,
    /// `--statefulset`.
    pub statefulset: StatefulSet,
    /// `--pod-address`, the namespace filled in.
    pub pod_address: AddressTemplate,
    /// `--namespace`, for people: routing goes by `pod_address`.
    pub namespace: String,
    /// `--pod`: fixed addresses, ahead of the template.
    pub fixed_pods: HashMap<PodId, HostPort>,
    /// `--on-unassigned`.
    pub on_unassigned: OnUnassigned,
    /// `--max-rooms-per-pod`, `--max-participants-per-pod`.
    pub limits: Limits,
}

/// Connections from the ingress.
#[derive(Clone, Debug)]
pub struct DownstreamConfig {
    /// `--downstream-idle`: idle keep-alive connections.
    pub idle: Duration,
    /// `--header-timeout`: a request head, from its first byte to its last.
    pub header_timeout: Duration,
    /// `--request-body-idle`: a request body of which nothing more comes.
    pub request_body_idle: Duration,
    /// `--write-stall`: a client, or a tunnel's pod, that takes nothing of what there is for it.
    pub write_stall: Duration,
    /// `--max-connections`: tunnels included.
    pub max_connections: usize,
    /// `--max-connections-per-client`; `None` when it is off.
    pub max_connections_per_client: Option<u32>,
    /// `--max-header-bytes`: a request head.
    pub max_header_bytes: usize,
    /// `--max-headers`: its fields.
    pub max_headers: usize,
    /// `--max-body`: a request body, in bytes; `None` when it is off.
    pub max_body: Option<u64>,
    /// `--allowed-origins`: of WebSocket handshakes; `None` when it is off.
    pub allowed_origins: Option<Origins>,
    /// `--rate-limit`: requests of one client.
    pub rate_limits: Vec<RateRule>,
    /// `--lookup-rate`: unknown rooms of one client; `None` when it is off.
    pub lookup_rate: Option<Rate>,
    /// `--trusted-proxies`: whose `X-Forwarded-*` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// `--proxy-protocol`: whether their connections begin with a PROXY header.
    pub proxy_protocol: bool,
    /// `--tunnel-idle`: tunnels without a byte in either direction; `None` when it is off.
    pub tunnel_idle: Option<Duration>,
    /// `--tunnel-linger`: a half-closed tunnel's second half, after the first has ended.
    pub tunnel_linger: Duration,
}

/// Connections to the pods.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// `--connect-timeout`.
    pub connect_timeout: Duration,
    /// `--pod-max-connections`: requests in flight and tunnels at one pod; `None` when it is off.
    pub max_connections: Option<usize>,
    /// `--pod-queue`: requests that wait for one of those places.
    pub queue: usize,
    /// `--pod-queue-timeout`: for this long.
    pub queue_timeout: Duration,
    /// `--pod-wait`: how long a request is held while its pod refuses connections.
    pub pod_wait: Duration,
    /// `--response-timeout`: to the response head, from the last movement of the request body; and for what a pod has not taken
    /// of that body by then.
    pub response_timeout: Duration,
    /// `--response-body-idle`: a response of which nothing more comes; `None` when it is off.
    pub response_body_idle: Option<Duration>,
    /// `--upstream-idle`: idle keep-alive connections.
    pub idle: Duration,
    /// `--dns-stale`: how long past its time an address is used while no name server answers; zero when it is off.
    pub dns_stale: Duration,
    /// `--pod-networks`: where pods may be; `None` when it is off.
    pub pod_networks: Option<Vec<IpNet>>,
}

/// What happens after SIGTERM.
#[derive(Clone, Copy, Debug)]
pub struct DrainConfig {
    /// `--lame-duck`: still serving, saying goodbye on every answer.
    pub lame_duck: Duration,
    /// `--drain-timeout`: then tunnels and requests in flight end within this.
    pub timeout: Duration,
}

/// Text that must not be printed: `Debug` and `Display` show the URL with its password masked.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

// === impl RoutingConfig ===

impl RoutingConfig {
    /// Where this pod is.
    pub fn address_of(&self, pod: &PodId) -> HostPort {
        self.fixed_pods.get(pod).cloned().unwrap_or_else(|| self.pod_address.of(pod))
    }
}

// === impl UpstreamConfig ===

impl UpstreamConfig {
    /// Whether a pod may have this address: `--pod-networks`.
    pub fn may_dial(&self, ip: IpAddr) -> bool {
        let networks = self.pod_networks.as_ref();
        networks.is_none_or(|networks| networks.iter().any(|network| network.contains(&ip.to_canonical())))
    }
}

// === impl KeyTemplate ===

impl KeyTemplate {
    /// A template from its text.
    ///
    /// # Errors
    ///
    /// Says what is wrong: without `{room}` all rooms would share one key.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.contains("{room}") {
            Ok(Self(text.to_owned()))
        } else {
            Err("the key has to contain {room}".to_owned())
        }
    }

    /// The key of this room.
    pub fn key(&self, room: &RoomId<'_>) -> String {
        self.0.replace("{room}", room.as_str())
    }
}

impl fmt::Display for KeyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Secret ===

impl Secret {
    /// Wraps a URL.
    pub fn new(url: String) -> Self {
        Self(url)
    }

    /// The URL itself, for whoever has to connect.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Secret {
    /// Masks what stands between the scheme and the last `@` of the authority, except the user name, and
    /// any password in the query (`sentinelPassword=`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The last `@` first: a password that was not percent-encoded may hold a `?` of its own.
        let host = match self.0.rsplit_once('@') {
            Some((before, host)) => {
                let (scheme, credentials) = before.split_once("://").unwrap_or(("redis", before));
                let user = credentials.split(':').next().unwrap_or_default();
                write!(f, "{scheme}://{user}:***@")?;
                host
            }
            None => &self.0,
        };
        let (base, query) = host.split_once('?').map_or((host, None), |(base, query)| (base, Some(query)));
        f.write_str(base)?;
        for (index, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let shown = if name.to_ascii_lowercase().contains("password") { "***" } else { value };
            write!(f, "{}{name}={shown}", if index == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
            ("redis://:hunter2@h:1", "redis://:***@h:1"),
            ("rediss://me:p@ss@h:1/2", "rediss://me:***@h:1/2"),
            ("redis://:pa?ss@h:1", "redis://:***@h:1"),
            (
                "redis-sentinel://h:1?sentinelServiceName=m&sentinelPassword=x",
                "redis-sentinel://h:1?sentinelServiceName=m&sentinelPassword=***",
            ),
        ] {
            assert_eq!(Secret::new(url.to_owned()).to_string(), shown);
            assert_eq!(format!("{:?}", Secret::new(url.to_owned())), shown);
        }
    }

    #[test]
    fn the_key_names_the_room() {
        let room = RoomId::parse("room_a").expect("a room");
        assert_eq!(KeyTemplate::new("room:{room}:pod").map(|k| k.key(&room)), Ok("room:room_a:pod".to_owned()));
        assert!(KeyTemplate::new("room:pod").is_err());
    }
}
