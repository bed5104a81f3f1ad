//! The backends of requests without a room, as they are meant: sets of pods, how one of a set is chosen, and what keeps
//! a session at its pod.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderName;

use super::value::{count, timeout, word};
use crate::core::address::HostPort;
use crate::core::balance::{POLICIES, Policy};
use crate::core::ejection::EjectionLimits;

/// Requests without a room.
#[derive(Clone, Debug)]
pub struct BackendsConfig {
    /// `--route` and `--default-backend`, the longest prefix first; the last one has the empty prefix.
    pub backends: Vec<BackendConfig>,
    /// `--backend-refresh`: how often their sources are asked.
    pub refresh: Duration,
    /// `--session-affinity`, `--affinity-cookie`.
    pub session: SessionConfig,
    /// `--max-fails`, `--fail-timeout`; `None` when it is off.
    pub ejection: Option<EjectionLimits>,
    /// `--fail-status`: answers that count as failures.
    pub fail_status: Vec<u16>,
    /// `--health-check`; `None` when it is off.
    pub check: Option<CheckConfig>,
    /// `--slow-start`: zero when it is off.
    pub slow_start: Duration,
    /// `--retry-budget`, in percent of requests.
    pub retry_budget: u32,
}

/// One set of pods, for the paths under a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendConfig {
    /// The prefix, undecoded; empty for `--default-backend`.
    pub prefix: String,
    /// Where its pods come from, at least one.
    pub sources: Vec<Source>,
    /// How one is chosen.
    pub policy: Policy,
}

/// Where pods of a set come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `host:port[;weight=N]`: a pod, or all addresses of a name.
    Host(HostPort, u32),
    /// `_port._tcp.name`: the names that DNS lists there, with their ports.
    Srv(String),
    /// `heartbeats`: the pods that have been heard of lately, by the directory.
    Heartbeats,
}

/// What keeps a session at its pod, besides a room.
#[derive(Clone, Debug, Default)]
pub struct SessionConfig {
    /// `sid`: the pod that the session's id names.
    pub sid: bool,
    /// `client_ip`: for a polling session that nothing else is known of.
    pub client_ip: bool,
    /// `--affinity-cookie`; `None` when it is off.
    pub cookie: Option<CookieConfig>,
}

/// `--affinity-cookie`.
#[derive(Clone, Debug)]
pub struct CookieConfig {
    /// Its name.
    pub name: String,
    /// What follows its value, from the first semicolon on.
    pub attributes: String,
    /// `--affinity-key`.
    pub key: Key,
}

/// A secret that all replicas share; never shown.
#[derive(Clone)]
pub struct Key(pub String);

/// `--health-check`: pods are asked for this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckConfig {
    /// The request's target.
    pub path: String,
    /// From one question to the next.
    pub interval: Duration,
    /// For the whole answer.
    pub timeout: Duration,
    /// Good answers in a row that bring a pod back.
    pub rise: u32,
    /// Bad ones that take it out.
    pub fall: u32,
}

/// The shortest key: 128 bits, were it written in hexadecimal digits.
const MIN_KEY: usize = 32;

/// What a list of sources may look like.
const SOURCES: &str = "it has to be host:port[;weight=N], _port._tcp.name (SRV) or heartbeats, comma-separated";

// === readers ===

/// A set's sources, comma-separated.
pub(super) fn sources(text: &str) -> Result<Vec<Source>, String> {
    let sources = text.split(',').map(|item| source(item.trim())).collect::<Result<Vec<_>, _>>()?;
    let mut seen = Vec::new();
    for source in &sources {
        let key = match source {
            // However they are written.
            Source::Host(address, _) => match address.ip() {
                Some(ip) => SocketAddr::new(ip, address.port).to_string(),
                None => address.to_string().to_ascii_lowercase(),
            },
            Source::Srv(name) => name.to_ascii_lowercase(),
            Source::Heartbeats => "heartbeats".to_owned(),
        };
        if seen.contains(&key) {
            return Err(format!("{key} is given twice"));
        }
        seen.push(key);
    }
    Ok(sources)
}

