//! Which pod a request without a room goes to: its session's, or the one the policy chooses.
//!
//! One [`Balancer`] per worker thread: turns and budgets are its own, what is known of the pods is shared by all
//! (`backends`). What is chosen is a [`Choice`], which also knows where else the request could go.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::reject::Reject;
use crate::backends::{Availability, Backend, Backends, Member, Set};
use crate::config::Config;
use crate::core::address::HostPort;
use crate::core::balance::{self, Candidate, Policy, RetryBudget, Turns};
use crate::core::headers::cookies;
use crate::core::session::{AffinitySource, Session, pod_in_sid, session};

/// The choosing of one worker thread.
#[derive(Debug)]
pub(super) struct Balancer {
    config: Arc<Config>,
    backends: Arc<Backends>,
    /// Whose turn it is, by backend, and for which version of its set.
    turns: RefCell<Vec<(u64, Turns)>>,
    budget: RefCell<RetryBudget>,
    turn: Cell<usize>,
    scratch: RefCell<Vec<(Availability, Candidate)>>,
}

/// A pod that was chosen for a request without a room.
#[derive(Debug)]
pub(super) struct Choice {
    /// The pod's name, or its address.
    pub(super) name: Arc<str>,
    /// Where it is.
    pub(super) address: HostPort,
    /// What decided.
    pub(super) source: AffinitySource,
    /// Whether the request belongs to a session, which no other pod knows.
    pub(super) in_session: bool,
    backend: usize,
    /// Its place in the set; none for a pod that a `sid` names and the set cannot list.
    member: Option<Arc<Member>>,
    client: IpAddr,
    /// Whether the client came with a valid cookie for this pod.
    has_cookie: bool,
    /// Who has been tried in vain.
    tried: Vec<Arc<Member>>,
}

/// What a session's request is bound to.
enum Bound {
    /// A pod of the set.
    Member(Arc<Member>, AffinitySource),
    /// A pod of the StatefulSet, in front of which the backend is a single name.
    Unlisted(Arc<str>, HostPort),
    /// Whatever the client's address leads to.
    ClientIp,
    /// A pod that is not there any more, or nobody knows which.
    Gone,
    /// Nothing.
    Free,
}

/// What is asked of a set.
struct Wanted<'a> {
    backend: usize,
    policy: Policy,
    client: IpAddr,
    in_session: bool,
    /// Who has been tried in vain.
    tried: &'a [Arc<Member>],
}

impl Balancer {
    /// A thread's balancer.
    pub(super) fn new(config: Arc<Config>, backends: Arc<Backends>) -> Rc<Self> {
        let budget = RefCell::new(RetryBudget::new(config.backends.retry_budget));
        let turns = RefCell::new(vec![(0, Turns::default()); config.backends.backends.len()]);
        // Replicas and threads that start together must not all begin with the same pod.
        let turn = Cell::new(fastrand::usize(..));
        Rc::new(Self { config, backends, turns, budget, turn, scratch: RefCell::default() })
    }

    /// The pod for a request.
    ///
    /// # Errors
    ///
    /// A session whose pod is gone, a doubled `sid`, or a backend without a pod.
    pub(super) fn choose(&self, head: &Parts, upgrading: bool, client: IpAddr) -> Result<Box<Choice>, Reject> {
        let (index, backend) = self.backends.for_path(head.uri.path());
        let set = backend.set();
        let session = session(head, upgrading).map_err(Reject::Affinity)?;
        let in_session = matches!(session, Session::Sid(_));
        self.budget.borrow_mut().deposit();
        let with = |(name, address): (&Arc<str>, &HostPort), member, source| {
            let (name, address) = (Arc::clone(name), address.clone());
            let has_cookie = source == AffinitySource::Cookie;
            Box::new(Choice {
                name,
                address,
                source,
                in_session,
                backend: index,
                member,
                client,
                has_cookie,
                tried: vec![],
            })
        };
        match self.bound(head, &session, backend, &set) {
            Bound::Member(member, source) => {
                Ok(with((&member.name, &member.address), Some(Arc::clone(&member)), source))
            }
            Bound::Unlisted(name, address) => Ok(with((&name, &address), None, AffinitySource::Sid)),
            Bound::Gone => Err(Reject::SessionUnknown),
            bound @ (Bound::ClientIp | Bound::Free) => {
                let by_client = matches!(bound, Bound::ClientIp);
                let policy = if by_client { Policy::ClientIp } else { backend.config.policy };
                let by_policy =
                    if policy == Policy::ClientIp { AffinitySource::ClientIp } else { AffinitySource::None };
                let wanted = Wanted { backend: index, policy, client, in_session, tried: &[] };
                let member = self.pick(&wanted, &set).ok_or(Reject::NoBackend)?;
                Ok(with((&member.name, &member.address), Some(Arc::clone(&member)), by_policy))
            }
        }
    }

