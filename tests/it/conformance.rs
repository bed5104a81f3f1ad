//! What binds an HTTP/1.1 and WebSocket intermediary, clause by clause, and what a user of one relies on beyond that.
//!
//! A test of a clause carries its number in its name, here and in the other suites; `src/conformance.rs` is the
//! list of all, and the tidy suite holds both together.

mod keepalive;
mod proxy_protocol;
mod rfc9110;
mod rfc9112;
mod streams;
mod timeouts;
mod trust;

use crate::support::{Client, Stage};

/// A client whose tunnel to `room_a` is open.
#[track_caller]
fn tunnel(stage: &Stage) -> Client {
    let mut client = stage.client();
    client.send(
        "GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    assert_eq!(client.read_head().second_word(), "101");
    client
}
