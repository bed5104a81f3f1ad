//! One pod of a set, as all threads see it.
//!
//! A pod keeps its [`Member`] for as long as it stays in the set, so that what is held against it, and since when it is
//! back, outlives a refresh. Choosing locks nothing for a pod that is in with its full share; counting a failure, and
//! looking at a pod that is out or warming up, takes its lock for a moment.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::load::Load;
use crate::core::address::HostPort;
use crate::core::balance::{Availability, Candidate, slow_start, stable_hash};
use crate::core::check::{Checks, Health, Verdict};
use crate::core::ejection::{EjectionLimits, Outlier, Standing, TrialNumber};
use crate::metrics::PodMetrics;

/// One pod of a set.
#[derive(Debug)]
pub struct Member {
    /// The pod's name, or its address where it has none.
    pub name: Arc<str>,
    /// Where it is.
    pub address: HostPort,
    /// What it stays known by, whatever its name: the pod's name, else the address it was found at.
    pub(super) origin: Arc<str>,
    /// The origin it has for a replica that does not know the pod's own name.
    pub(super) at: Arc<str>,
    /// The name it has there.
    pub(super) listed: Arc<str>,
    /// Whether the name is a pod's of the StatefulSet.
    pub is_pod: bool,
    /// The value of its affinity cookie, where cookies are set.
    pub cookie: Option<Box<str>>,
    /// What that is, or was, where the pod's name is not known.
    pub(super) unnamed_cookie: Option<Box<str>>,
    /// The backend's, for the log: a pod may be in several.
    prefix: Box<str>,
    weight: AtomicU32,
    id: u64,
    metrics: PodMetrics,
    /// By its name, and by where it is: whichever knows more of the pod.
    loads: [Load; 2],
    /// `--slow-start`.
    ramp: Duration,
    state: Mutex<State>,
    /// Whether `state` says anything else than that the pod is in, with its full share.
    is_special: AtomicBool,
    /// Whether it refused the last connection, and has not answered since: its sessions are over.
    has_refused: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct State {
    outlier: Outlier,
    checks: Checks,
    /// When it joined the set or came back, as long as its share still grows from then on.
    warming_since: Option<Instant>,
}

/// What makes a member; its fields are the member's.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) name: Arc<str>,
    pub(super) address: HostPort,
    pub(super) origin: Arc<str>,
    pub(super) at: Arc<str>,
    pub(super) listed: Arc<str>,
    pub(super) is_pod: bool,
    pub(super) weight: u32,
}

impl Found {
    /// A pod that everybody knows by this name.
    pub(super) fn new(name: Arc<str>, address: HostPort, is_pod: bool, weight: u32) -> Self {
        let (origin, at, listed) = (Arc::clone(&name), Arc::clone(&name), Arc::clone(&name));
        Self { name, address, origin, at, listed, is_pod, weight }
    }
}

/// The one request that decides whether an ejected pod is back. Dropped without a word, because its client went away or it
/// never got a place at the pod, it has decided nothing, and another one may try.
#[derive(Debug)]
pub struct Trial {
    member: Arc<Member>,
    number: TrialNumber,
    limits: EjectionLimits,
    is_decided: bool,
}

// === impl Member ===

impl Member {
    /// A pod that has `joined` the set just now, or was there from the start.
    pub(super) fn new(
        found: Found,
        (prefix, [cookie, unnamed_cookie]): (&str, [Option<Box<str>>; 2]),
        (metrics, loads): (PodMetrics, [Load; 2]),
        (ramp, joined): (Duration, Option<Instant>),
    ) -> Self {
        let Found { name, address, origin, at, listed, is_pod, weight } = found;
        let weight = AtomicU32::new(weight);
        // The same at a replica that has not heard the pod's name yet.
        let id = stable_hash(listed.as_bytes());
        let warming_since = joined.filter(|_| !ramp.is_zero());
        let is_special = AtomicBool::new(warming_since.is_some());
        let state = Mutex::new(State { warming_since, ..State::default() });
        Self {
            name,
            address,
            origin,
            at,
            listed,
            is_pod,
            cookie,
            unnamed_cookie,
            prefix: prefix.into(),
            weight,
            id,
            metrics,
            loads,
            ramp,
            state,
            is_special,
            has_refused: AtomicBool::default(),
        }
    }

