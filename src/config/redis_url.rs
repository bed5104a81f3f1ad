//! The URL of Redis: as given, or built from the seeds' parts.
//!
//! What can be wrong without connecting is said here. A URL may hold passwords, and a broken one may hold
//! them anywhere (`redis://:p/ss@h`), so an error shows it only where that cannot be.

use std::borrow::Cow;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::Secret;
use super::environment::Environment;
use super::error::ConfigError;
use crate::core::address::HostPort;

/// A way to reach Redis, and what its URL may say.
struct Scheme {
    name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Standalone,
    Sentinel,
    Cluster,
}

const SCHEMES: [Scheme; 6] = [
    Scheme { name: "redis", kind: Kind::Standalone },
    Scheme { name: "rediss", kind: Kind::Standalone },
    Scheme { name: "redis-sentinel", kind: Kind::Sentinel },
    Scheme { name: "rediss-sentinel", kind: Kind::Sentinel },
    Scheme { name: "redis-cluster", kind: Kind::Cluster },
    Scheme { name: "rediss-cluster", kind: Kind::Cluster },
];

/// The URL that was given, by flag or variable, else the one the parts make.
///
/// # Errors
///
/// The URL, or one of the parts, cannot be used.
pub(super) fn redis_url(given: Option<&str>, env: &Environment) -> Result<Secret, ConfigError> {
    match given {
        Some(url) => {
            check(url).map_err(|why| ConfigError::setting("redis-url", &shown(url), &why))?;
            Ok(Secret::new(url.to_owned()))
        }
        None => from_parts(env).map(Secret::new),
    }
}

fn check(url: &str) -> Result<(), String> {
    let known = SCHEMES.map(|scheme| format!("{}://", scheme.name)).join(", ");
    let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("it has to begin with one of {known}"))?;
    let kind = SCHEMES
        .iter()
        .find(|known| known.name == scheme)
        .map(|known| known.kind)
        .ok_or_else(|| format!("it has to begin with one of {known}"))?;
    if !rest.bytes().all(|b| b.is_ascii_graphic()) || rest.contains('#') {
        return Err("spaces, # and other special characters have to be percent-encoded".to_owned());
    }
    if !percent_encoded(rest) {
        return Err("a % begins two hexadecimal digits; one of its own is %25".to_owned());
    }
    let (base, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = base.split_once('/').unwrap_or((base, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if !is_server(host) {
        return Err("after the scheme comes [user:password@]host:port, the user and the password percent-encoded \
                    (@ is %40, / is %2F, : is %3A)"
            .to_owned());
    }
    if kind == Kind::Cluster && !matches!(path, "" | "0") {
        return Err("a cluster has only database 0".to_owned());
    }
    if !path.is_empty() && path.parse::<u8>().is_err() {
        return Err("after the host comes a database number from 0 to 255".to_owned());
    }
    check_query(kind, query)
}

/// Whether two hexadecimal digits follow each `%`: fred would take anything else as it stands, and send another password
/// than was meant.
fn percent_encoded(text: &str) -> bool {
    text.split('%').skip(1).all(|tail| tail.len() >= 2 && tail.bytes().take(2).all(|b| b.is_ascii_hexdigit()))
}

/// Parameters that fred would not read are refused: somebody means something by them.
fn check_query(kind: Kind, query: &str) -> Result<(), String> {
    let allowed: &[&str] = match kind {
        Kind::Standalone => &[],
        Kind::Sentinel => &["node", "sentinelServiceName", "sentinelUsername", "sentinelPassword"],
        Kind::Cluster => &["node"],
    };
    let mut service = false;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if !allowed.contains(&name.as_ref()) {
            return Err(if allowed.is_empty() {
                "this kind of URL takes no parameters".to_owned()
            } else {
                format!("its parameters are {}", allowed.join(", "))
            });
        }
        if name == "node" && value.parse::<HostPort>().is_err() {
            return Err("a node= parameter has to be host:port".to_owned());
        }
        service |= name == "sentinelServiceName" && !value.is_empty();
    }
    if kind == Kind::Sentinel && !service {
        return Err("the name of the master is missing: ?sentinelServiceName=NAME".to_owned());
    }
    Ok(())
}

/// Whether this is a host, with or without a port.
fn is_server(text: &str) -> bool {
    text.parse::<HostPort>().or_else(|_| format!("{text}:6379").parse::<HostPort>()).is_ok()
}

/// As much of a wrong URL as cannot hold a password: all of it only where there is neither user nor
/// parameter and what should be the host is one.
fn shown(url: &str) -> Cow<'_, str> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split('/').next().unwrap_or_default();
    if !rest.contains(['@', '?', '#']) && is_server(authority) {
        Cow::Borrowed(url)
    } else if SCHEMES.iter().any(|known| known.name == scheme) {
        Cow::Owned(format!("{scheme}://***"))
    } else {
        Cow::Borrowed("***")
    }
}

