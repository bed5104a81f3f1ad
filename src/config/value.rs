//! Readers of single values. Each error says what would be right; who calls adds the setting and the value.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::LogFormat;

/// The longest duration a setting may have: sums of them must not overflow a clock.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The shortest one where zero makes no sense: the timers count milliseconds.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
/// RFC 1918, and the unique local addresses of RFC 4193. Link-local ones are left out: nothing that
/// forwards requests has one, a neighbour on the link may.
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

/// A duration, zero included.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const EXAMPLES: &str = "for example 250ms, 2s or 10m";
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("a bare number has no unit; write a duration, {EXAMPLES}"));
    }
    let duration = humantime::parse_duration(text).map_err(|_| format!("it is no duration, {EXAMPLES}"))?;
    if duration > MAX_DURATION { Err("the longest duration is 365d".to_owned()) } else { Ok(duration) }
}

/// A duration of at least [`MIN_TIMEOUT`].
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < MIN_TIMEOUT { Err("the shortest time that makes sense here is 1ms".to_owned()) } else { Ok(duration) }
}

/// A duration of at least [`MIN_TIMEOUT`], or `off`.
pub(super) fn timeout_or_off(text: &str) -> Result<Option<Duration>, String> {
    or_off(text, timeout)
}

/// A whole number within bounds.
pub(super) fn count<N>(text: &str, bounds: RangeInclusive<N>) -> Result<N, String>
where
    N: FromStr + PartialOrd + std::fmt::Display,
{
    text.parse()
        .ok()
        .filter(|number| bounds.contains(number))
        .ok_or_else(|| format!("it has to be a whole number from {} to {}", bounds.start(), bounds.end()))
}

/// A number of bytes, in units of 1024 where it has one.
pub(super) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 3] = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let unit = UNITS.into_iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)));
    let (digits, bits) = unit.unwrap_or((text, 0));
    let number: Option<u64> = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    let size = number.and_then(|number| number.checked_mul(1 << bits)).filter(|size| *size > 0);
    size.ok_or_else(|| "it has to be a number of bytes, for example 65536, 512KiB, 10MiB or 1GiB".to_owned())
}

/// What `read` reads, or `off`.
pub(super) fn or_off<T>(text: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text == "off" { Ok(None) } else { read(text).map(Some).map_err(|why| format!("{why}; or off")) }
}

/// A share of a whole.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "it has to be a number from 0 to 1, for example 0.01".to_owned())
}

/// One of several words.
pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        format!("it has to be one of {}", known.join(", "))
    })
}

/// `on` or `off`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    word(text, &[("off", false), ("on", true)])
}

/// An address to listen on.
pub(super) fn listener(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "it has to be an IP address and a port, for example 0.0.0.0:3001 or [::]:3001".to_owned())
}

/// `json`, `text`, or `auto`, by whether a person is watching.
pub(super) fn log_format(text: &str, on_terminal: bool) -> Result<LogFormat, String> {
    let auto = if on_terminal { LogFormat::Text } else { LogFormat::Json };
    word(text, &[("json", LogFormat::Json), ("text", LogFormat::Text), ("auto", auto)])
}

/// Networks, comma-separated; `loopback` and `private` stand for theirs, `none` alone for nobody.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let mut networks = Vec::new();
    for item in text.split(',').map(str::trim) {
        match item {
            "loopback" => networks.extend(LOOPBACK.map(known_network)),
            "private" => networks.extend(PRIVATE.map(known_network)),
            _ => networks.push(network(item)?),
        }
    }
    Ok(networks)
}

/// Networks, of which there has to be one: in none a pod could not be anywhere.
pub(super) fn networks_of_pods(text: &str) -> Result<Vec<IpNet>, String> {
    let networks = networks(text)?;
    if networks.is_empty() { Err("no pod could be reached".to_owned()) } else { Ok(networks) }
}

fn known_network(text: &str) -> IpNet {
    text.parse().expect("the constants above are networks")
}

fn network(text: &str) -> Result<IpNet, String> {
    let alone = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>()
        .ok()
        .or_else(alone)
        .map(|net| net.trunc())
        .ok_or_else(|| format!("'{text}' is no network such as 10.0.0.0/8; or write loopback, private, or none alone"))
}

