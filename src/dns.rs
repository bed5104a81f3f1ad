//! Pod name to address: our own small cache over the system's resolver.
//!
//! `getaddrinfo` caches nothing, and Kubernetes gives a restarted pod a new address under its old name, so
//! addresses are kept for five seconds at most, failures for one second, and a pod's entry is dropped as soon as a
//! connection to it fails. One question per name at a time, however many ask.
//!
//! That a name does not exist is an answer; that nobody could say is none, and never told as one: a name server that is
//! away says nothing about the pods. While it is, the addresses that a name had last are used, for `--dns-stale` and until a
//! connection to one fails. The log is told of a silence once a name, and of its end. Lookups that hang are counted until
//! they end, and past a bound no other is begun (`dns/system.rs`): that is no answer either.
//!
//! Full names are resolved with a trailing dot: it keeps the search list of a cluster's resolv.conf (`ndots:5`) from
//! turning one question into four. `Host` never carries it.

mod srv;
mod system;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;

pub use self::system::MOST_LOOKUPS;
use self::system::{Asked, System};
use crate::core::address::HostPort;
use crate::single_flight::SingleFlight;

/// How long an address is used. CoreDNS' Kubernetes plugin answers with a lifetime of 5 s.
const POSITIVE: Duration = Duration::from_secs(5);

/// How long a failure is remembered. A restarting pod must not be missing for longer than it is.
const NEGATIVE: Duration = Duration::from_secs(1);

/// How long the first who might use such an address waits for a better answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// So many names are kept before it is looked which of them are over.
const FEW: usize = 64;

/// So many silences are kept in mind. Of a name that is asked for no more nobody hears the end.
const MANY: usize = 1024;

/// The cache, shared by all worker threads. What is over is dropped before it grows.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    known: Arc<Mutex<Names>>,
    asking: SingleFlight<HostPort, Answer>,
    system: System,
    /// For how long past its time an address is used while nobody can say.
    stale: Duration,
    /// Counts the answers that were such addresses.
    stale_answers: Option<IntCounter>,
}

/// The addresses behind a name, at least one.
type Answer = Result<Arc<[SocketAddr]>, DnsError>;

/// Why a name led nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsError {
    /// It does not exist or has no address: that is the answer.
    NoAddress,
    /// There was no answer: the name server is away, or fails.
    Unanswered,
}

/// What is known of each name. Names come and go with the pods that carry them.
#[derive(Debug, Default)]
struct Names {
    all: HashMap<HostPort, Known>,
    /// How many there were after the last look for those that are over.
    kept: usize,
    /// Those about which the resolver was silent when it was last asked.
    silent: HashSet<HostPort>,
}

/// Who hears of it where nothing is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tell {
    Log,
    Nobody,
}

#[derive(Clone, Debug)]
struct Known {
    answer: Answer,
    until: Instant,
    /// The last addresses, where the answer is that nobody could say, and how long they may be used.
    last: Option<LastKnown>,
}

type LastKnown = (Arc<[SocketAddr]>, Instant);

impl Dns {
    /// With `--dns-stale`, and what counts the answers it gives. (By default there are none.)
    pub fn new(stale: Duration, stale_answers: IntCounter) -> Self {
        Self { stale, stale_answers: Some(stale_answers), ..Self::default() }
    }

    /// The addresses behind a name, or the literal address itself. Where nobody can say, those it had last.
    ///
    /// # Errors
    ///
    /// The name has none now, or nobody could say.
    pub async fn resolve(&self, target: &HostPort) -> Answer {
        self.resolve_within(target, Duration::MAX).await
    }

    /// The same, for who cannot wait for longer than `limit`: those it had last count as well when that is over.
    ///
    /// # Errors
    ///
    /// As for [`Self::resolve`].
    pub async fn resolve_within(&self, target: &HostPort, limit: Duration) -> Answer {
        let answer = self.ask(target, || self.remembered(target), Tell::Log);
        // Of a literal address nothing is kept: no need for the lock that all threads share.
        let last = if target.ip().is_some() { None } else { self.last_known(target, Instant::now()) };
        let Some((last, patience)) = last else {
            return tokio::time::timeout(limit, answer).await.unwrap_or(Err(DnsError::Unanswered));
        };
        match tokio::time::timeout(patience.min(limit), answer).await {
            Ok(Err(DnsError::Unanswered)) | Err(_) => {
                if let Some(counter) = &self.stale_answers {
                    counter.inc();
                }
                Ok(last)
            }
            Ok(answer) => answer,
        }
    }

