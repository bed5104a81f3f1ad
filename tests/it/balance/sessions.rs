//! Real Socket.IO without a room: polling only, each request to the next of two routers, over three pods with the Redis
//! adapter. A session that reached a wrong pod would be told "Session ID unknown", and its client would say so.

use std::io::{BufRead, BufReader, Write};
use std::process::ChildStdin;

use serde_json::Value;

use super::{AFFINITY_KEY, cookie_of, get_with_cookie, knowing, poll};
use crate::support::{NameServer, Pod, Pods, Process, RealPod, Redis, Router, errors, eventually, free_addr, node};

/// How sessions are kept at their pods, on all sides.
struct Affinity {
    pod: &'static [&'static str],
    router: &'static [&'static str],
    clients: &'static [&'static str],
}

/// The pod's name in the `sid`.
const SID: Affinity = Affinity {
    pod: &["--named-sids"],
    router: &["--session-affinity", "sid", "--balance", "least_conn"],
    clients: &[],
};
/// The cookie; the backends' sids are Engine.IO's own.
const COOKIE: Affinity = Affinity {
    pod: &[],
    router: &["--session-affinity", "off", "--affinity-cookie", "pod_router", "--affinity-key", AFFINITY_KEY],
    clients: &["--cookies"],
};
/// The client's address, by which the first request is placed as well: what holds by default.
const CLIENT_IP: Affinity = Affinity { pod: &[], router: &[], clients: &["--addresses"] };

/// Redis, three pods, two routers, and the clients.
struct Scene {
    clients: Process,
    say: ChildStdin,
    lines: Box<dyn Iterator<Item = String>>,
    routers: Vec<Router>,
    pods: Vec<RealPod>,
    redis: Redis,
    affinity: Affinity,
}

impl Scene {
    fn start(affinity: Affinity, count: usize) -> Self {
        let redis = Redis::start();
        let pods: Vec<_> = (0..3).map(|n| Self::pod(&affinity, n, 0, &redis)).collect();
        let routers: Vec<_> = (0..2).map(|_| Self::router(&affinity, &pods, &redis)).collect();
        let ports: Vec<_> = routers.iter().map(|router| router.addr().port().to_string()).collect();
        let (ports, count) = (ports.join(","), count.to_string());
        let mut args = vec!["sessions.mjs", "--routers", &ports, "--clients", &count, "--deadline", "300"];
        args.extend(affinity.clients);
        let mut clients = node("the polling clients", &args);
        let say = clients.take_stdin();
        let lines = BufReader::new(clients.take_stdout()).lines().map(|line| line.expect("the output can be read"));
        Self { clients, say, lines: Box::new(lines), routers, pods, redis, affinity }
    }

    fn pod(affinity: &Affinity, n: usize, port: u16, redis: &Redis) -> RealPod {
        let (port, url) = (port.to_string(), redis.url());
        // Short, so that a poll in flight ends soon by itself where a router drains.
        let mut args = vec!["--port", &port, "--redis", &url, "--ping-interval", "2000"];
        args.extend(affinity.pod);
        RealPod::start("pod.mjs", &format!("backend-{n}"), &args)
    }

    fn router(affinity: &Affinity, pods: &[RealPod], redis: &Redis) -> Router {
        let mut builder = Router::builder().redis(redis).args(affinity.router).args(&["--lame-duck", "500ms"]);
        for pod in pods {
            builder = builder.arg("--pod", pod.flag());
        }
        let all = pods.iter().map(|pod| pod.addr().to_string()).collect::<Vec<_>>().join(",");
        builder.arg("--default-backend", all).start_ready()
    }

    /// What the clients say next.
    fn hear(&mut self) -> Value {
        let line = self.lines.next().unwrap_or_default();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?} {}", errors(&mut self.clients)))
    }

    /// Gives the clients a command; their answer.
    fn ask(&mut self, command: &str) -> Value {
        writeln!(self.say, "{command}").expect("the clients listen");
        self.hear()
    }

    /// Kills a pod and starts it again, where it was.
    fn restart_pod(&mut self, n: usize) {
        let port = self.pods[n].addr().port();
        self.pods[n].process.signal("KILL");
        self.pods[n].process.wait_exit();
        self.pods[n] = Self::pod(&self.affinity, n, port, &self.redis);
    }

    fn misses(&self) -> f64 {
        self.routers.iter().map(|router| router.metric("pod_router_affinity_misses_total", &[])).sum()
    }
}

