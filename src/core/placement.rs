//! Choosing a pod for a new room, from the pods' heartbeats.
//!
//! The seed's score: room capacity (0 to 35 points), participant capacity (0 to 35), load balance (0 to 20)
//! and freshness of the heartbeat (0 to 10). Pods at a limit, and pods that have not been heard of lately,
//! are not chosen at all.

use super::assignment::{HEARTBEAT_FRESH, Heartbeat, PodId};

/// How much a pod may hold; `MAX_ROOMS_PER_POD` and `MAX_PARTICIPANTS_PER_POD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rooms per pod, at least 1.
    pub rooms: u64,
    /// Participants per pod, at least 1.
    pub participants: u64,
}

/// The pod for a new room, if any has space. `now` is in milliseconds since 1970, as the heartbeats are.
/// `roll` breaks ties, so that replicas that decide at once do not all pick the same pod.
pub fn choose(pods: &[(PodId, Heartbeat)], limits: Limits, now: u64, roll: u64) -> Option<&PodId> {
    let open: Vec<_> = pods.iter().filter(|(_, beat)| is_open(beat, limits, now)).collect();
    let mean = open.iter().map(|(_, beat)| load(beat, limits)).sum::<f64>() / open.len().max(1) as f64;
    let scored: Vec<_> = open.iter().map(|(pod, beat)| (score(beat, limits, mean, now), pod)).collect();
    let best = scored.iter().map(|(score, _)| *score).max_by(f64::total_cmp)?;
    let tied: Vec<_> = scored.into_iter().filter(|(score, _)| (best - score).abs() < 1e-9).collect();
    let turn = usize::try_from(roll % tied.len() as u64).ok()?;
    tied.get(turn).map(|(_, pod)| *pod)
}

fn is_open(beat: &Heartbeat, limits: Limits, now: u64) -> bool {
    is_healthy(beat, now) && beat.active_rooms < limits.rooms && beat.total_participants < limits.participants
}

/// Whether a pod has been heard of lately. A heartbeat from the future is a skewed clock, not a dead pod; for how long is
/// its reader's to see to (`directory::heartbeats`).
pub fn is_healthy(beat: &Heartbeat, now: u64) -> bool {
    u128::from(now.saturating_sub(beat.last_update)) <= HEARTBEAT_FRESH.as_millis()
}

/// How full a pod is, 0 to 1: half rooms, half participants.
fn load(beat: &Heartbeat, limits: Limits) -> f64 {
    (share(beat.active_rooms, limits.rooms) + share(beat.total_participants, limits.participants)) / 2.0
}

fn share(used: u64, limit: u64) -> f64 {
    (used as f64 / limit.max(1) as f64).min(1.0)
}

fn score(beat: &Heartbeat, limits: Limits, mean_load: f64, now: u64) -> f64 {
    let rooms = 35.0 * (1.0 - share(beat.active_rooms, limits.rooms));
    let participants = 35.0 * (1.0 - share(beat.total_participants, limits.participants));
    // Below the mean load: more than half of the points; above it: fewer.
    let balance = 20.0 * (0.5 + (mean_load - load(beat, limits)) / 2.0).clamp(0.0, 1.0);
    let age = now.saturating_sub(beat.last_update) as f64 / HEARTBEAT_FRESH.as_millis() as f64;
    rooms + participants + balance + 10.0 * (1.0 - age.min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::assignment::StatefulSet;

    const LIMITS: Limits = Limits { rooms: 20, participants: 80 };
    const NOW: u64 = 1_634_567_890_123;

    fn pods(beats: &[(u64, u64, u64)]) -> Vec<(PodId, Heartbeat)> {
        let set = StatefulSet::parse("backend").expect("a name");
        beats
            .iter()
            .zip(0..)
            .map(|((active_rooms, total_participants, age), ordinal)| {
                let beat = Heartbeat {
                    active_rooms: *active_rooms,
                    total_participants: *total_participants,
                    last_update: NOW - age,
                };
                (set.nth(ordinal), beat)
            })
            .collect()
    }

    fn chosen(beats: &[(u64, u64, u64)], roll: u64) -> Option<String> {
        choose(&pods(beats), LIMITS, NOW, roll).map(PodId::to_string)
    }

    #[test]
    fn the_emptiest_pod_gets_the_room() {
        assert_eq!(chosen(&[(5, 20, 0), (4, 20, 0), (5, 21, 0)], 0).as_deref(), Some("backend-1"));
    }

    #[test]
    fn a_full_or_silent_pod_gets_none() {
        assert_eq!(chosen(&[(20, 0, 0), (0, 80, 0), (0, 0, 180_001)], 0), None);
        assert_eq!(chosen(&[], 0), None);
        assert_eq!(chosen(&[(20, 0, 0), (19, 79, 179_000)], 0).as_deref(), Some("backend-1"));
    }

    #[test]
    fn a_fresher_heartbeat_decides_between_equals() {
        assert_eq!(chosen(&[(3, 3, 90_000), (3, 3, 1_000)], 0).as_deref(), Some("backend-1"));
    }

    #[test]
    fn the_roll_spreads_ties() {
        let picks: std::collections::BTreeSet<_> = (0..3).filter_map(|roll| chosen(&[(1, 1, 0); 3], roll)).collect();
        assert_eq!(picks.len(), 3);
    }
}
