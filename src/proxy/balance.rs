//! Which pod a request without a room goes to: its session's, or the one the policy chooses.
//!
//! One [`Balancer`] per worker thread: turns and budgets are its own, what is known of the pods is shared by all
//! (`backends`). What is chosen is a [`Choice`], which also knows where else the request could go. The choosing itself is
//! `core::balance::choose`; this file carries out what was chosen. What binds a request to its pod is found by `bound.rs`.

mod bound;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};

use self::bound::{Bound, may_have_sessions};
use super::reject::Reject;
use crate::backends::{Backends, Member, Set, Trial};
use crate::config::Config;
use crate::core::address::HostPort;
use crate::core::balance::{self, Availability, Candidate, Policy, RetryBudget, SmoothWeighted, Wanted};
use crate::core::decision::Failure;
use crate::core::ejection::most_ejected;
use crate::core::headers::is_for_shared_caches;
use crate::core::session::{AffinitySource, Session, session};

/// The choosing of one worker thread.
#[derive(Debug)]
pub(super) struct Balancer {
    config: Arc<Config>,
    backends: Arc<Backends>,
    /// Whose turn it is, by backend, and for which version of its set.
    turns: RefCell<Vec<(u64, SmoothWeighted)>>,
    budget: RefCell<RetryBudget>,
    /// Empty between two choices; kept for its allocation.
    candidates: RefCell<Vec<Candidate>>,
}

/// A pod that was chosen for a request without a room.
#[derive(Debug)]
pub(super) struct Choice {
    /// The pod.
    pub(super) target: Target,
    /// What decided.
    pub(super) source: AffinitySource,
    /// Held while the request decides whether the pod is back.
    trial: Option<Trial>,
    /// The pod that the client's cookie stands for, as long as a session of the client's may live there.
    cookie_pod: Option<Target>,
    by: Criteria,
    /// Who has been tried in vain.
    tried: Vec<Arc<Member>>,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// To a pod of the set.
    Listed(Arc<Member>),
    /// To a pod of the StatefulSet that a `sid` or a cookie names and the set does not list.
    Unlisted {
        /// The pod's name.
        name: Arc<str>,
        /// Where it is.
        address: HostPort,
    },
}

/// Whether there is another pod for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Another {
    /// There is: it has been chosen.
    Chosen,
    /// There may be, but no budget to try it. The request stays with its pod.
    NoBudget,
    /// There is none that would do, or none that has not been tried.
    None,
}

/// By what a pod is chosen for a request.
#[derive(Clone, Copy, Debug)]
struct Criteria {
    backend: usize,
    policy: Policy,
    client: IpAddr,
    role: SessionRole,
}

/// What a request is to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionRole {
    None,
    /// It begins one: the others have to find the pod again.
    Handshake,
    /// It belongs to one, which no other pod knows.
    Member,
}

impl Balancer {
    /// A thread's balancer.
    pub(super) fn new(config: Arc<Config>, backends: Arc<Backends>) -> Rc<Self> {
        let budget = RefCell::new(RetryBudget::new(config.backends.retry_budget));
        let turns = RefCell::new(vec![(0, SmoothWeighted::default()); config.backends.backends.len()]);
        Rc::new(Self { config, backends, turns, budget, candidates: RefCell::default() })
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
        let role = match session {
            Session::None => SessionRole::None,
            Session::Handshake => SessionRole::Handshake,
            Session::Sid(_) => SessionRole::Member,
        };
        let mut by = Criteria { backend: index, policy: backend.config.policy, client, role };
        let cookie_pod = self.cookie_pod(head, backend, &set);
        let (target, source, trial) = match self.bound(cookie_pod.as_ref(), &session, backend, &set) {
            Bound::Pod(target, source, trial) => (target, source, trial),
            Bound::Gone => return Err(Reject::SessionUnknown),
            bound @ (Bound::ClientIp | Bound::Free) => {
                if matches!(bound, Bound::ClientIp) {
                    by.policy = Policy::ClientIp;
                }
                let (member, trial) = self.pick(&by, &set, &[]).ok_or(Reject::NoBackend)?;
                (Target::Listed(member), by.source(), trial)
            }
        };
        let cookie_pod = cookie_pod.filter(may_have_sessions);
        Ok(Box::new(Choice { target, source, trial, cookie_pod, by, tried: vec![] }))
    }

