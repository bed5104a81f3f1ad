//! Everything at once: clients that do what they please, pods that answer as they please and are restarted, rooms that move.
//!
//! What each suite shows for one case has to hold while all of them go on over the same kept connections: nobody gets a byte
//! of another's, what breaks off never looks whole, nothing reaches pods twice, and in the end all is given back. Each
//! request has a token of its own, of which its body, its answer and the answer's fields are made.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use crate::support::{Client, Conn, Head, Pods, Redis, Router, StopOnDrop, eventually, now_ms, script};

const PODS: usize = 3;
const CLIENTS: usize = 24;

/// Connections of each client, with some requests or a tunnel each.
const CONNECTIONS: usize = 60;

/// The longest body, in bytes: several of the router's and the kernel's buffers.
const LONGEST: usize = 200_000;

/// How a pod answers. The last three are never to be seen as a whole answer with status 200.
const MANNERS: [&str; 11] = [
    "length",
    "length",
    "chunked",
    "to-the-end",
    "last",
    "early",
    "reset-after",
    "refuse",
    "cut",
    "cut-chunk",
    "reset",
];

const MAY_BE_CUT: usize = MANNERS.len() - 3;

/// What has gone as it should.
#[derive(Default)]
struct Tally {
    whole: AtomicUsize,
    cut: AtomicUsize,
    relayed: AtomicUsize,
}

/// A request, as it is sent and as its pod understands it.
struct Ask {
    token: String,
    manner: &'static str,
    is_head: bool,
    bytes: Vec<u8>,
    body: usize,
    answer: usize,
}

/// So many bytes that are the token's.
fn of(token: &str, length: usize) -> Vec<u8> {
    token.bytes().cycle().take(length).collect()
}

/// A value of a target's query.
fn asked<'a>(head: &'a Head, name: &str) -> &'a str {
    let query = head.second_word().split_once('?').map_or("", |(_, query)| query);
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {}", head.start_line()))
}

fn number(head: &Head, name: &str) -> usize {
    asked(head, name).parse().expect("a number")
}

/// A pod's end of a connection.
fn serve(mut conn: Conn, wrong: &Mutex<Vec<String>>) -> io::Result<()> {
    loop {
        let head = conn.request()?;
        let (token, length) = (asked(&head, "token").to_owned(), number(&head, "answer"));
        let answer = if head.start_line().starts_with("HEAD ") { Vec::new() } else { of(&token, length) };
        if head.has("upgrade") {
            conn.send([script::switching_protocols(&head).as_bytes(), &answer].concat())?;
            return echo(conn);
        }
        let fields = format!("HTTP/1.1 200 OK\r\nX-Token: {token}\r\n");
        let with_length = [format!("{fields}Content-Length: {length}\r\n\r\n").as_bytes(), &answer].concat();
        if asked(&head, "manner") == "early" {
            conn.send(&with_length)?;
        }
        let mut body = Vec::new();
        conn.read_body(&head, |piece| body.extend_from_slice(piece))?;
        if body != of(&token, number(&head, "body")) {
            wrong.lock().expect("nobody panics").push(format!("{token} came with {} bytes", body.len()));
        }
        match asked(&head, "manner") {
            "early" => {}
            "length" => conn.send(with_length)?,
            "last" => return conn.send(with_length),
            "reset-after" => {
                conn.send(with_length)?;
                conn.reset();
                return Ok(());
            }
            "refuse" => conn.send("HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\n\r\n")?,
            "chunked" => send_chunked(&conn, &fields, &answer, true)?,
            "to-the-end" => {
                return conn.send([format!("{fields}Connection: close\r\n\r\n").as_bytes(), &answer].concat());
            }
            "cut-chunk" => return send_chunked(&conn, &fields, &answer, false),
            "cut" => {
                return conn
                    .send([format!("{fields}Content-Length: {}\r\n\r\n", length + 1).as_bytes(), &answer].concat());
            }
            "reset" => {
                conn.reset();
                return Ok(());
            }
            other => unreachable!("no pod answers like {other}"),
        }
    }
}

fn send_chunked(conn: &Conn, fields: &str, answer: &[u8], to_the_end: bool) -> io::Result<()> {
    conn.send(format!("{fields}Transfer-Encoding: chunked\r\n\r\n"))?;
    for chunk in answer.chunks(30_000) {
        conn.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())?;
    }
    if to_the_end { conn.send("0\r\n\r\n") } else { Ok(()) }
}

fn echo(mut conn: Conn) -> io::Result<()> {
    loop {
        let bytes = conn.wire().read_some()?;
        if bytes.is_empty() {
            return Ok(());
        }
        conn.send(bytes)?;
    }
}

