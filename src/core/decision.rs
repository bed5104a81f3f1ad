//! Where a request goes, and what a failed attempt leads to.
//!
//! [`plan`] is the routing table of the contract as one function; [`after_failure`] is the whole retry
//! policy. Neither picks a status code: that is `proxy/reject.rs`.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::assignment::{Answer, Assignment, BadAssignment, PodId, Resolution};

/// `--on-unassigned`: what becomes of a room the directory does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnassigned {
    /// Any pod: the default backend.
    DefaultBackend,
    /// Place it, atomically.
    Assign,
    /// Refuse it.
    Reject,
}

/// What to do with a request that names a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Send the browser to the page, with the pod if there is one.
    Redirect(Option<PodId>),
    /// Forward to the room's pod.
    Forward(Assignment),
    /// Forward to any pod.
    DefaultBackend,
    /// Choose a pod, claim the room for it, and plan again.
    Place,
    /// Answer ourselves.
    Refuse(RoomRefusal),
}

/// Why a room's request cannot be routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomRefusal {
    /// The directory does not know the room, and `--on-unassigned reject` is set.
    Unassigned,
    /// The directory's value cannot be used.
    BadAssignment(BadAssignment),
    /// The directory cannot be asked and nothing usable is remembered. Never a guess: a room sent to the
    /// wrong pod is worse than a retry.
    DirectoryUnavailable,
}

/// The routing table for a request that names a room; `page_load` is [`super::redirect::Redirect::applies_to`].
pub fn plan(page_load: bool, resolution: Resolution, on_unassigned: OnUnassigned) -> Plan {
    match resolution {
        Resolution::Unknown => Plan::Refuse(RoomRefusal::DirectoryUnavailable),
        Resolution::Fresh(Answer::Unusable(why)) => Plan::Refuse(RoomRefusal::BadAssignment(why)),
        Resolution::Fresh(Answer::Assigned(assignment)) | Resolution::Stale(assignment) => {
            if page_load {
                Plan::Redirect(Some(assignment.pod))
            } else {
                Plan::Forward(assignment)
            }
        }
        Resolution::Fresh(Answer::Unassigned) if page_load => Plan::Redirect(None),
        Resolution::Fresh(Answer::Unassigned) => match on_unassigned {
            OnUnassigned::DefaultBackend => Plan::DefaultBackend,
            OnUnassigned::Assign => Plan::Place,
            OnUnassigned::Reject => Plan::Refuse(RoomRefusal::Unassigned),
        },
    }
}

/// How far an attempt to reach a pod got when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its name has no address, or could not be looked up.
    Resolve,
    /// The pod has as many requests and tunnels as it may have, and as many that wait.
    Queue,
    /// Its name resolves to nothing within `--pod-networks`: not dialled.
    Confine,
    /// The connection was refused, timed out or was closed at once.
    Connect,
    /// This process could not dial: it has no file descriptor, port or route left, or may not.
    Local,
    /// The request could not be handed to the connection.
    Send,
    /// The client's request body is malformed, or did not go on: no fault of the pod's.
    Upload,
    /// The client's connection ended within its request body: nobody is left to be answered.
    Gone,
    /// The client's request body is longer than `--max-body`.
    Limit,
    /// The response head did not come.
    Head,
    /// What came is no response head that can be used.
    Malformed,
}

impl Stage {
    /// Whether it is the client, and not the pod, that failed.
    pub fn is_clients(self) -> bool {
        matches!(self, Self::Upload | Self::Gone | Self::Limit)
    }

    /// Whether the pod was not reached at all.
    pub fn is_on_the_way(self) -> bool {
        matches!(self, Self::Resolve | Self::Confine | Self::Connect | Self::Local)
    }
}

/// A failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How far it got.
    pub stage: Stage,
    /// Whether the pod may have seen any of the request.
    pub sent: bool,
    /// Whether time ran out or nobody could say, as against a refusal, a name without an address, a break of a connection
    /// that had been in use.
    pub timed_out: bool,
}

