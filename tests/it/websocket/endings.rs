//! How tunnels end: by either side's FIN or reset, by idling; and that nothing of them stays.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::{expect_echo, handshake, tunnel};
use crate::support::{Gate, Stage, eventually, script};

#[track_caller]
fn expect_forgotten(stage: &Stage) {
    eventually("the tunnel is forgotten", || stage.router.metric("pod_router_websocket_connections", &[]) < 0.5);
}

/// RFC 9110 section 9.3.6: what one side has still to say is delivered after the other is done.
#[test]
fn rfc9110_9_3_6_the_clients_half_close_is_passed_on() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        script::accept_websocket(&mut conn)?;
        let heard = conn.wire().read_to_end()?;
        conn.send(format!("heard {} bytes", heard.len()))
    });
    let mut client = tunnel(&stage, "/room_a");
    client.send("hello");
    client.half_close();
    assert_eq!(client.read_exact(13), b"heard 5 bytes");
    client.expect_end();
}

#[test]
fn rfc9110_9_3_6_the_pods_half_close_is_passed_on() {
    let stage = Stage::new();
    let heard = Gate::shared();
    let hears = Arc::clone(&heard);
    stage.pods[0].play(move |mut conn| {
        script::accept_websocket(&mut conn)?;
        conn.send("last words")?;
        conn.half_close();
        if conn.wire().read_to_end()? == b"an answer" {
            hears.open();
        }
        Ok(())
    });
    let mut client = tunnel(&stage, "/room_a");
    assert_eq!(client.wire().read_to_end().expect("the pod's half"), b"last words");
    client.send("an answer");
    client.half_close();
    assert!(heard.wait(), "the pod hears the client after its own half is closed");
}

/// tokio's `copy_bidirectional` would wait for the other half for ever.
#[test]
fn a_half_that_lingers_is_ended() {
    // A young tunnel has no timer for what is over only after its first second.
    for linger in ["300ms", "1500ms"] {
        expect_lingering_to_end(linger);
    }
}

fn expect_lingering_to_end(linger: &str) {
    let stage = Stage::with(&["--tunnel-linger", linger]);
    stage.pods[0].play(|mut conn| {
        script::accept_websocket(&mut conn)?;
        conn.wire().read_to_end()?;
        // Never done: a write that fails is how it learns of the router's end.
        loop {
            conn.send("x")?;
            thread::sleep(Duration::from_millis(5));
        }
    });
    let mut client = tunnel(&stage, "/room_a");
    client.half_close();
    expect_end(&stage, "half-closed");
    // Ends with a FIN or a reset; what matters is that it ends.
    let _ = client.wire().read_to_end();
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);

    stage.pods[0].play(|mut conn| {
        script::accept_websocket(&mut conn)?;
        conn.half_close();
        conn.until_closed()
    });
    let mut client = tunnel(&stage, "/room_a");
    client.expect_end();
    // The client keeps its own half open.
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    expect_forgotten(&stage);
}

#[test]
fn a_client_that_resets_ends_the_pods_side() {
    let stage = Stage::new();
    let heard = Gate::shared();
    let hears = Arc::clone(&heard);
    stage.pods[0].play(move |mut conn| {
        script::accept_websocket(&mut conn)?;
        let hello = conn.wire().read_exact(5)?;
        conn.send(hello)?;
        if conn.wire().read_some().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset) {
            hears.open();
        }
        Ok(())
    });
    let mut client = tunnel(&stage, "/room_a");
    expect_echo(&mut client, "hello");
    client.reset();
    assert!(heard.wait(), "the pod hears of a reset, for a FIN would make what was cut off look complete");
    expect_forgotten(&stage);
}

/// Sends until nobody has taken anything for a while.
fn fill(mut stream: &TcpStream) {
    stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a live socket takes its options");
    while stream.write(&[b'x'; 65_536]).is_ok() {}
}

#[track_caller]
fn expect_end(stage: &Stage, reason: &str) {
    expect_forgotten(stage);
    stage.router.wait_log("how it ended", |line| line["reason"] == reason);
}

