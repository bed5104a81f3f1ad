//! Rates: so many in so much time, and whom they apply to.
//!
//! Written and meant as nginx's `limit_req` with `nodelay`: one at a time, at even intervals, and on top of that a burst
//! that is given back at the same pace. Counting is `limits`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::path;

/// `100r/m burst=20`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many, at least 1.
    pub number: u32,
    /// In this time: a second, a minute or an hour.
    pub per: Duration,
    /// So many ahead of their time.
    pub burst: u32,
}

/// A rate for the requests below a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateRule {
    /// What a path has to begin with; `/` is every path.
    pub scope: String,
    /// For each client.
    pub rate: Rate,
}

/// A rate that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The rate.
    pub rate: Rate,
    /// When there will be one more, rounded up to seconds, at least 1.
    pub wait: u32,
}

const UNITS: [(&str, u64); 3] = [("r/s", 1), ("r/m", 60), ("r/h", 3600)];

/// More than this in any time is no limit.
const MAX_NUMBER: u32 = 1_000_000;

impl Exceeded {
    /// After a refusal that holds for so long.
    pub fn new(rate: Rate, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self { rate, wait: u32::try_from(seconds).unwrap_or(u32::MAX).max(1) }
    }
}

impl Rate {
    /// The time after which there is one more.
    pub fn interval(&self) -> Duration {
        self.per / self.number
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("a rate is written as 100r/m burst=20, by r/s, r/m or r/h, with numbers up to {MAX_NUMBER}");
        let count = |text: &str| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|number| digits && *number <= MAX_NUMBER)
        };
        let (rate, burst) = text.split_once(' ').map_or((text, None), |(rate, burst)| (rate, Some(burst)));
        let unit = UNITS.into_iter().find_map(|(unit, seconds)| Some((rate.strip_suffix(unit)?, seconds)));
        let (number, seconds) = unit.ok_or_else(wrong)?;
        let number = count(number).filter(|number| *number > 0).ok_or_else(wrong)?;
        let burst = match burst {
            Some(burst) => burst.trim().strip_prefix("burst=").and_then(count).ok_or_else(wrong)?,
            None => 0,
        };
        Ok(Self { number, per: Duration::from_secs(seconds), burst })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.into_iter().find(|(_, seconds)| *seconds == self.per.as_secs()).map_or("", |(unit, _)| unit);
        write!(f, "{}{unit} burst={}", self.number, self.burst)
    }
}

impl FromStr for RateRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scope, rate) = match text.split_once('=') {
            Some((scope, rate)) if scope.starts_with('/') => (scope, rate),
            _ => ("/", text),
        };
        if scope.contains(|c: char| !c.is_ascii_graphic() || matches!(c, '%' | '?' | '#')) {
            return Err(
                "the path in front of a rate is written as it is meant, without % and without a query".to_owned()
            );
        }
        Ok(Self { scope: scope.to_owned(), rate: rate.parse()? })
    }
}

impl fmt::Display for RateRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope.as_str() {
            "/" => self.rate.fmt(f),
            scope => write!(f, "{scope}={}", self.rate),
        }
    }
}

/// Which rules, by the numbers of their scopes, apply to a path: those of the longest scope that it begins with. It counts
/// as whatever a backend may read in it, and as all of it: neither `/%61pi/` nor `/x/../api/` must be a way around a limit on
/// `/api/`, nor `/free/../api/` around it by way of a laxer one on `/free/`.
pub fn rules_for<'a, S>(path: &str, scopes: S) -> impl Iterator<Item = usize>
where
    S: Iterator<Item = &'a str> + Clone,
{
    // `*` is the server as a whole.
    let path = if path == "*" { "/" } else { path };
    let readings = readings(path);
    let all = scopes.clone();
    let applies = move |read: &str, scope: &str| {
        let is_inside = |scope: &str| read.starts_with(scope);
        is_inside(scope) && !all.clone().any(|other| other.len() > scope.len() && is_inside(other))
    };
    let applying = scopes
        .enumerate()
        .filter(move |(_, scope)| applies(path, scope) || readings.iter().any(|read| applies(read, scope)));
    applying.map(|(number, _)| number)
}

