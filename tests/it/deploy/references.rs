//! What refers to something by name or label finds it, and what runs is allowed no more than it needs.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::tools::{OVERLAYS, items, label, of_kind, one, overlay, read, router, selects, text, workloads};

/// Prometheus adds nothing to a scraped series' job but this.
const JOB: &str = "pod-router";

/// The labels of the workloads' pods.
fn pod_labels(documents: &[Json]) -> Vec<&Json> {
    workloads(documents).map(|workload| &workload["spec"]["template"]["metadata"]["labels"]).collect()
}

#[test]
fn every_selector_selects_pods() {
    for name in OVERLAYS {
        let documents = &overlay(name).1;
        let pods = pod_labels(documents);
        let check = |what: String, selector: &Json| {
            assert!(pods.iter().any(|labels| selects(selector, labels)), "{name}: {what} selects nothing: {selector}");
        };
        for workload in workloads(documents) {
            let (selector, template) = (&workload["spec"]["selector"]["matchLabels"], &workload["spec"]["template"]);
            assert!(selects(selector, &template["metadata"]["labels"]), "{name}: {}", label(workload));
            for spread in items(&template["spec"]["topologySpreadConstraints"]) {
                assert!(selects(&spread["labelSelector"]["matchLabels"], &template["metadata"]["labels"]), "{spread}");
            }
        }
        of_kind(documents, "Service").for_each(|it| check(label(it), &it["spec"]["selector"]));
        of_kind(documents, "PodDisruptionBudget")
            .for_each(|it| check(label(it), &it["spec"]["selector"]["matchLabels"]));
        of_kind(documents, "NetworkPolicy").for_each(|it| check(label(it), &it["spec"]["podSelector"]["matchLabels"]));
        for hpa in of_kind(documents, "HorizontalPodAutoscaler") {
            let target = &hpa["spec"]["scaleTargetRef"];
            one(documents, text(&target["kind"]), text(&target["name"]));
        }
    }
}

#[test]
fn every_named_port_is_a_port_of_what_is_selected() {
    for name in OVERLAYS {
        let documents = &overlay(name).1;
        let has_port = |selector: &Json, port: &Json| {
            workloads(documents).filter(|it| selects(selector, &it["spec"]["template"]["metadata"]["labels"])).any(
                |it| {
                    let containers = items(&it["spec"]["template"]["spec"]["containers"]);
                    let mut ports = containers.flat_map(|container| items(&container["ports"]));
                    ports.any(|known| known["name"] == *port || known["containerPort"] == *port)
                },
            )
        };
        for service in of_kind(documents, "Service") {
            for port in items(&service["spec"]["ports"]) {
                assert!(
                    has_port(&service["spec"]["selector"], &port["targetPort"]),
                    "{name}: {}: {port}",
                    label(service)
                );
            }
        }
        for policy in of_kind(documents, "NetworkPolicy") {
            let selector = &policy["spec"]["podSelector"]["matchLabels"];
            for port in items(&policy["spec"]["ingress"]).flat_map(|rule| items(&rule["ports"])) {
                assert!(has_port(selector, &port["port"]), "{name}: {}: {port}", label(policy));
            }
        }
    }
}

/// Data from the ingress, metrics from Prometheus; out to pods, Redis and names. Nothing else.
#[test]
fn the_policy_names_who_may_speak_to_the_router_and_whom_it_may_speak_to() {
    for name in OVERLAYS {
        let policy = &one(&overlay(name).1, "NetworkPolicy", "pod-router")["spec"];
        let types: Vec<_> = items(&policy["policyTypes"]).filter_map(Json::as_str).collect();
        assert_eq!(types, ["Ingress", "Egress"]);
        let rules = |direction: &str, peers: &str| -> Vec<(String, String)> {
            let app = |peer: &Json| {
                let labels = peer["podSelector"]["matchLabels"].as_object().expect("every peer is named");
                labels.values().filter_map(Json::as_str).collect::<String>()
            };
            let describe = |rule: &Json| {
                let ports = items(&rule["ports"]).map(|port| port["port"].to_string().replace('"', ""));
                (items(&rule[peers]).map(app).collect(), ports.collect::<Vec<_>>().join(" "))
            };
            items(&policy[direction]).map(describe).collect()
        };
        let expected = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(peer, ports)| ((*peer).to_owned(), (*ports).to_owned())).collect()
        };
        assert_eq!(rules("ingress", "from"), expected(&[("traefik", "http"), ("prometheus", "admin")]));
        let mut out = vec![("backend", "3000"), ("redis", "6379 26379"), ("kube-dns", "53 53")];
        if name == "dev" {
            // There the router stands in front of everything.
            out.push(("frontend", "8080"));
        }
        assert_eq!(rules("egress", "to"), expected(&out), "{name}");
    }
}

