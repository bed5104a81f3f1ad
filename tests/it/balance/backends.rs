//! Where a backend's pods come from, and which backend a path is for.

use std::net::IpAddr;

use super::{AFFINITY_KEY, cookie_of, get_with_cookie, handshake, knowing, listed, poll, states, tunnel};
use crate::support::{NameServer, Pod, Pods, Redis, Router, eventually, script, wait_for};

/// A name with an address for each of its pods: a headless Service's.
pub(super) const HEADLESS: &str = "backend.default.svc.cluster.local";

/// Such a name, and some pods that may be behind it, all on one port: as many as there are `names`.
pub(super) struct Headless<const N: usize> {
    pub(super) names: NameServer,
    pub(super) redis: Redis,
    pub(super) pods: [Pod; N],
}

impl<const N: usize> Headless<N> {
    /// As yet, nobody is behind the name. `None` where there can be no name server.
    pub(super) fn start(pods: [&str; N]) -> Option<Self> {
        let names = NameServer::start()?;
        let mut port = 0;
        let pods = pods.map(|name| {
            let pod = Pod::start_at_port(name, port);
            port = pod.addr().port();
            pod
        });
        Some(Self { names, redis: Redis::start(), pods })
    }

    /// From here on these are behind the name.
    pub(super) fn list(&self, pods: &[usize]) {
        let addresses: Vec<IpAddr> = pods.iter().map(|n| self.pods[*n].addr().ip()).collect();
        self.names.set_all(HEADLESS, &addresses);
    }

    pub(super) fn port(&self) -> u16 {
        self.pods[0].addr().port()
    }

    /// A router with the name for its default backend, which it asks for very often.
    pub(super) fn router(&self, args: &[&str]) -> Router {
        let builder = Router::builder().nameserver(&self.names).redis(&self.redis);
        let builder = builder.arg("--default-backend", format!("{HEADLESS}:{}", self.port()));
        builder.args(&["--backend-refresh", "50ms"]).args(args).start_ready()
    }
}

#[test]
fn the_longest_prefix_decides() {
    let (redis, pods) = (Redis::start(), Pods::start(4));
    redis.assign("room_a", 0);
    let router = Router::builder()
        .redis(&redis)
        .pod(&pods[0])
        .default_backend([&pods[1]])
        .arg("--route", format!("/api/={} balance=least_conn", pods[2].addr()))
        .arg("--route", format!("/api/admin/={}", pods[3].addr()))
        .start_ready();
    for (target, pod) in [
        ("/", "backend-1"),
        ("/apis", "backend-1"),
        ("/api", "backend-2"),
        ("/api/x?y", "backend-2"),
        ("/api/admin/x", "backend-3"),
        // A room decides first.
        ("/api/room_a", "backend-0"),
        ("/api/room_unknown", "backend-2"),
    ] {
        assert_eq!(router.get(target).pod(), pod, "{target}");
    }
}

#[test]
fn a_backend_can_be_the_pods_with_a_heartbeat() {
    let (redis, pods) = (Redis::start(), Pods::start(3));
    redis.heartbeat(0, 1, 1, 0);
    redis.heartbeat(2, 1, 1, 0);
    redis.heartbeat(1, 1, 1, 600_000);
    // Ready is who knows its pods.
    let args = ["--default-backend", "heartbeats", "--backend-refresh", "50ms", "--threads", "1"];
    let router = knowing(&redis, &pods).args(&args).start_ready();
    let picks: Vec<_> = (0..10).map(|_| router.get("/").pod().to_owned()).collect();
    assert!(!picks.iter().any(|pod| pod == "backend-1"), "{picks:?}");
    assert_eq!(picks.iter().filter(|pod| *pod == "backend-0").count(), 5);
    // A pod that joins gets requests, one that leaves keeps none.
    redis.heartbeat(1, 1, 1, 0);
    redis.heartbeat(0, 1, 1, 600_000);
    eventually("the set has changed", || {
        let picks: Vec<_> = (0..4).map(|_| router.get("/").pod().to_owned()).collect();
        picks.iter().any(|pod| pod == "backend-1") && !picks.iter().any(|pod| pod == "backend-0")
    });
}

