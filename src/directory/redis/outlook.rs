//! What all links of this process together come to: whether any is down, and what the log has said of it.
//!
//! Every thread has a link of its own, and all lead to the same Redis. When that goes away each of them notices, a few
//! milliseconds after the other; whoever reads the log is to learn of it once, and of its return when the last is back. A cause
//! that lasts and is not the first one it is told as well.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

/// Between two lines of one outage, where another cause has come to light.
const PAUSE: Duration = Duration::from_secs(10);

/// Shared by the links to one Redis.
#[derive(Debug, Default)]
pub(super) struct Outlook(Mutex<View>);

#[derive(Debug, Default)]
struct View {
    /// Links that are down. One that has not been up or down yet is not among them.
    down: usize,
    /// Whether Redis answers, as the log has it.
    said: Option<bool>,
    /// The cause that it has of the last outage, and since when.
    cause: Option<(String, Instant)>,
}

impl Outlook {
    /// Whether no link is down.
    pub(super) fn is_clear(&self) -> bool {
        self.change(|view| view.down == 0)
    }

    /// A link has come up, which was down or new before.
    pub(super) fn up(&self, was_down: bool, servers: &str) {
        let news = self.change(|view| {
            view.down -= usize::from(was_down);
            view.down == 0 && view.said.replace(true) != Some(true)
        });
        if news {
            info!(redis = servers, "Redis answers");
        }
    }

    /// A link has gone down, or is still down.
    pub(super) fn down(&self, was_down: bool, servers: &str, why: &str) {
        let news = self.change(|view| {
            view.down += usize::from(!was_down);
            let is_first = view.said.replace(false) != Some(false);
            // What ends a connection is seldom what keeps the next from being made, a password for example.
            let is_other = || view.cause.as_ref().is_none_or(|(cause, at)| cause != why && at.elapsed() >= PAUSE);
            let is_news = is_first || is_other();
            if is_news {
                view.cause = Some((why.to_owned(), Instant::now()));
            }
            is_news
        });
        if news {
            warn!(redis = servers, why, "Redis cannot be asked");
        } else {
            debug!(redis = servers, why, "Redis still cannot be asked");
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        // Plain values, set one by one: a panic leaves nothing that does harm.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_said_once_and_is_over_when_the_last_link_is_back() {
        let outlook = Outlook::default();
        let said = || outlook.change(|view| view.said);
        assert_eq!((outlook.is_clear(), said()), (true, None));
        outlook.up(false, "r");
        outlook.up(false, "r");
        assert_eq!(said(), Some(true));
        outlook.down(false, "r", "closed");
        outlook.down(false, "r", "closed");
        outlook.down(true, "r", "refused");
        assert_eq!((outlook.is_clear(), said()), (false, Some(false)));
        outlook.up(true, "r");
        assert_eq!((outlook.is_clear(), said()), (false, Some(false)), "one is still down");
        outlook.up(true, "r");
        assert_eq!((outlook.is_clear(), said()), (true, Some(true)));
    }

    #[test]
    fn a_cause_that_is_not_the_first_one_is_said_once_it_has_lasted() {
        let outlook = Outlook::default();
        let said = || outlook.change(|view| view.cause.clone().map(|(cause, _)| cause));
        let pass = || outlook.change(|view| view.cause.as_mut().map(|(_, at)| *at -= PAUSE));
        for (is_later, why, expected) in [
            (false, "closed", "closed"),
            (false, "refused", "closed"),
            (true, "closed", "closed"),
            (false, "password", "password"),
            (false, "closed", "password"),
        ] {
            if is_later {
                pass();
            }
            outlook.down(true, "r", why);
            assert_eq!(said().as_deref(), Some(expected), "{why}");
        }
        assert!(pass().is_some());
        outlook.down(true, "r", "closed");
        assert_eq!(said().as_deref(), Some("closed"), "another link, of a later time");
    }
}
