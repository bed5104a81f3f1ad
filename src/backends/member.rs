//! One pod of a set, as all threads see it.
//!
//! A pod keeps its [`Member`] for as long as it stays in the set, so that what is held against it, and since when it is
//! back, outlives a refresh. Nothing here is locked for a pod that behaves.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::core::address::HostPort;
use crate::core::balance::{Candidate, slow_start, stable_hash};
use crate::core::check::{Checks, Health, Verdict};
use crate::core::ejection::{Conduct, EjectionLimits, Standing};
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
    /// Whether the name is a pod's of the StatefulSet.
    pub is_pod: bool,
    /// The value of its affinity cookie, where cookies are set.
    pub tag: Option<Box<str>>,
    weight: AtomicU32,
    id: u64,
    metrics: PodMetrics,
    state: Mutex<State>,
    /// Whether `state` holds anything to look at.
    remarkable: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct State {
    conduct: Conduct,
    checks: Checks,
    health: Health,
    /// When it joined the set or came back, where its share grows from then on.
    back_since: Option<Instant>,
}

/// What makes a member.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) name: Arc<str>,
    pub(super) address: HostPort,
    pub(super) origin: Arc<str>,
    pub(super) is_pod: bool,
    pub(super) weight: u32,
}

/// Whether a member may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// For everything.
    Open,
    /// For everything, if the caller takes the trial that decides whether it is back.
    OnTrial,
    /// For what its sessions send.
    SessionsOnly,
    /// When nobody else is left.
    LastResort,
    /// For nothing.
    Closed,
}

impl Member {
    pub(super) fn new(found: Found, tag: Option<Box<str>>, metrics: PodMetrics, joined: Option<Instant>) -> Self {
        let Found { name, address, origin, is_pod, weight } = found;
        let weight = AtomicU32::new(weight);
        let id = stable_hash(name.as_bytes());
        let state = Mutex::new(State { back_since: joined, ..State::default() });
        let remarkable = AtomicBool::new(joined.is_some());
        Self { name, address, origin, is_pod, tag, weight, id, metrics, state, remarkable }
    }

    /// With what is known of the same pod under another name.
    pub(super) fn with_past_of(self, before: &Self) -> Self {
        let past = before.state().clone();
        self.remark(&past);
        *self.state() = past;
        self
    }

    /// Whether it is what was found.
    pub(super) fn is(&self, found: &Found) -> bool {
        self.name == found.name && self.address == found.address && self.origin == found.origin
    }

    /// Whether what was found is the same pod under another name, or another one behind the same name: of a name with one
    /// address nobody can tell.
    pub(super) fn was(&self, found: &Found) -> bool {
        self.origin == found.origin || self.name == found.name && self.address == found.address
    }

    /// Gives it another share: SRV records change theirs with the number of pods.
    pub(super) fn reweigh(&self, weight: u32) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// What is counted for it.
    pub fn metrics(&self) -> &PodMetrics {
        &self.metrics
    }

    /// Requests in flight and tunnels, from this process.
    pub fn load(&self) -> u64 {
        let load = self.metrics.in_flight.get() + self.metrics.tunnels.get();
        u64::try_from(load).unwrap_or(0)
    }

    /// Whether it may be chosen now.
    pub fn availability(&self, now: Instant) -> Availability {
        if !self.remarkable.load(Ordering::Relaxed) {
            return Availability::Open;
        }
        let state = self.state();
        match (state.health, state.conduct.standing(now)) {
            (Health::Maintenance, _) => Availability::Closed,
            (Health::Drain, _) => Availability::SessionsOnly,
            (Health::Down, _) | (Health::Up, Standing::Out) => Availability::LastResort,
            (Health::Up, Standing::OnTrial) => Availability::OnTrial,
            (Health::Up, Standing::In) => Availability::Open,
        }
    }

    /// What the policies see of it; `ramp` is `--slow-start`.
    pub fn candidate(&self, slot: usize, ramp: Duration, now: Instant) -> Candidate {
        let mut weight = f64::from(self.weight.load(Ordering::Relaxed));
        if !ramp.is_zero() && self.remarkable.load(Ordering::Relaxed) {
            let mut state = self.state();
            if let Some(since) = state.back_since {
                let age = now.saturating_duration_since(since);
                weight = slow_start(weight, age.as_secs_f64(), ramp.as_secs_f64());
                if age >= ramp {
                    state.back_since = None;
                    self.remark(&state);
                }
            }
        }
        Candidate { slot, id: self.id, weight, load: self.load() }
    }

    /// Takes the trial; `false` if somebody else has it.
    pub fn begin_trial(&self, limits: EjectionLimits, now: Instant) -> bool {
        let mut state = self.state();
        let free = state.conduct.standing(now) == Standing::OnTrial;
        if free {
            state.conduct.begin_trial(limits, now);
        }
        free
    }

    /// A request has failed here. Whether the pod is ejected by it.
    pub(super) fn failed(&self, limits: EjectionLimits, now: Instant, may_eject: bool) -> bool {
        let mut state = self.state();
        let ejected = state.conduct.failed(limits, now, may_eject);
        self.remark(&state);
        ejected
    }

    /// A request has been answered sensibly.
    pub fn succeeded(&self) {
        if self.remarkable.load(Ordering::Relaxed) {
            let mut state = self.state();
            if state.conduct.standing(Instant::now()) != Standing::In {
                tracing::info!(pod = &*self.name, "back among the backends");
                state.back_since = Some(Instant::now());
            }
            state.conduct.succeeded();
            self.remark(&state);
        }
    }

    /// Whether it is ejected.
    pub fn is_ejected(&self) -> bool {
        self.remarkable.load(Ordering::Relaxed) && self.state().conduct.standing(Instant::now()) != Standing::In
    }

    /// What its health checks say.
    pub fn health(&self) -> Health {
        self.state().health
    }

    /// An answer to a health check.
    pub(super) fn checked(&self, verdict: Verdict, rise: u32, fall: u32) {
        let mut state = self.state();
        let (before, after) = (state.health, state.checks.note(verdict, rise, fall));
        if before != after {
            tracing::info!(pod = &*self.name, ?before, ?after, "health check");
            state.health = after;
            if after == Health::Up {
                state.back_since = Some(Instant::now());
            }
        }
        self.remark(&state);
    }

    fn remark(&self, state: &State) {
        let plain = state.conduct.is_clean() && state.health == Health::Up && state.back_since.is_none();
        self.remarkable.store(!plain, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Assignments only: nothing is left half-done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