/// What the pod does not take hides nothing: nobody waits for `--write-stall`, which is a minute here.
#[test]
fn a_client_that_resets_while_the_pod_takes_nothing_ends_the_pods_side() {
    let stage = Stage::new();
    let heard = Gate::shared();
    let hears = Arc::clone(&heard);
    stage.pods[0].play(move |mut conn| {
        script::accept_websocket(&mut conn)?;
        let socket = SockRef::from(conn.wire().stream()).try_clone()?;
        eventually("the reset arrives", || matches!(socket.take_error(), Ok(Some(_))));
        hears.open();
        Ok(())
    });
    let mut client = tunnel(&stage, "/room_a");
    fill(client.wire().stream());
    client.reset();
    expect_end(&stage, "client-reset");
    assert!(heard.wait(), "the pod has heard of it");
}

/// Nor does what the client does not take.
#[test]
fn a_pod_that_resets_while_the_client_takes_nothing_ends_the_tunnel() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        script::accept_websocket(&mut conn)?;
        fill(conn.wire().stream());
        conn.reset();
        Ok(())
    });
    let client = tunnel(&stage, "/room_a");
    expect_end(&stage, "pod-reset");
    drop(client);
}

#[test]
fn a_pod_that_resets_ends_the_clients_side() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        script::accept_websocket(&mut conn)?;
        conn.wire().read_exact(5)?;
        conn.reset();
        Ok(())
    });
    let mut client = tunnel(&stage, "/room_a");
    client.send("hello");
    let ended = client.wire().read_some().expect_err("a reset is no orderly end");
    assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    expect_forgotten(&stage);
}

#[test]
fn a_tunnel_ends_when_both_sides_are_done() {
    let stage = Stage::new();
    stage.pods[0].play(script::websocket_echo);
    let mut client = tunnel(&stage, "/room_a");
    stage.router.wait_metric("pod_router_websocket_connections", &[], 1.0);
    client.half_close();
    client.expect_end();
    expect_forgotten(&stage);
    let closed = stage.router.wait_log("the tunnel's last line", |line| line["message"] == "tunnel closed");
    assert_eq!((closed["room"].as_str(), closed["pod"].as_str()), (Some("room_a"), Some("backend-0")));
}

#[test]
fn an_idle_tunnel_is_closed_and_a_busy_one_is_not() {
    let stage = Stage::with(&["--tunnel-idle", "1s"]);
    stage.pods[0].play(script::websocket_echo);
    let mut busy = tunnel(&stage, "/room_a");
    let mut idle = tunnel(&stage, "/room_a");
    let watching = thread::spawn(move || idle.expect_end());
    // The busy one is as old as the idle one, and talks a few times a second.
    while !watching.is_finished() {
        expect_echo(&mut busy, "still here");
        thread::sleep(Duration::from_millis(50));
    }
    watching.join().expect("the idle tunnel ends");
    expect_echo(&mut busy, "still here");
}

/// One direction that moves is enough to be busy.
#[test]
fn a_tunnel_that_only_listens_is_not_idle() {
    let stage = Stage::with(&["--tunnel-idle", "1s"]);
    stage.pods[0].play(|mut conn| {
        script::accept_websocket(&mut conn)?;
        for _ in 0..40 {
            conn.send("tick")?;
            thread::sleep(Duration::from_millis(50));
        }
        conn.send("done")
    });
    let mut client = tunnel(&stage, "/room_a");
    let all = client.wire().read_to_end().expect("the pod's whole stream");
    assert_eq!(all.len(), 41 * 4, "{}", String::from_utf8_lossy(&all));
}

#[test]
fn nor_is_one_that_only_talks() {
    let stage = Stage::with(&["--tunnel-idle", "1s"]);
    stage.pods[0].play(|mut conn| {
        script::accept_websocket(&mut conn)?;
        let heard = conn.wire().read_to_end()?;
        conn.send(format!("heard {} bytes", heard.len()))
    });
    let mut client = tunnel(&stage, "/room_a");
    for _ in 0..40 {
        client.send("tick");
        thread::sleep(Duration::from_millis(50));
    }
    client.half_close();
    assert_eq!(client.read_exact(15), b"heard 160 bytes");
}

#[test]
fn a_client_that_goes_away_before_the_101_is_noticed() {
    let stage = Stage::new();
    stage.pods[0].play(script::silence);
    let client = stage.client();
    client.send(handshake("/room_a"));
    eventually("the pod has the handshake", || stage.pods[0].received().len() == 1);
    drop(client);
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
}

/// A pod that accepts and then dies must not leave the client waiting.
#[test]
fn a_pod_that_closes_instead_of_a_101_is_a_bad_gateway() {
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| conn.request().map(drop));
    stage.request(handshake("/room_a")).expect_error(502);
}