    /// The same, by an answer to a question that has not been put before: for who asks from time to time.
    ///
    /// # Errors
    ///
    /// As for [`Self::resolve`].
    pub async fn resolve_anew(&self, target: &HostPort) -> Answer {
        self.ask(target, || None, Tell::Log).await
    }

    /// The same of a name that may well not exist, for who asks on suspicion: a silence is no news then.
    ///
    /// # Errors
    ///
    /// As for [`Self::resolve`].
    pub async fn look_up(&self, target: &HostPort) -> Answer {
        self.ask(target, || self.remembered(target), Tell::Nobody).await
    }

    /// The addresses behind a name as far as they are known: nobody is asked.
    pub fn known_addresses(&self, target: &HostPort) -> Option<Arc<[SocketAddr]>> {
        self.remembered(target)?.ok()
    }

    /// The pods that a service's SRV record lists, with their weights: none where there is no such record. Not cached: who
    /// asks does so rarely.
    ///
    /// # Errors
    ///
    /// Nobody answered.
    pub async fn services(&self, name: &str) -> Result<Vec<(HostPort, u32)>, DnsError> {
        srv::ask(name).await.map_err(|error| {
            tracing::debug!(name, %error, "no answer about SRV records");
            DnsError::Unanswered
        })
    }

    /// Forgets a name, because a connection to one of its addresses failed. That it has none is not forgotten.
    pub fn forget(&self, target: &HostPort) {
        let mut known = self.known();
        match known.all.get_mut(target) {
            Some(Known { answer: Err(_), last, .. }) => *last = None,
            Some(_) => drop(known.all.remove(target)),
            None => {}
        }
    }

    async fn ask(&self, target: &HostPort, known: impl Fn() -> Option<Answer>, tell: Tell) -> Answer {
        if let Some(ip) = target.ip() {
            return Ok(Arc::new([SocketAddr::new(ip, target.port)]));
        }
        let question = |target| {
            let dns = self.clone();
            async move {
                let asked = dns.system.ask(&target).await;
                // Of what was not asked nothing new is known.
                if tell == Tell::Log && asked != Asked::Refused {
                    dns.note_silence(&target, asked == Asked::Silence);
                }
                let answer = match asked {
                    Asked::Answered(answer) => answer,
                    Asked::Silence | Asked::Refused => Err(DnsError::Unanswered),
                };
                dns.remember(target, answer.clone(), Instant::now());
                answer
            }
        };
        self.asking.answer(target, known, question).await.unwrap_or(Err(DnsError::Unanswered))
    }

    fn remembered(&self, target: &HostPort) -> Option<Answer> {
        self.known().all.get(target).filter(|known| known.until > Instant::now()).map(|known| known.answer.clone())
    }

    /// What a name had last, if its time is over and nobody has said since that it has something else; and how long to wait
    /// for that to be said: not at all where nobody could the last time.
    fn last_known(&self, target: &HostPort, now: Instant) -> Option<(Arc<[SocketAddr]>, Duration)> {
        let known = self.known();
        let known = known.all.get(target).filter(|known| known.answer.is_err() || known.until <= now)?;
        let (last, _) = known.last_good(self.stale).filter(|(_, until)| *until > now)?;
        Some((last, if known.answer.is_ok() { PATIENCE } else { Duration::ZERO }))
    }

    fn remember(&self, target: HostPort, answer: Answer, now: Instant) {
        let lifetime = if answer.is_ok() { POSITIVE } else { NEGATIVE };
        let mut known = self.known();
        let is_good = |known: &Known| known.answer.is_ok() && known.until > now;
        if answer == Err(DnsError::Unanswered) && known.all.get(&target).is_some_and(is_good) {
            return;
        }
        let unanswered = answer == Err(DnsError::Unanswered);
        let last = known.all.get(&target).filter(|_| unanswered).and_then(|known| known.last_good(self.stale));
        known.drop_what_is_over(now, self.stale);
        known.all.insert(target, Known { answer, until: now + lifetime, last });
    }

