//! From what was typed to what is meant: the one conversion, with every rule between settings.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::available_parallelism;

use super::args::{
    Args, COOKIE_ATTRIBUTES, DevArgs as TypedDevArgs, FAIL_TIMEOUT, HealthArgs, POD_QUEUE, POD_QUEUE_TIMEOUT,
};
use super::backends::{
    BackendConfig, BackendsConfig, CookieConfig, SessionConfig, Source, affinity_key, cookie_attributes, cookie_name,
    fail_status, health_check, keeps_its_promise, route, session_affinity, sources,
};
use super::command::{DevArgs, HealthCheck};
use super::environment::Environment;
use super::error::ConfigError;
use super::redis_url::redis_url;
use super::value::{
    count, dns_label, duration, listener, log_format, networks, networks_of_pods, or_off, share, size, switch, timeout,
    timeout_or_off, word,
};
use super::{
    Config, DirectoryConfig, DirectoryKind, DownstreamConfig, DrainConfig, KeyTemplate, RedisConfig, RoutingConfig,
    UpstreamConfig,
};
use crate::core::address::{AddressTemplate, HostPort};
use crate::core::affinity::Affinity;
use crate::core::assignment::{PodId, StatefulSet};
use crate::core::balance::{POLICIES, Policy};
use crate::core::decision::OnUnassigned;
use crate::core::ejection::EjectionLimits;
use crate::core::origin::Origins;
use crate::core::placement::Limits;
use crate::core::redirect::Redirect;

/// What the process was started in, as far as it matters to the settings.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// Its environment variables.
    pub(super) env: Environment,
    /// Whether its log goes to a terminal.
    pub(super) on_terminal: bool,
}