/// The sum of the figures by pod.
fn total(pods: &Value) -> u64 {
    pods.as_object().expect("figures by pod").values().filter_map(Value::as_u64).sum()
}

#[test]
fn no_session_breaks_but_those_of_a_pod_that_restarts() {
    let mut scene = Scene::start(SID, 500);
    let connected = scene.hear();
    let pods = connected["pods"].as_object().expect("by pod").clone();
    assert_eq!((connected["connected"].as_u64(), pods.len()), (Some(500), 3), "{connected}");
    assert_eq!(scene.ask("shout")["heard"], 500, "a broadcast reaches all, at whichever pod");
    for n in 0..3 {
        let before = scene.ask("settle");
        assert_eq!(total(&before["lost"]), 0, "{before}");
        let name = format!("backend-{n}");
        scene.restart_pod(n);
        let after = scene.ask("settle");
        // Its own sessions are gone with its memory; nobody else's is.
        let lost = after["lost"].as_object().expect("by pod");
        assert!(lost.keys().all(|pod| *pod == name), "{after}");
        assert_eq!(lost.get(&name), before["pods"].get(&name), "{after}");
        eprintln!("{name} restarts: {} of 500 sessions break, all of them its own", total(&after["lost"]));
    }
    assert_eq!(scene.ask("shout")["heard"], 500);
}

#[test]
fn routers_restart_one_by_one_and_no_session_breaks() {
    restart_routers(Scene::start(SID, 200), 200);
}

/// The pods' sids are Engine.IO's own, and nothing else is known of a client but its address.
#[test]
fn routers_restart_and_no_session_by_the_clients_address_breaks() {
    restart_routers(Scene::start(CLIENT_IP, 60), 60);
}

/// Restarts one router after the other while `count` clients poll through both; nobody may notice.
fn restart_routers(mut scene: Scene, count: u64) {
    assert_eq!(scene.hear()["connected"], count);
    for n in 0..2 {
        let other = scene.routers[1 - n].addr().port();
        // What the ingress does: a replica that ends gets no new connection.
        scene.ask(&format!("use {other}"));
        scene.routers[n].signal("TERM");
        assert!(scene.routers[n].wait_exit().success());
        scene.routers[n] = Scene::router(&scene.affinity, &scene.pods, &scene.redis);
        let both: Vec<_> = scene.routers.iter().map(|router| router.addr().port().to_string()).collect();
        scene.ask(&format!("use {}", both.join(",")));
        let after = scene.ask("settle");
        assert_eq!(total(&after["lost"]), 0, "{after}");
    }
    assert_eq!(scene.ask("shout")["heard"], count);
    assert_eq!(scene.misses(), 0.0);
}

#[test]
fn a_cookie_keeps_sessions_as_well() {
    let mut scene = Scene::start(COOKIE, 60);
    let connected = scene.hear();
    assert_eq!((connected["connected"].as_u64(), connected["pods"].as_object().map(|p| p.len())), (Some(60), Some(3)));
    assert_eq!(scene.ask("shout")["heard"], 60);
    let picks = |source: &str| -> f64 {
        scene.routers.iter().map(|router| router.metric("pod_router_picks_total", &[("source", source)])).sum()
    };
    assert_eq!(picks("none"), 60.0, "only the first request of each is balanced");
    assert!(picks("cookie") >= 120.0);
    assert_eq!(scene.misses(), 0.0);
    let before = scene.ask("settle");
    assert_eq!(total(&before["lost"]), 0, "{before}");
    scene.restart_pod(1);
    let after = scene.ask("settle");
    let its_own = before["pods"]["backend-1"].as_u64();
    assert!(its_own.is_some() && its_own == after["lost"]["backend-1"].as_u64(), "{before} {after}");
    assert_eq!(Some(total(&after["lost"])), its_own, "and nobody else's: {after}");
}

