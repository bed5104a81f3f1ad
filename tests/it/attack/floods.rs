//! Floods: heads of every kind, and rooms that nobody has heard of.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Instant;

use super::{beside_a_bystander, expect_at_rest, expect_growth_below, stage};
use crate::support::{Stage, together};

const HEADS: usize = 20_000;
const ROOMS: usize = 100_000;

/// The connections that rooms are asked for on, and the requests that are on their way at once on each.
const CONNECTIONS: usize = 16;
const PIPELINED: usize = 50;

/// Field names that mean something to somebody on the way. None of those that frame a message, which the corpus has.
const NAMES: [&str; 24] = [
    "Accept",
    "Accept-Encoding",
    "Authorization",
    "Cache-Control",
    "Connection",
    "Cookie",
    "Expect",
    "Forwarded",
    "From",
    "If-Match",
    "Keep-Alive",
    "Max-Forwards",
    "Origin",
    "Proxy-Connection",
    "Range",
    "TE",
    "Traceparent",
    "Trailer",
    "Upgrade",
    "Via",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Request-Id",
    "X-Room-Id",
];

/// One of 20,000 different heads: any number of fields, any length, and now and then a byte that may not be there.
fn head(random: &mut fastrand::Rng, number: usize) -> Vec<u8> {
    let mut head = format!("GET /room_a/{number} HTTP/1.1\r\nHost: a\r\nX-Number: {number}\r\n").into_bytes();
    for field in 0..random.usize(..30) {
        if random.bool() {
            head.extend_from_slice(random.choice(NAMES).expect("there are some").as_bytes());
        } else {
            let length = random.usize(1..60);
            head.extend_from_slice(format!("X-{field}-").as_bytes());
            head.extend((0..length).map(|_| random.alphanumeric() as u8));
        }
        head.extend_from_slice(if random.u8(..50) == 0 { b" : " } else { b": " });
        let length = if random.u8(..20) == 0 { random.usize(..3000) } else { random.usize(..60) };
        for _ in 0..length {
            // Everything but what ends a line: mostly text, some bytes beyond ASCII, rarely a control character.
            let byte = match random.u16(..4000) {
                0 => 0,
                1 => 0x7f,
                2..200 => random.u8(0x80..),
                _ => random.u8(b' '..0x7f),
            };
            head.push(byte);
        }
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Every head has exactly one answer, and the pod sees exactly those that are well-formed.
#[test]
fn twenty_thousand_kinds_of_heads() {
    let stage = stage(&[]);
    let series = || stage.router.get_admin("/metrics").text().lines().filter(|line| !line.starts_with('#')).count();
    let ask = |random: &mut fastrand::Rng, from: usize, count: usize| {
        let (mut client, mut answers) = (stage.client(), BTreeMap::<u16, usize>::new());
        for number in from..from + count {
            let response = client.request(head(random, number));
            *answers.entry(response.status()).or_default() += 1;
            if response.head.value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                client.expect_end();
                client = stage.client();
            }
        }
        answers
    };
    // Seeded: the same heads each time.
    ask(&mut fastrand::Rng::with_seed(1), HEADS, 1000);
    let (before, seen, named) = (stage.router.rss_kib(), stage.pods[0].received().len(), series());
    let answers = beside_a_bystander(&stage, || {
        together(2, |half| ask(&mut fastrand::Rng::with_seed(2 + half as u64), half * HEADS / 2, HEADS / 2))
    });
    let of = |status| answers.iter().filter_map(|answers| answers.get(&status)).sum::<usize>();
    eprintln!("heads: {answers:?}");
    assert_eq!(of(200) + of(400) + of(417), HEADS, "no other answer: {answers:?}");
    assert!(of(200) > HEADS / 4 && of(400) > HEADS / 20, "of both kinds many: {answers:?}");
    assert_eq!(stage.pods[0].received().len() - seen, of(200));
    expect_growth_below(&stage.router, before, 16);
    assert!(series() <= named + 4, "a label takes its value from a head");
    expect_at_rest(&stage);
}

/// Asks for `count` rooms that nobody has asked for before, each for the client that `client` names; how many answers
/// there were of each kind.
fn ask_for_rooms(stage: &Stage, count: usize, client: impl Fn(usize) -> String + Sync) -> BTreeMap<u16, usize> {
    let share = |turn: usize| {
        let (mut connection, mut answers) = (stage.client(), BTreeMap::<u16, usize>::new());
        for batch in 0..count / CONNECTIONS / PIPELINED {
            let mut requests = String::new();
            for number in 0..PIPELINED {
                let number = (batch * PIPELINED + number) * CONNECTIONS + turn;
                let room = (0..16).map(|_| fastrand::alphanumeric());
                let room: String = room.collect();
                let client = client(number);
                write!(requests, "GET /room_{room}{number} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n")
                    .expect("a string takes all");
            }
            connection.send(requests);
            for _ in 0..PIPELINED {
                *answers.entry(connection.read_response().status()).or_default() += 1;
            }
        }
        answers
    };
    let mut all = BTreeMap::new();
    for (status, count) in together(CONNECTIONS, share).into_iter().flatten() {
        *all.entry(status).or_default() += count;
    }
    all
}

fn lookups(stage: &Stage) -> f64 {
    stage.router.metric("pod_router_room_lookups_total", &[("result", "miss")])
}

/// Nothing is set against it: the cache holds what it may hold, and Redis is asked.
#[test]
fn a_hundred_thousand_unknown_rooms_take_no_memory() {
    let stage = stage(&["--on-unassigned", "reject", "--cache-capacity", "5000"]);
    ask_for_rooms(&stage, ROOMS / 5, |_| "203.0.113.7".to_owned());
    let before = stage.router.rss_kib();
    let started = Instant::now();
    let answers = beside_a_bystander(&stage, || ask_for_rooms(&stage, ROOMS, |_| "203.0.113.7".to_owned()));
    eprintln!("rooms: {:.0} a second, {answers:?}", ROOMS as f64 / started.elapsed().as_secs_f64());
    assert_eq!(answers, BTreeMap::from([(404, ROOMS)]));
    assert!(stage.router.metric("pod_router_cached_rooms", &[]) < 5000.5);
    expect_growth_below(&stage.router, before, 8);
    expect_at_rest(&stage);
}

/// With `--lookup-rate` Redis hears of next to none of it; a client of its own each, it is the store of clients that has to
/// hold.
#[test]
fn whoever_guesses_rooms_does_not_reach_redis() {
    let stage = stage(&["--on-unassigned", "reject", "--cache-capacity", "5000", "--lookup-rate", "1r/h burst=99"]);
    let started = Instant::now();
    let answers = beside_a_bystander(&stage, || ask_for_rooms(&stage, ROOMS, |_| "203.0.113.7".to_owned()));
    eprintln!("rooms, limited: {:.0} a second, {answers:?}", ROOMS as f64 / started.elapsed().as_secs_f64());
    assert_eq!(answers, BTreeMap::from([(404, 100), (429, ROOMS - 100)]), "on however many connections");
    assert!(lookups(&stage) < 200.0, "{} lookups", lookups(&stage));
    let before = stage.router.rss_kib();
    let crowd = |number: usize| format!("2001:db8:{:x}:{:x}::1", number / 0x10000, number % 0x10000);
    let answers = beside_a_bystander(&stage, || ask_for_rooms(&stage, ROOMS, crowd));
    assert_eq!(answers, BTreeMap::from([(404, ROOMS)]), "one room each");
    expect_growth_below(&stage.router, before, 24);
    expect_at_rest(&stage);
}

/// How many requests of a connection that is full of such are answered before one that comes meanwhile on another.
fn answered_before_another(stage: &Stage, round: usize, request: &str, status: u16) -> usize {
    const FLOOD: usize = 500;
    let mut flood = stage.client();
    // What it asks for is known from here on.
    flood.send(format!("{request}\r\n"));
    assert_eq!(flood.read_response().status(), status);
    stage.router.pause();
    let requests = (0..FLOOD).map(|number| format!("{request}X-Request-Id: flood-{round}-{number}\r\n\r\n"));
    flood.send(requests.collect::<String>());
    let mut other = stage.client();
    other.send(format!("GET /room%5Fa HTTP/1.1\r\nHost: a\r\nX-Request-Id: other-{round}\r\n\r\n"));
    stage.router.signal("CONT");
    assert_eq!(other.read_response().status(), 400);
    for _ in 0..FLOOD {
        assert_eq!(flood.read_response().status(), status);
    }
    stage.router.access_line(&format!("flood-{round}-{}", FLOOD - 1));
    let lines = stage.router.logs();
    let at = |id: String| lines.iter().position(|line| line["request_id"] == id).expect("it has a line");
    at(format!("other-{round}")).saturating_sub(at(format!("flood-{round}-0")))
}

/// What the router answers by itself, it need not wait for. A connection that is full of requests for such would keep its
/// thread, and who comes meanwhile would be seen only when hundreds of them have been answered.
#[test]
fn a_flood_on_one_connection_is_no_longer_than_anybody_elses_turn() {
    // One or two are answered until the runtime has accepted the other one, and then read it; by hyper's measure it is sixteen.
    const BEFORE: usize = 8;
    for (request, status) in [
        ("GET /experiment/room_a HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n", 302),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n", 204),
        ("GET /room_nobody HTTP/1.1\r\nHost: a\r\n", 404),
        ("GET /room%5Fa HTTP/1.1\r\nHost: a\r\n", 400),
    ] {
        let stage = Stage::with(&["--threads", "1", "--on-unassigned", "reject", "--cache-negative", "60s"]);
        // Once may go well: how soon the runtime looks at sockets again depends on when it last did.
        let before: Vec<_> = (0..4).map(|round| answered_before_another(&stage, round, request, status)).collect();
        assert!(before.iter().all(|before| *before < BEFORE), "{status}: {before:?} answers of the flood came first");
    }
}