#[test]
fn settings_and_secrets_that_are_referred_to_exist() {
    for name in OVERLAYS {
        let documents = &overlay(name).1;
        for workload in workloads(documents) {
            for container in items(&workload["spec"]["template"]["spec"]["containers"]) {
                for source in items(&container["envFrom"]) {
                    one(documents, "ConfigMap", text(&source["configMapRef"]["name"]));
                }
                for secret in items(&container["env"]).map(|env| &env["valueFrom"]["secretKeyRef"]) {
                    if secret.is_null() {
                        continue;
                    }
                    assert_eq!(secret["key"], "url", "{}", label(workload));
                    match name {
                        "production" => by_hand(text(&secret["name"])),
                        _ => assert!(one(documents, "Secret", text(&secret["name"]))["data"]["url"].is_string()),
                    }
                }
            }
        }
        // A changed setting is a rollout.
        let map = text(&router(documents)["envFrom"][0]["configMapRef"]["name"]);
        assert!(map.starts_with("pod-router-") && map.len() > "pod-router-".len(), "{name}: {map} has no hash");
    }
}

/// Production's overlay says how to make this Secret, under exactly this name.
#[track_caller]
fn by_hand(secret: &str) {
    let how = read("deploy/kubernetes/overlays/production/kustomization.yaml");
    let command = format!("create secret generic {secret} \\\n#     --from-literal=url=");
    assert!(how.contains(&command), "nobody makes the Secret {secret}");
}

/// What the ingress refers to has to be made by somebody as well, and the steps of the README are all there are.
#[test]
fn every_secret_of_production_is_made_in_the_steps_of_the_readme() {
    let production = &overlay("production").1;
    let mut secrets: Vec<_> =
        production.iter().filter_map(|object| object["spec"]["tls"]["secretName"].as_str()).collect();
    assert_eq!(secrets, ["rooms-tls"]);
    for workload in workloads(production) {
        for container in items(&workload["spec"]["template"]["spec"]["containers"]) {
            let env = items(&container["env"]);
            secrets.extend(env.filter_map(|env| env["valueFrom"]["secretKeyRef"]["name"].as_str()));
        }
    }
    assert!(secrets.len() >= 3, "{secrets:?}");
    let readme = read("README.md");
    for secret in secrets {
        let made = ["generic", "tls"].map(|kind| format!("kubectl -n rooms create secret {kind} {secret} --"));
        assert!(made.iter().any(|command| readme.contains(command)), "nobody makes the Secret {secret}");
    }
}

/// The Gateway API's kinds go where the overlay's others go.
#[test]
fn the_gateway_is_in_the_place_of_the_ingress_route() {
    let overlay = read("deploy/kubernetes/overlays/production/kustomization.yaml");
    let readme = read("README.md");
    for named in ["../../../traefik/ingressroute", "../../../traefik/gateway"] {
        assert!(readme.contains(&format!("`{named}`")), "{named}");
    }
    assert!(overlay.contains("\n  - ../../../traefik/ingressroute\n"));
}

/// kube-prometheus-stack overlooks what does not carry its release's name.
#[test]
fn the_operator_takes_in_monitor_and_rules() {
    let production = &overlay("production").1;
    for kind in ["ServiceMonitor", "PrometheusRule"] {
        let labels = &one(production, kind, "pod-router")["metadata"]["labels"];
        assert_eq!(labels["release"], "kube-prometheus-stack", "{kind}");
    }
}

