//! What was typed: the commands and the settings, as clap reads them.
//!
//! Every value stays text here. Its meaning, and the sentence when it has none, are made in `convert`, in
//! one place for flags and variables alike. A setting is an argument with a help heading: from that,
//! `environment` derives its variable and `settings` its row in the README. The doc comments below are the
//! text of `--help` and of that table.

use clap::{Args as ClapArgs, Parser, Subcommand};

/// Sends every request that names a room to the one pod that owns it
#[derive(Debug, Parser)]
#[command(
    name = "pod-router",
    version,
    args_conflicts_with_subcommands = true,
    next_line_help = true,
    after_help = "A flag wins over its variable; an empty variable counts as unset. Durations read 250ms, 2s, 10m.\n\
                  RUST_LOG sets the log level, by default info."
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) action: Option<Action>,
    #[command(flatten)]
    pub(super) serve: Args,
}

/// The commands; without one it is `serve`.
#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// The router; also what a bare pod-router does
    Serve(Box<Args>),
    /// Everything in one process, nothing else needed: router, in-memory directory, three demo pods and a page
    Dev(DevArgs),
    /// Validates the configuration, prints it, tries Redis and each known pod; exit 0, 64 (wrong) or 69 (unreachable)
    Check(Box<Args>),
    /// Says where a request would go, and why
    Explain(Box<ExplainArgs>),
    /// Asks the router of this machine whether it lives: for a container's health check; exit 0 or 1
    Health(HealthArgs),
}

/// The defaults of settings that mean nothing without another one: whether somebody has changed them tells whether that has
/// been forgotten.
pub(super) const COOKIE_ATTRIBUTES: &str = "HttpOnly; SameSite=Lax";
pub(super) const FAIL_TIMEOUT: &str = "30s";
pub(super) const POD_QUEUE: &str = "100";
pub(super) const POD_QUEUE_TIMEOUT: &str = "5s";

