//! Passive health: a pod that keeps failing gets no new requests for a while.
//!
//! nginx's `max_fails` and `fail_timeout`: so many failures within that time, and the pod is left out for as long; then
//! one request is let through to it, and decides. Only requests without a room ask: a room's pod is never replaced.

use std::time::{Duration, Instant};

/// `--max-fails`, `--fail-timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionLimits {
    /// Failures that eject, at least 1.
    pub fails: u32,
    /// Within this time; and for how long the pod is then left out.
    pub timeout: Duration,
}

/// What is remembered of one pod's failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conduct {
    fails: u32,
    /// When the first of them was.
    since: Option<Instant>,
    ejected_until: Option<Instant>,
}

/// Whether a pod gets new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    In,
    /// It does not.
    Out,
    /// It gets the one that decides.
    OnTrial,
}

impl Conduct {
    /// Whether nothing is held against the pod.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    /// The pod's standing now.
    pub fn standing(&self, now: Instant) -> Standing {
        match self.ejected_until {
            None => Standing::In,
            Some(until) if now < until => Standing::Out,
            Some(_) => Standing::OnTrial,
        }
    }

    /// The request on trial is on its way: until it is decided, and no longer than the timeout, no other one is sent.
    pub fn begin_trial(&mut self, limits: EjectionLimits, now: Instant) {
        self.ejected_until = Some(now + limits.timeout);
    }

    /// A request has failed at the pod. `may_eject` says whether enough others are left. Whether this one ejected it.
    pub fn failed(&mut self, limits: EjectionLimits, now: Instant, may_eject: bool) -> bool {
        let recent = self.since.is_some_and(|since| now.saturating_duration_since(since) < limits.timeout);
        if !recent {
            (self.fails, self.since) = (0, Some(now));
        }
        self.fails = self.fails.saturating_add(1);
        if self.ejected_until.is_some() {
            // The trial, or a request from before the ejection: the time begins anew, and nothing new has happened.
            self.begin_trial(limits, now);
            return false;
        }
        let ejected = self.fails >= limits.fails && may_eject;
        if ejected {
            self.ejected_until = Some(now + limits.timeout);
        }
        ejected
    }

    /// The pod has answered a request sensibly: nothing is held against it any more.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }
}

/// Whether one more of a set may be ejected: never more than half of it.
pub fn may_eject(members: usize, ejected: usize) -> bool {
    (ejected + 1) * 2 <= members
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: EjectionLimits = EjectionLimits { fails: 3, timeout: Duration::from_secs(30) };

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn so_many_failures_within_the_time_eject() {
        let (start, mut pod) = (Instant::now(), Conduct::default());
        assert!(!pod.failed(LIMITS, at(start, 0), true) && !pod.failed(LIMITS, at(start, 29), true));
        assert_eq!(pod.standing(at(start, 29)), Standing::In);
        // The time of the first is over: counting begins anew.
        assert!(!pod.failed(LIMITS, at(start, 30), true) && !pod.failed(LIMITS, at(start, 31), true));
        assert!(pod.failed(LIMITS, at(start, 32), true));
        assert_eq!(pod.standing(at(start, 61)), Standing::Out);
        assert_eq!(pod.standing(at(start, 62)), Standing::OnTrial);
    }

    #[test]
    fn one_request_decides_whether_it_is_back() {
        let (start, mut pod) = (Instant::now(), Conduct::default());
        assert_eq!([(); 3].map(|()| pod.failed(LIMITS, start, true)), [false, false, true]);
        pod.begin_trial(LIMITS, at(start, 30));
        assert_eq!(pod.standing(at(start, 31)), Standing::Out, "others wait for the trial");
        assert!(!pod.failed(LIMITS, at(start, 32), true), "not another ejection");
        assert_eq!(pod.standing(at(start, 61)), Standing::Out);
        assert_eq!(pod.standing(at(start, 62)), Standing::OnTrial);
        pod.succeeded();
        assert!(pod.is_clean() && pod.standing(at(start, 62)) == Standing::In);
    }

    #[test]
    fn a_success_wipes_failures_out() {
        let (start, mut pod) = (Instant::now(), Conduct::default());
        for _ in 0..5 {
            assert!(!pod.failed(LIMITS, start, true) && !pod.failed(LIMITS, start, true));
            pod.succeeded();
        }
    }

    #[test]
    fn half_of_a_set_stays() {
        let allowed = |members: usize| (0..).take_while(|ejected| may_eject(members, *ejected)).count();
        assert_eq!((0..=6).map(allowed).collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2, 3]);
        let (start, mut pod) = (Instant::now(), Conduct::default());
        assert!((0..9).all(|_| !pod.failed(LIMITS, start, false)));
        assert_eq!(pod.standing(start), Standing::In);
        assert!(pod.failed(LIMITS, start, true), "once another one is back");
    }
}
