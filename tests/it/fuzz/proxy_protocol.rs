//! The PROXY protocol's header: the source that its writer meant, wherever the bytes are cut, and nothing of what
//! follows.

use std::net::IpAddr;

use pod_router::core::proxy_protocol::{self, Header, MAX_LENGTH};

use super::input::Input;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

const TOKENS: &[&[u8]] = &[
    b" ", b"\r\n", b"\r", b"\n", b"TCP4", b"TCP6", b"UNKNOWN", b"::1", b"1.2.3.4", b"65536", b"0", b"+", b"PROXY ",
    b"\0",
];

fn address(input: &mut Input, six: bool) -> IpAddr {
    let mut octets = [0; 16];
    // Zeros are what the short forms of IPv6 are made for.
    octets.iter_mut().for_each(|octet| *octet = if input.one_in(2) { 0 } else { input.byte() });
    match six {
        true => IpAddr::from(octets),
        false => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A line of version 1, and whom it names.
fn text(input: &mut Input) -> (Vec<u8>, Option<IpAddr>) {
    if input.one_in(6) {
        return (format!("PROXY UNKNOWN{}\r\n", input.pick(&["", " ", " x y", " ::1 ::1 1 2"])).into_bytes(), None);
    }
    let six = input.one_in(2);
    let (source, destination) = (address(input, six), address(input, six));
    let (from, to) = (input.below(65_536), input.below(65_536));
    let family = if six { "TCP6" } else { "TCP4" };
    (format!("PROXY {family} {source} {destination} {from} {to}\r\n").into_bytes(), Some(source))
}

/// A header of version 2, and whom it names.
fn binary(input: &mut Input) -> (Vec<u8>, Option<IpAddr>) {
    let six = input.one_in(2);
    let (local, known) = (input.one_in(6), !input.one_in(6));
    let (source, destination) = (address(input, six), address(input, six));
    let mut rest =
        if known { [octets(source), octets(destination), vec![1, 2, 3, 4]].concat() } else { input.bytes(20) };
    let tlvs = input.below(30);
    rest.extend((0..tlvs).map(|_| input.byte()));
    let protocol = match (known, six) {
        (false, _) => 0,
        (true, true) => 0x21,
        (true, false) => 0x11,
    };
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    let head = [if local { 0x20 } else { 0x21 }, protocol, length[0], length[1]];
    ([SIGNATURE, &head, &rest].concat(), (known && !local).then_some(source))
}

/// What comes may be anything: a header is a beginning of it that stays one, and until then nothing is.
fn expect_stable(bytes: &[u8], input: &mut Input) {
    let whole = proxy_protocol::parse(bytes);
    let cut = proxy_protocol::parse(&bytes[..input.below(bytes.len() + 1)]);
    let more = proxy_protocol::parse(&[bytes, &input.bytes(20)].concat());
    match whole {
        Ok(Some(Header { length, .. })) => {
            assert!((8..=MAX_LENGTH).contains(&length) && length <= bytes.len());
            assert!(cut == Ok(None) || cut == whole, "{cut:?} of {whole:?}");
            assert_eq!(proxy_protocol::parse(&bytes[..length]), whole);
            assert_eq!(proxy_protocol::parse(&bytes[..length - 1]), Ok(None));
            assert_eq!(more, whole, "what follows is the client's");
        }
        Ok(None) => assert_eq!(cut, Ok(None), "a beginning of a beginning"),
        Err(_) => assert_eq!(more, whole, "an error is not made good"),
    }
}

/// What is taken for a header looks like one: by another reading, of its text or of its fixed part.
fn expect_plausible(bytes: &[u8], header: &Header) {
    if let Some(rest) = bytes.strip_prefix(SIGNATURE) {
        let assigned = rest[1] >> 4 <= 3 && rest[1] & 0xf <= 2;
        assert!(rest[0] == 0x20 || rest[0] == 0x21 && assigned, "{:x?}", &rest[..2]);
        assert_eq!(header.length, 16 + usize::from(rest[2]) * 256 + usize::from(rest[3]));
        let named = match (rest[0] & 1, rest[1]) {
            (1, 0x11) => Some(octets(header.source.expect("IPv4"))),
            (1, 0x21) => Some(octets(header.source.expect("IPv6"))),
            _ => None,
        };
        assert_eq!(named.is_some(), header.source.is_some());
        // Two addresses and two ports, and the source first.
        let fits = |octets: &Vec<u8>| rest[4..].starts_with(octets) && header.length >= 16 + 2 * octets.len() + 4;
        assert!(named.is_none_or(|octets| fits(&octets)));
        return;
    }
    let line = std::str::from_utf8(&bytes[..header.length]).expect("a line of text");
    let words: Vec<_> = line.strip_suffix("\r\n").expect("a whole line").split(' ').collect();
    assert!(words[0] == "PROXY" && !words[1..].concat().contains("\r\n"), "{line:?}");
    match header.source {
        None => assert_eq!(words[1], "UNKNOWN", "{line:?}"),
        Some(source) => {
            assert_eq!(words.len(), 6, "{line:?}");
            assert_eq!(words[1], if source.is_ipv4() { "TCP4" } else { "TCP6" }, "{line:?}");
            assert_eq!(words[2].parse(), Ok(source), "{line:?}");
            let numbers =
                words[4..].iter().all(|word| word.parse::<u16>().is_ok_and(|port| port.to_string() == **word));
            assert!(numbers && words[3].parse::<IpAddr>().is_ok(), "{line:?}");
        }
    }
}

#[test]
fn a_proxys_header_names_whom_it_was_written_for() {
    super::run("PROXY protocol", 60_000, |input| {
        let (header, source) = if input.one_in(2) { text(input) } else { binary(input) };
        let meant = Header { length: header.len(), source };
        let mut bytes = [&header[..], &input.bytes(20)].concat();
        assert_eq!(proxy_protocol::parse(&bytes), Ok(Some(meant)), "{:?}", String::from_utf8_lossy(&header));
        expect_stable(&bytes, input);
        input.damage(&mut bytes, TOKENS);
        expect_stable(&bytes, input);
        match proxy_protocol::parse(&bytes) {
            Ok(Some(header)) => {
                expect_plausible(&bytes, &header);
                true
            }
            _ => false,
        }
    });
}
