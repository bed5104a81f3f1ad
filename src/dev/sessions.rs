//! The Engine.IO sessions of one pod: a queue of packets each, read by long polls.
//!
//! They are in this pod's memory and nowhere else, which is the point of the demo: a poll that reaches another pod
//! meets "Session ID unknown". Bounded in number, in packets, in bytes and in time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::core::room::RoomId;

/// `pingInterval`: the longest a poll is held; it then answers with a ping, as Engine.IO's server does.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(25);

/// `pingTimeout`: how much longer a session may be silent before it is dropped.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// `maxPayload`: bytes of one POST, and of what waits for one poll.
pub(super) const MAX_PAYLOAD: usize = 1_000_000;

/// Between the packets of one payload (Engine.IO protocol, revision 4).
pub(super) const SEPARATOR: char = '\u{1e}';

const PING: &str = "2";
const MAX_SESSIONS: usize = 256;
const MAX_PACKETS: usize = 64;

/// The sessions by their id.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

/// One client's session.
#[derive(Debug)]
pub(super) struct Session {
    /// The room its handshake named.
    pub(super) room: Option<RoomId<'static>>,
    outbox: Mutex<Outbox>,
    /// Wakes the poll that waits.
    filled: Notify,
}

#[derive(Debug)]
struct Outbox {
    packets: VecDeque<String>,
    bytes: usize,
    last_request: Instant,
}

/// The session's queue has no space: the client posts and does not poll.
#[derive(Debug)]
pub(super) struct QueueFull;

impl Sessions {
    /// A new session and its id, unless there are too many.
    pub(super) fn open(&self, room: Option<RoomId<'static>>) -> Option<String> {
        let mut sessions = self.by_id();
        if sessions.len() >= MAX_SESSIONS {
            return None;
        }
        // As long as Engine.IO's own: 20 characters, unguessable enough for a demo on one machine.
        let sid: String = std::iter::repeat_with(fastrand::alphanumeric).take(20).collect();
        sessions.insert(sid.clone(), Arc::new(Session::new(room)));
        Some(sid)
    }

    /// The session of this id, which has just been heard of.
    pub(super) fn find(&self, sid: &str) -> Option<Arc<Session>> {
        let session = self.by_id().get(sid).cloned()?;
        session.outbox().last_request = Instant::now();
        Some(session)
    }

    pub(super) fn close(&self, sid: &str) {
        self.by_id().remove(sid);
    }

    /// Drops the sessions that were silent for too long.
    pub(super) fn sweep(&self, now: Instant) {
        let limit = PING_INTERVAL + PING_TIMEOUT;
        self.by_id().retain(|_, session| now.saturating_duration_since(session.outbox().last_request) <= limit);
    }

    pub(super) fn count(&self) -> usize {
        self.by_id().len()
    }

    fn by_id(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        // Every update is one insert or removal: there is no half-done state a panic could have left.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn new(room: Option<RoomId<'static>>) -> Self {
        let outbox = Outbox { packets: VecDeque::new(), bytes: 0, last_request: Instant::now() };
        Self { room, outbox: Mutex::new(outbox), filled: Notify::new() }
    }

    /// Queues a packet for the next poll.
    pub(super) fn push(&self, packet: String) -> Result<(), QueueFull> {
        let mut outbox = self.outbox();
        if outbox.packets.len() >= MAX_PACKETS || outbox.bytes + packet.len() > MAX_PAYLOAD {
            return Err(QueueFull);
        }
        outbox.bytes += packet.len();
        outbox.packets.push_back(packet);
        drop(outbox);
        // Leaves a permit where no poll waits yet, so that none is missed.
        self.filled.notify_one();
        Ok(())
    }

    /// All that is queued, as one payload; waits for something, at most [`PING_INTERVAL`].
    pub(super) async fn poll(&self) -> String {
        let filled = async {
            loop {
                if let Some(payload) = self.take() {
                    return payload;
                }
                self.filled.notified().await;
            }
        };
        tokio::time::timeout(PING_INTERVAL, filled).await.unwrap_or_else(|_| PING.to_owned())
    }

    fn take(&self) -> Option<String> {
        let mut outbox = self.outbox();
        outbox.bytes = 0;
        let packets: Vec<String> = outbox.packets.drain(..).collect();
        (!packets.is_empty()).then(|| packets.join(SEPARATOR.encode_utf8(&mut [0; 4])))
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        // A panic between the two fields of an update is impossible: nothing there can panic.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_session_ends_and_one_that_is_heard_of_stays() {
        let sessions = Sessions::default();
        let sid = sessions.open(None).expect("space");
        sessions.sweep(Instant::now() + PING_INTERVAL);
        assert!(sessions.find(&sid).is_some());
        sessions.sweep(Instant::now() + PING_INTERVAL + PING_TIMEOUT + Duration::from_secs(1));
        assert!(sessions.find(&sid).is_none());
    }

    #[test]
    fn sessions_packets_and_bytes_are_bounded() {
        let sessions = Sessions::default();
        let sids: Vec<_> = (0..MAX_SESSIONS).filter_map(|_| sessions.open(None)).collect();
        assert_eq!((sids.len(), sessions.open(None)), (MAX_SESSIONS, None));
        let session = sessions.find(&sids[0]).expect("a session");
        assert!((0..MAX_PACKETS).all(|_| session.push("4x".to_owned()).is_ok()));
        assert!(session.push("4x".to_owned()).is_err());
        let other = sessions.find(&sids[1]).expect("a session");
        assert!(other.push("x".repeat(MAX_PAYLOAD)).is_ok());
        assert!(other.push("x".to_owned()).is_err());
        assert_eq!(other.take().map(|payload| payload.len()), Some(MAX_PAYLOAD));
        assert!(other.push("x".to_owned()).is_ok());
    }
}
