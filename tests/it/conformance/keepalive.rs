//! What takes its time, in real time: keep-alive against a real Node server with its default of 5 s, where no request may
//! be lost to a connection that has just been closed, and silence.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::tunnel;
use crate::support::{PATIENCE, Process, Redis, Router, Stage, script, together};

/// Answers each POST with the length of its body; prints its port.
const SERVER: &str = r#"
const server = require("node:http").createServer((request, response) => {
  let length = 0;
  request.on("data", (data) => { length += data.length; });
  request.on("end", () => response.end(String(length)));
});
if (server.keepAliveTimeout !== 5000) throw new Error(`keepAliveTimeout is ${server.keepAliveTimeout}`);
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("close", () => process.exit()).resume();
"#;

const CLIENTS: usize = 50;
const EACH: usize = 200;

/// Around Node's 5 s, the router's own limit of 4 s, and Node's announced slack of a second.
const PAUSES: [u64; 6] = [3900, 4000, 4100, 4900, 5000, 5100];

#[test]
fn ten_thousand_posts_and_not_one_bad_gateway() {
    let mut node = Process::start("a Node server", "node", |command| {
        command.args(["-e", SERVER]).stdin(std::process::Stdio::piped());
    });
    let mut port = String::new();
    BufReader::new(node.take_stdout()).read_line(&mut port).expect("the server says its port");
    let redis = Redis::start();
    redis.assign("room_a", 0);
    let pod = format!("backend-0=127.0.0.1:{}", port.trim());
    let router = Router::builder().redis(&redis).arg("--pod", pod).start_ready();
    let answered = AtomicUsize::new(0);
    together(CLIENTS, |number| {
        let mut client = router.client();
        for request in 0..EACH {
            // A third of the connections pauses, at times of their own, so that the pool has idle ones of every age.
            if number % 3 == 0 && request % 40 == number % 40 {
                thread::sleep(Duration::from_millis(PAUSES[(number / 3 + request) % PAUSES.len()]));
            }
            let body = "x".repeat(request);
            let length = body.len();
            let response =
                client.request(format!("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"));
            assert_eq!((response.status(), response.text()), (200, length.to_string()), "{}", response.head.text());
            answered.fetch_add(1, Ordering::Relaxed);
        }
    });
    let of_node = router.metric("pod_router_upstream_requests_total", &[("pod", "backend-0"), ("code", "200")]);
    eprintln!("keepalive: {} POSTs, {of_node} answers of Node's, none a 502", answered.into_inner());
    assert_eq!(of_node.round() as usize, CLIENTS * EACH);
    assert!(router.metric("pod_router_upstream_requests_total", &[("pod", "backend-0"), ("code", "none")]) < 0.5);
}

/// Engine.IO's server answers a poll after 25 s at the latest and gives a session up after 45 s. With the defaults, and
/// in real time: a poll, an event stream, a tunnel and an idle connection that are silent for 46 s.
#[test]
fn what_is_silent_for_46_seconds_goes_on() {
    const SILENCE: Duration = Duration::from_secs(46);
    let stage = Stage::new();
    stage.redis.assign("room_b", 1);
    stage.pods[0].play(|mut conn| {
        let head = conn.request()?;
        match head.second_word() {
            "/room_a/poll" => {
                thread::sleep(SILENCE);
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n6")
            }
            "/room_a/events" => {
                conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")?;
                thread::sleep(SILENCE);
                conn.send("1\r\nb\r\n0\r\n\r\n")
            }
            _ => {
                conn.send(script::switching_protocols(&head))?;
                thread::sleep(SILENCE);
                conn.send("late")?;
                conn.until_closed()
            }
        }
    });
    let patience = SILENCE + PATIENCE;
    let mut tunnel = tunnel(&stage).with_patience(patience);
    let mut idle = stage.client();
    assert_eq!(idle.get("/room_b").pod(), "backend-1");
    let mut asked = ["/room_a/poll", "/room_a/events"].map(|target| {
        let client = stage.client().with_patience(patience);
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client
    });
    assert_eq!(asked[0].read_response().text(), "6");
    assert_eq!(asked[1].read_response().text(), "ab");
    assert_eq!(tunnel.read_exact(4), b"late");
    assert_eq!(idle.get("/room_b").pod(), "backend-1");
    assert_eq!(stage.pods[0].received().len(), 3, "nothing was asked twice");
}
