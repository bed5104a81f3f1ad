//! The alert rules and the dashboard, as promtool and their readers see them; `observed` asks a Prometheus.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::tools::{documents, items, path, read, run_ok, text};
use crate::support::{Router, Stage};

/// All rules of deploy/prometheus/rules.yaml.
pub(super) fn rules() -> Vec<Json> {
    let documents = documents(&read("deploy/prometheus/rules.yaml"));
    items(&documents[0]["groups"]).flat_map(|group| items(&group["rules"])).cloned().collect()
}

/// The panels of the dashboard that ask something, and the queries: title, expression.
pub(super) fn queries() -> Vec<(String, String)> {
    let dashboard: Json = serde_json::from_str(&read("deploy/grafana/dashboard.json")).expect("JSON");
    let panels = items(&dashboard["panels"]);
    let queries = panels.flat_map(|panel| {
        items(&panel["targets"]).map(move |target| (text(&panel["title"]).to_owned(), text(&target["expr"]).to_owned()))
    });
    queries.collect()
}

/// The names of the router's metrics in a text, without what a histogram adds to them.
fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("pod_router_") || word.starts_with("process_"));
    ours.map(|name| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        base.filter(|base| base.ends_with("_seconds")).unwrap_or(name).to_owned()
    })
    .collect()
}

#[test]
fn promtool_is_content_with_the_rules_and_the_scrape_configuration() {
    run_ok("promtool", &["check", "rules", "--lint=all", "--lint-fatal", "deploy/prometheus/rules.yaml"], "");
    run_ok("promtool", &["check", "config", "deploy/prometheus/scrape.yaml"], "");
}

#[test]
fn every_alert_fires_when_it_should_and_is_quiet_otherwise() {
    run_ok("promtool", &["test", "rules", "deploy/prometheus/rules-test.yaml"], "");
    let cases = documents(&read("deploy/prometheus/rules-test.yaml"));
    let tests: Vec<_> = items(&cases[0]["tests"]).flat_map(|case| items(&case["alert_rule_test"])).collect();
    for rule in rules() {
        let of_this = || tests.iter().filter(|test| test["alertname"] == rule["alert"]);
        let quiet = of_this().filter(|test| items(&test["exp_alerts"]).count() == 0).count();
        assert!(quiet > 0 && of_this().count() > quiet, "{} lacks a firing or a quiet case", rule["alert"]);
    }
}

/// What an operator reads at night.
#[test]
fn every_alert_says_what_it_is_and_what_to_do() {
    for rule in rules() {
        let annotations = &rule["annotations"];
        assert!(text(&annotations["summary"]).len() > 20, "{}", rule["alert"]);
        assert!(text(&annotations["description"]).len() > 60, "{}", rule["alert"]);
        assert!(["warning", "critical"].contains(&text(&rule["labels"]["severity"])), "{}", rule["alert"]);
        assert!(rule["for"].is_string(), "{} would fire at a single odd sample", rule["alert"]);
    }
}

/// One source: the operator's object has the same rules, comments included.
#[test]
fn the_prometheus_rule_is_made_from_the_rules() {
    let made = path("target/deploy-tools/prometheusrule.yaml");
    run_ok(path("deploy/prometheus/make-prometheusrule"), &[made.to_str().expect("a UTF-8 path")], "");
    let made = std::fs::read_to_string(made).expect("it has been written");
    let kept = read("deploy/kubernetes/monitoring/prometheusrule.yaml");
    assert!(made == kept, "run deploy/prometheus/make-prometheusrule");
    let spec = documents(&kept)[0]["spec"]["groups"].clone();
    assert_eq!(spec, documents(&read("deploy/prometheus/rules.yaml"))[0]["groups"]);
}

/// An idle router's metrics, and those of one that has seen everything.
#[test]
fn promtool_is_content_with_the_metrics() {
    let idle = Router::builder().args(&["--directory", "memory"]).start_ready();
    run_ok("promtool", &["check", "metrics"], &idle.get_admin("/metrics").text());
    let stage = Stage::with(&["--pod-wait", "0s"]);
    for target in ["/room_a", "/x", "/room%5Fa", "/room_unknown"] {
        stage.get(target);
    }
    run_ok("promtool", &["check", "metrics"], &stage.router.get_admin("/metrics").text());
}

