//! `health`: whether the router on this machine lives, for the health check of an image that holds nothing but the router.
//!
//! Asks `/livez`, which asks nobody in turn: a container must not be restarted because Redis is away.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::HealthCheck;

/// The start of the only good answer; the rest is not read.
const GOOD: [u8; 13] = *b"HTTP/1.1 200 ";

/// One question.
///
/// # Errors
///
/// The router does not live, as the end of a sentence that begins with its address.
pub(super) async fn ask(check: HealthCheck) -> Result<(), String> {
    match tokio::time::timeout(check.timeout, exchange(check)).await {
        Ok(Ok(GOOD)) => Ok(()),
        Ok(Ok(start)) => Err(format!("did not answer 200 to /livez but {:?}", String::from_utf8_lossy(&start))),
        Ok(Err(error)) => Err(format!("cannot be asked: {error}")),
        Err(_) => Err("did not answer within --timeout".to_owned()),
    }
}

async fn exchange(check: HealthCheck) -> io::Result<[u8; GOOD.len()]> {
    let mut stream = TcpStream::connect(check.admin).await?;
    let request = format!("GET /livez HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", check.admin);
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0; GOOD.len()];
    stream.read_exact(&mut start).await?;
    Ok(start)
}