#[test]
fn by_default_the_clients_address_keeps_sessions() {
    let mut scene = Scene::start(CLIENT_IP, 60);
    let connected = scene.hear();
    assert_eq!((connected["connected"].as_u64(), connected["pods"].as_object().map(|p| p.len())), (Some(60), Some(3)));
    assert_eq!(scene.ask("shout")["heard"], 60);
    assert_eq!((scene.misses(), total(&scene.ask("settle")["lost"])), (0.0, 0));
}

/// The raw fields: what a browser gets, what it may send back, and what nobody can forge.
#[test]
fn the_cookie_is_set_once_and_cannot_be_made_up() {
    let (redis, pods) = (Redis::start(), Pods::start(3));
    let router = Router::builder()
        .redis(&redis)
        .default_backend(pods.iter())
        .arg("--route", format!("/api/={}", pods[0].addr()))
        .args(COOKIE.router)
        .args(&["--affinity-cookie-attributes", "HttpOnly; SameSite=None; Secure"])
        .start_ready();
    let ask = |target: &str, cookie: &str| router.request(get_with_cookie(target, cookie));
    let first = ask("/socket.io/?EIO=4&transport=polling", "other=1");
    let set = first.head.value("set-cookie").expect("a cookie");
    let (pair, attributes) = set.split_once(';').expect("attributes");
    assert_eq!(attributes, " Path=/; HttpOnly; SameSite=None; Secure");
    for target in ["/", &*poll("x")] {
        let next = ask(target, &format!("pod_router=made-up; {pair}; other=\u{e9}"));
        assert_eq!((next.pod(), next.head.has("set-cookie")), (first.pod(), false), "{target}");
    }
    // Another backend's cookie is another one, for its paths only.
    let set = ask("/api/x", pair).head.value("set-cookie").expect("a cookie of its own").to_owned();
    assert!(set.contains("; Path=/api;") && !set.starts_with(pair), "{set}");
    // A cookie that nobody signed decides nothing; a session without a word of its pod's is unknown.
    for forged in ["pod_router=backend-1", "pod_router=", "pod_router=00000000000000000000000000000000"] {
        assert!(ask("/", forged).head.has("set-cookie"));
        let unknown = ask(&poll("x"), forged);
        assert_eq!(unknown.head.value("x-pod-router-error"), Some("session-unknown"));
    }
}

/// What a shared cache keeps it gives to others, cookie and all: they would all come to one pod.
#[test]
fn what_shared_caches_keep_has_no_cookie() {
    let (redis, pods) = (Redis::start(), Pods::start(2));
    for pod in pods.iter() {
        pod.play(|mut conn| {
            let head = conn.request()?;
            let (_, control) = head.second_word().split_once("control=").expect("what to say");
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: {control}\r\nContent-Length: 0\r\n\r\n"
            ))
        });
    }
    let router = Router::builder().redis(&redis).default_backend(pods.iter()).args(COOKIE.router).start_ready();
    for (target, expected) in [
        ("/app.js?control=public,max-age=60", false),
        ("/app.js?control=s-maxage=60", false),
        ("/app.js?control=max-age=60", true),
        ("/app.js?control=public,private", true),
        ("/socket.io/?EIO=4&transport=polling&control=public", true),
    ] {
        assert_eq!(router.get(target).head.has("set-cookie"), expected, "{target}");
    }
}