/// Reads one setting; the error gets its name and the value.
fn setting<T>(flag: &str, text: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<T, ConfigError> {
    read(text).map_err(|why| ConfigError::setting(flag, text, &why))
}

fn redirect(text: &str, affinity: &Affinity) -> Result<Option<Redirect>, String> {
    if text == "off" {
        return Ok(None);
    }
    let redirect: Redirect = text.parse()?;
    if redirect.agrees_with(affinity) {
        Ok(Some(redirect))
    } else {
        Err("by --affinity the target names another room than the one that is redirected".to_owned())
    }
}

// === impl Args ===

impl Args {
    /// The configuration that these settings mean.
    ///
    /// # Errors
    ///
    /// The first wrong value or contradiction, in the order of `--help`.
    pub(super) fn into_config(self, around: &Surroundings) -> Result<Config, ConfigError> {
        let (listen, admin_listen) = listeners(&self.listen, &self.admin_listen)?;
        let (directory, routing, backends) = (self.directory(&around.env)?, self.routing()?, self.backends()?);
        if let Some(CookieConfig { name, .. }) = &backends.session.cookie
            && routing.affinity.reads_cookie(name)
        {
            let why = "an --affinity rule reads a room from the cookie of this name: give one of them another";
            return Err(ConfigError::setting("affinity-cookie", name, why));
        }
        Ok(Config {
            listen,
            admin_listen,
            directory,
            routing,
            backends,
            upstream: self.upstream()?,
            downstream: self.downstream()?,
            drain: self.drain()?,
            threads: setting("threads", &self.threads, threads)?,
            log_format: setting("log-format", &self.log_format, |text| log_format(text, around.on_terminal))?,
            log_sample: setting("log-sample", &self.log_sample, share)?,
        })
    }

    fn directory(&self, env: &Environment) -> Result<DirectoryConfig, ConfigError> {
        let in_memory =
            setting("directory", &self.directory, |text| word(text, &[("redis", false), ("memory", true)]))?;
        let room_key = setting("room-key", &self.room_key, KeyTemplate::new)?;
        // A seed's REDIS_URL is there for every program of the namespace; a URL for us alone means Redis.
        let own_url = self.redis_url.is_some() && self.redis_url.as_deref() != env.get("REDIS_URL");
        let kind = if !in_memory {
            DirectoryKind::Redis(RedisConfig { url: redis_url(self.redis_url.as_deref(), env)?, room_key })
        } else if own_url {
            return Err(ConfigError::setting(
                "directory",
                "memory",
                "--redis-url is given as well; leave out one of them",
            ));
        } else {
            DirectoryKind::Memory
        };
        Ok(DirectoryConfig {
            kind,
            timeout: setting("redis-timeout", &self.redis_timeout, timeout)?,
            ttl: setting("cache-ttl", &self.cache_ttl, duration)?,
            stale: setting("cache-stale", &self.cache_stale, duration)?,
            negative: setting("cache-negative", &self.cache_negative, duration)?,
            capacity: setting("cache-capacity", &self.cache_capacity, |text| count(text, 1..=10_000_000))?,
        })
    }

    fn routing(&self) -> Result<RoutingConfig, ConfigError> {
        let rules = self.affinity.iter().map(|rule| setting("affinity", rule, str::parse)).collect::<Result<_, _>>()?;
        let statefulset = setting("statefulset", &self.statefulset, |text| {
            StatefulSet::parse(text)
                .ok_or_else(|| "it has to be at most 57 lower-case letters, digits and hyphens".to_owned())
        })?;
        let namespace = setting("namespace", &self.namespace, dns_label)?;
        let affinity = Affinity::new(rules);
        Ok(RoutingConfig {
            redirect: setting("redirect", &self.redirect, |text| redirect(text, &affinity))?,
            affinity,
            pod_address: setting("pod-address", &self.pod_address, |text| pod_address(text, &namespace, &statefulset))?,
            namespace,
            fixed_pods: self.fixed_pods(&statefulset)?,
            statefulset,
            on_unassigned: setting("on-unassigned", &self.on_unassigned, |text| word(text, &ON_UNASSIGNED))?,
            limits: Limits {
                rooms: setting("max-rooms-per-pod", &self.max_rooms_per_pod, |text| count(text, 1..=MAX_LIMIT))?,
                participants: setting("max-participants-per-pod", &self.max_participants_per_pod, |text| {
                    count(text, 1..=MAX_LIMIT)
                })?,
            },
        })
    }

    fn backends(&self) -> Result<BackendsConfig, ConfigError> {
        let policy = setting("balance", &self.balance, |text| word(text, &POLICIES))?;
        let in_memory = self.directory == "memory";
        let sources = setting("default-backend", &self.default_backend, |text| {
            sources(text).and_then(|sources| known(sources, in_memory))
        })?;
        let mut backends = vec![BackendConfig { prefix: String::new(), sources, policy }];
        for text in &self.route {
            let read = setting("route", text, |text| {
                let read = route(text, policy)?;
                Ok(BackendConfig { sources: known(read.sources, in_memory)?, ..read })
            })?;
            if backends.iter().any(|backend| backend.prefix == read.prefix) {
                return Err(ConfigError::setting("route", text, "this prefix has a route already"));
            }
            backends.push(read);
        }
        backends.sort_by_key(|backend| std::cmp::Reverse(backend.prefix.len()));
        let fails = setting("max-fails", &self.max_fails, |text| count(text, 0..=1_000_000))?;
        let fail_timeout = setting("fail-timeout", &self.fail_timeout, timeout)?;
        let fail_status = setting("fail-status", &self.fail_status, fail_status)?;
        if fails == 0 && !fail_status.is_empty() {
            let why = "with --max-fails 0 no failure counts; leave out one of them";
            return Err(ConfigError::setting("fail-status", &self.fail_status, why));
        }
        if fails == 0 && self.fail_timeout != FAIL_TIMEOUT {
            let why = "with --max-fails 0 no pod is left out; leave out one of them";
            return Err(ConfigError::setting("fail-timeout", &self.fail_timeout, why));
        }
        let slow_start = setting("slow-start", &self.slow_start, duration)?;
        if !slow_start.is_zero() && backends.iter().all(|backend| backend.policy == Policy::ClientIp) {
            let why = "client_ip, by which every backend is balanced, knows no shares; leave this out";
            return Err(ConfigError::setting("slow-start", &self.slow_start, why));
        }
        Ok(BackendsConfig {
            backends,
            refresh: setting("backend-refresh", &self.backend_refresh, timeout)?,
            session: self.session()?,
            ejection: (fails > 0).then_some(EjectionLimits { fails, timeout: fail_timeout }),
            fail_status,
            check: setting("health-check", &self.health_check, health_check)?,
            slow_start,
            retry_budget: setting("retry-budget", &self.retry_budget, |text| count(text, 0..=100))?,
        })
    }

    fn session(&self) -> Result<SessionConfig, ConfigError> {
        let (sid, client_ip) = setting("session-affinity", &self.session_affinity, session_affinity)?;
        let name = setting("affinity-cookie", &self.affinity_cookie, cookie_name)?;
        let attributes = setting("affinity-cookie-attributes", &self.affinity_cookie_attributes, cookie_attributes)?;
        // Read even where no cookie is wanted: a wrong value is named, not kept for later. It is not quoted.
        let key = self.affinity_key.as_deref().map(affinity_key).transpose();
        let key = key.map_err(|why| ConfigError::setting("affinity-key", "***", &why))?;
        let cookie = match (name, key) {
            (None, Some(_)) => {
                let why = "it signs a cookie, and there is none: name it with --affinity-cookie, or leave this out";
                return Err(ConfigError::setting("affinity-key", "***", why));
            }
            (None, None) if self.affinity_cookie_attributes != COOKIE_ATTRIBUTES => {
                let why = "there is no cookie: name it with --affinity-cookie, or leave this out";
                let given = &self.affinity_cookie_attributes;
                return Err(ConfigError::setting("affinity-cookie-attributes", given, why));
            }
            (None, None) => None,
            (Some(name), Some(key)) => {
                let promise =
                    keeps_its_promise(&name, &attributes, self.route.iter().any(|route| !route.starts_with("/=")));
                promise.map_err(|why| ConfigError::setting("affinity-cookie", &name, &why))?;
                Some(CookieConfig { name, attributes, key })
            }
            (Some(name), None) => {
                let why = "it is signed, and --affinity-key (POD_ROUTER_AFFINITY_KEY) is missing";
                return Err(ConfigError::setting("affinity-cookie", &name, why));
            }
        };
        Ok(SessionConfig { sid, client_ip, cookie })
    }

    fn fixed_pods(&self, statefulset: &StatefulSet) -> Result<HashMap<PodId, HostPort>, ConfigError> {
        let mut pods = HashMap::new();
        for text in &self.pod {
            let (pod, address) = setting("pod", text, |text| fixed_pod(text, statefulset))?;
            if let Some(first) = pods.insert(pod, address) {
                return Err(ConfigError::setting("pod", text, &format!("this pod has the address {first} already")));
            }
        }
        Ok(pods)
    }

    fn upstream(&self) -> Result<UpstreamConfig, ConfigError> {
        let max_connections = setting("pod-max-connections", &self.pod_max_connections, |text| {
            or_off(text, |text| count(text, 1..=1_000_000))
        })?;
        let queue = setting("pod-queue", &self.pod_queue, |text| count(text, 0..=1_000_000))?;
        let queue_timeout = setting("pod-queue-timeout", &self.pod_queue_timeout, timeout)?;
        for (flag, given, default) in [
            ("pod-queue", &self.pod_queue, POD_QUEUE),
            ("pod-queue-timeout", &self.pod_queue_timeout, POD_QUEUE_TIMEOUT),
        ] {
            if max_connections.is_none() && given != default {
                let why = "nobody waits without a limit: give --pod-max-connections, or leave this out";
                return Err(ConfigError::setting(flag, given, why));
            }
        }
        if queue == 0 && self.pod_queue_timeout != POD_QUEUE_TIMEOUT {
            let why = "with --pod-queue 0 nobody waits; leave out one of them";
            return Err(ConfigError::setting("pod-queue-timeout", &self.pod_queue_timeout, why));
        }
        Ok(UpstreamConfig {
            connect_timeout: setting("connect-timeout", &self.connect_timeout, timeout)?,
            max_connections,
            queue,
            queue_timeout,
            pod_wait: setting("pod-wait", &self.pod_wait, duration)?,
            response_timeout: setting("response-timeout", &self.response_timeout, timeout)?,
            response_body_idle: setting("response-body-idle", &self.response_body_idle, timeout_or_off)?,
            idle: setting("upstream-idle", &self.upstream_idle, timeout)?,
            dns_stale: setting("dns-stale", &self.dns_stale, duration)?,
            pod_networks: setting("pod-networks", &self.pod_networks, |text| or_off(text, networks_of_pods))?,
        })
    }

    fn downstream(&self) -> Result<DownstreamConfig, ConfigError> {
        let trusted_proxies = setting("trusted-proxies", &self.trusted_proxies, networks)?;
        let proxy_protocol = setting("proxy-protocol", &self.proxy_protocol, switch)?;
        if proxy_protocol && trusted_proxies.is_empty() {
            let why = "it is read from --trusted-proxies only, and there are none";
            return Err(ConfigError::setting("proxy-protocol", &self.proxy_protocol, why));
        }
        Ok(DownstreamConfig {
            idle: setting("downstream-idle", &self.downstream_idle, timeout)?,
            header_timeout: setting("header-timeout", &self.header_timeout, timeout)?,
            request_body_idle: setting("request-body-idle", &self.request_body_idle, timeout)?,
            write_stall: setting("write-stall", &self.write_stall, timeout)?,
            tunnel_idle: setting("tunnel-idle", &self.tunnel_idle, timeout_or_off)?,
            tunnel_linger: setting("tunnel-linger", &self.tunnel_linger, timeout)?,
            max_connections: setting("max-connections", &self.max_connections, |text| count(text, 1..=10_000_000))?,
            max_connections_per_client: setting(
                "max-connections-per-client",
                &self.max_connections_per_client,
                |text| or_off(text, |text| count(text, 1..=10_000_000)),
            )?,
            // hyper's read buffer cannot be smaller than 8 KiB.
            max_header_bytes: setting("max-header-bytes", &self.max_header_bytes, |text| {
                count(text, 8192..=1_048_576)
            })?,
            max_headers: setting("max-headers", &self.max_headers, |text| count(text, 10..=1000))?,
            max_body: setting("max-body", &self.max_body, |text| or_off(text, size))?,
            allowed_origins: setting("allowed-origins", &self.allowed_origins, |text| or_off(text, Origins::parse))?,
            rate_limits: self
                .rate_limit
                .iter()
                .map(|rule| setting("rate-limit", rule, str::parse))
                .collect::<Result<_, _>>()?,
            lookup_rate: setting("lookup-rate", &self.lookup_rate, |text| or_off(text, str::parse))?,
            trusted_proxies,
            proxy_protocol,
        })
    }

    fn drain(&self) -> Result<DrainConfig, ConfigError> {
        Ok(DrainConfig {
            lame_duck: setting("lame-duck", &self.lame_duck, duration)?,
            timeout: setting("drain-timeout", &self.drain_timeout, duration)?,
        })
    }
}

/// A backend's sources, if somebody can know them.
fn known(sources: Vec<Source>, in_memory: bool) -> Result<Vec<Source>, String> {
    if in_memory && sources.contains(&Source::Heartbeats) {
        return Err("heartbeats are read from Redis, which --directory memory does not ask".to_owned());
    }
    Ok(sources)
}

/// The words of `--on-unassigned`.
pub(super) const ON_UNASSIGNED: [(&str, OnUnassigned); 3] = [
    ("default-backend", OnUnassigned::DefaultBackend),
    ("assign", OnUnassigned::Assign),
    ("reject", OnUnassigned::Reject),
];

/// The highest limit of rooms or participants.
const MAX_LIMIT: u64 = 1_000_000;

fn threads(text: &str) -> Result<usize, String> {
    if text == "auto" {
        return Ok(available_parallelism().map_or(1, usize::from));
    }
    count(text, 1..=1024).map_err(|why| format!("{why}, or auto"))
}

/// The template, checked with the longest pod name that the directory could name.
fn pod_address(text: &str, namespace: &str, statefulset: &StatefulSet) -> Result<AddressTemplate, String> {
    let template = AddressTemplate::new(text, namespace)?;
    let longest = template.to_string().replace("{pod}", &format!("{}-9999", statefulset.as_str()));
    match longest.parse::<HostPort>() {
        Ok(_) => Ok(template),
        Err(_) => Err(format!("{longest} is too long: a DNS label has at most 63 characters")),
    }
}

fn fixed_pod(text: &str, statefulset: &StatefulSet) -> Result<(PodId, HostPort), String> {
    let (pod, address) =
        text.split_once('=').ok_or("a fixed pod is POD=HOST:PORT, for example backend-0=127.0.0.1:4000")?;
    let pod = statefulset
        .pod(pod)
        .ok_or_else(|| format!("the pods of --statefulset are {0}-0, {0}-1 and so on", statefulset.as_str()))?;
    Ok((pod, address.parse()?))
}

/// The two listeners, which must not want the same port.
fn listeners(listen: &str, admin_listen: &str) -> Result<(SocketAddr, SocketAddr), ConfigError> {
    let data = setting("listen", listen, listener)?;
    let admin = setting("admin-listen", admin_listen, listener)?;
    if data.port() != 0 && data.port() == admin.port() && (covers(data, admin) || covers(admin, data)) {
        return Err(ConfigError::setting(
            "admin-listen",
            admin_listen,
            &format!("--listen {data} has that port already"),
        ));
    }
    Ok((data, admin))
}

/// Whether a listener on `a` also gets what is sent to the address of `b`.
fn covers(a: SocketAddr, b: SocketAddr) -> bool {
    a.ip() == b.ip() || a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4())
}

