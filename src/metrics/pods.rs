//! What is counted per pod.
//!
//! The families are looked up by label when a pod is first met, and their handles kept with it. A pod's series go when it
//! has gone for good ([`Pods::forget`]): the number of series is bounded by the pods there are, not by those there were.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{code_label, counters, gauges};

/// Pods and default-backend addresses with series of their own. Names come out of Redis: it may hold as many as there are
/// ordinals (10,000), and each would be a handful of series for as long as the process lives.
const MAX_PODS: usize = 1024;

/// What the pods beyond [`MAX_PODS`] are counted as, together.
const OTHER_PODS: &str = "other";

/// The families with a `pod` label, and the pods met so far.
#[derive(Debug)]
pub(super) struct Pods {
    requests: IntCounterVec,
    picks: IntCounterVec,
    ejections: IntCounterVec,
    connect_failures: IntCounterVec,
    connections: IntGaugeVec,
    tunnels: IntGaugeVec,
    in_flight: IntGaugeVec,
    queued: IntGaugeVec,
    met: Mutex<Known>,
}

/// The pods met so far, by name.
type Known = BTreeMap<Arc<str>, KnownPod>;

/// One of them.
#[derive(Debug)]
struct KnownPod {
    metrics: PodMetrics,
    /// Since when nobody has held its handles, as far as somebody has looked.
    unheld_since: Option<Instant>,
}

/// What is counted per pod. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PodMetrics {
    name: Arc<str>,
    requests: IntCounterVec,
    picks: IntCounterVec,
    /// `pod_router_ejections_total{pod}`.
    pub ejections: IntCounter,
    /// `pod_router_upstream_in_flight{pod}`: requests being sent or answered, tunnels apart.
    pub in_flight: IntGauge,
    /// `pod_router_upstream_queued{pod}`: requests that wait for a place.
    pub queued: IntGauge,
    /// `pod_router_upstream_connect_failures_total{pod}`.
    pub connect_failures: IntCounter,
    /// `pod_router_upstream_connections{pod}`: open ones, tunnels included.
    pub connections: IntGauge,
    /// `pod_router_upstream_websocket_connections{pod}`.
    pub tunnels: IntGauge,
}

// === impl Pods ===

impl Pods {
    pub(super) fn new(registry: &Registry) -> Self {
        let counted = |name, help, labels: &[&str]| counters(registry, name, help, labels);
        let gauged = |name, help| gauges(registry, name, help, &["pod"]);
        Self {
            requests: counted(
                "pod_router_upstream_requests_total",
                "Responses from pods, uncommon codes by their class; code \"none\" where none came.",
                &["pod", "code"],
            ),
            picks: counted("pod_router_picks_total", "Pods chosen, by what decided.", &["pod", "source"]),
            ejections: counted(
                "pod_router_ejections_total",
                "Pods left out of their backend because they kept failing.",
                &["pod"],
            ),
            connect_failures: counted(
                "pod_router_upstream_connect_failures_total",
                "Connections to pods that failed.",
                &["pod"],
            ),
            connections: gauged("pod_router_upstream_connections", "Open connections to pods, tunnels included."),
            tunnels: gauged("pod_router_upstream_websocket_connections", "Open WebSocket tunnels per pod."),
            in_flight: gauged("pod_router_upstream_in_flight", "Requests that a pod is answering, tunnels apart."),
            queued: gauged("pod_router_upstream_queued", "Requests that wait for a place at a pod."),
            met: Mutex::default(),
        }
    }

    pub(super) fn pod(&self, name: &str) -> PodMetrics {
        let mut met = self.met();
        let name = if met.contains_key(name) || met.len() < MAX_PODS { name } else { OTHER_PODS };
        self.met_as(name, &mut met)
    }

    pub(super) fn known(&self, name: &str) -> Option<PodMetrics> {
        self.met().get(name).map(|met| met.metrics.clone())
    }

    pub(super) fn others(&self) -> PodMetrics {
        self.met_as(OTHER_PODS, &mut self.met())
    }

    fn met_as(&self, name: &str, met: &mut Known) -> PodMetrics {
        if let Some(known) = met.get(name) {
            return known.metrics.clone();
        }
        let made = PodMetrics {
            name: name.into(),
            requests: self.requests.clone(),
            picks: self.picks.clone(),
            ejections: self.ejections.with_label_values(&[name]),
            connect_failures: self.connect_failures.with_label_values(&[name]),
            connections: self.connections.with_label_values(&[name]),
            tunnels: self.tunnels.with_label_values(&[name]),
            in_flight: self.in_flight.with_label_values(&[name]),
            queued: self.queued.with_label_values(&[name]),
        };
        self.requests.with_label_values(&[name, "200"]);
        self.picks.with_label_values(&[name, "none"]);
        met.insert(Arc::clone(&made.name), KnownPod { metrics: made.clone(), unheld_since: None });
        made
    }

    pub(super) fn all(&self) -> Vec<PodMetrics> {
        self.met().values().map(|met| met.metrics.clone()).collect()
    }

    pub(super) fn forget(&self, name: &str) {
        if self.met().remove(name).is_some() {
            self.remove_series(name);
        }
    }

    pub(super) fn forget_unused(&self, now: Instant, after: Duration, is_kept: impl Fn(&str) -> bool) {
        // Whoever wants handles waits for the lock: nobody gets some of a pod that is being forgotten.
        self.met().retain(|name, met| {
            if met.is_held() || &**name == OTHER_PODS || is_kept(name) {
                met.unheld_since = None;
                return true;
            }
            let since = *met.unheld_since.get_or_insert(now);
            let is_over = now.saturating_duration_since(since) > after;
            if is_over {
                self.remove_series(name);
            }
            !is_over
        });
    }