/// A Redis that has lost its data says nothing of the pods.
#[test]
fn pods_whose_heartbeats_are_lost_all_at_once_stay() {
    let (redis, pods) = (Redis::start(), Pods::start(2));
    redis.heartbeat(0, 1, 1, 0);
    redis.heartbeat(1, 1, 1, 0);
    let args = ["--default-backend", "heartbeats", "--backend-refresh", "50ms", "--threads", "1"];
    let router = knowing(&redis, &pods).args(&args).start_ready();
    redis.command(&["FLUSHALL"]);
    router.wait_log("the warning", |line| line["level"] == "WARN" && line["pods"] == "backend-0,backend-1");
    let picked = |pod: &str| (0..2).any(|_| router.get("/").pod() == pod);
    assert!(picked("backend-0") && picked("backend-1"));
    // The first that is heard of again does not get everything.
    redis.heartbeat(1, 1, 1, 0);
    let asked = || router.metric("pod_router_picks_total", &[("source", "none")]);
    eventually("some time has passed", || router.get("/").status() == 200 && asked() > 100.0);
    assert!(picked("backend-0") && picked("backend-1"));
}

#[test]
fn a_backend_without_a_pod_says_so() {
    let redis = Redis::start();
    let router = Router::builder().redis(&redis).args(&["--default-backend", "heartbeats"]).start_ready();
    assert_eq!(router.get("/").expect_error(503), "no-backend");
}

/// An empty set says nothing about a session: its pod may be there, and the client may come again.
#[test]
fn a_backend_without_a_pod_ends_no_session() {
    let redis = Redis::start();
    let args = ["--default-backend", "heartbeats", "--session-affinity", "sid"];
    let router = Router::builder().redis(&redis).args(&args).start_ready();
    assert_eq!(router.get(&poll("x")).expect_error(503), "no-backend");
}

/// Redis comes late, and with it the heartbeats: until then there is nobody to send requests to.
#[test]
fn a_router_that_does_not_know_its_pods_is_not_ready() {
    let (redis, pods) = (Redis::start(), Pods::start(1));
    redis.heartbeat(0, 1, 1, 0);
    redis.pause();
    let args = ["--default-backend", "heartbeats", "--backend-refresh", "10m"];
    let router = Router::builder().redis(&redis).pod(&pods[0]).args(&args).start();
    let said = router.get_admin("/readyz");
    assert_eq!((said.status(), &*said.text()), (503, "the directory has not answered yet\n"));
    redis.resume();
    // The ten minutes are for what follows the first answer.
    eventually("it answers, or says that it is not ready", || {
        let ready = router.get_admin("/readyz").status() == 200;
        let status = router.get("/").status();
        assert!(!ready || status == 200, "{status} from a router that was ready");
        ready
    });
}

/// Rooms need no backend: a name server that says nothing delays the router, but does not keep it from them.
#[test]
fn a_source_that_does_not_answer_is_waited_for_and_not_for_ever() {
    const NAME: &str = "_http._tcp.backend.default.svc.cluster.local";
    let Some(names) = NameServer::start() else { return };
    let (redis, pods) = (Redis::start(), Pods::start(1));
    redis.assign("room_a", 0);
    names.fail(true);
    let args = ["--default-backend", NAME, "--backend-refresh", "50ms"];
    let router = Router::builder().nameserver(&names).redis(&redis).pod(&pods[0]).args(&args).start();
    eventually("it waits for the pods", || {
        router.get_admin("/readyz").text() == "the backends' pods are not known yet\n"
    });
    router.wait_log("the warning", |line| line["source"] == NAME && line["level"] == "WARN");
    router.wait_ready();
    assert_eq!(router.get("/room_a").pod(), "backend-0");
    assert_eq!(router.get("/").expect_error(503), "no-backend");
    names.fail(false);
    router.wait_log("it answers again", |line| line["source"] == NAME && line["level"] == "INFO");
    // Nor where nothing comes back at all.
    names.fall_silent();
    let silent = ["--default-backend", "backend.default.svc.cluster.local:1"];
    let router = Router::builder().nameserver(&names).redis(&redis).pod(&pods[0]).args(&silent).start_ready();
    assert_eq!(router.get("/room_a").pod(), "backend-0");
}

