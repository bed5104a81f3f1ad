//! What a cluster would refuse: every object against its kind's definition, strictly.

use serde_json::{Value as Json, json};

use super::tools::{OVERLAYS, documents, kustomize, label, overlay, path, python, run, run_ok};

/// The oldest that has everything by default (`preStop.sleep`), the one in which that became stable, the newest known.
const KUBERNETES: [&str; 3] = ["1.30", "1.34", "1.37"];

/// Groups of kinds that Kubernetes does not have, and so the validator of its schemas cannot know.
const FOREIGN: [&str; 3] = ["traefik.io/", "monitoring.coreos.com/", "gateway.networking.k8s.io/"];

fn is_foreign(object: &Json) -> bool {
    object["apiVersion"].as_str().is_some_and(|version| FOREIGN.iter().any(|group| version.starts_with(group)))
}

/// What kubernetes-validate says of these manifests, strictly: an unknown field is an error.
fn validate(yaml: &str, version: &str) -> super::tools::Said {
    run(python("kubernetes-validate"), &["--strict", "--kubernetes-version", version, "-"], yaml)
}

/// What the definitions of the other projects' kinds have against these objects.
#[track_caller]
fn foreign_findings(objects: &[&Json]) -> Vec<String> {
    let said = run_ok("node", &["tests/deploy/crds.mjs"], &json!(objects).to_string());
    let mut lines: Vec<_> = said.lines().map(str::to_owned).collect();
    assert_eq!(lines.pop(), Some(format!("checked {}", objects.len())), "{said}");
    lines
}

#[test]
fn the_objects_are_those_of_three_versions_of_kubernetes() {
    let yaml = OVERLAYS.map(|name| overlay(name).0.as_str()).join("\n---\n");
    let objects: Vec<_> = OVERLAYS.iter().flat_map(|name| &overlay(name).1).collect();
    let own = objects.iter().filter(|object| !is_foreign(object)).count();
    for version in KUBERNETES {
        let said = validate(&yaml, version);
        let lines = |what: &str| said.text.lines().filter(|line| line.contains(what)).count();
        let (passed, unknown) = (lines(" passed for resource "), lines("Couldn't find schema"));
        assert!(said.content, "{version}:\n{}", said.text);
        assert_eq!((passed, unknown), (own, objects.len() - own), "{version}:\n{}", said.text);
    }
}

/// IngressRoute, ServersTransport, ServiceMonitor, PrometheusRule, Gateway, HTTPRoute.
#[test]
fn the_other_kinds_are_those_of_their_projects() {
    let gateway = documents(&kustomize("traefik/gateway"));
    let production = &overlay("production").1;
    let foreign: Vec<_> = production.iter().chain(&gateway).filter(|object| is_foreign(object)).collect();
    let kinds: Vec<_> = foreign.iter().filter_map(|object| object["kind"].as_str()).collect();
    for kind in ["IngressRoute", "ServersTransport", "ServiceMonitor", "PrometheusRule", "Gateway", "HTTPRoute"] {
        assert!(kinds.contains(&kind), "there is no {kind} among {kinds:?}");
    }
    assert_eq!(foreign_findings(&foreign), Vec::<String>::new());
}

/// The object with this value in this place, under a name to tell it by.
fn spoilt(kind: &str, pointer: &str, wrong: Json, name: &str) -> Json {
    let objects = &overlay("production").1;
    let mut object = objects.iter().find(|object| object["kind"] == kind).expect("it is there").clone();
    *object.pointer_mut(pointer).unwrap_or_else(|| panic!("{kind} has no {pointer}")) = wrong;
    object["metadata"]["name"] = name.into();
    object
}

/// A validator that lets everything pass would look just the same.
#[test]
fn the_validators_refuse_what_is_wrong() {
    for (kind, pointer, wrong) in [
        ("Deployment", "/spec/selector", json!({"matchLabel": {}})),
        ("PodDisruptionBudget", "/spec/maxUnavailable", json!(true)),
        ("StatefulSet", "/spec/template/spec/terminationGracePeriodSeconds", json!("60s")),
    ] {
        // JSON is YAML.
        let object = spoilt(kind, pointer, wrong.clone(), "wrong").to_string();
        assert!(!validate(&object, KUBERNETES[0]).content, "{wrong} is accepted at {pointer} of a {kind}");
    }
    let wrong = [
        ("IngressRoute", "/spec/routes/0/priority", json!("high")),
        ("IngressRoute", "/spec/routes/0/services/0", json!({"kind": "Service", "name": "a", "prot": "http"})),
        ("ServersTransport", "/spec/forwardingTimeouts", json!({"idleTimeout": "90s"})),
        ("ServiceMonitor", "/spec/endpoints/0/interval", json!("fifteen")),
        ("PrometheusRule", "/spec/groups/0/rules/0/for", json!("a minute")),
    ];
    let objects: Vec<_> = (0..)
        .zip(&wrong)
        .map(|(n, (kind, pointer, value))| spoilt(kind, pointer, value.clone(), &format!("wrong-{n}")))
        .collect();
    let findings = foreign_findings(&objects.iter().collect::<Vec<_>>());
    for (n, (kind, pointer, value)) in wrong.iter().enumerate() {
        let found = findings.iter().any(|finding| finding.starts_with(&format!("{kind} wrong-{n}: ")));
        assert!(found, "{value} is accepted at {pointer} of a {kind}: {findings:?}");
    }
}

#[test]
fn the_yaml_is_clean() {
    let config = path("tests/deploy/yamllint.yaml");
    let folders = ["deploy/kubernetes", "deploy/traefik", "deploy/prometheus", "deploy/grafana"];
    let args = [&["--strict", "--config-file", config.to_str().expect("a UTF-8 path")][..], &folders].concat();
    run_ok(python("yamllint"), &args, "");
}

/// The image says of itself which version it is, in a label that no build can read out of Cargo.toml.
#[test]
fn the_image_has_the_version_of_the_crate() {
    let version = format!("ARG VERSION={}\n", env!("CARGO_PKG_VERSION"));
    assert!(super::tools::read("Dockerfile").contains(&version), "the Dockerfile should say {version}");
}

/// The Secret is made by hand: no overlay for a real cluster may hold one.
#[test]
fn production_holds_no_secret_and_no_floating_image() {
    for object in &overlay("production").1 {
        assert_ne!(object["kind"], "Secret", "{}", label(object));
        for container in super::tools::items(&object["spec"]["template"]["spec"]["containers"]) {
            let image = super::tools::text(&container["image"]);
            let (_, tag) = image.rsplit_once('/').unwrap_or(("", image)).1.split_once([':', '@']).unwrap_or_default();
            assert!(!tag.is_empty() && tag != "latest", "{image} says no version");
        }
    }
}