    /// A pod by the policy that has not been `tried`, and its trial if it is on probation. `None` where there is none.
    fn pick(&self, by: &Criteria, set: &Set, tried: &[Arc<Member>]) -> Option<(Arc<Member>, Option<Trial>)> {
        let (now, backend) = (Instant::now(), self.backends.backend(by.backend));
        let mut candidates = self.candidates.borrow_mut();
        collect(&mut candidates, set, now);
        if are_too_many_ejected(&candidates) {
            self.backends.readmit_surplus(backend);
            collect(&mut candidates, set, now);
        }
        let turns = &mut self.turns.borrow_mut()[by.backend];
        if turns.0 != set.version {
            *turns = (set.version, SmoothWeighted::default());
            // Replicas and threads that start together must not all begin with the same pod.
            for _ in 0..fastrand::usize(..=candidates.len()) {
                turns.1.next(&candidates);
            }
        }
        candidates.retain(|candidate| !is_among(tried, &set.members[candidate.slot]));
        let wanted = self.wanted(by);
        // Each time round one pod is no longer on probation.
        loop {
            let pick = balance::choose(&mut candidates, &wanted, &mut turns.1)?;
            let member = &set.members[pick.slot];
            if !pick.on_trial {
                return Some((Arc::clone(member), None));
            }
            if let Some(trial) = self.take_trial(member, now) {
                return Some((Arc::clone(member), Some(trial)));
            }
            let taken = candidates.iter_mut().filter(|candidate| candidate.slot == pick.slot);
            taken.for_each(|candidate| candidate.availability = Availability::Ejected);
        }
    }

    fn wanted(&self, by: &Criteria) -> Wanted {
        Wanted {
            policy: by.policy,
            client: balance::client_key(by.client),
            may_try: by.role != SessionRole::Member,
            keeps: by.keeps_to_its_pod(),
            // A session has to be found again, wherever there is room just then.
            full: if by.keeps_to_its_pod() { u64::MAX } else { self.full() },
            dice: match by.policy {
                Policy::PowerOfTwo => [fastrand::f64(), fastrand::f64()],
                Policy::RoundRobin | Policy::LeastConn | Policy::ClientIp => [0.0; 2],
            },
        }
    }

    /// The load from which on a pod has no place.
    fn full(&self) -> u64 {
        self.config.upstream.max_connections.map_or(u64::MAX, |max| u64::try_from(max).unwrap_or(u64::MAX))
    }

    fn take_trial(&self, member: &Arc<Member>, now: Instant) -> Option<Trial> {
        member.begin_trial(self.backends.ejection()?, now)
    }

    /// A request has come, which adds to the budget of retries.
    pub(super) fn deposit(&self) {
        self.budget.borrow_mut().deposit();
    }

    /// Another pod, at once, for a request that could not be sent to the chosen one, by the `failure`. A session has none; but
    /// by the client's address its requests follow its first one, which went to whoever was next in the hash's order and took
    /// it.
    pub(super) fn elsewhere(&self, choice: &mut Choice, failure: Failure) -> Another {
        let by_client = choice.source == AffinitySource::ClientIp;
        let is_over = match &choice.target {
            Target::Listed(member) if failure.ends_sessions() => {
                member.note_refusal();
                true
            }
            Target::Listed(_) => false,
            // Nothing else would put an end to its cookies: no failures are counted for it.
            Target::Unlisted { .. } => failure.is_held_against_pod(false),
        };
        if is_over {
            choice.cookie_pod.take_if(|pod| pod.is(&choice.target));
        }
        if choice.is_in_session() && !by_client {
            return Another::None;
        }
        if let Target::Listed(member) = &choice.target {
            choice.tried.push(Arc::clone(member));
        }
        self.move_on(choice)
    }

