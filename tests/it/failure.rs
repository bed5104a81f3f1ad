//! Pods that fail: away, restarting, moved, dying with a request in hand, silent.

mod restart;
mod unanswered;
pub(crate) mod unreachable;