    fn remove_series(&self, name: &str) {
        for (family, label) in [(&self.requests, "code"), (&self.picks, "source")] {
            for metric in family.collect().iter().flat_map(|family| family.get_metric()) {
                let of = |name: &str| metric.get_label().iter().find(|l| l.name() == name).map(|l| l.value());
                if let (Some(pod), Some(value)) = (of("pod"), of(label))
                    && pod == name
                {
                    drop(family.remove_label_values(&[pod, value]));
                }
            }
        }
        for family in [&self.connections, &self.tunnels, &self.in_flight, &self.queued] {
            drop(family.remove_label_values(&[name]));
        }
        for family in [&self.connect_failures, &self.ejections] {
            drop(family.remove_label_values(&[name]));
        }
    }

    fn met(&self) -> MutexGuard<'_, Known> {
        // Inserts and removals only: nothing is left half-done by a panic.
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownPod {
    /// Whether somebody has its handles, or something goes on there: a tunnel keeps gauges only.
    fn is_held(&self) -> bool {
        // The map's key, and the metrics' own.
        const OURS: usize = 2;
        let PodMetrics { name, connections, tunnels, in_flight, queued, .. } = &self.metrics;
        Arc::strong_count(name) > OURS || [connections, tunnels, in_flight, queued].iter().any(|gauge| gauge.get() != 0)
    }
}

// === impl PodMetrics ===

impl PodMetrics {
    /// The pod's name, or the default backend's address.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `pod_router_upstream_requests_total{pod,code}`: responses by their status, or "none".
    pub fn requests(&self, code: &str) -> IntCounter {
        let label = code.parse().map_or(code, |status| code_label(status));
        self.requests.with_label_values(&[&*self.name, label])
    }

    /// `pod_router_picks_total{pod,source}`.
    pub fn picks(&self, source: &str) -> IntCounter {
        self.picks.with_label_values(&[&*self.name, source])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Met, Metrics};
    use super::*;

    /// A directory full of pod names must not fill Prometheus.
    #[test]
    fn the_pods_with_series_of_their_own_are_bounded() {
        let metrics = Metrics::new();
        for ordinal in 0..2 * MAX_PODS {
            metrics.pod(&format!("backend-{ordinal}")).requests("200").inc();
        }
        assert_eq!(metrics.pods().len(), MAX_PODS + 1);
        let rendered = metrics.render();
        let count = rendered.lines().filter(|line| line.starts_with("pod_router_upstream_requests_total{")).count();
        assert_eq!(count, MAX_PODS + 1);
        let others = format!(r#"pod_router_upstream_requests_total{{code="200",pod="other"}} {MAX_PODS}"#);
        assert!(rendered.contains(&others), "no line {others}");
    }

    #[test]
    fn a_pod_is_registered_once_however_often_it_is_met() {
        let metrics = Metrics::new();
        metrics.pod("backend-1").requests("200").inc();
        let met = Met::default();
        met.inc(200, || metrics.pod("backend-1").requests("200"));
        met.inc(200, || unreachable!("it has been met"));
        assert_eq!(metrics.pods().len(), 1);
        let line = r#"pod_router_upstream_requests_total{code="200",pod="backend-1"} 3"#;
        assert!(metrics.render().contains(line), "{}", metrics.render());
    }

    /// A StatefulSet that was made smaller.
    #[test]
    fn a_pod_that_nobody_has_to_do_with_is_forgotten_after_a_while() {
        let (metrics, hour) = (Metrics::new(), Duration::from_secs(3600));
        let names = || metrics.pods().iter().map(|pod| pod.name().to_owned()).collect::<Vec<_>>();
        let held = metrics.pod("backend-0");
        for pod in ["backend-1", "backend-2", "backend-3"] {
            drop(metrics.pod(pod));
        }
        metrics.other_pods();
        let tunnels = metrics.pod("backend-2").tunnels.clone();
        tunnels.inc();
        let start = Instant::now();
        let look = |hours: u32| metrics.forget_unused(start + hour * hours, hour, |name| name == "backend-3");
        look(0);
        look(1);
        assert_eq!(names(), ["backend-0", "backend-1", "backend-2", "backend-3", "other"], "not yet");
        look(2);
        assert_eq!(names(), ["backend-0", "backend-2", "backend-3", "other"]);
        assert!(!metrics.render().contains("backend-1"));
        tunnels.dec();
        drop(held);
        look(3);
        // It is used again, and its time begins anew.
        drop(metrics.pod("backend-0"));
        let again = metrics.pod("backend-0");
        look(4);
        drop(again);
        look(5);
        assert_eq!(names(), ["backend-0", "backend-3", "other"]);
    }

    #[test]
    fn a_pod_that_is_forgotten_leaves_no_series() {
        let metrics = Metrics::new();
        for pod in ["10.0.0.1:3000", "10.0.0.2:3000"] {
            metrics.pod(pod).requests("503").inc();
            metrics.pod(pod).picks("none").inc();
        }
        metrics.forget("10.0.0.1:3000");
        metrics.forget("never met");
        let text = metrics.render();
        assert!(!text.contains("10.0.0.1"), "{text}");
        assert_eq!(text.lines().filter(|line| line.contains("10.0.0.2")).count(), 9, "{text}");
    }
}