    /// Says when the resolver falls silent about a name, and when it speaks again. Whether it is another than the last time.
    fn note_silence(&self, target: &HostPort, is_silent: bool) -> bool {
        let mut known = self.known();
        if known.silent.len() >= MANY {
            known.silent.clear();
        }
        let changed = if is_silent { known.silent.insert(target.clone()) } else { known.silent.remove(target) };
        drop(known);
        match (is_silent, changed) {
            (true, true) => tracing::warn!(address = %target, "the resolver did not answer in time"),
            (true, false) => tracing::debug!(address = %target, "the resolver still does not answer in time"),
            (false, true) => tracing::info!(address = %target, "the resolver answers again"),
            (false, false) => {}
        }
        changed
    }

    fn known(&self) -> MutexGuard<'_, Names> {
        // Inserts and removals only: nothing is left half-done by a panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    /// Looks once for each doubling, so that a name costs the same however many there are.
    fn drop_what_is_over(&mut self, now: Instant, stale: Duration) {
        if self.all.len() < FEW.max(self.kept * 2) {
            return;
        }
        self.all.retain(|_, known| known.until > now || known.last_good(stale).is_some_and(|(_, until)| until > now));
        self.kept = self.all.len();
    }
}

impl Known {
    fn last_good(&self, stale: Duration) -> Option<LastKnown> {
        match &self.answer {
            Ok(addresses) => Some((Arc::clone(addresses), self.until + stale)),
            Err(_) => self.last.clone(),
        }
    }
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAddress => "the name has no address",
            Self::Unanswered => "the name could not be looked up: the name server is away, or fails",
        })
    }
}

