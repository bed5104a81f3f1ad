//! Why a request that is well-formed, and could be routed, is turned away all the same.

/// What it goes against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its body is longer than `--max-body`.
    BodyTooLarge,
    /// A WebSocket handshake from a web page that is not one of `--allowed-origins`.
    Origin,
}

impl Refusal {
    /// The reason, for programs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::BodyTooLarge => "body-too-large",
            Self::Origin => "origin-refused",
        }
    }
}