fn from_parts(env: &Environment) -> Result<String, ConfigError> {
    let port = env.get("REDIS_PORT").unwrap_or("6379");
    // Kubernetes sets REDIS_PORT=tcp://10.0.0.1:6379 wherever a Service is called `redis`.
    let link = port.strip_prefix("tcp://").and_then(|link| link.parse::<HostPort>().ok());
    let number = link.as_ref().map_or_else(|| port.parse().ok().filter(|port| *port > 0), |link| Some(link.port));
    let port = number.ok_or_else(|| {
        ConfigError::named("REDIS_PORT", port, "it has to be a port such as 6379, or tcp://10.0.0.1:6379")
    })?;
    let linked_host = link.as_ref().map(|link| link.host.as_ref());
    let host = env.get("REDIS_HOST").or(linked_host).unwrap_or("127.0.0.1");
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let address = format!("{bracketed}:{port}").parse::<HostPort>().map_err(|_| {
        ConfigError::named("REDIS_HOST", host, "it has to be a name or an IP address alone; the port is REDIS_PORT")
    })?;
    let database = env.get("REDIS_DB").unwrap_or("0");
    let database: u8 = database
        .parse()
        .map_err(|_| ConfigError::named("REDIS_DB", database, "it has to be a database number from 0 to 255"))?;
    Ok(format!("redis://{}{address}/{database}", credentials(env)?))
}