#[test]
fn a_sid_leads_to_pods_only() {
    let (redis, pods) = (Redis::start(), Pods::start(2));
    // It has left, and its name leads nowhere that anybody listens.
    let gone = format!("backend-2={}", free_addr());
    let args = ["--session-affinity", "sid", "--pod", &gone];
    let router = knowing(&redis, &pods).default_backend(pods.iter()).args(&args).start_ready();
    let sid = |sid: &str| router.get(&poll(sid));
    assert_eq!((sid("backend-1~x").pod(), sid("backend-0%7Ex").pod()), ("backend-1", "backend-0"));
    for gone in ["backend-2~x", "backend-01~x", "169.254.169.254~x", "evil.example.com~x", "x"] {
        assert_eq!(sid(gone).head.value("x-pod-router-error"), Some("session-unknown"), "{gone}");
    }
    let unnamed = |line: &Value| {
        line["level"] == "WARN"
            && line["message"].as_str().is_some_and(|said| said.contains("names no pod of its backend"))
    };
    router.wait_log("why all but the first are answered so", unnamed);
    assert_eq!(router.logs().into_iter().filter(unnamed).count(), 1, "not for each");
    // The router's own are no pod's misses.
    assert_eq!(router.metric("pod_router_rejected_total", &[("reason", "session-unknown")]), 5.0);
    assert_eq!(router.metric("pod_router_affinity_misses_total", &[]), 0.0);
    let doubled = router.get("/socket.io/?EIO=4&sid=backend-1~x&sid=backend-0~x");
    assert_eq!(doubled.expect_error(400), "duplicate-sid");
}

/// Where the default backend is a single name, any pod of the StatefulSet may be meant. Whoever makes such names up gets
/// answers, and no series: there are only so many.
#[test]
fn made_up_sids_leave_no_series() {
    // Which knows none of them.
    let Some(names) = NameServer::start() else { return };
    let (redis, pods) = (Redis::start(), Pods::start(2));
    let start = |args: &[&str]| {
        let builder = Router::builder().nameserver(&names).redis(&redis).default_backend([&pods[1]]).pod(&pods[0]);
        builder.args(&["--threads", "1"]).args(args).start_ready()
    };
    let router = start(&[]);
    let mut client = router.client();
    let mut ask = |pod: usize| client.get(&poll(&format!("backend-{pod}~x")));
    for pod in 1..200 {
        assert_eq!(ask(pod).head.value("x-pod-router-error"), Some("session-unknown"));
    }
    assert_eq!(ask(0).pod(), "backend-0");
    let text = router.get_admin("/metrics").text();
    let made_up = text.lines().filter(|line| line.contains("pod=\"backend-") && !line.contains("pod=\"backend-0\""));
    assert_eq!(made_up.count(), 0, "{text}");
    assert_eq!(router.metric("pod_router_upstream_connect_failures_total", &[("pod", "other")]), 199.0);
    assert_eq!(router.metric("pod_router_picks_total", &[("pod", "backend-0"), ("source", "sid")]), 1.0);

    // They are guesses, as rooms that nobody knows are.
    let router = start(&["--lookup-rate", "1r/h burst=3"]);
    let asked = |pod: usize| {
        let answer = router.get(&poll(&format!("backend-{pod}~x")));
        answer.head.value("x-pod-router-error").unwrap_or("none").to_owned()
    };
    assert_eq!(asked(0), "none");
    assert!((1..5).all(|pod| asked(pod) == "session-unknown"));
    assert_eq!(
        [5, 6, 0].map(asked),
        ["too-many-lookups", "too-many-lookups", "none"],
        "and a pod that is known is none"
    );
}