/// A name that Kubernetes gives a namespace: a DNS label (RFC 1123).
pub(super) fn dns_label(text: &str) -> Result<String, String> {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let valid = bytes.len() <= 63
        && bytes.first().is_some_and(|b| alphanumeric(*b))
        && bytes.last().is_some_and(|b| alphanumeric(*b))
        && bytes.iter().all(|b| alphanumeric(*b) || *b == b'-');
    if valid { Ok(text.to_owned()) } else { Err("it has to be lower-case letters, digits and hyphens".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_duration_has_a_unit() {
        for (text, expected) in [
            ("250ms", Duration::from_millis(250)),
            ("2s", seconds(2)),
            ("10m", seconds(600)),
            ("1h 30m", seconds(5400)),
            ("0s", Duration::ZERO),
            ("365d", MAX_DURATION),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for (text, part) in [
            ("5", "bare number"),
            ("0", "bare number"),
            ("1.5", "bare number"),
            ("", "no duration"),
            ("s", "no duration"),
            ("-5s", "no duration"),
            ("5 parsecs", "no duration"),
            ("off", "no duration"),
            ("99999999999999999999s", "no duration"),
            ("366d", "longest"),
        ] {
            let error = duration(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn zero_is_refused_where_it_would_end_everything_at_once() {
        assert_eq!(timeout("1ms"), Ok(MIN_TIMEOUT));
        for text in ["0s", "999us"] {
            assert!(timeout(text).is_err(), "{text}");
            assert!(timeout_or_off(text).is_err_and(|why| why.contains("off")), "{text}");
        }
        assert_eq!(timeout_or_off("off"), Ok(None));
        assert_eq!(timeout_or_off("2m"), Ok(Some(seconds(120))));
    }

    #[test]
    fn a_size_may_have_a_unit() {
        for (text, expected) in
            [("1", 1), ("65536", 65536), ("512KiB", 524_288), ("10MiB", 10_485_760), ("1GiB", 1 << 30)]
        {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "0MiB", "+1", "-1", "1.5MiB", "10M", "10 MiB", "10mib", "MiB", "18446744073709551615KiB"]
        {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_count_is_whole_and_within_its_bounds() {
        assert_eq!(count("8192", 8192..=1_048_576), Ok(8192_usize));
        for text in ["8191", "1048577", "-1", "1e4", "32k", "", "99999999999999999999999"] {
            assert_eq!(
                count(text, 8192..=1_048_576_usize),
                Err("it has to be a whole number from 8192 to 1048576".to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_listener_is_an_ip_address_and_a_port() {
        for good in ["0.0.0.0:3001", "[::1]:0"] {
            assert!(listener(good).is_ok(), "{good}");
        }
        for bad in ["", "3001", ":3001", "localhost:3001", "0.0.0.0", "0.0.0.0:65536", "::1:3001"] {
            assert!(listener(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn logs_are_text_only_for_a_person() {
        for (text, on_terminal, expected) in [
            ("auto", false, Ok(LogFormat::Json)),
            ("auto", true, Ok(LogFormat::Text)),
            ("json", true, Ok(LogFormat::Json)),
            ("text", false, Ok(LogFormat::Text)),
            ("JSON", false, Err("it has to be one of json, text, auto".to_owned())),
        ] {
            assert_eq!(log_format(text, on_terminal), expected, "{text} {on_terminal}");
        }
    }

    #[test]
    fn networks_are_named_or_written() {
        let shown = |text: &str| networks(text).map(|nets| nets.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(shown("none"), Ok(Vec::new()));
        assert_eq!(
            shown("loopback,private").map(|nets| nets.join(" ")),
            Ok("127.0.0.0/8 ::1/128 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7".to_owned())
        );
        assert_eq!(
            shown("10.1.2.3/8, 203.0.113.7,fd00::1"),
            Ok(["10.0.0.0/8", "203.0.113.7/32", "fd00::1/128"].map(str::to_owned).to_vec())
        );
        for bad in ["", "none,private", "10.0.0.0/33", "traefik", "10.0.0.0/8,", "10.0.0.0 10.1.0.0"] {
            assert!(networks(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_namespace_is_a_dns_label() {
        for good in ["default", "a", "live-2", &"a".repeat(63)] {
            assert!(dns_label(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(64)] {
            assert!(dns_label(bad).is_err(), "{bad}");
        }
    }
}
