//! Requests without a room: how they are spread, what keeps a session at its pod, what a failing pod costs.

mod backends;
mod checks;
mod health;
mod load;
mod names;
mod places;
mod policies;
mod sessions;

use std::io;

use crate::support::{Client, Conn, Pods, Redis, Response, Router, RouterBuilder};

/// A key for the affinity cookie.
const AFFINITY_KEY: &str = "0123456789abcdef0123456789abcdef";

/// A router that knows these pods by their names.
fn knowing(redis: &Redis, pods: &Pods) -> RouterBuilder {
    pods.iter().fold(Router::builder().redis(redis), RouterBuilder::pod)
}

/// One whose default backend they are as well, and with a single thread, so that they are chosen in turns.
#[track_caller]
fn router(redis: &Redis, pods: &Pods, args: &[&str]) -> Router {
    knowing(redis, pods).default_backend(pods.iter()).args(&["--threads", "1"]).args(args).start_ready()
}

/// This field of each pod of the default backend, from `/status`.
#[track_caller]
fn each_pod(router: &Router, field: &str) -> Vec<String> {
    let status = router.json("/status");
    let pods = status["backends"][0]["pods"].as_array().expect("a list");
    pods.iter().map(|pod| pod[field].as_str().expect("a word").to_owned()).collect()
}

/// The names of the default backend's pods.
#[track_caller]
fn listed(router: &Router) -> Vec<String> {
    each_pod(router, "pod")
}

/// The states of the default backend's pods.
#[track_caller]
fn states(router: &Router) -> Vec<String> {
    each_pod(router, "state")
}

/// The target of the next poll of the session with this id.
pub(crate) fn poll(sid: &str) -> String {
    format!("/socket.io/?EIO=4&transport=polling&sid={sid}")
}

/// A GET with this cookie.
fn get_with_cookie(target: &str, cookie: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n")
}

/// The cookie that this answer sets, as a browser sends it back.
#[track_caller]
fn cookie_of(answer: &Response) -> String {
    let set = answer.head.value("set-cookie").expect("a cookie");
    set.split(';').next().expect("a name and a value").to_owned()
}

/// A WebSocket handshake for this target.
fn handshake(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A client whose tunnel to this target's pod is open.
#[track_caller]
pub(crate) fn tunnel(router: &Router, target: &str) -> Client {
    let mut client = router.client();
    client.send(handshake(target));
    assert_eq!(client.read_head().second_word(), "101", "{target}");
    client
}

/// A pod that answers health checks with this status and this word, and all else with 200.
fn answering_checks(status: &'static str, word: &'static str) -> impl Fn(Conn) -> io::Result<()> {
    move |mut conn| {
        let is_check = conn.request()?.second_word() == "/health";
        let (status, body) = if is_check { (status, word) } else { ("200 OK", "") };
        conn.send(format!(
            "HTTP/1.1 {status}\r\nX-Pod: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            conn.pod_name(),
            body.len()
        ))
    }
}