/// The settings of `serve`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Data listener
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:3001", help_heading = "Listeners")]
    pub(super) listen: String,
    /// Health, metrics and status; never exposed through the ingress
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:9901", help_heading = "Listeners")]
    pub(super) admin_listen: String,

    /// Who owns a room: `redis`, or `memory` (one replica only; for development and tests)
    #[arg(long, value_name = "redis|memory", default_value = "redis", help_heading = "Directory")]
    pub(super) directory: String,
    /// `redis://`, `rediss://` (TLS), `redis-sentinel://`, `redis-cluster://` and their `rediss-` forms; by default
    /// `REDIS_URL`, else built from `REDIS_HOST` (`127.0.0.1`), `REDIS_PORT` (`6379`), `REDIS_USERNAME`,
    /// `REDIS_PASSWORD` and `REDIS_DB`
    #[arg(long, value_name = "URL", help_heading = "Directory")]
    pub(super) redis_url: Option<String>,
    /// Deadline of one lookup, queueing included
    #[arg(long, value_name = "DURATION", default_value = "250ms", help_heading = "Directory")]
    pub(super) redis_timeout: String,
    /// Key template of an assignment
    #[arg(long, value_name = "KEY", default_value = "room:{room}:pod", help_heading = "Directory")]
    pub(super) room_key: String,
    /// How long an assignment is used without asking again
    #[arg(long, value_name = "DURATION", default_value = "2s", help_heading = "Directory")]
    pub(super) cache_ttl: String,
    /// How long past that it may still be used while Redis cannot be asked
    #[arg(long, value_name = "DURATION", default_value = "10m", help_heading = "Directory")]
    pub(super) cache_stale: String,
    /// How long "unassigned" is remembered
    #[arg(long, value_name = "DURATION", default_value = "250ms", help_heading = "Directory")]
    pub(super) cache_negative: String,
    /// Rooms kept
    #[arg(long, value_name = "COUNT", default_value = "100000", help_heading = "Directory")]
    pub(super) cache_capacity: String,

    /// Where the room id comes from, first match wins: `path:REGEX` (on one whole path segment, undecoded),
    /// `query:NAME[@PREFIX]`, `header:NAME[@PREFIX]`, `cookie:NAME[@PREFIX]`. Repeatable; the variable takes a list and is
    /// split at each comma that a word and a colon follow, so that an expression may contain commas
    #[arg(
        long,
        value_name = "RULE",
        default_values = [r"path:room_[\w-]+", "query:roomId@/socket.io/"],
        help_heading = "Routing"
    )]
    pub(super) affinity: Vec<String>,
    /// Path prefix under which a browser page load is redirected, and the relative target; `off` to disable
    #[arg(
        long,
        value_name = "PREFIX=TARGET",
        default_value = "/experiment/=/experiment?roomId={room}&pod={pod}",
        help_heading = "Routing"
    )]
    pub(super) redirect: String,
    /// Pods are called `<statefulset>-<ordinal>`; any other pod id in the directory is refused (never dialled)
    #[arg(long, value_name = "NAME", default_value = "backend", help_heading = "Routing")]
    pub(super) statefulset: String,
    /// Where a pod is, from `{pod}` and `{namespace}`
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "{pod}.backend.{namespace}.svc.cluster.local:3000",
        help_heading = "Routing"
    )]
    pub(super) pod_address: String,
    /// The Kubernetes namespace in `--pod-address`
    #[arg(long, value_name = "NAME", default_value = "default", help_heading = "Routing")]
    pub(super) namespace: String,
    /// `backend-0=127.0.0.1:4000`: a fixed address for one pod, ahead of the template. Repeatable; the variable takes a
    /// comma-separated list
    #[arg(long, value_name = "POD=HOST:PORT", help_heading = "Routing")]
    pub(super) pod: Vec<String>,
    /// For requests without a room: `host:port[;weight=N]` (every address of a name is a pod), `_port._tcp.name` (SRV) or
    /// `heartbeats`, comma-separated
    #[arg(long, value_name = "HOST:PORT,…", default_value = "backend-service:3000", help_heading = "Routing")]
    pub(super) default_backend: String,
    /// Another backend for requests without a room under this path prefix, the longest prefix first:
    /// `/api/=api-service:3000 balance=least_conn`. A prefix ends where it is written: without its last slash this one would
    /// take `/apix` as well. Repeatable; the variable takes a list and is split at each comma that a slash follows
    #[arg(long, value_name = "PREFIX=HOST:PORT,…", help_heading = "Routing")]
    pub(super) route: Vec<String>,
    /// A room the directory does not know: `default-backend`, `assign` (place it, atomically) or `reject` (404)
    #[arg(
        long,
        value_name = "default-backend|assign|reject",
        default_value = "default-backend",
        help_heading = "Routing"
    )]
    pub(super) on_unassigned: String,
    /// Rooms a pod may hold and still be given another one
    #[arg(long, value_name = "COUNT", default_value = "20", help_heading = "Routing")]
    pub(super) max_rooms_per_pod: String,
    /// Participants a pod may hold and still be given another room
    #[arg(long, value_name = "COUNT", default_value = "80", help_heading = "Routing")]
    pub(super) max_participants_per_pod: String,

    /// How often the names and heartbeats behind backends are asked for; one that has never answered is asked twice a second
    #[arg(long, value_name = "DURATION", default_value = "5s", help_heading = "Balancing")]
    pub(super) backend_refresh: String,
    /// How a pod is chosen for a request without a room and without a session
    #[arg(
        long,
        value_name = "round_robin|least_conn|p2c|client_ip",
        default_value = "round_robin",
        help_heading = "Balancing"
    )]
    pub(super) balance: String,
    /// What keeps a Socket.IO polling session without a room at its pod: `sid` (the pod's name in front of a `~` in it),
    /// `client_ip` (a hash of the client's address), both in this order, or `off`
    #[arg(long, value_name = "sid,client_ip|off", default_value = "sid,client_ip", help_heading = "Balancing")]
    pub(super) session_affinity: String,
    /// A cookie for the same, between the two: its name, or `off`
    #[arg(long, value_name = "NAME|off", default_value = "off", help_heading = "Balancing")]
    pub(super) affinity_cookie: String,
    /// The attributes of the cookie, besides its `Path`
    #[arg(long, value_name = "ATTRIBUTES", default_value = COOKIE_ATTRIBUTES, help_heading = "Balancing")]
    pub(super) affinity_cookie_attributes: String,
    /// What the cookie is signed with: at least 32 characters, the same on all replicas
    #[arg(long, value_name = "SECRET", help_heading = "Balancing")]
    pub(super) affinity_key: Option<String>,
    /// Failed requests without a room, within `--fail-timeout`, after which a pod gets no new ones for as long; 0 is never
    #[arg(long, value_name = "COUNT", default_value = "3", help_heading = "Balancing")]
    pub(super) max_fails: String,
    /// See `--max-fails`
    #[arg(long, value_name = "DURATION", default_value = FAIL_TIMEOUT, help_heading = "Balancing")]
    pub(super) fail_timeout: String,
    /// Answers that count as failures as well, such as `502,503,504`; connections that fail and answers that do not come
    /// always do
    #[arg(long, value_name = "STATUS,…|off", default_value = "off", help_heading = "Balancing")]
    pub(super) fail_status: String,
    /// Asks each pod of the backends for this path: `'/health interval=5s timeout=2s rise=2 fall=3'`. 2xx and 3xx are good;
    /// a body that begins with `ready`, `drain`, `maint`, `up` or `down` counts as HAProxy's agents mean it
    #[arg(long, value_name = "PATH …|off", default_value = "off", help_heading = "Balancing")]
    pub(super) health_check: String,
    /// How long a pod that is new or back gets less than its share
    #[arg(long, value_name = "DURATION", default_value = "0s", help_heading = "Balancing")]
    pub(super) slow_start: String,
    /// Requests without a room that could not be sent go to another pod at once, as long as those are at most so many
    /// percent of all
    #[arg(long, value_name = "PERCENT", default_value = "20", help_heading = "Balancing")]
    pub(super) retry_budget: String,

    /// Connecting to a pod
    #[arg(long, value_name = "DURATION", default_value = "2s", help_heading = "Upstream")]
    pub(super) connect_timeout: String,
    /// Requests in flight and tunnels at one pod, from this replica; `off` for no limit
    #[arg(long, value_name = "COUNT|off", default_value = "off", help_heading = "Upstream")]
    pub(super) pod_max_connections: String,
    /// Requests that wait for one of those places; more are answered 503
    #[arg(long, value_name = "COUNT", default_value = POD_QUEUE, help_heading = "Upstream")]
    pub(super) pod_queue: String,
    /// How long one waits, for however many pods
    #[arg(long, value_name = "DURATION", default_value = POD_QUEUE_TIMEOUT, help_heading = "Upstream")]
    pub(super) pod_queue_timeout: String,
    /// How long a request is held while its pod refuses connections (a StatefulSet pod comes back under its name)
    /// before 503
    #[arg(long, value_name = "DURATION", default_value = "5s", help_heading = "Upstream")]
    pub(super) pod_wait: String,
    /// To the response head (longer than a Socket.IO long poll)
    #[arg(long, value_name = "DURATION", default_value = "60s", help_heading = "Upstream")]
    pub(super) response_timeout: String,
    /// A response of which nothing more comes; `off` for pods that send events now and then
    #[arg(long, value_name = "DURATION", default_value = "off", help_heading = "Upstream")]
    pub(super) response_body_idle: String,
    /// Idle keep-alive connections to pods
    #[arg(long, value_name = "DURATION", default_value = "4s", help_heading = "Upstream")]
    pub(super) upstream_idle: String,
    /// How long past its time a pod's last address may still be used while no name server answers; `0s` for not at all
    #[arg(long, value_name = "DURATION", default_value = "10m", help_heading = "Upstream")]
    pub(super) dns_stale: String,
    /// Networks in which a pod's address has to lie, comma-separated, else it is not dialled; `off` for any. What a
    /// backend lists by another name than a pod's is not confined
    #[arg(long, value_name = "NETWORK,…", default_value = "off", help_heading = "Upstream")]
    pub(super) pod_networks: String,

    /// Idle keep-alive connections from the ingress
    #[arg(long, value_name = "DURATION", default_value = "120s", help_heading = "Downstream")]
    pub(super) downstream_idle: String,
    /// A request head, from its first byte to its last
    #[arg(long, value_name = "DURATION", default_value = "10s", help_heading = "Downstream")]
    pub(super) header_timeout: String,
    /// A request body of which nothing more comes while the pod waits for it
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = "Downstream")]
    pub(super) request_body_idle: String,
    /// A client, or a tunnel's pod, that takes nothing of what there is for it
    #[arg(long, value_name = "DURATION", default_value = "60s", help_heading = "Downstream")]
    pub(super) write_stall: String,
    /// WebSocket tunnels without a byte in either direction; `off` to keep them
    #[arg(long, value_name = "DURATION", default_value = "off", help_heading = "Downstream")]
    pub(super) tunnel_idle: String,
    /// A half-closed WebSocket tunnel: the second half after the first has ended
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = "Downstream")]
    pub(super) tunnel_linger: String,
    /// Downstream connections, tunnels included; lowered to what the limit of open files allows, with two for each; idle
    /// connections to pods take what is left of them
    #[arg(long, value_name = "COUNT", default_value = "65536", help_heading = "Downstream")]
    pub(super) max_connections: String,
    /// Connections of one client, which is an IPv4 address or an IPv6 /64; `--trusted-proxies` carry many and are not
    /// counted; `off` for no limit
    #[arg(long, value_name = "COUNT", default_value = "off", help_heading = "Downstream")]
    pub(super) max_connections_per_client: String,
    /// Request head
    #[arg(long, value_name = "BYTES", default_value = "32768", help_heading = "Downstream")]
    pub(super) max_header_bytes: String,
    /// Fields of a request head
    #[arg(long, value_name = "COUNT", default_value = "100", help_heading = "Downstream")]
    pub(super) max_headers: String,
    /// Request body, for example `10MiB`; `off` for no limit
    #[arg(long, value_name = "BYTES", default_value = "off", help_heading = "Downstream")]
    pub(super) max_body: String,
    /// Origins of the web pages that may open WebSockets, comma-separated, for example `https://app.example`; `off` for
    /// any. A handshake without `Origin` is no browser's and passes
    #[arg(long, value_name = "ORIGIN,…", default_value = "off", help_heading = "Downstream")]
    pub(super) allowed_origins: String,
    /// `100r/m burst=20`: requests of one client, as nginx's `limit_req` with `nodelay`; by `r/s`, `r/m` or `r/h`; with a path in
    /// front, `/api/=100r/m burst=20`, for what begins with it: the rules of the longest such path apply, all of them where it
    /// has several, and no others. Repeatable; the variable takes a comma-separated list. Each replica counts for itself
    #[arg(long, value_name = "[PATH=]RATE", help_heading = "Downstream")]
    pub(super) rate_limit: Vec<String>,
    /// Rooms unknown to the directory that one client may ask for, for example `10r/s burst=100`; `off` for no limit
    #[arg(long, value_name = "RATE", default_value = "off", help_heading = "Downstream")]
    pub(super) lookup_rate: String,
    /// Whose `X-Forwarded-*` is believed: networks, comma-separated; `loopback` and `private` (RFC 1918 and `fc00::/7`)
    /// stand for theirs, `none` for nobody. Clients must not be able to connect from
    /// there (README, Trust)
    #[arg(long, value_name = "NETWORK,…", default_value = "loopback,private", help_heading = "Downstream")]
    pub(super) trusted_proxies: String,
    /// `on`: connections from `--trusted-proxies` begin with a PROXY protocol header, version 1 or 2, and whom it names is
    /// the peer; without one they are closed. Others are served as who they are
    #[arg(long, value_name = "off|on", default_value = "off", help_heading = "Downstream")]
    pub(super) proxy_protocol: String,

    /// After SIGTERM: still serving, `Connection: close` on every answer, `/readyz` 503
    #[arg(long, value_name = "DURATION", default_value = "5s", help_heading = "Shutdown")]
    pub(super) lame_duck: String,
    /// Then: tunnels and requests in flight end within this
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = "Shutdown")]
    pub(super) drain_timeout: String,

    /// Worker threads; `auto` is one per core
    #[arg(long, value_name = "COUNT", default_value = "auto", help_heading = "Process")]
    pub(super) threads: String,
    /// `json` or `text`; `auto` is `text` on a terminal and `json` elsewhere. The level comes from `RUST_LOG`, default
    /// `info`
    #[arg(long, value_name = "json|text", default_value = "auto", help_heading = "Process")]
    pub(super) log_format: String,
    /// Share of the successful requests that get an access line: `1` is each, `0.01` one in a hundred, `0` none. A request
    /// that fails (status 400 and up, or cut short) always gets one
    #[arg(long, value_name = "SHARE", default_value = "1", help_heading = "Process")]
    pub(super) log_sample: String,
}

