//! What the demo pods share, as real pods share their Redis.
//!
//! Rooms are remembered here because the directory answers for one room at a time and the page wants a list. The
//! directory alone says which pod a room has: this keeps names only.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::core::assignment::{Assignment, Heartbeat, PodId};
use crate::core::room::RoomId;
use crate::directory::Directory;
use crate::directory::memory::{MemoryDirectory, now_ms};

/// How many rooms the demo remembers. Placement ends far earlier (20 rooms a pod); only moves could go on.
const MAX_ROOMS: usize = 1000;

/// The directory, the pods' names, the rooms they have seen, and where the router's admin listener is.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) pods: Vec<PodId>,
    directory: MemoryDirectory,
    rooms: Mutex<BTreeSet<RoomId<'static>>>,
    admin: Mutex<String>,
}

/// What [`Cluster::remember`] made of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remembered {
    Known,
    New,
    /// There are too many rooms already.
    Full,
}

impl Cluster {
    pub(super) fn new(directory: MemoryDirectory, pods: Vec<PodId>, admin: String) -> Self {
        Self { pods, directory, rooms: Mutex::default(), admin: Mutex::new(admin) }
    }

    /// The demo's pod of this name.
    pub(super) fn pod(&self, name: &str) -> Option<&PodId> {
        self.pods.iter().find(|pod| pod.as_str() == name)
    }

    /// The router's admin listener, as `host:port`.
    pub(super) fn admin(&self) -> String {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_admin(&self, admin: String) {
        *self.admin.lock().unwrap_or_else(PoisonError::into_inner) = admin;
    }

    pub(super) fn remember(&self, room: &RoomId<'_>) -> Remembered {
        let mut rooms = self.names();
        if rooms.contains(room.as_str()) {
            Remembered::Known
        } else if rooms.len() >= MAX_ROOMS {
            Remembered::Full
        } else {
            rooms.insert(room.clone().into_owned());
            Remembered::New
        }
    }

    /// The rooms seen so far that the directory knows, and what it says of them.
    pub(super) fn rooms(&self) -> Vec<(RoomId<'static>, Assignment)> {
        let names = self.names().clone();
        names.into_iter().filter_map(|room| self.directory.get(&room).map(|assignment| (room, assignment))).collect()
    }

    /// How many rooms the directory gives to `pod`.
    pub(super) fn rooms_of(&self, pod: &PodId) -> u64 {
        self.rooms().iter().map(|(_, assignment)| u64::from(assignment.pod == *pod)).sum()
    }

    /// Gives the room to `pod`, as a backend does that writes `room:<roomId>:pod` to Redis.
    pub(super) fn assign(&self, room: &RoomId<'_>, pod: &PodId) -> Assignment {
        self.directory.assign(room, pod)
    }

    /// Writes the pod's heartbeat, as a backend does to `pod:<podId>:metrics`.
    pub(super) fn beat(&self, pod: &PodId, participants: u64) {
        let active_rooms = self.rooms_of(pod);
        self.directory.beat(pod, Heartbeat { active_rooms, total_participants: participants, last_update: now_ms() });
    }

    /// The pods' heartbeats, which is what the router places new rooms by.
    pub(super) async fn heartbeats(&self) -> Vec<(PodId, Heartbeat)> {
        let mut beats = self.directory.heartbeats().await.unwrap_or_default();
        beats.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        beats
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<RoomId<'static>>> {
        // Every update is a single insert: there is no half-done state a panic could have left.
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