fn source(text: &str) -> Result<Source, String> {
    if text == "heartbeats" {
        return Ok(Source::Heartbeats);
    }
    if text.starts_with('_') && text.contains(':') {
        return Err("an SRV name, which begins with _, has no port: its records say it".to_owned());
    }
    if text.starts_with('_') {
        // The name's rules are a host's.
        return format!("{text}:1")
            .parse::<HostPort>()
            .map(|srv| Source::Srv(srv.host.to_string()))
            .map_err(|_| SOURCES.to_owned());
    }
    let (address, weight) = match text.split_once(';') {
        None => (text, 1),
        Some((address, option)) => {
            let weight = option.trim().strip_prefix("weight=").ok_or(SOURCES)?;
            (address.trim(), count(weight, 1..=1000).map_err(|why| format!("a weight: {why}"))?)
        }
    };
    address.parse().map(|address| Source::Host(address, weight)).map_err(|_: String| SOURCES.to_owned())
}

/// `PREFIX=SOURCES [balance=POLICY]`.
pub(super) fn route(text: &str, policy: Policy) -> Result<BackendConfig, String> {
    const EXAMPLE: &str = "a route is PREFIX=HOST:PORT, for example /api/=api-service:3000, balance=POLICY behind it";
    let (prefix, rest) = text.split_once('=').ok_or(EXAMPLE)?;
    // It also becomes the path of a cookie.
    let is_path = |b: u8| b.is_ascii_graphic() && !matches!(b, b';' | b',' | b'?' | b'#' | b'"');
    if !prefix.starts_with('/') || !prefix.bytes().all(is_path) {
        return Err(EXAMPLE.to_owned());
    }
    let mut words = rest.split_ascii_whitespace();
    let sources = sources(words.next().ok_or(EXAMPLE)?)?;
    let mut route = BackendConfig { prefix: prefix.to_owned(), sources, policy };
    if let Some(option) = words.next() {
        let chosen = option.strip_prefix("balance=").ok_or(EXAMPLE)?;
        route.policy = word(chosen, &POLICIES)?;
    }
    if words.next().is_some() { Err(EXAMPLE.to_owned()) } else { Ok(route) }
}

/// Whether `sid`, `client_ip` or both are named; `off` is neither. They are looked at in one order only.
pub(super) fn session_affinity(text: &str) -> Result<(bool, bool), String> {
    match *text.split(',').map(str::trim).collect::<Vec<_>>() {
        ["off"] => Ok((false, false)),
        ["sid"] => Ok((true, false)),
        ["client_ip"] => Ok((false, true)),
        ["sid", "client_ip"] => Ok((true, true)),
        _ => Err("it has to be sid, client_ip, both in this order (sid,client_ip), or off".to_owned()),
    }
}

/// A cookie's name: a token (RFC 6265 section 4.1.1).
pub(super) fn cookie_name(text: &str) -> Result<Option<String>, String> {
    match text {
        "off" => Ok(None),
        // A header's name is a token as well.
        name if HeaderName::from_bytes(name.as_bytes()).is_ok() => Ok(Some(name.to_owned())),
        _ => Err("it has to be a cookie's name, letters, digits, - and _, or off".to_owned()),
    }
}

/// A cookie's attributes, `HttpOnly; SameSite=Lax; Secure`, as they follow the value.
pub(super) fn cookie_attributes(text: &str) -> Result<String, String> {
    let mut known = Vec::new();
    for attribute in text.split(';').map(str::trim).filter(|attribute| !attribute.is_empty()) {
        let meant = ["HttpOnly", "Secure", "Partitioned", "SameSite=Lax", "SameSite=Strict", "SameSite=None"]
            .into_iter()
            .find(|name| name.eq_ignore_ascii_case(attribute))
            .ok_or("it has to be some of HttpOnly; Secure; Partitioned; SameSite=Lax, Strict or None")?;
        if known.contains(&meant) || meant.starts_with("SameSite") && known.iter().any(|k| k.starts_with("SameSite")) {
            return Err(format!("{meant} does not go with what stands before it"));
        }
        known.push(meant);
    }
    let needs_secure = known.iter().find(|known| matches!(**known, "SameSite=None" | "Partitioned"));
    if let Some(attribute) = needs_secure.filter(|_| !known.contains(&"Secure")) {
        return Err(format!("browsers drop a cookie with {attribute} that is not Secure: add Secure"));
    }
    Ok(known.iter().map(|attribute| format!("; {attribute}")).collect())
}