/// A name that does not exist is an answer; and it holds up no other source, nor hides what that says later.
#[test]
fn a_missing_name_leaves_the_others_alone() {
    const NAME: &str = "backend.default.svc.cluster.local";
    let Some(names) = NameServer::start() else { return };
    let redis = Redis::start();
    let first = Pod::start("first");
    let port = first.addr().port();
    let second = Pod::start_at_port("second", port);
    names.set_all(NAME, &[first.addr().ip()]);
    let router = Router::builder()
        .nameserver(&names)
        .redis(&redis)
        .arg("--default-backend", format!("{NAME}:{port},missing.default.svc.cluster.local:{port}"))
        .args(&["--backend-refresh", "50ms"])
        .start_ready();
    assert_eq!(listed(&router), [format!("{NAME}:{port}")]);
    // Two names, and far more often than every five seconds.
    eventually("they are asked for at that pace", || names.asked().len() >= 40);
    names.set_all(NAME, &[first.addr().ip(), second.addr().ip()]);
    eventually("the second address is seen", || listed(&router).len() == 2);
    // What fails says nothing: the pods stay.
    names.fail(true);
    router.wait_log("the failure", |line| line["level"] == "WARN" && line["source"].is_string());
    assert_eq!(listed(&router).len(), 2);
}

/// A cookie is for a pod, however many others there are beside it.
#[test]
fn a_cookie_session_outlives_a_moment_with_one_pod() {
    let Some(scene) = Headless::start(["first", "second"]) else { return };
    scene.list(&[0]);
    let affinity = ["--session-affinity", "off", "--affinity-cookie", "c", "--affinity-key", AFFINITY_KEY];
    let router = scene.router(&affinity);
    let cookie = cookie_of(&router.get("/"));
    let session = || {
        let answer = router.request(get_with_cookie(&poll("x"), &cookie));
        (answer.status(), answer.head.value("x-pod").map(str::to_owned))
    };
    let at_first = (200, Some("first".to_owned()));
    for pods in [&[0, 1][..], &[0], &[1, 0]] {
        scene.list(pods);
        eventually("the change is seen", || listed(&router).len() == pods.len());
        assert_eq!(session(), at_first, "{pods:?}");
    }
}

/// A headless service: one name, an address for each pod.
#[test]
fn each_address_of_a_name_is_a_pod() {
    let Some(scene) = Headless::start(["first", "second", "third"]) else { return };
    scene.list(&[0, 1]);
    let router = scene.router(&["--threads", "1"]);
    let reached = |pod: &str| (0..3).any(|_| router.get("/").pod() == pod);
    eventually("both get requests", || reached("first") && reached("second"));
    scene.list(&[2, 1]);
    eventually("the one that has joined gets requests", || reached("third"));
    assert!(!reached("first"), "and the one that has left none");
}

