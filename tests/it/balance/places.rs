//! Places at pods (`--pod-max-connections`) for requests that no pod in particular has to answer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{AFFINITY_KEY, cookie_of, get_with_cookie, poll, states, tunnel};
use crate::support::{Client, Conn, Pod, Pods, Redis, Router, eventually, now_ms, script};

/// Soon heeded.
const CHECK: [&str; 2] = ["--health-check", "/health interval=50ms timeout=1s rise=1 fall=2"];

const QUEUED: &str = "pod_router_upstream_queued";

/// With one place at each pod.
#[track_caller]
fn router(redis: &Redis, pods: &Pods, args: &[&str]) -> Router {
    super::router(redis, pods, &[&["--pod-max-connections", "1", "--balance", "least_conn"], args].concat())
}

/// Accepts a handshake, and answers what else comes.
fn serve(conn: Conn) -> io::Result<()> {
    serve_saying("up", conn)
}

/// The same, and says a word when it is asked how it is.
fn serve_saying(word: &str, mut conn: Conn) -> io::Result<()> {
    loop {
        let head = conn.request()?;
        if head.has("upgrade") {
            conn.send(script::switching_protocols(&head))?;
            return conn.until_closed();
        }
        let body = if head.second_word() == "/health" { word } else { "" };
        let length = body.len();
        let pod = conn.pod_name();
        conn.send(format!("HTTP/1.1 200 OK\r\nX-Pod: {pod}\r\nContent-Length: {length}\r\n\r\n{body}"))?;
    }
}

fn stage(count: usize) -> (Redis, Pods) {
    let pods = Pods::start(count);
    pods.iter().for_each(|pod| pod.play(serve));
    (Redis::start(), pods)
}

fn expect_none_queued(router: &Router, pods: &Pods) {
    eventually("nobody waits", || pods.iter().all(|pod| router.metric(QUEUED, &[("pod", pod.name())]) == 0.0));
}

/// A tunnel at each pod, which takes its only place, in the order of the pods.
fn take_all(router: &Router, pods: &Pods) -> Vec<Client> {
    let session = |pod: &Pod| format!("/socket.io/?EIO=4&transport=websocket&sid={}~x", pod.name());
    pods.iter().map(|pod| tunnel(router, &session(pod))).collect()
}

/// Whichever pod it was meant for, it is answered by the one that has a place first.
#[test]
fn who_may_go_anywhere_takes_the_first_place_there_is() {
    for freed in [0, 1] {
        let (redis, pods) = stage(2);
        let router = router(&redis, &pods, &["--pod-queue-timeout", "10m"]);
        let mut tunnels = take_all(&router, &pods);
        let mut waiting = router.client();
        waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        pods.iter().for_each(|pod| router.wait_metric(QUEUED, &[("pod", pod.name())], 1.0));
        drop(tunnels.swap_remove(freed));
        assert_eq!(waiting.read_response().pod(), pods[freed].name());
        expect_none_queued(&router, &pods);
        assert_eq!(router.metric("pod_router_queue_duration_seconds_count", &[]), 1.0);
        assert_eq!(router.metric("pod_router_retries_total", &[("result", "elsewhere")]), 0.0);
    }
}

/// The places of a pod that is going down are the first to be free, for everybody who waits.
#[test]
fn who_may_go_anywhere_takes_no_place_at_a_pod_that_is_left_out_by_then() {
    let (redis, pods) = stage(2);
    let in_maintenance = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&in_maintenance);
    pods[0].play(move |conn| {
        let word = if asked.load(Ordering::Relaxed) { "maint" } else { "up" };
        serve_saying(word, conn)
    });
    let router = router(&redis, &pods, &[&CHECK[..], &["--pod-queue-timeout", "10m"]].concat());
    eventually("both are up", || states(&router) == ["up", "up"]);
    let mut tunnels = take_all(&router, &pods);
    let mut waiting = router.client();
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    pods.iter().for_each(|pod| router.wait_metric(QUEUED, &[("pod", pod.name())], 1.0));
    in_maintenance.store(true, Ordering::Relaxed);
    eventually("one is in maintenance", || states(&router) == ["maintenance", "up"]);
    drop(tunnels.remove(0));
    router.wait_metric(QUEUED, &[("pod", "backend-0")], 0.0);
    drop(tunnels);
    assert_eq!(waiting.read_response().pod(), "backend-1");
}