/// Whether browsers take a cookie of this name with these attributes: the prefixes of RFC 6265bis (section 4.1.3) promise
/// something. One of a route has the route's path.
pub(super) fn keeps_its_promise(name: &str, attributes: &str, has_routes: bool) -> Result<(), String> {
    let begins = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if !begins("__Host-") && !begins("__Secure-") {
        return Ok(());
    }
    if !attributes.contains("; Secure") {
        return Err("browsers drop a cookie of such a name that is not Secure: add it to \
                    --affinity-cookie-attributes"
            .to_owned());
    }
    if begins("__Host-") && has_routes {
        return Err("browsers drop a cookie of such a name whose path is not /, as a --route's is: call it __Secure-…"
            .to_owned());
    }
    Ok(())
}

/// The shared key, which has to be worth the name.
pub(super) fn affinity_key(text: &str) -> Result<Key, String> {
    if text.len() < MIN_KEY || text.chars().any(char::is_control) {
        Err(format!("it has to have at least {MIN_KEY} characters, for example from openssl rand -hex 32"))
    } else {
        Ok(Key(text.to_owned()))
    }
}

/// Statuses, comma-separated, or `off`.
pub(super) fn fail_status(text: &str) -> Result<Vec<u16>, String> {
    if text == "off" {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|status| count(status.trim(), 500..=599))
        .collect::<Result<_, _>>()
        .map_err(|why| format!("{why}, comma-separated; or off"))
}

/// `PATH [interval=5s] [timeout=2s] [rise=2] [fall=3]`, or `off`.
pub(super) fn health_check(text: &str) -> Result<Option<CheckConfig>, String> {
    const EXAMPLE: &str = "it has to be a path, for example '/health interval=5s timeout=2s rise=2 fall=3', or off";
    if text == "off" {
        return Ok(None);
    }
    let mut words = text.split_ascii_whitespace();
    let path = words.next().filter(|path| path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()));
    let mut check = CheckConfig {
        path: path.ok_or(EXAMPLE)?.to_owned(),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        rise: 2,
        fall: 3,
    };
    let mut seen = Vec::new();
    for option in words {
        let (name, _) = option.split_once('=').ok_or(EXAMPLE)?;
        if seen.contains(&name) {
            return Err(format!("{name} is given twice"));
        }
        seen.push(name);
        match option.split_once('=').ok_or(EXAMPLE)? {
            ("interval", text) => check.interval = timeout(text)?,
            ("timeout", text) => check.timeout = timeout(text)?,
            ("rise", text) => check.rise = count(text, 1..=100)?,
            ("fall", text) => check.fall = count(text, 1..=100)?,
            _ => return Err(EXAMPLE.to_owned()),
        }
    }
    Ok(Some(check))
}

// === what was meant, written again ===

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(address, 1) => address.fmt(f),
            Self::Host(address, weight) => write!(f, "{address};weight={weight}"),
            Self::Srv(name) => f.write_str(name),
            Self::Heartbeats => f.write_str("heartbeats"),
        }
    }
}

impl fmt::Display for BackendConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources: Vec<_> = self.sources.iter().map(ToString::to_string).collect();
        if !self.prefix.is_empty() {
            write!(f, "{}=", self.prefix)?;
        }
        f.write_str(&sources.join(","))?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, " balance={}", self.policy) }
    }
}