    /// What binds the request: the pod in its `sid`, its cookie, the client's address, in this order.
    fn bound(&self, head: &Parts, session: &Session<'_>, backend: &Backend, set: &Set) -> Bound {
        let affinity = &self.config.backends.session;
        if let Session::Sid(sid) = session
            && affinity.sid
            && let Some(pod) = pod_in_sid(sid)
            && let Some(bound) = self.bound_by_sid(pod, backend, set)
        {
            return bound;
        }
        let cookie = affinity.cookie.as_ref();
        let tagged = cookie.and_then(|cookie| cookies(head, &cookie.name).find_map(|tag| set.tagged(tag)));
        let usable = |member: &&Arc<Member>| match member.availability(Instant::now()) {
            Availability::Open | Availability::SessionsOnly | Availability::OnTrial => true,
            // Its session may live on; a request without one is better off elsewhere.
            Availability::LastResort => matches!(session, Session::Sid(_)),
            Availability::Closed => false,
        };
        if let Some(member) = tagged.filter(usable) {
            return Bound::Member(Arc::clone(member), AffinitySource::Cookie);
        }
        match session {
            Session::None => Bound::Free,
            _ if affinity.client_ip => Bound::ClientIp,
            Session::Handshake => Bound::Free,
            // Never balanced anew; but where there is only one pod, it is the one.
            Session::Sid(_) => match &*set.members {
                [only] => Bound::Member(Arc::clone(only), AffinitySource::None),
                // That nobody is known says nothing about the session's pod.
                [] => Bound::Free,
                _ if !affinity.sid && cookie.is_none() => Bound::Free,
                _ => Bound::Gone,
            },
        }
    }

    /// The pod that a `sid` names: one of the set, or one of the StatefulSet where the set cannot know. `None` for a name
    /// that is no pod's: another program's idea of a `sid`.
    fn bound_by_sid(&self, pod: &str, backend: &Backend, set: &Set) -> Option<Bound> {
        let routing = &self.config.routing;
        if let Some(member) = set.named(pod) {
            let closed = member.availability(Instant::now()) == Availability::Closed;
            let member = || Bound::Member(Arc::clone(member), AffinitySource::Sid);
            return Some(if closed { Bound::Gone } else { member() });
        }
        let pod = routing.statefulset.pod(pod)?;
        if set.is_complete() {
            return Some(Bound::Gone);
        }
        // A route's pods are not the StatefulSet's, as far as is known.
        let address = || routing.address_of(&pod);
        backend.is_default().then(|| Bound::Unlisted(pod.as_str().into(), address()))
    }

    /// A pod that may be chosen, by the policy. `None` where there is none at all.
    ///
    /// Whoever finds a pod on trial takes the trial: there is one at a time, and it decides for all. Not a session's
    /// request, which would be lost there; and by the client's address only those that belong there, or what follows them
    /// would not find them again.
    fn pick(&self, wanted: &Wanted<'_>, set: &Set) -> Option<Arc<Member>> {
        let now = Instant::now();
        let mut refused: Option<usize> = None;
        loop {
            let mut scratch = self.scratch.borrow_mut();
            scratch.clear();
            let untried =
                set.members.iter().enumerate().filter(|(_, m)| !wanted.tried.iter().any(|t| Arc::ptr_eq(t, m)));
            for (slot, member) in untried {
                let availability = match member.availability(now) {
                    Availability::OnTrial if wanted.in_session || refused == Some(slot) => Availability::LastResort,
                    Availability::OnTrial if wanted.policy != Policy::ClientIp => {
                        if self.take_trial(member, now) {
                            return Some(Arc::clone(member));
                        }
                        Availability::LastResort
                    }
                    Availability::Open | Availability::OnTrial => Availability::Open,
                    closed @ (Availability::SessionsOnly | Availability::LastResort | Availability::Closed) => closed,
                };
                scratch.push((availability, self.candidate(member, slot, wanted.policy, now)));
            }
            let chosen = [Availability::Open, Availability::LastResort]
                .into_iter()
                .find_map(|availability| self.among(&scratch, availability, wanted, set.version))?;
            let member = &set.members[chosen];
            if refused.is_none() && member.availability(now) == Availability::OnTrial && !self.take_trial(member, now) {
                refused = Some(chosen);
                continue;
            }
            return Some(Arc::clone(member));
        }
    }

    fn take_trial(&self, member: &Member, now: Instant) -> bool {
        self.backends.ejection().is_some_and(|limits| member.begin_trial(limits, now))
    }

