//! Which pods a backend has: from its list, from DNS, from the pods' heartbeats.
//!
//! Each source is asked again all the time, by a task of its own on the control thread: one that fails or hangs holds up
//! no other. What it said last counts until it says something else; that nobody answers says nothing, nor that all heartbeats
//! are gone at once (`beats.rs`). Which of its addresses are the StatefulSet's pods is found out by `names.rs`. The router is
//! ready once each source has answered, or has failed to for [`FIRST_ANSWER`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Backends;
use super::beats::Beats;
use super::member::Found;
use super::names::Names;
use crate::config::{BackendConfig, Config, RoutingConfig, Source};
use crate::core::address::HostPort;
use crate::core::assignment::PodId;
use crate::directory::Directory;
use crate::directory::memory::now_ms;
use crate::directory::resolver::Resolver;
use crate::dns::{Dns, DnsError};

/// How soon a source that has never answered is asked again: until it does, its backend may lack all its pods. No
/// setting: it is over with the first answer.
const RETRY: Duration = Duration::from_millis(500);

/// How long a set with an address that is nobody's yet waits for the pods' own names: DNS has just answered. No setting: it
/// spares the set a moment in which a pod that joins goes by its address, and costs one where the names hang.
const NAMING: Duration = Duration::from_millis(250);

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
        // An address and the pod at it are one.
        let is_same = |known: &&mut Found| known.name == pod.name || known.at == pod.at && (known.is_pod || pod.is_pod);
        match all.iter_mut().find(is_same) {
            None => all.push(pod),
            Some(known) if pod.is_pod && !known.is_pod => *known = Found { weight: known.weight, ..pod },
            Some(_) => {}
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
    let (mut beats, mut names) = (Beats::default(), Names::default());
    loop {
        let answer = ask(source, &backends.config, dns, resolver, &mut beats, &mut names).await;
        let is_answer = answer.is_ok();
        match answer {
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
        let next = Instant::now() + if answered { backends.config.backends.refresh } else { RETRY };
        if let Source::Host(name, weight) = source
            && is_answer
            && names.are_due()
        {
            let config = &backends.config;
            names.look_up_within(config.backends.refresh, name, config, dns).await;
            names.rest(config.backends.refresh);
            backends.learn(place, behind(name, &names, *weight, &config.routing));
        }
        sleep(next.saturating_duration_since(Instant::now())).await;
    }
}

/// The pods that a source names now.
async fn ask<D: Directory>(
    source: &Source,
    config: &Config,
    dns: &Dns,
    resolver: &Resolver<D>,
    beats: &mut Beats,
    names: &mut Names,
) -> Result<Vec<Found>, String> {
    let routing = &config.routing;
    Ok(match source {
        Source::Host(address, weight) => behind_host(address, *weight, config, dns, names, NAMING).await?,
        Source::Srv(name) => behind_service(name, routing, dns).await?,
        Source::Heartbeats => {
            let heard = resolver.heartbeats().await.map_err(|error| error.to_string())?;
            let alive = beats.learn(heard, now_ms());
            alive.iter().map(|pod| found(routing.address_of(pod), 1, routing)).collect()
        }
    })
}

/// The pods behind a name, by their own names as far as those are known within `patience`.
async fn behind_host(
    name: &HostPort,
    weight: u32,
    config: &Config,
    dns: &Dns,
    names: &mut Names,
    patience: Duration,
) -> Result<Vec<Found>, String> {
    let addresses = match dns.resolve_anew(name).await {
        Ok(addresses) => addresses,
        Err(DnsError::NoAddress) => Arc::default(),
        Err(error @ DnsError::Unanswered) => return Err(error.to_string()),
    };
    names.list(&addresses, Instant::now());
    if names.are_due() && !names.has_all() {
        // Whoever has not been named by then goes by the address for a while.
        names.look_up_within(patience, name, config, dns).await;
    }
    Ok(behind(name, names, weight, &config.routing))
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
pub async fn known_to_dns(source: &Source, config: &Config, dns: &Dns) -> Option<Result<Vec<Arc<str>>, String>> {
    let found = match source {
        Source::Host(address, weight) if address.ip().is_none() => {
            behind_host(address, *weight, config, dns, &mut Names::default(), FIRST_ANSWER).await
        }
        Source::Srv(name) => behind_service(name, &config.routing, dns).await,
        Source::Host(..) | Source::Heartbeats => return None,
    };
    Some(found.map(|found| {
        let mut names: Vec<_> = found.into_iter().map(|found| found.name).collect();
        names.sort();
        names
    }))
}

/// The pods behind a name: each of its addresses where it has several. A name with one stays a name: it is a service's or a
/// pod's, and is dialled wherever it leads by then. Where an address is known to be a pod's of the StatefulSet, it is that
/// pod, which is dialled by its own name.
fn behind(name: &HostPort, names: &Names, weight: u32, routing: &RoutingConfig) -> Vec<Found> {
    let address = |ip: &IpAddr| HostPort { host: ip.to_string().into(), port: name.port };
    let mut each: Vec<_> = names.listed().iter().map(|ip| found(address(ip), weight, routing)).collect();
    if let [only] = each.as_mut_slice() {
        let by_name = found(name.clone(), weight, routing);
        // A pod's own name says more than its address of today.
        let origin = if by_name.is_pod { &by_name.origin } else { &only.origin };
        *only = Found { origin: Arc::clone(origin), at: Arc::clone(origin), ..by_name };
    }
    let pods = names.listed().iter().map(|ip| names.pod(*ip));
    each.into_iter().zip(pods).map(|(found, pod)| found.known_as(pod, routing)).collect()
}

/// The pod whose address this is, by how it is written.
pub(super) fn pod_at(address: &HostPort, routing: &RoutingConfig) -> Option<PodId> {
    let label = address.host.split('.').next().unwrap_or_default();
    let fixed = routing.fixed_pods.iter().find(|(_, fixed)| *fixed == address).map(|(pod, _)| pod.clone());
    fixed.or_else(|| routing.statefulset.pod(label).filter(|pod| routing.address_of(pod) == *address))
}

/// A pod by the name under which rooms know it, where this is its address.
fn found(address: HostPort, weight: u32, routing: &RoutingConfig) -> Found {
    let pod = pod_at(&address, routing);
    let name = pod.as_ref().map_or_else(|| address.to_string(), ToString::to_string);
    Found::new(name.into(), address, pod.is_some(), weight)
}

impl Found {
    /// The same by its own name, where that is known and it is not listed by that anyway.
    fn known_as(self, pod: Option<&PodId>, routing: &RoutingConfig) -> Self {
        let Some(pod) = pod.filter(|_| !self.is_pod) else {
            return self;
        };
        let name: Arc<str> = pod.as_str().into();
        Self { origin: Arc::clone(&name), name, address: routing.address_of(pod), is_pod: true, ..self }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
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

    /// The pods behind a name while it has these addresses, and pods' names lead to some of them.
    fn behind_name(name: &str, addresses: &[&str], led: &[(u16, &str)]) -> Vec<Found> {
        let addresses = addresses.iter().map(|ip| SocketAddr::new(ip.parse().expect("an address"), 1));
        let (config, mut names) = (config("headless:1"), Names::default());
        names.list(&addresses.collect::<Vec<_>>(), Instant::now());
        for (pod, ip) in led {
            names.note_that(config.routing.statefulset.nth(*pod), ip);
        }
        behind(&name.parse().expect("a name"), &names, 2, &config.routing)
    }

    fn at(addresses: &[&str]) -> Vec<Found> {
        behind_name("headless:1", addresses, &[])
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
        let pod = behind_name("backend-0.backend.default.svc.cluster.local:3000", &["10.0.0.9"], &[(0, "10.0.0.9")]);
        assert_eq!((names(&pod), &*pod[0].origin), (vec!["backend-0"], "backend-0"), "a pod comes back under its name");
        assert_eq!(pod[0].at, pod[0].origin, "and has never been listed by anything else");
    }

    #[test]
    fn an_address_that_a_pods_name_leads_to_is_that_pod() {
        let two = behind_name("headless:1", &["10.0.0.1", "10.0.0.2"], &[(3, "10.0.0.1")]);
        assert_eq!(names(&two), ["backend-3", "10.0.0.2:1"]);
        let Found { name, address, origin, at, listed, is_pod, weight } = &two[0];
        assert_eq!((&**name, &**origin, *is_pod, *weight), ("backend-3", "backend-3", true, 2));
        assert_eq!(address.to_string(), "backend-3.backend.default.svc.cluster.local:3000", "dialled by its name");
        assert_eq!((&**at, &**listed), ("10.0.0.1:1", "10.0.0.1:1"));
        let one = behind_name("headless:1", &["10.0.0.1"], &[(3, "10.0.0.1")]);
        assert_eq!((names(&one), &*one[0].at, &*one[0].listed), (vec!["backend-3"], "10.0.0.1:1", "headless:1"));
        let fixed = behind_name("headless:1", &["10.0.0.7", "10.0.0.2"], &[(7, "10.0.0.7")]);
        assert_eq!((names(&fixed), &*fixed[1].address.host), (vec!["10.0.0.2:1", "backend-7"], "10.0.0.7"));
    }

    #[test]
    fn an_address_and_the_pod_that_is_there_are_one() {
        let config = config("headless:1,10.0.0.1:1;weight=5");
        let backend = config.backends.default_backend();
        let named = Some(behind_name("headless:1", &["10.0.0.1", "10.0.0.2"], &[(0, "10.0.0.1")]));
        let written = Some(vec![found("10.0.0.1:1".parse().expect("an address"), 5, &config.routing)]);
        for (heard, weight) in [([named.clone(), written.clone()], 2), ([written, named], 5)] {
            let found = listed(backend, &config.routing, &heard);
            let pod = found.iter().find(|found| found.is_pod).expect("it is there");
            assert_eq!((&*pod.name, pod.weight, found.len()), ("backend-0", weight, 2));
        }
    }
}
