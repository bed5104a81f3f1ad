//! The room id: the affinity key every other decision hangs on.
//!
//! A [`RoomId`] can only be made from text that fits its alphabet, so whatever holds one may build a
//! Redis key, a header or a `Location` from it without escaping.

use std::borrow::{Borrow, Cow};
use std::fmt;

/// The longest room id, in bytes.
pub const MAX_LEN: usize = 128;

/// A room id: 1 to [`MAX_LEN`] bytes of `[A-Za-z0-9_-]`.
///
/// Borrowed from the request head on the hot path, owned where it outlives it.
/// Hashes and compares as its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomId<'a>(Cow<'a, str>);

impl<'a> RoomId<'a> {
    /// The room id that `text` is, if it fits the alphabet and the length.
    pub fn parse(text: impl Into<Cow<'a, str>>) -> Option<Self> {
        let text = text.into();
        is_valid(&text).then_some(Self(text))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same id, independent of the request it came from.
    pub fn into_owned(self) -> RoomId<'static> {
        RoomId(Cow::Owned(self.0.into_owned()))
    }
}

/// So that a map keyed by owned ids is searched without making one.
impl Borrow<str> for RoomId<'static> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `text` is a room id: the alphabet and the length of the contract.
pub fn is_valid(text: &str) -> bool {
    (1..=MAX_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_and_the_length_are_exact() {
        for good in ["room_xyz", "a", "-", "A_b-9", &"x".repeat(128)] {
            assert!(RoomId::parse(good).is_some(), "{good}");
        }
        for bad in ["", "room xyz", "room_é", "a:pod", "{a}", "a/b", "a.b", "a\n", &"x".repeat(129)] {
            assert!(RoomId::parse(bad).is_none(), "{bad:?}");
        }
    }
}
