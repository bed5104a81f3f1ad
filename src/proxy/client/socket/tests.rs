use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use super::super::tests::accepted;
use super::*;
use crate::drain::tests::Wakes;

/// A client's socket, what is known of it, and the client.
async fn connected() -> (ClientSocket, Rc<Downstream>, TcpStream) {
    connected_by(TcpSocket::new_v4().expect("the machine has sockets left")).await
}

async fn connected_by(client: TcpSocket) -> (ClientSocket, Rc<Downstream>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let client = client.connect(listener.local_addr().expect("bound")).await.expect("it listens");
    let (stream, _) = listener.accept().await.expect("it has connected");
    let downstream = accepted().0;
    (ClientSocket::new(stream, &downstream), downstream, client)
}

/// A client with little room for what it has not read, whose request has been read and is owed an answer: from here on the
/// runtime, which assumes of a new socket that there is something to be read, knows what there is.
async fn asked() -> (ClientSocket, Rc<Downstream>, TcpStream) {
    let narrow = TcpSocket::new_v4().expect("the machine has sockets left");
    narrow.set_recv_buffer_size(8 * 1024).expect("a live socket takes its options");
    let (mut socket, downstream, mut client) = connected_by(narrow).await;
    // It is waited for, as by hyper.
    let mut request = [0; 8];
    let (read, sent) = tokio::join!(socket.read(&mut request), client.write_all(b"request"));
    sent.expect("taken");
    assert_eq!(read.expect("it came"), b"request".len());
    downstream.begin();
    (socket, downstream, client)
}

#[tokio::test]
async fn parts_are_written_whole_and_what_is_taken_is_noted() {
    let (mut socket, downstream, mut client) = connected().await;
    downstream.begin();
    for length in [3, SMALL + 1] {
        let long = vec![b'x'; length];
        let parts = [IoSlice::new(b"a"), IoSlice::new(&long)];
        let written = std::future::poll_fn(|cx| Pin::new(&mut socket).poll_write_vectored(cx, &parts)).await;
        assert_eq!(written.expect("taken"), length + 1);
        let mut read = vec![0; length + 1];
        client.read_exact(&mut read).await.expect("it came");
        assert!(read.starts_with(b"ax") && read.ends_with(b"x"));
    }
    assert_eq!(downstream.socket.taken.get(), 2);
}

/// Without a request, what hyper says is its answer to what it could not read.
#[tokio::test]
async fn what_hyper_says_by_itself_is_said_in_our_words() {
    let (mut socket, downstream, mut client) = connected().await;
    let hypers = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(socket.write(hypers).await.expect("taken"), hypers.len(), "hyper is told that it was its own");
    drop(socket);
    let mut read = String::new();
    client.read_to_string(&mut read).await.expect("an end");
    assert!(read.contains("x-pod-router-error: bad-request\r\n"), "{read}");
    assert_eq!(downstream.unheard().map(Unheard::code), Some("bad-request"));
}

#[tokio::test]
async fn an_answer_to_a_request_is_left_alone() {
    let (mut socket, downstream, mut client) = connected().await;
    let pods = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    downstream.begin();
    socket.write_all(pods).await.expect("taken");
    downstream.end(Instant::now());
    socket.write_all(pods).await.expect("taken");
    assert_eq!(downstream.socket.cork.get(), Cork::None, "it is not the last");
    drop(socket);
    let mut read = Vec::new();
    client.read_to_end(&mut read).await.expect("an end");
    assert_eq!(read, pods.repeat(2));
}

/// Whatever follows it: the end, a wait for something else, or a tunnel.
#[tokio::test]
async fn the_last_answer_goes_together_with_the_end_or_without_it_soon() {
    for follows in ["end", "wait", "tunnel"] {
        let (mut socket, downstream, mut client) = asked().await;
        downstream.note_last();
        socket.write_all(b"first, ").await.expect("taken");
        downstream.end(Instant::now());
        socket.write_all(b"last").await.expect("taken");
        let mut read = [0; 7];
        client.read_exact(&mut read).await.expect("it came");
        socket.flush().await.expect("nothing fails");
        assert!(Direct(&client).is_quiet(), "it waits for the end");
        let mut tunnel = None;
        match follows {
            "end" => {
                let ended = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut socket).poll_shutdown(cx)));
                assert!(ended.await.is_ready(), "nothing is unread");
                drop(socket);
            }
            "wait" => {
                downstream.uncork_at_next_turn(&Context::from_waker(std::task::Waker::noop()));
                socket.flush().await.expect("nothing fails");
            }
            _ => tunnel = Some(socket.into_stream()),
        }
        assert!(!Direct(&client).is_quiet(), "it has come with the {follows}");
        let mut read = [0; 4];
        client.read_exact(&mut read).await.expect("it came");
        assert_eq!(&read, b"last");
        drop(tunnel);
    }
}

