//! What all clients, and what one of them, may take of what all share: connections now, lookups and requests over time.
//!
//! Mechanics without domain words: who counts as one client is `core::prefix`, how much is the configuration's, and what
//! a refusal says is `proxy/reject.rs`. Shared by all worker threads; what is not configured is not there.

mod files;
mod places;
mod rate;
mod seats;

use std::sync::Arc;

pub use files::{Files, LEAST_KEPT};
pub use places::{Place, Places};
pub use rate::{CLIENTS, Limiter, Turn};
pub use seats::{Seat, Seats};

/// All that is limited per client. Cheap to clone: handles.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Connections.
    pub seats: Option<Arc<Seats>>,
    /// Questions about rooms that the directory does not know.
    pub lookups: Option<Arc<Limiter>>,
    /// Requests, by what their path begins with.
    pub requests: Arc<[(String, Limiter)]>,
}
