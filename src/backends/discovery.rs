//! Which pods a backend has: from its list, from DNS, from the pods' heartbeats.
//!
//! Asked again all the time on the control thread. An answer that does not come changes nothing: the pods that were
//! there are the best guess there is, and the connections to them tell.

use std::sync::Arc;
use std::time::Duration;

use super::Backends;
use super::member::Found;
use crate::config::{BackendConfig, RoutingConfig, Source};
use crate::core::address::HostPort;
use crate::core::placement::is_healthy;
use crate::directory::Directory;
use crate::directory::memory::now_ms;
use crate::directory::resolver::Resolver;
use crate::dns::Dns;

/// How often the sources are asked. Addresses come out of a cache that keeps them as long.
const REFRESH: Duration = Duration::from_secs(5);

/// The first question again, after a start at which a source did not answer.
const RETRY: Duration = Duration::from_millis(500);

/// What a backend consists of as long as nobody has been asked: its addresses as they are written.
pub(super) fn as_written(backend: &BackendConfig, routing: &RoutingConfig) -> Vec<Found> {
    let sources = backend.sources.iter();
    let hosts = sources.filter_map(|source| match source {
        Source::Host(address, weight) => Some(found(address.clone(), *weight, routing)),
        Source::Srv(_) | Source::Heartbeats => None,
    });
    hosts.collect()
}

/// Keeps the sets up to date for as long as the process lives.
pub async fn refresh_forever<D: Directory>(backends: Arc<Backends>, dns: Dns, resolver: Resolver<D>) {
    loop {
        let mut all_answered = true;
        for backend in backends.iter().filter(|backend| backend.config.sources.iter().any(is_asked)) {
            match gather(&backend.config, &backends.config.routing, &dns, &resolver).await {
                Some(found) => backends.publish(backend, found, true),
                None => all_answered = false,
            }
        }
        backends.forget_departed();
        tokio::time::sleep(if all_answered { REFRESH } else { RETRY }).await;
    }
}

/// Whether a source can change.
fn is_asked(source: &Source) -> bool {
    match source {
        Source::Host(address, _) => address.ip().is_none(),
        Source::Srv(_) | Source::Heartbeats => true,
    }
}

/// All pods of a backend; `None` where a source gave no answer.
async fn gather<D: Directory>(
    backend: &BackendConfig,
    routing: &RoutingConfig,
    dns: &Dns,
    resolver: &Resolver<D>,
) -> Option<Vec<Found>> {
    let mut all: Vec<Found> = Vec::new();
    for source in &backend.sources {
        let found = match source {
            Source::Host(address, weight) => addresses(address, *weight, routing, dns).await?,
            Source::Srv(name) => {
                let targets = dns.services(name).await.ok()?;
                targets.into_iter().map(|(address, weight)| found(address, weight, routing)).collect()
            }
            Source::Heartbeats => {
                let (beats, now) = (resolver.heartbeats().await.ok()?, now_ms());
                let alive = beats.into_iter().filter(|(_, beat)| is_healthy(beat, now));
                alive.map(|(pod, _)| found(routing.address_of(&pod), 1, routing)).collect()
            }
        };
        for pod in found {
            if all.iter().all(|known| known.name != pod.name) {
                all.push(pod);
            }
        }
    }
    // DNS gives addresses in another order each time.
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Some(all)
}

/// The pods behind a host: itself, or each of its addresses where it has several. A name with one address stays a name:
/// it is a service's or a pod's, and is dialled wherever it leads by then.
async fn addresses(address: &HostPort, weight: u32, routing: &RoutingConfig, dns: &Dns) -> Option<Vec<Found>> {
    if address.ip().is_some() {
        return Some(vec![found(address.clone(), weight, routing)]);
    }
    let mut ips: Vec<_> = dns.resolve(address).await.ok()?.iter().map(std::net::SocketAddr::ip).collect();
    ips.sort_unstable();
    ips.dedup();
    // A host with an address of each family is one pod.
    let families = (ips.iter().filter(|ip| ip.is_ipv4()).count(), ips.iter().filter(|ip| ip.is_ipv6()).count());
    if families.0 <= 1 && families.1 <= 1 {
        return Some(vec![found(address.clone(), weight, routing)]);
    }
    if families.0 > 0 {
        ips.retain(|ip| ip.is_ipv4());
    }
    let each = ips.into_iter().map(|ip| HostPort { host: ip.to_string().into(), port: address.port });
    Some(each.map(|address| found(address, weight, routing)).collect())
}

/// A pod by the name under which rooms know it, where this is its address.
fn found(address: HostPort, weight: u32, routing: &RoutingConfig) -> Found {
    let label = address.host.split('.').next().unwrap_or_default();
    let fixed = routing.fixed_pods.iter().find(|(_, fixed)| **fixed == address).map(|(pod, _)| pod.clone());
    let pod = fixed.or_else(|| routing.statefulset.pod(label).filter(|pod| routing.address_of(pod) == address));
    let name = pod.as_ref().map_or_else(|| address.to_string(), ToString::to_string).into();
    Found { name, address, is_pod: pod.is_some(), weight }
}
