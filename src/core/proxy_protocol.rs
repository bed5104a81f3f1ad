//! The PROXY protocol's header, version 1 and 2: what a load balancer that looks into nothing says of the client it
//! stands for, ahead of the client's first byte.
//!
//! The specification is HAProxy's `proxy-protocol.txt`; section numbers below are its. Only the source address is of use
//! here: the destination is the load balancer's, TLVs (section 2.2) are skipped, and the CRC-32c among them, which a
//! receiver may ignore, is not looked at. Our own parser, because the crates there are say of an incomplete header and of
//! a wrong one the same, or want the whole of it in one piece.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The longest header that is read. Version 1 has 107 bytes at most (section 2.1); version 2 could have 64 KiB of TLVs,
/// of which those that load balancers send (section 2.2) take a few hundred.
pub const MAX_LENGTH: usize = 4096;

const V1_START: &[u8] = b"PROXY ";
const V1_MAX_LENGTH: usize = 107;

/// Section 2.2: no HTTP message begins so, nor does a version 1 header.
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;

/// A header that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The bytes it takes; what follows is the client's.
    pub length: usize,
    /// Whom the connection is for. `None` where that is the peer itself (`LOCAL`: a health check), or is not said
    /// (`UNKNOWN`, `UNSPEC`, a UNIX socket): then its real address is to be used (sections 2.1, 2.2), and what is said on
    /// it is nobody's that could be believed.
    pub source: Option<IpAddr>,
}

/// What comes is no header, or one that is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads the header at the start of `bytes`; `None` while all of them are the beginning of one.
///
/// # Errors
///
/// More bytes would not make a header of it.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if begins(bytes, V2_START) {
        parse_v2(bytes)
    } else if begins(bytes, V1_START) {
        parse_v1(bytes)
    } else {
        Err(Malformed)
    }
}

/// Whether `bytes` begin with `start`, as far as they go.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

/// Section 2.1: one line of words with a space between each two.
fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let within = &bytes[..bytes.len().min(V1_MAX_LENGTH)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_MAX_LENGTH { Ok(None) } else { Err(Malformed) };
    };
    let line = std::str::from_utf8(&within[V1_START.len()..end]).map_err(|_| Malformed)?;
    let words: Vec<_> = line.split(' ').collect();
    let source = match words[..] {
        // "the receiver must ignore anything presented before the CRLF".
        ["UNKNOWN", ..] => None,
        ["TCP4", source, destination, from, to] => {
            Some(addresses::<Ipv4Addr>(source, destination, from, to).ok_or(Malformed)?.into())
        }
        ["TCP6", source, destination, from, to] => {
            Some(addresses::<Ipv6Addr>(source, destination, from, to).ok_or(Malformed)?.into())
        }
        _ => return Err(Malformed),
    };
    Ok(Some(Header { length: end + 2, source }))
}

/// The source, where all four are what they have to be.
fn addresses<A: FromStr>(source: &str, destination: &str, from: &str, to: &str) -> Option<A> {
    destination.parse::<A>().ok()?;
    (is_port(from) && is_port(to)).then(|| source.parse().ok())?
}

fn is_port(text: &str) -> bool {
    let digits = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    digits && text.parse::<u16>().is_ok()
}

