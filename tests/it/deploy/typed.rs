//! The commands that the README has for troubles, typed: against a router that has met each of them.

use std::process::Command;

use super::observed::play_both;
use super::tools::read;
use crate::support::{Pod, Pods, Redis, Router, own_ip};

/// The blocks of shell commands in "Troubleshooting" that take no cluster and no container.
fn blocks() -> Vec<String> {
    let readme = read("README.md");
    let section = readme.split("\n## Troubleshooting\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let blocks = section.expect("it is there").split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.filter(|block| !block.contains("kubectl") && !block.contains("docker ")).map(str::to_owned).collect()
}

/// A log of so many lines, as an hour has even of a small site.
const LINES: usize = 20_000;

/// Seconds in which a command has to be done, on however busy a machine. Those of a time that is linear in the log take
/// two or three; one that is quadratic takes hours.
const PATIENCE: &str = "180";

/// The same lines again and again, a line of another program's first.
fn an_hour(lines: &str) -> String {
    let stray = std::iter::once("not from the router");
    stray.chain(lines.lines().cycle()).take(LINES).flat_map(|line| [line, "\n"]).collect()
}

/// A room in use, sessions that nobody knows, refusals, a tunnel that has ended: each command has something to show.
fn troubled(redis: &Redis, pods: &mut Pods, any: &Pod) -> Router {
    redis.assign("room_xyz", 0);
    redis.assign("room_down", 1);
    pods.iter().chain([any]).for_each(play_both);
    pods.get_mut(1).unbind();
    let builder = Router::builder().redis(redis).default_backend([any]).args(&["--pod-wait", "0s"]);
    let router = pods.iter().fold(builder, |builder, pod| builder.pod(pod)).start_ready();
    for sid in ["unknown", "backend-1~lost"] {
        assert_eq!(router.get(&format!("/socket.io/?EIO=4&transport=polling&sid={sid}")).status(), 400);
    }
    router.get("/api/room/room_xyz/state");
    assert_eq!(router.get("/api/room/room_down/state").status(), 503);
    let mut tunnel = router.client();
    tunnel.send(
        "GET /socket.io/?roomId=room_xyz HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    assert_eq!(tunnel.read_head().second_word(), "101");
    drop(tunnel);
    router.wait_log("the tunnel's end", |line| line["message"] == "tunnel closed");
    router.wait_log("a warning", |line| line["message"] == "pod unreachable");
    router
}

#[test]
fn what_the_readme_says_to_type_has_something_to_show() {
    let (redis, mut pods, any) = (Redis::start(), Pods::start(2), Pod::start("any"));
    let router = troubled(&redis, &mut pods, &any);
    let folder = std::env::temp_dir().join(format!("pod-router-typed-{}", own_ip()));
    std::fs::create_dir_all(&folder).expect("a folder for temporary files is writable");
    std::fs::write(folder.join("log"), an_hour(&router.whole_output())).expect("the folder is ours");
    let blocks = blocks();
    assert!(blocks.len() >= 6, "{blocks:?}");
    for block in blocks {
        let typed = block.replace("localhost:9901", &router.admin().to_string());
        // Each line, and what goes on over the end of one, by itself: the last must not speak for the others.
        for line in typed.replace("\n  ", " ").lines() {
            let mut command = Command::new("timeout");
            command.args([PATIENCE, "bash", "-euo", "pipefail", "-c", line]).current_dir(&folder);
            let output = command.output();
            let output = output.expect("bash is there");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !output.stdout.is_empty(), "{line}\n{errors}");
        }
    }
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
}
