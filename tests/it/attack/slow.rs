//! slowhttptest, in the three forms there are: a head, a body, a reader that never comes to an end.

use std::io::Read;
use std::thread;

use super::{beside_a_bystander, expect_at_rest, expect_growth_below, stage};
use crate::support::{Process, Stage, script};

/// Connections of an attack.
const CONNECTIONS: u32 = 300;

/// Of the first ones some come before the others; all the same nearly all have to be noticed.
const NOTICED: f64 = CONNECTIONS as f64 * 0.9;

/// Attacks until nearly all connections have been cut for this reason; whoever behaves is served meanwhile.
#[track_caller]
fn attack(stage: &Stage, form: &[&str], reason: &str) {
    let before = stage.router.rss_kib();
    beside_a_bystander(stage, || {
        let mut tool = Process::start("slowhttptest", "/usr/bin/slowhttptest", |command| {
            let count = CONNECTIONS.to_string();
            command.args(form).args(["-c", &count, "-r", &count, "-l", "60", "-p", "5", "-v", "1"]);
            command.args(["-u", &format!("http://{}/room_a", stage.router.addr())]);
        });
        // It stops where nobody reads what it says.
        let (mut out, mut err) = (tool.take_stdout(), tool.take_stderr());
        let readers = [
            thread::spawn(move || drop(out.read_to_end(&mut Vec::new()))),
            thread::spawn(move || drop(err.read_to_end(&mut Vec::new()))),
        ];
        stage.router.wait_metric("pod_router_rejected_total", &[("reason", reason)], NOTICED);
        drop(tool);
        readers.into_iter().for_each(|reader| reader.join().expect("reading does not panic"));
    });
    expect_growth_below(&stage.router, before, 64);
    expect_at_rest(stage);
}

#[test]
fn heads_that_never_end_are_cut() {
    let stage = stage(&["--header-timeout", "1s"]);
    attack(&stage, &["-H", "-i", "1", "-x", "24"], "slow-head");
    let whole = stage.pods[0].received().len();
    assert!(
        whole < 10,
        "{whole}: now and then the tool asks in the usual way whether anybody still answers, and nothing else"
    );
}

/// A body that moves, however slowly, is nobody's to judge: what is cut is one that rests for too long.
#[test]
fn bodies_that_never_end_are_cut() {
    let stage = stage(&["--request-body-idle", "1s"]);
    attack(&stage, &["-B", "-i", "5", "-s", "8192", "-x", "10"], "slow-body");
}

#[test]
fn readers_that_never_read_are_cut() {
    let stage = stage(&["--write-stall", "1s"]);
    let body = vec![b'x'; 8 * 1024 * 1024];
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stage.pods[0].play(script::answer([head.into_bytes(), body].concat()));
    attack(&stage, &["-X", "-n", "5", "-z", "32", "-w", "10", "-y", "20"], "slow-reader");
}

/// All places taken by heads that never end: they are free again when their time is over, without anybody's help.
#[test]
fn an_attack_on_all_places_is_over_with_its_heads_time() {
    let stage = stage(&["--header-timeout", "1s", "--max-connections", "100"]);
    let begun: Vec<_> = (0..100).map(|_| stage.client()).collect();
    begun.iter().for_each(|client| drop(client.try_send("GET /room_a HTTP/1.1\r\nX-")));
    stage.router.wait_metric("pod_router_rejected_total", &[("reason", "slow-head")], 99.5);
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
}
