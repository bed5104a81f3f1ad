//! Large bodies and many of them: they stream through, and the router's memory stays what it was.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use crate::support::{
    Conn, Framing, Gate, MOST_QUEUED, PATIENCE, Pattern, Router, Stage, eventually, queued, together, wait_stalled,
};

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// What the router may need beyond what it had at rest, whatever passes through.
const MOST_KIB: u64 = 64 * 1024;

/// Runs `transfer` and fails if the router has grown by more than [`MOST_KIB`] meanwhile.
#[track_caller]
fn within_bounded_memory<T>(router: &Router, transfer: impl FnOnce() -> T) -> T {
    let before = router.rss_kib();
    let made = transfer();
    let grown = router.peak_rss_kib().saturating_sub(before);
    assert!(grown < MOST_KIB, "the router has grown by {grown} KiB");
    made
}

/// Reads a body, checks it against the pattern and answers with its length.
fn swallow(mut conn: Conn) -> io::Result<()> {
    let head = conn.request()?;
    let (mut pattern, mut len) = (Pattern::default(), 0);
    conn.read_body(&head, |piece| {
        pattern.expect(piece);
        len += piece.len();
    })?;
    let len = len.to_string();
    conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{len}", len.len()))
}

/// Answers a request with this many bytes of the pattern.
fn pour(len: u64) -> impl Fn(Conn) -> io::Result<()> {
    move |mut conn| {
        conn.whole_request()?;
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n"))?;
        Pattern::pieces(len).try_for_each(|piece| conn.send(piece))
    }
}

#[test]
fn a_gibibyte_is_uploaded_in_bounded_memory() {
    let stage = Stage::new();
    stage.pods[0].play(swallow);
    let response = within_bounded_memory(&stage.router, || {
        let mut client = stage.client();
        client.send(format!("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: {GIB}\r\n\r\n"));
        Pattern::pieces(GIB).for_each(|piece| client.send(piece));
        client.read_response()
    });
    assert_eq!(response.text(), GIB.to_string());
}

#[test]
fn a_chunked_upload_is_passed_on_in_bounded_memory() {
    const LEN: u64 = 256 * MIB;
    let stage = Stage::new();
    stage.pods[0].play(swallow);
    let response = within_bounded_memory(&stage.router, || {
        let mut client = stage.client();
        client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in Pattern::pieces(LEN) {
            client.send(format!("{:x}\r\n", piece.len()));
            client.send(piece);
            client.send("\r\n");
        }
        client.send("0\r\n\r\n");
        client.read_response()
    });
    assert_eq!(response.text(), LEN.to_string());
}

#[test]
fn a_gibibyte_is_downloaded_in_bounded_memory() {
    let stage = Stage::new();
    stage.pods[0].play(pour(GIB));
    within_bounded_memory(&stage.router, || {
        let mut client = stage.client();
        client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = client.read_head();
        assert_eq!(head.value("content-length"), Some(GIB.to_string().as_str()));
        client.expect_pattern(&head, Pattern::default(), GIB);
    });
}

/// None of the clients reads until all downloads have begun; then each gets every byte.
#[test]
fn two_hundred_slow_downloads_complete_in_bounded_memory() {
    const CLIENTS: usize = 200;
    // More than the sockets' own buffers hold, so that only backpressure can bound it.
    const LEN: u64 = 16 * MIB;
    let stage = Stage::new();
    stage.pods[0].play(pour(LEN));
    let (begun, all) = (AtomicUsize::new(0), Gate::shared());
    within_bounded_memory(&stage.router, || {
        together(CLIENTS, |_| {
            let mut client = stage.client().with_patience(6 * PATIENCE);
            client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
            let head = client.read_head();
            if begun.fetch_add(1, Ordering::SeqCst) + 1 == CLIENTS {
                all.open();
            }
            assert!(all.wait(), "all downloads have begun");
            client.expect_pattern(&head, Pattern::default(), LEN);
        });
    });
    assert_eq!(stage.pods[0].received().len(), CLIENTS);
}

