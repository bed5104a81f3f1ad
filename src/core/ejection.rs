//! Outlier detection, passively: a pod that keeps failing is ejected, which is to say it gets no new requests for a while.
//!
//! nginx's `max_fails` and `fail_timeout`: so many failures within that time, and the pod is out for as long. Successes in
//! between wipe nothing out, as a pod that fails every other request is no good one: failures lapse with time. Then the
//! pod is on probation: one request at a time is let through to it, its trial, and only that decides. One that has not
//! ended within the same time, because its client is slow, keeps the pod no longer: another one may try, and is the trial
//! from then on. How the earlier one ends is no matter any more, unless the pod answers it: that it does is what was to be
//! found out, and a pod that takes longer than this time for each answer would else never be back. A pod that was away and
//! is back, by its health checks, is on probation at once. Only requests without a room ask: a room's pod is never replaced.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// `--max-fails`, `--fail-timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionLimits {
    /// Failures that eject, at least 1.
    pub fails: u32,
    /// Within this time; and for how long the pod is then out.
    pub timeout: Duration,
}

/// What is held against one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlier {
    /// The latest failures, oldest first: no more than eject, and none while it is ejected.
    failures: VecDeque<Instant>,
    ejection: Option<Ejection>,
    /// How many trials there have been: their numbers, of which none is used again.
    trials: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ejection {
    until: Instant,
    /// The last trial that was before it.
    after: TrialNumber,
    trial: Option<UnderWay>,
}

/// A trial that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UnderWay {
    number: TrialNumber,
    until: Instant,
}

/// Which of a pod's trials it is: one that another has taken the place of must not end that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrialNumber(u64);

/// Whether a pod gets new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    In,
    /// It does not.
    Ejected,
    /// It gets the one that decides.
    Probation,
}

impl Outlier {
    /// The pod's standing now.
    pub fn standing(&self, now: Instant) -> Standing {
        match self.ejection {
            None => Standing::In,
            Some(Ejection { until, trial, .. }) if now < trial.map_or(until, |trial| trial.until) => Standing::Ejected,
            Some(_) => Standing::Probation,
        }
    }

    /// When its ejection ends or has ended, while it is not back.
    pub fn ejected_until(&self) -> Option<Instant> {
        self.ejection.map(|ejection| ejection.until)
    }

    /// Whether it has failed often enough to be ejected, or is, even if too many others are: whoever can go elsewhere does.
    pub fn is_given_up(&self, limits: EjectionLimits, now: Instant) -> bool {
        let recent = self.failures.iter().filter(|failure| now.saturating_duration_since(**failure) < limits.timeout);
        self.ejection.is_some() || recent.count() >= enough(limits)
    }

    /// A request has failed at the pod; `may_eject` says whether enough others are left. Whether this one ejected it. At an
    /// ejected pod it is one from before, or a session's: the trial decides, not these.
    pub fn failed(&mut self, limits: EjectionLimits, now: Instant, may_eject: bool) -> bool {
        if self.ejection.is_some() {
            return false;
        }
        let enough = enough(limits);
        self.failures.retain(|failure| now.saturating_duration_since(*failure) < limits.timeout);
        self.failures.push_back(now);
        while self.failures.len() > enough {
            self.failures.pop_front();
        }
        let ejected = self.failures.len() == enough && may_eject;
        if ejected {
            self.failures.clear();
            self.eject(limits, now);
        }
        ejected
    }

    /// Takes the trial of a pod on probation; `None` where there is none to take. It has to be ended.
    pub fn begin_trial(&mut self, limits: EjectionLimits, now: Instant) -> Option<TrialNumber> {
        let is_due = self.standing(now) == Standing::Probation;
        let ejection = self.ejection.as_mut().filter(|_| is_due)?;
        self.trials += 1;
        let number = TrialNumber(self.trials);
        ejection.trial = Some(UnderWay { number, until: now + limits.timeout });
        Some(number)
    }

    /// This trial has come to nothing either way: the pod is on probation again, unless another has taken its place.
    pub fn abandon_trial(&mut self, number: TrialNumber) {
        if self.is_under_way(number) {
            self.forget_trial();
        }
    }

