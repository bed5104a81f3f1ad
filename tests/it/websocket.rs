//! WebSockets: the handshake, the tunnel that follows it, how tunnels end, and many of them.

mod endings;
mod handshake;
mod load;
mod tunnel;

use crate::support::{Client, Head, Pod, Stage};

/// RFC 6455 section 1.3 has this key and its answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A handshake as browsers send it, with these further lines.
fn handshake_with(target: &str, more: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: app.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

fn handshake(target: &str) -> String {
    handshake_with(target, "")
}

/// A client whose tunnel to this target's pod is open.
#[track_caller]
fn tunnel(stage: &Stage, target: &str) -> Client {
    let mut client = stage.client();
    client.send(handshake(target));
    expect_switch(&client.read_head());
    client
}

/// Fails unless this is the 101 that accepts [`handshake`].
#[track_caller]
fn expect_switch(head: &Head) {
    assert_eq!(head.start_line(), "HTTP/1.1 101 Switching Protocols", "{}", head.text());
    assert_eq!(head.value("connection"), Some("upgrade"), "{}", head.text());
    assert_eq!(head.value("upgrade"), Some("websocket"));
    assert_eq!(head.value("sec-websocket-accept"), Some(ACCEPT));
}

/// Sends a message through the tunnel to an echoing pod and waits for it to come back.
#[track_caller]
fn expect_echo(client: &mut Client, message: &str) {
    client.send(message);
    assert_eq!(String::from_utf8_lossy(&client.read_exact(message.len())), message);
}

/// All pods of the stage.
fn all_pods(stage: &Stage) -> impl Iterator<Item = &Pod> {
    stage.pods.iter().chain([&stage.any])
}
