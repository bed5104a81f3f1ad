//! The system's resolver: `getaddrinfo`, which blocks a thread for as long as it likes, and cannot be given up.
//!
//! Whoever asks waits for so long and no longer; the lookup itself goes on, for half a minute and more where resolv.conf
//! says so, and is counted until it has ended. As many as would take all threads that block are never under way: names may
//! be made up by clients, and those of the pods would have to queue behind them. Nor does one name take all places.

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dns_lookup::{LookupError, LookupErrorKind};

use super::{Answer, DnsError};
use crate::core::address::HostPort;

/// So many lookups may be under way in the process, whether or not anybody still waits for them. A name server that answers
/// has done with as many within milliseconds; one that does not would not answer the next one either.
pub const MOST_LOOKUPS: usize = 256;

/// So many of them for one name. More than one, because a new question finds a name server that is back at once, an old one
/// only when it is repeated; by resolv.conf's defaults (5 s, twice) no name ever has as many, with up to two name servers.
const MOST_OF_A_NAME: usize = 4;

/// The longest wait for one answer. resolv.conf's own default is 5 s a try: where a packet was lost, or the first of two name
/// servers is dead, the answer to the second try comes right after that.
const DEADLINE: Duration = Duration::from_secs(6);

/// A name with this many dots is a full one: `service.namespace.svc.cluster.local` has four.
const QUALIFIED: usize = 4;

/// What came of a question to the system's resolver.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Answered(Answer),
    /// Nothing, for as long as one may wait, or about questions that were put before.
    Silence,
    /// It was not put: too many others have no answer yet.
    Refused,
}

/// The resolver, as all threads share it. Cheap to clone: a handle.
#[derive(Clone, Debug, Default)]
pub(super) struct System(Arc<Mutex<UnderWay>>);

/// The lookups that have not ended.
#[derive(Debug, Default)]
struct UnderWay {
    of_names: HashMap<HostPort, usize>,
    all: usize,
    /// Whether the log has been told that they are too many, and not yet that they are no more.
    is_told: bool,
}

/// One of them. It belongs to what blocks, and not to who waits.
struct Lookup {
    system: System,
    target: HostPort,
}

impl System {
    /// Asks once.
    pub(super) async fn ask(&self, target: &HostPort) -> Asked {
        let name = as_asked(&target.host).into_owned();
        self.ask_by(target, move || dns_lookup::lookup_host(&name).map(Vec::from_iter)).await
    }

    async fn ask_by<F>(&self, target: &HostPort, find: F) -> Asked
    where
        F: FnOnce() -> Result<Vec<IpAddr>, LookupError> + Send + 'static,
    {
        let lookup = match self.begin(target) {
            Ok(lookup) => lookup,
            Err(refused) => return refused,
        };
        let looking = tokio::task::spawn_blocking(move || {
            let _until_it_has_ended = lookup;
            find().map_err(|error| error.kind())
        });
        // The lookup's thread ends only with the process.
        let Ok(Ok(found)) = tokio::time::timeout(DEADLINE, looking).await else {
            return Asked::Silence;
        };
        Asked::Answered(match found {
            Ok(found) if !found.is_empty() => {
                Ok(found.into_iter().map(|ip| SocketAddr::new(ip, target.port)).collect())
            }
            Ok(_) | Err(LookupErrorKind::NoName | LookupErrorKind::NoData) => {
                tracing::debug!(address = %target, "the name has no address");
                Err(DnsError::NoAddress)
            }
            Err(kind) => {
                tracing::debug!(address = %target, ?kind, "name not resolved");
                Err(DnsError::Unanswered)
            }
        })
    }

    /// A place for another lookup, or what comes of the question without one.
    fn begin(&self, target: &HostPort) -> Result<Lookup, Asked> {
        let mut under_way = self.under_way();
        if under_way.of_names.get(target).is_some_and(|lookups| *lookups >= MOST_OF_A_NAME) {
            return Err(Asked::Silence);
        }
        if under_way.all >= MOST_LOOKUPS {
            let is_news = !mem::replace(&mut under_way.is_told, true);
            drop(under_way);
            if is_news {
                tracing::warn!(lookups = MOST_LOOKUPS, "too many lookups hang: no other name is looked up");
            }
            return Err(Asked::Refused);
        }
        *under_way.of_names.entry(target.clone()).or_default() += 1;
        under_way.all += 1;
        Ok(Lookup { system: self.clone(), target: target.clone() })
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        // Counting only: nothing is left half-done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        let mut under_way = self.system.under_way();
        under_way.all -= 1;
        if let Some(lookups) = under_way.of_names.get_mut(&self.target) {
            *lookups -= 1;
            if *lookups == 0 {
                under_way.of_names.remove(&self.target);
            }
        }
        // Not as soon as a single place is free: it is taken at once, and the log would hear of each.
        let is_over = under_way.is_told && under_way.all <= MOST_LOOKUPS / 2;
        under_way.is_told &= !is_over;
        drop(under_way);
        if is_over {
            tracing::info!("names are looked up again");
        }
    }
}

