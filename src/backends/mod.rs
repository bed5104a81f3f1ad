//! The backends of requests without a room: which pods each has now, and how they are doing.
//!
//! Shared by all threads and replaced as a whole when DNS or the heartbeats say something new (`discovery.rs`): a request
//! reads the set without a lock, and one that is under way keeps its pod, listed or not. Choosing is the proxy's, by the
//! policies of `core::balance`; nothing here touches a request.

mod beats;
mod check;
mod cookie;
mod discovery;
mod load;
mod member;
mod names;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};

pub use check::check_forever;
pub use cookie::Signer;
pub use discovery::{known_to_dns, refresh_forever};
pub use load::{InFlight, Load};
pub use member::{Member, Trial};

use self::load::Loads;
use self::member::Found;
use crate::config::{BackendConfig, Config};
use crate::core::assignment::PodId;
use crate::core::ejection::{EjectionLimits, most_ejected};
use crate::metrics::Metrics;

/// How long a pod that has left is still counted. Longer than the worker threads remember it, or they would go on
/// counting into series that nobody sees.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// How long a pod is still counted that no backend lists and no request has gone to: a StatefulSet may have been made smaller.
const UNUSED: Duration = Duration::from_secs(3600);

/// How often the log says at most that sids name no pod: clients that are told so begin another session at once.
const UNNAMED: Duration = Duration::from_secs(600);

/// All backends, in the order of the configuration: the longest prefix first, the default one last.
#[derive(Debug)]
pub struct Backends {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    list: Vec<Backend>,
    loads: Loads,
    /// Where cookies are set.
    signer: Option<Signer>,
    /// Who has left, and when.
    departed: Mutex<Vec<(Arc<Member>, Instant)>>,
    /// How many sources are still waited for before the router is ready.
    awaited: AtomicUsize,
    /// When the log has said last that a sid names no pod.
    told_unnamed: Mutex<Option<Instant>>,
}

/// One backend.
#[derive(Debug)]
pub struct Backend {
    /// As it was configured.
    pub config: BackendConfig,
    set: ArcSwap<Set>,
    /// What each source has said last; `None` for one that has not answered.
    heard: Mutex<Vec<Option<Vec<Found>>>>,
    /// Held while the ejected are counted and one is added or taken off, so that two threads cannot take the last place.
    ejecting: Mutex<()>,
}

/// The pods of a backend at one time.
#[derive(Debug, Default)]
pub struct Set {
    /// The pods, in a stable order.
    pub members: Vec<Arc<Member>>,
    /// Grows with every change.
    pub version: u64,
    by_name: HashMap<Arc<str>, usize>,
    by_cookie: HashMap<Box<str>, usize>,
}

// === impl Backends ===

impl Backends {
    /// The backends with what is known without asking anybody: the addresses as they are written.
    pub fn new(config: Arc<Config>, metrics: Arc<Metrics>) -> Self {
        let cookie = config.backends.session.cookie.as_ref();
        let signer = cookie.map(|cookie| Signer::new(cookie, &config.routing));
        let list = config.backends.backends.iter();
        let list = list.map(|config| Backend {
            config: config.clone(),
            set: ArcSwap::default(),
            heard: Mutex::new(vec![None; config.sources.len()]),
            ejecting: Mutex::default(),
        });
        let list: Vec<_> = list.collect();
        let sources = list.iter().flat_map(|backend| &backend.config.sources);
        let awaited = AtomicUsize::new(sources.filter(|source| discovery::is_asked(source)).count());
        let loads = Loads::default();
        let (departed, told_unnamed) = (Mutex::default(), Mutex::default());
        let backends = Self { config, metrics, list, loads, signer, departed, awaited, told_unnamed };
        for backend in &backends.list {
            let written = discovery::listed(&backend.config, &backends.config.routing, &backend.heard());
            backends.publish(backend, written, false);
        }
        backends
    }