/// Whoever waits for any pod sees the one that comes: all that were there may be full for hours.
#[test]
fn who_may_go_anywhere_goes_to_a_pod_that_has_come_meanwhile() {
    let (redis, pods) = stage(2);
    let says = Arc::new(AtomicBool::new(false));
    let up = Arc::clone(&says);
    pods[1].play(move |conn| serve_saying(if up.load(Ordering::Relaxed) { "up" } else { "maint" }, conn));
    let router = router(&redis, &pods, &[&CHECK[..], &["--pod-queue-timeout", "10m"]].concat());
    eventually("one is in maintenance", || states(&router) == ["up", "maintenance"]);
    let _tunnel = tunnel(&router, "/");
    let mut waiting = router.client();
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    router.wait_metric(QUEUED, &[("pod", "backend-0")], 1.0);
    says.store(true, Ordering::Relaxed);
    assert_eq!(waiting.read_response().pod(), "backend-1");
    assert_eq!(router.metric("pod_router_queue_duration_seconds_count", &[]), 1.0);
}

/// Where all are left out, all get everything, and so whoever waits does so at all of them.
#[test]
fn who_may_go_anywhere_waits_at_all_pods_where_none_is_open() {
    let (redis, pods) = stage(2);
    pods.iter().for_each(|pod| pod.play(|conn| serve_saying("down", conn)));
    let router = router(&redis, &pods, &[&CHECK[..], &["--pod-queue-timeout", "10m"]].concat());
    eventually("both are down", || states(&router) == ["down", "down"]);
    let mut tunnels = take_all(&router, &pods);
    let mut clients = [1.0, 2.0].map(|length| {
        let client = router.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        pods.iter().for_each(|pod| router.wait_metric(QUEUED, &[("pod", pod.name())], length));
        client
    });
    drop(tunnels.remove(1));
    assert_eq!(clients.each_mut().map(|client| client.read_response().pod().to_owned()), ["backend-1", "backend-1"]);
}

/// A pod that is gone has places for everybody: whoever is sent there has lost nothing by it.
#[test]
fn who_was_sent_to_a_pod_in_vain_keeps_its_turn_elsewhere() {
    let (redis, mut pods) = stage(2);
    redis.assign("room_b", 1);
    let router = router(&redis, &pods, &["--pod-queue-timeout", "10m"]);
    let tunnels = take_all(&router, &pods);
    let wait = |target: &str, length| {
        let client = router.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        router.wait_metric(QUEUED, &[("pod", "backend-1")], length);
        client
    };
    let mut waiting = [wait("/any", 1.0), wait("/room_b", 2.0)];
    pods.get_mut(0).kill();
    router.wait_metric("pod_router_upstream_connect_failures_total", &[("pod", "backend-0")], 1.0);
    eventually("it is back in the line", || {
        ["0", "1"].map(|pod| router.metric(QUEUED, &[("pod", &format!("backend-{pod}"))])) == [0.0, 2.0]
    });
    drop(tunnels);
    waiting.iter_mut().for_each(|client| assert_eq!(client.read_response().pod(), "backend-1"));
    let targets: Vec<_> = pods[1].received().iter().skip(1).map(|at| at.head.second_word().to_owned()).collect();
    assert_eq!(targets, ["/any", "/room_b"]);
}

/// A wait that its client has ended was one, at a pod that has a name.
#[test]
fn who_leaves_while_it_waits_is_counted_with_the_pod() {
    let (redis, pods) = stage(1);
    redis.assign("room_a", 0);
    let router = router(&redis, &pods, &["--pod-queue-timeout", "10m"]);
    let _held = tunnel(&router, "/room_a");
    for (count, target) in [(1.0, "/room_a"), (2.0, "/")] {
        let client = router.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-Request-Id: gone-{count}\r\n\r\n"));
        router.wait_metric(QUEUED, &[("pod", "backend-0")], 1.0);
        drop(client);
        let line = router.access_line(&format!("gone-{count}"));
        assert_eq!((&line["status"], &line["pod"]), (&499.into(), &"backend-0".into()));
        router.wait_metric("pod_router_queue_duration_seconds_count", &[], count);
    }
}