    /// Nobody knows any more how its trial ends: the pod is on probation again.
    pub fn forget_trial(&mut self) {
        if let Some(ejection) = &mut self.ejection {
            ejection.trial = None;
        }
    }

    /// The pod has been away and is back, by other signs than its requests: its time is over, and the next trial decides.
    pub fn shorten(&mut self, now: Instant) {
        if let Some(ejection) = &mut self.ejection {
            ejection.until = ejection.until.min(now);
        }
    }

    /// This trial has failed: the pod is out for as long again, unless another has taken its place.
    pub fn fail_trial(&mut self, number: TrialNumber, limits: EjectionLimits, now: Instant) {
        if self.is_under_way(number) {
            self.eject(limits, now);
        }
    }

    /// The pod has answered this trial, and is back: also where another has taken its place, but not where one has failed
    /// since, or the pod was back in between. Whether it was ejected.
    pub fn pass_trial(&mut self, number: TrialNumber) -> bool {
        self.ejection.is_some_and(|ejection| number > ejection.after) && self.readmit()
    }

    /// The pod is back, with nothing held against it: its trial has passed, or too many are out. Whether it was ejected.
    pub fn readmit(&mut self) -> bool {
        self.failures.clear();
        self.ejection.take().is_some()
    }

    fn eject(&mut self, limits: EjectionLimits, now: Instant) {
        self.ejection = Some(Ejection { until: now + limits.timeout, after: TrialNumber(self.trials), trial: None });
    }

    fn is_under_way(&self, number: TrialNumber) -> bool {
        self.ejection.and_then(|ejection| ejection.trial).is_some_and(|trial| trial.number == number)
    }
}

/// So many failures eject.
fn enough(limits: EjectionLimits) -> usize {
    usize::try_from(limits.fails).unwrap_or(usize::MAX).max(1)
}