    /// Whether every source has been heard, or waited for long enough.
    pub fn are_known(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) == 0
    }

    fn no_longer_await_one(&self) {
        self.awaited.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes in what a source has said; `place` is its backend's and its own.
    fn learn(&self, place: (usize, usize), mut found: Vec<Found>) {
        // DNS gives them in another order each time.
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let backend = &self.list[place.0];
        let mut heard = backend.heard();
        heard[place.1] = Some(found);
        self.publish(backend, discovery::listed(&backend.config, &self.config.routing, &heard), true);
    }

    /// The backend for a path.
    pub fn for_path(&self, path: &str) -> (usize, &Backend) {
        let index = self.config.backends.for_path(path);
        (index, &self.list[index])
    }

    /// The backend with this index.
    pub fn backend(&self, index: usize) -> &Backend {
        &self.list[index]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Backend> {
        self.list.iter()
    }

    /// `--max-fails` and `--fail-timeout`, where they are on.
    pub fn ejection(&self) -> Option<EjectionLimits> {
        self.config.backends.ejection
    }

    /// `--slow-start`.
    pub fn slow_start(&self) -> Duration {
        self.config.backends.slow_start
    }

    /// The pod of the StatefulSet that a cookie's value names, if it has been signed for this backend.
    pub fn signed(&self, backend: &Backend, value: &str) -> Option<PodId> {
        self.signer.as_ref()?.pod(&backend.config.prefix, value)
    }

    /// What the pod with this name has to do, listed or not.
    pub fn load(&self, name: &Arc<str>) -> Load {
        self.loads.of(name)
    }

    /// A request failed at this member. A pod that keeps failing is ejected, but never more than half of its set.
    pub fn failed(&self, backend: &Backend, member: &Member) {
        let Some(limits) = self.ejection() else {
            return;
        };
        let _one_at_a_time = backend.ejecting();
        let set = backend.set();
        let ejected = set.members.iter().filter(|other| other.is_ejected()).count();
        if member.failed(limits, Instant::now(), ejected < most_ejected(set.members.len())) {
            member.metrics().ejections.inc();
            let (prefix, pod) = (&*backend.config.prefix, &*member.name);
            tracing::warn!(prefix, pod, timeout = ?limits.timeout, "ejected from the backends: it keeps failing");
        }
    }

    /// A session's `sid` names no pod of the backend, and its client cannot be answered: with generateId unset, no polling
    /// session gets further than its first request, and each answer by itself looks like a pod that has gone.
    pub fn note_unnamed_sid(&self, backend: &Backend) {
        let now = Instant::now();
        // One assignment: nothing is left half-done by a panic.
        let mut told = self.told_unnamed.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| now.saturating_duration_since(told) >= UNNAMED) {
            *told = Some(now);
            let prefix = &*backend.config.prefix;
            tracing::warn!(
                prefix,
                "a session's sid names no pod of its backend, and nothing else says whose it is: see generateId in the README"
            );
        }
    }

    /// Takes those back that are too many, the longest ejected first: the set has lost pods since.
    pub fn readmit_surplus(&self, backend: &Backend) {
        let _one_at_a_time = backend.ejecting();
        let set = backend.set();
        let ejected = set.members.iter().filter_map(|member| Some((member.ejected_until()?, member)));
        let mut ejected: Vec<_> = ejected.collect();
        ejected.sort_by_key(|(until, _)| *until);
        let surplus = ejected.len().saturating_sub(most_ejected(set.members.len()));
        ejected[..surplus].iter().for_each(|(_, member)| member.readmit());
    }

    /// Makes `found` the backend's pods, keeping those it has. `later`: they have joined, and were not there at the start.
    fn publish(&self, backend: &Backend, found: Vec<Found>, later: bool) {
        let old = backend.set();
        let members: Vec<_> = found.into_iter().map(|found| self.member(backend, &old.members, found, later)).collect();
        let is_in = |members: &[Arc<Member>], member: &Arc<Member>| members.iter().any(|m| Arc::ptr_eq(m, member));
        if later && members.len() == old.members.len() && members.iter().all(|member| is_in(&old.members, member)) {
            return;
        }
        let names = |members: &[Arc<Member>]| members.iter().map(|m| m.name.to_string()).collect::<Vec<_>>();
        if later && names(&members) != names(&old.members) {
            let pods = names(&members).join(",");
            tracing::info!(prefix = backend.config.prefix, pods, "backend changed");
        }
        let gone = old.members.iter().filter(|old| !is_in(&members, old));
        self.departed().extend(gone.map(|member| (Arc::clone(member), Instant::now())));
        backend.set.store(Arc::new(Set::new(members, old.version + 1)));
    }

    /// The member that was found: the one it is, or a new one, with what is known of the pod under another name.
    fn member(&self, backend: &Backend, old: &[Arc<Member>], found: Found, later: bool) -> Arc<Member> {
        if let Some(member) = old.iter().find(|member| member.is(&found)) {
            member.reweigh(found.weight);
            return Arc::clone(member);
        }
        let joined = later.then(Instant::now);
        let before = old.iter().find(|member| member.was(&found));
        // By its origin: a session must not end because the number of addresses behind a name has changed.
        let value = |origin: &Arc<str>| Some(self.signer.as_ref()?.value(&backend.config.prefix, origin).into());
        let cookies = [&found.origin, &found.at].map(value);
        let loads = [&found.name, &found.at].map(|name| self.loads.of(name));
        let counted = (self.metrics.pod(&found.name), loads);
        let member = Member::new(found, (&backend.config.prefix, cookies), counted, (self.slow_start(), joined));
        Arc::new(match before {
            Some(before) => member.with_past_of(before),
            None => member,
        })
    }

    /// Drops the series of pods that have been gone for a while: where pods go by their addresses, each restart makes a
    /// new one. A StatefulSet's pod comes back under its name: it keeps its own for as long as somebody may look for what
    /// became of it.
    fn forget_departed(&self, now: Instant) {
        let is_listed = |member: &Member| {
            self.list.iter().any(|backend| backend.set().members.iter().any(|listed| listed.name == member.name))
        };
        self.departed().retain(|(member, since)| {
            if member.is_pod || is_listed(member) {
                return false;
            }
            let idle = member.load() == 0 && member.metrics().connections.get() == 0;
            let over = now.saturating_duration_since(*since) > FORGOTTEN && idle;
            if over {
                self.metrics.forget(&member.name);
            }
            !over
        });
        let is_fixed = |name: &str| self.config.routing.fixed_pods.keys().any(|pod| pod.as_str() == name);
        self.metrics.forget_unused(now, UNUSED, is_fixed);
    }

    fn departed(&self) -> MutexGuard<'_, Vec<(Arc<Member>, Instant)>> {
        // Pushes and removals only: nothing is left half-done by a panic.
        self.departed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Backend ===

impl Backend {
    /// Its pods now.
    pub fn set(&self) -> Guard<Arc<Set>> {
        self.set.load()
    }

    fn ejecting(&self) -> MutexGuard<'_, ()> {
        // It guards nothing that a panic could leave half-done.
        self.ejecting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, Vec<Option<Vec<Found>>>> {
        // Assignments only: nothing is left half-done by a panic.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is the one for every path that no route is for.
    pub fn is_default(&self) -> bool {
        self.config.prefix.is_empty()
    }
}

// === impl Set ===

impl Set {
    fn new(members: Vec<Arc<Member>>, version: u64) -> Self {
        let mut by_name: HashMap<_, _> =
            members.iter().enumerate().map(|(slot, member)| (Arc::clone(&member.name), slot)).collect();
        let listed = members.iter().enumerate().map(|(slot, member)| (&*member.listed, slot));
        for (alias, slot) in aliases(&members).chain(listed) {
            // The name of a pod is that pod's.
            by_name.entry(alias.into()).or_insert(slot);
        }
        let cookies = members.iter().enumerate().flat_map(|(slot, member)| {
            let values = [&member.unnamed_cookie, &member.cookie];
            values.into_iter().flatten().map(move |value| (value.clone(), slot))
        });
        Self { by_cookie: cookies.collect(), by_name, members, version }
    }

    /// The pod with this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Member>> {
        self.by_name.get(name).map(|slot| &self.members[*slot])
    }

    /// The pod that a cookie's value stands for.
    pub fn with_cookie(&self, value: &str) -> Option<&Arc<Member>> {
        self.by_cookie.get(value).map(|slot| &self.members[*slot])
    }

    /// Whether any of its pods goes by its StatefulSet name: then others of the StatefulSet belong here as well.
    pub fn has_pods(&self) -> bool {
        self.members.iter().any(|member| member.is_pod)
    }
}

/// What members may be called in a sid besides their names: `api-1` for `api-1.api:3000`, if only one is.
fn aliases(members: &[Arc<Member>]) -> impl Iterator<Item = (&str, usize)> {
    let mut aliases: HashMap<&str, Option<usize>> = HashMap::new();
    for (slot, member) in members.iter().enumerate() {
        let label = member.address.host.split('.').next();
        if let Some(alias) = label.filter(|_| !member.is_pod && member.address.ip().is_none()) {
            match aliases.entry(alias) {
                Entry::Vacant(free) => drop(free.insert(Some(slot))),
                Entry::Occupied(mut taken) => drop(taken.insert(None)),
            }
        }
    }
    aliases.into_iter().filter_map(|(alias, slot)| Some((alias, slot?)))
}

#[cfg(test)]
mod tests;
