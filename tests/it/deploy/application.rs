//! The example application behind the router: what its manifests ask of it, and the overlay `dev`, seen by two people.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::Read;
use std::net::IpAddr;

use serde_json::Value as Json;

use super::tools::{OVERLAYS, items, number, of_kind, one, overlay, path, router, text};
use crate::support::{NameServer, Process, Redis, Router, RouterBuilder, eventually, node, own_ip};

/// What `deploy/compose/app` answers, with Redis and without: `tests/it/compose/demo.rs` asks.
const LIVE: &str = "/health/live";
const READY: &str = "/health/ready";

/// How old a heartbeat may be for the router, in milliseconds.
const FRESH_MS: u64 = 180_000;

#[track_caller]
fn variable<'a>(container: &'a Json, name: &str) -> &'a str {
    let found = items(&container["env"]).find(|env| env["name"] == name);
    text(&found.unwrap_or_else(|| panic!("no {name}"))["value"])
}

/// Redis away is no reason to kill a pod, nor to take all pods out of their Service at once.
#[test]
fn the_backends_probes_do_not_turn_with_redis() {
    for name in OVERLAYS {
        let backend = &one(&overlay(name).1, "StatefulSet", "backend")["spec"]["template"]["spec"];
        let container = &backend["containers"][0];
        let asked = |probe: &str| text(&container[probe]["httpGet"]["path"]).to_owned();
        assert_eq!([asked("startupProbe"), asked("livenessProbe")], [LIVE, LIVE], "{name}");
        assert_eq!(asked("readinessProbe"), READY, "{name}");
        let beat: u64 = variable(container, "METRICS_HEARTBEAT_INTERVAL").parse().expect("milliseconds");
        assert!(3 * beat <= FRESH_MS, "{name}: two heartbeats may be missed");
        let hook = number(&container["lifecycle"]["preStop"]["sleep"]["seconds"]);
        // app/backend.mjs: LEAVE_MS.
        assert!(number(&backend["terminationGracePeriodSeconds"]) > hook + 8, "{name}");
    }
}

/// Every Service that the router sends requests to has pods that its policy lets it reach.
#[test]
fn the_router_may_reach_its_backends() {
    for name in OVERLAYS {
        let documents = &overlay(name).1;
        let default = super::tools::settings(documents)("DEFAULT_BACKEND");
        let (service, _) = default.split_once(':').expect("host:port");
        let service = &one(documents, "Service", service)["spec"];
        let policy = one(documents, "NetworkPolicy", "pod-router");
        let allowed = items(&policy["spec"]["egress"]).any(|rule| {
            items(&rule["to"]).any(|peer| peer["podSelector"]["matchLabels"] == service["selector"])
                && items(&rule["ports"]).any(|port| port["port"] == service["ports"][0]["port"])
        });
        assert!(allowed, "{name}: no egress to {default}");
    }
}

/// A program of the demo, where a name leads to it.
fn program(name: &'static str, port: u64, redis: &Redis, names: &NameServer, dns: &str) -> (IpAddr, Process) {
    let ip = own_ip();
    names.set(dns, ip);
    let file = if name == "frontend" { "frontend.mjs" } else { "backend.mjs" };
    let mut process = Process::start(name, "node", |command| {
        command.current_dir(path("deploy/compose/app")).arg(file);
        command.env("POD_NAME", name).env("HOST", ip.to_string()).env("PORT", port.to_string());
        command.env("REDIS_URL", redis.url());
    });
    // Nobody else reads what it says: a full pipe must not stop it.
    let (mut out, mut errors) = (process.take_stdout(), process.take_stderr());
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
    (ip, process)
}

/// The settings of an overlay, for a router of the test's own.
fn with_settings(mut builder: RouterBuilder, documents: &[Json]) -> RouterBuilder {
    let map = text(&router(documents)["envFrom"][0]["configMapRef"]["name"]);
    for (variable, value) in one(documents, "ConfigMap", map)["data"].as_object().expect("settings") {
        builder = builder.env(variable, text(value));
    }
    builder.args(&["--log-format", "json"])
}

