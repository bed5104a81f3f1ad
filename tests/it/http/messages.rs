//! How messages begin and end: versions, hosts, targets, body framing, broken responses.

use crate::support::{Client, Stage, Truncated, script};

/// RFC 9110 section 10.1.1: the client waits for the 100; the pod never hears of it.
#[test]
fn rfc9110_10_1_1_a_client_that_expects_100_gets_it_before_it_sends() {
    let stage = Stage::new();
    let mut client = stage.client();
    client.send("POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.read_head().start_line(), "HTTP/1.1 100 Continue");
    client.send("hello");
    assert_eq!(client.read_response().json()["body"], "hello");
    assert!(!stage.pods[0].only_head().has("expect"));
}

#[test]
fn a_refusal_comes_instead_of_the_100() {
    let stage = Stage::new();
    let mut client = stage.client();
    client.send("POST /room%5Fa HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    client.read_response().expect_error(400);
}

/// RFC 9110 section 7.8: a 100 has to come before the 101. None can, because no body is waited for (section 10.1.1 has
/// clients not ask for one then), so there is no 101 either.
#[test]
fn rfc9110_7_8_a_handshake_that_expects_100_is_not_switched_without_it() {
    let stage = Stage::new();
    stage.pods[0].play(script::websocket_echo);
    let handshake = "GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nExpect: 100-continue\r\n\r\n";
    let mut client = stage.client();
    assert_eq!(client.request(handshake).expect_error(417), "expectation");
    client.expect_end();
    assert!(stage.pods[0].received().is_empty());
}

/// A GET with a chunked body is rare and legal; a client library may drop the body.
#[test]
fn chunked_bodies_arrive_whole_whatever_the_method() {
    let stage = Stage::new();
    for method in ["POST", "PUT", "GET", "DELETE", "OPTIONS"] {
        let response = stage.request(format!(
            "{method} /room_a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n6;ext=\"1\"\r\n world\r\n0\r\nX-Trailer: x\r\n\r\n"
        ));
        assert_eq!(response.json()["body"], "hello world", "{method}");
    }
    let last = stage.pods[0].received().pop().expect("five requests").head;
    assert_eq!(last.value("transfer-encoding"), Some("chunked"));
    assert!(!last.has("content-length") && !last.has("x-trailer"), "{}", last.text());
}

#[test]
fn a_body_of_known_length_keeps_its_length() {
    let stage = Stage::new();
    for method in ["POST", "GET", "DELETE"] {
        let response = stage.request(format!("{method} /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"));
        assert_eq!(response.json()["body"], "hello", "{method}");
    }
    for received in stage.pods[0].received() {
        assert_eq!(received.head.value("content-length"), Some("5"));
        assert!(!received.head.has("transfer-encoding"));
    }
}

#[test]
fn a_request_without_a_body_gets_none_on_the_way() {
    let stage = Stage::new();
    stage.get("/room_a");
    let head = stage.pods[0].only_head();
    assert!(!head.has("content-length") && !head.has("transfer-encoding"), "{}", head.text());
}

/// RFC 9112 section 6.1: a coding that is not understood is refused, not lost.
#[test]
fn rfc9112_6_1_only_the_chunked_coding_is_taken() {
    let stage = Stage::new();
    for coding in ["gzip, chunked", "chunked, chunked", "identity", "xchunked", "chunked\r\nTransfer-Encoding: chunked"]
    {
        let response = stage.request(format!(
            "POST /room_a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n"
        ));
        assert!([400, 501].contains(&response.status()), "{coding}: {}", response.head.text());
    }
    assert!(stage.pods[0].received().is_empty());
}

/// RFC 9112 section 6.3: Transfer-Encoding overrides Content-Length, and what is forwarded has one of them.
#[test]
fn rfc9112_6_3_a_request_with_both_framings_cannot_smuggle() {
    let stage = Stage::new();
    let mut client = stage.client();
    let both = "POST /room_a HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    client.send(format!("{both}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
    let status = client.read_response().status();
    assert!([200, 400].contains(&status), "{status}");
    // Section 6.1: the connection ends after such a request.
    client.expect_end();
    assert!(stage.any.received().is_empty(), "what followed was served");
    for received in stage.pods[0].received() {
        assert!(!received.head.has("content-length"), "{}", received.head.text());
    }
}

/// RFC 9112 section 2.3: a gateway sends its own version; section 6.1: no chunks to HTTP/1.0.
#[test]
fn rfc9112_2_3_an_http_1_0_client_is_served_in_its_own_terms() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    ));
    let mut client = stage.client();
    client.send("GET /room_a HTTP/1.0\r\n\r\n");
    let response = client.read_response();
    assert_eq!(response.status(), 200);
    assert!(!response.head.has("transfer-encoding"), "{}", response.head.text());
    assert_eq!(response.text(), "hello world");
    client.expect_end();
    let head = stage.pods[0].only_head();
    assert!(head.start_line().ends_with(" HTTP/1.1"));
    // RFC 9112 section 3.2: a client must send Host in an HTTP/1.1 request.
    assert!(head.value("host").is_some(), "{}", head.text());
    assert_eq!(head.value("via"), Some("1.0 pod-router"));
}

