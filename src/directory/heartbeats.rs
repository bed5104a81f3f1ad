//! The pods' heartbeats as placement uses them: what was read last, and what this process has placed since.
//!
//! A pod says only once a minute how many rooms it has. So that it is not overrun between two heartbeats, each room
//! that is placed on it counts on top, until a heartbeat comes that was written after the placement. Nothing here asks
//! the directory or waits: the lock is held for one look, and whoever asks is the resolver.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::core::assignment::{Heartbeat, PodId};
use crate::core::placement::{self, Limits};

/// How long heartbeats are used for placing rooms and for `/health/cluster`.
const FRESH: Duration = Duration::from_secs(1);

/// The heartbeats of all pods, shared by all placements.
#[derive(Debug, Default)]
pub(super) struct Heartbeats(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    read: Option<Instant>,
    pods: Vec<(PodId, Heartbeat)>,
    /// At most as many a pod as it may hold rooms.
    placed: HashMap<PodId, Vec<Placed>>,
}

/// A room given to a pod.
#[derive(Debug)]
struct Placed {
    /// When, in milliseconds since 1970.
    at: u64,
    /// The heartbeat it was decided by, told by its `last_update`.
    known: u64,
}

impl Heartbeats {
    /// The heartbeats as they were read last.
    pub(super) fn last(&self) -> Vec<(PodId, Heartbeat)> {
        self.state().pods.clone()
    }

    /// Whether they are young enough.
    pub(super) fn are_fresh(&self) -> bool {
        self.state().read.is_some_and(|read| read.elapsed() < FRESH)
    }

    /// Takes in what has been read. What was placed before a pod's new heartbeat is in it, and no longer counts on top.
    pub(super) fn learn(&self, pods: Vec<(PodId, Heartbeat)>) {
        let state = &mut *self.state();
        let mut placed = std::mem::take(&mut state.placed);
        for (pod, beat) in &pods {
            let Some(mut on_top) = placed.remove(pod) else { continue };
            on_top.retain(|placed| !placed.is_in(beat));
            if !on_top.is_empty() {
                state.placed.insert(pod.clone(), on_top);
            }
        }
        (state.read, state.pods) = (Some(Instant::now()), pods);
    }

    /// A pod for a new room, which counts from now on. `now` is in milliseconds since 1970.
    pub(super) fn choose(&self, limits: Limits, now: u64, roll: u64) -> Option<PodId> {
        let mut state = self.state();
        let pods: Vec<_> = state.pods.iter().map(|(pod, beat)| (pod.clone(), state.with_placed(pod, *beat))).collect();
        let pod = placement::choose(&pods, limits, now, roll)?;
        let known = state.pods.iter().find(|(known, _)| known == pod).map_or(0, |(_, beat)| beat.last_update);
        state.placed.entry(pod.clone()).or_default().push(Placed { at: now, known });
        Some(pod.clone())
    }

    /// Somebody else has placed the room first: it does not count here.
    pub(super) fn undo(&self, pod: &PodId) {
        if let Some(placed) = self.state().placed.get_mut(pod) {
            placed.pop();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No update can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn with_placed(&self, pod: &PodId, beat: Heartbeat) -> Heartbeat {
        let on_top = self.placed.get(pod).map_or(0, Vec::len);
        Heartbeat { active_rooms: beat.active_rooms.saturating_add(on_top as u64), ..beat }
    }
}

impl Placed {
    /// Whether the pod knew of the room when it wrote this. A heartbeat that is older than the placement does not tell,
    /// though it may be newly read; and the one that was known then never does, even by a clock that runs ahead.
    fn is_in(&self, beat: &Heartbeat) -> bool {
        beat.last_update != self.known && beat.last_update >= self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::assignment::StatefulSet;

    const NOW: u64 = 1_634_567_890_000;
    const LIMITS: Limits = Limits { rooms: 20, participants: 80 };

    fn pod(ordinal: u16) -> PodId {
        StatefulSet::parse("backend").expect("a name").nth(ordinal)
    }

    fn beat(active_rooms: u64, last_update: u64) -> Heartbeat {
        Heartbeat { active_rooms, total_participants: 0, last_update }
    }

    /// How many rooms find a place at this moment.
    fn places(beats: &Heartbeats, now: u64) -> usize {
        (0..).take_while(|roll| beats.choose(LIMITS, now, *roll).is_some()).count()
    }

    #[test]
    fn what_was_placed_counts_until_the_pods_next_heartbeat() {
        let beats = Heartbeats::default();
        beats.learn(vec![(pod(0), beat(17, NOW - 30_000))]);
        assert_eq!(places(&beats, NOW), 3);
        beats.learn(vec![(pod(0), beat(17, NOW - 30_000))]);
        assert_eq!(places(&beats, NOW + 1000), 0, "read again, it is still the same heartbeat");
        beats.learn(vec![(pod(0), beat(17, NOW - 1))]);
        assert_eq!(places(&beats, NOW + 2000), 0, "written before the rooms were placed, and read only now");
        beats.learn(vec![(pod(0), beat(19, NOW + 30_000))]);
        assert_eq!(places(&beats, NOW + 31_000), 1, "they are in the heartbeat now, but for one that is over");
    }

    #[test]
    fn a_clock_that_runs_ahead_forgets_nothing_at_once() {
        let beats = Heartbeats::default();
        for _ in 0..2 {
            beats.learn(vec![(pod(0), beat(18, NOW + 5000))]);
        }
        assert_eq!(places(&beats, NOW), 2);
        beats.learn(vec![(pod(0), beat(18, NOW + 5000))]);
        assert_eq!(places(&beats, NOW), 0);
    }

    #[test]
    fn each_pod_has_its_own_count_and_one_that_is_gone_has_none() {
        let beats = Heartbeats::default();
        let both = || vec![(pod(0), beat(18, NOW - 1000)), (pod(1), beat(18, NOW - 1000))];
        beats.learn(both());
        assert_eq!(places(&beats, NOW), 4);
        beats.learn(vec![(pod(0), beat(18, NOW - 1000)), (pod(1), beat(19, NOW + 1))]);
        assert_eq!(beats.choose(LIMITS, NOW + 2, 0), Some(pod(1)));
        beats.learn(Vec::new());
        assert_eq!(places(&beats, NOW), 0);
        beats.learn(both());
        assert_eq!(places(&beats, NOW), 4);
    }

    #[test]
    fn what_somebody_else_has_placed_is_not_counted_twice() {
        let beats = Heartbeats::default();
        beats.learn(vec![(pod(0), beat(19, NOW))]);
        assert_eq!(beats.choose(LIMITS, NOW, 0), Some(pod(0)));
        beats.undo(&pod(0));
        assert_eq!(beats.choose(LIMITS, NOW, 0), Some(pod(0)));
        assert_eq!(beats.choose(LIMITS, NOW, 0), None);
    }
}
