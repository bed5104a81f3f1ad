//! The PROXY protocol on the data listener, from literal bytes and from a real HAProxy. Section numbers are those of its
//! specification, HAProxy's `proxy-protocol.txt`.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use crate::support::{Client, Process, Stage, eventually, script};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const GET: &[u8] = b"GET /room_a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n";

fn stage() -> Stage {
    Stage::with(&["--proxy-protocol", "on", "--header-timeout", "1s"])
}

/// A version 2 header of a TCP connection over IPv4.
fn v2(source: [u8; 4], tlvs: &[u8]) -> Vec<u8> {
    let length = u8::try_from(12 + tlvs.len()).expect("a short one");
    [V2, &[0x21, 0x11, 0, length], &source, &[10, 0, 0, 1, 0xdc, 4, 1, 0xbb], tlvs].concat()
}

/// What the pod was told of whom the last request was for, and what the access line says.
#[track_caller]
fn known_as(stage: &Stage, client: &mut Client) -> (String, String) {
    let response = client.read_response();
    assert_eq!(response.pod(), "backend-0", "{}", response.head.text());
    let chain = stage.pods[0].received().pop().expect("answered").head.value("x-forwarded-for").map(str::to_owned);
    let line = stage.router.access_line(response.head.value("x-request-id").expect("an id"));
    (chain.expect("always said"), line["client"].as_str().expect("named").to_owned())
}

fn rejected(stage: &Stage) -> f64 {
    stage.router.metric("pod_router_rejected_total", &[("reason", "bad-proxy-header")])
}

