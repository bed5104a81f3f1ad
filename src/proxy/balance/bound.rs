//! What binds a request without a room to a pod: its session's id, its cookie, its client's address.
//!
//! It only finds out; `balance.rs` chooses where nothing binds, and knows what follows when a pod cannot be reached.

use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;

use super::{Balancer, Target};
use crate::backends::{Backend, Member, Set, Trial};
use crate::core::assignment::PodId;
use crate::core::balance::Availability;
use crate::core::headers::cookies;
use crate::core::session::{AffinitySource, Session, pod_in_sid};

/// So many cookies of the name are looked at for a signature, which costs more than to look for a listed pod. A browser
/// has one for each backend.
const SIGNATURES: usize = 4;

/// What a request is bound to.
pub(super) enum Bound {
    /// A pod, perhaps by being its trial.
    Pod(Target, AffinitySource, Option<Trial>),
    /// Whatever the client's address leads to.
    ClientIp,
    /// A pod that is not there any more, or nobody knows which.
    Gone,
    /// Nothing.
    Free,
}

impl Balancer {
    /// The pod that the client's cookie stands for. One that this replica does not list was signed by one that did.
    pub(super) fn cookie_pod(&self, head: &Parts, backend: &Backend, set: &Set) -> Option<Target> {
        let name = &self.config.backends.session.cookie.as_ref()?.name;
        if let Some(member) = cookies(head, name).find_map(|value| set.with_cookie(value)) {
            return Some(Target::Listed(Arc::clone(member)));
        }
        let mut signed = cookies(head, name).take(SIGNATURES).filter_map(|value| self.backends.signed(backend, value));
        self.unlisted(&signed.next()?, backend, set)
    }

    /// What binds the request: the pod in its `sid`, its cookie, the client's address, in this order.
    pub(super) fn bound(
        &self,
        cookie_pod: Option<&Target>,
        session: &Session<'_>,
        backend: &Backend,
        set: &Set,
    ) -> Bound {
        let affinity = &self.config.backends.session;
        if let Session::Sid(sid) = session
            && affinity.sid
            && let Some(pod) = pod_in_sid(sid)
            && let Some(bound) = self.bound_by_sid(pod, backend, set)
        {
            return bound;
        }
        if let Some(bound) = cookie_pod.and_then(|pod| self.bound_by_cookie(pod, session)) {
            return bound;
        }
        match session {
            Session::None => Bound::Free,
            _ if affinity.client_ip => Bound::ClientIp,
            Session::Handshake => Bound::Free,
            // Never balanced anew; but where there is only one pod, it is the one.
            Session::Sid(_) => match &*set.members {
                [only] => of_session(only, AffinitySource::None),
                // That nobody is known says nothing about the session's pod.
                [] => Bound::Free,
                _ if !affinity.sid && affinity.cookie.is_none() => Bound::Free,
                _ => {
                    if affinity.sid {
                        self.backends.note_unnamed_sid(backend);
                    }
                    Bound::Gone
                }
            },
        }
    }

    /// The pod that a `sid` names: one of the set, or one of the StatefulSet. `None` for a name that is no pod's: another
    /// program's idea of a `sid`.
    fn bound_by_sid(&self, pod: &str, backend: &Backend, set: &Set) -> Option<Bound> {
        if let Some(member) = set.named(pod) {
            return Some(of_session(member, AffinitySource::Sid));
        }
        let pod = self.config.routing.statefulset.pod(pod)?;
        self.unlisted(&pod, backend, set).map(|target| Bound::Pod(target, AffinitySource::Sid, None))
    }

    /// A pod of the StatefulSet that this replica does not list now, which does not mean that it is gone: another replica
    /// may have heard of it first, and DNS leaves out who is not ready. A route's pods are not the StatefulSet's where none is
    /// known to be.
    fn unlisted(&self, pod: &PodId, backend: &Backend, set: &Set) -> Option<Target> {
        (backend.is_default() || set.has_pods())
            .then(|| Target::Unlisted { name: pod.as_str().into(), address: self.config.routing.address_of(pod) })
    }

