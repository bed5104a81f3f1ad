//! What all links of this process together come to: whether any is down, and what the log has said of it.
//!
//! Every thread has a link of its own, and all lead to the same Redis. When that goes away each of them notices, a few
//! milliseconds after the other; whoever reads the log is to learn of it once, and of its return when the last is back.

use std::sync::{Mutex, PoisonError};

use tracing::{debug, info, warn};

/// Shared by the links to one Redis.
#[derive(Debug, Default)]
pub(super) struct Outlook(Mutex<View>);

#[derive(Debug, Default)]
struct View {
    /// Links that are down. One that has not been up or down yet is not among them.
    down: usize,
    /// Whether Redis answers, as the log has it.
    said: Option<bool>,
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
            view.said.replace(false) != Some(false)
        });
        if news {
            warn!(redis = servers, why, "Redis cannot be asked");
        } else {
            debug!(redis = servers, why, "Redis still cannot be asked");
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        // Two plain values: a panic leaves nothing half-done.
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
}