/// Else a client that reads slowly would take all of a core.
#[tokio::test]
async fn a_last_answer_that_is_not_taken_wakes_nobody_over_and_over() {
    let (mut socket, downstream, _client) = connected().await;
    downstream.begin();
    downstream.note_last();
    socket.write_all(b"first, ").await.expect("taken");
    downstream.end(Instant::now());
    let wakes = Arc::new(Wakes::default());
    let waker = wakes.waker();
    let mut cx = Context::from_waker(&waker);
    let much = vec![0; 16 * 1024 * 1024];
    let mut turns = 0;
    while turns < 10 {
        if Pin::new(&mut socket).poll_write(&mut cx, &much).is_pending() {
            downstream.uncork_at_next_turn(&cx);
            turns += 1;
        }
    }
    assert!(wakes.count() <= 1, "{} in ten turns", wakes.count());
}

/// To close a socket with something unread resets the connection, and what the kernel still holds is thrown away: all of a
/// small answer that waits for the end.
#[tokio::test]
async fn the_last_answer_arrives_though_something_has_come_that_nobody_knows_of() {
    for is_shut_down in [false, true] {
        let (mut socket, downstream, mut client) = asked().await;
        downstream.note_last();
        client.write_all(b"\r\n").await.expect("taken");
        while socket.direct().is_quiet() {
            std::thread::yield_now();
        }
        downstream.end(Instant::now());
        socket.write_all(b"last").await.expect("taken");
        assert!(socket::is_fresh(socket.direct().0), "it is known of");
        if is_shut_down {
            socket.shutdown().await.expect("nothing fails");
        }
        drop(socket);
        let mut read = [0; 4];
        client.read_exact(&mut read).await.expect("it came");
        assert_eq!(&read, b"last");
    }
}

/// Where it is known of, nothing is reset: neither is what its client has no room for yet thrown away, nor has one that goes on
/// sending lost what it has not read.
#[tokio::test]
async fn an_answer_arrives_whole_though_something_more_comes() {
    for (is_last, is_looked_past) in [(true, false), (false, false), (false, true)] {
        let (mut socket, downstream, mut client) = asked().await;
        client.write_all(b"\r\n").await.expect("taken");
        socket.direct().0.readable().await.expect("open");
        if is_last {
            downstream.note_last();
        }
        if is_looked_past {
            socket.flush().await.expect("it is there");
        }
        assert_eq!(socket.looked_past, is_looked_past);
        downstream.end(Instant::now());
        let answer = [b'x'; 64 * 1024];
        socket.write_all(&answer).await.expect("taken");
        let ended = Cell::new(false);
        let end = async {
            socket.shutdown().await.expect("nothing fails");
            drop(socket);
            ended.set(true);
        };
        let reads = async {
            let mut read = Vec::new();
            client.read_buf(&mut read).await.expect("it came");
            client.write_all(b"more").await.expect("taken");
            client.read_to_end(&mut read).await.expect("no reset");
            assert!(!ended.get(), "its client was not told before");
            drop(client);
            read.len()
        };
        assert_eq!(tokio::join!(end, reads).1, answer.len(), "last: {is_last}, looked past: {is_looked_past}");
    }
}

/// The runtime tells of it no more, and the reset would come at the end of the linger.
#[tokio::test]
async fn what_was_looked_past_is_read_by_a_connection_that_lingers() {
    let (mut socket, downstream, mut client) = asked().await;
    client.write_all(b"\r\n").await.expect("taken");
    socket.direct().0.readable().await.expect("open");
    socket.flush().await.expect("it is there");
    assert!(socket.looked_past);
    downstream.end(Instant::now());
    socket.write_all(b"last").await.expect("taken");
    let ended = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut socket).poll_shutdown(cx)));
    assert!(ended.await.is_pending() && socket.direct().is_quiet());
    drop(client);
    socket.shutdown().await.expect("nothing fails");
}