impl fmt::Display for CheckConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (interval, timeout) = (humantime::format_duration(self.interval), humantime::format_duration(self.timeout));
        write!(f, "{} interval={interval} timeout={timeout} rise={} fall={}", self.path, self.rise, self.fall)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl BackendsConfig {
    /// The set for every path that no other one is for.
    pub fn default_backend(&self) -> &BackendConfig {
        self.backends.last().expect("the conversion puts the default backend last")
    }

    /// The routes, the longest prefix first.
    pub fn routes(&self) -> &[BackendConfig] {
        self.backends.split_last().map_or(&[], |(_, routes)| routes)
    }

    /// The index of the backend for this path.
    pub fn for_path(&self, path: &str) -> usize {
        let found = self.backends.iter().position(|backend| crate::core::affinity::is_under(path, &backend.prefix));
        found.unwrap_or(self.backends.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_hosts_srv_names_and_heartbeats() {
        for text in ["a:1", "a:1,[::1]:2;weight=3", "_http._tcp.backend.default.svc.cluster.local", "heartbeats,a:1"] {
            let written: Vec<_> = sources(text).expect(text).iter().map(ToString::to_string).collect();
            assert_eq!(written.join(","), text);
        }
        for bad in [
            "",
            "a",
            "a:1,",
            "a:1;weight=0",
            "a:1;w=2",
            "a:1;weight=2;weight=3",
            "_a b",
            "http://a:1",
            "a:1,a:1",
            "_a._b.c:1",
        ] {
            assert!(sources(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_route_has_a_prefix_sources_and_perhaps_a_policy() {
        let read = |text| route(text, Policy::RoundRobin).map(|route| route.to_string());
        assert_eq!(read("/api/=a:1,b:2").as_deref(), Ok("/api/=a:1,b:2 balance=round_robin"));
        assert_eq!(read("/api/=a:1  balance=least_conn").as_deref(), Ok("/api/=a:1 balance=least_conn"));
        for bad in [
            "",
            "/api/",
            "/api/=",
            "/=",
            "api=a:1",
            "=a:1",
            "/a;b/=a:1",
            "/api/=a:1 balance=random",
            "/api/=a:1 weight=2",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cookie_is_one_that_browsers_take() {
        assert_eq!(cookie_attributes("").as_deref(), Ok(""));
        assert_eq!(
            cookie_attributes("httponly;SameSite=none ; secure").as_deref(),
            Ok("; HttpOnly; SameSite=None; Secure")
        );
        for bad in [
            "SameSite=None",
            "Partitioned",
            "SameSite=Lax; SameSite=Strict",
            "Domain=x",
            "Secure;Secure",
            "x\r\nSet-Cookie: a=b",
        ] {
            assert!(cookie_attributes(bad).is_err(), "{bad}");
        }
        assert!(cookie_name("a b").is_err() && cookie_name("a=b").is_err() && cookie_name("").is_err());
        assert_eq!((cookie_name("off"), cookie_name("pod_router")), (Ok(None), Ok(Some("pod_router".to_owned()))));
        assert!(affinity_key("short").is_err());
        let key = affinity_key(&"k".repeat(32)).expect("long enough");
        assert!(!format!("{key:?}").contains('k'), "never shown");
    }

    #[test]
    fn checks_and_lists() {
        let check = health_check("/health fall=1 interval=250ms").map(|check| check.map(|check| check.to_string()));
        assert_eq!(check, Ok(Some("/health interval=250ms timeout=2s rise=2 fall=1".to_owned())));
        assert_eq!(health_check("off"), Ok(None));
        for bad in ["", "health", "/health every=5s", "/health interval", "/health rise=0", "/a\u{1}"] {
            assert!(health_check(bad).is_err(), "{bad}");
        }
        assert_eq!((fail_status("502, 503"), fail_status("off")), (Ok(vec![502, 503]), Ok(vec![])));
        assert!(fail_status("404").is_err() && fail_status("").is_err());
        assert_eq!(session_affinity("sid, client_ip"), Ok((true, true)));
        assert!(session_affinity("client_ip,sid").is_err_and(|why| why.contains("in this order")));
        assert!(health_check("/health fall=1 fall=2").is_err_and(|why| why.contains("twice")));
        for twice in ["localhost:1,LOCALHOST:1", "[::1]:1,[0:0::1]:1", "_http._tcp.x,_HTTP._tcp.x", "a:1,a:1;weight=2"]
        {
            assert!(sources(twice).is_err_and(|why| why.contains("twice")), "{twice}");
        }
        assert!(route("/=a:1 balance=p2c balance=p2c", Policy::RoundRobin).is_err());
        assert_eq!((session_affinity("sid"), session_affinity("off")), (Ok((true, false)), Ok((false, false))));
        assert!(session_affinity("sid,off").is_err() && session_affinity("").is_err());
    }
}