/// RFC 9112 section 9.6: who ends the connection says so, and nothing else. hyper would say `keep-alive` to a client of
/// HTTP/1.0 that asks for it, whatever else is said.
#[test]
fn rfc9112_9_6_an_http_1_0_client_is_not_told_that_a_connection_stays_which_ends() {
    let stage = Stage::new();
    let raw = |request: &str| {
        let mut client = stage.client();
        client.send(request);
        String::from_utf8(client.wire().read_to_end().expect("an orderly end")).expect("text")
    };
    let ends = |answer: String, what: &str| {
        let (head, _) = answer.split_once("\r\n\r\n").expect("a head");
        let says: Vec<_> = head.lines().filter(|line| line.starts_with("connection:")).collect();
        assert_eq!(says, ["connection: close"], "{what}: {answer}");
    };
    // A body whose end only the connection's end tells. The pod says that it closes: else the next request might be sent
    // to it before that is noticed.
    for body in ["Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "\r\nhello"] {
        let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{body}");
        stage.pods[0].play(script::answer_and_close(answer));
        let answer = raw("GET /room_a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
        ends(answer, body);
    }
    // A refusal with a body unread.
    ends(raw("POST /room%5Fa HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n"), "a refusal");
    // What says where it ends stays.
    stage.pods[0].play(script::echo);
    let mut client = stage.client();
    for _ in 0..2 {
        let response = client.request("GET /room_a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!((response.pod(), response.head.values("connection")), ("backend-0", vec!["keep-alive"]));
    }
}

/// RFC 9112 section 9.6: closing with something unread would reset the connection, and the answer might not arrive.
#[test]
fn rfc9112_9_6_an_answer_of_our_own_reaches_who_is_still_sending() {
    let stage = Stage::new();
    for (request, status) in [
        ("POST /room%5Fa HTTP/1.0", "400"),
        ("POST /room%5Fa HTTP/1.1", "400"),
        ("POST /room%5Fa HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c", "400"),
        ("OPTIONS / HTTP/1.1\r\nMax-Forwards: 0", "204"),
        ("GET /experiment/room_a HTTP/1.1\r\nAccept: text/html", "302"),
    ] {
        // Also on a connection that was offered another protocol before.
        for before in [None, Some("GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")] {
            let mut client = stage.client();
            if let Some(before) = before {
                assert_eq!(client.request(before).pod(), "backend-0");
            }
            client.send(format!("{request}\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"));
            // As one who reads only when all is sent.
            client.send(vec![b'x'; 1_000_000]);
            let answer = client.wire().read_to_end().expect("an orderly end");
            let answer = String::from_utf8_lossy(&answer);
            assert!(
                answer.contains(&format!(" {status} ")) && answer.contains("\r\nconnection: close\r\n"),
                "{answer}"
            );
        }
    }
}

/// RFC 9112 section 3.2.2: the target's authority replaces the Host, and the pod gets origin form.
#[test]
fn rfc9112_3_2_2_an_absolute_target_is_reduced_to_its_path() {
    let stage = Stage::new();
    let response =
        stage.request("GET http://app.example:8080/api/room_a/%2F?x=1& HTTP/1.1\r\nHost: ignored.example\r\n\r\n");
    assert_eq!(response.pod(), "backend-0");
    let head = stage.pods[0].only_head();
    assert_eq!(head.start_line(), "GET /api/room_a/%2F?x=1& HTTP/1.1");
    assert_eq!(head.value("host"), Some("app.example:8080"));
}

/// RFC 9112 section 3.2.
#[test]
fn rfc9112_3_2_a_request_without_exactly_one_host_is_refused() {
    let stage = Stage::new();
    for hosts in
        ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n", "Host: a b\r\n", "Host: user@a\r\n", "Host: a/b\r\n"]
    {
        let response = stage.request(format!("GET /room_a HTTP/1.1\r\n{hosts}\r\n"));
        response.expect_error(400);
    }
    assert!(stage.pods[0].received().is_empty());
}

#[test]
fn rfc9110_9_3_6_connect_and_trace_are_refused() {
    let stage = Stage::new();
    for request in
        ["CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n", "TRACE /room_a HTTP/1.1\r\nHost: a\r\n\r\n"]
    {
        let response = stage.request(request);
        assert!([405, 501].contains(&response.status()), "{}", response.head.text());
        response.expect_error(response.status());
    }
    assert!(stage.pods[0].received().is_empty() && stage.any.received().is_empty());
}

/// RFC 9110 sections 9.3.2 and 8.6.
#[test]
fn rfc9110_9_3_2_responses_without_a_body_keep_their_heads() {
    let stage = Stage::new();
    let mut client = stage.client();
    stage.pods[0].play(|mut conn| {
        loop {
            let head = conn.request()?;
            conn.send(match head.second_word() {
                "/room_a/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
                "/room_a/204" => "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
            })?;
        }
    });
    let response = client.request("HEAD /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(response.head.value("content-length"), Some("1234"));
    let response = client.get("/room_a/304");
    assert_eq!((response.status(), response.head.value("etag")), (304, Some("\"x\"")));
    let response = client.get("/room_a/204");
    assert_eq!((response.status(), response.head.value("x-a")), (204, Some("1")));
    assert!(!response.head.has("transfer-encoding") && !response.head.has("content-length"));
}

/// RFC 9112 section 6.3: the length must go, or hyper's server would cut the body at it.
#[test]
fn rfc9112_6_3_a_response_with_both_framings_is_read_as_chunked() {
    let stage = Stage::new();
    // It says that it closes: a request sent on a connection that closes unannounced may be lost.
    let chunks = "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    for length in [3, 11, 5000] {
        stage.pods[0]
            .play(script::answer_and_close(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{chunks}")));
        let response = stage.get("/room_a");
        assert_eq!(response.text(), "hello world");
        assert!(!response.head.has("content-length"), "{}", response.head.text());
    }
}

#[test]
fn a_body_that_ends_with_the_connection_arrives_whole() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer_and_close("HTTP/1.1 200 OK\r\n\r\nhello world"));
    let mut client = stage.client();
    let response = client.get("/room_a");
    assert_eq!(response.text(), "hello world");
    // It has become a body that says where it ends: the client's connection lives on.
    assert_eq!(client.get("/").pod(), "any");
}

/// RFC 9112 section 6.3: an incomplete body must not look complete, though HTTP/1.0 knows no other end than the
/// connection's.
#[test]
fn rfc9112_8_a_truncated_response_is_seen_as_truncated() {
    let stage = Stage::new();
    for (broken, received) in [
        ("Content-Length: 100\r\n\r\nhello", "hello"),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n9\r\nwor", "hello"),
    ] {
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            stage.pods[0].play(script::answer_and_close(format!("HTTP/1.1 200 OK\r\n{broken}")));
            let mut client = stage.client();
            client.send(format!("GET /room_a {version}\r\nHost: a\r\n\r\n"));
            let head = client.read_head();
            assert_eq!(head.second_word(), "200");
            let read = client.read_body(&head);
            let Err(Truncated(came)) = read else { panic!("{broken:?} looks complete to {version}") };
            assert!(String::from_utf8_lossy(&came).starts_with(received), "{came:?}");
        }
    }
}

#[test]
fn a_response_that_is_no_http_is_a_bad_gateway() {
    let stage = Stage::new();
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
    ] {
        stage.pods[0].play(script::answer_and_close(garbage));
        let response = stage.get("/room_a");
        response.expect_error(502);
    }
}

