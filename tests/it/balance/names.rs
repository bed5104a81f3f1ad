//! Pods of the StatefulSet behind a name that has no more than their addresses: they are known by their own names.

use std::net::IpAddr;

use serde_json::Value;

use super::backends::{HEADLESS, Headless};
use super::{AFFINITY_KEY, answering_checks, cookie_of, get_with_cookie, listed, poll};
use crate::support::{NameServer, Router, eventually};

const PODS: [&str; 3] = ["backend-0", "backend-1", "backend-2"];
const COOKIES: [&str; 6] = ["--session-affinity", "sid", "--affinity-cookie", "c", "--affinity-key", AFFINITY_KEY];

fn own_name(pod: &str) -> String {
    format!("{pod}.{HEADLESS}")
}

impl<const N: usize> Headless<N> {
    /// From here on each pod's own name leads to it.
    fn name_pods(&self) {
        self.pods.iter().for_each(|pod| self.names.set(&own_name(pod.name()), pod.addr().ip()));
    }

    /// A router that looks for the pods where they are.
    fn naming_router(&self, args: &[&str]) -> Router {
        let template = format!("{{pod}}.{HEADLESS}:{}", self.port());
        self.router(&[&["--pod-address", &template, "--threads", "1"][..], args].concat())
    }

    fn address(&self, pod: usize) -> String {
        self.pods[pod].addr().to_string()
    }
}

fn ask(router: &Router, target: &str, cookie: &str) -> (u16, Option<String>, bool) {
    let answer = router.request(get_with_cookie(target, cookie));
    (answer.status(), answer.head.value("x-pod").map(str::to_owned), answer.head.has("set-cookie"))
}

/// The cookie of this pod.
fn cookie_for(router: &Router, pod: &str) -> String {
    let mut answers = (0..2 * PODS.len()).map(|_| router.get("/"));
    cookie_of(&answers.find(|answer| answer.pod() == pod).expect("its turn comes"))
}

#[track_caller]
fn assert_no_warning(router: &Router) {
    let warned = |line: &&Value| line["level"] == "WARN" && line.to_string().contains("backend-");
    assert_eq!(router.logs().iter().find(warned), None);
}

fn at(pod: &str) -> (u16, Option<String>, bool) {
    (200, Some(pod.to_owned()), false)
}

#[test]
fn a_sid_under_a_route_reaches_its_pod() {
    let Some(scene) = Headless::start(PODS) else { return };
    scene.name_pods();
    scene.list(&[0, 1]);
    let route = format!("/socket.io/={HEADLESS}:{}", scene.port());
    let router = scene.naming_router(&["--route", &route, "--session-affinity", "sid"]);
    eventually("they are known", || listed(&router) == PODS[..2]);
    for pod in PODS {
        // The last one is not listed: not ready, or this replica has not heard of it yet.
        assert_eq!(router.get(&poll(&format!("{pod}~x"))).pod(), pod);
    }
    for sid in ["backend-9~x", "other-0~x"] {
        assert_eq!(router.get(&poll(sid)).head.value("x-pod-router-error"), Some("session-unknown"), "{sid}");
    }
    assert_eq!(router.metric("pod_router_picks_total", &[("source", "sid"), ("pod", "backend-0")]), 1.0);
}

/// A pod has joined, and one of two replicas has not been told.
#[test]
fn a_cookie_holds_at_a_replica_that_does_not_list_its_pod_yet() {
    let (Some(scene), Some(late)) = (Headless::start(PODS), NameServer::start()) else { return };
    scene.name_pods();
    scene.list(&[0, 1, 2]);
    let addresses: Vec<IpAddr> = scene.pods.iter().map(|pod| pod.addr().ip()).collect();
    late.set_all(HEADLESS, &addresses[..2]);
    PODS.iter().zip(&addresses).for_each(|(pod, ip)| late.set(&own_name(pod), *ip));
    let template = format!("{{pod}}.{HEADLESS}:{}", scene.port());
    let start = |names: &NameServer| {
        let builder = Router::builder().nameserver(names).redis(&scene.redis).arg("--pod-address", &template);
        let builder = builder.arg("--default-backend", format!("{HEADLESS}:{}", scene.port())).args(&COOKIES);
        builder.args(&["--backend-refresh", "50ms", "--threads", "1"]).start_ready()
    };
    let (first, second) = (start(&scene.names), start(&late));
    eventually("they are known", || listed(&first) == PODS && listed(&second) == PODS[..2]);
    let cookie = cookie_for(&first, "backend-2");
    for router in [&first, &second] {
        for target in ["/", &*poll("x")] {
            assert_eq!(ask(router, target, &cookie), at("backend-2"), "{target}");
        }
    }
}

/// A cookie from before, or from a replica that knows no more.
#[test]
fn a_cookie_for_an_address_holds_when_the_pods_name_becomes_known_and_when_it_is_not_any_more() {
    let Some(scene) = Headless::start(PODS) else { return };
    scene.list(&[0, 1, 2]);
    let router = scene.naming_router(&COOKIES);
    let by_address = cookie_for(&router, "backend-1");
    scene.name_pods();
    eventually("they are known", || listed(&router) == PODS);
    assert_eq!(ask(&router, &poll("x"), &by_address), at("backend-1"));
    let by_name = cookie_for(&router, "backend-1");
    assert!(by_name.starts_with("c=backend-1."), "{by_name}");
    PODS.iter().for_each(|pod| scene.names.set_all(&own_name(pod), &[]));
    let mut listings = [&[0, 1][..], &[0, 1, 2]].into_iter().cycle();
    eventually("nobody is known", || {
        // Another set of addresses is a reason to ask.
        listings.next().into_iter().for_each(|pods| scene.list(pods));
        !listed(&router).iter().any(|pod| pod.starts_with("backend-"))
    });
    assert_eq!(ask(&router, &poll("x"), &by_address), at("backend-1"));
}

