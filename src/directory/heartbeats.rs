//! The pods' heartbeats as placement uses them: what was read last, and what this process has placed since.
//!
//! A pod says only once a minute how many rooms it has. So that it is not overrun between two heartbeats, each room
//! that is placed on it counts on top, until a heartbeat comes that was written after the placement. One that is dated
//! ahead of our clock counts from when it was first seen: it would get no older, and its pod would be there for ever.
//! Nothing here asks the directory or waits: the lock is held for one look, and whoever asks is the resolver.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::SKEW_MS;
use crate::core::assignment::{Heartbeat, PodId};
use crate::core::placement::{self, Limits};

/// How long heartbeats are used for placing rooms and for `/health/cluster`.
const FRESH: Duration = Duration::from_secs(1);

/// How far the two clocks may part before the wall clock is taken to have been set.
const SET_MS: u64 = 1000;

/// The heartbeats of all pods, shared by all placements.
#[derive(Debug, Default)]
pub(super) struct Heartbeats(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    read: Option<Instant>,
    pods: Vec<(PodId, Heartbeat)>,
    /// Of pods whose heartbeat was dated ahead when it was first seen.
    ahead: HashMap<PodId, FirstSeen>,
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

/// A heartbeat that was dated ahead of our clock when it was first seen. Times are in milliseconds since 1970.
#[derive(Debug)]
struct FirstSeen {
    /// How it is dated.
    dated: u64,
    /// When that was; the same for as long as nobody sets our clock, because heartbeats are told apart by it.
    seen: u64,
    /// The same by a clock that nobody sets.
    at: Instant,
    is_far: bool,
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

    /// Takes in what has been read just now, which is `now` in milliseconds since 1970. What was placed before a pod's new
    /// heartbeat is in it, and no longer counts on top.
    pub(super) fn learn(&self, mut pods: Vec<(PodId, Heartbeat)>, now: u64, read: Instant) {
        let state = &mut *self.state();
        state.date_back(&mut pods, now, read);
        let mut placed = std::mem::take(&mut state.placed);
        for (pod, beat) in &pods {
            let Some(mut on_top) = placed.remove(pod) else { continue };
            on_top.retain(|placed| !placed.is_in(beat));
            if !on_top.is_empty() {
                state.placed.insert(pod.clone(), on_top);
            }
        }
        (state.read, state.pods) = (Some(read), pods);
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
    /// Gives those that are dated ahead the time at which they were first seen.
    fn date_back(&mut self, pods: &mut [(PodId, Heartbeat)], now: u64, read: Instant) {
        let mut known = std::mem::take(&mut self.ahead);
        for (pod, beat) in pods {
            let dated = beat.last_update;
            let first = match known.remove(pod) {
                // Also once its time has come: it must not begin to count anew.
                Some(first) if first.dated == dated => first.at_wall_clock(now, read),
                _ if dated <= now => continue,
                before => {
                    let is_far = dated - now > SKEW_MS;
                    if is_far && before.is_none_or(|before| !before.is_far) {
                        tracing::warn!(%pod, last_update = dated, "lastUpdate is more than a day ahead: the heartbeat counts from when it was first seen");
                    }
                    FirstSeen { dated, seen: now, at: read, is_far }
                }
            };
            beat.last_update = first.seen;
            self.ahead.insert(pod.clone(), first);
        }
    }

    fn with_placed(&self, pod: &PodId, beat: Heartbeat) -> Heartbeat {
        let on_top = self.placed.get(pod).map_or(0, Vec::len);
        Heartbeat { active_rooms: beat.active_rooms.saturating_add(on_top as u64), ..beat }
    }
}

impl FirstSeen {
    fn at_wall_clock(mut self, now: u64, read: Instant) -> Self {
        let age = u64::try_from(read.saturating_duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        let seen = now.saturating_sub(age);
        if seen.abs_diff(self.seen) > SET_MS {
            self.seen = seen;
        }
        self
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

    fn learn(beats: &Heartbeats, pods: Vec<(PodId, Heartbeat)>, now: u64) {
        beats.learn(pods, now, Instant::now());
    }

    /// How many rooms find a place at this moment.
    fn places(beats: &Heartbeats, now: u64) -> usize {
        (0..).take_while(|roll| beats.choose(LIMITS, now, *roll).is_some()).count()
    }

    #[test]
    fn what_was_placed_counts_until_the_pods_next_heartbeat() {
        let beats = Heartbeats::default();
        learn(&beats, vec![(pod(0), beat(17, NOW - 30_000))], NOW);
        assert_eq!(places(&beats, NOW), 3);
        learn(&beats, vec![(pod(0), beat(17, NOW - 30_000))], NOW + 1000);
        assert_eq!(places(&beats, NOW + 1000), 0, "read again, it is still the same heartbeat");
        learn(&beats, vec![(pod(0), beat(17, NOW - 1))], NOW + 2000);
        assert_eq!(places(&beats, NOW + 2000), 0, "written before the rooms were placed, and read only now");
        learn(&beats, vec![(pod(0), beat(19, NOW + 30_000))], NOW + 31_000);
        assert_eq!(places(&beats, NOW + 31_000), 1, "they are in the heartbeat now, but for one that is over");
    }

    #[test]
    fn a_clock_that_runs_ahead_forgets_nothing_at_once() {
        let beats = Heartbeats::default();
        for _ in 0..2 {
            learn(&beats, vec![(pod(0), beat(18, NOW + 5000))], NOW);
        }
        assert_eq!(places(&beats, NOW), 2);
        learn(&beats, vec![(pod(0), beat(18, NOW + 5000))], NOW);
        assert_eq!(places(&beats, NOW), 0);
    }

    #[test]
    fn each_pod_has_its_own_count_and_one_that_is_gone_has_none() {
        let beats = Heartbeats::default();
        let both = || vec![(pod(0), beat(18, NOW - 1000)), (pod(1), beat(18, NOW - 1000))];
        learn(&beats, both(), NOW);
        assert_eq!(places(&beats, NOW), 4);
        learn(&beats, vec![(pod(0), beat(18, NOW - 1000)), (pod(1), beat(19, NOW + 1))], NOW + 2);
        assert_eq!(beats.choose(LIMITS, NOW + 2, 0), Some(pod(1)));
        learn(&beats, Vec::new(), NOW);
        assert_eq!(places(&beats, NOW), 0);
        learn(&beats, both(), NOW);
        assert_eq!(places(&beats, NOW), 4);
    }

    #[test]
    fn what_somebody_else_has_placed_is_not_counted_twice() {
        let beats = Heartbeats::default();
        learn(&beats, vec![(pod(0), beat(19, NOW))], NOW);
        assert_eq!(beats.choose(LIMITS, NOW, 0), Some(pod(0)));
        beats.undo(&pod(0));
        assert_eq!(beats.choose(LIMITS, NOW, 0), Some(pod(0)));
        assert_eq!(beats.choose(LIMITS, NOW, 0), None);
    }

    /// What one pod's heartbeat counts as, read at these seconds after [`NOW`] by both clocks, ours being set by as much.
    fn dated(beats: &Heartbeats, start: Instant, last_update: u64, after: u64, set: i64) -> u64 {
        let now = (NOW + after * 1000).saturating_add_signed(set * 1000);
        beats.learn(vec![(pod(0), beat(0, last_update))], now, start + Duration::from_secs(after));
        beats.last()[0].1.last_update
    }

    #[test]
    fn one_that_is_dated_ahead_counts_from_when_it_was_first_seen() {
        const YEAR: u64 = 365 * 24 * 3600 * 1000;
        let (beats, start) = (Heartbeats::default(), Instant::now());
        let dated = |last_update, after, set| dated(&beats, start, last_update, after, set);
        for ahead in [1, 5000, YEAR] {
            assert_eq!(dated(NOW + ahead, 0, 0), NOW, "{ahead}");
            assert_eq!(dated(NOW + ahead, 100, 0), NOW, "it gets older, also once its time has come");
            assert_eq!(dated(NOW + ahead + 1, 200, 0), (NOW + ahead + 1).min(NOW + 200_000), "another one");
        }
        assert_eq!(dated(NOW + 7, 300, 0), NOW + 7, "one that is not");
        // Our own clock was an hour behind, so that everybody's seemed to be ahead: nobody dies when it is set.
        assert_eq!(dated(NOW + YEAR, 400, 0), NOW + 400_000);
        assert_eq!(dated(NOW + YEAR, 405, 3600), NOW + 4_000_000);
        assert_eq!(dated(NOW + YEAR, 410, 3600), NOW + 4_000_000);
        learn(&beats, vec![], NOW);
        assert!(beats.state().ahead.is_empty(), "of pods that are gone nothing is kept");
    }

    #[test]
    fn a_pod_whose_heartbeat_is_dated_ahead_gets_no_rooms_for_ever() {
        let (beats, start) = (Heartbeats::default(), Instant::now());
        for (after, places) in [(0, true), (180, true), (181, false)] {
            dated(&beats, start, u64::MAX, after, 0);
            let place = beats.choose(LIMITS, NOW + after * 1000, 0);
            assert_eq!(place.is_some(), places, "after {after} s");
        }
    }
}