/// Section 2.2: a fixed part, the addresses, and TLVs.
fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED>() else {
        return Ok(None);
    };
    let (version, command) = (fixed[12] >> 4, fixed[12] & 0xf);
    let (family, transport) = (fixed[13] >> 4, fixed[13] & 0xf);
    let of_addresses = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let length = V2_FIXED + of_addresses;
    // Values that are not assigned have to be rejected; but of LOCAL "the receiver [...] must discard the protocol block
    // including the family which is ignored".
    let of_somebody = command == 1;
    if version != 2 || command > 1 || length > MAX_LENGTH || (of_somebody && (family > 3 || transport > 2)) {
        return Err(Malformed);
    }
    let Some(addresses) = rest.get(..of_addresses) else {
        return Ok(None);
    };
    let source = match (command, family, transport) {
        (1, 1, 1) => {
            let (source, _) = addresses.split_first_chunk::<4>().filter(|_| of_addresses >= 12).ok_or(Malformed)?;
            Some(Ipv4Addr::from(*source).into())
        }
        (1, 2, 1) => {
            let (source, _) = addresses.split_first_chunk::<16>().filter(|_| of_addresses >= 36).ok_or(Malformed)?;
            Some(Ipv6Addr::from(*source).into())
        }
        // LOCAL, and what says nothing of a client on TCP: the connection counts as what it is.
        _ => None,
    };
    Ok(Some(Header { length, source }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(length: usize, source: &str) -> Result<Option<Header>, Malformed> {
        let source = (!source.is_empty()).then(|| source.parse().expect("an address"));
        Ok(Some(Header { length, source }))
    }

    fn v2(rest: &[u8]) -> Vec<u8> {
        [V2_START, rest].concat()
    }

    /// 192.168.0.1:56324 to 192.168.0.11:443, as in the specification's example of version 1.
    const INET: [u8; 12] = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb];

    #[test]
    fn the_examples_of_section_2_1() {
        let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        let address = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let unknown = format!("PROXY UNKNOWN {address} {address} 65535 65535\r\n");
        assert_eq!(unknown.len(), V1_MAX_LENGTH);
        for (line, source) in [
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
            (longest, address),
            ("PROXY UNKNOWN\r\n", ""),
            (&unknown, ""),
            ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", "192.168.0.1"),
            ("PROXY TCP6 2001:db8::1 ::1 0 0\r\n", "2001:db8::1"),
        ] {
            assert_eq!(parse(line.as_bytes()), from(line.len(), source), "{line}");
            let followed = format!("{line}GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n");
            assert_eq!(parse(followed.as_bytes()), from(line.len(), source), "{line}");
            for cut in 0..line.len() {
                assert_eq!(parse(&line.as_bytes()[..cut]), Ok(None), "{cut} bytes of {line}");
            }
        }
    }

    #[test]
    fn a_line_that_is_not_quite_one_is_refused() {
        for line in [
            "PROXY\r\n",
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n",
            "proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
            "PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
            "PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2  2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n\r\n",
            "PROXY UNKNOWNS\r\n",
            "GET / HTTP/1.1\r\n",
            "\r\nPROXY UNKNOWN\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Malformed), "{line}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert_eq!(parse(&endless.as_bytes()[..106]), Ok(None));
        assert_eq!(parse(&endless.as_bytes()[..107]), Err(Malformed));
        assert_eq!(parse(format!("{endless}\r\n").as_bytes()), Err(Malformed));
    }

    #[test]
    fn section_2_2_as_bytes() {
        let inet = v2(&[&[0x21, 0x11, 0, 12][..], &INET].concat());
        let tlvs = [0x03, 0, 4, 1, 2, 3, 4, 0x04, 0, 1, 0];
        let with_tlvs = v2(&[&[0x21, 0x11, 0, 23][..], &INET, &tlvs].concat());
        let inet6 = v2(&[&[0x21, 0x21, 0, 36][..], &[0x20, 1, 0xd, 0xb8], &[0; 11], &[7], &[0; 20]].concat());
        let unix = v2(&[&[0x21, 0x31, 0, 216][..], &[b'/'; 216]].concat());
        for (bytes, source) in [
            (&inet, "192.168.0.1"),
            (&with_tlvs, "192.168.0.1"),
            (&inet6, "2001:db8::7"),
            (&unix, ""),
            // LOCAL, with and without addresses, which then count for nothing.
            (&v2(&[0x20, 0x00, 0, 0]), ""),
            (&v2(&[&[0x20, 0x11, 0, 12][..], &INET].concat()), ""),
            (&v2(&[0x20, 0x11, 0, 0]), ""),
            (&v2(&[0x20, 0xff, 0, 2, 1, 2]), ""),
            // UNSPEC, and datagrams.
            (&v2(&[0x21, 0x00, 0, 0]), ""),
            (&v2(&[&[0x21, 0x12, 0, 12][..], &INET].concat()), ""),
        ] {
            assert_eq!(parse(bytes), from(bytes.len(), source), "{bytes:x?}");
            assert_eq!(parse(&[bytes, &b"GET"[..]].concat()), from(bytes.len(), source), "{bytes:x?}");
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut} bytes of {bytes:x?}");
            }
        }
    }

    #[test]
    fn a_version_2_header_that_is_none_is_refused() {
        for fixed in [
            [0x11, 0x11, 0, 12],      // version 1
            [0x31, 0x11, 0, 12],      // version 3
            [0x22, 0x11, 0, 12],      // no such command
            [0x21, 0x41, 0, 12],      // no such family
            [0x21, 0x13, 0, 12],      // no such transport
            [0x21, 0x21, 0, 12],      // an IPv6 address does not fit
            [0x21, 0x11, 0, 11],      // nor does this one
            [0x21, 0x11, 0x0f, 0xf1], // longer than is read
            [0x21, 0x11, 0xff, 0xff],
        ] {
            assert_eq!(parse(&v2(&[&fixed[..], &INET].concat())), Err(Malformed), "{fixed:x?}");
        }
        assert_eq!(parse(&v2(&[0x21, 0x11, 0x0f, 0xf0])), Ok(None), "the longest that is read");
    }
}
