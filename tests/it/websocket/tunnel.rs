//! Bytes in tunnels: none is lost, none is held back, none is hoarded.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::{expect_echo, expect_switch, handshake, tunnel};
use crate::support::{
    Framing, Gate, MOST_QUEUED, PATIENCE, Pattern, Stage, eventually, probed, queued, script, wait_stalled,
};

const MIB: u64 = 1024 * 1024;

#[test]
fn bytes_sent_together_with_the_handshake_arrive() {
    let stage = Stage::new();
    stage.pods[0].play(script::websocket_echo);
    let mut client = stage.client();
    client.send(format!("{}early bird", handshake("/room_a")));
    expect_switch(&client.read_head());
    assert_eq!(client.read_exact(10), b"early bird");
    expect_echo(&mut client, "late bird");
}

#[test]
fn many_bytes_sent_before_the_101_arrive() {
    let stage = Stage::new();
    let gate = Gate::shared();
    let held = Arc::clone(&gate);
    stage.pods[0].play(move |mut conn| {
        let head = conn.request()?;
        held.wait();
        conn.send(script::switching_protocols(&head))?;
        let mut pattern = Pattern::default();
        let mut left = 300_000;
        while left > 0 {
            let bytes = conn.wire().read_some()?;
            pattern.expect(&bytes);
            left -= bytes.len();
        }
        conn.send("all there")
    });
    let mut client = stage.client();
    client.send(handshake("/room_a"));
    eventually("the pod has the handshake", || stage.pods[0].received().len() == 1);
    Pattern::pieces(300_000).for_each(|piece| client.send(piece));
    gate.open();
    expect_switch(&client.read_head());
    assert_eq!(client.read_exact(9), b"all there");
}

#[test]
fn bytes_glued_to_the_101_arrive() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        let head = conn.request()?;
        let mut glued = script::switching_protocols(&head).into_bytes();
        Pattern::pieces(100_000).for_each(|piece| glued.extend_from_slice(piece));
        conn.send(glued)?;
        conn.until_closed()
    });
    let mut client = stage.client();
    client.send(handshake("/room_a"));
    expect_switch(&client.read_head());
    Pattern::default().expect(&client.read_exact(100_000));
}

#[test]
fn single_bytes_are_not_held_back() {
    let stage = Stage::new();
    stage.pods[0].play(script::websocket_echo);
    let mut client = tunnel(&stage, "/room_a");
    for byte in ["a", "b", "c"] {
        expect_echo(&mut client, byte);
    }
}

#[test]
fn the_bytes_are_counted() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        script::accept_websocket(&mut conn)?;
        conn.wire().read_exact(5)?;
        conn.send("hi")
    });
    let mut client = tunnel(&stage, "/room_a");
    client.send("hello");
    assert_eq!(client.read_exact(2), b"hi");
    let line = |direction: &str, bytes| {
        stage.router.wait_metric("pod_router_tunnel_bytes_total", &[("direction", direction)], bytes);
    };
    line("upstream", 5.0);
    line("downstream", 2.0);
}

/// Both directions at once, each side checking what it gets against what the other has sent.
#[test]
fn rfc6455_5_4_large_streams_pass_both_ways_at_once_intact() {
    const LEN: u64 = 64 * MIB;
    let stage = Stage::new();
    let intact = Gate::shared();
    let seen = Arc::clone(&intact);
    stage.pods[0].play(move |mut conn| {
        script::accept_websocket(&mut conn)?;
        let sink = conn.wire().stream().try_clone()?;
        let sending = thread::spawn(move || Pattern::pieces(LEN).try_for_each(|piece| (&sink).write_all(piece)));
        let mut pattern = Pattern::default();
        conn.wire().read_body(Framing::Length(LEN), |piece| pattern.expect(piece))?;
        sending.join().expect("the sending thread does not panic")?;
        seen.open();
        conn.until_closed()
    });
    let mut client = tunnel(&stage, "/room_a");
    let sink = client.wire().stream().try_clone().expect("a socket can be shared");
    let sending = thread::spawn(move || Pattern::pieces(LEN).try_for_each(|piece| (&sink).write_all(piece)));
    let mut pattern = Pattern::default();
    let received = client.wire().read_body(Framing::Length(LEN), |piece| pattern.expect(piece));
    received.expect("the whole stream from the pod");
    sending.join().expect("the sending thread does not panic").expect("the pod takes the whole stream");
    assert!(intact.wait(), "the pod got the stream as it was sent");
}

