//! One test per bug, named and linked to what taught it: our commit, or the thread that reported it elsewhere.

use std::sync::mpsc;
use std::time::Duration;

use crate::support::Stage;

/// A pod that answers before it has read the request may say something more once it has. Kept for reuse, its connection
/// would give that to the next request (found by a fuzz of answers, when the exchange with pods became our own).
#[test]
fn a_connection_with_an_early_answer_carries_no_other_request() {
    let stage = Stage::with(&["--threads", "1"]);
    let (read_on, whole_body) = mpsc::channel();
    stage.pods[0].play(move |mut conn| {
        loop {
            let head = conn.request()?;
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
            conn.read_body(&head, |_| {})?;
            let _ = read_on.send(());
        }
    });
    let mut clients: Vec<_> = (0..10).map(|_| stage.client()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst");
        assert_eq!(client.read_response().status(), 200);
        client.send("other");
        whole_body.recv_timeout(Duration::from_secs(10)).expect("the pod gets all of the body");
        assert_eq!(stage.pods[0].accepted(), index + 1, "each on a connection of its own");
    }
}
