//! Requests without a room: how they are spread, what keeps a session at its pod, what a failing pod costs.

mod backends;
mod checks;
mod health;
mod load;
mod names;
mod places;
mod policies;
mod sessions;

/// A WebSocket handshake for this target.
pub(crate) fn handshake(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}
