//! The forwarded headers, by the trust rule.
//!
//! A peer within `--trusted-proxies` is an ingress: what it says of the client is kept and its own address
//! appended. Anyone else may have typed these headers by hand: they are replaced by what the socket says.

use std::net::IpAddr;

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What an untrusted peer could use to claim another origin; the list Traefik clears.
const CLAIMS: [HeaderName; 8] = [
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-forwarded-uri"),
    HeaderName::from_static("x-forwarded-method"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-scheme"),
    HeaderName::from_static("x-scheme"),
    HeaderName::from_static("x-real-ip"),
];

/// The peer on the downstream connection.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Its address.
    pub ip: IpAddr,
    /// Whether it is one of `--trusted-proxies`.
    pub trusted: bool,
}

impl Client {
    /// The peer, judged by the networks that are trusted. An IPv4 address arriving on an IPv6 socket
    /// counts as what it is.
    pub fn new(ip: IpAddr, trusted: &[IpNet]) -> Self {
        let ip = ip.to_canonical();
        Self { ip, trusted: trusted.iter().any(|network| network.contains(&ip)) }
    }
}

/// Rewrites `X-Forwarded-For`, `-Proto` and `-Host`. `Forwarded` (RFC 7239) goes in any case: ingresses pass
/// it through from clients unchecked.
pub fn rewrite(headers: &mut HeaderMap, client: &Client) {
    headers.remove(FORWARDED);
    let peer = client.ip.to_string();
    if client.trusted {
        let chain = appended(headers, &peer);
        headers.insert(X_FORWARDED_FOR, chain);
    } else {
        for name in &CLAIMS {
            headers.remove(name);
        }
        headers.remove(X_FORWARDED_PROTO);
        headers.remove(X_FORWARDED_HOST);
        headers.insert(X_FORWARDED_FOR, value(&peer));
    }
    if !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(X_FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

/// All lines of the chain as one, and the peer at its right end.
fn appended(headers: &HeaderMap, peer: &str) -> HeaderValue {
    let mut chain = Vec::with_capacity(64);
    for line in headers.get_all(X_FORWARDED_FOR) {
        chain.extend_from_slice(line.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(peer.as_bytes());
    HeaderValue::from_bytes(&chain).unwrap_or_else(|_| value(peer))
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("an address is printable ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(lines: &[(&'static str, &'static str)], trusted: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        rewrite(&mut headers, &Client { ip: [10, 0, 0, 9].into(), trusted });
        headers
    }

    const CLAIMED: [(&str, &str); 7] = [
        ("host", "me"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2"),
        ("x-forwarded-proto", "wss"),
        ("x-forwarded-host", "them"),
        ("x-real-ip", "1.1.1.1"),
        ("forwarded", "for=1.1.1.1"),
    ];

    #[test]
    fn an_untrusted_peer_says_nothing_of_itself() {
        let headers = rewritten(&CLAIMED, false);
        assert_eq!(headers[X_FORWARDED_FOR], "10.0.0.9");
        assert_eq!(headers[X_FORWARDED_PROTO], "http");
        assert_eq!(headers[X_FORWARDED_HOST], "me");
        assert_eq!(headers.len(), 4);
    }

    #[test]
    fn a_trusted_proxys_word_is_kept_and_its_address_appended() {
        let headers = rewritten(&CLAIMED, true);
        assert_eq!(headers[X_FORWARDED_FOR], "1.1.1.1, 2.2.2.2, 10.0.0.9");
        assert_eq!(headers[X_FORWARDED_PROTO], "wss");
        assert_eq!(headers[X_FORWARDED_HOST], "them");
        assert_eq!(headers["x-real-ip"], "1.1.1.1");
        assert!(!headers.contains_key(FORWARDED));
    }

    #[test]
    fn networks_decide_who_is_trusted() {
        let networks = ["10.0.0.0/8".parse().expect("a network"), "::1/128".parse().expect("a network")];
        let trusted = |ip: &str| Client::new(ip.parse().expect("an address"), &networks).trusted;
        assert!(trusted("10.1.2.3") && trusted("::1") && trusted("::ffff:10.1.2.3"));
        assert!(!trusted("11.1.2.3") && !trusted("::2"));
    }
}
