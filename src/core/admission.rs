//! Why a request that is well-formed, and could be routed, is turned away all the same.

use super::rate::Exceeded;

/// What it goes against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its body is longer than `--max-body`.
    BodyTooLarge,
    /// Its client makes more requests than `--rate-limit` allows; which of the rules, from 1.
    RateLimited(u32, Exceeded),
    /// Its client asks for more rooms that the directory does not know than `--lookup-rate` allows.
    UnknownRooms(Exceeded),
    /// A WebSocket handshake from a web page that is not one of `--allowed-origins`.
    Origin,
}
