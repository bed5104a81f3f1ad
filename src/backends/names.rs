//! Whose the addresses behind a name are: rooms, sessions and other replicas know a pod of the StatefulSet by its name, a
//! headless Service's name has no more than its address. So the pods' own names are looked up: where one leads to an
//! address that is listed, that is the pod.
//!
//! Nothing depends on an answer: an address that no pod's name leads to, or more than one (a wildcard), stays an address.
//! A pod keeps the name it was known by for as long as its address is listed, until DNS has said something else twice:
//! two answers of which one is a few seconds old contradict each other whenever a pod restarts.
//!
//! The names are asked for when the addresses change, and now and then; where not all is clear, soon again, and then less
//! and less often. Lower ordinals come first, and nobody is asked for one that is not needed: that a name does not
//! exist is remembered on the way, and a pod that joins a moment later would be missing to its rooms.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::discovery::pod_at;
use crate::config::Config;
use crate::core::address::HostPort;
use crate::core::assignment::PodId;
use crate::dns::{Dns, DnsError};

/// Ordinals below this are looked for.
const MOST: u16 = 100;

/// So many names are tried past those that there are addresses for, whether or not any exists: pods that are not ready.
const FEW: u16 = 8;

/// How often the names are asked for where nothing changes, at the least.
const SELDOM: Duration = Duration::from_secs(60);

/// The addresses that one source lists, and the pods of the StatefulSet that are known to be there.
#[derive(Debug, Default)]
pub(super) struct Names {
    listed: Vec<IpAddr>,
    leads: BTreeMap<PodId, Lead>,
    /// How often it was time to ask, and since when it is, where it is.
    round: u64,
    begun: Option<Instant>,
    /// When it is time again.
    due: Option<Instant>,
    /// How long it was from the last time to the next, for as long as not all is clear.
    pause: Duration,
}

/// Where a pod's name leads, among the listed addresses.
#[derive(Debug)]
struct Lead {
    ip: IpAddr,
    /// The round in which it led elsewhere.
    doubted: Option<u64>,
}

impl Names {
    /// These addresses are listed `now`, and no others.
    pub(super) fn list(&mut self, addresses: &[SocketAddr], now: Instant) {
        let listed = of_one_family(addresses);
        if listed != self.listed {
            self.leads.retain(|_, lead| listed.contains(&lead.ip));
            (self.listed, self.due, self.pause) = (listed, None, Duration::ZERO);
        }
        let is_time = !self.listed.is_empty() && self.due.is_none_or(|due| now >= due);
        self.round += u64::from(is_time);
        self.begun = is_time.then_some(now);
    }

    /// Whether it is time to ask for the names.
    pub(super) fn are_due(&self) -> bool {
        self.begun.is_some()
    }

    /// What is listed, in a stable order: a host with an address of each family is one pod.
    pub(super) fn listed(&self) -> &[IpAddr] {
        &self.listed
    }

    /// The pod at this address.
    pub(super) fn pod(&self, ip: IpAddr) -> Option<&PodId> {
        let mut pods: Vec<_> = self.leads.iter().filter(|(_, lead)| lead.ip == ip).collect();
        if pods.iter().any(|(_, lead)| lead.doubted.is_none()) {
            pods.retain(|(_, lead)| lead.doubted.is_none());
        }
        if let [(pod, _)] = *pods { Some(pod) } else { None }
    }

    /// Whether each address is a pod's.
    pub(super) fn has_all(&self) -> bool {
        self.listed.iter().all(|ip| self.pod(*ip).is_some())
    }

    /// Asks for the names of the pods that may be behind `name`, for so long. What has been answered by then is known; and it
    /// can be begun again where it was not enough, for nothing is asked twice (`Dns`).
    pub(super) async fn look_up_within(&mut self, time: Duration, name: &HostPort, config: &Config, dns: &Dns) {
        if timeout(time, self.look_up(name, config, dns)).await.is_ok() {
            self.rest(config.backends.refresh);
        }
    }

    async fn look_up(&mut self, name: &HostPort, config: &Config, dns: &Dns) {
        let routing = &config.routing;
        let own = pod_at(name, routing);
        let known: Vec<_> = self.leads.keys().chain(routing.fixed_pods.keys()).cloned().chain(own).collect();
        self.ask(known, name.port, config, dns).await;
        let (mut from, mut to) = (0, u16::try_from(self.listed.len()).unwrap_or(MOST));
        while from < MOST && self.is_any_nobodys() {
            to = to.min(MOST);
            let pods = (from..to).map(|ordinal| routing.statefulset.nth(ordinal)).collect();
            let has_more = self.ask(pods, name.port, config, dns).await;
            if from > 0 && !has_more {
                break;
            }
            (from, to) = (to, 2 * to + FEW);
        }
    }

