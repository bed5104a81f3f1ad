//! Pods by their StatefulSet name, with a name server of the test's own: one question a name, short memories, and a pod
//! that comes back under another address.
//!
//! A name server has port 53: without root these tests, and those of `balance/backends.rs` that need one, say SKIPPED and
//! pass.

use serde_json::Value;

use crate::balance::{poll, tunnel};
use crate::support::{Gate, NameServer, PATIENCE, Pod, Redis, Router, eventually, script, together};

const BACKEND_0: &str = "backend-0.backend.default.svc.cluster.local";
const ROOM: &str = "/room_a";

/// A default backend that needs no name: its own is asked for from the start on.
const NO_NAME: [&str; 2] = ["--default-backend", "127.0.0.1:1"];

/// A router that finds its pods by name, each on `port`.
fn router(names: &NameServer, redis: &Redis, port: u16, args: &[&str]) -> Router {
    let template = format!("{{pod}}.backend.{{namespace}}.svc.cluster.local:{port}");
    let no_name: &[&str] = if args.contains(&NO_NAME[0]) { &[] } else { &NO_NAME };
    let builder = Router::builder().nameserver(names).redis(redis).arg("--pod-address", template);
    builder.args(no_name).args(args).start_ready()
}

/// A room's pod, and a name server that knows it.
struct Scene {
    names: NameServer,
    redis: Redis,
    pod: Pod,
}

impl Scene {
    /// `None` where there can be no name server.
    fn start() -> Option<Self> {
        let scene = Self { names: NameServer::start()?, redis: Redis::start(), pod: Pod::start("backend-0") };
        scene.names.set(BACKEND_0, scene.pod.addr().ip());
        scene.redis.assign("room_a", 0);
        Some(scene)
    }

    fn router(&self, args: &[&str]) -> Router {
        router(&self.names, &self.redis, self.pod.addr().port(), args)
    }
}

