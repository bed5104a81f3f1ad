//! The forwarded headers, by the trust rule.
//!
//! A peer within `--trusted-proxies` is an ingress: what it says of the client is kept and its own address
//! appended. Anyone else may have typed these headers by hand: they are replaced by what the socket says.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::headers::list_elements;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// As text.
const LONGEST_IPV4: usize = "255.255.255.255".len();
const LONGEST_IPV6: usize = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".len();

/// The peer on the downstream connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its address.
    pub ip: IpAddr,
    /// The address as text: every request of the connection carries it.
    text: String,
    /// Whether it is one of `--trusted-proxies`.
    pub trusted: bool,
}

impl Client {
    /// The peer, judged by the networks that are trusted. An IPv4 address arriving on an IPv6 socket
    /// counts as what it is.
    pub fn new(ip: IpAddr, trusted: &[IpNet]) -> Self {
        let ip = ip.to_canonical();
        // With space for all of it: it would grow piece by piece.
        let mut text = String::with_capacity(if ip.is_ipv4() { LONGEST_IPV4 } else { LONGEST_IPV6 });
        let _ = write!(text, "{ip}"); // a string takes everything
        Self { ip, text, trusted: trusted.iter().any(|network| network.contains(&ip)) }
    }

    /// The same address, whose word does not count: a load balancer's that did not say whom a connection is for. What
    /// comes on it may be anybody's.
    pub fn unbelieved(self) -> Self {
        Self { trusted: false, ..self }
    }
}

/// The client's address: the right-most of `X-Forwarded-For` that is no trusted proxy's, for each proxy appends whom it
/// saw, and what stands to the left of that anyone may have written. Where the chain ends, or what is no address stands
/// in it, the last proxy's.
pub fn address(headers: &HeaderMap, peer: &Client, trusted: &[IpNet]) -> IpAddr {
    let mut known = peer.ip;
    if !peer.trusted {
        return known;
    }
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev().map(HeaderValue::as_bytes);
    for element in lines.flat_map(|line| list_elements(line).rev()) {
        let Some(ip) = std::str::from_utf8(element).ok().and_then(node) else {
            return known;
        };
        known = ip.to_canonical();
        if !trusted.iter().any(|network| network.contains(&known)) {
            return known;
        }
    }
    known
}

/// The address of one entry. Some proxies (Azure's, IIS) say the port as well, and IPv6 in brackets, as RFC 7239 does.
fn node(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port).or_else(bracketed)
}

/// Writes the `X-Forwarded-*` lines that the pod gets, besides what passes by itself
/// ([`super::headers::goes_upstream`]). `host` is what the pod gets as `Host`.
pub fn write(out: &mut Vec<u8>, headers: &HeaderMap, client: &Client, host: &[u8]) {
    out.extend_from_slice(b"x-forwarded-for: ");
    if client.trusted {
        // All lines of the chain as one, and the peer at its right end.
        for line in headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).filter(|line| !line.is_empty()) {
            out.extend_from_slice(line);
            out.extend_from_slice(b", ");
        }
    }
    out.extend_from_slice(client.text.as_bytes());
    out.extend_from_slice(b"\r\n");
    if !(client.trusted && headers.contains_key(X_FORWARDED_PROTO)) {
        out.extend_from_slice(b"x-forwarded-proto: http\r\n");
    }
    // HTTP/1.0 need not name a host, and a path's may be empty: then there is none to be told.
    if !(host.is_empty() || client.trusted && headers.contains_key(X_FORWARDED_HOST)) {
        out.extend_from_slice(b"x-forwarded-host: ");
        out.extend_from_slice(host);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: &[(&'static str, &'static str)], trusted: bool) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let networks = if trusted { vec!["10.0.0.0/8".parse().expect("a network")] } else { vec![] };
        let mut out = Vec::new();
        write(&mut out, &headers, &Client::new([10, 0, 0, 9].into(), &networks), b"me");
        String::from_utf8(out).expect("text")
    }

    const CLAIMED: [(&str, &str); 4] = [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2"),
        ("x-forwarded-proto", "wss"),
        ("x-forwarded-host", "them"),
    ];

    #[test]
    fn an_untrusted_peer_says_nothing_of_itself() {
        let ours = "x-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nx-forwarded-host: me\r\n";
        assert_eq!(written(&CLAIMED, false), ours);
        assert_eq!(written(&[], true), ours);
    }

    #[test]
    fn a_trusted_proxys_word_is_kept_and_its_address_appended() {
        assert_eq!(written(&CLAIMED, true), "x-forwarded-for: 1.1.1.1, 2.2.2.2, 10.0.0.9\r\n");
    }

    #[test]
    fn an_address_may_be_known_and_its_word_not_count() {
        let networks = ["10.0.0.0/8".parse().expect("a network")];
        let peer = Client::new([10, 0, 0, 9].into(), &networks).unbelieved();
        assert!(!peer.trusted);
        let headers = HeaderMap::from_iter([(X_FORWARDED_FOR, HeaderValue::from_static("6.6.6.6"))]);
        assert_eq!(address(&headers, &peer, &networks).to_string(), "10.0.0.9");
    }

    #[test]
    fn networks_decide_who_is_trusted() {
        let networks = ["10.0.0.0/8".parse().expect("a network"), "::1/128".parse().expect("a network")];
        let trusted = |ip: &str| Client::new(ip.parse().expect("an address"), &networks).trusted;
        assert!(trusted("10.1.2.3") && trusted("::1") && trusted("::ffff:10.1.2.3"));
        assert!(!trusted("11.1.2.3") && !trusted("::2"));
    }

    #[test]
    fn the_client_is_the_first_from_the_right_that_is_no_proxy() {
        let networks = ["10.0.0.0/8".parse().expect("a network")];
        let address = |peer: [u8; 4], lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_static(line));
            }
            super::address(&headers, &Client::new(peer.into(), &networks), &networks).to_string()
        };
        let (ingress, stranger) = ([10, 0, 0, 9], [192, 0, 2, 1]);
        assert_eq!(address(ingress, &["6.6.6.6, 1.1.1.1", "10.2.2.2,, "]), "1.1.1.1");
        assert_eq!(address(ingress, &["10.1.1.1, 10.2.2.2"]), "10.1.1.1");
        assert_eq!(address(ingress, &["1.1.1.1, _hidden, 10.2.2.2"]), "10.2.2.2");
        assert_eq!(address(ingress, &["::ffff:1.1.1.1"]), "1.1.1.1");
        for somebody in ["1.1.1.1:80", "6.6.6.6, 1.1.1.1:65535, 10.2.2.2:1", "[::ffff:1.1.1.1]:80", "[::ffff:1.1.1.1]"]
        {
            assert_eq!(address(ingress, &[somebody]), "1.1.1.1", "{somebody}");
        }
        for nobody in
            ["1.1.1.1:", "1.1.1.1:x", "1.1.1.1:65536", "[1.1.1.1]:80", "[::1", "fe80::1%lo", "01.1.1.1", "", "\""]
        {
            assert_eq!(address(ingress, &[nobody]), "10.0.0.9", "{nobody}");
        }
        assert_eq!(address(stranger, &["1.1.1.1"]), "192.0.2.1");
    }
}