    /// The pod that a cookie stands for. `None` where the request is better off elsewhere: the pod is out, and no session
    /// of the request's that may live on there. What a pod on probation gets is its trial, if it has a place for it.
    fn bound_by_cookie(&self, pod: &Target, session: &Session<'_>) -> Option<Bound> {
        let (now, in_session) = (Instant::now(), matches!(session, Session::Sid(_)));
        let bound = |trial| Bound::Pod(pod.clone(), AffinitySource::Cookie, trial);
        let Target::Listed(member) = pod else {
            return Some(bound(None));
        };
        match member.availability(now) {
            Availability::Maintenance => None,
            Availability::Open => Some(bound(None)),
            _ if in_session => Some(bound(None)),
            Availability::Probation if member.load() < self.full() => {
                self.take_trial(member, now).map(|trial| bound(Some(trial)))
            }
            Availability::Probation | Availability::Ejected | Availability::Down | Availability::Draining => None,
        }
    }
}

/// A pod to which a request of a session belongs.
fn of_session(member: &Arc<Member>, source: AffinitySource) -> Bound {
    if member.availability(Instant::now()) == Availability::Maintenance {
        return Bound::Gone;
    }
    Bound::Pod(Target::Listed(Arc::clone(member)), source, None)
}

/// Not in maintenance, nor if it refused connections when one was tried last: then its sessions are over. Of one that is
/// not listed nothing is known before it is tried.
pub(super) fn may_have_sessions(pod: &Target) -> bool {
    let Target::Listed(member) = pod else {
        return true;
    };
    !member.has_refused() && member.availability(Instant::now()) != Availability::Maintenance
}

#[cfg(test)]
mod tests {
    use super::super::tests::{HANDSHAKE, KEY, POLL, REFUSED, SILENT, choose, choose_with, name, of};
    use super::super::{Another, Choice};
    use super::*;
    use crate::core::decision::{Failure, Stage};

    /// Three pods of the StatefulSet, of which the default backend lists two, and a route with another one.
    const PODS: [&str; 10] = [
        "--pod",
        "backend-0=10.0.0.1:1",
        "--pod",
        "backend-1=10.0.0.2:1",
        "--pod",
        "backend-2=10.0.0.3:1",
        "--default-backend",
        "10.0.0.1:1,10.0.0.2:1",
        "--route",
        "/api/=10.0.0.9:1",
    ];
    const COOKIES: [&str; 6] = ["--affinity-cookie", "c", "--affinity-key", KEY, "--session-affinity", "off"];
    const NO_NAME: Failure = Failure { stage: Stage::Resolve, ..REFUSED };
    const NO_ANSWER: Failure = Failure { timed_out: true, ..NO_NAME };

    /// The cookie that another replica has set for `backend-2`, which it lists.
    fn of_another_replica(pod: &str) -> String {
        let lists = ["--pod", pod, "--default-backend", "10.0.0.3:1"];
        let replica = of(&[&lists[..], &COOKIES].concat());
        let set = replica.cookie(&choose(&replica, "/", [1; 4])).expect("a cookie");
        set.to_str().ok().and_then(|set| set.split(';').next()).expect("a pair").to_owned()
    }

    fn unlisted(choice: &Choice) -> Option<&str> {
        matches!(choice.target, Target::Unlisted { .. }).then(|| &**choice.target.name())
    }

    #[test]
    fn a_pod_that_nobody_lists_is_asked_for_by_its_name() {
        let balancer = of(&["--default-backend", "backend-service:3000"]);
        let choice = choose(&balancer, "/socket.io/?EIO=4&sid=backend-7~x", [1; 4]);
        let Target::Unlisted { name, address } = &choice.target else { panic!("{choice:?}") };
        assert_eq!((&**name, &*address.host), ("backend-7", "backend-7.backend.default.svc.cluster.local"));
        assert!(balancer.backends.backend(0).set().named("backend-7").is_none());
    }