#[test]
fn a_pod_is_found_by_its_full_name_and_asked_for_once() {
    let Some(scene) = Scene::start() else { return };
    // Every request needs a new connection, and so the address.
    scene.pod.play(script::answer("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
    let router = scene.router(&[]);
    for response in together(50, |_| router.get(ROOM)) {
        assert_eq!(response.status(), 200);
    }
    // The search list is not walked; and all fifty, on however many threads, share one question.
    assert_eq!(scene.names.asked(), [BACKEND_0]);
    assert_eq!(scene.pod.received()[0].head.value("host"), Some("test"));
}

/// Kubernetes gives a restarted pod another address under its old name.
#[test]
fn a_failed_connection_forgets_the_address() {
    let Some(mut scene) = Scene::start() else { return };
    let new = Pod::start_at_port("new", scene.pod.addr().port());
    let router = scene.router(&[]);
    assert_eq!(router.get(ROOM).pod(), "backend-0");
    scene.pod.kill();
    scene.names.set(BACKEND_0, new.addr().ip());
    assert_eq!(router.get(ROOM).pod(), "new");
}

/// Tunnels at the address that a pod had before have their places there, and not where it is now.
#[test]
fn a_full_address_keeps_nobody_from_where_the_pod_has_gone() {
    for queue in ["0", "1"] {
        let Some(scene) = Scene::start() else { return };
        let new = Pod::start_at_port("new", scene.pod.addr().port());
        scene.pod.play(script::websocket_echo);
        let limits = ["--pod-max-connections", "2", "--threads", "1", "--pod-queue", queue];
        let patience = if queue == "0" { &[][..] } else { &["--pod-queue-timeout", "10m"] };
        let router = scene.router(&[&limits, patience].concat());
        let tunnels = [(); 2].map(|()| tunnel(&router, ROOM));
        if queue == "0" {
            assert_eq!(router.get(ROOM).expect_error(503), "pod-busy");
            scene.names.set(BACKEND_0, new.addr().ip());
            eventually("the new address is dialled", || router.get(ROOM).status() == 200);
        } else {
            let mut waiting = router.client();
            waiting.send(format!("GET {ROOM} HTTP/1.1\r\nHost: a\r\n\r\n"));
            router.wait_metric("pod_router_upstream_queued", &[("pod", "backend-0")], 1.0);
            scene.names.set(BACKEND_0, new.addr().ip());
            assert_eq!(waiting.read_response().pod(), "new", "who waits already goes along");
        }
        assert_eq!((router.get(ROOM).pod(), scene.pod.open()), ("new", 2), "and the tunnels stay");
        drop(tunnels);
    }
}

/// When DNS' answer is over, the next is waited for before anybody is refused for want of a place at the old address; not for
/// long, for a name server that says nothing has no say in that.
#[test]
fn the_first_who_asks_dns_anew_is_not_refused_at_a_full_address_that_the_pod_has_left() {
    let Some(scene) = Scene::start() else { return };
    let new = Pod::start_at_port("new", scene.pod.addr().port());
    scene.pod.play(script::websocket_echo);
    let places = ["--pod-max-connections", "1", "--pod-queue", "0", "--threads", "1", "--dns-stale", "0s"];
    let first_who_asks = |router: &Router| {
        let asked = scene.names.asked().len();
        let mut answers = vec![];
        eventually("the answer is over, and DNS asked again", || {
            answers.push(router.get(ROOM).status());
            // For a question that nobody has waited for; nothing shows where that takes longer.
            std::thread::sleep(std::time::Duration::from_millis(50));
            scene.names.asked().len() > asked
        });
        let first = answers.pop().expect("one");
        assert!(answers.iter().all(|status| *status == 503), "{answers:?}");
        first
    };
    // A machine that stands still for a moment takes the name server for a silent one.
    let is_served = (0..3).any(|_| {
        let router = scene.router(&places);
        scene.names.set(BACKEND_0, scene.pod.addr().ip());
        let _tunnel = tunnel(&router, ROOM);
        scene.names.set(BACKEND_0, new.addr().ip());
        first_who_asks(&router) == 200
    });
    assert!(is_served);

    let router = scene.router(&places);
    scene.names.set(BACKEND_0, scene.pod.addr().ip());
    let _tunnel = tunnel(&router, ROOM);
    scene.names.fall_silent();
    assert_eq!(first_who_asks(&router), 503);
    let is_silence = |line: &Value| line["message"] == "the resolver did not answer in time";
    assert!(!router.logs().iter().any(is_silence), "it is not waited for");
}

/// A thread learns only by a connection of its own which address a name leads to, and so in which line its requests are. Each
/// of these is on either of two threads: that none is on the one that does not know yet is one run in 256.
#[test]
fn who_finds_the_line_with_its_own_connection_goes_along_when_the_room_moves() {
    let Some(scene) = Scene::start() else { return };
    let new = Pod::start_at_port("backend-1", scene.pod.addr().port());
    scene.names.set("backend-1.backend.default.svc.cluster.local", new.addr().ip());
    scene.pod.play(script::websocket_echo);
    let places = ["--pod-max-connections", "1", "--pod-queue-timeout", "10m", "--cache-ttl", "1ms"];
    let router = scene.router(&[&places[..], &["--threads", "2"]].concat());
    let held = tunnel(&router, ROOM);
    let mut waiting: Vec<_> = (1..=8)
        .map(|count| {
            let client = router.client();
            client.send(format!("GET {ROOM} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
            router.wait_metric("pod_router_upstream_queued", &[("pod", "backend-0")], f64::from(count));
            client
        })
        .collect();
    scene.redis.assign("room_a", 1);
    for client in &mut waiting {
        assert_eq!(client.read_response().pod(), "backend-1");
    }
    drop(held);
}

/// Those that waited before anybody knew the address are not let through to it one after the other, to find it full.
#[test]
fn who_waited_in_the_line_of_the_name_dials_nothing_for_it() {
    let Some(scene) = Scene::start() else { return };
    let gate = Gate::shared();
    let opened = std::sync::Arc::clone(&gate);
    scene.pod.play(move |mut conn| {
        loop {
            conn.request()?;
            opened.wait();
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        }
    });
    let router = scene.router(&["--pod-max-connections", "1", "--pod-queue-timeout", "10m", "--threads", "1"]);
    let mut clients: Vec<_> = (0..10).map(|_| router.client()).collect();
    clients.iter_mut().for_each(|client| client.send(format!("GET {ROOM} HTTP/1.1\r\nHost: a\r\n\r\n")));
    router.wait_metric("pod_router_upstream_queued", &[("pod", "backend-0")], 9.0);
    eventually("the first is there", || scene.pod.received().len() == 1);
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.read_response().status(), 200));
    assert_eq!(scene.pod.open(), 1);
}

#[test]
fn a_name_that_is_missing_is_waited_for_and_not_for_long_after_it_is_back() {
    let Some(names) = NameServer::start() else { return };
    let (redis, pod) = (Redis::start(), Pod::start("backend-0"));
    redis.assign("room_a", 0);
    let wait = format!("{}s", PATIENCE.as_secs());
    let router = router(&names, &redis, pod.addr().port(), &["--pod-wait", &wait]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| router.get(ROOM));
        eventually("the name is asked for", || !names.asked().is_empty());
        names.set(BACKEND_0, pod.addr().ip());
        assert_eq!(waiting.join().expect("the request is answered").pod(), "backend-0");
    });
    assert!(names.asked().iter().all(|name| name == BACKEND_0), "{:?}", names.asked());
}

