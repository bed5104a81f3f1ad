//! The WebSocket echo of a demo pod.
//!
//! tungstenite does the protocol over two byte buffers in memory, and the bytes are carried here: that needs no
//! stream adapter. The client's messages, and with them the buffers, are bounded.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

/// The largest message that is echoed, in bytes; a larger one ends the connection.
const MAX_MESSAGE: usize = 64 * 1024;

/// How much is read at a time.
const CHUNK: usize = 4 * 1024;

/// What the protocol reads from and writes to in place of a socket.
#[derive(Debug, Default)]
struct Buffers {
    received: VecDeque<u8>,
    to_send: Vec<u8>,
}

/// Answers each text message with `reply` to it, until either side ends.
///
/// # Errors
///
/// The connection's own.
pub(super) async fn run<S>(mut socket: S, reply: impl Fn(&str) -> String) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut protocol = WebSocket::from_raw_socket(Buffers::default(), Role::Server, Some(limits()));
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = socket.read(&mut chunk).await?;
        protocol.get_mut().received.extend(&chunk[..count]);
        let open = answer_all(&mut protocol, &reply);
        socket.write_all(&protocol.get_ref().to_send).await?;
        protocol.get_mut().to_send.clear();
        if !open || count == 0 {
            return socket.shutdown().await;
        }
    }
}

/// Answers every message that has arrived whole; whether more may come.
fn answer_all(protocol: &mut WebSocket<Buffers>, reply: &impl Fn(&str) -> String) -> bool {
    loop {
        match protocol.read() {
            Ok(Message::Text(text)) => {
                if protocol.send(Message::text(reply(&text))).is_err() {
                    return false;
                }
            }
            // Pings and closes are answered by the protocol itself; binary messages are not echoed.
            Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => {}
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return protocol.flush().is_ok(),
            Err(_) => return false,
        }
    }
}

/// The defaults in the comments are tungstenite's.
fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(CHUNK) // 128 KiB, allocated at once
        .write_buffer_size(0) // 128 KiB held back until a flush
        .max_message_size(Some(MAX_MESSAGE)) // 64 MiB
        .max_frame_size(Some(MAX_MESSAGE)) // 16 MiB
}

impl Read for Buffers {
    /// "Would block" where a socket would, and also at its end: [`run`] sees that itself.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Read::read(&mut self.received, buffer)
        }
    }
}

impl Write for Buffers {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to_send.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
