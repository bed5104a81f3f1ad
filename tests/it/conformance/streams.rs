//! Long polls and streams: byte by byte, never twice, and their end is passed on.

use std::sync::Arc;
use std::time::Instant;

use super::tunnel;
use crate::support::{Client, Gate, Stage, eventually, script};

/// How long it took until the pod's connection was closed: printed, for it depends on the machine.
fn abort(what: &str, stage: &Stage, client: Client) {
    let start = Instant::now();
    drop(client);
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    eprintln!("streams: {what}: the client's abort has reached the pod within {:?}", start.elapsed());
}

#[test]
fn a_clients_abort_reaches_the_pod() {
    let stage = Stage::new();
    stage.pods[0].play(script::silence);
    let client = stage.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the pod has the poll", || stage.pods[0].received().len() == 1);
    abort("a poll", &stage, client);

    stage.pods[0].play(|mut conn| {
        conn.request()?;
        conn.until_closed()
    });
    let client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    eventually("the pod has the upload", || stage.pods[0].received().len() == 2);
    abort("an upload", &stage, client);

    stage.pods[0].play(|mut conn| {
        conn.request()?;
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")?;
        conn.until_closed()
    });
    let mut client = stage.client();
    client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_head();
    abort("a stream", &stage, client);

    stage.pods[0].play(script::websocket_echo);
    let client = tunnel(&stage);
    abort("a tunnel", &stage, client);
    // None of them was tried again.
    assert_eq!(stage.pods[0].received().len(), 4);
}

/// Server-sent events, in every framing: each byte is sent only when the one before it has arrived.
#[test]
fn events_arrive_byte_by_byte() {
    const EVENTS: &[u8] = b"id: 1\ndata: hello\n\n";
    let stage = Stage::new();
    for (framing, chunked) in
        [("Transfer-Encoding: chunked", true), ("Content-Length: 19", false), ("Connection: close", false)]
    {
        let gates: Arc<Vec<_>> = Arc::new(EVENTS.iter().map(|_| Gate::shared()).collect());
        let held = Arc::clone(&gates);
        stage.pods[0].play(move |mut conn| {
            conn.whole_request()?;
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n\r\n"))?;
            for (byte, gate) in EVENTS.iter().zip(held.iter()) {
                match chunked {
                    true => conn.send([b"1\r\n", &[*byte][..], b"\r\n"].concat())?,
                    false => conn.send([*byte])?,
                }
                gate.wait();
            }
            if chunked { conn.send("0\r\n\r\n") } else { Ok(()) }
        });
        let mut client = stage.client();
        client.send("GET /room_a HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n");
        let head = client.read_head();
        assert_eq!(head.value("content-type"), Some("text/event-stream"));
        let in_chunks = head.has("transfer-encoding");
        for (byte, gate) in EVENTS.iter().zip(gates.iter()) {
            let came = if in_chunks { client.read_chunk().expect("a chunk") } else { client.read_exact(1) };
            assert_eq!(came, [*byte], "{framing}");
            gate.open();
        }
        if in_chunks {
            assert_eq!(client.read_chunk(), None);
        }
        drop(client);
        eventually("the pod's connection is closed", || stage.pods[0].open() == 0 || chunked);
    }
}

#[test]
fn a_chunked_upload_arrives_byte_by_byte() {
    let stage = Stage::new();
    let (gates, opened): (Vec<_>, Vec<_>) =
        (0..10).map(|_| Gate::shared()).map(|gate| (Arc::clone(&gate), gate)).unzip();
    stage.pods[0].play(move |mut conn| {
        conn.request()?;
        for gate in &opened {
            assert_eq!(conn.wire().read_chunk()?.as_deref(), Some(&b"x"[..]));
            gate.open();
        }
        assert_eq!(conn.wire().read_chunk()?, None);
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    });
    let mut client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for gate in &gates {
        client.send("1\r\nx\r\n");
        assert!(gate.wait(), "the byte has arrived");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.read_response().status(), 200);
}

/// A pod with trailers, and what a client gets of them that says these lines.
fn trailers(stage: &Stage, lines: &str) -> (crate::support::Head, String) {
    let mut client = stage.client();
    client.send(format!("GET /room_a HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    let head = client.read_head();
    client.half_close();
    (head, String::from_utf8(client.wire().read_to_end().unwrap_or_default()).expect("text"))
}

/// RFC 9110 section 6.5: to a client that says it takes them; the pod is told so (section 10.1.4).
#[test]
fn rfc9110_6_5_response_trailers_reach_a_client_that_takes_them() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer(
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum, Server-Timing\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\
         X-Sum: 1\r\nServer-Timing: db;dur=5\r\nX-Unannounced: 1\r\nSet-Cookie: a=1\r\nContent-Length: 9\r\n\r\n",
    ));
    let (head, rest) = trailers(&stage, "TE: gzip, trailers\r\nConnection: TE\r\n");
    assert_eq!(head.value("trailer"), Some("X-Sum, Server-Timing"));
    assert_eq!(rest, "5\r\nhello\r\n0\r\nx-sum: 1\r\nserver-timing: db;dur=5\r\n\r\n");
    let at_the_pod = stage.pods[0].received().pop().expect("it has answered").head;
    assert_eq!((at_the_pod.value("te"), at_the_pod.value("connection")), (Some("trailers"), Some("te")));

    let (_, rest) = trailers(&stage, "");
    assert_eq!(rest, "5\r\nhello\r\n0\r\n\r\n");
    assert!(!stage.pods[0].received().pop().expect("it has answered").head.has("te"));
}

/// RFC 9110 section 6.5.1: none of a request's trailers is forwarded, whatever it is called.
#[test]
fn rfc9110_6_5_1_request_trailers_are_dropped() {
    let stage = Stage::new();
    let response = stage.request(
        "POST /room_a HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\
         X-Sum: 1\r\nX-Room-Id: room_b\r\nX-Forwarded-For: 1.2.3.4\r\nContent-Length: 9\r\n\r\n",
    );
    assert_eq!(response.json()["body"], "hello");
    let head = stage.pods[0].only_head();
    assert!(!head.has("trailer") && !head.has("x-sum"), "{}", head.text());
    assert_eq!((head.value("x-room-id"), head.value("x-forwarded-for")), (Some("room_a"), Some("127.0.0.1")));
}

/// A poll is asked once, alone, and not again: an overlap ends an Engine.IO session.
#[test]
fn a_poll_is_one_request_whatever_becomes_of_it() {
    let stage = Stage::with(&["--response-timeout", "300ms", "--pod-wait", "2s"]);
    const POLL: &str = "/socket.io/?EIO=4&transport=polling&sid=x&roomId=room_a";
    for (number, script) in [
        script::silence as fn(crate::support::Conn) -> std::io::Result<()>,
        |mut conn| conn.request().map(drop),
        |mut conn| {
            conn.request()?;
            conn.reset();
            Ok(())
        },
    ]
    .into_iter()
    .enumerate()
    {
        stage.pods[0].play(script);
        let response = stage.get(POLL);
        assert!([502, 504].contains(&response.status()), "{}", response.head.text());
        assert_eq!(stage.pods[0].received().len(), number + 1);
    }
    // And one that is answered.
    stage.pods[0].play(script::echo);
    assert_eq!(stage.get(POLL).pod(), "backend-0");
    assert_eq!(stage.pods[0].received().len(), 4);
}