    fn candidate(&self, member: &Member, slot: usize, policy: Policy, now: Instant) -> Candidate {
        // Replicas that know a pod for different times have to agree on the clients of each.
        let ramp = if policy == Policy::ClientIp { Duration::ZERO } else { self.backends.slow_start() };
        member.candidate(slot, ramp, now)
    }

    /// The slot that the policy chooses among those that are so available, full ones only where all are.
    fn among(
        &self,
        all: &[(Availability, Candidate)],
        availability: Availability,
        wanted: &Wanted<'_>,
        version: u64,
    ) -> Option<usize> {
        let able = || all.iter().filter(|(is, _)| *is == availability).map(|(_, candidate)| *candidate);
        let max = self.config.upstream.max_connections.map_or(u64::MAX, |max| max as u64);
        let roomy: Vec<_> = able().filter(|candidate| candidate.load < max).collect();
        // Where all are full, the queues decide.
        let candidates = if roomy.is_empty() { able().collect() } else { roomy };
        self.by_policy(wanted, version, &candidates).map(|chosen| candidates[chosen].slot)
    }

    fn by_policy(&self, wanted: &Wanted<'_>, version: u64, of: &[Candidate]) -> Option<usize> {
        match wanted.policy {
            Policy::RoundRobin => {
                let (known, turns) = &mut self.turns.borrow_mut()[wanted.backend];
                if *known != version {
                    (*known, *turns) = (version, Turns::default());
                    let skipped = self.turn.get().checked_rem(of.len())?;
                    for _ in 0..skipped {
                        turns.next(of);
                    }
                }
                turns.next(of)
            }
            Policy::LeastConn => {
                let turn = self.turn.replace(self.turn.get().wrapping_add(1));
                balance::least_conn(of, turn)
            }
            Policy::PowerOfTwo => balance::power_of_two(of, fastrand::u64(..)),
            Policy::ClientIp => balance::rendezvous(of, balance::client_key(wanted.client)),
        }
    }

    /// Another pod for a request that could not be sent to the chosen one, within the budget; whether there is one. A
    /// session's request has none.
    pub(super) fn elsewhere(&self, choice: &mut Choice) -> bool {
        if choice.in_session || !self.budget.borrow().has_one() {
            return false;
        }
        choice.tried.extend(choice.member.take());
        let next = self.next(choice);
        let found = next.is_some();
        if let Some(member) = next {
            self.budget.borrow_mut().withdraw();
            choice.take(member);
        }
        found
    }

    /// After a pause, whoever is there now may be tried, those that have failed as well; a session's pod stays the same.
    pub(super) fn anew(&self, choice: &mut Choice) {
        if choice.in_session {
            return;
        }
        choice.tried.clear();
        if let Some(member) = self.next(choice) {
            choice.take(member);
        }
    }

    fn next(&self, choice: &Choice) -> Option<Arc<Member>> {
        let backend = self.backends.backend(choice.backend);
        let by_client = choice.source == AffinitySource::ClientIp;
        let policy = if by_client { Policy::ClientIp } else { backend.config.policy };
        let Choice { client, in_session, tried, .. } = choice;
        let wanted = Wanted { backend: choice.backend, policy, client: *client, in_session: *in_session, tried };
        self.pick(&wanted, &backend.set())
    }

    /// The chosen pod has failed the request.
    pub(super) fn failed(&self, choice: &Choice) {
        if let Some(member) = &choice.member {
            self.backends.failed(self.backends.backend(choice.backend), member);
        }
    }

    /// The chosen pod has answered.
    pub(super) fn answered(&self, choice: &Choice, status: StatusCode) {
        if self.config.backends.fail_status.contains(&status.as_u16()) {
            self.failed(choice);
        } else if let Some(member) = &choice.member {
            member.succeeded();
        }
    }

    /// The `Set-Cookie` for a client that did not come with a valid cookie for this pod.
    pub(super) fn cookie(&self, choice: &Choice) -> Option<HeaderValue> {
        let cookie = self.config.backends.session.cookie.as_ref().filter(|_| !choice.has_cookie)?;
        let tag = choice.member.as_ref()?.tag.as_deref()?;
        let prefix = &self.backends.backend(choice.backend).config.prefix;
        let path = if prefix.is_empty() { "/" } else { prefix };
        HeaderValue::try_from(format!("{}={tag}; Path={path}{}", cookie.name, cookie.attributes)).ok()
    }
}

impl Choice {
    /// Whether it goes by the name of a pod of the StatefulSet.
    pub(super) fn is_pod(&self) -> bool {
        self.member.as_ref().is_none_or(|member| member.is_pod)
    }

    fn take(&mut self, member: Arc<Member>) {
        (self.name, self.address) = (Arc::clone(&member.name), member.address.clone());
        self.has_cookie = false;
        self.member = Some(member);
    }
}

#[cfg(test)]
mod tests;