impl std::error::Error for DnsError {}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Duration = Duration::from_secs(600);

    fn with_stale() -> Dns {
        Dns::new(STALE, IntCounter::new("stale", "-").expect("a name"))
    }

    fn target(text: &str) -> HostPort {
        text.parse().expect("an address")
    }

    #[test]
    fn a_literal_address_needs_no_resolver_and_waits_for_no_other_thread() {
        let dns = Dns::default();
        let _busy = dns.known();
        let (said, hears) = std::sync::mpsc::channel();
        let asking = dns.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            said.send(runtime.block_on(asking.resolve(&target("[::1]:7"))))
        });
        let found = hears.recv_timeout(Duration::from_secs(20)).expect("it takes no lock").expect("literal");
        assert_eq!(*found, ["[::1]:7".parse().expect("an address")]);
    }

    #[tokio::test]
    async fn a_failure_is_remembered_only_briefly_and_an_address_until_it_fails() {
        let dns = Dns::default();
        let remembered = |target: &HostPort, longest| {
            let known = dns.known().all.get(target).cloned()?;
            assert!(known.until <= Instant::now() + longest, "remembered for too long");
            Some(known.answer.is_ok())
        };
        let local = target("localhost:7");
        dns.resolve(&local).await.expect("localhost resolves everywhere");
        assert_eq!(remembered(&local, POSITIVE), Some(true));
        dns.forget(&local);
        assert_eq!(remembered(&local, POSITIVE), None);

        let nowhere = target("pod-router-test.invalid:7");
        dns.resolve(&nowhere).await.expect_err("RFC 6761: .invalid never resolves");
        assert_eq!(remembered(&nowhere, NEGATIVE), Some(false));
        dns.forget(&nowhere);
        assert_eq!(remembered(&nowhere, NEGATIVE), Some(false), "a failure keeps its pause");
    }

    #[test]
    fn no_answer_takes_no_address_away_before_its_time() {
        let (dns, start, name) = (Dns::default(), Instant::now(), target("pod-0:7"));
        let after = |answer: Answer, seconds| {
            dns.remember(name.clone(), answer, start + Duration::from_secs(seconds));
            dns.known().all[&name].answer.clone().map(|found| found.len())
        };
        let address: Arc<[SocketAddr]> = Arc::new(["10.0.0.1:7".parse().expect("an address")]);
        assert_eq!(after(Ok(Arc::clone(&address)), 0), Ok(1));
        assert_eq!(after(Err(DnsError::Unanswered), 4), Ok(1));
        assert_eq!(after(Err(DnsError::Unanswered), 5), Err(DnsError::Unanswered), "its time is over");
        assert_eq!(after(Ok(address), 6), Ok(1));
        assert_eq!(after(Err(DnsError::NoAddress), 7), Err(DnsError::NoAddress), "that is an answer");
    }

    #[tokio::test]
    async fn while_nobody_can_say_the_last_addresses_are_used() {
        let (dns, now, name) = (with_stale(), Instant::now(), target("pod-0:7"));
        let address: Arc<[SocketAddr]> = Arc::new(["10.0.0.1:7".parse().expect("an address")]);
        let last = |after| dns.last_known(&name, now + after).map(|(last, patience)| (last.len(), patience));
        dns.remember(name.clone(), Ok(Arc::clone(&address)), now);
        assert_eq!(last(Duration::ZERO), None, "it holds");
        assert_eq!(last(POSITIVE), Some((1, PATIENCE)));
        // Again and again, for no longer than it may.
        for round in [1, 2, 3] {
            dns.remember(name.clone(), Err(DnsError::Unanswered), now + POSITIVE * round);
            assert_eq!(last(POSITIVE * round), Some((1, Duration::ZERO)), "round {round}");
        }
        let found = dns.resolve(&name).await.expect("what was known last");
        assert_eq!(found, address);
        assert_eq!(dns.stale_answers.as_ref().map(IntCounter::get), Some(1));
        assert_eq!(last(POSITIVE + STALE), None);
        dns.forget(&name);
        assert_eq!(last(POSITIVE), None, "it has failed");
        assert_eq!(dns.resolve(&name).await, Err(DnsError::Unanswered), "the pause stays");

        dns.remember(name.clone(), Ok(address), now);
        dns.remember(name.clone(), Err(DnsError::NoAddress), now + POSITIVE);
        assert_eq!(last(POSITIVE), None, "that is an answer");
    }

    #[test]
    fn nothing_is_used_past_its_time_where_nobody_wants_it() {
        let (dns, now, name) = (Dns::default(), Instant::now(), target("pod-0:7"));
        let address: Arc<[SocketAddr]> = Arc::new(["10.0.0.1:7".parse().expect("an address")]);
        dns.remember(name.clone(), Ok(address), now);
        assert_eq!(dns.last_known(&name, now + POSITIVE), None);
        dns.remember(name.clone(), Err(DnsError::Unanswered), now + POSITIVE);
        assert_eq!(dns.last_known(&name, now + POSITIVE), None);
    }

    #[test]
    fn a_silence_is_news_once_for_each_name() {
        let (dns, pod, other) = (Dns::default(), target("pod-0:7"), target("pod-1:7"));
        assert!(!dns.note_silence(&pod, false), "it has never been silent");
        assert_eq!(
            [true, true, false, false, true].map(|silent| dns.note_silence(&pod, silent)),
            [true, false, true, false, true]
        );
        assert!(dns.note_silence(&other, true));
        for n in 0..2 * MANY {
            dns.note_silence(&target(&format!("made-up-{n}:7")), true);
        }
        assert!(dns.known().silent.len() <= MANY);
    }

    /// Where pods have names of their own by SRV records, each rollout brings new ones.
    #[test]
    fn names_that_nobody_asks_for_any_more_are_dropped() {
        let (dns, start) = (with_stale(), Instant::now());
        let later = |n: u32| start + POSITIVE * n;
        for n in 0..1000 {
            let address: Arc<[SocketAddr]> = Arc::new([]);
            dns.remember(target(&format!("pod-{n}:7")), Ok(address), later(n));
        }
        let (left, of_use) = (dns.known().all.len(), (STALE.as_secs() / POSITIVE.as_secs()) as usize + 1);
        assert!(left <= 2 * of_use, "{left} names of which {of_use} are of use");
        assert!(dns.known().all.contains_key(&target("pod-999:7")));
    }
}
