//! What decides: pure functions and small values.
//!
//! Nothing here awaits, reads a clock, an environment variable or a random number, or names tokio,
//! hyper's client or fred. Whoever calls passes in what was read (a request head, a directory answer, the
//! time, a roll of the dice) and gets a decision back. That is what makes every rule of the router
//! testable without a socket, and readable without knowing how bytes move.

pub mod address;
pub mod admission;
pub mod affinity;
pub mod assignment;
pub mod balance;
pub mod check;
pub mod decision;
pub mod ejection;
pub mod forwarded;
pub mod head;
pub mod headers;
pub mod origin;
pub mod path;
pub mod placement;
pub mod prefix;
pub mod proxy_protocol;
pub mod query;
pub mod rate;
pub mod redirect;
pub mod room;
pub mod session;
pub mod wire;