/// Who waits in production has a session without a room: the name that the example backend writes into its id is all
/// that holds it, and everybody here comes from one address.
#[test]
fn sessions_are_spread_and_stay_at_the_pods_that_their_ids_name() {
    let Some(names) = NameServer::start() else { return };
    let (redis, documents) = (Redis::start(), &overlay("production").1);
    let port = number(&one(documents, "Service", "backend")["spec"]["ports"][0]["port"]);
    let backends = ["backend-0", "backend-1", "backend-2"].map(|pod| {
        let backend = program(pod, port, &redis, &names, &format!("{pod}.backend.rooms.svc.cluster.local"));
        eventually("it has a heartbeat", || redis.get(&format!("pod:{pod}:metrics")).is_some());
        backend
    });
    let addresses: Vec<_> = backends.iter().map(|(ip, _)| *ip).collect();
    names.set_all("backend-ready.default.svc.cluster.local", &addresses);
    let builder = Router::builder().nameserver(&names).env("REDIS_URL", redis.url()).env("POD_NAMESPACE", "rooms");
    let router = with_settings(builder, documents).start_ready();

    let mut pods = BTreeSet::new();
    for _ in 0..6 {
        let opened = router.get("/socket.io/?EIO=4&transport=polling").text();
        let opened: Json = serde_json::from_str(opened.trim_start_matches('0')).expect("a handshake");
        let (sid, target) = (text(&opened["sid"]), "/socket.io/?EIO=4&transport=polling&sid=");
        pods.insert(sid.split('~').next().expect("a first part").to_owned());
        let joined = format!("POST {target}{sid} HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n40/waiting,");
        assert_eq!(router.request(joined).text(), "ok", "{sid}");
        let polled = router.get(&format!("{target}{sid}")).text();
        assert!(polled.starts_with("40/waiting,"), "{sid}: {polled}");
    }
    assert!(pods.len() > 1, "all went to {pods:?}");
}

/// `kubectl apply -k overlays/dev` and one port-forward: the router with that overlay's settings, the names in them and
/// the programs behind the names. Only the router is asked.
#[test]
fn the_dev_overlay_is_an_application_behind_one_port() {
    let Some(names) = NameServer::start() else { return };
    let (redis, documents) = (Redis::start(), &overlay("dev").1);
    let namespace = text(&of_kind(documents, "Namespace").next().expect("a namespace")["metadata"]["name"]);
    let port = |service: &str| number(&one(documents, "Service", service)["spec"]["ports"][0]["port"]);
    // The name server's search list begins with `default`.
    let frontend = program("frontend", port("frontend"), &redis, &names, "frontend.default.svc.cluster.local");
    let backends = ["backend-0", "backend-1", "backend-2"].map(|pod| {
        let name = format!("{pod}.backend.{namespace}.svc.cluster.local");
        program(pod, port("backend"), &redis, &names, &name)
    });
    let builder = Router::builder().nameserver(&names).env("REDIS_URL", redis.url()).env("POD_NAMESPACE", namespace);
    let builder = with_settings(builder, documents);
    eventually("all pods have a heartbeat", || {
        ["backend-0", "backend-1", "backend-2"].iter().all(|pod| redis.get(&format!("pod:{pod}:metrics")).is_some())
    });
    let router = builder.start_ready();
    eventually("the front end is there", || router.get("/").status() == 200);
    eventually("the pods are known", || router.get("/socket.io/socket.io.js").status() == 200);

    let url = format!("http://{}/", router.addr());
    let mut browser = node("the browser", &["compose.mjs", "--url", &url, "--deadline", "100"]);
    let (mut seen, mut errors) = (String::new(), String::new());
    browser.take_stdout().read_to_string(&mut seen).expect("the output can be read");
    browser.take_stderr().read_to_string(&mut errors).expect("the errors can be read");
    if !browser.wait_exit().success() {
        let _ = write!(errors, "\n{}", router.whole_output());
        panic!("{seen}{errors}");
    }
    let seen: Json = serde_json::from_str(&seen).expect("what they saw as JSON");
    assert_eq!(seen["steps"].as_array().map(Vec::len), Some(5), "{seen}");
    drop((frontend, backends));
}