/// By then the kernel knows a fast connection, and would let its buffer grow to megabytes.
#[test]
fn a_response_that_the_client_no_longer_reads_waits_with_the_pod() {
    let sent = Arc::new(AtomicU64::new(0));
    let stage = Stage::new();
    for framing in ["Content-Length: 268435456", "Connection: close"] {
        sent.store(0, Ordering::SeqCst);
        let progress = Arc::clone(&sent);
        stage.pods[0].play(move |mut conn| {
            conn.whole_request()?;
            conn.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"))?;
            Pattern::pieces(256 * MIB).try_for_each(|piece| {
                conn.send(piece)?;
                progress.fetch_add(piece.len() as u64, Ordering::SeqCst);
                Ok(())
            })
        });
        let mut client = stage.client();
        client.send("GET /room_a HTTP/1.0\r\nHost: a\r\n\r\n");
        client.read_head();
        client.wire().read_body(Framing::Length(64 * MIB), |_| {}).expect("a quarter of the body");
        wait_stalled(&sent);
        let (_, waiting) = queued(stage.pods[0].addr());
        assert!(waiting < MOST_QUEUED, "{waiting} bytes wait in the router's socket");
    }
}

/// What a pod does not read must stay with the client.
#[test]
fn an_upload_that_the_pod_does_not_take_waits_with_the_client() {
    let stage = Stage::new();
    let gate = Gate::shared();
    let held = Arc::clone(&gate);
    stage.pods[0].play(move |mut conn| {
        let head = conn.request()?;
        held.wait();
        let mut pattern = Pattern::default();
        conn.read_body(&head, |piece| pattern.expect(piece))?;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    });
    let len = 256 * MIB;
    let sent = AtomicU64::new(0);
    within_bounded_memory(&stage.router, || {
        let mut client = stage.client().with_patience(3 * PATIENCE);
        thread::scope(|scope| {
            scope.spawn(|| {
                wait_stalled(&sent);
                assert!(sent.load(Ordering::SeqCst) < len / 2, "somebody has taken half of it");
                let (waiting, _) = queued(stage.pods[0].addr());
                assert!(waiting < MOST_QUEUED, "{waiting} bytes wait in the router's socket");
                gate.open();
            });
            client.send(format!("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n"));
            for piece in Pattern::pieces(len) {
                client.send(piece);
                sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
            }
        });
        assert_eq!(client.read_response().text(), "ok");
    });
}

/// The allocator looks for memory to give back while it is busy; after a rush it has to be asked.
#[test]
fn what_a_rush_of_uploads_took_is_given_back() {
    const CLIENTS: usize = 500;
    const LEN: usize = 100_000;
    let stage = Stage::new();
    let before = stage.router.rss_kib();
    for rush in ["the first rush", "the second"] {
        let gate = Gate::shared();
        let held = Arc::clone(&gate);
        stage.pods[0].play(move |mut conn| {
            let head = conn.request()?;
            held.wait();
            conn.read_body(&head, |_| {})?;
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        });
        let upload = || {
            let client = stage.client();
            client.send(format!("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: {LEN}\r\n\r\n"));
            client.send(vec![b'x'; LEN]);
            client
        };
        let clients: Vec<_> = std::iter::repeat_with(upload).take(CLIENTS).collect();
        eventually("their bodies are held", || stage.router.rss_kib() > before + 32 * 1024);
        gate.open();
        for mut client in clients {
            assert_eq!(client.read_response().text(), "ok", "{rush}");
        }
        eventually("the memory is given back", || stage.router.rss_kib() < before + 12 * 1024);
    }
}

/// Such a client reads nothing before it has sent everything, and such a pod answers from the first byte on: neither may
/// wait for the other.
#[test]
fn an_upload_goes_on_though_nobody_takes_the_response_yet() {
    const LEN: u64 = 64 * MIB;
    let stage = Stage::new();
    stage.pods[0].play(|mut conn| {
        loop {
            let head = conn.request()?;
            let sink = conn.wire().stream().try_clone()?;
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n"))?;
            let answering = thread::spawn(move || Pattern::pieces(LEN).try_for_each(|piece| (&sink).write_all(piece)));
            let mut pattern = Pattern::default();
            conn.read_body(&head, |piece| pattern.expect(piece))?;
            answering.join().expect("the answering thread does not panic")?;
        }
    });
    for framing in [format!("Content-Length: {LEN}"), "Transfer-Encoding: chunked".to_owned()] {
        let mut client = stage.client();
        client.send(format!("POST /room_a HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        let head = client.read_head();
        for piece in Pattern::pieces(LEN) {
            if framing.starts_with("Transfer") {
                client.send(format!("{:x}\r\n", piece.len()));
                client.send(piece);
                client.send("\r\n");
            } else {
                client.send(piece);
            }
        }
        if framing.starts_with("Transfer") {
            client.send("0\r\n\r\n");
        }
        client.expect_pattern(&head, Pattern::default(), LEN);
        assert_eq!(client.get("/").pod(), "any", "the client's connection lives on");
    }
}
