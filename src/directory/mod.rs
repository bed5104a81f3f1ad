//! Who owns a room.
//!
//! [`Directory`] is the one trait of the crate: the source of truth, asked with one question a room. Redis
//! is the real one, [`memory`] serves `dev`, tests and a single replica. Nobody asks it directly on the
//! request path: the resolver does, with its cache, its single flight and its rules for a directory that is
//! away.

mod heartbeats;
pub mod memory;
pub mod redis;
pub mod resolver;

use std::fmt;
use std::future::Future;

use crate::core::assignment::{Answer, Epoch, Heartbeat, PodId};
use crate::core::room::RoomId;

/// How far what a backend dates may lie ahead of this machine's clock before the log says so: clocks differ by less than a day.
const SKEW_MS: u64 = 24 * 60 * 60 * 1000;

/// The source of truth about rooms. Cheap to clone: a handle, for the thread it was made on.
///
/// Every method has to end within the deadline its implementation was made with, queueing included, but for the time by which
/// its thread is late: nobody above has another for it.
pub trait Directory: Clone + Send + Sync + 'static {
    /// A handle for the thread this is called on, and for its runtime: what it keeps open lives there.
    fn attach(&self) -> Self;

    /// The room's assignment.
    fn lookup(&self, room: &RoomId<'_>) -> impl Future<Output = Result<Answer, DirectoryError>> + Send;

    /// Gives the room to `pod` unless somebody has it already, atomically; what holds afterwards is the
    /// answer, whoever won. The new epoch is the directory's own clock, in milliseconds, or `least` where that is later: one
    /// above what the room had, as far as who asks knows it. A directory that has lost the room, and perhaps its clock, does not.
    fn claim(
        &self,
        room: &RoomId<'_>,
        pod: &PodId,
        least: Epoch,
    ) -> impl Future<Output = Result<Answer, DirectoryError>> + Send;

    /// Whether [`Directory::claim`] would be answered, tried without giving any room to anybody.
    fn try_claiming(&self) -> impl Future<Output = Result<(), DirectoryError>> + Send {
        std::future::ready(Ok(()))
    }

    /// The heartbeats of all pods that have one.
    fn heartbeats(&self) -> impl Future<Output = Result<Vec<(PodId, Heartbeat)>, DirectoryError>> + Send;

    /// Whether it can be asked at this moment from this thread, as far as is known without asking.
    fn is_up(&self) -> bool;

    /// Whether lookups are answered on every thread, as far as is known: one that can be asked may refuse them all.
    fn answers(&self) -> bool {
        self.is_up()
    }

    /// Ends once it has answered this thread for the first time.
    fn first_contact(&self) -> impl Future<Output = ()> + Send;
}

/// A room that is looked up only to see whether lookups are answered. It has the form that rooms have by default, so that
/// key patterns which cover those cover it.
pub fn nobodys_room() -> RoomId<'static> {
    RoomId::parse("room_pod-router-check").expect("letters, digits, - and _")
}

/// Why the directory gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryError {
    /// The deadline passed.
    Timeout,
    /// It is known to be away, or the connection failed; the text says how.
    Unavailable(String),
    /// It is there and refuses to answer; the text is its own.
    Refused(String),
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("the directory did not answer within --redis-timeout"),
            Self::Unavailable(why) => write!(f, "the directory cannot be asked: {why}"),
            Self::Refused(why) => write!(f, "the directory refuses to answer: {why}"),
        }
    }
}

impl std::error::Error for DirectoryError {}