// === impl DevArgs ===

impl TypedDevArgs {
    /// The settings of `dev` that were meant.
    ///
    /// # Errors
    ///
    /// As for [`Args::into_config`].
    pub(super) fn into_dev_args(self, around: &Surroundings) -> Result<DevArgs, ConfigError> {
        let (listen, admin_listen) = listeners(&self.listen, &self.admin_listen)?;
        let log_format = setting("log-format", &self.log_format, |text| log_format(text, around.on_terminal))?;
        Ok(DevArgs { listen, admin_listen, log_format })
    }
}

// === impl HealthArgs ===

impl HealthArgs {
    /// Whom `health` was meant to ask. An address of all interfaces is none to connect to: it stands for this machine.
    ///
    /// # Errors
    ///
    /// As for [`Args::into_config`]; port 0, which is another one at every start, cannot be asked.
    pub(super) fn into_health_check(self) -> Result<HealthCheck, ConfigError> {
        let mut admin = setting("admin-listen", &self.admin_listen, |text| match listener(text)? {
            address if address.port() == 0 => Err("health needs the port the router listens on".to_owned()),
            address => Ok(address),
        })?;
        if admin.ip().is_unspecified() {
            admin.set_ip(match admin.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        Ok(HealthCheck { admin, timeout: setting("timeout", &self.timeout, timeout)? })
    }
}