#[test]
fn a_name_that_stays_missing_is_a_pod_that_cannot_be_reached() {
    let Some(names) = NameServer::start() else { return };
    let redis = Redis::start();
    redis.assign("room_a", 0);
    let router = router(&names, &redis, 1, &["--pod-wait", "300ms"]);
    let response = router.get(ROOM);
    assert_eq!((response.status(), response.head.value("retry-after")), (503, Some("1")));
    assert_eq!(response.head.value("x-pod-router-error"), Some("pod-unreachable"));
    // A failure is remembered for a second: the attempts of 300 ms have shared one question.
    assert_eq!(names.asked().len(), 1);
}

/// A name server in trouble says nothing about the pods, and their sessions live on: the client asks again.
#[test]
fn a_name_server_that_fails_ends_no_session() {
    let Some(names) = NameServer::start() else { return };
    let redis = Redis::start();
    // The address of the template: nothing has resolved it before.
    let session = |router: &Router| {
        let answer = router.get(&poll("backend-0~x"));
        (answer.status(), answer.head.value("x-pod-router-error").map(str::to_owned))
    };
    names.fail(true);
    let away = ["--pod-wait", "0s", "--default-backend", "127.0.0.1:1"];
    let router = router(&names, &redis, 1, &away);
    assert_eq!(session(&router), (503, Some("pod-unreachable".to_owned())));
    names.fail(false);
    eventually("the name is known not to exist", || session(&router) == (400, Some("session-unknown".to_owned())));
}

/// It is part of the wait for the pod, and not a wait of its own before that. (That the log is told of a name server's silence
/// takes longer than any of these requests may.)
#[test]
fn a_name_server_that_says_nothing_holds_a_request_no_longer_than_a_pod_may() {
    let Some(scene) = Scene::start() else { return };
    scene.names.fall_silent();
    for args in [&["--pod-wait", "0s"][..], &["--pod-wait", "900ms", "--connect-timeout", "100ms"]] {
        let router = scene.router(args);
        assert_eq!(router.get(ROOM).expect_error(503), "pod-unreachable", "{args:?}");
        let silences =
            router.logs().iter().filter(|line| line["message"] == "the resolver did not answer in time").count();
        assert_eq!(silences, 0, "{args:?}");
    }
}

