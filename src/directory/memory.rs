//! A directory in this process's own memory, for `dev`, for tests and for a single replica.
//!
//! It is never away. What pods would write to Redis, `dev`'s demo pods write here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Directory, DirectoryError};
use crate::core::assignment::{Answer, Assignment, Epoch, Heartbeat, PodId};
use crate::core::room::RoomId;

/// Rooms and heartbeats behind one lock, never held across an await.
#[derive(Clone, Debug, Default)]
pub struct MemoryDirectory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    rooms: HashMap<RoomId<'static>, Assignment>,
    heartbeats: HashMap<PodId, Heartbeat>,
}

impl MemoryDirectory {
    /// Gives the room to `pod`, whoever had it, under a higher epoch than before.
    pub fn assign(&self, room: &RoomId<'_>, pod: &PodId) -> Assignment {
        let mut state = self.state();
        let before = state.rooms.get(room.as_str()).map(|assignment| assignment.epoch.0 + 1);
        let assignment = Assignment { pod: pod.clone(), epoch: Epoch(now_ms().max(before.unwrap_or(0))) };
        state.rooms.insert(room.clone().into_owned(), assignment.clone());
        assignment
    }

    /// The room's assignment, read at once.
    pub fn get(&self, room: &RoomId<'_>) -> Option<Assignment> {
        self.state().rooms.get(room.as_str()).cloned()
    }

    /// Records a pod's heartbeat.
    pub fn beat(&self, pod: &PodId, heartbeat: Heartbeat) {
        self.state().heartbeats.insert(pod.clone(), heartbeat);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every update is a single insert: there is no half-done state a panic could have left.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory for MemoryDirectory {
    fn attach(&self) -> Self {
        self.clone()
    }

    async fn lookup(&self, room: &RoomId<'_>) -> Result<Answer, DirectoryError> {
        Ok(self.get(room).map_or(Answer::Unassigned, Answer::Assigned))
    }

    async fn claim(&self, room: &RoomId<'_>, pod: &PodId, least: Epoch) -> Result<Answer, DirectoryError> {
        let mut state = self.state();
        let new = || Assignment { pod: pod.clone(), epoch: Epoch(now_ms()).max(least) };
        let holder = state.rooms.entry(room.clone().into_owned()).or_insert_with(new);
        Ok(Answer::Assigned(holder.clone()))
    }

    async fn heartbeats(&self) -> Result<Vec<(PodId, Heartbeat)>, DirectoryError> {
        Ok(self.state().heartbeats.iter().map(|(pod, beat)| (pod.clone(), *beat)).collect())
    }

    fn is_up(&self) -> bool {
        true
    }

    async fn first_contact(&self) {}
}

/// The wall clock, as the backends write it.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
