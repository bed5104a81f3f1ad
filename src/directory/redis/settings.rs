//! How fred is set up: the URL, and every knob the connection depends on.
//!
//! fred's defaults wait for ever, queue without a bound and decide for themselves when to give up, so all
//! of them are written out here, each with the default it replaces. A fred `Config` holds the password in the
//! clear and prints it: nothing here is `Debug`.

use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::types::RespVersion;
use fred::types::config::{
    Blocking, Config, ConnectionConfig, PerformanceConfig, ReconnectError, Server, ServerConfig, TcpConfig,
    UnresponsiveConfig,
};

/// The schemes that are understood, with the port each means when none is written.
const SCHEMES: [(&str, u16); 6] = [
    ("redis", 6379),
    ("rediss", 6379),
    ("redis-sentinel", 26379),
    ("rediss-sentinel", 26379),
    ("redis-cluster", 6379),
    ("rediss-cluster", 6379),
];

/// To connect, TLS included, and again to be greeted. A packet lost while connecting is sent again after 1 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What a connection is made of.
pub(super) struct Settings {
    config: Config,
    /// The deadline of one question.
    pub(super) timeout: Duration,
}

impl Settings {
    /// The settings for this URL.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the URL, without any part of it.
    pub(super) fn new(url: &str, timeout: Duration) -> Result<Self, String> {
        let (scheme, _) = url.split_once("://").unwrap_or_default();
        let Some((_, port)) = SCHEMES.iter().find(|(known, _)| *known == scheme) else {
            return Err(format!(
                "the URL has to begin with one of {}",
                SCHEMES.map(|(s, _)| format!("{s}://")).join(", ")
            ));
        };
        let parsed = Config::from_url(&spread_hosts(url, *port)).map_err(|error| describe(&error))?;
        let config = Config {
            // Default: true. A client that does not connect ends, and the link makes the next one.
            fail_fast: true,
            // Default: the same. No command we send blocks a connection.
            blocking: Blocking::Block,
            // Default: the same. RESP3 begins with HELLO, which proxies and Redis before 6 do not have, and
            // strings are all we read. (Invalidation needs its pushes, on a connection of its own.)
            version: RespVersion::RESP2,
            // A connection begins in database 0: fred would SELECT it all the same, which a user needs a right for.
            database: parsed.database.filter(|number| *number != 0),
            ..parsed
        };
        Ok(Self { config, timeout })
    }

    /// The master's name, and how each Sentinel is asked itself; nothing without Sentinels.
    pub(super) fn sentinels(&self) -> Option<(String, Vec<Self>)> {
        let ServerConfig::Sentinel { hosts, service_name, username, password } = &self.config.server else {
            return None;
        };
        let sentinel = |server: &Server| {
            let server = ServerConfig::Centralized { server: server.clone() };
            let (username, password) = (username.clone(), password.clone());
            let config = Config { server, username, password, database: None, ..self.config.clone() };
            Self { config, timeout: self.timeout }
        };
        Some((service_name.clone(), hosts.iter().map(sentinel).collect()))
    }

    /// A client that has not connected. Attempts count up, so that each begins with another host of the list.
    pub(super) fn client(&self, attempt: usize) -> Client {
        let mut config = self.config.clone();
        if let ServerConfig::Sentinel { hosts, .. } = &mut config.server {
            // fred asks the first Sentinel that accepts a connection, and no other if that one hangs or is
            // the one that has lost its master.
            let first = attempt % hosts.len().max(1);
            hosts.rotate_left(first);
        }
        // No reconnect policy (fred's default as well): fred would replay commands nobody waits for, give up
        // for good on some errors, and have callers wait in its queue meanwhile. The link starts afresh.
        Client::new(config, Some(self.performance()), Some(connection()), None)
    }

    /// Where Redis is, for logs: hosts and ports.
    pub(super) fn servers(&self) -> String {
        let hosts: Vec<String> = self.config.server.hosts().iter().map(|s| format!("{}:{}", s.host, s.port)).collect();
        hosts.join(",")
    }

    /// Why a connection could not be opened, and what that may mean: a server without TLS waits for more of what it takes
    /// for a command, and says nothing.
    pub(super) fn comment(&self, why: String) -> String {
        if self.config.uses_tls() && why.contains("Timeout") {
            format!("{why} (rediss:// means TLS; a port without TLS does not answer to it: is redis:// meant?)")
        } else {
            why
        }
    }

    fn performance(&self) -> PerformanceConfig {
        PerformanceConfig {
            // Default: the same, none. The link has one for each question, which knows when its thread is late. So what nobody
            // waits for any more may still be written: it reads, or gives away a room that nobody has.
            default_command_timeout: Duration::ZERO,
            max_feed_count: 200,            // default: the same; commands written before a flush
            broadcast_channel_capacity: 32, // default: the same; we listen to none of its events
        }
    }
}

