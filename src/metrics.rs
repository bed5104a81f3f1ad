//! Every metric's name, labels and meaning, declared once.
//!
//! Handles that the request path touches are resolved here or when a pod is first seen, so that counting
//! is an atomic addition. Whatever goes up and down is a [`Held`] guard: it undoes itself on drop, and no
//! code path can forget to. No room id is ever a label: the number of rooms has no bound.
//!
//! The `prometheus` crate writes the text format (0.0.4) that the contract promises; prometheus-client
//! writes OpenMetrics only, and takes a lock per histogram observation.

mod codes;
mod pods;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use codes::code_label;
pub use pods::PodMetrics;

use self::pods::Pods;

/// 100 µs to 60 s: a cache hit on one end, a Socket.IO long poll on the other.
const REQUEST_BUCKETS: [f64; 18] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// 50 µs to 60 s: a lookup on a quiet network, and far more than the longest sensible `--redis-timeout`. Close together
/// around its default of 250 ms, so that a Redis that comes near it is told from one that is past it.
const DIRECTORY_BUCKETS: [f64; 22] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.225, 0.25, 0.3, 0.5,
    1.0, 2.5, 10.0, 30.0, 60.0,
];

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// `pod_router_requests_total{kind,code,source}`.
    pub requests: IntCounterVec,
    /// `pod_router_request_duration_seconds`: time to the response head.
    pub request_duration: Histogram,
    /// `pod_router_room_lookups_total{result}`.
    pub lookups: Lookups,
    /// `pod_router_directory_up`.
    pub directory_up: IntGauge,
    /// `pod_router_directory_duration_seconds`: one question to the directory.
    pub directory_duration: Histogram,
    /// `pod_router_epoch_regressions_total`: answers older than one already used, not followed.
    pub epoch_regressions: IntCounter,
    /// `pod_router_cached_rooms`.
    pub cached_rooms: IntGauge,
    /// `pod_router_websocket_connections`.
    pub websockets: IntGauge,
    /// `pod_router_downstream_connections`, tunnels included.
    pub downstream_connections: IntGauge,
    /// `pod_router_max_downstream_connections`: `--max-connections`, for alerts to compare with.
    pub max_downstream_connections: IntGauge,
    /// `pod_router_accept_errors_total`: the listener could not accept, most often for want of open files.
    pub accept_errors: IntCounter,
    /// `pod_router_tunnel_bytes_total{direction}`.
    pub tunnel_bytes: TunnelBytes,
    /// `pod_router_rejected_total{reason}`.
    pub rejected: IntCounterVec,
    /// `pod_router_unassigned_rooms_total`: requests whose room had no pod, and that were not refused for it.
    pub unassigned_rooms: IntCounter,
    /// `pod_router_affinity_misses_total`: a pod answered 400 to a request with a `sid`.
    pub affinity_misses: IntCounter,
    /// `pod_router_retries_total{result}`: attempts at another pod.
    pub retries: Retries,
    /// `pod_router_stale_addresses_total`: names answered by what they had last, because no name server said anything.
    pub stale_addresses: IntCounter,
    /// `pod_router_queue_duration_seconds`: how long requests waited for a place at their pod.
    pub queue_duration: Histogram,
    /// `pod_router_log_lines_dropped`: the log's reader was too slow.
    pub log_lines_dropped: IntGauge,
    pods: Pods,
}

/// Results of asking for a room's pod, one for whoever asks. How often the directory was asked for them, the count of
/// `pod_router_directory_duration_seconds` says.
#[derive(Debug)]
pub struct Lookups {
    /// A remembered assignment, fresh.
    pub hit: IntCounter,
    /// Not remembered: the directory answered, to this request's question or to another's that it waited for.
    pub miss: IntCounter,
    /// A remembered assignment, past its time, because the directory cannot be asked.
    pub stale: IntCounter,
    /// Remembered as unassigned or unusable.
    pub negative: IntCounter,
    /// Nothing to go by.
    pub error: IntCounter,
}

/// Requests without a room that could not be sent to the pod chosen first.
#[derive(Debug)]
pub struct Retries {
    /// They went to another one at once: it was dialled, or a kept connection to it used.
    pub elsewhere: IntCounter,
    /// They had to wait: no other pod was left, or no budget.
    pub waited: IntCounter,
}

