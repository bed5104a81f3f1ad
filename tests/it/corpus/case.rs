//! One case of the request side: what a client sends, byte for byte, and all that may come of it.

use std::borrow::Cow;

/// A case. Whatever is not said is the answer to a request that is turned away: no pod sees anything, the connection
/// ends.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Sent at once, on a connection of its own.
    pub(crate) bytes: Cow<'static, [u8]>,
    /// Sent when the first answer has come.
    pub(crate) more: &'static [u8],
    /// Whether the client says that this was all, once the pods have seen what they are to see.
    pub(crate) half_close: bool,
    /// What the pods see, as [`Taken::shown`](super::ledger::Taken::shown) shows it, in order.
    pub(crate) seen: Vec<Cow<'static, str>>,
    /// The status codes of the answers, informational ones included.
    pub(crate) answers: Vec<u16>,
    pub(crate) end: End,
    /// Why h11 does not find in the client's bytes what the router has forwarded.
    pub(crate) h11_differs: Option<&'static str>,
}

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It ends, by a FIN or a reset.
    Closed,
    /// It serves another request.
    Open,
    /// It is a tunnel, through which the pod echoes what it gets.
    Tunnel,
}

/// A case with these bytes.
pub(crate) fn case(name: &'static str, bytes: impl Into<Cow<'static, [u8]>>) -> Case {
    Case {
        name,
        bytes: bytes.into(),
        more: b"",
        half_close: false,
        seen: Vec::new(),
        answers: Vec::new(),
        end: End::Closed,
        h11_differs: None,
    }
}

/// A case with this text.
pub(crate) fn text(name: &'static str, text: &'static str) -> Case {
    case(name, text.as_bytes())
}

/// A case whose bytes are too many to be written down.
pub(crate) fn made(name: &'static str, text: String) -> Case {
    case(name, text.into_bytes())
}

impl Case {
    /// Answered with this status by the router itself, and the connection ends.
    pub(crate) fn refused(self, status: u16) -> Self {
        self.answers(&[status])
    }

    /// Reaches the pod as this, is answered by it with 200, and the connection goes on.
    pub(crate) fn passes(mut self, seen: &'static str) -> Self {
        self.seen.push(seen.into());
        self.answers(&[200]).open()
    }

    pub(crate) fn answers(mut self, statuses: &[u16]) -> Self {
        self.answers = statuses.to_vec();
        self
    }

    pub(crate) fn sees(mut self, requests: &[&'static str]) -> Self {
        self.seen.extend(requests.iter().map(|request| Cow::Borrowed(*request)));
        self
    }

    pub(crate) fn sees_long(mut self, request: String) -> Self {
        self.seen.push(request.into());
        self
    }

    pub(crate) fn more(mut self, text: &'static str) -> Self {
        self.more = text.as_bytes();
        self
    }

    pub(crate) fn half_close(mut self) -> Self {
        self.half_close = true;
        self
    }

    pub(crate) fn open(mut self) -> Self {
        self.end = End::Open;
        self
    }

    pub(crate) fn closed(mut self) -> Self {
        self.end = End::Closed;
        self
    }

    pub(crate) fn tunnel(mut self) -> Self {
        self.end = End::Tunnel;
        self
    }

    pub(crate) fn h11_differs(mut self, why: &'static str) -> Self {
        self.h11_differs = Some(why);
        self
    }
}