    /// With what is known of the same pod under another name.
    pub(super) fn with_past_of(self, before: &Self) -> Self {
        let mut past = before.state().clone();
        // Who has the trial decides on that one.
        past.outlier.forget_trial();
        self.note_whether_special(&past);
        *self.state() = past;
        self
    }

    /// Whether it is what was found.
    pub(super) fn is(&self, found: &Found) -> bool {
        let Found { name, address, origin, at, listed, .. } = found;
        (&self.name, &self.address, &self.origin, &self.at, &self.listed) == (name, address, origin, at, listed)
    }

    /// Whether what was found is the same pod under another name, or another one behind the same name: of a name with one
    /// address nobody can tell. Two pods that are known by their names are two, wherever they are.
    pub(super) fn was(&self, found: &Found) -> bool {
        let is_at_its_place = self.at == found.at && !(self.is_pod && found.is_pod);
        let is_called_so = self.name == found.name && self.address == found.address;
        self.origin == found.origin || is_at_its_place || is_called_so
    }

    /// Gives it another share: SRV records change theirs with the number of pods.
    pub(super) fn reweigh(&self, weight: u32) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// What is counted for it.
    pub fn metrics(&self) -> &PodMetrics {
        &self.metrics
    }

    /// Requests in flight or waiting for a place, and tunnels, from this process: where this name has a single address, those
    /// that went to the pod by other names as well.
    pub fn load(&self) -> u64 {
        let [by_name, by_address] = &self.loads;
        by_name.get().max(by_address.get())
    }

    /// Whether it may be chosen now.
    pub fn availability(&self, now: Instant) -> Availability {
        if self.is_special.load(Ordering::Relaxed) { self.state().availability(now) } else { Availability::Open }
    }

    /// What the policies see of it.
    pub fn candidate(&self, slot: usize, now: Instant) -> Candidate {
        let weight = f64::from(self.weight.load(Ordering::Relaxed));
        let mut candidate =
            Candidate { slot, id: self.id, weight, share: weight, load: self.load(), availability: Availability::Open };
        if self.is_special.load(Ordering::Relaxed) {
            let mut state = self.state();
            candidate.availability = state.availability(now);
            if let Some(since) = state.warming_since {
                let age = now.saturating_duration_since(since);
                candidate.share = slow_start(weight, age.as_secs_f64(), self.ramp.as_secs_f64());
                state.warming_since = Some(since).filter(|_| age < self.ramp);
                self.note_whether_special(&state);
            }
        }
        candidate
    }

    /// A request has failed here, one that was no trial. Whether the pod is ejected by it.
    pub(super) fn failed(&self, limits: EjectionLimits, now: Instant, may_eject: bool) -> bool {
        let mut state = self.state();
        let ejected = state.outlier.failed(limits, now, may_eject);
        self.note_whether_special(&state);
        ejected
    }

    /// It refused a connection, or is not there.
    pub fn note_refusal(&self) {
        self.has_refused.store(true, Ordering::Relaxed);
    }

    /// It has answered. Reads first: what all threads write they hinder each other with.
    pub fn note_answer(&self) {
        if self.has_refused() {
            self.has_refused.store(false, Ordering::Relaxed);
        }
    }

    /// Whether it refused connections when one was tried last.
    pub fn has_refused(&self) -> bool {
        self.has_refused.load(Ordering::Relaxed)
    }