    /// The asking is over, or has been given up: when it is time again.
    pub(super) fn rest(&mut self, refresh: Duration) {
        let Some(begun) = self.begun.take() else {
            return;
        };
        let is_clear = self.has_all() && self.leads.values().all(|lead| lead.doubted.is_none());
        self.pause = if is_clear { Duration::ZERO } else { (2 * self.pause).max(refresh).min(SELDOM) };
        self.due = Some(begun + if is_clear { SELDOM } else { self.pause });
    }

    /// Asks for all of them at once. Whether there is reason to ask for more: one of them is behind the name, or the last one
    /// exists at all.
    async fn ask(&mut self, pods: Vec<PodId>, port: u16, config: &Config, dns: &Dns) -> bool {
        let (mut questions, last) = (JoinSet::new(), pods.last().cloned());
        for pod in pods {
            let (address, dns) = (config.routing.address_of(&pod), dns.clone());
            if address.port == port {
                questions.spawn(async move { (pod, dns.look_up(&address).await) });
            }
        }
        let mut has_more = false;
        while let Some(asked) = questions.join_next().await {
            // One that panicked has been reported where it happened.
            let Ok((pod, answer)) = asked else { continue };
            has_more |= answer.is_ok() && last.as_ref() == Some(&pod);
            // Where the pod may not be dialled it cannot be reached by its name.
            let may_dial = |address: &SocketAddr| config.upstream.may_dial(address.ip());
            self.note(pod.clone(), answer.map(|found| found.iter().copied().filter(may_dial).collect()));
            has_more |= self.leads.contains_key(&pod);
        }
        has_more
    }

    fn is_any_nobodys(&self) -> bool {
        self.listed.iter().any(|ip| self.leads.values().all(|lead| lead.ip != *ip))
    }

    /// Where a pod's name leads now.
    fn note(&mut self, pod: PodId, answer: Result<Arc<[SocketAddr]>, DnsError>) {
        let found = match answer {
            Err(DnsError::Unanswered) => return,
            Err(DnsError::NoAddress) => Arc::default(),
            Ok(found) => found,
        };
        let is_there = |ip: &&IpAddr| found.iter().any(|address| address.ip() == **ip);
        let mut there = self.listed.iter().filter(is_there);
        match (there.next(), there.next()) {
            (Some(ip), None) => {
                self.leads.insert(pod, Lead { ip: *ip, doubted: None });
            }
            (Some(_), Some(_)) => {
                self.leads.remove(&pod);
            }
            (None, _) => {
                let round = self.round;
                let was_doubted = |lead: &mut Lead| *lead.doubted.get_or_insert(round) < round;
                if self.leads.get_mut(&pod).is_some_and(was_doubted) {
                    self.leads.remove(&pod);
                }
            }
        }
    }
}

#[cfg(test)]
impl Names {
    /// The pod's name leads to this address.
    pub(super) fn note_that(&mut self, pod: PodId, ip: &str) {
        let there = SocketAddr::new(ip.parse().expect("an address"), 1);
        self.note(pod, Ok(Arc::new([there])));
    }
}