/// However many pods there are, it waits as long as one may.
#[test]
fn a_request_waits_once_and_not_at_one_pod_after_the_other() {
    let (redis, pods) = stage(3);
    let router = router(&redis, &pods, &["--pod-queue-timeout", "50ms"]);
    let _tunnels = take_all(&router, &pods);
    assert_eq!(router.get("/").expect_error(503), "pod-busy");
    assert_eq!(router.metric("pod_router_queue_duration_seconds_count", &[]), 1.0);
}

/// A page's picture need not wait for the pod of the page's session.
#[test]
fn a_cookie_holds_nobody_at_a_full_pod_but_a_session() {
    let (redis, pods) = stage(2);
    let affinity = ["--affinity-cookie", "c", "--affinity-key", AFFINITY_KEY, "--pod-queue-timeout", "10m"];
    let router = router(&redis, &pods, &affinity);
    let first = router.get("/");
    let ask = |target: &str| get_with_cookie(target, &cookie_of(&first));
    let mut tunnels = take_all(&router, &pods);
    let (home, other) = if first.pod() == pods[0].name() { (0, 1) } else { (1, 0) };

    let mut session = router.client();
    session.send(ask(&poll("x")));
    router.wait_metric(QUEUED, &[("pod", pods[home].name())], 1.0);
    assert_eq!(router.metric(QUEUED, &[("pod", pods[other].name())]), 0.0, "a session has one pod");

    drop(tunnels.swap_remove(other));
    let elsewhere = router.request(ask("/picture.png"));
    assert_eq!((elsewhere.pod(), elsewhere.head.has("set-cookie")), (pods[other].name(), false));
    tunnels.clear();
    assert_eq!(session.read_response().pod(), pods[home].name());
}

/// A phone that sleeps answers no FIN for as long as `--tunnel-linger`, and the pod is back long before.
#[test]
fn a_tunnel_that_its_pod_has_ended_takes_no_place_there() {
    let (redis, pods) = stage(1);
    let router = router(&redis, &pods, &["--pod-queue", "0", "--tunnel-linger", "10m"]);
    pods[0].play(|mut conn| {
        let head = conn.request()?;
        conn.send(script::switching_protocols(&head))
    });
    let mut client = tunnel(&router, "/live");
    client.expect_end();
    pods[0].play(serve);
    eventually("its place is free", || router.get("/").status() == 200);
    assert_eq!(router.metric("pod_router_websocket_connections", &[]), 1.0, "the client has not said goodbye");
}

/// Whoever has waited for a place waits for the pod as long as anybody: else its restart would fail its whole queue at once.
#[test]
fn what_was_waited_for_a_place_is_not_waited_for_the_pod() {
    let (redis, mut pods) = stage(1);
    let wait = Duration::from_secs(1);
    let router = router(&redis, &pods, &["--pod-wait", "1s", "--pod-queue-timeout", "10m"]);
    let _tunnels = take_all(&router, &pods);
    let (mut waiting, since) = (router.client(), Instant::now());
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    router.wait_metric(QUEUED, &[("pod", "backend-0")], 1.0);
    eventually("it has waited for longer", || since.elapsed() > wait);
    pods.get_mut(0).kill();
    router.wait_metric("pod_router_upstream_connect_failures_total", &[("pod", "backend-0")], 2.0);
    assert_eq!(waiting.read_response().expect_error(503), "pod-unreachable");
}

