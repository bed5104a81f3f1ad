//! Which pods a backend has: from its list, from DNS, from the pods' heartbeats.
//!
//! Each source is asked again all the time, by a task of its own on the control thread: one that fails or hangs holds up
//! no other. What it said last counts until it says something else; that nobody answers says nothing, nor that all heartbeats
//! are gone at once (`beats.rs`). The router is ready once each has answered, or has failed to for [`FIRST_ANSWER`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Backends;
use super::beats::Beats;
use super::member::Found;
use crate::config::{BackendConfig, RoutingConfig, Source};
use crate::core::address::HostPort;
use crate::directory::Directory;
use crate::directory::memory::now_ms;
use crate::directory::resolver::Resolver;
use crate::dns::{Dns, DnsError};

/// How soon a source that has never answered is asked again: until it does, its backend may lack all its pods. No
/// setting: it is over with the first answer.
const RETRY: Duration = Duration::from_millis(500);

/// How long the router waits for a source's first answer before it is ready without. As long as one question to DNS may
/// take: a source that is away must not keep the router from its rooms.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// The pods of a backend by what each of its sources has said last; `None` for one that has not answered. As long as
/// nobody has, and where nobody is left, the names themselves are dialled, and waited for, wherever they lead by then.
pub(super) fn listed(backend: &BackendConfig, routing: &RoutingConfig, heard: &[Option<Vec<Found>>]) -> Vec<Found> {
    let written = || backend.sources.iter().map(|source| as_written(source, routing));
    let known = union(heard.iter().cloned().zip(written()).map(|(heard, written)| heard.unwrap_or(written)));
    if known.is_empty() { union(written()) } else { known }
}

fn union(answers: impl Iterator<Item = Vec<Found>>) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    for pod in answers.flatten() {
        if all.iter().all(|known| known.name != pod.name) {
            all.push(pod);
        }
    }
    all
}

fn as_written(source: &Source, routing: &RoutingConfig) -> Vec<Found> {
    match source {
        Source::Host(address, weight) => vec![found(address.clone(), *weight, routing)],
        Source::Srv(_) | Source::Heartbeats => Vec::new(),
    }
}

/// Whether a source can change.
pub(super) fn is_asked(source: &Source) -> bool {
    match source {
        Source::Host(address, _) => address.ip().is_none(),
        Source::Srv(_) | Source::Heartbeats => true,
    }
}

/// Keeps the sets up to date for as long as the process lives.
pub async fn refresh_forever<D: Directory>(backends: Arc<Backends>, dns: Dns, resolver: Resolver<D>) {
    let mut following = JoinSet::new();
    for (index, backend) in backends.iter().enumerate() {
        for (place, source) in backend.config.sources.iter().enumerate().filter(|(_, source)| is_asked(source)) {
            let (backends, dns, resolver) = (Arc::clone(&backends), dns.clone(), resolver.clone());
            let source = source.clone();
            following.spawn_local(async move { follow((index, place), &source, &backends, &dns, &resolver).await });
        }
    }
    loop {
        sleep(backends.config.backends.refresh).await;
        backends.forget_departed(Instant::now());
    }
}

/// Asks one source again and again. `place` is its backend's and its own.
async fn follow<D: Directory>(
    place: (usize, usize),
    source: &Source,
    backends: &Backends,
    dns: &Dns,
    resolver: &Resolver<D>,
) {
    if *source == Source::Heartbeats {
        // Before that there is nobody to ask, and the router is not ready anyway.
        resolver.directory().first_contact().await;
    }
    let patience = Instant::now() + FIRST_ANSWER;
    let (mut awaited, mut answered, mut failing) = (true, false, false);
    let mut beats = Beats::default();
    loop {
        match ask(source, &backends.config.routing, dns, resolver, &mut beats).await {
            Ok(found) => {
                backends.learn(place, found);
                if failing {
                    tracing::info!(%source, "a backend's source answers again");
                }
                (answered, failing) = (true, false);
            }
            Err(why) if !failing => {
                tracing::warn!(%source, why, "a backend's source does not answer: its pods stay as they are");
                failing = true;
            }
            Err(_) => {}
        }
        if awaited && (answered || Instant::now() >= patience) {
            awaited = false;
            backends.no_longer_await_one();
        }
        sleep(if answered { backends.config.backends.refresh } else { RETRY }).await;
    }
}

/// The pods that a source names now, in a stable order.
async fn ask<D: Directory>(
    source: &Source,
    routing: &RoutingConfig,
    dns: &Dns,
    resolver: &Resolver<D>,
    beats: &mut Beats,
) -> Result<Vec<Found>, String> {
    let mut pods: Vec<Found> = match source {
        Source::Host(address, weight) => behind_host(address, *weight, routing, dns).await?,
        Source::Srv(name) => behind_service(name, routing, dns).await?,
        Source::Heartbeats => {
            let heard = resolver.heartbeats().await.map_err(|error| error.to_string())?;
            let alive = beats.learn(heard, now_ms());
            alive.iter().map(|pod| found(routing.address_of(pod), 1, routing)).collect()
        }
    };
    // DNS gives them in another order each time.
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pods)
}

async fn behind_host(
    address: &HostPort,
    weight: u32,
    routing: &RoutingConfig,
    dns: &Dns,
) -> Result<Vec<Found>, String> {
    match dns.resolve_anew(address).await {
        Ok(addresses) => Ok(behind(address, &addresses, weight, routing)),
        Err(DnsError::NoAddress) => Ok(Vec::new()),
        Err(error @ DnsError::Unanswered) => Err(error.to_string()),
    }
}

async fn behind_service(name: &str, routing: &RoutingConfig, dns: &Dns) -> Result<Vec<Found>, String> {
    let targets = dns.services(name).await.map_err(|error| error.to_string())?;
    Ok(targets.into_iter().map(|(address, weight)| found(address, weight, routing)).collect())
}