fn of_one_family(addresses: &[SocketAddr]) -> Vec<IpAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().map(SocketAddr::ip).partition(IpAddr::is_ipv4);
    let mut ips = if v4.is_empty() { v6 } else { v4 };
    ips.sort_unstable();
    ips.dedup();
    ips
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::assignment::StatefulSet;

    const REFRESH: Duration = Duration::from_secs(5);

    fn at(ips: &[&str]) -> Arc<[SocketAddr]> {
        ips.iter().map(|ip| SocketAddr::new(ip.parse().expect("an address"), 1)).collect()
    }

    /// These addresses, and the first round.
    fn listed(ips: &[&str]) -> Names {
        let mut names = Names::default();
        names.list(&at(ips), Instant::now());
        names
    }

    fn note(names: &mut Names, pod: u16, answer: Result<&[&str], DnsError>) {
        names.note(StatefulSet::parse("backend").expect("a name").nth(pod), answer.map(at));
    }

    fn pods(names: &Names) -> Vec<Option<&str>> {
        names.listed().iter().map(|ip| names.pod(*ip).map(PodId::as_str)).collect()
    }

    #[test]
    fn an_address_is_the_one_pods_whose_name_leads_there() {
        let mut names = listed(&["10.0.0.3", "10.0.0.1", "10.0.0.2", "10.0.0.2", "::1"]);
        assert_eq!(pods(&names), [None; 3]);
        note(&mut names, 0, Ok(&["10.0.0.2", "::1"]));
        note(&mut names, 1, Ok(&["10.0.0.9"]));
        note(&mut names, 2, Err(DnsError::NoAddress));
        note(&mut names, 3, Err(DnsError::Unanswered));
        assert_eq!(pods(&names), [None, Some("backend-0"), None]);
        assert!(!names.has_all() && names.is_any_nobodys());
        note(&mut names, 4, Ok(&["10.0.0.1"]));
        note(&mut names, 5, Ok(&["10.0.0.3"]));
        assert!(names.has_all() && !names.is_any_nobodys());
        // A wildcard tells nobody apart: not by one address, nor by all.
        note(&mut names, 6, Ok(&["10.0.0.3"]));
        assert_eq!(pods(&names), [Some("backend-4"), Some("backend-0"), None]);
        assert!(!names.is_any_nobodys(), "and who else is asked for would be there as well");
        note(&mut names, 0, Ok(&["10.0.0.2", "10.0.0.3"]));
        assert_eq!(pods(&names), [Some("backend-4"), None, None]);
    }

    #[test]
    fn a_pod_keeps_its_name_until_dns_has_said_something_else_twice() {
        for says in [Err(DnsError::NoAddress), Ok(&["10.0.0.9"][..])] {
            let (mut names, mut now) = (listed(&["10.0.0.1"]), Instant::now());
            let mut after_round = |names: &mut Names, answers: &[_]| {
                answers.iter().for_each(|answer| note(names, 0, *answer));
                names.rest(REFRESH);
                now += 2 * SELDOM;
                names.list(&at(&["10.0.0.1"]), now);
                assert!(names.are_due());
                names.pod(at(&["10.0.0.1"])[0].ip()).is_some()
            };
            assert!(after_round(&mut names, &[Ok(&["10.0.0.1"])]));
            assert!(after_round(&mut names, &[Err(DnsError::Unanswered)]));
            assert!(after_round(&mut names, &[says, says]), "that is one answer");
            assert!(after_round(&mut names, &[Ok(&["10.0.0.1"])]));
            assert!(after_round(&mut names, &[says]));
            assert!(after_round(&mut names, &[Err(DnsError::Unanswered)]));
            assert!(!after_round(&mut names, &[says]));
        }
    }

    #[test]
    fn who_says_to_be_there_now_is_there() {
        let mut names = listed(&["10.0.0.1", "10.0.0.2"]);
        note(&mut names, 0, Ok(&["10.0.0.1"]));
        note(&mut names, 0, Err(DnsError::NoAddress));
        note(&mut names, 1, Ok(&["10.0.0.1"]));
        assert_eq!(pods(&names), [Some("backend-1"), None]);
        // A pod that has moved from one listed address to another is not at both.
        note(&mut names, 1, Ok(&["10.0.0.2"]));
        assert_eq!(pods(&names), [Some("backend-0"), Some("backend-1")]);
        names.list(&at(&["10.0.0.2"]), Instant::now());
        assert_eq!(pods(&names), [Some("backend-1")]);
        names.list(&at(&["10.0.0.1", "10.0.0.2"]), Instant::now());
        assert_eq!(pods(&names), [None, Some("backend-1")], "who has left is forgotten");
    }

    #[test]
    fn names_are_asked_for_after_a_change_and_else_less_and_less_often() {
        let (mut names, start, ips) = (Names::default(), Instant::now(), at(&["10.0.0.1"]));
        let is_time = |names: &mut Names, ips: &[SocketAddr], now| {
            names.list(ips, now);
            names.are_due()
        };
        assert!(!is_time(&mut names, &[], start), "nobody is there");
        let (mut now, second) = (start, Duration::from_secs(1));
        for seconds in [5, 10, 20, 40, 60, 60] {
            assert!(is_time(&mut names, &ips, now));
            names.rest(REFRESH);
            now += seconds * second;
            assert!(!is_time(&mut names, &ips, now - second), "{seconds}");
        }
        let other = at(&["10.0.0.2"]);
        now -= second;
        assert!(is_time(&mut names, &other, now), "another address");
        note(&mut names, 0, Ok(&["10.0.0.2"]));
        names.rest(REFRESH);
        assert!(!is_time(&mut names, &other, now + SELDOM - second), "all is clear");
        assert!(is_time(&mut names, &other, now + SELDOM));
        note(&mut names, 0, Err(DnsError::NoAddress));
        names.rest(REFRESH);
        assert!(is_time(&mut names, &other, now + SELDOM + REFRESH), "a contradiction is not");
    }
}