/// A room's request has to be answered by the room's pod, which may be another one by the time that there is a place.
#[test]
fn who_waits_for_a_rooms_pod_goes_along_when_the_room_moves() {
    for place_is_freed in [false, true] {
        let (redis, pods) = stage(2);
        redis.assign("room_a", 0);
        let router = router(&redis, &pods, &["--pod-queue-timeout", "10m", "--cache-ttl", "1ms"]);
        let held = tunnel(&router, "/room_a");
        let waiting =
            ["", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"].map(|upgrade| {
                let client = router.client();
                let key = if upgrade.is_empty() { "" } else { "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" };
                client.send(format!("GET /room_a HTTP/1.1\r\nHost: a\r\n{upgrade}{key}\r\n"));
                client
            });
        router.wait_metric(QUEUED, &[("pod", "backend-0")], 2.0);
        redis.assign("room_a", 1);
        // Longer than the cache may know the old pod; nothing shows when somebody has looked right before.
        thread::sleep(Duration::from_millis(20));
        // Before anybody has looked, perhaps: the place is not taken for that.
        let _held = (!place_is_freed).then_some(held);
        for mut client in waiting {
            let head = client.read_head();
            assert!([Some("200"), Some("101")].contains(&head.start_line().split(' ').nth(1)), "{}", head.start_line());
        }
        assert_eq!((pods[0].received().len(), pods[1].received().len()), (1, 2));
        expect_none_queued(&router, &pods);
        assert_eq!(router.metric("pod_router_queue_duration_seconds_count", &[]), 2.0, "a wait each");
    }
}

/// A backend may write a room's key again, with the pod that it has, and a new time: nobody goes to the end of the line for it.
#[test]
fn who_waits_for_a_room_that_is_assigned_to_its_pod_again_keeps_the_place_in_the_line() {
    let (redis, pods) = stage(1);
    let before = now_ms();
    redis.assign_at("room_a", 0, before);
    redis.assign_at("room_b", 0, before);
    let router = router(&redis, &pods, &["--pod-queue-timeout", "10m", "--cache-ttl", "1ms"]);
    let held = tunnel(&router, "/room_a");
    let waiting = ["room_a", "room_b"].iter().zip([1.0, 2.0]).map(|(room, queued)| {
        let client = router.client();
        client.send(format!("GET /{room} HTTP/1.1\r\nHost: a\r\n\r\n"));
        router.wait_metric(QUEUED, &[("pod", "backend-0")], queued);
        client
    });
    let waiting: Vec<_> = waiting.collect();
    redis.assign_at("room_a", 0, before + 1);
    let asked = || router.metric("pod_router_room_lookups_total", &[("result", "miss")]);
    let so_far = asked();
    eventually("both have looked", || asked() >= so_far + 4.0);
    drop(held);
    for mut client in waiting {
        assert_eq!(client.read_response().status(), 200);
    }
    let heads: Vec<_> = pods[0].received().into_iter().skip(1).map(|received| received.head).collect();
    let rooms: Vec<_> = heads.iter().map(|head| head.value("x-room-id")).collect();
    assert_eq!(rooms, [Some("room_a"), Some("room_b")]);
    assert_eq!(heads[0].value("x-room-epoch"), Some((before + 1).to_string().as_str()), "and is the new assignment's");
}

/// A directory that has lost the room, and gives nobody one, says nothing of the pod that the room has.
#[test]
fn who_has_a_place_at_a_rooms_pod_is_served_though_a_lost_room_cannot_be_placed() {
    for (code, is_heard_of) in [("directory-unavailable", true), ("no-capacity", false)] {
        let (redis, pods) = stage(1);
        redis.assign("room_a", 0);
        if is_heard_of {
            redis.heartbeat(0, 0, 0, 0);
        }
        let args = ["--pod-queue-timeout", "10m", "--cache-ttl", "1ms", "--on-unassigned", "assign"];
        let router = router(&redis, &pods, &args);
        let held = tunnel(&router, "/room_a");
        let mut waiting = router.client();
        waiting.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
        router.wait_metric(QUEUED, &[("pod", "backend-0")], 1.0);
        redis.command(&["ACL", "SETUSER", "default", "-eval"]);
        redis.command(&["DEL", "room:room_a:pod"]);
        assert_eq!(router.get("/room_a").expect_error(503), code, "it cannot be placed");
        drop(held);
        assert_eq!(waiting.read_response().status(), 200);
    }
}
