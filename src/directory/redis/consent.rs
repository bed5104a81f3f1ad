//! Whether Redis answers a kind of question, or refuses it as a whole.
//!
//! A Redis that answers pings is not yet one that answers lookups: its user may lack a right, the keys may lie outside
//! the user's patterns, the server may be a Cluster's. That is no lost connection, so the link stays up and goes on
//! asking; but nobody would learn of it, because each refusal is one request's affair. Here it becomes a state: said in
//! the log when it changes, in Redis' own words, and shown as `pod_router_directory_up`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{info, warn};

use crate::directory::DirectoryError;

/// Between two lines. A user whose key patterns cover some rooms only is refused and answered by turns.
const PACE: Duration = Duration::from_secs(10);

/// One kind of question.
pub(super) struct Consent {
    question: &'static str,
    refused: AtomicBool,
    /// Whether an answer changes anything: most do not, and take no lock.
    amiss: AtomicBool,
    said: Mutex<Said>,
    turned: Notify,
}

/// What the log says last.
#[derive(Default)]
struct Said {
    refused: bool,
    at: Option<Instant>,
}

impl Consent {
    pub(super) fn new(question: &'static str) -> Self {
        Self {
            question,
            refused: AtomicBool::new(false),
            amiss: AtomicBool::new(false),
            said: Mutex::default(),
            turned: Notify::new(),
        }
    }

    /// Whether the last one that was put was refused.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits until one is refused that follows one which was not. Each such turn ends one wait.
    pub(super) async fn refusal(&self) {
        self.turned.notified().await;
    }

    /// Takes in how one went, and hands it on. No answer at all tells nothing: that is the link's affair.
    pub(super) fn note<T>(&self, answer: Result<T, DirectoryError>) -> Result<T, DirectoryError> {
        match &answer {
            Err(DirectoryError::Refused(why)) => self.turn(Some(why)),
            Ok(_) if self.amiss.load(Ordering::Relaxed) => self.turn(None),
            Ok(_) | Err(_) => {}
        }
        answer
    }

    fn turn(&self, refusal: Option<&str>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = refusal.is_some();
        if refused && !self.refused.swap(true, Ordering::Relaxed) {
            self.turned.notify_one();
        } else if !refused {
            self.refused.store(false, Ordering::Relaxed);
        }
        if said.refused != refused && said.at.is_none_or(|at| at.elapsed() >= PACE) {
            *said = Said { refused, at: Some(Instant::now()) };
            match refusal {
                Some(why) => warn!(question = self.question, why, "Redis refuses what it is asked"),
                None => info!(question = self.question, "Redis answers again what it refused"),
            }
        }
        self.amiss.store(refused || said.refused, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Result<(), DirectoryError> {
        Err(DirectoryError::Refused("NOPERM".to_owned()))
    }

    #[test]
    fn the_last_answer_counts_and_silence_changes_nothing() {
        let consent = Consent::new("lookup");
        assert!(!consent.is_refused());
        for (answer, refuses) in [
            (refused(), true),
            (Err(DirectoryError::Timeout), true),
            (Ok(()), false),
            (Err(DirectoryError::Unavailable("closed".to_owned())), false),
            (refused(), true),
        ] {
            assert_eq!(consent.note(answer.clone()), answer);
            assert_eq!(consent.is_refused(), refuses, "{answer:?}");
        }
    }

    #[test]
    fn what_turns_all_the_time_is_not_said_each_time_but_said_in_the_end() {
        let consent = Consent::new("lookup");
        let said = || {
            let said = consent.said.lock().expect("no panic");
            (said.refused, said.at)
        };
        let _ = consent.note(refused());
        let first = said();
        assert!(first.0);
        for _ in 0..10 {
            let _ = consent.note(Ok(()));
            let _ = consent.note(refused());
        }
        let _ = consent.note(Ok(()));
        assert_eq!(said(), first, "nothing more was said");
        assert!(!consent.is_refused());
        let long_ago = Instant::now().checked_sub(PACE).expect("the machine has run for so long");
        consent.said.lock().expect("no panic").at = Some(long_ago);
        let _ = consent.note(Ok(()));
        assert!(!said().0, "the next answer that agrees says it");
    }
}