fn length(rng: &mut Rng) -> usize {
    // Around what the router's buffers hold as well.
    let edges = [0, 1, 100, 8191, 8192, 8193, 70_000];
    if rng.bool() { *rng.choice(&edges).expect("some") } else { rng.usize(..LONGEST) }
}

fn target(rng: &mut Rng, token: &str, manner: &str, body: usize, answer: usize) -> String {
    let place = rng.choice(["/room_a", "/room_b", "/room_c", "/any"]).expect("some");
    format!("{place}?token={token}&manner={manner}&body={body}&answer={answer}")
}

fn ask(rng: &mut Rng, token: String) -> Ask {
    let method = *rng.choice(["GET", "GET", "HEAD", "POST", "POST"]).as_ref().expect("some");
    let is_head = method == "HEAD";
    let manner = if is_head { "length" } else { *rng.choice(&MANNERS).expect("some") };
    let (body, answer) = (if method == "POST" { length(rng) } else { 0 }, length(rng));
    let mut bytes =
        format!("{method} {} HTTP/1.1\r\nHost: a\r\n", target(rng, &token, manner, body, answer)).into_bytes();
    let content = of(&token, body);
    if method == "POST" && rng.bool() {
        bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        for chunk in content.chunks(rng.usize(1000..40_000)) {
            bytes.extend([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
    } else {
        let length = if method == "POST" { format!("Content-Length: {body}\r\n") } else { String::new() };
        bytes.extend([length.as_bytes(), b"\r\n", &content].concat());
    }
    Ask { token, manner, is_head, bytes, body, answer }
}

/// What the client of one connection does. Its end is no news where pods die: what has come whole has to be right.
fn converse(mut client: Client, rng: &mut Rng, mut token: impl FnMut() -> String, tally: &Tally) -> io::Result<()> {
    for _ in 0..rng.usize(1..6) {
        if rng.u8(..4) == 0 {
            return talk(client, rng, &token(), tally);
        }
        // Without its bodies a rush of requests cannot fill the way while nobody reads.
        let asks: Vec<_> = (0..rng.usize(1..4)).map(|_| ask(rng, token())).collect();
        let asks = if asks.iter().any(|ask| ask.bytes.len() > 10_000) { &asks[..1] } else { &asks[..] };
        let bytes = asks.iter().flat_map(|ask| ask.bytes.iter().copied()).collect::<Vec<_>>();
        if rng.u8(..10) == 0 {
            client.try_send(&bytes[..rng.usize(..bytes.len())])?;
            if rng.bool() {
                client.reset();
            }
            return Ok(());
        }
        // Some are answered before all of them is sent: their pod's connection may carry no other meanwhile.
        let held_back = if asks[0].manner == "early" && asks.len() == 1 { asks[0].body / 3 } else { 0 };
        let (first, rest) = bytes.split_at(bytes.len() - held_back * rng.usize(..3));
        for piece in first.chunks(rng.usize(500..60_000)) {
            client.try_send(piece)?;
        }
        for ask in asks {
            if !expect_answer(&mut client, ask, tally)? {
                return Ok(());
            }
        }
        client.try_send(rest)?;
    }
    Ok(())
}

/// Whether the connection can be used further.
fn expect_answer(client: &mut Client, ask: &Ask, tally: &Tally) -> io::Result<bool> {
    let response = match client.try_read_response(ask.is_head) {
        Err(error) => {
            tally.cut.fetch_add(1, Ordering::Relaxed);
            return Err(error);
        }
        Ok(response) => response,
    };
    let Ask { token, manner, .. } = ask;
    let status = response.status();
    if status == 200 {
        assert!(!MANNERS[MAY_BE_CUT..].contains(manner), "{token}: {manner} has become whole");
        assert_eq!(response.head.value("x-token"), Some(token.as_str()), "another's answer");
        let expected = if ask.is_head { Vec::new() } else { of(token, ask.answer) };
        assert!(response.body == expected, "{token}: {manner} has another body of {} bytes", response.body.len());
        tally.whole.fetch_add(1, Ordering::Relaxed);
    } else {
        assert!([413, 502, 503].contains(&status), "{token}: {manner} was answered {status}");
        assert!(status == 413 || !response.head.has("x-token"), "{token}: not the router's own");
    }
    Ok(!response.head.values("connection").contains(&"close"))
}

/// A tunnel, with bytes on both sides that come together with the handshake.
fn talk(mut client: Client, rng: &mut Rng, token: &str, tally: &Tally) -> io::Result<()> {
    let (early, answer) = (rng.usize(..5000), rng.usize(..20_000));
    let target = target(rng, token, "tunnel", 0, answer);
    let handshake = format!(
        "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    client.try_send([handshake.as_bytes(), &of(token, early)].concat())?;
    let head = client.try_read_response(true)?.head;
    if head.second_word() != "101" {
        assert!(["502", "503"].contains(&head.second_word()), "{token} was answered {}", head.start_line());
        return Ok(());
    }
    assert!(client.wire().read_exact(answer)? == of(token, answer), "{token}: another's tunnel");
    assert!(client.wire().read_exact(early)? == of(token, early), "{token}: not what was sent early");
    for _ in 0..rng.usize(..6) {
        let mut message = vec![0; rng.usize(1..60_000)];
        rng.fill(&mut message);
        client.try_send(&message)?;
        assert!(client.wire().read_exact(message.len())? == message, "{token}: not what was sent");
        tally.relayed.fetch_add(1, Ordering::Relaxed);
    }
    if rng.bool() {
        client.reset();
    }
    Ok(())
}

/// Restarts pods and moves rooms until the clients are done.
fn disturb(redis: &Redis, pods: &mut Pods, over: &AtomicBool) {
    let (mut rng, mut epoch) = (Rng::with_seed(7), now_ms());
    while !over.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(rng.u64(1..200)));
        let pod = rng.usize(..PODS);
        if rng.bool() {
            pods.get_mut(pod).kill();
            thread::sleep(Duration::from_millis(rng.u64(1..200)));
            pods.get_mut(pod).bind();
        } else {
            epoch += 1;
            redis.assign_at(rng.choice(["room_a", "room_b", "room_c"]).expect("some"), pod, epoch);
        }
    }
}

#[track_caller]
fn expect_order_in_chaos(args: &[&str]) {
    let (redis, mut pods, tally) = (Redis::start(), Pods::start(PODS), Tally::default());
    let wrong: Arc<Mutex<Vec<String>>> = Arc::default();
    for pod in pods.iter() {
        let wrong = Arc::clone(&wrong);
        pod.play(move |conn| serve(conn, &wrong));
    }
    for (pod, room) in ["room_a", "room_b", "room_c"].iter().enumerate() {
        redis.assign(room, pod);
    }
    let builder = pods.iter().fold(Router::builder().redis(&redis), |builder, pod| builder.pod(pod));
    let builder = builder.default_backend(pods.iter()).args(&["--cache-ttl", "50ms", "--threads", "2"]).args(args);
    let router = builder.start_ready();

    let_loose(&router, &redis, &mut pods, &tally);
    assert!(wrong.lock().expect("nobody panics").is_empty(), "bodies that are not their request's: {wrong:?}");
    expect_each_once(&pods);
    let done = [&tally.whole, &tally.cut, &tally.relayed].map(|count| count.load(Ordering::Relaxed));
    assert!(done.iter().all(|count| *count >= CLIENTS), "hardly anything has been seen: {done:?}");
    eventually("all is given back", || {
        let gauges = ["upstream_in_flight", "upstream_queued", "websocket_connections", "downstream_connections"];
        gauges.iter().all(|gauge| router.metric(&format!("pod_router_{gauge}"), &[]) == 0.0)
    });
    assert!(!router.whole_output().contains("panicked"), "{}", router.whole_output());
}

/// All clients, until they are done, and what disturbs them.
#[track_caller]
fn let_loose(router: &Router, redis: &Redis, pods: &mut Pods, tally: &Tally) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = |number: usize| {
            let (mut rng, mut count) = (Rng::with_seed(number as u64), 0);
            for _ in 0..CONNECTIONS {
                let token = || {
                    count += 1;
                    format!("client-{number}-request-{count}.")
                };
                // Pods die, and their clients' connections with them.
                let _ = converse(router.client(), &mut rng, token, tally);
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        let disturbing = scope.spawn(|| disturb(redis, pods, &over));
        let stop = StopOnDrop(&over);
        let ended: Vec<_> = clients.into_iter().map(thread::ScopedJoinHandle::join).collect();
        drop(stop);
        disturbing.join().expect("pods can be restarted");
        ended.into_iter().for_each(|client| client.expect("it has seen nothing wrong"));
    });
}

#[track_caller]
fn expect_each_once(pods: &Pods) {
    let mut tokens = HashSet::new();
    for received in pods.iter().flat_map(|pod| pod.received()) {
        let token = asked(&received.head, "token").to_owned();
        assert!(tokens.insert(token.clone()), "{token} has reached pods twice");
    }
}

#[test]
fn nobody_gets_anothers_bytes_and_nothing_is_sent_twice() {
    expect_order_in_chaos(&[]);
}

#[test]
fn nor_where_places_at_pods_are_few_and_waits_are_short() {
    let places =
        ["--pod-max-connections", "3", "--pod-queue", "8", "--pod-queue-timeout", "2s", "--balance", "least_conn"];
    expect_order_in_chaos(
        &[&places[..], &["--max-fails", "1", "--fail-timeout", "100ms", "--pod-wait", "500ms"]].concat(),
    );
}