/// The settings of `dev`: the same names and variables, for this machine only.
#[derive(Debug, ClapArgs)]
pub(super) struct DevArgs {
    /// Data listener
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:3001", help_heading = "Listeners")]
    pub(super) listen: String,
    /// Health, metrics and status
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9901", help_heading = "Listeners")]
    pub(super) admin_listen: String,
    /// `json` or `text`; `auto` is `text` on a terminal and `json` elsewhere
    #[arg(long, value_name = "json|text", default_value = "auto", help_heading = "Process")]
    pub(super) log_format: String,
}

/// The question `explain` answers, and the settings it is answered by.
#[derive(Debug, ClapArgs)]
pub(super) struct ExplainArgs {
    /// The request: a path such as /experiment/room_a, or a whole URL
    #[arg(value_name = "URL")]
    pub(super) url: String,
    /// A header of the request; repeatable
    #[arg(long, value_name = "NAME: VALUE")]
    pub(super) header: Vec<String>,
    /// Answers with one JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) settings: Args,
}

/// Where `health` asks: the address the router was given, so that one environment serves both.
#[derive(Debug, ClapArgs)]
pub(super) struct HealthArgs {
    /// The router's admin listener; an address of all interfaces is asked on the loopback one
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:9901", help_heading = "Listeners")]
    pub(super) admin_listen: String,
    /// For the whole answer
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub(super) timeout: String,
}
