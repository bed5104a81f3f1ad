//! The heartbeats that a backend's pods are known by, and what it means that some of them are gone.
//!
//! A Redis that has lost its data answers that nobody has a heartbeat, or only who has written since. That says nothing of
//! the others: they write theirs anew within a minute, one after the other. So where several are gone at once, or where
//! none of those that are there is one from before, the missing stay until each is heard of again, or until its last
//! heartbeat would be too old anyway. A heartbeat that goes alone was taken away, and its pod leaves at once.

use std::collections::BTreeMap;

use crate::core::assignment::{Heartbeat, PodId};
use crate::core::placement::is_healthy;

/// What one source has heard, by the pods' names.
#[derive(Debug, Default)]
pub(super) struct Beats(BTreeMap<String, Known>);

#[derive(Debug)]
struct Known {
    pod: PodId,
    beat: Heartbeat,
    /// Whether it was lost, and has not been heard of since.
    is_missing: bool,
}

impl Beats {
    /// Takes in what there is `now`, in milliseconds since 1970; the pods that count.
    pub(super) fn learn(&mut self, heard: Vec<(PodId, Heartbeat)>, now: u64) -> Vec<PodId> {
        self.0.retain(|_, known| is_healthy(&known.beat, now));
        let heard: BTreeMap<_, _> = heard.into_iter().map(|(pod, beat)| (pod.to_string(), (pod, beat))).collect();
        let gone = self.0.iter().filter(|(name, known)| !known.is_missing && !heard.contains_key(*name));
        let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        // One that is still what it was shows that not everything was lost.
        let is_from_before = |(name, (_, beat)): (&String, &(PodId, Heartbeat))| {
            self.0.get(name).is_some_and(|known| !known.is_missing && known.beat.last_update == beat.last_update)
        };
        if gone.len() > 1 || !heard.iter().any(is_from_before) {
            if !gone.is_empty() {
                let pods = gone.join(",");
                tracing::warn!(pods, "heartbeats are lost: their pods stay until those would be too old");
            }
            self.0.iter_mut().filter(|(name, _)| gone.contains(name)).for_each(|(_, known)| known.is_missing = true);
        }
        self.0.retain(|_, known| known.is_missing);
        self.0.extend(heard.into_iter().map(|(name, (pod, beat))| (name, Known { pod, beat, is_missing: false })));
        let healthy = self.0.values().filter(|known| is_healthy(&known.beat, now));
        healthy.map(|known| known.pod.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::assignment::{HEARTBEAT_FRESH, StatefulSet};

    const NOW: u64 = 1_634_567_890_123;

    /// The heartbeats of these pods, so many milliseconds after [`NOW`].
    fn of(pods: &[u16], at: u64) -> Vec<(PodId, Heartbeat)> {
        let set = StatefulSet::parse("backend").expect("a name");
        let beat = Heartbeat { active_rooms: 0, total_participants: 0, last_update: NOW + at };
        pods.iter().map(|pod| (set.nth(*pod), beat)).collect()
    }

    fn names(pods: Vec<PodId>) -> Vec<String> {
        pods.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_heartbeat_that_goes_takes_its_pod_along() {
        let mut beats = Beats::default();
        assert_eq!(names(beats.learn(of(&[0, 1], 0), NOW)), ["backend-0", "backend-1"]);
        assert_eq!(names(beats.learn(of(&[1], 0), NOW)), ["backend-1"]);
    }

    /// A pod may have written before the source is asked again.
    #[test]
    fn who_has_written_since_does_not_take_the_others_along() {
        let two = ["backend-0", "backend-1"];
        for lost in [of(&[1], 7), [of(&[1], 7), of(&[2], 8)].concat()] {
            let mut beats = Beats::default();
            beats.learn(of(&[0, 1], 0), NOW);
            let stay = names(beats.learn(lost.clone(), NOW + 9));
            assert_eq!(stay[..2], two, "{lost:?}");
            assert_eq!(names(beats.learn(lost, NOW + 10)), stay, "nor when nothing changes");
        }
        let mut beats = Beats::default();
        beats.learn(of(&[0, 1, 2], 0), NOW);
        assert_eq!(names(beats.learn(of(&[2], 0), NOW + 1)), ["backend-0", "backend-1", "backend-2"], "two at once");
        assert_eq!(names(beats.learn(of(&[1, 2], 0), NOW + 2)), ["backend-0", "backend-1", "backend-2"]);
        assert_eq!(names(beats.learn(of(&[2], 0), NOW + 3)), ["backend-0", "backend-2"], "one that goes alone");
    }

    #[test]
    fn all_that_go_at_once_stay_until_they_are_heard_of_or_too_old() {
        let fresh = u64::try_from(HEARTBEAT_FRESH.as_millis()).expect("minutes");
        let mut beats = Beats::default();
        beats.learn([of(&[0, 1], 0), of(&[2], 5)].concat(), NOW);
        let all = ["backend-0", "backend-1", "backend-2"];
        assert_eq!(names(beats.learn(vec![], NOW + 1)), all);
        // They come back one by one: the first does not get everything.
        assert_eq!(names(beats.learn(of(&[1], 2), NOW + 2)), all);
        assert_eq!(names(beats.learn(of(&[1], 2), NOW + fresh)), all);
        assert_eq!(names(beats.learn(of(&[1], 2), NOW + fresh + 1)), ["backend-1", "backend-2"], "too old");
        assert_eq!(names(beats.learn(of(&[1, 2], fresh), NOW + fresh + 2)), ["backend-1", "backend-2"]);
        // All are back: from now on one that goes is gone.
        assert_eq!(names(beats.learn(of(&[2], fresh), NOW + fresh + 3)), ["backend-2"]);
        assert_eq!(names(beats.learn(vec![], NOW + 2 * fresh)), ["backend-2"]);
        assert!(beats.learn(vec![], NOW + 2 * fresh + 1).is_empty(), "and not for ever");
    }
}