/// It leaves open for the runtime whether there was more.
#[tokio::test]
async fn a_buffer_that_was_just_filled_is_no_reason_to_linger() {
    let (mut socket, _, mut client) = connected().await;
    client.write_all(b"request").await.expect("taken");
    socket.read_exact(&mut [0; 7]).await.expect("it came");
    assert!(!socket::is_fresh(socket.direct().0));
    socket.shutdown().await.expect("nothing fails");
    assert!(socket.lingering.is_none());
}

/// It would be two calls and a timer for each connection.
#[tokio::test]
async fn a_client_that_has_ended_its_connection_is_not_waited_for() {
    let (mut socket, _, client) = connected().await;
    drop(client);
    assert_eq!(socket.read(&mut [0]).await.expect("an orderly end"), 0);
    socket.shutdown().await.expect("nothing fails");
    assert!(socket.lingering.is_none());
}

#[tokio::test]
async fn an_answer_that_is_cut_short_ends_with_a_reset() {
    let (mut socket, downstream, mut client) = connected().await;
    downstream.begin();
    socket.write_all(b"half").await.expect("taken");
    downstream.end_with(Ending::CutShort);
    drop(socket);
    let ended = client.read_to_end(&mut Vec::new()).await;
    assert_eq!(ended.expect_err("no orderly end").kind(), ErrorKind::ConnectionReset);
}

/// Also behind more than the kernel takes at once.
#[tokio::test]
async fn a_client_that_goes_is_noticed_while_it_takes_nothing() {
    let (mut socket, downstream, mut client) = connected().await;
    downstream.begin();
    let bytes = vec![b'x'; 64 * 1024];
    let mut write = |cx: &mut Context<'_>| Pin::new(&mut socket).poll_write(cx, &bytes);
    std::future::poll_fn(|cx| {
        while write(cx).map(|written| written.expect("taken")).is_ready() {}
        Poll::Ready(())
    })
    .await;
    client.shutdown().await.expect("open");
    let gone = tokio::time::timeout(LINGER, std::future::poll_fn(|cx| write(cx))).await;
    assert_eq!(gone.expect("in time").expect_err("it has gone").kind(), ErrorKind::ConnectionAborted);
}

/// What was sent ahead is answered by turns, and a request that has come alone at once.
#[tokio::test]
async fn an_own_answer_is_the_first_once_nothing_is_to_be_read() {
    let (mut socket, downstream, mut client) = connected().await;
    client.write_all(b"two").await.expect("taken");
    let mut read = [0; 2];
    socket.read_exact(&mut read).await.expect("it came");
    assert!(downstream.is_first_own_answer() && !downstream.is_first_own_answer());
    socket.read_exact(&mut read[..1]).await.expect("it came");
    assert!(!downstream.is_first_own_answer(), "that was there already");
    let more = std::future::poll_fn(|cx| {
        Poll::Ready(Pin::new(&mut socket).poll_read(cx, &mut ReadBuf::new(&mut read)).is_ready())
    });
    assert!(!more.await);
    assert!(downstream.is_first_own_answer());
}

/// With a byte unread, as behind a body, hyper would not learn of the client's end.
#[tokio::test]
async fn a_client_that_goes_is_noticed_behind_what_it_has_sent_and_nothing_of_that_is_lost() {
    let (mut socket, downstream, mut client) = connected().await;
    downstream.begin();
    client.write_all(b"ahead").await.expect("taken");
    let mut look = |cx: &mut Context<'_>| Pin::new(&mut socket).poll_flush(cx);
    std::future::poll_fn(|cx| look(cx)).await.expect("it is there");
    client.shutdown().await.expect("open");
    let gone = std::future::poll_fn(|cx| match look(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(error),
        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
    });
    assert_eq!(gone.await.kind(), ErrorKind::ConnectionAborted);
    let mut read = [0; 5];
    socket.read_exact(&mut read).await.expect("still there");
    assert_eq!(&read, b"ahead");
}
