//! Many tunnels at once, and what is left of them afterwards: nothing.

use super::{expect_echo, tunnel};
use crate::support::{Stage, eventually, script, together};

/// As many as issue 2 asks for.
const TUNNELS: usize = 1000;

#[test]
fn a_thousand_tunnels_are_counted_and_gone_after_their_close() {
    // Both ends of every tunnel are in this process.
    rlimit::increase_nofile_limit(u64::MAX).expect("the limit of open files can be read");
    let stage = Stage::new();
    stage.pods[0].play(script::websocket_echo);
    let files = stage.router.open_files();
    let per_thread = TUNNELS / 10;
    let mut clients: Vec<_> = together(10, |_| (0..per_thread).map(|_| tunnel(&stage, "/room_a")).collect::<Vec<_>>())
        .into_iter()
        .flatten()
        .collect();
    let counted = stage.router.metric("pod_router_websocket_connections", &[]);
    assert!((counted - TUNNELS as f64).abs() < 0.5, "{counted}");
    for (index, client) in clients.iter_mut().enumerate() {
        expect_echo(client, &format!("hello from {index}"));
    }
    // Half of them say goodbye, half just go.
    for (index, client) in clients.into_iter().enumerate() {
        if index % 2 == 0 {
            client.half_close();
        } else {
            client.reset();
        }
    }
    eventually("all tunnels are forgotten", || stage.router.metric("pod_router_websocket_connections", &[]) < 0.5);
    eventually("the pod's connections are closed", || stage.pods[0].open() == 0);
    // The router may keep some for reuse or for the admin listener, but not one a tunnel.
    eventually("the tunnels' sockets are closed", || stage.router.open_files() <= files + 10);
}
