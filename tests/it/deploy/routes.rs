//! The ingress rules of the mission, in both forms, followed for one path after the other.
//!
//! There is no Traefik here: this is a model of what its documentation and source say of the few matchers that are
//! used (the highest priority first; `PathPrefix` is a plain prefix; a Gateway API prefix compares whole segments and
//! the longest path wins). It finds rules that contradict the mission or each other, not a Traefik that reads them
//! differently.

use regex::Regex;
use serde_json::Value as Json;

use super::tools::{documents, items, kustomize, number, of_kind, one, overlay, text};
use crate::support::Stage;

const HOST: &str = "rooms.example.com";

/// Paths, and the Service that each goes to.
const PATHS: [(&str, &str); 18] = [
    ("/experiment/room_xyz", "pod-router"),
    ("/experiment/room_xyz/summary", "pod-router"),
    ("/experiment/room_x-Y_9", "pod-router"),
    ("/socket.io/", "pod-router"),
    ("/socket.io/1/", "pod-router"),
    ("/api/room/room_xyz/state", "pod-router"),
    ("/api/room/room_xyz", "pod-router"),
    ("/api/experiment/7/room_xyz/data", "pod-router"),
    ("/api/status", "backend-service"),
    ("/api/rooms", "backend-service"),
    ("/api/experiments/7", "backend-service"),
    // Where the redirect leads.
    ("/experiment", "frontend"),
    ("/experiment/", "frontend"),
    ("/experiment/about", "frontend"),
    ("/", "frontend"),
    ("/assets/experiment/room_xyz.js", "frontend"),
    ("/socket.iox", "frontend"),
    ("/apis", "frontend"),
];

/// A rule as Traefik's IngressRoute has it: matchers with `&&`, `||` and parentheses.
struct Rule<'a>(&'a str);

impl Rule<'_> {
    /// Whether the rule, or what is left of it at this level, matches; consumes it.
    fn any(&mut self, path: &str) -> bool {
        let mut matches = self.all(path);
        while self.take("||") {
            matches |= self.all(path);
        }
        matches
    }

    fn all(&mut self, path: &str) -> bool {
        let mut matches = self.matcher(path);
        while self.take("&&") {
            matches &= self.matcher(path);
        }
        matches
    }

    fn matcher(&mut self, path: &str) -> bool {
        if self.take("(") {
            let matches = self.any(path);
            assert!(self.take(")"), "a parenthesis is open before {:?}", self.0);
            return matches;
        }
        let (name, rest) = self.0.split_once("(`").unwrap_or_else(|| panic!("no matcher: {:?}", self.0));
        let (value, rest) = rest.split_once("`)").unwrap_or_else(|| panic!("not ended: {:?}", self.0));
        self.0 = rest.trim_start();
        match name {
            "Host" => value == HOST,
            "PathPrefix" => path.starts_with(value),
            other => panic!("the model does not know {other}"),
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let rest = self.0.strip_prefix(word);
        self.0 = rest.map_or(self.0, str::trim_start);
        rest.is_some()
    }
}

/// Whether the whole rule matches.
fn matches(rule: &str, path: &str) -> bool {
    let mut rule = Rule(rule);
    let matches = rule.any(path);
    assert_eq!(rule.0, "", "the rule goes on");
    matches
}

/// The Service an IngressRoute sends a path to.
fn ingress_route<'a>(route: &'a Json, path: &str) -> &'a str {
    let mut fitting: Vec<_> =
        items(&route["spec"]["routes"]).filter(|rule| matches(text(&rule["match"]), path)).collect();
    fitting.sort_by_key(|rule| number(&rule["priority"]));
    let best = fitting.last().unwrap_or_else(|| panic!("no rule for {path}"));
    text(&best["services"][0]["name"])
}

/// How well an HTTPRoute's match fits a path, by Traefik's own order: the longer value wins, `/` comes last.
fn rank(it: &Json, path: &str) -> Option<usize> {
    let value = text(&it["path"]["value"]);
    let whole = value.trim_end_matches('/');
    let fits = match text(&it["path"]["type"]) {
        "PathPrefix" => path == whole || path.starts_with(&format!("{whole}/")),
        "RegularExpression" => Regex::new(value).expect("an expression").is_match(path),
        other => panic!("the model does not know {other}"),
    };
    fits.then_some(if value == "/" { 1 } else { value.len() * 100 })
}

/// The Service an HTTPRoute sends a path to.
fn http_route<'a>(route: &'a Json, path: &str) -> &'a str {
    let ranked = items(&route["spec"]["rules"]).filter_map(|rule| {
        let best = items(&rule["matches"]).filter_map(|it| rank(it, path)).max()?;
        Some((best, text(&rule["backendRefs"][0]["name"])))
    });
    ranked.max().unwrap_or_else(|| panic!("no rule for {path}")).1
}

#[test]
fn both_forms_send_every_path_where_the_mission_says() {
    let gateway = documents(&kustomize("traefik/gateway"));
    let ingress = one(&overlay("production").1, "IngressRoute", "rooms");
    let http = one(&gateway, "HTTPRoute", "rooms");
    assert_eq!(http["spec"]["hostnames"][0], HOST);
    for (path, service) in PATHS {
        assert_eq!(ingress_route(ingress, path), service, "IngressRoute: {path}");
        assert_eq!(http_route(http, path), service, "HTTPRoute: {path}");
    }
}

/// Every rule of the router's is needed, and so is its place before the others.
#[test]
fn no_rule_can_be_left_out() {
    let ingress = one(&overlay("production").1, "IngressRoute", "rooms");
    for left_out in 0..items(&ingress["spec"]["routes"]).count() {
        let mut less = ingress.clone();
        less["spec"]["routes"].as_array_mut().expect("a list").remove(left_out);
        let goes_elsewhere = |(path, service): &(&str, &str)| {
            let rules = items(&less["spec"]["routes"]);
            rules.filter(|rule| matches(text(&rule["match"]), path)).count() == 0
                || ingress_route(&less, path) != *service
        };
        assert!(PATHS.iter().any(goes_elsewhere), "nothing needs rule {left_out}");
    }
}

/// What is sent to has the port that is named, and Traefik's own settings for it.
#[test]
fn the_routes_lead_to_services_that_exist() {
    let production = &overlay("production").1;
    let port = |service: &str| &one(production, "Service", service)["spec"]["ports"][0];
    for service in items(&one(production, "IngressRoute", "rooms")["spec"]["routes"]).map(|rule| &rule["services"][0]) {
        assert_eq!(service["port"], port(text(&service["name"]))["name"], "{service}");
        one(production, "ServersTransport", text(&service["serversTransport"]));
    }
    let gateway = documents(&kustomize("traefik/gateway"));
    let route = one(&gateway, "HTTPRoute", "rooms");
    for backend in items(&route["spec"]["rules"]).map(|rule| &rule["backendRefs"][0]) {
        assert_eq!(backend["port"], port(text(&backend["name"]))["port"], "{backend}");
    }
    let parent = text(&route["spec"]["parentRefs"][0]["name"]);
    assert_eq!(of_kind(&gateway, "Gateway").next().map(|it| &it["metadata"]["name"]), Some(&parent.into()));
}

/// The paths with a room that the ingress hands to the router are those in which the router sees it.
#[test]
fn the_router_knows_the_rooms_of_the_paths_it_is_sent() {
    let stage = Stage::new();
    stage.redis.assign("room_xyz", 1);
    for (path, service) in PATHS {
        if service == "pod-router" && path.contains("room_xyz") {
            assert_eq!(stage.get(path).pod(), "backend-1", "{path}");
        }
    }
}