/// Bytes relayed by tunnels.
#[derive(Debug)]
pub struct TunnelBytes {
    /// From clients to pods.
    pub upstream: IntCounter,
    /// From pods to clients.
    pub downstream: IntCounter,
}

/// Counters of one family that a thread has met, so that their labels are looked up (a lock and a hash) once and not for
/// every request. Few, so they are searched in order.
#[derive(Debug)]
pub struct Met<K>(RefCell<Vec<(K, IntCounter)>>);

/// One unit of a gauge, given back on drop.
#[derive(Debug)]
pub struct Held(IntGauge);

// === impl Metrics ===

impl Metrics {
    /// Registers everything; the series that have no variable label are there from the start.
    pub fn new() -> Self {
        let registry = Registry::new();
        let lookups = counters(&registry, "pod_router_room_lookups_total", "Lookups of a room's pod.", &["result"]);
        let bytes = counters(&registry, "pod_router_tunnel_bytes_total", "Bytes relayed by tunnels.", &["direction"]);
        let retries =
            counters(&registry, "pod_router_retries_total", "Requests without a room tried again.", &["result"]);
        let build = gauges(&registry, "pod_router_build_info", "The running build.", &["version", "revision"]);
        build.with_label_values(&[VERSION, REVISION]).set(1);
        registry.register(Box::new(ProcessCollector::for_self())).expect(VALID);
        let metrics = Self {
            requests: counters(
                &registry,
                "pod_router_requests_total",
                "Requests answered, uncommon codes by their class.",
                &["kind", "code", "source"],
            ),
            request_duration: histogram(
                &registry,
                "pod_router_request_duration_seconds",
                "Time to the response head.",
                &REQUEST_BUCKETS,
            ),
            lookups: Lookups {
                hit: lookups.with_label_values(&["hit"]),
                miss: lookups.with_label_values(&["miss"]),
                stale: lookups.with_label_values(&["stale"]),
                negative: lookups.with_label_values(&["negative"]),
                error: lookups.with_label_values(&["error"]),
            },
            directory_up: gauge(
                &registry,
                "pod_router_directory_up",
                "1 while the directory can be asked and answers lookups.",
            ),
            directory_duration: histogram(
                &registry,
                "pod_router_directory_duration_seconds",
                "Time of one question to the directory.",
                &DIRECTORY_BUCKETS,
            ),
            epoch_regressions: counter(
                &registry,
                "pod_router_epoch_regressions_total",
                "Directory answers with a lower epoch than one already used; not followed.",
            ),
            cached_rooms: gauge(&registry, "pod_router_cached_rooms", "Rooms in the local cache."),
            websockets: gauge(&registry, "pod_router_websocket_connections", "Open WebSocket tunnels."),
            downstream_connections: gauge(
                &registry,
                "pod_router_downstream_connections",
                "Open connections from clients or the ingress, tunnels included.",
            ),
            max_downstream_connections: gauge(
                &registry,
                "pod_router_max_downstream_connections",
                "The limit of pod_router_downstream_connections (--max-connections).",
            ),
            accept_errors: counter(
                &registry,
                "pod_router_accept_errors_total",
                "Connections that could not be accepted.",
            ),
            tunnel_bytes: TunnelBytes {
                upstream: bytes.with_label_values(&["upstream"]),
                downstream: bytes.with_label_values(&["downstream"]),
            },
            rejected: counters(
                &registry,
                "pod_router_rejected_total",
                "Requests and connections the router answered itself, or cut.",
                &["reason"],
            ),
            unassigned_rooms: counter(
                &registry,
                "pod_router_unassigned_rooms_total",
                "Requests that name a room the directory does not know, and that were not refused.",
            ),
            affinity_misses: counter(
                &registry,
                "pod_router_affinity_misses_total",
                "Answers of 400 to requests with a sid: most often a session at another pod.",
            ),
            retries: Retries {
                elsewhere: retries.with_label_values(&["elsewhere"]),
                waited: retries.with_label_values(&["waited"]),
            },
            stale_addresses: counter(
                &registry,
                "pod_router_stale_addresses_total",
                "Lookups of a pod's name answered by addresses past their time: no name server answered.",
            ),
            queue_duration: histogram(
                &registry,
                "pod_router_queue_duration_seconds",
                "Time that requests waited for a place at their pod.",
                &REQUEST_BUCKETS,
            ),
            log_lines_dropped: gauge(
                &registry,
                "pod_router_log_lines_dropped",
                "Log lines lost since the start because their reader was too slow.",
            ),
            pods: Pods::new(&registry),
            registry,
        };
        metrics.touch_labelled();
        metrics
    }