/// Whoever is named is the peer: a stranger's own claims count for nothing, an ingress' do.
#[test]
fn whom_the_header_names_is_the_peer() {
    let stage = stage();
    let named: [(Vec<u8>, &str, &str); 5] = [
        (b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n".to_vec(), "203.0.113.7", "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n".to_vec(), "2001:db8::7", "2001:db8::7"),
        (v2([203, 0, 113, 7], &[]), "203.0.113.7", "203.0.113.7"),
        (v2([203, 0, 113, 7], &[3, 0, 4, 1, 2, 3, 4, 4, 0, 1, 0]), "203.0.113.7", "203.0.113.7"),
        // A trusted address: an ingress behind a load balancer, whose word on the client counts.
        (v2([10, 0, 0, 9], &[]), "9.9.9.9, 10.0.0.9", "9.9.9.9"),
    ];
    for (header, chain, logged) in named {
        let mut client = stage.client();
        client.send([&header[..], GET].concat());
        let known = known_as(&stage, &mut client);
        assert_eq!((known.0.as_str(), known.1.as_str()), (chain, logged), "{}", String::from_utf8_lossy(&header));
        // It holds for the whole connection.
        client.send(GET);
        assert_eq!(known_as(&stage, &mut client).0, chain);
    }
    assert!(rejected(&stage) < 0.5);
}

/// The headers that name nobody, in each form there is.
fn unnamed() -> [Vec<u8>; 7] {
    let inet = [203, 0, 113, 7, 10, 0, 0, 1, 0xdc, 4, 1, 0xbb];
    [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 203.0.113.7 10.0.0.1 56324 443\r\n".to_vec(),
        // LOCAL, without addresses and with some that count for nothing.
        [V2, &[0x20, 0, 0, 0]].concat(),
        [V2, &[0x20, 0x11, 0, 12], &inet].concat(),
        // UNSPEC, a UNIX socket, and a datagram.
        [V2, &[0x21, 0, 0, 0]].concat(),
        [V2, &[0x21, 0x31, 0, 216], &[b'/'; 216]].concat(),
        [V2, &[0x21, 0x12, 0, 12], &inet].concat(),
    ]
}

/// Sections 2.1 and 2.2: where nobody is named, the connection's own address counts. It is the load balancer's, which is
/// trusted to name clients and has named none: what its connection says is a client's, and not believed.
#[test]
fn where_nobody_is_named_nobody_is_believed() {
    let stage = stage();
    for header in unnamed() {
        let shown = String::from_utf8_lossy(&header).into_owned();
        let mut client = stage.client();
        client.send(&header);
        for _ in 0..2 {
            client.send(
                "GET /room_a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n\
                 X-Forwarded-Host: evil\r\nX-Real-Ip: 9.9.9.9\r\nX-Request-Id: theirs\r\n\r\n",
            );
            assert_eq!(known_as(&stage, &mut client), ("127.0.0.1".to_owned(), "127.0.0.1".to_owned()), "{shown:?}");
            let head = stage.pods[0].received().pop().expect("answered").head;
            let said = ["x-forwarded-proto", "x-forwarded-host", "x-real-ip"].map(|name| head.value(name));
            assert_eq!(said, [Some("http"), Some("a"), None], "{shown:?}");
            assert_ne!(head.value("x-request-id"), Some("theirs"), "{shown:?}");
        }
    }
    assert!(rejected(&stage) < 0.5);
}

#[test]
fn a_header_may_come_in_pieces() {
    let stage = stage();
    for header in [b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\r\n".to_vec(), v2([203, 0, 113, 7], &[4, 0, 1, 0])] {
        let mut client = stage.client();
        for byte in &header {
            client.send([*byte]);
            // Without a rest in between, the kernel may well join them again: then this is the test above.
            std::thread::yield_now();
        }
        client.send(GET);
        assert_eq!(known_as(&stage, &mut client).0, "203.0.113.7");
    }
    // As long as is read, and then a request in the same segment.
    let long = [V2, &[0x21, 0x11, 0x0f, 0xf0, 203, 0, 113, 7], &[0; 4076], GET].concat();
    let mut client = stage.client();
    client.send(long);
    assert_eq!(known_as(&stage, &mut client).0, "203.0.113.7");
}

/// Section 5: whether there is a header is not guessed.
#[test]
fn without_a_header_a_trusted_peer_is_not_served() {
    let stage = stage();
    let wrong: [&[u8]; 7] = [
        GET,
        b"PROXY TCP4 203.0.113.7\r\n",
        b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY UNKNOWN xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\x16\x03\x01\x02\0",
    ];
    for (count, bytes) in wrong.into_iter().enumerate() {
        let mut client = stage.client();
        client.send(bytes);
        client.expect_end();
        assert!(rejected(&stage) > count as f64 + 0.5, "{}", String::from_utf8_lossy(bytes));
    }
    // Nothing, or not all of it, in time; and one that goes away before.
    for begun in [&b""[..], b"PROXY TCP4 203.", &V2[..5]] {
        let mut client = stage.client();
        client.send(begun);
        client.expect_end();
    }
    drop(stage.client());
    eventually("all are counted", || rejected(&stage) > 10.5);
    assert!(stage.pods[0].received().is_empty());
    eventually("none is held", || stage.router.metric("pod_router_downstream_connections", &[]) < 0.5);
}

/// A second header is the client's: no request begins so.
#[test]
fn one_header_is_all_there_is() {
    let stage = stage();
    let mut client = stage.client();
    client.send([b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\r\nPROXY TCP4 10.0.0.9 10.0.0.1 1 2\r\n", GET].concat());
    assert_eq!(client.read_response().expect_error(400), "bad-request");
    client.expect_end();
}

/// Whoever is not trusted is HTTP from the first byte, with the setting and without it.
#[test]
fn nobody_else_can_name_somebody() {
    for args in [&["--proxy-protocol", "on", "--trusted-proxies", "10.0.0.0/8"][..], &[]] {
        let stage = Stage::with(args);
        for header in [b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\r\n".to_vec(), v2([203, 0, 113, 7], &[])] {
            let mut client = stage.client();
            client.send([&header[..], GET].concat());
            assert_eq!(client.read_head().second_word(), "400");
        }
        assert_eq!(stage.get("/room_a").pod(), "backend-0");
        assert_eq!(stage.pods[0].received().len(), 1);
    }
}

/// A free port of a loopback address.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a free port")
}

/// HAProxy as the load balancer, which sees clients as 127.0.0.2.
#[test]
fn haproxy_speaks_both_versions() {
    for word in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        let stage = stage();
        let (front, config) = (free(), std::env::temp_dir().join(format!("pod-router-haproxy-{}.cfg", free().port())));
        let text = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             listen router\n  bind {front}\n  server router {} source 127.0.0.3 {word} check inter 100ms\n",
            stage.router.addr()
        );
        fs::write(&config, text).expect("the temporary folder takes files");
        let mut haproxy = Process::start("haproxy", "/usr/sbin/haproxy", |command| {
            command.args(["-db", "-f"]).arg(&config);
        });
        eventually("haproxy listens", || {
            assert!(haproxy.try_wait().is_none(), "haproxy ended");
            Client::try_connect(front).is_ok()
        });
        let mut client = Client::connect_from([127, 0, 0, 2], front);
        client.send("GET /room_a HTTP/1.1\r\nHost: a\r\n\r\n");
        let (chain, logged) = known_as(&stage, &mut client);
        // Loopback is trusted, so 127.0.0.2 is believed to be a proxy that said nothing of its client.
        assert_eq!((chain.as_str(), logged.as_str()), ("127.0.0.2", "127.0.0.2"), "{word}");
        assert!(rejected(&stage) < 0.5, "{word}: its health checks have headers too");
        drop(haproxy);
        fs::remove_file(&config).expect("it is there");
    }
}

/// The socket that a tunnel takes over is the one the header was read from.
#[test]
fn a_tunnel_goes_on_after_the_header() {
    let stage = stage();
    stage.pods[0].play(script::websocket_echo);
    let mut client = stage.client();
    let handshake = "GET /room_a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    client.send([&v2([203, 0, 113, 7], &[]), handshake.as_bytes()].concat());
    assert_eq!(client.read_head().second_word(), "101");
    client.send("as it comes");
    assert_eq!(client.read_exact(11), b"as it comes");
}
