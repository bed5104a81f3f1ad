//! The admin listener: health, status and metrics, for the kubelet, Prometheus and people. Never exposed through the
//! ingress.
//!
//! Liveness and readiness ask nobody and wait for nothing: Redis is shared by all replicas, and a probe that failed with
//! it would turn its outage into ours (LiveKit issue 4663).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::backends::{Backend, Backends};
use crate::core::assignment::Heartbeat;
use crate::core::placement::is_healthy;
use crate::directory::Directory;
use crate::directory::memory::now_ms;
use crate::directory::resolver::Resolver;
use crate::drain::{Phase, Watch};
use crate::metrics::{Metrics, REVISION, VERSION};
use crate::telemetry::Warned;

/// Connections served at one time: probes, a scraper or two, a person. One more ends the oldest, which idles or does not
/// take what it asked for: a probe waits for nobody.
const MAX_CONNECTIONS: usize = 64;

/// How long a connection may idle, and a request's head take: hyper has one timer for both. Probes and scrapers that
/// come less often connect anew, which costs nothing here; who begins a head and does not end it is soon gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the admin listener reports on.
#[derive(Debug)]
pub struct Admin<D> {
    /// For the directory's state and the heartbeats.
    pub resolver: Resolver<D>,
    /// For the pods of the backends, and for readiness.
    pub backends: Arc<Backends>,
    /// For everything that is counted.
    pub metrics: Arc<Metrics>,
    /// For readiness.
    pub watch: Watch,
    /// How many threads have not heard from the directory yet.
    pub unmet: Arc<AtomicUsize>,
    /// For the uptime.
    pub started: Instant,
    /// Log lines lost so far.
    pub dropped_lines: fn() -> usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cluster {
    total_pods: usize,
    healthy_pods: usize,
    total_rooms: u64,
    total_participants: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    version: &'a str,
    revision: &'a str,
    uptime_seconds: u64,
    phase: &'a str,
    ready: bool,
    directory: DirectoryStatus,
    cached_rooms: usize,
    downstream_connections: i64,
    websocket_connections: i64,
    pods: Vec<PodStatus>,
    backends: Vec<BackendStatus>,
}

#[derive(Serialize)]
struct BackendStatus {
    prefix: String,
    balance: String,
    pods: Vec<MemberStatus>,
}

#[derive(Serialize)]
struct MemberStatus {
    pod: String,
    address: String,
    /// `up`, `ejected`, `drain`, `down` or `maintenance`.
    state: &'static str,
    load: u64,
}

#[derive(Serialize)]
struct DirectoryStatus {
    up: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    pod: String,
    connections: i64,
    websocket_connections: i64,
}

impl BackendStatus {
    fn of(backend: &Backend) -> Self {
        let set = backend.set();
        let pods = set.members.iter().map(|member| MemberStatus {
            pod: member.name.to_string(),
            address: member.address.to_string(),
            state: member.word(),
            load: member.load(),
        });
        let (prefix, balance) = (backend.config.prefix.clone(), backend.config.policy.to_string());
        Self { prefix, balance, pods: pods.collect() }
    }
}

impl<D: Directory> Admin<D> {
    /// Serves for as long as the process lives.
    pub async fn serve(self, listener: TcpListener) {
        let admin = Arc::new(self);
        let (mut open, warned) = (VecDeque::new(), Warned::default());
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    open.retain(|connection: &JoinHandle<()>| !connection.is_finished());
                    if open.len() >= MAX_CONNECTIONS {
                        open.pop_front().iter().for_each(JoinHandle::abort);
                    }
                    let admin = Arc::clone(&admin);
                    open.push_back(tokio::task::spawn_local(async move {
                        let service = service_fn(|request| {
                            let admin = Arc::clone(&admin);
                            async move { Ok::<_, std::convert::Infallible>(admin.answer(&request).await) }
                        });
                        let mut http = Builder::new();
                        // The timer is what the timeout runs on; hyper's default timeout is 30 s.
                        http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
                        if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                            tracing::debug!(%error, "admin connection ended");
                        }
                    }));
                }
                Err(error) => {
                    if warned.is_due() {
                        tracing::warn!(%error, "an admin connection could not be accepted");
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here\n");
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.readiness(),
            "/health/cluster" => self.cluster().await,
            "/status" => json(StatusCode::OK, &self.status()),
            "/metrics" => {
                self.refresh_gauges();
                let mut response = text(StatusCode::OK, "");
                *response.body_mut() = self.metrics.render().into();
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT));
                response
            }
            _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz, /health/cluster, /status and /metrics\n"),
        }
    }

    fn phase(&self) -> Phase {
        *self.watch.borrow()
    }

    fn is_ready(&self) -> bool {
        self.phase() == Phase::Serving && !self.is_alone() && self.backends.are_known()
    }

    /// Whether a thread has not heard from the directory yet.
    fn is_alone(&self) -> bool {
        self.unmet.load(Ordering::Relaxed) > 0
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        if self.is_ready() {
            text(StatusCode::OK, "ready\n")
        } else if self.phase() != Phase::Serving {
            text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
        } else if self.is_alone() {
            text(StatusCode::SERVICE_UNAVAILABLE, "the directory has not answered yet\n")
        } else {
            text(StatusCode::SERVICE_UNAVAILABLE, "the backends' pods are not known yet\n")
        }
    }

    async fn cluster(&self) -> Response<Full<Bytes>> {
        let now = now_ms();
        match self.resolver.heartbeats().await {
            Ok(pods) => {
                let of_all =
                    |of: fn(&Heartbeat) -> u64| pods.iter().fold(0, |sum: u64, (_, beat)| sum.saturating_add(of(beat)));
                json(
                    StatusCode::OK,
                    &Cluster {
                        total_pods: pods.len(),
                        healthy_pods: pods.iter().filter(|(_, beat)| is_healthy(beat, now)).count(),
                        total_rooms: of_all(|beat| beat.active_rooms),
                        total_participants: of_all(|beat| beat.total_participants),
                    },
                )
            }
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}\n")),
        }
    }

    fn status(&self) -> Status<'static> {
        let pods = self.metrics.pods().into_iter().map(|pod| PodStatus {
            pod: pod.name().to_owned(),
            connections: pod.connections.get(),
            websocket_connections: pod.tunnels.get(),
        });
        Status {
            version: VERSION,
            revision: REVISION,
            uptime_seconds: self.started.elapsed().as_secs(),
            phase: match self.phase() {
                Phase::Serving => "serving",
                Phase::LameDuck => "lame-duck",
                Phase::Draining => "draining",
            },
            ready: self.is_ready(),
            directory: DirectoryStatus { up: self.resolver.directory().answers() },
            cached_rooms: self.resolver.cached_rooms(),
            downstream_connections: self.metrics.downstream_connections.get(),
            websocket_connections: self.metrics.websockets.get(),
            pods: pods.collect(),
            backends: self.backends.iter().map(BackendStatus::of).collect(),
        }
    }

    /// Values that are looked up when asked for, not kept.
    fn refresh_gauges(&self) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.directory_up.set(self.resolver.directory().answers().into());
        self.metrics.cached_rooms.set(count(self.resolver.cached_rooms()));
        self.metrics.log_lines_dropped.set(count((self.dropped_lines)()));
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(body.as_bytes()))
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).expect("structs of strings and numbers always serialise");
    respond(status, "application/json", body.into())
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