/// Two replicas, of which one has not heard of a pod yet: the cookie that the other has set leads there all the same, for
/// as long as the pod is there.
#[test]
fn a_cookie_of_another_replica_leads_to_a_pod_that_this_one_does_not_list() {
    let (Some(names), Some(empty)) = (NameServer::start(), NameServer::start()) else { return };
    let (redis, here, mut there) = (Redis::start(), Pod::start("backend-0"), Pod::start("backend-1"));
    names.set("backend-1.backend.default.svc.cluster.local", there.addr().ip());
    let template = format!("{{pod}}.backend.{{namespace}}.svc.cluster.local:{}", there.addr().port());
    let router = |names: &NameServer, listed: &Pod| {
        let builder =
            Router::builder().nameserver(names).redis(&redis).arg("--pod-address", &template).args(&COOKIE.router[2..]);
        let affinity = ["--session-affinity", "sid", "--lookup-rate", "1r/h burst=1"];
        builder.args(&affinity).pod(listed).default_backend([listed]).start_ready()
    };
    let knows = router(&names, &there);
    // It knows the other pod by its name only, and the last one not even by that.
    let (asked, smaller) = (router(&names, &here), router(&empty, &here));
    let greeted = knows.get("/");
    let pair = cookie_of(&greeted);
    assert!(greeted.pod() == "backend-1" && pair.starts_with("pod_router=backend-1."), "{pair}");
    let ask = |target: &str, cookie: &str| asked.request(get_with_cookie(target, cookie));
    let session = poll("x");
    // Who has made up too many names may not ask for another one; a signature is no guess.
    eventually("the client has guessed too often", || {
        let guessed = asked.get(&poll("backend-9~x"));
        guessed.head.value("x-pod-router-error") == Some("too-many-lookups")
    });
    for target in ["/", "/socket.io/?EIO=4&transport=polling", &session] {
        let answer = ask(target, &pair);
        assert_eq!((answer.pod(), answer.head.has("set-cookie")), ("backend-1", false), "{target}");
    }
    assert_eq!(asked.metric("pod_router_picks_total", &[("source", "cookie")]), 3.0);
    let forged = ask("/", &pair.replace("backend-1.", "backend-7."));
    assert!(forged.pod() == "backend-0" && forged.head.has("set-cookie"), "nobody signed it");
    assert!(!names.asked().iter().any(|name| name.starts_with("backend-7.")), "and where it points nobody has looked");
    // It has gone, and refuses connections or has no name any more: what is no session's goes on at once with another
    // cookie, and a session starts over.
    there.kill();
    for router in [&asked, &smaller] {
        let ask = |target: &str| router.request(get_with_cookie(target, &pair));
        let moved = ask("/");
        let another = moved.head.value("set-cookie").unwrap_or_default();
        assert!(moved.pod() == "backend-0" && another.starts_with("pod_router=backend-0."), "{another}");
        assert_eq!(ask(&session).head.value("x-pod-router-error"), Some("session-unknown"));
    }
}

/// A room whose pod is away is deleted while its request waits: what is left is a request of the browser's session.
#[test]
fn a_request_whose_room_ends_while_it_waits_stays_in_its_session() {
    let (redis, mut pods) = (Redis::start(), Pods::start(3));
    let affinity = ["--session-affinity", "off", "--affinity-cookie", "c", "--affinity-key", AFFINITY_KEY];
    let router = knowing(&redis, &pods)
        .default_backend(pods.iter().skip(1))
        .args(&["--pod-wait", "60s", "--cache-negative", "1ms"])
        .args(&affinity)
        .start_ready();
    let first = router.get("/");
    redis.assign("room_a", 0);
    pods.get_mut(0).unbind();
    let mut waiting = router.client();
    waiting.send(get_with_cookie("/room_a", &cookie_of(&first)));
    router.wait_metric("pod_router_upstream_connect_failures_total", &[("pod", "backend-0")], 1.0);
    redis.command(&["DEL", "room:room_a:pod"]);
    let answer = waiting.read_response();
    assert_eq!((answer.pod(), answer.head.has("set-cookie")), (first.pod(), false));
    let unanswered = |pod: &str| router.metric("pod_router_upstream_requests_total", &[("pod", pod), ("code", "none")]);
    assert_eq!(unanswered("backend-0"), 0.0, "it was answered in the end");
}

#[test]
fn a_session_whose_pod_is_away_is_counted_as_unanswered_by_it() {
    let (redis, mut pods) = (Redis::start(), Pods::start(2));
    let router = super::router(&redis, &pods, &["--session-affinity", "sid"]);
    pods.get_mut(1).unbind();
    for requests in [1.0, 2.0] {
        assert_eq!(router.get(&poll("backend-1~x")).status(), 400);
        let count = |name: &str, label| router.metric(name, &[("pod", "backend-1"), label]);
        assert_eq!(count("pod_router_upstream_requests_total", ("code", "none")), requests);
        assert_eq!(count("pod_router_picks_total", ("source", "sid")), requests);
    }
}
