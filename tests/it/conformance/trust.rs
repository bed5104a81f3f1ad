//! Whose word counts: about the client, about the room.

use crate::support::{Head, Stage};

/// Sends a GET with these lines to `room_a`; what the pod got and what the access line says.
fn forwarded(stage: &Stage, lines: &str) -> (Head, String) {
    let response = stage.request(format!("GET /room_a HTTP/1.1\r\nHost: app.example\r\n{lines}\r\n"));
    assert_eq!(response.pod(), "backend-0", "{}", response.head.text());
    let id = response.head.value("x-request-id").expect("an id").to_owned();
    let line = stage.router.access_line(&id);
    let client = line["client"].as_str().expect("the line names the client").to_owned();
    (stage.pods[0].received().pop().expect("it has answered").head, client)
}

/// Loopback is trusted by default, and 10/8 with the other private networks.
#[test]
fn the_clients_address_is_read_from_the_right() {
    let stage = Stage::new();
    for (chain, client) in [
        ("203.0.113.7", "203.0.113.7"),
        // What a client claims stands to the left of what the ingress saw.
        ("1.2.3.4, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, 10.0.0.9, 192.168.1.1", "203.0.113.7"),
        ("1.2.3.4, 203.0.113.7\r\nX-Forwarded-For: 10.0.0.9", "203.0.113.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        // Nobody but proxies: the one that is farthest away.
        ("10.1.1.1, 10.0.0.9", "10.1.1.1"),
        // What is no address is nobody's: the last that is known to be a proxy's counts.
        ("203.0.113.7, unknown", "127.0.0.1"),
        ("203.0.113.7, unknown, 10.0.0.9", "10.0.0.9"),
        ("203.0.113.7:80", "203.0.113.7"),
        ("[2001:db8::7]:80, 10.0.0.9:4711", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("203.0.113.7:65536", "127.0.0.1"),
        ("203.0.113.7:", "127.0.0.1"),
        ("fe80::1%eth0", "127.0.0.1"),
        ("203.0.113.07", "127.0.0.1"),
        ("", "127.0.0.1"),
        (",,203.0.113.7,,", "203.0.113.7"),
    ] {
        let (head, logged) = forwarded(&stage, &format!("X-Forwarded-For: {chain}\r\n"));
        assert_eq!(logged, client, "{chain}");
        assert!(head.value("x-forwarded-for").is_some_and(|chain| chain.ends_with("127.0.0.1")), "{}", head.text());
    }
}

#[test]
fn an_untrusted_peers_chain_is_replaced() {
    let stage = Stage::with(&["--trusted-proxies", "none"]);
    let (head, client) = forwarded(&stage, "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 10.0.0.1\r\n");
    assert_eq!((head.values("x-forwarded-for"), client.as_str()), (vec!["127.0.0.1"], "127.0.0.1"));
}

/// Traefik says `ws` and `wss` of upgrades; the pod is to get what it said.
#[test]
fn every_scheme_an_ingress_names_is_passed_on() {
    let stage = Stage::new();
    for scheme in ["http", "https", "ws", "wss"] {
        let (head, _) = forwarded(&stage, &format!("X-Forwarded-Proto: {scheme}\r\n"));
        assert_eq!(head.values("x-forwarded-proto"), [scheme]);
    }
    // None of it shows in the redirect, which names no origin.
    let page = "GET /experiment/room_a HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\nX-Forwarded-Proto: wss\r\n\r\n";
    let location = stage.request(page).head.value("location").map(str::to_owned);
    assert_eq!(location.as_deref(), Some("/experiment?roomId=room_a&pod=backend-0"));
}

/// A `Connection` line is the client's, as far as an ingress passes it on.
#[test]
fn connection_cannot_name_away_what_an_ingress_says() {
    let stage = Stage::new();
    let (head, client) = forwarded(
        &stage,
        "Connection: X-Forwarded-Proto, X-Forwarded-For, X-Forwarded-Host\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Host: app.example\r\n",
    );
    assert_eq!(head.value("x-forwarded-proto"), Some("https"));
    assert_eq!(head.value("x-forwarded-host"), Some("app.example"));
    assert_eq!((head.value("x-forwarded-for"), client.as_str()), (Some("203.0.113.7, 127.0.0.1"), "203.0.113.7"));
}

/// What descends from CGI makes the same variable of both spellings.
#[test]
fn an_underscore_is_no_way_round() {
    for trusted in ["none", "loopback"] {
        let stage = Stage::with(&["--trusted-proxies", trusted]);
        let (head, _) = forwarded(
            &stage,
            "X_Forwarded_For: 1.2.3.4\r\nX-Forwarded_Proto: https\r\nX_Real_Ip: 1.2.3.4\r\nX_Room_Id: room_b\r\n\
             X_Room_Pod: backend-1\r\nX_Request_Id: x\r\nX_Other: kept\r\n",
        );
        assert_eq!(head.names().iter().filter(|name| name.contains('_')).count(), 1, "{}", head.text());
        assert_eq!(head.value("x_other"), Some("kept"));
    }
}

#[test]
fn a_certificate_is_claimed_by_ingresses_only() {
    let lines = "X-Forwarded-Tls-Client-Cert: MIIB\r\nX-Forwarded-Tls-Client-Cert-Info: Subject=\"CN=admin\"\r\n";
    let (head, _) = forwarded(&Stage::with(&["--trusted-proxies", "none"]), lines);
    assert!(!head.names().iter().any(|name| name.contains("tls")), "{}", head.text());
    let (head, _) = forwarded(&Stage::new(), lines);
    assert_eq!(head.value("x-forwarded-tls-client-cert"), Some("MIIB"));
}
