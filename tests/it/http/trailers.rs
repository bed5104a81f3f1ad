//! Behind a chunked request that ends in trailers nothing is read (`src/proxy/doubt.rs`). What comes of it before the
//! response begins is in the corpus; here it comes later.

use std::sync::Arc;

use crate::support::{Client, Gate, Stage, eventually};

const HEAD: &str = "POST /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
/// To others the end of the request, and two more.
const REST: &str =
    "0\r\nX: y\n\r\nGET /room_b/swallowed HTTP/1.1\r\nHost: a\r\n\r\nGET /room_b/behind HTTP/1.1\r\nHost: a\r\n\r\n";

fn stage() -> Stage {
    let stage = Stage::with(&["--threads", "1"]);
    stage.redis.assign("room_b", 1);
    stage
}

/// Whether the connection has ended without an answer of a pod's.
fn expect_no_further_answer(stage: &Stage, client: &mut Client) {
    if let Ok(response) = client.try_read_response(false) {
        assert_eq!(response.expect_error(400), "bad-request");
        assert_eq!(response.head.value("connection"), Some("close"));
    }
    client.expect_end();
    assert_eq!(stage.get("/room_b/fresh").pod(), "backend-1");
    assert_eq!(stage.pods[1].only_head().second_word(), "/room_b/fresh");
}

/// A client that has its answer while the end of its request is still to come.
fn answered_early(stage: &Stage) -> Client {
    stage.pods[0].play(|mut conn| {
        let head = conn.request()?;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")?;
        conn.read_body(&head, |_| {})?;
        conn.until_closed()
    });
    let mut client = stage.client();
    client.send(HEAD);
    assert_eq!(client.read_response().text(), "early");
    client
}

#[test]
fn a_response_that_has_begun_is_the_connections_last() {
    let stage = stage();
    let (gate, opens) = {
        let gate = Gate::shared();
        (Arc::clone(&gate), gate)
    };
    stage.pods[0].play(move |mut conn| {
        let head = conn.request()?;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")?;
        conn.read_body(&head, |_| {})?;
        gate.wait();
        conn.send("world")
    });
    let mut client = stage.client();
    client.send(HEAD);
    let head = client.read_head();
    assert!(!head.has("connection"), "nothing is known yet");
    client.send(REST);
    opens.open();
    assert_eq!(client.read_body(&head).expect("all of it"), b"helloworld");
    expect_no_further_answer(&stage, &mut client);
}

#[test]
fn a_request_that_ends_after_its_response_is_the_connections_last() {
    let stage = stage();
    let mut client = answered_early(&stage);
    client.send(REST);
    expect_no_further_answer(&stage, &mut client);
}

/// hyper tells of trailers that come after the response only when the next head has come: until then it is a body that does
/// not go on. The connection does not wait for another request to be told that it is over.
#[test]
fn a_connection_ends_with_its_last_request() {
    let stage = Stage::with(&["--request-body-idle", "300ms"]);
    let mut client = answered_early(&stage);
    client.send("0\r\nX: y\r\n\r\n");
    client.expect_end();
}

#[test]
fn one_without_trailers_is_not_and_the_next_has_its_answer() {
    let stage = stage();
    let mut client = answered_early(&stage);
    client.send("0\r\n\r\nGET /room_b HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().pod(), "backend-1");
    assert_eq!(client.get("/room_b").pod(), "backend-1");
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
}