impl Failure {
    /// A connection that could not be made. Only a refusal is the pod's word; what the network and this machine say instead
    /// tells nothing of its sessions, and this machine's nothing of the pod at all.
    pub fn of_connecting(kind: ErrorKind) -> Self {
        // Too many open files have no kind of their own.
        let is_anothers = matches!(
            kind,
            ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::TimedOut
                | ErrorKind::HostUnreachable
                | ErrorKind::NotFound
        );
        let stage = if is_anothers { Stage::Connect } else { Stage::Local };
        Self { stage, sent: false, timed_out: kind != ErrorKind::ConnectionRefused }
    }

    /// Whether the pod is not there, or refuses connections: it has lost its memory, and the sessions in it. That nobody
    /// could say, or answered in time, does not mean that.
    pub fn ends_sessions(self) -> bool {
        self.stage.is_on_the_way() && !self.timed_out
    }

    /// Whether it counts towards the pod's ejection. A name server that is away says nothing of the pod, and neither does a
    /// WebSocket handshake (`upgrading`) that is closed without an answer: Engine.IO ends each one to a path that nobody
    /// serves like that (`destroyUpgrade`), so any client could have every pod ejected.
    pub fn is_held_against_pod(self, upgrading: bool) -> bool {
        match self.stage {
            Stage::Resolve => !self.timed_out,
            Stage::Confine | Stage::Connect | Stage::Malformed => true,
            Stage::Head => self.timed_out || !upgrading,
            Stage::Queue | Stage::Local | Stage::Send | Stage::Upload | Stage::Gone | Stage::Limit => false,
        }
    }
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another connection to the same pod, at once: the kept one had gone stale, nothing was sent on it.
    Resend,
    /// Another pod of the set, at once.
    Elsewhere,
    /// Ask the directory past the cache, wait this long, try again: the pod may be restarting.
    Wait(Duration),
    /// Answer ourselves.
    GiveUp,
}

/// The first and the longest pause between attempts to reach a pod.
const PAUSES: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(400));

/// The retry policy. A request of which the pod may have seen anything is never sent again (RFC 9110 section
/// 9.2.2 would allow some; Engine.IO's polling forgives none). One that never left goes `elsewhere`, if another pod would
/// do, or is held for `pod_wait`. Who finds no place has waited for one already, at all pods that would do.
pub fn after_failure(failure: Failure, attempt: u32, waited: Duration, pod_wait: Duration, elsewhere: bool) -> Next {
    if failure.sent {
        return Next::GiveUp;
    }
    match failure.stage {
        Stage::Send => Next::Resend,
        Stage::Resolve | Stage::Confine | Stage::Connect | Stage::Local if elsewhere => Next::Elsewhere,
        Stage::Confine | Stage::Queue | Stage::Head | Stage::Malformed => Next::GiveUp,
        Stage::Upload | Stage::Gone | Stage::Limit => Next::GiveUp,
        Stage::Resolve | Stage::Connect | Stage::Local => {
            let left = pod_wait.saturating_sub(waited);
            if left.is_zero() {
                Next::GiveUp
            } else {
                let pause = PAUSES.0.saturating_mul(1 << attempt.min(8)).min(PAUSES.1);
                Next::Wait(pause.min(left))
            }
        }
    }
}

/// How long a request has waited for its pod. Of both moments there is said what it had `left` for others' turns
/// (`--pod-queue-timeout`), for those are not waited for the pod, wherever they came.
pub fn waited((began, left_then): (Instant, Duration), (now, left): (Instant, Duration)) -> Duration {
    now.saturating_duration_since(began).saturating_sub(left_then.saturating_sub(left))
}

/// What the last attempt to connect has at least, however little is left of `--pod-wait`.
const SHORTEST_DIAL: Duration = Duration::from_millis(250);

/// How long one attempt may take to reach its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialLimits {
    /// Until the pod's name has an address, and the most there is for both, but for what the last connect has at least.
    pub lookup: Duration,
    /// Until one of its addresses accepts.
    pub connect: Duration,
}

impl DialLimits {
    /// The first attempt's. A resolver puts a question whose answer was lost again after 5 s (resolv.conf(5)), which is also
    /// the default of `--pod-wait`: the answer to that is waited for.
    pub fn first(connect_timeout: Duration, pod_wait: Duration) -> Self {
        let lookup = pod_wait.saturating_add(SHORTEST_DIAL).max(connect_timeout);
        Self { lookup, connect: connect_timeout }
    }

