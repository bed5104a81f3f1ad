//! What takes its time: events that come one by one, and clients that go away.

use serde_json::Value as Json;

use super::contract::Way;
use crate::support::{Client, eventually};

/// Fails unless each server-sent event arrives before the pod sends the next one.
#[track_caller]
pub(super) fn expect_events_one_by_one(way: Way) {
    let mut listening = way.client();
    listening.send("GET /live/room_a/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n");
    let head = listening.read_head();
    assert!(head.value("content-type").is_some_and(|media| media.starts_with("text/event-stream")), "{}", head.text());
    assert!(head.has("transfer-encoding"), "{}", head.text());
    for number in 0..3 {
        if number > 0 {
            assert_eq!(way.client().get("/live/room_a/next").status(), 200);
        }
        expect_event(&mut listening, &format!("id: {number}\ndata: event {number}\n\n"));
    }
    assert_eq!(listening.read_chunk(), None);
}

/// An event may come in several chunks.
#[track_caller]
fn expect_event(listening: &mut Client, event: &str) {
    let mut come = Vec::new();
    while come.len() < event.len() {
        come.extend(listening.read_chunk().expect("the stream goes on"));
    }
    assert_eq!(String::from_utf8_lossy(&come), event);
}

/// Fails unless a pod that has yet to answer learns that its client has gone.
#[track_caller]
pub(super) fn expect_abort_to_arrive(way: Way) {
    let hanging = || -> Json { way.client().get("/live/room_a/hanging").json() };
    let before = hanging();
    let count = |state: &Json, what: &str| state[what].as_u64().expect("a count");
    let client = way.client();
    client.send("GET /live/room_a/hang HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request has come", || count(&hanging(), "come") == count(&before, "come") + 1);
    drop(client);
    eventually("the pod knows that its client has gone", || count(&hanging(), "gone") == count(&before, "gone") + 1);
}