    /// The other pods that would do as well where the chosen one has no place, in the set's order: none for a request that has
    /// to keep to its own.
    pub(super) fn alternatives(&self, choice: &Choice) -> Vec<Arc<Member>> {
        if choice.is_in_session() || choice.by.keeps_to_its_pod() {
            return Vec::new();
        }
        let set = self.backends.backend(choice.by.backend).set();
        let is_new = |member: &Arc<Member>| !choice.target.is_member(member) && !is_among(&choice.tried, member);
        let may_wait_at = waiting_at(&set);
        set.members.iter().filter(|member| is_new(member) && may_wait_at(member)).cloned().collect()
    }

    /// Whether a pod would still do that did so before: it may have gone, or have been left out, while a request waited.
    pub(super) fn would_do(&self, choice: &Choice, target: &Target) -> bool {
        let set = self.backends.backend(choice.by.backend).set();
        let may_wait_at = waiting_at(&set);
        set.members.iter().any(|member| target.is_member(member) && may_wait_at(member))
    }

    /// After a pause, whoever is there now may be tried, those that have failed as well; a session's pod stays the same.
    pub(super) fn after_pause(&self, choice: &mut Choice) {
        choice.tried.clear();
        if !choice.is_in_session() || choice.source == AffinitySource::ClientIp {
            self.move_on(choice);
        }
    }

    /// Chooses again, and takes what a move to another pod costs out of the budget: nothing where the pod is one that has been
    /// given up or is not listed, for that is no retry but a choice made too early.
    fn move_on(&self, choice: &mut Choice) -> Another {
        let backend = self.backends.backend(choice.by.backend);
        let Some((member, trial)) = self.pick(&choice.by, &backend.set(), &choice.tried) else {
            return Another::None;
        };
        let is_same = choice.target.is_member(&member);
        let is_free = is_same || self.is_given_up(&choice.target);
        if !is_free && !self.budget.borrow_mut().withdraw() {
            return Another::NoBudget;
        }
        if !is_same {
            choice.source = choice.by.source();
        }
        (choice.target, choice.trial) = (Target::Listed(member), trial);
        Another::Chosen
    }

    fn is_given_up(&self, target: &Target) -> bool {
        match (target, self.backends.ejection()) {
            (Target::Listed(member), Some(limits)) => member.is_given_up(limits, Instant::now()),
            (Target::Listed(_), None) => false,
            (Target::Unlisted { .. }, _) => true,
        }
    }

    /// The chosen pod has failed the request.
    pub(super) fn failed(&self, choice: &mut Choice) {
        match (choice.trial.take(), &choice.target) {
            (Some(trial), _) => trial.failed(),
            (None, Target::Listed(member)) => self.backends.failed(self.backends.backend(choice.by.backend), member),
            (None, Target::Unlisted { .. }) => {}
        }
    }

    /// The chosen pod has answered.
    pub(super) fn answered(&self, choice: &mut Choice, status: StatusCode) {
        if let Target::Listed(member) = &choice.target {
            member.note_answer();
        }
        if self.config.backends.fail_status.contains(&status.as_u16()) {
            self.failed(choice);
        } else if let Some(trial) = choice.trial.take() {
            trial.passed();
        }
    }

    /// The `Set-Cookie` that goes with an answer of these `headers`. Shared caches would give it to others, who would all come
    /// to this pod; but what begins a session has it in any case, for its requests have nothing else to go by.
    pub(super) fn cookie_beside(&self, choice: &Choice, headers: &HeaderMap) -> Option<HeaderValue> {
        self.cookie(choice).filter(|_| choice.by.role == SessionRole::Handshake || !is_for_shared_caches(headers))
    }