/// What the pods are called that DNS lists for a source, for people; `None` where it is not DNS that is asked.
///
/// # Errors
///
/// Nobody answered.
pub async fn known_to_dns(
    source: &Source,
    routing: &RoutingConfig,
    dns: &Dns,
) -> Option<Result<Vec<Arc<str>>, String>> {
    let found = match source {
        Source::Host(address, weight) if address.ip().is_none() => behind_host(address, *weight, routing, dns).await,
        Source::Srv(name) => behind_service(name, routing, dns).await,
        Source::Host(..) | Source::Heartbeats => return None,
    };
    Some(found.map(|found| {
        let mut names: Vec<_> = found.into_iter().map(|found| found.name).collect();
        names.sort();
        names
    }))
}

/// The pods behind a name: each of its addresses where it has several. A name with one stays a name: it is a service's or a
/// pod's, and is dialled wherever it leads by then. A host with an address of each family is one pod.
fn behind(name: &HostPort, addresses: &[SocketAddr], weight: u32, routing: &RoutingConfig) -> Vec<Found> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().map(SocketAddr::ip).partition(IpAddr::is_ipv4);
    let mut ips = if v4.is_empty() { v6 } else { v4 };
    ips.sort_unstable();
    ips.dedup();
    let each = ips.iter().map(|ip| HostPort { host: ip.to_string().into(), port: name.port });
    let mut each: Vec<_> = each.map(|address| found(address, weight, routing)).collect();
    if let [only] = each.as_mut_slice() {
        let by_name = found(name.clone(), weight, routing);
        // A pod's own name says more than its address of today.
        let origin = if by_name.is_pod { &by_name.origin } else { &only.origin };
        *only = Found { origin: Arc::clone(origin), ..by_name };
    }
    each
}

/// A pod by the name under which rooms know it, where this is its address.
fn found(address: HostPort, weight: u32, routing: &RoutingConfig) -> Found {
    let label = address.host.split('.').next().unwrap_or_default();
    let fixed = routing.fixed_pods.iter().find(|(_, fixed)| **fixed == address).map(|(pod, _)| pod.clone());
    let pod = fixed.or_else(|| routing.statefulset.pod(label).filter(|pod| routing.address_of(pod) == address));
    let name: Arc<str> = pod.as_ref().map_or_else(|| address.to_string(), ToString::to_string).into();
    Found { origin: Arc::clone(&name), name, address, is_pod: pod.is_some(), weight }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::{Command, parse};

    fn config(sources: &str) -> Config {
        let pod = "backend-7=10.0.0.7:1";
        let words = ["pod-router", "--pod", pod, "--default-backend", sources];
        let Ok(Command::Serve(config)) = parse(words.map(Into::into), [], false) else { panic!("{sources}") };
        *config
    }

    fn names(found: &[Found]) -> Vec<&str> {
        found.iter().map(|found| &*found.name).collect()
    }

    /// The pods behind `headless:1` while it has these addresses.
    fn at(addresses: &[&str]) -> Vec<Found> {
        let ips = addresses.iter().map(|ip| SocketAddr::new(ip.parse().expect("an address"), 1));
        behind(&"headless:1".parse().expect("a name"), &ips.collect::<Vec<_>>(), 1, &config("headless:1").routing)
    }

    #[test]
    fn one_source_says_nothing_about_another() {
        let config = config("headless:1,missing:1,_http._tcp.x,heartbeats");
        let backend = config.backends.default_backend();
        let listed = |heard: &[Option<Vec<Found>>]| {
            let found = listed(backend, &config.routing, heard);
            names(&found).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(listed(&[None, None, None, None]), ["headless:1", "missing:1"]);
        let two = at(&["10.0.0.2", "10.0.0.1"]);
        assert_eq!(listed(&[Some(two.clone()), None, None, None]), ["10.0.0.1:1", "10.0.0.2:1", "missing:1"]);
        let none = Some(vec![]);
        let all = [Some(two.clone()), none.clone(), Some(at(&["10.0.0.7", "10.0.0.2"])), none.clone()];
        assert_eq!(listed(&all), ["10.0.0.1:1", "10.0.0.2:1", "backend-7"], "each once");
        // Nobody is there: the names are waited for.
        assert_eq!(listed(&[none.clone(), none.clone(), none.clone(), none]), ["headless:1", "missing:1"]);
    }

    #[test]
    fn a_name_with_one_address_is_dialled_by_name_and_known_by_the_address() {
        let one = at(&["10.0.0.1"]);
        assert_eq!((names(&one), &*one[0].origin), (vec!["headless:1"], "10.0.0.1:1"));
        assert_eq!(one[0].address.to_string(), "headless:1");
        let two = at(&["10.0.0.2", "10.0.0.1", "10.0.0.1"]);
        assert_eq!(names(&two), ["10.0.0.1:1", "10.0.0.2:1"]);
        assert!(two.iter().all(|found| found.origin == found.name));
        assert_eq!(names(&at(&["10.0.0.1", "::1"])), ["headless:1"], "one pod, two families");
        assert_eq!(names(&at(&["::1", "::2"])), ["[::1]:1", "[::2]:1"]);
        assert_eq!(&*at(&["10.0.0.7"])[0].origin, "backend-7", "an address that is a pod's");
        let pod = behind(
            &"backend-0.backend.default.svc.cluster.local:3000".parse().expect("a name"),
            &["10.0.0.9:1".parse().expect("an address")],
            1,
            &config("headless:1").routing,
        );
        assert_eq!((names(&pod), &*pod[0].origin), (vec!["backend-0"], "backend-0"), "a pod comes back under its name");
    }
}
