//! Reads the PROXY protocol's header off a new connection, and not a byte of what follows it.
//!
//! Looked at before it is taken (`MSG_PEEK`): what follows may be a request, which is hyper's to read. As long as all
//! that has come belongs to the header it is taken at once, so that a header in pieces does not wake us for nothing.

use std::io;
use std::net::IpAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::core::proxy_protocol::{self, MAX_LENGTH};

/// What is looked at in one go. Nearly every header is shorter.
const GLANCE: usize = 512;

/// The address that the header names; `None` where the connection is the peer's own.
///
/// # Errors
///
/// What comes is no header or not all of one. The time it may take is the caller's to limit.
pub(super) async fn source(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut taken = Vec::new();
    let mut seen = [0; GLANCE];
    loop {
        let room = (MAX_LENGTH - taken.len()).min(GLANCE);
        let count = stream.peek(&mut seen[..room]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = taken.len();
        taken.extend_from_slice(&seen[..count]);
        let parsed = proxy_protocol::parse(&taken).map_err(|_| io::ErrorKind::InvalidData)?;
        let belongs = parsed.map_or(count, |header| header.length - before);
        stream.read_exact(&mut seen[..belongs]).await?;
        if let Some(header) = parsed {
            return Ok(header.source);
        }
    }
}
