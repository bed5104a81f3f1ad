//! Every setting: as it is documented, and as it is in force.

use std::fmt::Display;
use std::time::Duration;

use clap::CommandFactory;
use humantime::format_duration;

use super::args::Cli;
use super::convert::ON_UNASSIGNED;
use super::environment::{Environment, is_setting, variables};
use super::redis_url::redis_url;
use super::{Config, DirectoryKind, LogFormat, SessionConfig};

/// One setting of `serve`, as the README shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// What `--help` has it under.
    pub heading: String,
    /// The flag, dashes included.
    pub flag: String,
    /// The variables that stand for it, the first one first.
    pub variables: Vec<String>,
    /// What holds where nobody chose: one value, or several of a repeatable setting, or none.
    pub defaults: Vec<String>,
    /// What it means.
    pub meaning: String,
}

/// The settings of `serve`, in the order of `--help`.
pub fn settings() -> Vec<Setting> {
    let command = Cli::command();
    let arguments = command.get_arguments().filter(|arg| is_setting(arg));
    arguments
        .map(|arg| {
            let flag = arg.get_long().unwrap_or_default();
            let values = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
            let built = (flag == "redis-url").then(|| redis_url(None, &Environment::default()).ok()).flatten();
            Setting {
                heading: arg.get_help_heading().unwrap_or_default().to_owned(),
                flag: format!("--{flag}"),
                variables: variables(flag),
                defaults: values.chain(built.map(|url| url.to_string())).collect(),
                meaning: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            }
        })
        .collect()
}

