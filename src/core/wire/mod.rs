//! HTTP/1.1 as bytes, on the side of the pods: request heads out, response heads and bodies in.
//!
//! Pure: bytes in, values out, no socket. The other side, towards clients, is hyper's, but for a 101 ([`switch`]). Pods are
//! spoken to without hyper's client because it needs a task of its own and two channels for every connection, and moves
//! each body frame through them; here an exchange is driven by the task that serves the client, and reads where it writes
//! (README, benchmarks). What is read is read strictly: whatever two readers could understand differently is an error, and an
//! error ends the connection.

pub mod body;
pub mod request;
pub mod response;
pub mod switch;

pub use body::{BodyError, Decoder, Part};
pub use response::{Head, HeadError};

/// Writes a field's line.
fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(request::END);
}