/// How many of a set may be ejected at one time: never more than half of it.
pub fn most_ejected(members: usize) -> usize {
    members / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: EjectionLimits = EjectionLimits { fails: 3, timeout: Duration::from_secs(30) };

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    /// A pod that has failed at these seconds; whether the last failure ejected it.
    fn failing(start: Instant, seconds: &[u64]) -> (Outlier, bool) {
        let mut pod = Outlier::default();
        let ejected = seconds.iter().map(|second| pod.failed(LIMITS, at(start, *second), true));
        let last = ejected.last().unwrap_or_default();
        (pod, last)
    }

    #[test]
    fn so_many_failures_within_the_time_eject() {
        let start = Instant::now();
        for (seconds, ejected) in [
            (&[0, 29][..], false),
            (&[0, 0, 0], true),
            (&[0, 15, 29], true),
            // The first has lapsed; the window moves with time, so the three that are close together count.
            (&[0, 29, 30], false),
            (&[0, 29, 30, 31], true),
            (&[0, 30, 60, 90], false),
        ] {
            assert_eq!(failing(start, seconds).1, ejected, "{seconds:?}");
        }
        let (pod, _) = failing(start, &[0, 1, 2]);
        let standings = [2, 31, 32].map(|second| pod.standing(at(start, second)));
        assert_eq!(standings, [Standing::Ejected, Standing::Ejected, Standing::Probation]);
    }

    /// Its trial, which is due.
    fn tried(pod: &mut Outlier, now: Instant) -> TrialNumber {
        pod.begin_trial(LIMITS, now).expect("it is due")
    }

    #[test]
    fn one_trial_at_a_time_decides() {
        let start = Instant::now();
        let (mut pod, _) = failing(start, &[0, 0, 0]);
        assert_eq!(pod.begin_trial(LIMITS, at(start, 29)), None, "it is not due");
        tried(&mut pod, at(start, 30));
        assert_eq!(pod.begin_trial(LIMITS, at(start, 30)), None);
        assert_eq!(pod.standing(at(start, 59)), Standing::Ejected, "others wait for the trial");
        assert_eq!(pod.standing(at(start, 60)), Standing::Probation, "and not for ever");
        let second = tried(&mut pod, at(start, 60));
        assert_eq!(pod.begin_trial(LIMITS, at(start, 61)), None);
        pod.abandon_trial(second);
        assert_eq!(pod.standing(at(start, 62)), Standing::Probation, "another one may try at once");
        let third = tried(&mut pod, at(start, 99));
        pod.fail_trial(third, LIMITS, at(start, 100));
        assert_eq!([129, 130].map(|s| pod.standing(at(start, s))), [Standing::Ejected, Standing::Probation]);
        let last = tried(&mut pod, at(start, 130));
        assert!(pod.pass_trial(last));
        assert_eq!(pod.standing(at(start, 130)), Standing::In);
        // What ends too late changes nothing any more.
        pod.failed(LIMITS, at(start, 130), true);
        let back = pod.clone();
        assert!(!pod.pass_trial(third));
        pod.abandon_trial(last);
        pod.fail_trial(last, LIMITS, at(start, 131));
        assert_eq!(pod, back);
    }

    #[test]
    fn a_trial_that_another_took_the_place_of_does_not_end_that_one() {
        let start = Instant::now();
        let (mut pod, _) = failing(start, &[0, 0, 0]);
        let (late, current) = (tried(&mut pod, at(start, 30)), tried(&mut pod, at(start, 60)));
        let before = pod.clone();
        pod.abandon_trial(late);
        pod.fail_trial(late, LIMITS, at(start, 61));
        assert_eq!(pod, before, "the client of the late one is gone, or its pod's connection is");
        pod.fail_trial(current, LIMITS, at(start, 62));
        assert!(!pod.pass_trial(late), "a later one has failed");
        assert_eq!([91, 92].map(|s| pod.standing(at(start, s))), [Standing::Ejected, Standing::Probation]);
    }

    /// Else a pod that is slow would never be back: each of its answers comes to a trial that is none any more.
    #[test]
    fn an_answer_to_an_earlier_trial_is_one_all_the_same() {
        let start = Instant::now();
        let (mut pod, _) = failing(start, &[0, 0, 0]);
        let (late, current) = (tried(&mut pod, at(start, 30)), tried(&mut pod, at(start, 60)));
        assert!(pod.pass_trial(late));
        assert_eq!(pod.standing(at(start, 60)), Standing::In);
        assert!((0..3).any(|_| pod.failed(LIMITS, at(start, 61), true)), "and goes by other failures");
        assert!(!pod.pass_trial(current), "which it was no trial of");
        assert_eq!(pod.standing(at(start, 62)), Standing::Ejected);
    }

    #[test]
    fn a_pod_that_was_away_is_tried_as_soon_as_it_is_back() {
        let start = Instant::now();
        let (mut pod, _) = failing(start, &[0, 0, 0]);
        pod.shorten(at(start, 10));
        assert_eq!(pod.standing(at(start, 10)), Standing::Probation);
        let trial = tried(&mut pod, at(start, 11));
        pod.shorten(at(start, 12));
        assert_eq!(pod.standing(at(start, 12)), Standing::Ejected, "the trial that is under way decides");
        pod.fail_trial(trial, LIMITS, at(start, 13));
        assert_eq!([42, 43].map(|s| pod.standing(at(start, s))), [Standing::Ejected, Standing::Probation]);
        pod.shorten(at(start, 99));
        assert_eq!(pod.ejected_until(), Some(at(start, 43)), "what is over is not over later");
    }

    #[test]
    fn only_the_trial_decides() {
        let start = Instant::now();
        let (mut pod, _) = failing(start, &[0, 0, 0]);
        assert!((0..9).all(|_| !pod.failed(LIMITS, at(start, 29), true)), "not another ejection");
        assert_eq!(pod.standing(at(start, 30)), Standing::Probation, "nor a longer one");
    }

    #[test]
    fn a_pod_that_has_to_stay_goes_once_it_may() {
        let (start, mut pod) = (Instant::now(), Outlier::default());
        assert!((0..9).all(|_| !pod.failed(LIMITS, start, false)));
        assert_eq!((pod.standing(start), pod.failures.len()), (Standing::In, 3));
        assert!(pod.failed(LIMITS, start, true), "once another one is back");
    }

    #[test]
    fn half_of_a_set_stays() {
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(most_ejected), [0, 0, 1, 1, 2, 2, 3]);
    }
}