#[test]
fn a_pod_in_maintenance_gets_no_session_by_its_name() {
    let Some(scene) = Headless::start(PODS) else { return };
    scene.name_pods();
    scene.list(&[0, 1, 2]);
    scene.pods[0].play(answering_checks("200 OK", "maint"));
    let router = scene.naming_router(&["--health-check", "/health interval=50ms timeout=1m rise=1 fall=1"]);
    let answer = || router.get(&poll("backend-0~x"));
    eventually("it is in maintenance", || answer().head.value("x-pod-router-error") == Some("session-unknown"));
    assert_eq!(router.get(&poll("backend-1~x")).pod(), "backend-1");
}

#[test]
fn a_pod_has_one_set_of_series_with_a_room_and_without() {
    let Some(scene) = Headless::start(PODS) else { return };
    scene.name_pods();
    scene.list(&[0, 1, 2]);
    scene.redis.assign("room_a", 0);
    let router = scene.naming_router(&["--session-affinity", "sid"]);
    eventually("they are known", || listed(&router) == PODS);
    let session = poll("backend-0~x");
    assert!(["/", "/", "/", "/room_a", &*session].iter().all(|target| router.get(target).status() == 200));
    let picks = |source: &str| router.metric("pod_router_picks_total", &[("pod", "backend-0"), ("source", source)]);
    assert_eq!((picks("none"), picks("room"), picks("sid")), (1.0, 1.0, 1.0));
    let requests = |pod: &str| router.metric("pod_router_upstream_requests_total", &[("pod", pod)]);
    assert_eq!((requests("backend-0"), requests(&scene.address(0))), (3.0, 0.0));
    assert_eq!(scene.pods[0].accepted(), 1, "and one connection");
}

/// As where a Service of an address of its own stands, or another application's pods do.
#[test]
fn names_that_are_not_there_change_nothing_and_cost_little() {
    let Some(scene) = Headless::start(PODS) else { return };
    scene.list(&[0, 1]);
    let router = scene.naming_router(&[]);
    let mut addresses = [scene.address(0), scene.address(1)];
    addresses.sort();
    assert_eq!(listed(&router), addresses);
    let asked = |name: &str| scene.names.asked().iter().filter(|asked| *asked == name).count();
    eventually("some time has passed", || asked(HEADLESS) >= 40);
    let first = asked(&own_name("backend-0"));
    assert!((1..20).contains(&first), "{first} of {}", asked(HEADLESS));
    assert_eq!(asked(&own_name("backend-40")), 0, "there is no reason to");
    assert_eq!(listed(&router), addresses);
    assert!(["backend-0", "backend-1"].iter().all(|pod| (0..2).any(|_| router.get("/").pod() == *pod)));
    assert_no_warning(&router);
    // Somebody comes late.
    scene.name_pods();
    eventually("they are known", || listed(&router) == PODS[..2]);
}

/// One whose ordinal is far above the number of addresses, and one that nobody knows.
#[test]
fn a_pod_is_found_beyond_those_that_are_not_there() {
    let Some(scene) = Headless::start(["backend-17", "backend-5", "other"]) else { return };
    let (far, near) = (own_name("backend-17"), own_name("backend-5"));
    scene.names.set(&far, scene.pods[0].addr().ip());
    scene.names.set(&near, scene.pods[1].addr().ip());
    scene.list(&[0, 1, 2]);
    let router = scene.naming_router(&[]);
    eventually("they are known", || listed(&router)[1..] == ["backend-17", "backend-5"]);
    assert_eq!(listed(&router)[0], scene.address(2));
}

/// Neither the addresses wait for it, nor does a pod lose its name.
#[test]
fn a_name_server_that_is_silent_about_the_pods_holds_up_nothing() {
    let Some(scene) = Headless::start(PODS) else { return };
    scene.name_pods();
    scene.list(&[0, 1]);
    let router = scene.naming_router(&[]);
    eventually("they are known", || listed(&router) == PODS[..2]);
    PODS.iter().for_each(|pod| scene.names.fall_silent_about(&own_name(pod)));
    scene.list(&[0, 1, 2]);
    let three = [&*scene.address(2), "backend-0", "backend-1"].map(str::to_owned);
    eventually("the third has joined", || listed(&router) == three);
    scene.list(&[0, 2]);
    eventually("the second has left", || listed(&router) == three[..2]);
    // At the start as well.
    let late = scene.naming_router(&[]);
    assert!(listed(&late).iter().all(|pod| !pod.starts_with("backend-")));
    assert_no_warning(&late);
}

/// One name, one address: the name's own before it is known whose it is.
#[test]
fn a_single_address_is_its_pod_as_well() {
    let Some(scene) = Headless::start(PODS) else { return };
    scene.list(&[1]);
    let router = scene.naming_router(&COOKIES);
    assert_eq!(listed(&router), [format!("{HEADLESS}:{}", scene.port())]);
    let before = cookie_of(&router.get("/"));
    scene.name_pods();
    eventually("it is known", || listed(&router) == ["backend-1"]);
    scene.list(&[0, 1]);
    eventually("another has joined", || listed(&router) == PODS[..2]);
    assert!((0..3).all(|_| ask(&router, &poll("x"), &before) == at("backend-1")));
    assert_eq!(router.get(&poll("backend-0~x")).pod(), "backend-0");
}
