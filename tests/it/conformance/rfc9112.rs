//! RFC 9112, HTTP/1.1: the clauses that no test of another suite is about. The corpus has many more bytes for most.

use crate::support::{Stage, eventually, script};

/// A request that is refused with this status, and whose connection ends.
#[track_caller]
fn refused(stage: &Stage, request: &str, status: u16) {
    let mut client = stage.client();
    let response = client.request(request);
    assert_eq!(response.status(), status, "{request:?}");
    client.expect_end();
}

/// The status that a client gets for this answer of a pod.
fn status_for(stage: &Stage, answer: impl AsRef<[u8]> + Send + Sync + 'static) -> u16 {
    stage.pods[0].play(script::answer_and_close(answer));
    let status = stage.get("/room_a").status();
    eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    status
}

/// 414 where the head may be longer than a target may be; 431 where the head's limit comes first.
#[test]
fn rfc9112_3_an_overlong_target_is_refused() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000));
    refused(&Stage::with(&["--max-header-bytes", "200000"]), &long, 414);
    refused(&Stage::new(), &long, 431);
}

#[test]
fn rfc9112_2_2_a_bare_cr_and_space_before_the_first_field_are_refused() {
    let stage = Stage::new();
    for request in [
        "GET /room_a\r HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /room_a HTTP/1.1\r\nHost: a\rX: 1\r\n\r\n",
        "GET /room_a HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET /room_a HTTP/1.1\r\n\tX: 1\r\nHost: a\r\n\r\n",
    ] {
        refused(&stage, request, 400);
    }
    assert!(stage.pods[0].received().is_empty());
}

#[test]
fn rfc9112_5_1_space_before_a_colon_is_refused_both_ways() {
    let stage = Stage::new();
    for line in ["X : 1", "X\t: 1", "Content-Length : 5", "Transfer-Encoding : chunked"] {
        refused(&stage, &format!("GET /room_a HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"), 400);
        assert_eq!(status_for(&stage, format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 0\r\n\r\n")), 502);
    }
}

#[test]
fn rfc9112_5_2_a_folded_line_is_refused_both_ways() {
    let stage = Stage::new();
    for line in ["X: 1\r\n 2", "X: 1\r\n\t2", "Transfer-Encoding:\r\n chunked"] {
        refused(&stage, &format!("GET /room_a HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"), 400);
        assert_eq!(status_for(&stage, format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 0\r\n\r\n")), 502);
    }
}

#[test]
fn rfc9112_6_1_a_transfer_coding_under_http_1_0_is_faulty_both_ways() {
    let stage = Stage::new();
    refused(&stage, "POST /room_a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
    assert!(stage.pods[0].received().is_empty());
    assert_eq!(status_for(&stage, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 502);
}

/// Where it is not the last, nobody knows where the body ends: what follows is not read as a request.
#[test]
fn rfc9112_6_3_a_request_whose_last_coding_is_not_chunked_is_refused_and_ends_its_connection() {
    let stage = Stage::new();
    for coding in ["chunked, identity", "xchunked", "gzip", "chunked\r\nTransfer-Encoding: gzip", "\"chunked\""] {
        let head = format!("POST /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n");
        refused(&stage, &format!("{head}0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    }
    assert!(stage.pods[0].received().is_empty() && stage.any.received().is_empty());
}

#[test]
fn rfc9112_6_3_invalid_and_differing_lengths_are_refused_both_ways() {
    let stage = Stage::new();
    for length in ["5, 6", "5\r\nContent-Length: 6", "-5", "+5", "0x5", "five", "", "99999999999999999999"] {
        let lines = format!("Content-Length: {length}\r\n\r\nhello!");
        refused(&stage, &format!("POST /room_a HTTP/1.1\r\nHost: a\r\n{lines}"), 400);
        assert_eq!(status_for(&stage, format!("HTTP/1.1 200 OK\r\n{lines}")), 502, "{length}");
    }
}

#[test]
fn rfc9112_7_1_a_chunk_size_beyond_any_number_is_refused_both_ways() {
    let stage = Stage::new();
    for size in ["ffffffffffffffff1", "10000000000000000", &"f".repeat(100)] {
        let body = format!("Transfer-Encoding: chunked\r\n\r\n{size}\r\nhello\r\n0\r\n\r\n");
        refused(&stage, &format!("POST /room_a HTTP/1.1\r\nHost: a\r\n{body}"), 400);
        stage.pods[1].play(script::answer_and_close(format!("HTTP/1.1 200 OK\r\n{body}")));
        stage.redis.assign("room_b", 1);
        let mut client = stage.client();
        client.send("GET /room_b HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = client.read_head();
        let read = client.read_body(&head);
        assert!(read.is_err(), "{size}: {read:?}");
    }
}

#[test]
fn rfc9112_7_1_1_chunk_extensions_are_dropped_and_bounded_both_ways() {
    let stage = Stage::new();
    let head = "POST /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let response = stage.request(format!("{head}5;a=\"b;c\";d\r\nhello\r\n0;e\r\n\r\n"));
    assert_eq!(response.json()["body"], "hello");
    refused(&stage, &format!("{head}5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20_000)), 400);

    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;";
    stage.pods[0].play(script::answer(format!("{answer}a=b\r\nhello\r\n0\r\n\r\n")));
    eventually("a pod that answers so", || stage.get("/room_a").body == b"hello");
}

/// Nor to HTTP/1.0, which [`rfc9112_2_3`](super::super::http) has.
#[test]
fn rfc9112_6_1_there_is_no_transfer_coding_where_there_is_no_body() {
    let stage = Stage::new();
    for status in ["204 No Content", "304 Not Modified"] {
        let answer = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
        stage.pods[0].play(script::answer_and_close(answer));
        let response = stage.get("/room_a");
        assert!(!response.head.has("transfer-encoding"), "{}", response.head.text());
        eventually("the pod's connection is closed", || stage.pods[0].open() == 0);
    }
}