    /// The `Set-Cookie` for a client that has none for this pod. One for another pod, where a session of the client's may
    /// live on, is left alone by a request that went past it, because that had no place or is ejected; but what begins a
    /// session takes the cookie along, for its requests have nothing else to go by.
    fn cookie(&self, choice: &Choice) -> Option<HeaderValue> {
        let cookie = self.config.backends.session.cookie.as_ref()?;
        let Target::Listed(member) = &choice.target else {
            return None;
        };
        if let Some(pod) = &choice.cookie_pod
            && (pod.is(&choice.target) || choice.by.role != SessionRole::Handshake)
        {
            return None;
        }
        let value = member.cookie.as_deref()?;
        let prefix = &self.backends.backend(choice.by.backend).config.prefix;
        // Without its last slash it covers all that the route does (`core::affinity::is_under`), as RFC 6265 section 5.1.4 has it.
        let path = match prefix.trim_end_matches('/') {
            "" => "/",
            path => path,
        };
        HeaderValue::try_from(format!("{}={value}; Path={path}{}", cookie.name, cookie.attributes)).ok()
    }
}

fn is_among(members: &[Arc<Member>], member: &Arc<Member>) -> bool {
    members.iter().any(|one| Arc::ptr_eq(one, member))
}

/// Where a request may wait for a place: at the pods that are open, or where none is, at those that are left at all.
fn waiting_at(set: &Set) -> impl Fn(&Arc<Member>) -> bool {
    let now = Instant::now();
    let is_any_open = set.members.iter().any(|member| member.availability(now) == Availability::Open);
    move |member| {
        let availability = member.availability(now);
        availability == Availability::Open || !is_any_open && availability.is_last_resort()
    }
}

fn collect(candidates: &mut Vec<Candidate>, set: &Set, now: Instant) {
    candidates.clear();
    candidates.extend(set.members.iter().enumerate().map(|(slot, member)| member.candidate(slot, now)));
}

/// Whether the set has lost so many pods that more than half of those left are ejected.
fn are_too_many_ejected(candidates: &[Candidate]) -> bool {
    let is_out =
        |candidate: &&Candidate| matches!(candidate.availability, Availability::Ejected | Availability::Probation);
    candidates.iter().filter(is_out).count() > most_ejected(candidates.len())
}

// === impl Choice ===

impl Choice {
    /// Whether the request belongs to a session.
    pub(super) fn is_in_session(&self) -> bool {
        self.by.role == SessionRole::Member
    }

    /// One of the [alternatives](Balancer::alternatives) had a place before the chosen pod. No retry: nothing was tried.
    pub(super) fn settle(&mut self, target: Target) {
        (self.target, self.source, self.trial) = (target, self.by.source(), None);
    }
}

impl Criteria {
    /// What decides where the policy does.
    fn source(&self) -> AffinitySource {
        if self.policy == Policy::ClientIp { AffinitySource::ClientIp } else { AffinitySource::None }
    }

    /// Whether the pod is one that other requests of a session find again by the client's address.
    fn keeps_to_its_pod(&self) -> bool {
        self.policy == Policy::ClientIp && self.role != SessionRole::None
    }
}

impl Target {
    /// The pod's name, or its address where it has none.
    pub(super) fn name(&self) -> &Arc<str> {
        match self {
            Self::Listed(member) => &member.name,
            Self::Unlisted { name, .. } => name,
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (one, Self::Listed(other)) => one.is_member(other),
            (Self::Unlisted { name: one, .. }, Self::Unlisted { name: other, .. }) => one == other,
            (Self::Listed(_), Self::Unlisted { .. }) => false,
        }
    }

    fn is_member(&self, member: &Arc<Member>) -> bool {
        matches!(self, Self::Listed(one) if Arc::ptr_eq(one, member))
    }
}

#[cfg(test)]
mod tests;