/// Names in rules, dashboard, autoscaler and comments: all are in `/metrics` from the start.
#[test]
fn every_metric_that_is_spoken_of_exists() {
    let router = Router::builder().args(&["--directory", "memory"]).start();
    let exposed = metric_names(&router.get_admin("/metrics").text());
    let mut spoken_of = BTreeSet::new();
    let readme = [(super::tools::path("README.md"), read("README.md"))];
    for (file, text) in super::tools::texts().into_iter().chain(readme) {
        // The beginning of several, as in `pod_router_(a|b)`.
        for name in metric_names(&text).into_iter().filter(|name| !name.ends_with('_')) {
            assert!(exposed.contains(&name), "{}: there is no {name}", file.display());
            spoken_of.insert(name);
        }
    }
    // And what is measured is shown.
    let shown: BTreeSet<_> = queries().iter().flat_map(|(_, query)| metric_names(query)).collect();
    let unseen: Vec<_> =
        exposed.iter().filter(|name| name.starts_with("pod_router_") && !shown.contains(*name)).collect();
    assert_eq!(unseen, ["pod_router_build_info"], "not on the dashboard");
    assert!(spoken_of.len() > 15, "only {spoken_of:?}");
}

/// 100 µs to 60 s, with at most a factor of four between two; and for lookups close together around --redis-timeout.
#[test]
fn the_buckets_resolve_a_cache_hit_and_a_long_poll() {
    let router = Router::builder().args(&["--directory", "memory"]).start();
    let text = router.get_admin("/metrics").text();
    let bounds = |name: &str| -> Vec<f64> {
        let prefix = format!("{name}_bucket{{le=\"");
        let bounds = text.lines().filter_map(|line| line.strip_prefix(&prefix)?.split_once('"'));
        bounds.filter_map(|(bound, _)| bound.parse().ok().filter(|bound: &f64| bound.is_finite())).collect()
    };
    let histograms: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram")).collect();
    assert!(histograms.len() >= 3, "{histograms:?}");
    for name in histograms {
        let bounds = bounds(name);
        assert!(
            bounds.first().is_some_and(|first| *first <= 0.0001) && bounds.last() >= Some(&60.0),
            "{name}: {bounds:?}"
        );
        assert!(bounds.windows(2).all(|pair| pair[1] / pair[0] <= 4.0), "{name}: {bounds:?}");
    }
    let near = bounds("pod_router_directory_duration_seconds").into_iter().filter(|bound| (0.15..0.5).contains(bound));
    assert!(near.count() >= 4, "too few around 250 ms");
}

#[test]
fn the_dashboard_is_one_that_grafana_can_import() {
    let dashboard: Json = serde_json::from_str(&read("deploy/grafana/dashboard.json")).expect("JSON");
    assert!(dashboard["uid"].is_string() && dashboard["title"].is_string() && dashboard["schemaVersion"].is_u64());
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in items(&dashboard["panels"]) {
        assert!(ids.insert(panel["id"].as_u64()), "{} has another panel's id", panel["title"]);
        if panel["type"] != "row" {
            assert!(!text(&panel["description"]).is_empty(), "{}", panel["title"]);
            // No panel asks a data source of this installation's own.
            assert!(items(&panel["targets"]).all(|target| target["datasource"]["uid"] == "${datasource}"));
        }
        let place = |side: &str| panel["gridPos"][side].as_u64().expect("a place");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(x < 24 && taken.insert((x, y)), "{} lies on another panel", panel["title"]);
            }
        }
    }
    assert!(queries().len() > 30, "{}", queries().len());
}

#[test]
fn the_readme_lists_every_alert() {
    let readme = read("README.md");
    for rule in rules() {
        assert!(readme.contains(&format!("`{}`", text(&rule["alert"]))), "{} is missing", rule["alert"]);
    }
}