/// A pod's full name gets a trailing dot; a short one (`backend-service`, `backend.default`) needs the search list.
fn as_asked(host: &str) -> Cow<'_, str> {
    if host.matches('.').count() >= QUALIFIED && !host.ends_with('.') { format!("{host}.").into() } else { host.into() }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::Poll;

    use super::*;

    fn target(text: &str) -> HostPort {
        text.parse().expect("an address")
    }

    fn lookups(system: &System, name: &HostPort, count: usize) -> Vec<Lookup> {
        (0..count).map(|_| system.begin(name).expect("there is a place")).collect()
    }

    #[test]
    fn only_a_full_name_is_asked_for_as_such() {
        let pod = "backend-0.backend.default.svc.cluster.local";
        assert_eq!(as_asked(pod), format!("{pod}."));
        for short in ["localhost", "backend-service", "backend.default.svc", "a.b.c.d.e."] {
            assert_eq!(as_asked(short), short);
        }
    }

    /// Nobody waits for it any more, but its thread still does.
    #[tokio::test]
    async fn a_lookup_counts_until_it_has_ended() {
        let (system, name) = (System::default(), target("pod-0:7"));
        let (ends, end) = mpsc::channel::<()>();
        {
            let hangs = move || {
                let _ = end.recv();
                Ok(vec![])
            };
            let mut asking = pin!(system.ask_by(&name, hangs));
            let asked = poll_fn(|cx| Poll::Ready(asking.as_mut().poll(cx))).await;
            assert!(asked.is_pending(), "it hangs");
        }
        assert_eq!(system.under_way().all, 1);
        let others = lookups(&system, &name, MOST_OF_A_NAME - 1);
        // What would be found at once, if it was looked for.
        let finds = || Ok(vec![[127, 0, 0, 1].into()]);
        assert_eq!(system.ask_by(&name, finds).await, Asked::Silence, "it has as many as it may have");
        let other = target("pod-1:7");
        assert!(matches!(system.ask_by(&other, finds).await, Asked::Answered(Ok(_))), "which is no other's fault");
        drop((ends, others));
        while system.under_way().all > 0 {
            tokio::task::yield_now().await;
        }
        assert!(system.under_way().of_names.is_empty());
        assert!(matches!(system.ask_by(&name, finds).await, Asked::Answered(Ok(_))));
    }

    /// However many names clients make up; and the log hears of it once.
    #[tokio::test]
    async fn there_is_a_bound_on_all_lookups() {
        let (system, (told, hears)) = (System::default(), mpsc::channel());
        let log = tracing_subscriber::fmt().with_writer(move || {
            let _ = told.send(());
            std::io::sink()
        });
        let _guard = tracing::subscriber::set_default(log.finish());
        let lines = || hears.try_iter().count();
        let name = |n| target(&format!("made-up-{n}:7"));
        let mut all: Vec<_> = (0..MOST_LOOKUPS).flat_map(|n| lookups(&system, &name(n), 1)).collect();
        assert_eq!(lines(), 0);
        for n in [0, MOST_LOOKUPS] {
            assert_eq!(system.ask_by(&name(n), || Ok(vec![])).await, Asked::Refused);
        }
        assert_eq!(lines(), 1);
        // One place and then another, each taken again at once.
        for n in 0..9 {
            all.pop();
            all.extend(lookups(&system, &name(n), 1));
            assert!(system.begin(&name(n)).is_err());
        }
        assert_eq!(lines(), 0);
        all.truncate(MOST_LOOKUPS / 2);
        assert_eq!((lines(), system.under_way().all), (1, MOST_LOOKUPS / 2));
        all.clear();
        assert_eq!((lines(), system.under_way().of_names.len()), (0, 0));
    }
}
