//! What one client may take of what all share: connections now, lookups and requests over time.
//!
//! Mechanics without domain words: who counts as one client is `core::prefix`, how much is the configuration's, and what
//! a refusal says is `proxy/reject.rs`. Shared by all worker threads; what is not configured is not there.

mod seats;

pub use seats::{Seat, Seats};