impl Config {
    /// Flags and the values in force, secrets masked, in the order of `--help`. The namespace stands in
    /// `--pod-address` as well by now.
    pub fn effective(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("--listen", self.listen.to_string()), ("--admin-listen", self.admin_listen.to_string())];
        rows.extend(self.effective_directory());
        rows.extend(self.effective_routing());
        rows.extend(self.effective_balancing());
        rows.extend([
            ("--connect-timeout", time(self.upstream.connect_timeout)),
            ("--pod-max-connections", self.upstream.max_connections.map_or("off".to_owned(), |max| max.to_string())),
            ("--pod-queue", self.upstream.queue.to_string()),
            ("--pod-queue-timeout", time(self.upstream.queue_timeout)),
            ("--pod-wait", time(self.upstream.pod_wait)),
            ("--response-timeout", time(self.upstream.response_timeout)),
            ("--response-body-idle", self.upstream.response_body_idle.map_or("off".to_owned(), time)),
            ("--upstream-idle", time(self.upstream.idle)),
            ("--dns-stale", time(self.upstream.dns_stale)),
            ("--pod-networks", self.upstream.pod_networks.as_deref().map_or("off".to_owned(), list)),
            ("--downstream-idle", time(self.downstream.idle)),
            ("--header-timeout", time(self.downstream.header_timeout)),
            ("--request-body-idle", time(self.downstream.request_body_idle)),
            ("--write-stall", time(self.downstream.write_stall)),
            ("--tunnel-idle", self.downstream.tunnel_idle.map_or("off".to_owned(), time)),
            ("--tunnel-linger", time(self.downstream.tunnel_linger)),
            ("--max-connections", self.downstream.max_connections.to_string()),
            ("--max-connections-per-client", or_off(self.downstream.max_connections_per_client.as_ref())),
            ("--max-header-bytes", self.downstream.max_header_bytes.to_string()),
            ("--max-headers", self.downstream.max_headers.to_string()),
            ("--max-body", or_off(self.downstream.max_body.as_ref())),
            ("--allowed-origins", or_off(self.downstream.allowed_origins.as_ref())),
            ("--rate-limit", list(&self.downstream.rate_limits)),
            ("--lookup-rate", or_off(self.downstream.lookup_rate.as_ref())),
            ("--trusted-proxies", list(&self.downstream.trusted_proxies)),
            ("--proxy-protocol", if self.downstream.proxy_protocol { "on" } else { "off" }.to_owned()),
            ("--lame-duck", time(self.drain.lame_duck)),
            ("--drain-timeout", time(self.drain.timeout)),
            ("--threads", self.threads.to_string()),
            (
                "--log-format",
                match self.log_format {
                    LogFormat::Json => "json",
                    LogFormat::Text => "text",
                }
                .to_owned(),
            ),
            ("--log-sample", self.log_sample.to_string()),
        ]);
        rows
    }

    fn effective_directory(&self) -> [(&'static str, String); 8] {
        let unused = || "unused".to_owned();
        let (kind, url, key) = match &self.directory.kind {
            DirectoryKind::Redis(redis) => ("redis", redis.url.to_string(), redis.room_key.to_string()),
            DirectoryKind::Memory => ("memory", unused(), unused()),
        };
        [
            ("--directory", kind.to_owned()),
            ("--redis-url", url),
            ("--redis-timeout", time(self.directory.timeout)),
            ("--room-key", key),
            ("--cache-ttl", time(self.directory.ttl)),
            ("--cache-stale", time(self.directory.stale)),
            ("--cache-negative", time(self.directory.negative)),
            ("--cache-capacity", self.directory.capacity.to_string()),
        ]
    }

    fn effective_routing(&self) -> [(&'static str, String); 11] {
        let routing = &self.routing;
        let mut pods: Vec<_> = routing.fixed_pods.iter().map(|(pod, address)| format!("{pod}={address}")).collect();
        pods.sort_unstable();
        let policy = ON_UNASSIGNED.into_iter().find(|(_, policy)| *policy == routing.on_unassigned);
        [
            ("--affinity", list(routing.affinity.rules())),
            ("--redirect", routing.redirect.as_ref().map_or("off".to_owned(), ToString::to_string)),
            ("--statefulset", routing.statefulset.as_str().to_owned()),
            ("--pod-address", routing.pod_address.to_string()),
            ("--namespace", routing.namespace.clone()),
            ("--pod", list(&pods)),
            ("--default-backend", self.backends.default_backend().to_string()),
            ("--route", list(self.backends.routes())),
            ("--on-unassigned", policy.map(|(word, _)| word.to_owned()).unwrap_or_default()),
            ("--max-rooms-per-pod", routing.limits.rooms.to_string()),
            ("--max-participants-per-pod", routing.limits.participants.to_string()),
        ]
    }
}

impl Config {
    fn effective_balancing(&self) -> [(&'static str, String); 12] {
        let backends = &self.backends;
        let SessionConfig { sid, client_ip, cookie } = &backends.session;
        let affinity: Vec<_> =
            [("sid", *sid), ("client_ip", *client_ip)].iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
        let (name, attributes, key) = match cookie {
            Some(cookie) => (cookie.name.as_str(), cookie.attributes.trim_start_matches("; "), "***"),
            None => ("off", "unused", "unused"),
        };
        let (fails, fail_timeout) = backends
            .ejection
            .map_or(("0".to_owned(), "unused".to_owned()), |limits| (limits.fails.to_string(), time(limits.timeout)));
        [
            ("--backend-refresh", time(backends.refresh)),
            ("--balance", backends.default_backend().policy.to_string()),
            ("--session-affinity", if affinity.is_empty() { "off".to_owned() } else { affinity.join(",") }),
            ("--affinity-cookie", name.to_owned()),
            ("--affinity-cookie-attributes", attributes.to_owned()),
            ("--affinity-key", key.to_owned()),
            ("--max-fails", fails),
            ("--fail-timeout", fail_timeout),
            (
                "--fail-status",
                if backends.fail_status.is_empty() { "off".to_owned() } else { list(&backends.fail_status) },
            ),
            ("--health-check", backends.check.as_ref().map_or("off".to_owned(), ToString::to_string)),
            ("--slow-start", time(backends.slow_start)),
            ("--retry-budget", backends.retry_budget.to_string()),
        ]
    }
}

fn time(duration: Duration) -> String {
    format_duration(duration).to_string()
}

fn or_off(value: Option<&impl Display>) -> String {
    value.map_or("off".to_owned(), ToString::to_string)
}

fn list(items: &[impl Display]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
