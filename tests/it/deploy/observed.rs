//! Every query of the dashboard and of the alerts, asked of a real Prometheus that scrapes two real routers under load.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::Value as Json;

use super::alerts::{queries, rules};
use super::tools::{items, path, read, text};
use crate::support::{Client, PATIENCE, Pod, Pods, Process, Redis, Router, StopOnDrop, eventually, script};

/// What a panel shows where nothing is wrong: zeros. All others have to show more than that.
const QUIET_PANELS: [&str; 7] = [
    "Turned away",
    "Log lines dropped",
    "Requests in flight per pod",
    "Waiting for a place, per pod",
    "Waiting for a place, on average",
    "Tried again",
    "Pods left out",
];

/// Likewise queries beside others of their panel.
const QUIET_METRICS: [&str; 2] = ["pod_router_epoch_regressions_total", "pod_router_stale_addresses_total"];

/// The values of alerts that are zero where nothing is wrong.
const QUIET_ALERTS: [&str; 4] =
    ["PodRouterConnectionsUnbalanced", "PodRouterPodsUnbalanced", "PodRouterRestarts", "PodRouterTurnsConnectionsAway"];

/// A session that its pod does not know.
const SESSION: &str = "/socket.io/?EIO=4&transport=polling&sid=unknown";

/// One whose pod is the one that is down.
const LOST_SESSION: &str = "/socket.io/?EIO=4&transport=polling&sid=backend-2~lost";

/// A running Prometheus.
struct Prometheus {
    // Dropped, and so ended, before what it writes to.
    process: Process,
    addr: SocketAddr,
    _folder: Folder,
}

/// A folder for its configuration and data, removed on drop.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it lies among the temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Prometheus {
    /// Scrapes these routers every second, with the labels that the operator's service discovery gives a target.
    fn start(routers: &[Router]) -> Self {
        let folder = Folder(std::env::temp_dir().join(format!("pod-router-prometheus-{}", std::process::id())));
        std::fs::create_dir_all(&folder.0).expect("a folder for Prometheus' data");
        let mut config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\n\
             scrape_configs:\n- job_name: pod-router\n  honor_labels: true\n  static_configs:\n",
            path("deploy/prometheus/rules.yaml"),
        );
        for (index, router) in routers.iter().enumerate() {
            let labels = format!("{{namespace: rooms, pod: pod-router-{index}}}");
            writeln!(config, "  - targets: ['{}']\n    labels: {labels}", router.admin()).expect("a String grows");
        }
        let config_file = folder.0.join("prometheus.yml");
        std::fs::write(&config_file, config).expect("a configuration can be written");
        // The address of a pod that is gone: nobody else uses it.
        let addr = Pod::start("prometheus").addr();
        let process = Process::start("prometheus", "prometheus", |command| {
            command.arg(format!("--config.file={}", config_file.display()));
            command.arg(format!("--storage.tsdb.path={}", folder.0.join("data").display()));
            command.arg(format!("--web.listen-address={addr}"));
            // Nobody reads what it says: a full pipe must not stop it.
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        });
        let mut prometheus = Self { process, addr, _folder: folder };
        eventually("Prometheus is ready", || {
            assert!(prometheus.process.try_wait().is_none(), "Prometheus has ended");
            let asked = Client::try_connect(prometheus.addr);
            asked
                .is_ok_and(|mut client| client.try_request(&get("/-/ready")).is_ok_and(|answer| answer.status() == 200))
        });
        prometheus
    }

    /// The values of an instant query now.
    #[track_caller]
    fn query(&self, query: &str) -> Vec<f64> {
        let encoded: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let answer = self.get(&format!("/api/v1/query?query={encoded}"));
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let result = &answer["data"]["result"];
        let value = |sample: &Json| text(&sample["value"][1]).parse().expect("a sample's value is a number");
        items(result).map(value).collect()
    }

    #[track_caller]
    fn get(&self, target: &str) -> Json {
        Client::connect(self.addr).request(get(target)).json()
    }
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: prometheus\r\n\r\n").into_bytes()
}

/// What is in front of the number that an alert compares with.
fn left_side(rule: &Json) -> String {
    let comparison = Regex::new(r"\s(==|>|<)\s[0-9.]+\s*$").expect("an expression");
    let expr = text(&rule["expr"]);
    assert!(comparison.is_match(expr), "{expr} does not end in a comparison with a number");
    comparison.replace(expr, "").into_owned()
}

/// Two routers, three pods of which the last is down, and a directory with something of everything.
fn routers(redis: &Redis, pods: &mut Pods, any: &Pod) -> Vec<Router> {
    for (room, ordinal) in [("room_a", 0), ("room_b", 1), ("room_down", 2), ("room_ws", 0), ("room_ws2", 1)] {
        redis.assign(room, ordinal);
    }
    redis.set("room:room_bad:pod", "{");
    pods.get_mut(2).unbind();
    let router = |_| {
        let builder = Router::builder().redis(redis).default_backend([any]).args(&["--pod-wait", "0s"]);
        // Rooms are asked for again and again: else all would be hits.
        let builder = builder.args(&["--cache-ttl", "100ms"]);
        pods.iter().fold(builder, |builder, pod| builder.pod(pod)).start_ready()
    };
    (0..2).map(router).collect()
}