/// The ways to read a path, besides as it is written. Servers of Java's kind drop the parameters of its segments, before or
/// after they decode it.
fn readings(path: &str) -> Vec<String> {
    let mut all: Vec<_> = path::readings(path).collect();
    for number in 0..=all.len() {
        let read = number.checked_sub(1).map_or(path, |number| &all[number]);
        if let Cow::Owned(bare) = path::without_parameters(read) {
            all.extend(path::readings(&bare).collect::<Vec<_>>());
            all.push(bare);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(number: u32, seconds: u64, burst: u32) -> Rate {
        Rate { number, per: Duration::from_secs(seconds), burst }
    }

    #[test]
    fn a_rate_is_written_as_nginx_writes_it() {
        for (text, expected, shown) in [
            ("100r/m burst=20", rate(100, 60, 20), "100r/m burst=20"),
            ("5r/s", rate(5, 1, 0), "5r/s burst=0"),
            ("1r/h  burst=1000000", rate(1, 3600, 1_000_000), "1r/h burst=1000000"),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
            assert_eq!(expected.to_string(), shown);
        }
        for text in [
            "",
            "100",
            "100r",
            "100r/d",
            "0r/s",
            "-1r/s",
            "+1r/s",
            "1.5r/s",
            "r/s",
            "1000001r/s",
            "100r/m burst",
            "100r/m burst=",
            "100r/m burst=-1",
            "100r/m nodelay",
            "100 r/m",
            "100r/m burst=1 burst=2",
            "burst=20",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!(rate(100, 60, 20).interval(), Duration::from_millis(600));
    }

    #[test]
    fn a_rule_may_have_a_path() {
        for (text, scope, shown) in [
            ("100r/m burst=20", "/", "100r/m burst=20"),
            ("/=100r/m burst=20", "/", "100r/m burst=20"),
            ("/api/=100r/m burst=20", "/api/", "/api/=100r/m burst=20"),
        ] {
            let rule: RateRule = text.parse().expect("a rule");
            assert_eq!((rule.scope.as_str(), rule.to_string().as_str()), (scope, shown));
        }
        for text in ["/api/", "/api/=", "api/=1r/s", "/a%70i/=1r/s", "/a?b=1r/s", "/a b=1r/s"] {
            assert!(text.parse::<RateRule>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_closest_scope_counts_and_all_rules_for_it() {
        let of = |path| rules_for(path, ["/api/", "/", "/api/room/", "/"].into_iter()).collect::<Vec<_>>();
        for (path, rules) in
            [("/api/x", &[0][..]), ("/api", &[1, 3]), ("/", &[1, 3]), ("/api/room/a", &[2]), ("/API/x", &[1, 3])]
        {
            assert_eq!(of(path), rules, "{path}");
        }
        assert_eq!(rules_for("/x", ["/api/"].into_iter()).count(), 0);
        assert_eq!(of("*"), [1, 3]);
    }

    /// A path counts as each that a backend may read in it.
    #[test]
    fn no_scope_is_a_way_around_another() {
        let of = |path| rules_for(path, ["/api/", "/static/img/", "/api/room/"].into_iter()).collect::<Vec<_>>();
        for (path, rules) in [
            ("/static/img/../../api/login", &[0, 1][..]),
            ("/static/img/%2e%2e/%2e%2e/api/login", &[0, 1]),
            ("/api/room/../login", &[0, 2]),
            ("/x/../api/x", &[0]),
            ("/%61pi/room%2Fa", &[2]),
            ("/api\\x", &[0]),
            ("//api/x", &[0]),
            ("/api;x/y", &[0]),
            ("/api;x;y=z/y", &[0]),
            ("/;/api/y", &[0]),
            ("/api%3Bx/y", &[0]),
            ("/%61pi;x/room;y/a", &[2]),
            ("/static/img/..;/..;x/api/y", &[0, 1]),
            ("/api/;x", &[0]),
            ("/x;/api/y", &[]),
            ("/static/img/x", &[1]),
        ] {
            assert_eq!(of(path), rules, "{path}");
        }
    }

    #[test]
    fn a_wait_is_said_in_whole_seconds() {
        let wait = |millis| Exceeded::new(rate(1, 1, 0), Duration::from_millis(millis)).wait;
        assert_eq!([wait(0), wait(1), wait(1000), wait(1001)], [1, 1, 1, 2]);
    }
}