fn connection() -> ConnectionConfig {
    ConnectionConfig {
        connection_timeout: CONNECT_TIMEOUT,        // default: 10 s
        internal_command_timeout: CONNECT_TIMEOUT,  // default: 10 s
        cluster_cache_update_delay: Duration::ZERO, // default: the same; look at once after a MOVED
        max_command_attempts: 1, // default: 3; whoever asked has gone when the connection is there again
        // Default: 5. fred follows an ASK by reading the next reply of that connection as the one to ASKING,
        // whoever's it is, and from then on each question there gets the answer of the one after it. Without
        // redirections it still learns a slot's new owner of a MOVED; the link asks again then.
        max_redirections: 0,
        // Default: the same, none. It looks only while writes are outstanding and every write moves its clock
        // on, so a busy dead connection passes; the link's pings are the check.
        unresponsive: UnresponsiveConfig { max_timeout: None, interval: Duration::from_secs(2) },
        reconnect_on_auth_error: false, // default: the same; a ping that is refused ends the connection as well
        auto_client_setname: false,     // default: the same
        // Default: the same, unlimited. The link bounds what is in flight; a bounded queue that was full once
        // leaves fred's count of queued commands too high, after which it no longer flushes what it writes.
        max_command_buffer_len: 0,
        disable_cluster_health_check: false, // default: the same; a Cluster that is down is down
        tcp: TcpConfig { nodelay: Some(true), linger: None, ttl: None, keepalive: None }, // default: Nagle's delays
        // Default: without MASTERDOWN. A server that says one of these is not the one to ask any more.
        reconnect_errors: vec![
            ReconnectError::ClusterDown,
            ReconnectError::Loading,
            ReconnectError::MasterDown,
            ReconnectError::ReadOnly,
        ],
    }
}

/// `scheme://user:password@a:1,b:2/0?x=y`, the way other clients write several hosts, as fred reads it:
/// `scheme://user:password@a:1/0?x=y&node=b:2`.
fn spread_hosts(url: &str, default_port: u16) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    let hosts = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    let mut list = url[hosts..end].split(',');
    let first = list.next().unwrap_or_default();
    let mut spread = format!("{}{first}{}", &url[..hosts], &url[end..]);
    for host in list {
        let port = if host.contains(':') { String::new() } else { format!(":{default_port}") };
        let mark = if spread.contains('?') { '&' } else { '?' };
        spread.push_str(&format!("{mark}node={host}{port}"));
    }
    spread
}

/// What fred has against a URL. Of its messages only one quotes the URL, which is answered for here.
fn describe(error: &Error) -> String {
    let details = error.details();
    if *error.kind() == ErrorKind::Tls {
        format!("the certificates to trust cannot be read: {details}")
    } else if details.starts_with("Invalid host:port") {
        "every further host has to be host:port".to_owned()
    } else {
        format!("the URL cannot be read ({details}); special characters in a password are percent-encoded")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(250);

    fn settings(url: &str) -> Settings {
        Settings::new(url, TIMEOUT).unwrap_or_else(|why| panic!("{url}: {why}"))
    }

    #[test]
    fn the_contracts_urls_are_read() {
        for (url, servers) in [
            ("redis://r", "r:6379"),
            ("redis://u:p%40ss@r:7000/3", "r:7000"),
            ("rediss://r:7000", "r:7000"),
            ("redis-sentinel://a,b,c:1?sentinelServiceName=m", "b:26379,c:1,a:26379"),
            ("redis-sentinel://u:p@a:1/2?sentinelServiceName=m&node=b:2", "b:2,a:1"),
            ("rediss-sentinel://a:1,b:2/2?sentinelServiceName=m", "b:2,a:1"),
            ("redis-cluster://:p@a:1,b:2,c", "b:2,c:6379,a:1"),
            ("rediss-cluster://a:1?node=b:2", "b:2,a:1"),
        ] {
            assert_eq!(settings(url).servers(), servers, "{url}");
        }
        let with_all = settings("redis://u:p%40ss@r:7000/3").config;
        assert_eq!(with_all.username.as_deref(), Some("u"));
        assert_eq!(with_all.password.as_deref(), Some("p@ss"));
        assert_eq!(with_all.database, Some(3));
        assert_eq!(settings("redis://r/0").config.database, None);
        assert!(settings("rediss://r").config.uses_tls() && !settings("redis://r").config.uses_tls());
    }

    #[test]
    fn a_wrong_url_is_refused_without_being_quoted() {
        for url in [
            "",
            "hunter2",
            "http://:hunter2@h",
            "redis://:hunter2@",
            "redis://:hunter2@h:x",
            "redis://:hunter2@h:70000",
            "redis://:hunt/er2@h:1",
            "redis://:hunter2@h:1/hunter2",
            "redis://:hunter2@h:1/256",
            "redis-sentinel://:hunter2@h:1",
            "redis-cluster://:hunter2@h:1?node=:hunter2@h:1",
            "redis-cluster://:hunter2@h:1,:hunter2",
        ] {
            let why = Settings::new(url, TIMEOUT).err().unwrap_or_else(|| panic!("{url} was accepted"));
            assert!(!why.contains("hunt") && !why.contains("er2"), "{url}: {why}");
        }
    }

    #[test]
    fn each_attempt_begins_with_another_sentinel() {
        let settings = settings("redis-sentinel://a:1,b:2,c:3?sentinelServiceName=m");
        let first = |attempt| {
            use fred::interfaces::ClientLike;
            settings.client(attempt).client_config().server.hosts()[0].host.to_string()
        };
        assert_eq!([first(0), first(1), first(2), first(3)], ["b", "c", "a", "b"]);
    }
}