    /// Takes the trial of a pod on probation; `None` if there is none, or somebody else has it.
    pub fn begin_trial(self: &Arc<Self>, limits: EjectionLimits, now: Instant) -> Option<Trial> {
        let number = self.state().outlier.begin_trial(limits, now)?;
        Some(Trial { member: Arc::clone(self), number, limits, is_decided: false })
    }

    /// When its ejection ends or has ended, while it is not back.
    pub(super) fn ejected_until(&self) -> Option<Instant> {
        self.state().outlier.ejected_until()
    }

    /// Whether it has failed often enough to be ejected, or is.
    pub fn is_given_up(&self, limits: EjectionLimits, now: Instant) -> bool {
        self.state().outlier.is_given_up(limits, now)
    }

    /// It is back, with nothing held against it.
    pub(super) fn readmit(&self) {
        self.note_return(Outlier::readmit);
    }

    /// Something has happened by which it may be back.
    fn note_return(&self, is_back: impl FnOnce(&mut Outlier) -> bool) {
        let mut state = self.state();
        if is_back(&mut state.outlier) {
            tracing::info!(prefix = &*self.prefix, pod = &*self.name, "back among the backends");
            self.start_warming(&mut state);
        }
        self.note_whether_special(&state);
    }

    /// Whether it is ejected, on probation or not.
    pub fn is_ejected(&self) -> bool {
        self.ejected_until().is_some()
    }

    /// An answer to a health check. Good ones alone say nothing against an ejection: requests may fail all the same. That a
    /// pod was away and is back does.
    pub fn checked(&self, verdict: Verdict, rise: u32, fall: u32) {
        let mut state = self.state();
        if state.checks.has_risen(verdict, rise) {
            state.outlier.shorten(Instant::now());
        }
        let (before, after) = (state.checks.health(), state.checks.note(verdict, rise, fall));
        if before != after {
            tracing::info!(prefix = &*self.prefix, pod = &*self.name, ?before, ?after, "health check");
            if after == Health::Up {
                self.start_warming(&mut state);
            }
        }
        self.note_whether_special(&state);
    }