/// Rooms know a pod by its name and the backend by its address: it is one pod all the same, with one load and one limit.
#[test]
fn a_rooms_pod_and_the_address_it_is_listed_at_have_one_load_and_one_limit() {
    const POD: &str = "backend-0.pods.default.svc.cluster.local";
    let Some(scene) = Headless::start(["first", "second"]) else { return };
    scene.list(&[0, 1]);
    scene.names.set(POD, scene.pods[0].addr().ip());
    scene.redis.assign("room_a", 0);
    let template = format!("{{pod}}.pods.default.svc.cluster.local:{}", scene.port());
    let router = |args: &[&str]| {
        let common = ["--pod-address", &template, "--session-affinity", "off"];
        scene.router(&[&common[..], args].concat())
    };

    scene.pods.iter().for_each(|pod| pod.play(script::websocket_echo));
    let least_conn = router(&["--balance", "least_conn"]);
    let room = tunnel(&least_conn, "/room_a");
    scene.pods.iter().for_each(|pod| pod.play(script::echo));
    assert!((0..9).all(|_| least_conn.get("/").pod() == "second"), "the first has the room's tunnel");
    drop(room);
    eventually("they are equally empty again", || (0..9).any(|_| least_conn.get("/").pod() == "first"));

    scene.pods.iter().for_each(|pod| pod.play(script::websocket_echo));
    let limited = router(&["--pod-max-connections", "1", "--pod-queue", "0"]);
    let tunnels = [(); 2].map(|()| tunnel(&limited, "/"));
    assert_eq!(limited.get("/room_a").expect_error(503), "pod-busy", "what has no room has the only place");
    drop(tunnels);
    let room = wait_for("the place is free again", || {
        let mut client = limited.client();
        client.send(handshake("/room_a"));
        (client.read_head().second_word() == "101").then_some(client)
    });
    scene.pods.iter().for_each(|pod| pod.play(script::echo));
    assert!((0..9).all(|_| limited.get("/").pod() == "second"));
    drop(room);
}

/// SRV records name the pods, so that rooms, sessions and the backend mean the same ones.
#[test]
fn a_services_srv_record_names_its_pods() {
    const NAME: &str = "_http._tcp.backend.default.svc.cluster.local";
    let Some(names) = NameServer::start() else { return };
    let (redis, pods) = (Redis::start(), Pods::start(2));
    let target = |n: usize| (pods[n].addr().ip().to_string(), pods[n].addr().port());
    for (n, pod) in pods.iter().enumerate() {
        names.set(&target(n).0, pod.addr().ip());
    }
    names.set_services(NAME, &[target(0), target(1)]);
    let args = ["--default-backend", NAME, "--backend-refresh", "100ms"];
    let router = knowing(&redis, &pods).nameserver(&names).args(&args).start_ready();
    assert_eq!(router.get("/").status(), 200, "ready is who knows its pods");
    assert_eq!(router.get(&poll("backend-1~x")).pod(), "backend-1");
    let gone = router.get(&poll("backend-7~x"));
    assert_eq!((gone.status(), gone.head.value("x-pod-router-error")), (400, Some("session-unknown")));

    // One that is not ready is left out, and has its sessions still.
    names.set_services(NAME, &[target(0)]);
    eventually("it is left out", || listed(&router).len() == 1);
    assert_eq!(router.get(&poll("backend-1~x")).pod(), "backend-1");
}

/// A pod that never answers has all the time of `timeout`; the others are asked at their pace.
#[test]
fn a_slow_pod_delays_no_check_but_its_own() {
    let (redis, pods) = (Redis::start(), Pods::start(2));
    pods[0].play(script::silence);
    pods[1].play(script::answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ndrain"));
    let router = Router::builder()
        .redis(&redis)
        .default_backend(pods.iter())
        .args(&["--health-check", "/health interval=50ms timeout=10m"])
        .start_ready();
    let asked = |n: usize| pods[n].received().len();
    eventually("the other is asked again and again", || asked(1) >= 5);
    assert_eq!(asked(0), 1, "once at a time");
    assert_eq!(states(&router)[1], "drain");
}

/// Where a request may not go, no check goes: the name may lead to somebody else by now.
#[test]
fn a_pod_outside_its_networks_is_not_asked_how_it_is() {
    let (redis, pods) = (Redis::start(), Pods::start(2));
    let check = ["--health-check", "/health interval=50ms fall=1", "--pod-networks", "192.0.2.0/24"];
    let router = Router::builder().redis(&redis).pod(&pods[0]).default_backend(pods.iter()).args(&check).start_ready();
    eventually("it counts as down", || states(&router)[0] == "down");
    eventually("what is no pod of the StatefulSet is asked", || pods[1].accepted() > 0);
    assert_eq!(pods[0].accepted(), 0);
}