/// Some of every kind of request, until told to stop.
fn load(router: &Router, stop: &AtomicBool) {
    let mut tunnel = router.client();
    tunnel.send(
        "GET /socket.io/?roomId=room_ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    assert_eq!(tunnel.read_head().second_word(), "101");
    while !stop.load(Ordering::Relaxed) {
        for target in ["/room_a", "/room_b", "/x", "/room_unknown", "/room_down", "/room_bad", "/room%5Fa"] {
            router.get(target);
        }
        for target in [SESSION, LOST_SESSION] {
            assert_eq!(router.get(target).status(), 400);
        }
        router.request("GET /experiment/room_a HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
        tunnel.send("hello");
        assert_eq!(tunnel.read_exact(5), b"hello");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A pod that echoes over HTTP, or over a WebSocket where it is asked for one.
pub(super) fn play_both(pod: &Pod) {
    pod.play(|mut conn| {
        loop {
            let (head, _) = conn.whole_request()?;
            if head.has("upgrade") {
                conn.send(script::switching_protocols(&head))?;
                loop {
                    let bytes = conn.wire().read_some()?;
                    if bytes.is_empty() {
                        return Ok(());
                    }
                    conn.send(bytes)?;
                }
            }
            // One answer in ten is an error of the pod's own.
            let status = match fastrand::u8(..10) {
                _ if head.second_word().contains("sid=") => "400 Bad Request",
                0 => "500 Internal Server Error",
                _ => "200 OK",
            };
            conn.send(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok"))?;
        }
    });
}

/// What has to come true of a query's values.
struct Expected {
    what: String,
    query: String,
    may_be_zero: bool,
}

fn expectations() -> Vec<Expected> {
    let of_panels = queries().into_iter().map(|(title, expr)| {
        let query = expr.replace("$__rate_interval", "5s").replace("$namespace", ".*").replace("$instance", ".*");
        let quiet_metric = QUIET_METRICS.iter().any(|metric| query.contains(metric));
        Expected { may_be_zero: quiet_metric || QUIET_PANELS.contains(&&*title), what: format!("panel {title}"), query }
    });
    let of_alerts = rules().into_iter().map(|rule| {
        let name = text(&rule["alert"]).to_owned();
        Expected { query: left_side(&rule), may_be_zero: QUIET_ALERTS.contains(&&*name), what: name }
    });
    let variables = Regex::new(r"label_values\((\w+), (\w+)\)").expect("an expression");
    let dashboard = read("deploy/grafana/dashboard.json");
    let of_variables = variables.captures_iter(&dashboard).map(|found| {
        let query = format!("{}{{{}!=\"\"}}", &found[1], &found[2]);
        Expected { what: format!("variable {}", &found[2]), query, may_be_zero: false }
    });
    of_panels.chain(of_alerts).chain(of_variables).collect()
}

#[test]
fn every_query_finds_what_two_routers_under_load_measure() {
    let (redis, mut pods, any) = (Redis::start(), Pods::start(3), Pod::start("any"));
    pods.iter().chain([&any]).for_each(play_both);
    let routers = routers(&redis, &mut pods, &any);
    let prometheus = Prometheus::start(&routers);
    let stop = AtomicBool::new(false);
    let missing = thread::scope(|scope| {
        routers.iter().for_each(|router| drop(scope.spawn(|| load(router, &stop))));
        let _stop = StopOnDrop(&stop);
        ask_until_answered(&prometheus, expectations())
    });
    assert!(missing.is_empty(), "without a value:\n{}", missing.join("\n"));
    // Prometheus itself has evaluated the rules as they stand.
    let answer = prometheus.get("/api/v1/rules");
    let evaluated: Vec<_> = items(&answer["data"]["groups"]).flat_map(|group| items(&group["rules"])).collect();
    assert_eq!(evaluated.len(), rules().len());
    for rule in evaluated {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    // Both sides of an alert's sum; one of them, found or not, would be value enough above.
    for counter in ["affinity_misses_total", "rejected_total{reason=\"session-unknown\"}"] {
        let values = prometheus.query(&format!("pod_router_{counter}"));
        assert!(values.len() == 2 && values.iter().all(|value| *value > 0.0), "{counter}: {values:?}");
    }
    // With honor_labels, `pod` is the backend pod.
    assert_eq!(prometheus.query("count(sum by (pod) (pod_router_upstream_requests_total{pod=~\"backend-.\"}))"), [3.0]);
}

/// Asks until all queries are answered as expected, or patience ends: those that were not.
fn ask_until_answered(prometheus: &Prometheus, expected: Vec<Expected>) -> Vec<String> {
    let (started, mut left) = (Instant::now(), expected);
    assert!(left.len() > 40, "only {} queries", left.len());
    loop {
        let mut answers = Vec::new();
        left.retain(|it| {
            let values = prometheus.query(&it.query);
            let found = !values.is_empty() && values.iter().all(|value| value.is_finite());
            let enough = found && (it.may_be_zero || values.iter().any(|value| *value > 0.0));
            if !enough {
                answers.push(format!("{}: {:?} from {}", it.what, values, it.query));
            }
            !enough
        });
        if left.is_empty() || started.elapsed() > 3 * PATIENCE {
            return answers;
        }
        thread::sleep(Duration::from_millis(200));
    }
}