    /// A further attempt's, when its request has `waited` so long: a pod that swallows packets must not hold it for longer
    /// than one that refuses.
    pub fn further(connect_timeout: Duration, waited: Duration, pod_wait: Duration) -> Self {
        let left = pod_wait.saturating_sub(waited);
        Self { lookup: left.saturating_add(SHORTEST_DIAL), connect: left.max(SHORTEST_DIAL).min(connect_timeout) }
    }

    /// What is left to connect when the lookup has taken so long.
    pub fn connect_after(self, lookup: Duration) -> Duration {
        self.lookup.saturating_sub(lookup).max(SHORTEST_DIAL).min(self.connect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::assignment::{Epoch, StatefulSet};

    fn assignment() -> Assignment {
        Assignment { pod: StatefulSet::parse("backend").expect("a name").nth(1), epoch: Epoch(1) }
    }

    #[test]
    fn others_turns_are_not_waited_for_a_pod() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(waited((began, 5 * second), (began + 3 * second, 5 * second)), 3 * second);
        assert_eq!(waited((began, 5 * second), (began + 3 * second, 3 * second)), second);
    }

    #[test]
    fn the_routing_table() {
        let assigned = || Resolution::Fresh(Answer::Assigned(assignment()));
        let stale = || Resolution::Stale(assignment());
        let unassigned = || Resolution::Fresh(Answer::Unassigned);
        let unusable = || Resolution::Fresh(Answer::Unusable(BadAssignment::ForeignPod));
        use OnUnassigned::{Assign, DefaultBackend, Reject};
        for (page_load, resolution, policy, expected) in [
            (false, assigned(), Reject, Plan::Forward(assignment())),
            (true, assigned(), Reject, Plan::Redirect(Some(assignment().pod))),
            (false, stale(), Reject, Plan::Forward(assignment())),
            (true, stale(), Reject, Plan::Redirect(Some(assignment().pod))),
            (false, unassigned(), DefaultBackend, Plan::DefaultBackend),
            (false, unassigned(), Assign, Plan::Place),
            (false, unassigned(), Reject, Plan::Refuse(RoomRefusal::Unassigned)),
            (true, unassigned(), Reject, Plan::Redirect(None)),
            (true, unassigned(), Assign, Plan::Redirect(None)),
            (false, unusable(), DefaultBackend, Plan::Refuse(RoomRefusal::BadAssignment(BadAssignment::ForeignPod))),
            (true, unusable(), Assign, Plan::Refuse(RoomRefusal::BadAssignment(BadAssignment::ForeignPod))),
            (false, Resolution::Unknown, DefaultBackend, Plan::Refuse(RoomRefusal::DirectoryUnavailable)),
            (true, Resolution::Unknown, Assign, Plan::Refuse(RoomRefusal::DirectoryUnavailable)),
        ] {
            assert_eq!(plan(page_load, resolution.clone(), policy), expected, "{page_load} {resolution:?} {policy:?}");
        }
    }

    #[test]
    fn nothing_is_sent_twice() {
        for stage in [Stage::Resolve, Stage::Queue, Stage::Connect, Stage::Send, Stage::Head] {
            let failure = Failure { stage, sent: true, timed_out: false };
            assert_eq!(after_failure(failure, 0, Duration::ZERO, Duration::from_secs(5), true), Next::GiveUp);
        }
    }

    #[test]
    fn an_unreachable_pod_is_waited_for_and_not_longer() {
        let wait = Duration::from_secs(5);
        let after = |attempt, waited| {
            let failure = Failure { stage: Stage::Connect, sent: false, timed_out: false };
            after_failure(failure, attempt, waited, wait, false)
        };
        assert_eq!(after(0, Duration::ZERO), Next::Wait(Duration::from_millis(25)));
        assert_eq!(after(2, Duration::ZERO), Next::Wait(Duration::from_millis(100)));
        assert_eq!(after(1000, Duration::ZERO), Next::Wait(PAUSES.1));
        assert_eq!(after(9, Duration::from_millis(4990)), Next::Wait(Duration::from_millis(10)));
        assert_eq!(after(9, wait), Next::GiveUp);
        let none = Failure { stage: Stage::Connect, sent: false, timed_out: true };
        assert_eq!(after_failure(none, 0, Duration::ZERO, Duration::ZERO, false), Next::GiveUp);
    }

    #[test]
    fn the_last_dial_is_as_long_as_what_is_left() {
        let millis = Duration::from_millis;
        let of =
            |connect, waited| DialLimits::further(millis(connect), millis(waited), millis(5000)).connect.as_millis();
        assert_eq!((of(2000, 100), of(2000, 4000), of(2000, 4900), of(2000, 9000)), (2000, 1000, 250, 250));
        assert_eq!(of(100, 4950), 100, "never longer than --connect-timeout");
    }

    #[test]
    fn a_lookup_is_a_part_of_the_wait_for_the_pod() {
        let millis = Duration::from_millis;
        let first = |pod_wait| DialLimits::first(millis(2000), millis(pod_wait));
        assert_eq!(
            (first(5000).lookup, first(0).lookup, first(5000).connect),
            (millis(5250), millis(2000), millis(2000))
        );
        let after = |limits: DialLimits, lookup| limits.connect_after(millis(lookup)).as_millis();
        assert_eq!((after(first(5000), 0), after(first(5000), 4000), after(first(5000), 5200)), (2000, 1250, 250));
        assert_eq!((after(first(0), 500), after(first(0), 2000)), (1500, 250));
        let further = DialLimits::further(millis(2000), millis(4000), millis(5000));
        assert_eq!((further.lookup, after(further, 0), after(further, 900)), (millis(1250), 1000, 350));
    }

    #[test]
    fn what_is_no_fault_of_the_pods_is_not_held_against_it() {
        let held = |stage, timed_out, upgrading| {
            let failure = Failure { stage, sent: stage == Stage::Head, timed_out };
            failure.is_held_against_pod(upgrading)
        };
        for upgrading in [false, true] {
            assert!(!held(Stage::Resolve, true, upgrading), "nobody could say");
            assert!(held(Stage::Resolve, false, upgrading), "it has no address");
            assert!([false, true].iter().all(|timed_out| held(Stage::Connect, *timed_out, upgrading)));
            assert!(held(Stage::Head, true, upgrading), "it hangs");
            assert!(held(Stage::Malformed, false, upgrading));
            for stage in [Stage::Queue, Stage::Send, Stage::Upload, Stage::Gone, Stage::Limit] {
                assert!(!held(stage, false, upgrading) && !held(stage, true, upgrading));
            }
        }
        assert_eq!([false, true].map(|upgrading| held(Stage::Head, false, upgrading)), [true, false]);
    }

    #[test]
    fn only_a_refusal_ends_sessions_and_no_fault_of_our_own_counts() {
        let of = |kind| {
            let failure = Failure::of_connecting(kind);
            (failure.ends_sessions(), failure.is_held_against_pod(false))
        };
        assert_eq!(of(ErrorKind::ConnectionRefused), (true, true));
        for kind in [ErrorKind::TimedOut, ErrorKind::HostUnreachable, ErrorKind::ConnectionReset] {
            assert_eq!(of(kind), (false, true), "{kind:?}");
        }
        let too_many_files = std::io::Error::from_raw_os_error(24).kind();
        for kind in [
            ErrorKind::AddrNotAvailable,
            ErrorKind::NetworkUnreachable,
            ErrorKind::PermissionDenied,
            ErrorKind::AddrInUse,
            too_many_files,
        ] {
            assert_eq!(of(kind), (false, false), "{kind:?}");
        }
    }

    #[test]
    fn a_stale_connection_is_replaced_at_once() {
        let failure = Failure { stage: Stage::Send, sent: false, timed_out: false };
        assert_eq!(after_failure(failure, 0, Duration::from_secs(9), Duration::ZERO, true), Next::Resend);
    }

    #[test]
    fn what_was_not_sent_may_go_elsewhere() {
        let after = |stage, elsewhere| {
            let failure = Failure { stage, sent: false, timed_out: true };
            after_failure(failure, 0, Duration::from_secs(9), Duration::ZERO, elsewhere)
        };
        for stage in [Stage::Resolve, Stage::Connect] {
            assert_eq!((after(stage, true), after(stage, false)), (Next::Elsewhere, Next::GiveUp));
        }
        for stage in [Stage::Queue, Stage::Upload, Stage::Gone, Stage::Head, Stage::Malformed] {
            assert_eq!(after(stage, true), Next::GiveUp);
        }
    }
}