/// Backpressure: what a slow reader does not take must stay with the sender, not in the router.
#[test]
fn a_slow_reader_slows_the_sender_down() {
    const LEN: u64 = 256 * MIB;
    let stage = Stage::new();
    let gate = Gate::shared();
    let (held, sent) = (Arc::clone(&gate), Arc::new(AtomicU64::new(0)));
    stage.pods[0].play(move |mut conn| {
        script::accept_websocket(&mut conn)?;
        held.wait();
        let mut pattern = Pattern::default();
        conn.wire().read_body(Framing::Length(LEN), |piece| pattern.expect(piece))?;
        conn.send("done")
    });
    let mut client = tunnel(&stage, "/room_a");
    let before = stage.router.rss_kib();
    let sink = client.wire().stream().try_clone().expect("a socket can be shared");
    sink.set_write_timeout(Some(3 * PATIENCE)).expect("a live socket takes its options");
    let progress = Arc::clone(&sent);
    let sending = thread::spawn(move || {
        Pattern::pieces(LEN).try_for_each(|piece| {
            (&sink).write_all(piece)?;
            progress.fetch_add(piece.len() as u64, Ordering::SeqCst);
            std::io::Result::Ok(())
        })
    });
    wait_stalled(&sent);
    assert!(sent.load(Ordering::SeqCst) < LEN / 2, "somebody has taken half of the stream that nobody reads");
    let (waiting, _) = queued(stage.pods[0].addr());
    assert!(waiting < MOST_QUEUED, "{waiting} bytes wait in the router's socket");
    gate.open();
    sending.join().expect("the sending thread does not panic").expect("the pod takes the whole stream");
    assert_eq!(client.read_exact(4), b"done");
    let grown = stage.router.peak_rss_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "the router has grown by {grown} KiB");
}

/// The same, the other way: the pod sends and the client does not read.
#[test]
fn a_slow_client_slows_the_pod_down() {
    const LEN: u64 = 256 * MIB;
    let stage = Stage::new();
    let sent = Arc::new(AtomicU64::new(0));
    let progress = Arc::clone(&sent);
    stage.pods[0].play(move |mut conn| {
        script::accept_websocket(&mut conn)?;
        for piece in Pattern::pieces(LEN) {
            conn.send(piece)?;
            progress.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
        conn.until_closed()
    });
    let mut client = tunnel(&stage, "/room_a");
    let before = stage.router.rss_kib();
    let mut pattern = Pattern::default();
    // Fast at first: by then the kernel would let its buffer grow to megabytes.
    client.wire().read_body(Framing::Length(LEN / 4), |piece| pattern.expect(piece)).expect("a part of the stream");
    wait_stalled(&sent);
    assert!(sent.load(Ordering::SeqCst) < LEN / 2, "somebody has taken half of the stream that nobody reads");
    let (_, waiting) = queued(stage.pods[0].addr());
    assert!(waiting < MOST_QUEUED, "{waiting} bytes wait in the router's socket");
    client.wire().read_body(Framing::Length(LEN / 4 * 3), |piece| pattern.expect(piece)).expect("the whole stream");
    let grown = stage.router.peak_rss_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "the router has grown by {grown} KiB");
}

/// The relay looks at no frame: whatever the bytes are, they pass.
#[test]
fn rfc6455_5_4_bytes_that_are_no_frames_pass_as_well() {
    let stage = Stage::new();
    stage.pods[0].play(script::websocket_echo);
    let mut client = tunnel(&stage, "/room_a");
    let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    client.send(&bytes);
    let mut back = vec![0; bytes.len()];
    let mut at = 0;
    while at < back.len() {
        at += client.wire().stream().read(&mut back[at..]).expect("the echo");
    }
    assert!(back == bytes);
}

/// Its node may have vanished, which sends no FIN.
#[test]
fn a_pod_that_says_nothing_is_probed() {
    let stage = Stage::new();
    stage.pods[0].play(script::websocket_echo);
    let _client = tunnel(&stage, "/room_a");
    eventually("the kernel probes the pod", || probed(stage.pods[0].addr()) == 1);
}
