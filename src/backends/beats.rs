//! The heartbeats that a backend's pods are known by, and what it means that all of them are gone at once.
//!
//! A Redis that has lost its data answers that nobody has a heartbeat. That says nothing of the pods: they write theirs anew
//! within a minute, one after the other. So those that were there stay until each is heard of again, or until its last
//! heartbeat would be too old anyway. A heartbeat that goes alone was taken away, and its pod leaves at once.

use std::collections::BTreeMap;

use crate::core::assignment::{Heartbeat, PodId};
use crate::core::placement::is_healthy;

/// What one source has heard.
#[derive(Debug, Default)]
pub(super) struct Beats {
    known: BTreeMap<String, (PodId, Heartbeat)>,
    /// Whether all were gone at once, and some of them still are.
    lost: bool,
}

impl Beats {
    /// Takes in what there is `now`, in milliseconds since 1970; the pods that count.
    pub(super) fn learn(&mut self, heard: Vec<(PodId, Heartbeat)>, now: u64) -> Vec<PodId> {
        self.known.retain(|_, (_, beat)| is_healthy(beat, now));
        if heard.is_empty() && !self.known.is_empty() && !self.lost {
            let pods = self.known.keys().map(String::as_str).collect::<Vec<_>>().join(",");
            tracing::warn!(pods, "all heartbeats are gone at once: their pods stay until those would be too old");
            self.lost = true;
        }
        let is_heard = |pod: &PodId| heard.iter().any(|(heard, _)| heard == pod);
        if self.lost && self.known.values().all(|(pod, _)| is_heard(pod)) {
            self.lost = false;
        }
        if !self.lost {
            self.known.clear();
        }
        self.known.extend(heard.into_iter().map(|(pod, beat)| (pod.to_string(), (pod, beat))));
        let healthy = self.known.values().filter(|(_, beat)| is_healthy(beat, now));
        healthy.map(|(pod, _)| pod.clone()).collect()
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