/// What a name led to last is as good as anything while nobody can say, for as long as somebody wants that.
#[test]
fn while_no_name_server_answers_a_pods_last_address_is_used() {
    let Some(scene) = Scene::start() else { return };
    // Every request needs a new connection, and so the address.
    scene.pod.play(script::answer("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
    let lasting = scene.router(&["--pod-wait", "0s"]);
    let forgetful = scene.router(&["--pod-wait", "0s", "--dns-stale", "0s"]);
    assert_eq!([&lasting, &forgetful].map(|router| router.get(ROOM).status()), [200, 200]);
    let used = |router: &Router| router.metric("pod_router_stale_addresses_total", &[]);
    assert_eq!(used(&lasting), 0.0);
    scene.names.fail(true);
    eventually("the address is past its time", || {
        assert_eq!(lasting.get(ROOM).status(), 200);
        used(&lasting) > 0.0
    });
    eventually("its time is over for the other as well", || forgetful.get(ROOM).status() == 503);
    assert_eq!((lasting.get(ROOM).status(), used(&forgetful)), (200, 0.0));
}

/// And is in time for whoever can wait less than it takes to give up on the name server.
#[test]
fn a_silent_name_server_does_not_outlast_a_short_wait_where_there_is_a_last_address() {
    let Some(scene) = Scene::start() else { return };
    scene.pod.play(script::answer("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
    let router = scene.router(&["--pod-wait", "0s", "--connect-timeout", "500ms"]);
    assert_eq!(router.get(ROOM).status(), 200);
    scene.names.fall_silent();
    eventually("the address is past its time", || {
        assert_eq!(router.get(ROOM).status(), 200);
        router.metric("pod_router_stale_addresses_total", &[]) > 0.0
    });
}

/// A pod that refuses may be somewhere else by now, and only the name server can say where.
#[test]
fn a_last_address_that_refuses_is_used_no_more() {
    let Some(mut scene) = Scene::start() else { return };
    scene.pod.play(script::answer("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
    let router = scene.router(&["--pod-wait", "0s"]);
    assert_eq!(router.get(ROOM).status(), 200);
    scene.names.fail(true);
    eventually("the address is past its time", || {
        assert_eq!(router.get(ROOM).status(), 200);
        router.metric("pod_router_stale_addresses_total", &[]) > 0.0
    });
    scene.pod.kill();
    assert_eq!(router.get(ROOM).expect_error(503), "pod-unreachable");
    scene.pod.bind();
    let asked = scene.names.asked().len();
    eventually("the name is asked for again and again", || {
        assert_eq!(router.get(ROOM).expect_error(503), "pod-unreachable");
        scene.names.asked().len() >= asked + 6
    });
    scene.names.fail(false);
    eventually("the name server says where it is", || router.get(ROOM).status() == 200);
    // As it may say that it is nowhere.
    scene.names.set_all(BACKEND_0, &[]);
    eventually("the name is known not to exist", || router.get(ROOM).status() == 503);
}

/// A default backend in the same namespace is a short name: it needs the search list that a full name must not walk.
#[test]
fn a_short_name_is_looked_for_along_the_search_list() {
    let Some(names) = NameServer::start() else { return };
    let (redis, pod) = (Redis::start(), Pod::start("any"));
    names.set("backend-service.default.svc.cluster.local", pod.addr().ip());
    let backend = format!("backend-service:{}", pod.addr().port());
    let router = router(&names, &redis, 1, &["--default-backend", &backend]);
    assert_eq!(router.get("/").pod(), "any");
    assert!(names.asked().len() <= 2, "{:?}", names.asked());
    assert_eq!(pod.accepted(), 1);
}

/// A backend that is one name: with traffic all the time nobody has a reason to dial.
#[test]
fn a_kept_connection_carries_nothing_to_where_the_name_leads_no_more() {
    let Some(names) = NameServer::start() else { return };
    let (redis, old) = (Redis::start(), Pod::start("old"));
    let new = Pod::start_at_port("new", old.addr().port());
    names.set("backend-service.default.svc.cluster.local", old.addr().ip());
    let backend = format!("backend-service:{}", old.addr().port());
    let router = router(&names, &redis, 1, &["--default-backend", &backend, "--threads", "1"]);
    old.play(script::websocket_echo);
    let mut tunnel = tunnel(&router, "/");
    old.play(script::echo);
    assert_eq!((router.get("/").pod(), old.open()), ("old", 2));
    names.set("backend-service.default.svc.cluster.local", new.addr().ip());
    eventually("the new pod gets the requests", || router.get("/").pod() == "new");
    assert!((0..9).all(|_| router.get("/").pod() == "new"), "all of them");
    eventually("what was kept is closed", || old.open() == 1);
    tunnel.send("and the tunnel stays");
    assert_eq!(tunnel.read_exact(20), b"and the tunnel stays");
}

/// Rooms know the pod by its StatefulSet's name, and the backend by another one.
#[test]
fn a_pod_that_a_backend_lists_by_a_name_of_its_own_has_one_load() {
    let Some(names) = NameServer::start() else { return };
    let (redis, first) = (Redis::start(), Pod::start("first"));
    let second = Pod::start_at_port("second", first.addr().port());
    let port = first.addr().port();
    for (name, pod) in [("a.default.svc.cluster.local", &first), ("b.default.svc.cluster.local", &second)] {
        names.set(name, pod.addr().ip());
    }
    names.set(BACKEND_0, first.addr().ip());
    redis.assign("room_a", 0);
    let listed = format!("a.default.svc.cluster.local:{port},b.default.svc.cluster.local:{port}");
    for policy in [&["--balance", "least_conn"][..], &["--pod-max-connections", "1", "--balance", "round_robin"]] {
        first.play(script::websocket_echo);
        let router = router(&names, &redis, port, &[&["--default-backend", &listed][..], policy].concat());
        let _tunnel = tunnel(&router, ROOM);
        first.play(script::echo);
        assert!((0..9).all(|_| router.get("/").pod() == "second"), "the first has the room's tunnel");
    }
}

/// The system's resolver cannot be interrupted: the process must not wait for it.
#[test]
fn a_name_server_that_says_nothing_does_not_hold_up_the_end() {
    let Some(names) = NameServer::start() else { return };
    names.fall_silent();
    let redis = Redis::start();
    redis.assign("room_a", 0);
    let mut router = router(&names, &redis, 1, &["--lame-duck", "0s", "--drain-timeout", "200ms"]);
    let client = router.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the pod's name is asked for", || !names.asked().is_empty());
    router.signal("TERM");
    assert_eq!(router.wait_exit().code(), Some(0));
}

/// Half a second after each other, and for as long as it lasts: a warning each would say nothing new.
#[test]
fn the_log_is_told_of_a_silence_and_of_its_end() {
    const NAME: &str = "headless.default.svc.cluster.local:1";
    let Some(names) = NameServer::start() else { return };
    names.set("headless.default.svc.cluster.local", [127, 0, 0, 1].into());
    names.fall_silent();
    let redis = Redis::start();
    let builder = Router::builder().nameserver(&names).redis(&redis).env("RUST_LOG", "info,pod_router::dns=debug");
    let router = builder.args(&["--default-backend", NAME, "--threads", "1"]).start();
    let said = |line: &Value, message: &str| line["message"] == message && line["address"] == NAME;
    let begins = "the resolver did not answer in time";
    router.wait_log("the second silence", |line| said(line, "the resolver still does not answer in time"));
    names.speak_again();
    router.wait_log("the end", |line| said(line, "the resolver answers again") && line["level"] == "INFO");
    let logs = router.logs();
    let warnings: Vec<_> = logs.iter().filter(|line| said(line, begins)).collect();
    assert!(warnings.len() == 1 && warnings[0]["level"] == "WARN", "{warnings:?}");
}

/// Each blocks a thread for as long as resolv.conf says, here for minutes, and whoever waited for it has left long before.
#[test]
fn names_that_clients_make_up_take_no_more_than_so_many_threads() {
    /// `dns::MOST_LOOKUPS`.
    const BOUND: usize = 256;
    let Some(names) = NameServer::start() else { return };
    let redis = Redis::start();
    names.fall_silent();
    let builder = Router::builder().nameserver(&names).redis(&redis).args(&NO_NAME).args(&["--pod-wait", "0s"]);
    let template = "{pod}.backend.{namespace}.svc.cluster.local:1";
    let router = builder.arg("--pod-address", template).args(&["--threads", "1"]).start_ready();
    let ask = |ordinal: usize| {
        let client = router.client();
        client.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", poll(&format!("backend-{ordinal}~x"))));
        client
    };
    let full = "too many lookups hang: no other name is looked up";
    let mut waiting = Vec::new();
    // Not all at once: no question may be lost on its way.
    while waiting.len() < BOUND {
        waiting.extend((waiting.len()..waiting.len() + 32).map(ask));
        eventually("they are asked for", || names.asked().len() == waiting.len());
    }
    waiting.extend((BOUND..BOUND + 50).map(ask));
    for mut client in waiting {
        assert_eq!(client.read_response().expect_error(503), "pod-unreachable");
    }
    // They still hang where nobody waits for them any more.
    let last = ask(BOUND + 50).read_response();
    assert_eq!((&*last.expect_error(503), names.asked().len()), ("pod-unreachable", BOUND));
    router.access_line(last.head.value("x-request-id").unwrap_or_default());
    let logs = router.logs();
    let warned = logs.iter().filter(|line| line["message"] == full);
    assert_eq!(warned.map(|line| line["level"].as_str()).collect::<Vec<_>>(), [Some("WARN")]);
    // Of those that were never asked for there is no silence to tell of.
    let silences =
        |logs: &[Value]| logs.iter().filter(|line| line["message"] == "the resolver did not answer in time").count();
    eventually("the log is told of each", || silences(&router.logs()) >= BOUND);
    assert_eq!(silences(&router.logs()), BOUND);
}

/// On the control thread it is the name of Redis.
#[test]
fn a_second_signal_does_not_wait_for_the_name_of_redis() {
    let Some(names) = NameServer::start() else { return };
    names.fall_silent();
    let builder = Router::builder().nameserver(&names).args(&NO_NAME).args(&["--lame-duck", "10m"]);
    let mut router = builder.arg("--redis-url", "redis://redis.default.svc.cluster.local:6379").start();
    eventually("the name of Redis is asked for", || !names.asked().is_empty());
    router.signal("TERM");
    router.wait_log("the lame duck", |line| line["message"] == "shutting down: still serving");
    router.signal("TERM");
    assert_eq!(router.wait_exit().code(), Some(0));
}