    /// Its state in a word, for people and `/status`.
    pub fn word(&self) -> &'static str {
        match self.availability(Instant::now()) {
            Availability::Open => "up",
            Availability::Probation | Availability::Ejected => "ejected",
            Availability::Draining => "drain",
            Availability::Down => "down",
            Availability::Maintenance => "maintenance",
        }
    }

    fn start_warming(&self, state: &mut State) {
        state.warming_since = (!self.ramp.is_zero()).then(Instant::now);
    }

    fn note_whether_special(&self, state: &State) {
        let in_set = state.outlier.ejected_until().is_none() && state.checks.health() == Health::Up;
        self.is_special.store(!in_set || state.warming_since.is_some(), Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Assignments only: nothing is left half-done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn availability(&self, now: Instant) -> Availability {
        match (self.checks.health(), self.outlier.standing(now)) {
            (Health::Maintenance, _) => Availability::Maintenance,
            (Health::Drain, _) => Availability::Draining,
            (Health::Down, _) => Availability::Down,
            (Health::Up, Standing::Ejected) => Availability::Ejected,
            (Health::Up, Standing::Probation) => Availability::Probation,
            (Health::Up, Standing::In) => Availability::Open,
        }
    }
}

// === impl Trial ===

impl Trial {
    /// The pod has answered: it is back.
    pub fn passed(mut self) {
        self.is_decided = true;
        self.member.note_return(|outlier| outlier.pass_trial(self.number));
    }

    /// It has failed: it is out for as long again.
    pub fn failed(mut self) {
        self.is_decided = true;
        self.member.state().outlier.fail_trial(self.number, self.limits, Instant::now());
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if !self.is_decided {
            self.member.state().outlier.abandon_trial(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::Loads;
    use super::*;
    use crate::metrics::Metrics;

    const LIMITS: EjectionLimits = EjectionLimits { fails: 1, timeout: Duration::from_secs(30) };

    fn member(ramp: Duration) -> Arc<Member> {
        let name: Arc<str> = "10.0.0.1:1".into();
        let address = name.parse().expect("an address");
        let counted = (Metrics::new().pod(&name), [&name, &name].map(|name| Loads::default().of(name)));
        Arc::new(Member::new(Found::new(name, address, false, 2), ("", [None, None]), counted, (ramp, None)))
    }

    /// What costs each request a lock has to end.
    #[test]
    fn a_pod_that_is_back_is_looked_at_no_longer_than_it_warms_up() {
        let (now, ramp) = (Instant::now(), Duration::from_secs(60));
        for (ramp, warms_up) in [(Duration::ZERO, false), (ramp, true)] {
            let member = member(ramp);
            assert!(!member.is_special.load(Ordering::Relaxed));
            assert!(member.failed(LIMITS, now, true) && member.is_special.load(Ordering::Relaxed));
            member.begin_trial(LIMITS, now + LIMITS.timeout).expect("its time is over").passed();
            assert_eq!(member.is_special.load(Ordering::Relaxed), warms_up);
            let candidate = member.candidate(0, now);
            assert_eq!(candidate.share < candidate.weight, warms_up);
            // `passed` has looked at the clock itself, after `now`.
            let candidate = member.candidate(0, Instant::now() + 2 * ramp);
            assert_eq!((candidate.share, member.is_special.load(Ordering::Relaxed)), (candidate.weight, false));
        }
    }

    /// What passes its checks and fails requests is held out for the whole time.
    #[test]
    fn checks_shorten_an_ejection_only_where_they_failed_before() {
        use Verdict::{Bad, Good};
        let member = member(Duration::ZERO);
        let after = |verdicts: &[Verdict]| {
            verdicts.iter().for_each(|verdict| member.checked(*verdict, 2, 2));
            member.availability(Instant::now())
        };
        assert!(member.failed(LIMITS, Instant::now(), true));
        assert_eq!(after(&[Good; 9]), Availability::Ejected);
        assert_eq!(after(&[Bad, Good]), Availability::Ejected);
        assert_eq!(after(&[Good]), Availability::Probation, "away for less than `fall`");
        member.begin_trial(LIMITS, Instant::now()).expect("it is due").failed();
        assert_eq!(after(&[Good; 9]), Availability::Ejected, "not again");
        assert_eq!(after(&[Bad, Bad]), Availability::Down);
        assert_eq!(after(&[Good, Good]), Availability::Probation);
        member.begin_trial(LIMITS, Instant::now()).expect("it is due").passed();
        // Down already when requests find it out.
        assert_eq!(after(&[Bad, Bad, Good]), Availability::Down);
        assert!(member.failed(LIMITS, Instant::now(), true));
        assert_eq!(after(&[Good]), Availability::Probation);
    }

    /// Its client goes away in the end, or the pod's connection does.
    #[test]
    fn a_trial_that_took_too_long_ends_no_other() {
        let member = member(Duration::ZERO);
        assert!(member.failed(LIMITS, Instant::now(), true));
        let due = |trials: u32| Instant::now() + LIMITS.timeout * (trials + 1);
        let begin = |now| member.begin_trial(LIMITS, now);
        let [left, failed] = [0, 1].map(|trials| begin(due(trials)).expect("the one before took too long"));
        let now = due(2);
        let current = begin(now).expect("and so did this one");
        let until = member.ejected_until();
        drop(left);
        failed.failed();
        assert!(begin(now).is_none() && member.ejected_until() == until, "one at a time");
        drop(current);
        assert!(begin(now).is_some());
    }

    #[test]
    fn failures_alone_make_no_pod_special() {
        let member = member(Duration::ZERO);
        let limits = EjectionLimits { fails: 3, ..LIMITS };
        assert!(!member.failed(limits, Instant::now(), true) && !member.is_special.load(Ordering::Relaxed));
    }
}
