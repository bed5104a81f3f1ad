//! Numbers and names that have to agree: between manifests, and with the router itself.

use std::time::Duration;

use pod_router::config::settings as router_settings;
use serde_json::Value as Json;

use super::tools::{OVERLAYS, documents, items, number, of_kind, one, overlay, read, router, selects, settings, text};
use crate::support::{Redis, Router};

/// Node closes an idle connection after this.
const NODE_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What Traefik and Go call a duration and what humantime reads: `90s`.
#[track_caller]
fn duration(text: &str) -> Duration {
    humantime::parse_duration(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn port_of(address: &str) -> u64 {
    address.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port in {address}"))
}

/// The number of the container's port with this name.
#[track_caller]
fn container_port(container: &Json, name: &str) -> u64 {
    let port = items(&container["ports"]).find(|port| port["name"] == name);
    number(&port.unwrap_or_else(|| panic!("no port {name}"))["containerPort"])
}

#[test]
fn the_router_starts_with_the_settings_of_every_overlay() {
    let redis = Redis::start();
    for name in OVERLAYS {
        let documents = &overlay(name).1;
        let map = text(&router(documents)["envFrom"][0]["configMapRef"]["name"]);
        let data = one(documents, "ConfigMap", map)["data"].as_object().expect("settings");
        let known: Vec<_> = router_settings().into_iter().flat_map(|setting| setting.variables).collect();
        let mut builder = Router::builder().env("REDIS_URL", redis.url()).env("POD_NAMESPACE", "rooms");
        for (variable, value) in data {
            // RUST_LOG is read by tracing-subscriber.
            assert!(known.contains(variable) || variable == "RUST_LOG", "{name}: there is no variable {variable}");
            builder = builder.env(variable, text(value));
        }
        // The harness reads the log.
        builder.args(&["--log-format", "json"]).start_ready();
    }
}

#[test]
fn a_pod_gets_the_time_that_it_takes_to_go() {
    for name in OVERLAYS {
        let documents = &overlay(name).1;
        let (setting, pod) =
            (settings(documents), &one(documents, "Deployment", "pod-router")["spec"]["template"]["spec"]);
        let grace = Duration::from_secs(number(&pod["terminationGracePeriodSeconds"]));
        let hook = Duration::from_secs(number(&router(documents)["lifecycle"]["preStop"]["sleep"]["seconds"]));
        let needed = hook + duration(&setting("LAME_DUCK")) + duration(&setting("DRAIN_TIMEOUT"));
        let margin = grace.checked_sub(needed).unwrap_or_else(|| panic!("{name}: {grace:?} for {needed:?}"));
        let sensible = Duration::from_secs(5)..=Duration::from_secs(30);
        assert!(sensible.contains(&margin), "{name}: {grace:?} for {needed:?}");
        // A Socket.IO long poll in flight ends by itself: pingInterval is 25 s.
        assert!(duration(&setting("DRAIN_TIMEOUT")) > Duration::from_secs(25));
        // A rollout must be able to wait for it.
        let deadline = number(&one(documents, "Deployment", "pod-router")["spec"]["progressDeadlineSeconds"]);
        assert!(Duration::from_secs(deadline) > 2 * grace, "{name}");
    }
}

/// A number of the demo application's, in milliseconds.
#[track_caller]
fn milliseconds(file: &str, name: &str) -> Duration {
    let text = read(&format!("deploy/compose/app/{file}"));
    let value = text.split(&format!("const {name} = ")).nth(1).and_then(|rest| rest.split(';').next());
    let number = value.unwrap_or_else(|| panic!("{file} has no {name}")).replace('_', "");
    Duration::from_millis(number.parse().expect("milliseconds"))
}

/// The same of containers: Docker's own 10 s are no number that anybody has chosen.
#[test]
fn a_container_gets_the_time_that_it_takes_to_go() {
    let compose = documents(&read("deploy/compose/compose.yaml")).remove(0);
    let services = compose["services"].as_object().expect("services");
    let grace = |name: &str| duration(services[name]["stop_grace_period"].as_str().unwrap_or("10s"));
    let known = router_settings();
    for (name, service) in services.iter().filter(|(_, service)| service["image"] == "pod-router") {
        let needed = |flag: &str| {
            let setting = known.iter().find(|setting| setting.flag == flag).expect("a setting");
            let own = setting.variables.iter().find_map(|variable| service["environment"][variable].as_str());
            let default = duration(setting.defaults.first().expect("a default"));
            // Also of who takes the demo's shorter times out.
            own.map_or(default, duration).max(default)
        };
        assert!(grace(name) > needed("--lame-duck") + needed("--drain-timeout"), "{name}: {:?}", grace(name));
    }
    let backends: Vec<_> = services.keys().filter(|name| name.starts_with("backend-")).collect();
    assert_eq!(backends.len(), 3);
    for name in backends {
        assert!(grace(name) > milliseconds("backend.mjs", "LEAVE_MS"), "{name}: {:?}", grace(name));
    }
    // What Traefik gives requests by itself.
    assert!(grace("traefik") > Duration::from_secs(10));
}

#[test]
fn the_ports_are_the_same_everywhere() {
    for name in OVERLAYS {
        let documents = &overlay(name).1;
        let (setting, container) = (settings(documents), router(documents));
        for (listen, port, service) in [("LISTEN", "http", "pod-router"), ("ADMIN_LISTEN", "admin", "pod-router-admin")]
        {
            let number = container_port(container, port);
            assert_eq!(port_of(&setting(listen)), number, "{name}: {listen}");
            let service = &one(documents, "Service", service)["spec"]["ports"];
            assert_eq!((&service[0]["port"], &service[0]["targetPort"]), (&number.into(), &port.into()), "{name}");
            assert_eq!(service.as_array().map(Vec::len), Some(1), "{name}: the data port and the admin port are apart");
        }
        let backend = &one(documents, "StatefulSet", "backend")["spec"]["template"]["spec"]["containers"][0];
        let pods = container_port(backend, "http");
        assert_eq!(port_of(&setting("POD_ADDRESS")), pods, "{name}");
        assert_eq!(number(&one(documents, "Service", "backend")["spec"]["ports"][0]["port"]), pods, "{name}");
    }
}

/// Room-less requests go to any pod that is ready, and the router has to see which there are. (In dev they go to the front
/// end, and by routes to the pods of the heartbeats: see `application`.)
#[test]
fn the_default_backend_is_a_headless_service_of_the_ready_pods() {
    let documents = &overlay("production").1;
    let setting = settings(documents);
    let backend = setting("DEFAULT_BACKEND");
    let (host, port) = backend.split_once(':').expect("host:port");
    let service = &one(documents, "Service", host)["spec"];
    assert_eq!(service["clusterIP"], "None", "{host} has one address for all pods");
    assert_ne!(service["publishNotReadyAddresses"], true, "{host} lists pods that are starting or going");
    assert_eq!(service["ports"][0]["port"].to_string(), port);
    let pods = &one(documents, "StatefulSet", &setting("STATEFULSET"))["spec"]["template"];
    assert!(selects(&service["selector"], &pods["metadata"]["labels"]));
    // A headless Service translates no ports: the pods are dialled on its own.
    assert_eq!(container_port(&pods["spec"]["containers"][0], "http").to_string(), port);
}

/// `<pod>.<headless Service>.<namespace>…`: all three parts are made in different files.
#[test]
fn the_pods_have_the_names_that_the_router_dials() {
    for name in OVERLAYS {
        let documents = &overlay(name).1;
        let setting = settings(documents);
        let backend = one(documents, "StatefulSet", &setting("STATEFULSET"));
        let headless = one(documents, "Service", text(&backend["spec"]["serviceName"]));
        assert_eq!(headless["spec"]["clusterIP"], "None", "{name}");
        assert_eq!(headless["spec"]["publishNotReadyAddresses"], true, "{name}: an unready pod still owns its rooms");
        let expected = format!("{{pod}}.{}.{{namespace}}.svc.", text(&headless["metadata"]["name"]));
        assert!(setting("POD_ADDRESS").starts_with(&expected), "{name}: {}", setting("POD_ADDRESS"));
        for variable in ["POD_NAMESPACE", "REDIS_URL"] {
            assert!(
                items(&router(documents)["env"]).any(|env| env["name"] == variable),
                "{name}: {variable} is missing"
            );
        }
    }
}

#[test]
fn the_probes_ask_what_the_admin_listener_answers() {
    let running = Router::builder().args(&["--directory", "memory"]).start_ready();
    for name in OVERLAYS {
        let container = router(&overlay(name).1);
        let path = |probe: &str| {
            let http = &container[probe]["httpGet"];
            assert_eq!(http["port"], "admin", "{name}: {probe}");
            assert_eq!(running.get_admin(text(&http["path"])).status(), 200, "{name}: {probe}");
            text(&http["path"]).to_owned()
        };
        assert_eq!((path("livenessProbe"), path("readinessProbe")), ("/livez".to_owned(), "/readyz".to_owned()));
        // Before Redis has first been found /readyz is 503: a startup probe that asked it would restart the pod for ever.
        assert_eq!(path("startupProbe"), "/livez", "{name}");
        let seconds =
            |probe: &str| number(&container[probe]["periodSeconds"]) * number(&container[probe]["failureThreshold"]);
        assert!(seconds("livenessProbe") >= 60, "{name}: a restart cuts every tunnel");
    }
    assert_eq!(container_command(), "serve");
}

fn container_command() -> String {
    text(&router(&overlay("production").1)["args"][0]).to_owned()
}

/// Whoever sends requests must be the first to close an idle connection.
#[test]
fn idle_connections_are_closed_by_their_clients() {
    let production = &overlay("production").1;
    let setting = settings(production);
    let idle = |name| {
        duration(text(&one(production, "ServersTransport", name)["spec"]["forwardingTimeouts"]["idleConnTimeout"]))
    };
    assert!(idle("pod-router") < duration(&setting("DOWNSTREAM_IDLE")));
    assert!(idle("backend") < NODE_KEEP_ALIVE);
    assert!(duration(&setting("UPSTREAM_IDLE")) < NODE_KEEP_ALIVE);
}

#[test]
fn the_autoscaler_goes_by_a_metric_that_there_is() {
    let production = &overlay("production").1;
    let hpa = of_kind(production, "HorizontalPodAutoscaler").next().expect("an autoscaler");
    let pods = items(&hpa["spec"]["metrics"]).find(|metric| metric["type"] == "Pods").expect("a metric of the pods");
    let metric = text(&pods["pods"]["metric"]["name"]);
    let running = Router::builder().args(&["--directory", "memory"]).start();
    let exposed = running.get_admin("/metrics").text();
    assert!(exposed.contains(&format!("# TYPE {metric} gauge\n")), "{metric} is no gauge of the router");
    let target: u64 = text(&pods["pods"]["target"]["averageValue"]).parse().expect("a number");
    // An even share has to fit, with room for the share of a router that is gone.
    let most: u64 = settings(production)("MAX_CONNECTIONS").parse().expect("a number");
    assert!(2 * target <= most, "{target} tunnels a pod of at most {most}");
    assert!(number(&hpa["spec"]["minReplicas"]) >= 2);
    assert!(number(&hpa["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]) >= 300);
    // Utilisation is a share of this.
    assert!(router(production)["resources"]["requests"]["cpu"].is_string());
    // The autoscaler owns the number.
    assert!(one(production, "Deployment", "pod-router")["spec"]["replicas"].is_null());
    assert_eq!(one(&overlay("dev").1, "Deployment", "pod-router")["spec"]["replicas"], 2);
}

/// 40 MB for the process and its cache, 7.1 KB a tunnel, and 0.43 MB for each of the 800 clients of which the manifest says
/// that they may read nothing of a large answer.
#[test]
fn the_memory_limit_fits_the_connections_that_are_allowed() {
    for name in OVERLAYS {
        let documents = &overlay(name).1;
        let limit = text(&router(documents)["resources"]["limits"]["memory"]);
        let mebibytes: u64 = limit.strip_suffix("Mi").and_then(|number| number.parse().ok()).expect("a limit in Mi");
        let most: u64 = settings(documents)("MAX_CONNECTIONS").parse().expect("a number");
        assert!(
            mebibytes * 1_048_576 > 40_000_000 + most * 7_100 + 800 * 430_000,
            "{name}: {limit} for {most} connections"
        );
    }
}