fn credentials(env: &Environment) -> Result<String, ConfigError> {
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let user = env.get("REDIS_USERNAME");
    match env.get("REDIS_PASSWORD") {
        // The usual cause is `echo` where `printf` was meant, and the failure would be far from it.
        Some(password) if password.ends_with(['\n', '\r']) => Err(ConfigError::of(
            "REDIS_PASSWORD ends in a line break, which is hardly part of it; make the secret with printf or echo -n"
                .to_owned(),
        )),
        Some(password) => Ok(format!("{}:{}@", encoded(user.unwrap_or_default()), encoded(password))),
        None => user.map_or(Ok(String::new()), |user| {
            Err(ConfigError::named("REDIS_USERNAME", user, "a user needs a password: set REDIS_PASSWORD as well"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(given: Option<&str>, variables: &[(&str, &str)]) -> Result<String, String> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let env = Environment::new(variables).expect("text");
        redis_url(given, &env).map(|url| url.reveal().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_parts_make_a_url() {
        for (variables, expected) in [
            (&[][..], "redis://127.0.0.1:6379/0"),
            (
                &[("REDIS_HOST", "redis.live.svc"), ("REDIS_PORT", "6380"), ("REDIS_DB", "3")],
                "redis://redis.live.svc:6380/3",
            ),
            (&[("REDIS_PORT", "tcp://10.0.0.1:6390")], "redis://10.0.0.1:6390/0"),
            (&[("REDIS_PORT", "tcp://10.0.0.1:6390"), ("REDIS_HOST", "redis")], "redis://redis:6390/0"),
            (&[("REDIS_PORT", "tcp://[fd00::1]:6379")], "redis://[fd00::1]:6379/0"),
            (&[("REDIS_HOST", "::1")], "redis://[::1]:6379/0"),
            (&[("REDIS_PASSWORD", "p@s:s/w?o#r d%é")], "redis://:p%40s%3As%2Fw%3Fo%23r%20d%25%C3%A9@127.0.0.1:6379/0"),
            (&[("REDIS_USERNAME", "u:1"), ("REDIS_PASSWORD", "p")], "redis://u%3A1:p@127.0.0.1:6379/0"),
        ] {
            assert_eq!(url(None, variables).as_deref(), Ok(expected), "{variables:?}");
        }
    }

    #[test]
    fn a_wrong_part_is_named() {
        for (variables, parts) in [
            (&[("REDIS_PORT", "redis")][..], ["REDIS_PORT", "'redis'"]),
            (&[("REDIS_PORT", "0")], ["REDIS_PORT", "6379"]),
            (&[("REDIS_PORT", "tcp://10.0.0.1")], ["REDIS_PORT", "tcp://10.0.0.1'"]),
            (&[("REDIS_HOST", "redis:6379")], ["REDIS_HOST", "'redis:6379'"]),
            (&[("REDIS_HOST", "redis://redis")], ["REDIS_HOST", "alone"]),
            (&[("REDIS_HOST", "redis://u:hunter2@redis")], ["REDIS_HOST", "'redis://***'"]),
            (&[("REDIS_PORT", "tcp://u:hunter2@redis:6379")], ["REDIS_PORT", "'tcp://***'"]),
            (&[("REDIS_DB", "256")], ["REDIS_DB", "'256'"]),
            (&[("REDIS_USERNAME", "me")], ["REDIS_USERNAME", "REDIS_PASSWORD"]),
            (&[("REDIS_PASSWORD", "hunter2\n")], ["REDIS_PASSWORD", "line break"]),
        ] {
            let error = url(None, variables).expect_err("refused");
            assert!(parts.iter().all(|part| error.contains(part)) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_good_url_is_taken_as_it_is() {
        for good in [
            "redis://redis",
            "redis://redis:6379",
            "redis://:p%40ss@10.0.0.1:6379/15",
            "rediss://me:p@ss@[::1]:6379/0",
            "redis-sentinel://u:p@a:26379/1?sentinelServiceName=main&node=b:26379&sentinelUsername=x&sentinelPassword=a@b",
            "rediss-sentinel://a?sentinelServiceName=main",
            "redis-cluster://a:7000?node=b:7001&node=c:7002",
            "rediss-cluster://u:p@a:7000/0",
        ] {
            assert_eq!(url(Some(good), &[("REDIS_HOST", "other")]).as_deref(), Ok(good));
        }
    }

    #[test]
    fn a_wrong_url_is_explained_and_its_password_kept() {
        for (wrong, value, part) in [
            ("http://redis:6379", "'http://redis:6379'", "rediss-cluster://"),
            ("redis:6379", "'redis:6379'", "redis://"),
            ("tcp://u:hunter2@redis:6379", "'***'", "redis://"),
            ("redis://u:hunter2%ZZ@h:1", "'redis://***'", "%25"),
            ("redis://:hunter2%@h", "'redis://***'", "%25"),
            ("redis-sentinel://h?sentinelServiceName=main&sentinelPassword=hunter2%4", "'redis-sentinel://***'", "%25"),
            ("redis://redis:x/1", "'redis://***'", "host:port"),
            ("redis://", "'redis://***'", "host:port"),
            ("redis://user:hunter2", "'redis://***'", "host:port"),
            ("redis://:hunter2@", "'redis://***'", "host:port"),
            ("redis://:hunter2/x@h:1", "'redis://***'", "%2F"),
            ("redis://:hunter2?x@h:1", "'redis://***'", "%40"),
            ("redis://:hunter2#x@h:1", "'redis://***'", "percent-encoded"),
            ("redis://u:12/hunter2@h:1", "'redis://***'", "0 to 255"),
            ("redis://u:12?hunter2@h:1", "'redis://***'", "no parameters"),
            ("redis://h:1/256", "'redis://h:1/256'", "0 to 255"),
            ("redis://h:1/0/", "'redis://h:1/0/'", "0 to 255"),
            ("redis://h:1\n", "'redis://***'", "percent-encoded"),
            ("redis://h:1?db=3", "'redis://***'", "no parameters"),
            ("redis://a:1,b:2", "'redis://***'", "host:port"),
            ("redis-cluster://a:1/2", "'redis-cluster://a:1/2'", "database 0"),
            ("redis-cluster://a:1?node=b", "'redis-cluster://***'", "node="),
            ("redis-cluster://a:1?sentinelServiceName=x", "'redis-cluster://***'", "node"),
            ("redis-sentinel://a:1", "'redis-sentinel://a:1'", "sentinelServiceName"),
            ("redis-sentinel://a:1?sentinelServiceName=", "'redis-sentinel://***'", "sentinelServiceName"),
        ] {
            let error = url(Some(wrong), &[]).expect_err(wrong);
            assert!(error.starts_with("--redis-url (POD_ROUTER_REDIS_URL, REDIS_URL)"), "{error}");
            assert!(error.contains(value) && error.contains(part) && !error.contains("hunter2"), "{wrong}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