/// RFC 9110 section 15.2 would have these forwarded; hyper's server cannot. They must not spoil what follows.
#[test]
fn rfc9110_15_2_informational_responses_are_swallowed_cleanly() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer(
        "HTTP/1.1 103 Early Hints\r\nLink: </x.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ));
    let response = stage.get("/room_a");
    assert_eq!((response.status(), response.text().as_str()), (200, "ok"));
    assert!(!response.head.has("link"));
}

/// A response whose trailers nobody has asked for.
const WITH_TRAILERS: &str = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n\
    0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n";

/// RFC 9110 section 6.5.1: trailers are never merged into the head.
#[test]
fn rfc9110_6_5_1_response_trailers_do_no_harm() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer(WITH_TRAILERS));
    let mut client = stage.client();
    for _ in 0..3 {
        let response = client.get("/room_a");
        assert_eq!(response.text(), "hello");
        assert!(!response.head.has("x-sum") && !response.head.has("content-length"), "{}", response.head.text());
    }
}

/// The exchange has ended cleanly.
#[test]
fn response_trailers_do_not_cost_the_pods_connection() {
    let stage = Stage::new();
    stage.pods[0].play(script::answer(WITH_TRAILERS));
    let mut client = stage.client();
    for _ in 0..3 {
        assert_eq!(client.get("/room_a").text(), "hello");
    }
    assert_eq!(stage.pods[0].accepted(), 1);
}

/// Foreign protocols on the port end quickly and harm nobody.
#[test]
fn what_is_no_http_is_turned_away() {
    let stage = Stage::new();
    for bytes in [
        "\x16\x03\x01\x02\x00\x01\x00\x01",
        "*1\r\n$4\r\nPING\r\n",
        "SSH-2.0-x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut client = Client::connect(stage.router.addr());
        client.send(bytes);
        client.half_close();
        // An end in time, orderly or not.
        let answer = client.wire().read_to_end().unwrap_or_else(|error| {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:?}: {error}");
            Vec::new()
        });
        let answer = String::from_utf8_lossy(&answer);
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 505");
        assert!(refused, "{bytes:?}: {answer}");
    }
    assert_eq!(stage.get("/room_a").pod(), "backend-0");
}
