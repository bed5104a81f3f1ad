//! A question over HTTP of the router's own: for a pod's health, and for that of the router next door.
//!
//! The answer is read as the proxy reads a pod's ([`crate::core::wire`]): what could not be passed on is no good answer.
//! Only its beginning is: a status, and the body's first word. The deadline is the caller's.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::core::wire::{Part, response};

/// As much of an answer as is read.
const MAX_ANSWER: usize = 16 * 1024;

/// As much of its body as says something: the first word.
const FIRST_WORD: usize = 16;

/// The only informational status that ends an exchange.
const SWITCHING: u16 = 101;

/// What was answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// The status.
    pub status: StatusCode,
    /// How the body begins.
    pub word: String,
}

/// GETs `path` of `host` over a connection that is used for nothing else.
///
/// # Errors
///
/// The connection's, or `InvalidData`: the answer is not HTTP.
pub async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, host: &str, path: &str) -> io::Result<Said> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pod-router\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        let over = answer.len() >= MAX_ANSWER || stream.read_buf(&mut answer).await? == 0;
        if let Some((said, enough)) = read(&Bytes::copy_from_slice(&answer))?
            && (enough || over)
        {
            return Ok(said);
        }
        if over {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// What an answer says so far, once its head is there, and whether more of it would change nothing. Many a small server keeps
/// the connection open, so its end is not waited for.
fn read(answer: &Bytes) -> io::Result<Option<(Said, bool)>> {
    let unusable = |why| io::Error::new(io::ErrorKind::InvalidData, format!("the answer is not HTTP: {why:?}"));
    let mut rest = answer.clone();
    let head = loop {
        let parsed = response::parse(&rest, &Method::GET, &mut HeaderMap::new()).map_err(unusable)?;
        let Some((head, length)) = parsed else {
            return Ok(None);
        };
        rest = rest.slice(length..);
        // 101 is the last one: what follows is another protocol.
        if !head.status.is_informational() || head.status.as_u16() == SWITCHING {
            break head;
        }
    };
    let (mut body, mut word) = (head.body, Vec::new());
    // A body that breaks off has said what it has said.
    while let Ok(Some(Part::Data(data))) = body.decode(&mut rest) {
        word.extend_from_slice(&data);
    }
    let enough = body.is_done() || word.len() >= FIRST_WORD;
    word.truncate(FIRST_WORD);
    Ok(Some((Said { status: head.status, word: String::from_utf8_lossy(&word).into_owned() }, enough)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of an answer: its status and word, and whether that is all.
    fn said(answer: &str) -> Option<(u16, String, bool)> {
        let read = read(&Bytes::copy_from_slice(answer.as_bytes())).expect("HTTP");
        read.map(|(said, enough)| (said.status.as_u16(), said.word, enough))
    }

    #[test]
    fn an_answer_need_not_end_to_say_enough() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some((200, "", true))),
            ("HTTP/1.0 503\r\nContent-Length: 5\r\n\r\nmaint", Some((503, "maint", true))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nmain", Some((200, "main", false))),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{\"status\":\"fine\"",
                Some((200, "{\"status\":\"fine\"", true)),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndrain\r\n0\r\n\r\n",
                Some((200, "drain", true)),
            ),
            ("HTTP/1.1 200 OK\r\n\r\nup", Some((200, "up", false))),
            ("HTTP/1.1 204 No Content\r\n\r\n", Some((204, "", true))),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", None),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ndrain",
                Some((200, "drain", true)),
            ),
            ("HTTP/1.1 103 E\r\n\r\nHTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", Some((500, "", true))),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Some((101, "", true))),
            ("HTTP/1.1 200 OK\r\n", None),
            ("", None),
        ] {
            let expected = expected.map(|(status, word, enough)| (status, word.to_owned(), enough));
            assert_eq!(said(answer), expected, "{answer}");
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        for (answer, kind) in [
            ("SSH-2.0-x\r\n\r\n", io::ErrorKind::InvalidData),
            ("HTTP/1.1 OK\r\n\r\n", io::ErrorKind::InvalidData),
            ("HTTP/1.1 200 OK\r\nConte", io::ErrorKind::UnexpectedEof),
        ] {
            let (near, mut far) = tokio::io::duplex(4096);
            far.write_all(answer.as_bytes()).await.expect("there is room");
            far.shutdown().await.expect("it is open");
            assert_eq!(get(near, "a", "/health").await.expect_err(answer).kind(), kind, "{answer}");
        }
    }

    /// The end is what ends a body without a length; and nobody is listened to for ever.
    #[tokio::test]
    async fn an_answer_is_read_to_its_end_or_to_a_bound() {
        let ask = async |answer: String| {
            let (near, mut far) = tokio::io::duplex(2 * MAX_ANSWER);
            far.write_all(answer.as_bytes()).await.expect("there is room");
            far.shutdown().await.expect("it is open");
            get(near, "a", "/health").await.map(|said| said.word).map_err(|error| error.kind())
        };
        assert_eq!(ask("HTTP/1.1 200 OK\r\n\r\nup".to_owned()).await.as_deref(), Ok("up"));
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_ANSWER));
        assert_eq!(ask(endless).await, Err(io::ErrorKind::UnexpectedEof));
    }
}