/// The job in rules and dashboard is the label's value, of the one Service with the admin port.
#[test]
fn the_service_monitor_finds_the_admin_listener() {
    let production = &overlay("production").1;
    let monitor = &one(production, "ServiceMonitor", "pod-router")["spec"];
    let selector = &monitor["selector"]["matchLabels"];
    let found: Vec<_> =
        of_kind(production, "Service").filter(|service| selects(selector, &service["metadata"]["labels"])).collect();
    assert_eq!(found.iter().map(|service| label(service)).collect::<Vec<_>>(), ["Service pod-router-admin"]);
    let endpoint = &monitor["endpoints"][0];
    assert_eq!((&endpoint["port"], &endpoint["path"]), (&found[0]["spec"]["ports"][0]["name"], &"/metrics".into()));
    assert_eq!(found[0]["metadata"]["labels"][text(&monitor["jobLabel"])], JOB);
    // `pod` is the backend pod: without this, Prometheus renames it.
    assert_eq!(endpoint["honorLabels"], true);
    // Pods that wait for Redis, or drain, are those worth watching.
    assert_eq!(found[0]["spec"]["publishNotReadyAddresses"], true);
}

/// Pod Security's "restricted", and what it leaves open.
#[test]
fn nothing_runs_with_rights_it_does_not_need() {
    for name in OVERLAYS {
        let documents = &overlay(name).1;
        for workload in workloads(documents) {
            let (what, pod) = (format!("{name}: {}", label(workload)), &workload["spec"]["template"]["spec"]);
            assert_eq!(pod["automountServiceAccountToken"], false, "{what}");
            assert_eq!(pod["enableServiceLinks"], false, "{what}: they would set POD_ROUTER_PORT and REDIS_PORT");
            let context = &pod["securityContext"];
            assert_eq!(context["runAsNonRoot"], true, "{what}");
            assert!(context["runAsUser"].as_u64().is_some_and(|user| user > 0), "{what}");
            assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{what}");
            for forbidden in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
                assert!(pod[forbidden].is_null(), "{what}: {forbidden}");
            }
            for container in items(&pod["containers"]) {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false, "{what}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{what}");
                assert_eq!(context["capabilities"]["drop"][0], "ALL", "{what}");
                for amount in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
                    assert!(container["resources"].pointer(amount).is_some(), "{what}: {amount}");
                }
            }
        }
        let enforced =
            of_kind(documents, "Namespace").map(|it| &it["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]);
        assert_eq!(enforced.collect::<Vec<_>>(), ["restricted"], "{name}");
    }
}

/// Updates and nodes that are emptied never take both replicas.
#[test]
fn one_router_at_a_time_goes() {
    for name in OVERLAYS {
        let documents = &overlay(name).1;
        let rollout = &one(documents, "Deployment", "pod-router")["spec"]["strategy"]["rollingUpdate"];
        assert_eq!((&rollout["maxUnavailable"], &rollout["maxSurge"]), (&0.into(), &1.into()), "{name}");
        for budget in ["pod-router", "backend"] {
            assert_eq!(one(documents, "PodDisruptionBudget", budget)["spec"]["maxUnavailable"], 1, "{name}: {budget}");
        }
    }
}

/// `--flag` in a comment or an alert's text is one that `serve` has.
#[test]
fn the_flags_that_are_spoken_of_exist() {
    let known: BTreeSet<_> = pod_router::config::settings().into_iter().map(|setting| setting.flag).collect();
    // Of kubectl, redis-server, prometheus and the like.
    let others = ["--from-literal", "--save", "--appendonly", "--config", "--previous", "--raw", "--cert", "--key"];
    let mut spoken_of = BTreeSet::new();
    for (file, words) in
        super::tools::texts().iter().flat_map(|(file, text)| text.split_whitespace().map(move |word| (file, word)))
    {
        let word: String = words
            .trim_start_matches(['(', '`', '"'])
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '-')
            .collect();
        if word.len() > 3 && word.starts_with("--") && !others.contains(&word.as_str()) {
            assert!(known.contains(&word), "{}: there is no {word}", file.display());
            spoken_of.insert(word);
        }
    }
    assert!(spoken_of.len() > 10, "only {spoken_of:?}");
}