    /// A vector without a series is not exposed at all; dashboards and alerts want the name from the start.
    fn touch_labelled(&self) {
        for (kind, source) in [("http", "room"), ("http", "default"), ("websocket", "room"), ("redirect", "room")] {
            let code = if kind == "redirect" {
                "302"
            } else if kind == "websocket" {
                "101"
            } else {
                "200"
            };
            self.requests.with_label_values(&[kind, code, source]);
        }
    }

    /// The handles of one pod or default-backend address, made when it is first met; those of all the others together
    /// where there are `MAX_PODS` already.
    pub fn pod(&self, name: &str) -> PodMetrics {
        self.pods.pod(name)
    }

    /// Those of a pod that has been met before.
    pub fn known_pod(&self, name: &str) -> Option<PodMetrics> {
        self.pods.known(name)
    }

    /// The handles of those that have no series of their own, together.
    pub fn other_pods(&self) -> PodMetrics {
        self.pods.others()
    }

    /// Every pod met so far, by name.
    pub fn pods(&self) -> Vec<PodMetrics> {
        self.pods.all()
    }

    /// Drops the series of a pod that has gone for good: where pods go by their addresses, each restart makes a new one.
    /// Whoever still holds its handles counts into nothing.
    pub fn forget(&self, name: &str) {
        self.pods.forget(name);
    }

    /// Drops the series of pods that nobody has held the handles of for longer than `after`, but of those that `is_kept` names:
    /// who holds none neither lists the pod nor has sent it anything lately.
    pub fn forget_unused(&self, now: Instant, after: Duration, is_kept: impl Fn(&str) -> bool) {
        self.pods.forget_unused(now, after, is_kept);
    }

    /// The Prometheus text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing into a Vec does not fail, and every family has a valid name");
        String::from_utf8(text).expect("the encoder writes UTF-8")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The crate's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The revision the build was made from, where the build said so.
pub const REVISION: &str = match option_env!("POD_ROUTER_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

// === impl Met ===

impl<K: Copy + PartialEq> Met<K> {
    /// Adds one to the counter with this key; `find` knows the counter when the key is met for the first time.
    pub fn inc(&self, key: K, find: impl FnOnce() -> IntCounter) {
        if let Some((_, known)) = self.0.borrow().iter().find(|(met, _)| *met == key) {
            return known.inc();
        }
        let found = find();
        found.inc();
        self.0.borrow_mut().push((key, found));
    }

    /// How many have been met.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

impl<K> Default for Met<K> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

// === impl Held ===

impl Held {
    /// Takes one unit.
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

// === constructors ===

const VALID: &str = "names and labels are constants of this file, each used once";

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    let made = IntCounter::new(name, help).expect(VALID);
    registry.register(Box::new(made.clone())).expect(VALID);
    made
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let made = IntCounterVec::new(Opts::new(name, help), labels).expect(VALID);
    registry.register(Box::new(made.clone())).expect(VALID);
    made
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    let made = IntGauge::new(name, help).expect(VALID);
    registry.register(Box::new(made.clone())).expect(VALID);
    made
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let made = IntGaugeVec::new(Opts::new(name, help), labels).expect(VALID);
    registry.register(Box::new(made.clone())).expect(VALID);
    made
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let made = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())).expect(VALID);
    registry.register(Box::new(made.clone())).expect(VALID);
    made
}

/// Seconds as Prometheus counts them.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_unit_is_given_back() {
        let metrics = Metrics::new();
        let held = (Held::new(&metrics.websockets), Held::new(&metrics.websockets));
        assert_eq!(metrics.websockets.get(), 2);
        drop(held);
        assert_eq!(metrics.websockets.get(), 0);
    }
}