    /// Another replica may have heard of it first.
    #[test]
    fn a_pod_that_is_missing_from_its_set_is_asked_for_all_the_same() {
        let balancer = of(&PODS);
        assert!(balancer.backends.backend(1).set().has_pods());
        let choice = choose(&balancer, "/socket.io/?EIO=4&sid=backend-2~x", [1; 4]);
        let Target::Unlisted { name, address } = &choice.target else { panic!("{choice:?}") };
        assert_eq!((&**name, address.to_string().as_str()), ("backend-2", "10.0.0.3:1"));
        let elsewhere = choose(&balancer, "/api/?EIO=4&sid=backend-2~x", [1; 4]);
        assert_eq!(&**elsewhere.target.name(), "10.0.0.9:1", "no pod of the StatefulSet's");
    }

    /// One of a route's pods may not be known by its name, or not yet.
    #[test]
    fn a_route_with_any_pod_of_the_statefulset_has_all_of_them() {
        let balancer = of(&[&PODS[..8], &["--route", "/api/=10.0.0.9:1,10.0.0.2:1"]].concat());
        let of_sid = |pod: &str| choose(&balancer, &format!("/api/?EIO=4&sid={pod}~x"), [1; 4]);
        assert_eq!((unlisted(&of_sid("backend-1")), unlisted(&of_sid("backend-2"))), (None, Some("backend-2")));
    }

    #[test]
    fn a_cookie_leads_to_a_pod_that_is_missing_from_its_set() {
        let (balancer, cookie) = (of(&[&PODS[..], &COOKIES].concat()), of_another_replica("backend-2=10.0.0.3:1"));
        for target in ["/", HANDSHAKE, POLL] {
            let choice = choose_with(&balancer, target, [1; 4], &cookie);
            assert_eq!((unlisted(&choice), choice.source), (Some("backend-2"), AffinitySource::Cookie), "{target}");
            assert!(balancer.cookie(&choice).is_none(), "it has its cookie");
        }
        let elsewhere = choose_with(&balancer, "/api/", [1; 4], &cookie);
        assert_eq!(
            &**elsewhere.target.name(),
            "10.0.0.9:1",
            "another backend's cookie, and no pod of the StatefulSet's"
        );
        // One that is listed needs no name.
        let listed = choose_with(&balancer, "/", [1; 4], &of_another_replica("backend-1=10.0.0.3:1"));
        assert_eq!((unlisted(&listed), &*name(&listed)), (None, "backend-1"));
    }

    #[test]
    fn a_cookie_ends_where_its_missing_pod_cannot_be_reached() {
        let args = [&PODS[..], &COOKIES, &["--retry-budget", "0"]].concat();
        let (balancer, cookie) = (of(&args), of_another_replica("backend-2=10.0.0.3:1"));
        for (failure, is_over) in [(NO_NAME, true), (REFUSED, true), (SILENT, true), (NO_ANSWER, false)] {
            for target in ["/", HANDSHAKE] {
                let mut choice = choose_with(&balancer, target, [1; 4], &cookie);
                assert_eq!(
                    balancer.elsewhere(&mut choice, failure),
                    Another::Chosen,
                    "{target} {failure:?}: at no cost"
                );
                assert!(unlisted(&choice).is_none());
                let is_replaced = balancer.cookie(&choice).is_some();
                assert_eq!(is_replaced, is_over || target == HANDSHAKE, "{target} {failure:?}");
            }
            let mut session = choose_with(&balancer, POLL, [1; 4], &cookie);
            assert_eq!(balancer.elsewhere(&mut session, failure), Another::None, "{failure:?}");
            balancer.after_pause(&mut session);
            assert_eq!(unlisted(&session), Some("backend-2"));
        }
    }

    #[test]
    fn what_nobody_signed_names_no_pod_and_few_are_looked_at() {
        let (balancer, cookie) = (of(&[&PODS[..], &COOKIES].concat()), of_another_replica("backend-2=10.0.0.3:1"));
        let forged = "c=backend-2.00000000000000000000000000000000; ";
        let source = |cookie: &str| choose_with(&balancer, "/", [1; 4], cookie).source;
        assert_eq!(source(forged), AffinitySource::None);
        assert_eq!(source(&format!("{}{cookie}", forged.repeat(SIGNATURES - 1))), AffinitySource::Cookie);
        assert_eq!(source(&format!("{}{cookie}", forged.repeat(SIGNATURES))), AffinitySource::None);
    }
}
