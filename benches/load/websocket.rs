//! One WebSocket connection as the load test uses it.
//!
//! Frames are small and constant, so they are recognised by their length rather than parsed: both ends are this program.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;

/// RFC 6455's own example (section 1.3): the pod's answer to this key is a constant.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The payload of a message: a small Socket.IO event.
const MESSAGE: &[u8; 32] = b"42[\"message\",{\"text\":\"hello\"}]  ";

/// A frame header of the client's, and its mask of zeros, which leaves the payload as it is.
const CLIENT_HEADER: [u8; 6] = [0x82, 0x80 | MESSAGE.len() as u8, 0, 0, 0, 0];

/// A frame header of the pod's.
const POD_HEADER: [u8; 2] = [0x82, MESSAGE.len() as u8];

const CLIENT_FRAME: usize = CLIENT_HEADER.len() + MESSAGE.len();
const POD_FRAME: usize = POD_HEADER.len() + MESSAGE.len();

/// The client's side: a connection to the room, its handshake done.
pub(crate) async fn connect(address: &str, room: usize) -> Outcome<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /socket.io/?EIO=4&transport=websocket&roomId=room_ws{room} HTTP/1.1\r\nHost: bench\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let head = read_head(&mut stream).await?;
    if head.starts_with("HTTP/1.1 101") { Ok(stream) } else { Err(head.lines().next().unwrap_or_default().into()) }
}

/// The client's side: a message there and back.
pub(crate) async fn exchange(stream: &mut TcpStream) -> Outcome<()> {
    let mut frame = [0; CLIENT_FRAME];
    frame[..CLIENT_HEADER.len()].copy_from_slice(&CLIENT_HEADER);
    frame[CLIENT_HEADER.len()..].copy_from_slice(MESSAGE);
    stream.write_all(&frame).await?;
    let reply = read_frame::<POD_FRAME>(stream).await?;
    if &reply[POD_HEADER.len()..] == MESSAGE { Ok(()) } else { Err("another message came back".into()) }
}

/// The pod's side: the handshake's answer, with the port as the pod's name.
pub(crate) async fn accept(stream: &mut TcpStream) -> Outcome<()> {
    stream.set_nodelay(true)?;
    read_head(stream).await?;
    let port = stream.local_addr()?.port();
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\nX-Pod: {port}\r\n\r\n"
    );
    Ok(stream.write_all(head.as_bytes()).await?)
}

/// The pod's side: sends one message back.
pub(crate) async fn echo(stream: &mut TcpStream) -> Outcome<()> {
    let frame = read_frame::<CLIENT_FRAME>(stream).await?;
    let mut reply = [0; POD_FRAME];
    reply[..POD_HEADER.len()].copy_from_slice(&POD_HEADER);
    reply[POD_HEADER.len()..].copy_from_slice(&frame[CLIENT_HEADER.len()..]);
    Ok(stream.write_all(&reply).await?)
}

/// Reads a frame of so many bytes. There is room for more, which never comes: where a read fills all there is, tokio
/// makes another, in vain, and the load would be busy with those while the proxy waits for it.
async fn read_frame<const LENGTH: usize>(stream: &mut TcpStream) -> Outcome<[u8; LENGTH]> {
    let (mut buffer, mut filled) = ([0; 2 * CLIENT_FRAME], 0);
    while filled < LENGTH {
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Err("closed within a frame".into()),
            count => filled += count,
        }
    }
    let frame = buffer[..filled].first_chunk().filter(|_| filled == LENGTH);
    frame.copied().ok_or_else(|| "more than a frame came".into())
}

/// Reads a head, and whatever comes with it: neither side speaks here before the other has answered.
async fn read_head(stream: &mut TcpStream) -> Outcome<String> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Err("closed within the head".into());
        }
    }
    Ok(String::from_utf8(head)?)
}
